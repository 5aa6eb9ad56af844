"""Paint by Example's nodes in a real ComfyUI: in this process, and posted to a server."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import asymvq
from asymvq.autoencoders import AutoencoderConfig

from .server import Server, error_of
from .synthetic import write_checkpoint

VAE_CONFIG = AutoencoderConfig(
    decoder_channels=(16, 16, 32, 32), decoder_blocks=1, encoder_channels=(8, 8, 16, 16), encoder_blocks=1,
    norm_groups=4,
)  # fmt: skip
HEIGHT, WIDTH = 52, 77  # the VAE sees 48 × 72 of it, from (2, 2) on
SAMPLING = {"seed": 3, "steps": 2, "cfg": 5.0, "sampler_name": "ipndm", "scheduler": "ddim_uniform", "denoise": 1.0}


def write_vae(base: Path) -> asymvq.AsymmetricAutoencoder:
    torch.manual_seed(0)
    vae = asymvq.AsymmetricAutoencoder(VAE_CONFIG).eval().requires_grad_(False)
    asymvq.save(vae, base / "models" / "vae" / "tiny.safetensors")
    return vae


def pictures(count: int, height: int, width: int, seed: int) -> Tensor:
    """(B, H, W, 3) of eight bits, smooth."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 5, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth.movedim(1, -1) * 255).round() / 255


def masks() -> Tensor:
    """(2, H, W), soft ellipses that end between latent cells."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    rings = [((x - cx) / 23) ** 2 + ((y - 27) / 15) ** 2 for cx in (30, 45)]
    return (1.5 - torch.stack(rings)).clamp(0, 1)


def run(host: Any, node: str, **inputs: Any) -> tuple[Any, ...]:
    cls = host.nodes.NODE_CLASS_MAPPINGS[node]
    with torch.inference_mode():
        output = cls.execute(**inputs) if hasattr(cls, "define_schema") else getattr(cls(), cls.FUNCTION)(**inputs)
    return getattr(output, "args", output)


@pytest.fixture(scope="module")
def checkpoint(host) -> str:
    write_checkpoint(host.base / "models" / "checkpoints" / "paint_by_example.ckpt")
    return "paint_by_example.ckpt"


@pytest.fixture(scope="module")
def loaded(host, checkpoint) -> Iterator[tuple[Any, ...]]:
    """MODEL, CLIP_VISION, PBE_HEAD, VAE and the warnings on the way."""
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    yield (*run(host, "AsymVQPaintByExampleLoader", ckpt_name=checkpoint), warnings)
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="module")
def encoder():
    """diffusers' image encoder: a tiny tower of 224 pixels, and a head that is the UNet's context wide."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    module = sys.modules[diffusers.PaintByExamplePipeline.__module__]
    config = transformers.CLIPVisionConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=224,
        patch_size=56, hidden_act="quick_gelu",
    )  # fmt: skip
    torch.manual_seed(0)
    encoder = module.PaintByExampleImageEncoder(config, proj_size=768).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.mul_(4 if parameter.ndim > 1 else 1).copy_(parameter.half())  # the host keeps its tower in half
    return encoder


@pytest.fixture(scope="module")
def head(host, encoder) -> Any:
    save_file(encoder.state_dict(), host.base / "models" / "clip_vision" / "image_encoder.safetensors")
    return run(host, "AsymVQPaintByExampleHeadLoader", head_name="image_encoder.safetensors")[0]


def tower_of(encoder: Any, folder: Path, *, projected: bool) -> Any:
    """The encoder's tower in the host's own class: as in the checkpoint, or as stock files have it."""
    import comfy.clip_vision

    config = encoder.config.to_dict() | {"model_type": "clip_vision_model", "projection_dim": 24}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tower = comfy.clip_vision.ClipVisionModel(str(folder / "config.json"))
    tower_state = {n.removeprefix("model."): t for n, t in encoder.state_dict().items() if n.startswith("model.")}
    # as in published files; transformers 5 leaves the prefix out
    state = {f"vision_model.{name.removeprefix('vision_model.')}": tensor for name, tensor in tower_state.items()}
    if projected:
        state["visual_projection.weight"] = torch.randn(24, 64)
    else:
        tower.model.visual_projection = torch.nn.Identity()
    assert not tower.load_sd(state).missing_keys
    return tower


