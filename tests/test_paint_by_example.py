"""The conditioning head and the UNet's inputs, against diffusers and the original's way of making them."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from asymvq.checkpoint import CheckpointError
from asymvq.paint_by_example import ExampleFit, build_head, concat_channels, fit_example, kept, load_head

WIDTH, CONTEXT, BLOCKS = 64, 48, 2


@pytest.fixture(scope="module")
def encoder():
    """diffusers' image encoder, small, with random weights and no norm at its start values."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    module = sys.modules[diffusers.PaintByExamplePipeline.__module__]  # its place has changed between versions
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=128, num_hidden_layers=9, num_attention_heads=4, image_size=28,
        patch_size=14,
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = module.PaintByExampleImageEncoder(config, proj_size=CONTEXT).eval().requires_grad_(False)
    for name, parameter in encoder.named_parameters():
        if not name.startswith("model."):
            torch.nn.init.normal_(parameter, 1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return encoder


@pytest.fixture(scope="module")
def diffusers_file(encoder) -> dict[str, Tensor]:
    return encoder.state_dict()


@pytest.fixture(scope="module")
def ldm_file(diffusers_file) -> dict[str, Tensor]:
    """The same head as in an LDM checkpoint, names spelled out here a second time, and some other tensors."""
    file = {
        "betas": torch.zeros(3),
        "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3),
        "cond_stage_model.transformer.vision_model.post_layernorm.weight": torch.ones(WIDTH),
        "learnable_vector": diffusers_file["uncond_vector"],
    }
    for end in ("weight", "bias"):
        file[f"proj_out.{end}"] = diffusers_file[f"proj_out.{end}"]
        file[f"cond_stage_model.final_ln.{end}"] = diffusers_file[f"final_layer_norm.{end}"]
        for i in range(BLOCKS):
            ours, theirs = f"cond_stage_model.mapper.resblocks.{i}", f"mapper.blocks.{i}"
            file[f"{ours}.ln_1.{end}"] = diffusers_file[f"{theirs}.norm1.{end}"]
            file[f"{ours}.ln_2.{end}"] = diffusers_file[f"{theirs}.norm3.{end}"]
            qkv = [diffusers_file[f"{theirs}.attn1.to_{part}.{end}"] for part in ("q", "k", "v")]
            file[f"{ours}.attn.c_qkv.{end}"] = torch.cat(qkv)
            file[f"{ours}.attn.c_proj.{end}"] = diffusers_file[f"{theirs}.attn1.to_out.0.{end}"]
            file[f"{ours}.mlp.c_fc.{end}"] = diffusers_file[f"{theirs}.ff.net.0.proj.{end}"]
            file[f"{ours}.mlp.c_proj.{end}"] = diffusers_file[f"{theirs}.ff.net.2.{end}"]
    return file


@pytest.fixture(params=["diffusers", "ldm"])
def file(request) -> dict[str, Tensor]:
    return dict(request.getfixturevalue(f"{request.param}_file"))


@torch.inference_mode()
def test_the_head_agrees_with_diffusers(encoder, file):
    pixels = torch.randn(3, 3, 28, 28)
    expected, unconditional = encoder(pixels, return_uncond_vector=True)
    head = build_head(file)
    context = head(encoder.model(pixel_values=pixels).pooler_output)
    assert context.shape == expected.shape == (3, 1, CONTEXT)
    assert (expected[0] - expected[1]).abs().max() > 0.1, "the example has to matter"
    assert (context - expected).abs().max() <= 1e-5
    assert torch.equal(head.learnable_vector, unconditional)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_head_is_read_from_its_file(file, suffix, tmp_path):
    path = tmp_path / f"head{suffix}"
    save_file(file, path) if suffix == ".safetensors" else torch.save({"state_dict": file}, path)
    head = load_head(path)
    pooled = torch.randn(2, WIDTH)
    assert torch.equal(head(pooled), build_head(file)(pooled))


def test_every_missing_tensor_is_named(file):
    roots = ("mapper", "final", "proj", "uncond", "learn", "cond_stage_model.mapper", "cond_stage_model.final")
    names = [name for name in file if name.startswith(roots)]
    assert len(names) in (4 + 1 + 16 * BLOCKS, 4 + 1 + 12 * BLOCKS)
    for name in names:
        with pytest.raises(CheckpointError, match=rf"{name}\b"):
            build_head({other: tensor for other, tensor in file.items() if other != name})


def test_other_tensors_and_shapes_are_refused(file):
    with pytest.raises(CheckpointError, match=r"1 unexpected \(proj_out.extra\)"):
        build_head({**file, "proj_out.extra": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"proj_out.bias: expected \(48,\), got \(5,\)"):
        build_head({**file, "proj_out.bias": torch.zeros(5)})


@pytest.mark.parametrize(
    ("names", "channels", "message"),
    [
        (["model.diffusion_model.input_blocks.0.0.weight"], 4, "a text-to-image checkpoint"),
        (["model.diffusion_model.input_blocks.0.0.weight"], 9, "a text-inpainting checkpoint"),
        (["input_blocks.0.0.weight"], 9, "a UNet alone, of a text-inpainting model or of Paint by Example"),
        (["conv_in.weight"], 4, "a UNet alone, for prompts"),
        (["vision_model.encoder.layers.31.layer_norm1.weight"], 4, "a CLIP vision tower alone"),
        (["a", "b"], 4, r"2 tensors, the first of them \['a', 'b'\]"),
    ],
)
def test_other_files_are_told_apart(names, channels, message, tmp_path):
    save_file({name: torch.zeros(8, channels, 3, 3) for name in names}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=f"other.safetensors: Expected the conditioning head .* got {message}"):
        load_head(tmp_path / "other.safetensors")


def photo(height: int, width: int) -> Tensor:
    """(1, 3, H, W), smooth and with edges, values that eight bits hold."""
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 7, width), indexing="ij")
    channels = torch.stack([torch.sin(x * y) / 2 + 0.5, ((x + y) % 2 > 1).float(), (x / 7 + y / 9) / 2])
    return (channels * 255).round()[None] / 255


