"""Files: recognised, converted, refused; written and read again without a changed bit."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import PRESETS, AutoencoderConfig
from asymvq.checkpoint import (
    Checkpoint,
    CheckpointError,
    Layout,
    build,
    load,
    native_metadata,
    read,
    save,
    to_native,
    with_encoder,
)
from asymvq.checkpoint.layouts import recognise
from asymvq.checkpoint.native import FORMAT_VERSION
from asymvq.config import ConditionConfig, MaskReduction

TINY = AutoencoderConfig(
    decoder_channels=(32, 64, 64, 64), decoder_blocks=2, encoder_channels=(32, 32, 32, 64), encoder_blocks=1
)
STOCK = AutoencoderConfig(
    decoder_channels=(32, 64), decoder_blocks=2, encoder_channels=(32, 64), encoder_blocks=1, condition=None
)
ASUKA = AutoencoderConfig(
    latent_channels=16,
    decoder_channels=(32, 64, 64),
    decoder_blocks=1,
    encoder_channels=(32, 32, 64),
    encoder_blocks=2,
    condition=ConditionConfig(sees_mask=True, mask_reduction=MaskReduction.ANY),
    quant_conv=False,
    post_quant_conv=False,
    norm_groups=16,
)
CONFIGS = {
    "tiny": TINY,
    "stock": STOCK,
    "asuka": ASUKA,
    "decoder alone": dataclasses.replace(TINY, encoder_channels=None, quant_conv=False),
    "unusual": dataclasses.replace(STOCK, image_channels=4, condition=ConditionConfig(True), norm_groups=8),
}


class Callback:
    """As projects define them in their training script."""


def paper_names(state):
    return {name.replace("decoder.condition_encoder.", "decoder.encoder."): t.clone() for name, t in state.items()}


def assert_same_tensors(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in got.items():
        assert tensor.dtype == expected[name].dtype, name
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def tiny(make_vae):
    return make_vae(TINY)


# Round trips


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in CONFIGS), ("tiny", torch.float16), ("tiny", torch.bfloat16)],
    ids=str,
)
def test_native_round_trip(name, dtype, tmp_path, make_vae):
    vae = make_vae(CONFIGS[name])
    save(vae, tmp_path / "a.safetensors", dtype=dtype)
    first = load(tmp_path / "a.safetensors")
    assert first.config == CONFIGS[name]
    assert_same_tensors(first.state_dict(), {k: v.to(dtype) for k, v in vae.state_dict().items()})
    save(first, tmp_path / "b.safetensors")
    assert_same_tensors(load_file(tmp_path / "b.safetensors"), load_file(tmp_path / "a.safetensors"))
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())


@pytest.mark.parametrize("config", [TINY, STOCK], ids=["asymmetric", "stock"])
def test_diffusers_native_diffusers_round_trip(config, tmp_path, make_vae):
    save(make_vae(config), tmp_path / "first", layout="diffusers", latents="sd")
    save(load(tmp_path / "first"), tmp_path / "native.safetensors")
    save(load(tmp_path / "native.safetensors"), tmp_path / "second", layout="diffusers")
    for file in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize("config", [TINY, STOCK], ids=["asymmetric", "stock"])
def test_diffusers_reads_what_we_write(config, tmp_path, make_vae):
    diffusers = pytest.importorskip("diffusers")
    config = dataclasses.replace(config, norm_groups=16)
    vae = make_vae(config)
    save(vae, tmp_path, layout="diffusers", latents="sd")
    kind = diffusers.AutoencoderKL if config.condition is None else diffusers.AsymmetricAutoencoderKL
    peer = kind.from_pretrained(tmp_path)
    latent = torch.randn(1, 4, 4, 4)
    with torch.inference_mode():
        assert (peer.decode(latent).sample - vae.decode(latent)).abs().max() <= 1e-4
    peer.save_pretrained(tmp_path / "again")
    assert read(tmp_path / "again").config == config
    assert_same_tensors(load(tmp_path / "again").state_dict(), vae.state_dict())


def test_diffusers_weights_alone(tmp_path, tiny):
    save(tiny, tmp_path / "vae.safetensors", layout="diffusers")
    assert os.listdir(tmp_path) == ["vae.safetensors"]
    assert read(tmp_path / "vae.safetensors").layout is Layout.DIFFUSERS


@pytest.mark.parametrize(
    "change",
    [
        {"encoder_channels": None},
        {"post_quant_conv": False},
        {"condition": ConditionConfig(sees_mask=True)},
        {"condition": ConditionConfig(mask_reduction=MaskReduction.ANY)},
        {"decoder_channels": (32, 64, 64), "encoder_channels": (32, 64, 64)},
        {"decoder_channels": (32, 96, 64, 64)},
        {"decoder_channels": (64, 64, 64, 64)},
        {"condition": None},
    ],
    ids=str,
)
def test_refuses_what_diffusers_cannot_express(change, tmp_path):
    with torch.device("meta"):
        vae = AsymmetricAutoencoder(dataclasses.replace(TINY, **change))
    with pytest.raises(ValueError, match=r"Expected a model as diffusers has .*native"):
        save(vae.to_empty(device="cpu"), tmp_path / "vae", layout="diffusers")
    assert os.listdir(tmp_path) == []


# The native format


def test_native_metadata_is_for_people(tmp_path, tiny):
    save(tiny, tmp_path / "a.safetensors", metadata={"modelspec.title": "Mine", "asymvq.training": "{}"})
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert all(name.startswith("asymvq.") for name in file.keys())  # noqa: SIM118
    assert AutoencoderConfig.from_dict(json.loads(metadata["asymvq.config"])) == TINY
    assert metadata["modelspec.title"] == "Mine"
    assert metadata["asymvq.training"] == "{}"
    assert read(tmp_path / "a.safetensors").metadata == metadata
    assert "2x" in native_metadata(PRESETS["2x"])["modelspec.title"]


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
def test_native_survives_a_host_that_drops_metadata(dtype, tmp_path, make_vae):
    vae = make_vae(ASUKA)
    tensors = {name: tensor.to(dtype) for name, tensor in to_native(vae, vae.config).items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"prompt": "{}"})
    checkpoint = read(tmp_path / "a.safetensors")
    assert checkpoint.layout is Layout.NATIVE
    assert checkpoint.config == ASUKA
    assert checkpoint.dtype == (dtype or torch.float32)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"asymvq\.config.*missing"),
        ("{", "cannot be read"),
        ('{"format": 1, "config": {"levels": 3}}', "unknown fields"),
        ('{"format": 1, "config": {"latent_channels": 8}}', "another shape"),
        (f'{{"format": {FORMAT_VERSION + 1}, "config": {{}}}}', "Update"),
    ],
)
def test_refuses_native_files_with_another_config(text, message, tmp_path, tiny):
    tensors = to_native(tiny, TINY)
    del tensors["asymvq.config"]
    if text is not None:
        tensors["asymvq.config"] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path / "a.safetensors")


def test_a_failed_save_leaves_the_old_file(tmp_path, tiny, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def fail(tensors, filename, metadata=None):
        filename.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("asymvq.checkpoint.writing.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(tiny, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_saves_over_the_file_it_was_loaded_from(tmp_path, tiny):
    path = tmp_path / "a.safetensors"
    save(tiny, path)
    loaded = load(path)
    save(loaded, path)
    assert_same_tensors(load(path).state_dict(), tiny.state_dict())
    assert_same_tensors(loaded.state_dict(), tiny.state_dict())


def test_saved_files_follow_the_umask(tmp_path, tiny):
    (tmp_path / "plain").touch()
    save(tiny, tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(("path", "layout"), [("folder", "native"), ("a.safetensors", "onnx")])
def test_refuses_other_targets(path, layout, tmp_path, tiny):
    with pytest.raises(ValueError, match="Expected"):
        save(tiny, tmp_path / path, layout=layout)


# Other layouts


def test_paper_checkpoint(tmp_path, tiny, blob_mask):
    omegaconf = pytest.importorskip("omegaconf")

    junk = {
        "decoder.up_layers.0.deconv.weight": torch.zeros(4, 4, 4, 4),
        "loss.perceptual_loss.lin0.model.1.weight": torch.full((1, 4), float("nan")),
        "model_ema.decay": torch.tensor(0.9),
    }
    content = {
        "state_dict": paper_names(tiny.state_dict()) | junk,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "callbacks": {Callback: Callback()},
        "hyper_parameters": omegaconf.OmegaConf.create({"embed_dim": 4}),
        "arguments": argparse.Namespace(base="x.yaml"),
    }
    torch.save(content, tmp_path / "paper.ckpt")
    checkpoint = read(tmp_path / "paper.ckpt")
    assert checkpoint.layout is Layout.PAPER
    assert checkpoint.config == TINY
    vae = build(checkpoint)
    image, mask, latent = torch.rand(1, 3, 32, 48), blob_mask(32, 48), torch.randn(1, 4, 4, 6)
    with torch.inference_mode():
        assert torch.equal(vae.decode(latent, image=image, mask=mask), tiny.decode(latent, image=image, mask=mask))


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes_are_read_off_the_shapes(name):
    with torch.device("meta"):
        state = AsymmetricAutoencoder(PRESETS[name]).state_dict()
    paper = {key.replace("decoder.condition_encoder.", "decoder.encoder."): tensor for key, tensor in state.items()}
    layout, config, converted = recognise(paper)
    assert (layout, config) == (Layout.PAPER, PRESETS[name])
    assert converted.keys() == state.keys()


@pytest.mark.parametrize("prefix", ["", "vae.", "first_stage_model."])
def test_stock_vae_inside_a_larger_checkpoint(prefix, tmp_path, make_vae):
    vae = make_vae(STOCK)
    tensors = {prefix + name: tensor for name, tensor in vae.state_dict().items()}
    tensors["model.diffusion_model.input_blocks.0.0.weight"] = torch.zeros(2)
    save_file(tensors, tmp_path / "sd.safetensors")
    checkpoint = read(tmp_path / "sd.safetensors")
    assert checkpoint.layout is Layout.STOCK_LDM
    assert_same_tensors(checkpoint.state_dict, vae.state_dict())


def test_old_attention_names_in_a_bin(tmp_path, tiny):
    save(tiny, tmp_path, layout="diffusers", latents="sd")
    state = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, name in old.items():
        state = {key.replace(f".{new}.", f".{name}."): tensor for key, tensor in state.items()}
    torch.save(state, tmp_path / "diffusion_pytorch_model.fp16.bin")
    assert_same_tensors(load(tmp_path).state_dict(), tiny.state_dict())


def test_config_json_tells_only_the_groups(tmp_path, make_vae):
    config = dataclasses.replace(TINY, norm_groups=8)
    save(make_vae(config), tmp_path, layout="diffusers", latents="sd")
    (tmp_path / "config.json").write_text(json.dumps({"norm_num_groups": 8, "latent_channels": 99}))
    assert read(tmp_path).config == config
    assert read(tmp_path / "diffusion_pytorch_model.safetensors").config == config
    (tmp_path / "config.json").unlink()
    assert read(tmp_path).config == TINY


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"norm_num_groups": "32"}', '{"norm_num_groups": 0}', '{"act_fn": "gelu"}']
)
def test_refuses_a_bad_config_json(text, tmp_path, tiny):
    save(tiny, tmp_path, layout="diffusers", latents="sd")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read(tmp_path)


def test_widths_that_the_groups_do_not_divide(tmp_path, make_vae):
    config = dataclasses.replace(STOCK, decoder_channels=(24, 48), encoder_channels=(24, 48), norm_groups=8)
    save(make_vae(config), tmp_path / "vae.safetensors", layout="diffusers")
    with pytest.raises(CheckpointError, match=r"norm_groups=32.*\(24, 48\).*norm_num_groups"):
        read(tmp_path / "vae.safetensors")


# Building


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_build_converts(dtype, tmp_path, tiny):
    save(tiny, tmp_path / "a.safetensors", dtype=torch.float16)
    vae = load(tmp_path / "a.safetensors", dtype=dtype)
    assert {parameter.dtype for parameter in vae.parameters()} == {dtype}


def test_mixed_dtypes_become_the_widest(tmp_path, tiny):
    state = {
        k: v.half() if k.startswith("encoder.") else v.bfloat16() for k, v in paper_names(tiny.state_dict()).items()
    }
    save_file(state, tmp_path / "a.safetensors")
    assert {parameter.dtype for parameter in load(tmp_path / "a.safetensors").parameters()} == {torch.float32}


def test_double_precision_becomes_single(tmp_path, tiny):
    torch.save({k: v.double() for k, v in paper_names(tiny.state_dict()).items()}, tmp_path / "a.ckpt")
    assert_same_tensors(load(tmp_path / "a.ckpt").state_dict(), tiny.state_dict())


def test_build_copies_nothing(tmp_path, tiny):
    save(tiny, tmp_path / "a.safetensors")
    checkpoint = read(tmp_path / "a.safetensors")
    state = build(checkpoint).state_dict()
    assert all(state[name].data_ptr() == tensor.data_ptr() for name, tensor in checkpoint.state_dict.items())


def test_build_on_another_device(tiny):
    vae = build(Checkpoint(Layout.NATIVE, TINY, tiny.state_dict(), {}), device="meta", ops=torch.nn)
    assert all(parameter.is_meta for parameter in vae.parameters())


# An encoder for a decoder


def decoder_of(vae, **change):
    config = dataclasses.replace(vae.config, encoder_channels=None, quant_conv=False, **change)
    roots = ("decoder.", "post_quant_conv.") if config.post_quant_conv else ("decoder.",)
    state = {name: tensor for name, tensor in vae.state_dict().items() if name.startswith(roots)}
    return Checkpoint(Layout.PAPER, config, state, {"a": "b"})


@pytest.mark.parametrize("change", [{}, {"post_quant_conv": False}], ids=["own post_quant_conv", "the donor's"])
def test_with_encoder(change, tiny, make_vae):
    donor = make_vae(dataclasses.replace(TINY, condition=None), seed=1)
    donor_checkpoint = Checkpoint(Layout.STOCK_LDM, donor.config, donor.state_dict(), {})
    joined = with_encoder(decoder_of(tiny, **change), donor_checkpoint)
    assert joined.config == dataclasses.replace(TINY)
    assert joined.metadata == {"a": "b"}
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(build(joined).encode(image), donor.encode(image))
    post = donor if change else tiny
    assert torch.equal(joined.state_dict["post_quant_conv.weight"], post.state_dict()["post_quant_conv.weight"])


def test_with_encoder_refuses_what_does_not_fit(tiny, make_vae):
    decoder, whole = decoder_of(tiny), Checkpoint(Layout.PAPER, TINY, tiny.state_dict(), {})
    with pytest.raises(ValueError, match="has one"):
        with_encoder(whole, whole)
    with pytest.raises(ValueError, match="has none"):
        with_encoder(decoder, decoder)
    for config, field in ((dataclasses.replace(TINY, latent_channels=16), "latent channels"), (STOCK, "factor")):
        other = make_vae(config)
        with pytest.raises(ValueError, match=field):
            with_encoder(decoder, Checkpoint(Layout.PAPER, config, other.state_dict(), {}))


# Refusals

CONV = torch.zeros(2, 2)
FOREIGN = {
    "LoRA": ({"lora_unet_down_blocks_0.lora_down.weight": CONV}, "a LoRA"),
    "UNet": ({"model.diffusion_model.input_blocks.0.0.weight": CONV}, "diffusion model without a VAE"),
    "encoder": ({"encoder.conv_in.weight": CONV}, "an encoder alone"),
    "other": ({"some.thing": CONV}, r"one tensor, some\.thing"),
    "video": ({"decoder.conv_in.weight": CONV, "decoder.conv_out.weight": torch.zeros(3, 4, 1, 3, 3)}, "Video"),
    "nothing": ({}, "without tensors"),
    "stub": ({"decoder.conv_in.weight": CONV}, r"decoder\.conv_out\.weight.*missing"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_refuses_other_models(kind, tmp_path):
    tensors, message = FOREIGN[kind]
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"other\.safetensors.*{message}"):
        read(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.safetensors", None, "there is none"),
        ("empty.safetensors", b"", "empty"),
        ("page.ckpt", b"<!DOCTYPE html><html>", "web page"),
        ("pointer.ckpt", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        ("picture.pt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a picture"),
        ("plain.zip", b"PK\x05\x06" + bytes(18), "neither"),
        ("cut.ckpt", b"PK\x03\x04" + bytes(99), "cannot be read"),
    ],
)
def test_refuses_other_files(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}.*{message}"):
        read(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_refuses_cut_safetensors(share, tmp_path, tiny):
    path = tmp_path / "a.safetensors"
    save(tiny, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="cut short"):
        read(path)


def test_refuses_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors"):
        read(tmp_path)


def test_names_missing_unexpected_and_misshapen_tensors(tmp_path, tiny):
    state = paper_names(tiny.state_dict())
    del state["decoder.norm_out.weight"], state["quant_conv.bias"]
    state["decoder.up.0.attn.0.q.weight"] = torch.zeros(1)
    state["decoder.mid.block_1.norm1.bias"] = torch.zeros(7)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "2 missing (" in message
    assert "decoder.norm_out.weight" in message
    assert "1 unexpected (decoder.up.0.attn.0.q.weight)" in message
    assert "decoder.mid.block_1.norm1.bias: expected (64,), got (7,)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_refuses_weights_that_are_not_finite(value, dtype, tmp_path, tiny):
    state = {name: tensor.to(dtype) for name, tensor in paper_names(tiny.state_dict()).items()}
    state["decoder.conv_in.bias"][3] = value
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"finite.*decoder\.conv_in\.bias"):
        read(tmp_path / "a.safetensors")


def test_large_finite_weights_are_fine(tmp_path, tiny):
    state = paper_names(tiny.state_dict())
    state["decoder.conv_in.bias"][:] = 3e38
    save_file(state, tmp_path / "a.safetensors")
    assert read(tmp_path / "a.safetensors").layout is Layout.PAPER


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_refuses_quantised_weights(dtype, tmp_path, tiny):
    state = paper_names(tiny.state_dict())
    state["decoder.conv_in.weight"] = state["decoder.conv_in.weight"].to(dtype)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder\.conv_in\.weight is torch"):
        read(tmp_path / "a.safetensors")