@pytest.fixture(scope="module")
def clip_vision(host, encoder, tmp_path_factory) -> Any:
    return tower_of(encoder, tmp_path_factory.mktemp("clip"), projected=False)


@pytest.fixture(scope="module")
def reference(host) -> asymvq.AsymmetricAutoencoder:
    return write_vae(host.base)


@pytest.fixture(scope="module")
def vae(host, reference) -> Any:
    return run(host, "AsymVQLoader", vae_name="tiny.safetensors", dtype="fp32")[0]


@pytest.fixture
def inputs(clip_vision, head, vae) -> dict[str, Any]:
    """Two pictures, two masks, two examples of another size, one with transparency."""
    example = torch.cat([pictures(2, 90, 40, seed=2), torch.rand(2, 90, 40, 1)], dim=-1)
    images = pictures(2, HEIGHT, WIDTH, seed=1)
    return {"clip_vision": clip_vision, "head": head, "vae": vae, "image": images, "mask": masks(), "example": example}


class TestLoader:
    def test_gives_every_part_of_the_checkpoint_without_a_warning(self, host, checkpoint, loaded):
        model, clip_vision, head, vae, warnings = loaded
        assert warnings == []
        file = torch.load(host.base / "models" / "checkpoints" / checkpoint)["state_dict"]
        unet, tower = model.model.diffusion_model.state_dict(), clip_vision.model.state_dict()
        parts = {
            "model.diffusion_model.": unet,
            "cond_stage_model.transformer.": tower,
            "first_stage_model.": vae.first_stage_model.state_dict(),
        }
        for prefix, state in parts.items():
            for name in (next(iter(state)), list(state)[-1]):
                assert torch.equal(state[name].float(), file[prefix + name].to(state[name].dtype).float()), name
        assert isinstance(clip_vision.model.visual_projection, torch.nn.Identity)
        pooled = torch.randn(2, 1024)
        context, unconditional = head.encode(pooled)
        assert context.shape == (2, 1, 768)
        assert torch.equal(unconditional, file["learnable_vector"])

    def test_the_host_can_load_the_model_once_more(self, loaded):
        model = loaded[0]
        load, arguments = model.cached_patcher_init
        first, second = (m.model.diffusion_model.state_dict() for m in (model, load(*arguments)))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_other_checkpoints_are_refused(self, host, checkpoint):
        folder = host.base / "models" / "checkpoints"
        unet = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 9, 3, 3)}
        text = {"cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(768)}
        whole = torch.load(folder / checkpoint)["state_dict"]
        no_vae = {name: t for name, t in whole.items() if not name.startswith("first_stage_model.")}
        four = {**whole, "model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3)}
        one_less = {name: t for name, t in whole.items() if name != "cond_stage_model.final_ln.bias"}
        cases = {
            "a text-inpainting checkpoint": {**unet, **text},
            "without the VAE": no_vae,
            "an incomplete one": {name: t for name, t in whole.items() if "encoder.layers.22." not in name},
            "9 input channels .* but got 4": four,
            r"1 missing \(cond_stage_model.final_ln.bias\)": one_less,
        }
        for message, tensors in cases.items():
            torch.save({"state_dict": tensors}, folder / "other.ckpt")
            with pytest.raises(ValueError, match=message):
                run(host, "AsymVQPaintByExampleLoader", ckpt_name="other.ckpt")
        plain = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(320, 4, 3, 3), **text}
        save_file(plain, folder / "plain.safetensors")
        with pytest.raises(ValueError, match="a text-to-image checkpoint"):
            run(host, "AsymVQPaintByExampleLoader", ckpt_name="plain.safetensors")

    def test_a_file_written_anew_is_loaded_anew(self, host, checkpoint):
        node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQPaintByExampleLoader"]
        before = node.fingerprint_inputs(ckpt_name=checkpoint)
        assert before == node.fingerprint_inputs(ckpt_name=checkpoint)
        (host.base / "models" / "checkpoints" / checkpoint).touch()
        assert before != node.fingerprint_inputs(ckpt_name=checkpoint)

    def test_every_input_and_output_has_a_tooltip(self, host):
        for name in ("Loader", "HeadLoader", "Conditioning"):
            schema = host.nodes.NODE_CLASS_MAPPINGS[f"AsymVQPaintByExample{name}"].define_schema()
            assert all(socket.tooltip for socket in (*schema.inputs, *schema.outputs)), name


class TestConditioning:
    def test_the_unet_gets_the_originals_nine_channels(self, host, loaded, reference, encoder, inputs):
        from torchvision.transforms.functional import resize

        model = loaded[0]
        positive, negative, latent = run(host, "AsymVQPaintByExampleConditioning", **inputs)
        seen: list[tuple[Tensor, Tensor]] = []
        probe = model.model.diffusion_model.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0].clone(), kwargs["context"].clone())), with_kwargs=True
        )
        try:
            # from the last timestep on, where the host starts from the noise as it is
            sampling = {**SAMPLING, "scheduler": "normal"}
            (sampled,) = run(
                host, "KSampler", model=model, positive=positive, negative=negative, latent_image=latent, **sampling
            )
        finally:
            probe.remove()
        assert sampled["samples"].shape == (2, 4, 6, 9)

        # as scripts/inference.py of Paint by Example does it
        image = inputs["image"].movedim(-1, 1)[..., 2:50, 2:74] * 2 - 1
        keep = 1 - inputs["mask"][:, None, 2:50, 2:74]
        keep[keep < 0.5], keep[keep >= 0.5] = 0, 1
        inpaint_image = 0.18215 * reference.encode(image * keep)
        inpaint_mask = resize(keep, [6, 9], antialias=False)
        assert 0 < inpaint_mask[inpaint_mask > 0].min() < 1
        start = torch.randn(2, 4, 6, 9, generator=torch.manual_seed(SAMPLING["seed"]))
        expected = torch.cat([start, inpaint_image, inpaint_mask], dim=1)

        pixels = []
        for example in inputs["example"]:
            picture = Image.fromarray((example[..., :3] * 255).round().byte().numpy())
            for step in ((224, picture.height), (224, 224)):  # see test_stretching_is_pillows_bicubic
                picture = picture.resize(step, Image.Resampling.BICUBIC)
            pixels.append(torch.from_numpy(np.array(picture)).movedim(-1, 0) / 255)
        mean, std = (
            torch.tensor(values).view(3, 1, 1)
            for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
        )
        context, unconditional = encoder((torch.stack(pixels) - mean) / std, return_uncond_vector=True)

        halves = [(x[i : i + 2], c[i : i + 2]) for x, c in seen for i in range(0, len(x), 2)]
        assert len(halves) == 2 * SAMPLING["steps"]
        assert (context[0] - context[1]).abs().max() > 1
        # a pixel of the example may be off by one of 255
        with_example = [bool((c - context).abs().max() < 0.05) for _, c in halves]
        assert [bool((c - unconditional).abs().max() < 1e-5) for _, c in halves] == [not w for w in with_example]
        assert sum(with_example) == SAMPLING["steps"]
        for x, _ in halves[:2]:
            assert (x - expected).abs().max() <= 1e-5
        for x, _ in halves[2:]:
            assert (x[:, 4:] - expected[:, 4:]).abs().max() <= 1e-5

    def test_the_result_keeps_what_the_mask_keeps(self, host, loaded, vae, inputs):
        positive, negative, latent = run(host, "AsymVQPaintByExampleConditioning", **inputs)
        (sampled,) = run(
            host, "KSampler", model=loaded[0], positive=positive, negative=negative, latent_image=latent, **SAMPLING
        )
        image, mask = inputs["image"], inputs["mask"]
        (result,) = run(host, "AsymVQDecode", samples=sampled, vae=vae, image=image, mask=mask, keep="exact")
        assert result.shape == image.shape
        assert torch.equal(result[mask == 0], image[mask == 0])
        assert (result - image)[mask == 1].abs().mean() > 0.05

    def test_one_picture_serves_several_examples(self, host, inputs):
        one = {**inputs, "image": inputs["image"][:1], "mask": inputs["mask"][0]}
        positive, negative, latent = run(host, "AsymVQPaintByExampleConditioning", **one)
        assert latent["samples"].shape == (2, 4, 6, 9)
        assert not latent["samples"].any()
        assert set(latent) == {"samples"}
        for (context, options), *rest in (positive, negative):
            assert not rest
            assert context.shape == (2, 1, 768)
            assert torch.equal(options["noise_concat"][0], options["noise_concat"][1])

    def test_a_stock_towers_projection_is_left_out(self, host, encoder, inputs, tmp_path):
        stock = {**inputs, "clip_vision": tower_of(encoder, tmp_path, projected=True)}
        (first, *_), (second, *_) = (run(host, "AsymVQPaintByExampleConditioning", **i) for i in (inputs, stock))
        assert torch.allclose(first[0][0], second[0][0], atol=1e-6)

    @pytest.mark.parametrize("fit", ["stretch", "center crop", "pad"])
    def test_the_fit_matters_for_what_is_no_square(self, host, inputs, fit):
        def contexts(example: Tensor, fit: str) -> Tensor:
            changed = {**inputs, "example": example, "example_fit": fit}
            return run(host, "AsymVQPaintByExampleConditioning", **changed)[0][0][0]

        square, tall = inputs["example"][:, :40], inputs["example"]
        assert torch.equal(contexts(square, fit), contexts(square, "stretch"))
        assert torch.equal(contexts(tall, fit), contexts(tall, "stretch")) == (fit == "stretch")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mask": torch.zeros(1, HEIGHT, WIDTH)}, "one that is empty"),
            ({"mask": torch.stack([torch.ones(HEIGHT, WIDTH), torch.zeros(HEIGHT, WIDTH)])}, "one that is empty"),
            ({"mask": torch.zeros(1, 64, 64)}, "open the mask editor"),
            ({"mask": torch.ones(1, 40, 64)}, "image of 77×52 and a mask of 64×40"),
            ({"example": torch.rand(3, 8, 8, 3)}, "2 of image, 2 of mask, 3 of example"),
            ({"example": torch.rand(1, 8, 8, 1)}, "an image of shape"),
            ({"image": torch.rand(1, 5, 9, 3), "mask": torch.ones(1, 5, 9)}, "at least 8×8"),
        ],
    )
    def test_bad_pictures(self, host, inputs, change, message):
        with pytest.raises(ValueError, match=message):
            run(host, "AsymVQPaintByExampleConditioning", **{**inputs, **change})

    def test_another_vision_tower_or_vae(self, host, inputs):
        import comfy.clip_vision

        config = Path(comfy.clip_vision.__file__).parent / "clip_vision_config_h.json"
        with torch.device("meta"):
            clip_h = comfy.clip_vision.ClipVisionModel(str(config))
        with pytest.raises(ValueError, match=r"CLIP ViT-L/14, .* got clip_vision_model of width 1280 for 224 pixels"):
            run(host, "AsymVQPaintByExampleConditioning", **{**inputs, "clip_vision": clip_h})

        flux = AutoencoderConfig(**{**vars(VAE_CONFIG), "latent_channels": 16})
        asymvq.save(asymvq.AsymmetricAutoencoder(flux), host.base / "models" / "vae" / "flux.safetensors")
        (vae,) = run(host, "AsymVQLoader", vae_name="flux.safetensors", dtype="fp32")
        with pytest.raises(ValueError, match=r"of Stable Diffusion 1.x, .* \(2, 16, 6, 9\)"):
            run(host, "AsymVQPaintByExampleConditioning", **{**inputs, "vae": vae})

    def test_a_vae_that_half_precision_cannot_compute(self, host, inputs, loaded):
        """Ours computes again in float32; the host's own do not, and give NaN."""
        torch.manual_seed(0)
        vae = asymvq.AsymmetricAutoencoder(VAE_CONFIG).eval().requires_grad_(False)
        vae.encoder.conv_in.weight.mul_(6e4 / vae.encoder.conv_in.weight.abs().max())
        asymvq.save(vae, host.base / "models" / "vae" / "overflow.safetensors")
        expected, output = (
            run(host, "AsymVQPaintByExampleConditioning", **{**inputs, "vae": ours})[0][0][1]["noise_concat"]
            for ours in (
                run(host, "AsymVQLoader", vae_name="overflow.safetensors", dtype=dtype)[0] for dtype in ("fp32", "fp16")
            )
        )
        assert (output - expected).abs().mean() < 0.02 * expected.std()

        state = dict(loaded[3].get_sd())
        state["encoder.conv_in.weight"] = torch.full_like(state["encoder.conv_in.weight"], float("inf"))
        stock = type(loaded[3])(sd=state)
        with pytest.raises(ValueError, match="half precision is too little for it"):
            run(host, "AsymVQPaintByExampleConditioning", **{**inputs, "vae": stock})