@pytest.mark.parametrize("size", [(500, 300), (224, 224), (100, 180), (31, 640)])
def test_stretching_is_pillows_bicubic(size):
    image = photo(*size)
    picture = Image.fromarray((image[0].movedim(0, -1) * 255).round().byte().numpy())
    # columns first: what one call did when the model was published; Pillow 13 turns the order round for tall pictures
    for step in ((224, picture.height), (224, 224)):
        picture = picture.resize(step, Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255
    assert (fit_example(image)[0] - expected).abs().max() <= 1 / 255 + 1e-6


@pytest.mark.parametrize("tall", [False, True])
def test_cropping_and_padding_keep_proportions(tall):
    image = photo(300, 500)
    padded = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1).repeat(1, 1, 500, 500)
    padded[..., 100:400, :] = image
    cases = {ExampleFit.CENTER_CROP: image[..., 100:400], ExampleFit.PAD: padded}
    for fit, square in cases.items():
        if tall:
            assert torch.equal(fit_example(image.mT, fit), fit_example(square.mT))
        else:
            assert torch.equal(fit_example(image, fit), fit_example(square))


def test_the_mask_is_the_originals():
    torch.manual_seed(0)
    mask = torch.rand(2, 1, 48, 72)
    mask[0, 0, 0, :3] = torch.tensor([0.5, 127 / 255, 128 / 255])
    expected = 1 - mask.numpy()
    expected[expected < 0.5], expected[expected >= 0.5] = 0, 1
    assert np.array_equal(kept(mask).numpy(), expected)

    latent = torch.randn(2, 4, 6, 9)
    channels = concat_channels(latent, kept(mask))
    assert torch.equal(channels[:, :4], latent * 0.18215)
    # bilinear without antialiasing, eight to one: the mean of a cell's four middle pixels
    middle = expected.reshape(2, 1, 6, 8, 9, 8)[:, :, :, 3:5, :, 3:5].mean((3, 5))
    np.testing.assert_allclose(channels[:, 4:].numpy(), middle, atol=1e-6)
    assert set(np.unique(middle)) - {0.0, 1.0}, "rounding must show"