class TestHeadLoader:
    def test_other_files_are_refused(self, host, encoder):
        folder = host.base / "models" / "clip_vision"
        tower = {"vision_model.encoder.layers.31.layer_norm1.weight": torch.zeros(1280)}
        less = {name: tensor for name, tensor in encoder.state_dict().items() if name != "proj_out.bias"}
        for message, tensors in {"a CLIP vision tower alone": tower, r"1 missing \(proj_out.bias\)": less}.items():
            save_file(tensors, folder / "other.safetensors")
            with pytest.raises(ValueError, match=message):
                run(host, "AsymVQPaintByExampleHeadLoader", head_name="other.safetensors")


def test_a_crop_around_the_mask_is_the_pictures_own_pixels(host):
    image, mask = torch.rand(2, 300, 400, 4), torch.zeros(300, 400)
    mask[250:260, 100:110] = 0.3
    part, part_mask, x, y = run(host, "AsymVQCropAroundMask", image=image, mask=mask, size=128)
    assert part.shape == (2, 144, 144, 3)  # 10 pixels of mask and 64 around it, a multiple of 8
    assert torch.equal(part, image[:, y : y + 144, x : x + 144, :3])
    assert torch.equal(part_mask, mask[None, y : y + 144, x : x + 144])
    with pytest.raises(ValueError, match="image of 400×300 and a mask of 300×400"):
        run(host, "AsymVQCropAroundMask", image=image, mask=mask.T)


def posted(count: int) -> dict[str, Any]:
    """The workflow's first group in API format, with `count` examples."""
    nodes = {
        "picture": ("LoadImage", {"image": "picture.png"}),
        "example": ("LoadImage", {"image": "example.png"}),
        "examples": ("RepeatImageBatch", {"image": ["example", 0], "amount": count}),
        "loader": ("AsymVQPaintByExampleLoader", {"ckpt_name": "paint_by_example.ckpt"}),
        "vae": ("AsymVQLoader", {"vae_name": "tiny.safetensors", "base_vae": "none", "dtype": "fp32"}),
        "conditioning": (
            "AsymVQPaintByExampleConditioning",
            {
                "clip_vision": ["loader", 1], "head": ["loader", 2], "vae": ["vae", 0], "image": ["picture", 0],
                "mask": ["picture", 1], "example": ["examples", 0], "example_fit": "stretch",
            },
        ),
        "sampler": (
            "KSampler",
            {
                "model": ["loader", 0], "positive": ["conditioning", 0], "negative": ["conditioning", 1],
                "latent_image": ["conditioning", 2], **SAMPLING,
            },
        ),
        "decode": (
            "AsymVQDecode",
            {
                "samples": ["sampler", 0], "vae": ["vae", 0], "image": ["picture", 0], "mask": ["picture", 1],
                "keep": "exact", "grow_mask": 0, "tiling": "auto", "tile_size": 512, "overlap": 64, "region": "auto",
            },
        ),
        "save": ("SaveImage", {"images": ["decode", 0], "filename_prefix": "paint_by_example"}),
    }  # fmt: skip
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in nodes.items()}


@pytest.fixture(scope="module")
def ready(server: Server, host, checkpoint) -> Server:
    """The server with the model files and the example in its folders."""
    folder = Path("models") / "checkpoints"
    shutil.copy(host.base / folder / checkpoint, server.base / folder)
    write_vae(server.base)
    example = (pictures(1, 90, 40, seed=2)[0] * 255).byte().numpy()
    Image.fromarray(example).save(server.base / "input" / "example.png")
    return server


def put_picture(server: Server, image: Tensor, mask: Tensor) -> np.ndarray:
    """Writes picture.png with the mask where the mask editor puts it, in the alpha channel; (H, W, 4) of eight bits."""
    source = (torch.cat([image, 1 - mask[..., None]], dim=-1) * 255).round().byte().numpy()
    Image.fromarray(source).save(server.base / "input" / "picture.png")
    return source


def results(server: Server, history: dict[str, Any]) -> list[np.ndarray]:
    assert history["status"]["status_str"] == "success", history["status"]
    files = [server.base / "output" / image["filename"] for image in history["outputs"]["save"]["images"]]
    return [np.asarray(Image.open(file).convert("RGB")) for file in files]


def assert_only_the_mask_changed(result: np.ndarray, source: np.ndarray) -> None:
    keep, before = source[..., 3] == 255, source[..., :3]
    assert np.array_equal(result[keep], before[keep])
    assert np.abs(result[~keep].astype(float) - before[~keep]).mean() > 10


def test_from_picture_and_example_to_result(ready: Server) -> None:
    source = put_picture(ready, pictures(1, HEIGHT, WIDTH, seed=1)[0], masks()[0])
    painted = results(ready, ready.run(posted(2)))
    assert len(painted) == 2
    for result in painted:
        assert_only_the_mask_changed(result, source)


def test_a_large_picture_is_painted_around_its_mask(ready: Server) -> None:
    mask = torch.zeros(130, 420)
    mask[60:75, 300:330] = 1
    source = put_picture(ready, pictures(1, 130, 420, seed=4)[0], mask)
    prompt = posted(1)
    for name in ("conditioning", "decode"):
        prompt[name]["inputs"].update(image=["part", 0], mask=["part", 1])
    crop = {"image": ["picture", 0], "mask": ["picture", 1], "size": 64}
    paste = {
        "destination": ["picture", 0], "source": ["decode", 0], "x": ["part", 2], "y": ["part", 3],
        "resize_source": False,
    }  # fmt: skip
    prompt["part"] = {"class_type": "AsymVQCropAroundMask", "inputs": crop}
    prompt["whole"] = {"class_type": "ImageCompositeMasked", "inputs": paste}
    prompt["save"]["inputs"]["images"] = ["whole", 0]
    (result,) = results(ready, ready.run(prompt))
    assert_only_the_mask_changed(result, source)


def test_an_empty_mask_is_explained(ready: Server) -> None:
    put_picture(ready, pictures(1, HEIGHT, WIDTH, seed=1)[0], masks()[0])
    prompt = posted(1)
    prompt["conditioning"]["inputs"]["mask"] = ["empty", 0]
    empty = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": WIDTH, "height": HEIGHT}}
    assert "one that is empty" in error_of(ready.run({**prompt, "empty": empty}))
