"""The same pictures as the peers, from the same weights."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from asymvq.autoencoders import PRESETS, AutoencoderConfig
from asymvq.checkpoint import Layout, build, load, read, save, with_encoder
from asymvq.config import ConditionConfig, MaskReduction

diffusers = pytest.importorskip("diffusers")

TOLERANCE = 1e-4
SIZES = [(64, 64), (96, 160)]
SMALL_SIZES = [(32, 32), (40, 24)]
"""For decoders of full width."""
TINY = AutoencoderConfig(
    decoder_channels=(32, 64, 96, 96), decoder_blocks=2, encoder_channels=(32, 32, 64, 64), encoder_blocks=1
)
ASUKA = AutoencoderConfig(
    latent_channels=16,
    decoder_channels=(32, 64, 96, 96),
    decoder_blocks=2,
    encoder_channels=(32, 64, 96, 96),
    encoder_blocks=1,
    condition=ConditionConfig(sees_mask=True, mask_reduction=MaskReduction.ANY),
    quant_conv=False,
    post_quant_conv=False,
)


def diffusers_model(config: AutoencoderConfig):
    torch.manual_seed(0)
    return diffusers.AsymmetricAutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        down_block_out_channels=config.encoder_channels,
        layers_per_down_block=config.encoder_blocks,
        up_block_types=("UpDecoderBlock2D",) * 4,
        up_block_out_channels=config.decoder_channels,
        layers_per_up_block=config.decoder_blocks - 1,
        latent_channels=config.latent_channels,
    ).eval()


def assert_close(got, expected):
    assert got.shape == expected.shape
    assert expected.std() > 1e-3, "a constant picture proves nothing"
    assert (got - expected).abs().max() <= TOLERANCE


@torch.inference_mode()
def test_tiny_agrees_with_diffusers(tmp_path, blob_mask, shake_norms):
    peer = diffusers_model(TINY)
    shake_norms(peer)
    peer.save_pretrained(tmp_path)
    vae = load(tmp_path)
    assert vae.config == TINY
    for height, width in SIZES:
        image = torch.rand(2, 3, height, width) * 2 - 1
        mask = blob_mask(height, width).expand(2, -1, -1, -1)
        latent = vae.encode(image)
        assert_close(latent, peer.encode(image).latent_dist.mode())
        plain = vae.decode(latent)
        conditional = vae.decode(latent, image=image, mask=mask)
        assert_close(plain, peer.decode(latent).sample)
        assert_close(conditional, peer.decode(latent, image=image, mask=mask).sample)
        assert (plain - conditional).abs().max() > 1e-2


@pytest.mark.parametrize("name", PRESETS)
@torch.inference_mode()
def test_presets_agree_with_diffusers(name, tmp_path, blob_mask):
    peer = diffusers_model(PRESETS[name])
    peer.save_pretrained(tmp_path)
    checkpoint = read(tmp_path)
    assert checkpoint.layout is Layout.DIFFUSERS
    assert checkpoint.config == PRESETS[name]
    vae = build(checkpoint)
    for height, width in SMALL_SIZES:
        image, mask = torch.rand(1, 3, height, width) * 2 - 1, blob_mask(height, width)
        latent = torch.randn(1, 4, height // 8, width // 8)
        for condition in ({}, {"image": image, "mask": mask}):
            assert_close(vae.decode(latent, **condition), peer.decode(latent, **condition).sample)


@pytest.mark.parametrize("quant_conv", [True, False], ids=["4 channels", "16 channels"])
@pytest.mark.parametrize("layout", [Layout.STOCK_DIFFUSERS, Layout.STOCK_LDM])
@torch.inference_mode()
def test_stock_agrees_with_diffusers(layout, quant_conv, tmp_path, shake_norms):
    torch.manual_seed(0)
    peer = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(32, 64, 96),
        layers_per_block=2,
        latent_channels=4 if quant_conv else 16,
        use_quant_conv=quant_conv,
        use_post_quant_conv=quant_conv,
    ).eval()
    shake_norms(peer)
    path = tmp_path / "vae"
    if layout is Layout.STOCK_DIFFUSERS:
        peer.save_pretrained(path)
    else:
        path = tmp_path / "vae.ckpt"
        torch.save({"state_dict": {f"first_stage_model.{k}": v for k, v in ldm_names(peer.state_dict()).items()}}, path)
    checkpoint = read(path)
    assert checkpoint.layout is layout
    assert checkpoint.config.condition is None
    assert checkpoint.config.quant_conv is checkpoint.config.post_quant_conv is quant_conv
    vae = build(checkpoint)
    image = torch.rand(1, 3, 48, 64) * 2 - 1
    latent = vae.encode(image)
    assert_close(latent, peer.encode(image).latent_dist.mode())
    assert_close(vae.decode(latent), peer.decode(latent).sample)


def ldm_names(state):
    """diffusers' names to LDM's, spelled out here a second time."""
    levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks."))
    renamed = {}
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[1] == "up_blocks":
            parts[1:3] = ["up", str(levels - 1 - int(parts[2]))]
        elif parts[1] == "down_blocks":
            parts[1] = "down"
        elif parts[1] == "mid_block" and parts[2] == "resnets":
            parts[1:4] = ["mid", f"block_{int(parts[3]) + 1}"]
        elif parts[1] == "mid_block":
            attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
            parts[1:5] = ["mid", "attn_1", attention[parts[4]]]
            parts = [part for part in parts if part != "0"]
            tensor = tensor[..., None, None] if tensor.ndim == 2 else tensor
        if "resnets" in parts:
            parts[parts.index("resnets")] = "block"
        for old, new in (("upsamplers", "upsample"), ("downsamplers", "downsample")):
            if old in parts:
                at = parts.index(old)
                parts[at : at + 2] = [new]
        final = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut"}
        renamed[".".join(final.get(part, part) for part in parts)] = tensor
    return renamed


def asuka_reference(state, latent, image, mask):
    """ASUKA's decoder as plain functions of its raw state dict."""

    def conv(name, x, **how):
        return F.conv2d(x, state[f"decoder.{name}.weight"], state[f"decoder.{name}.bias"], **how)

    def norm(name, x):
        return F.group_norm(x, 32, state[f"decoder.{name}.weight"], state[f"decoder.{name}.bias"], eps=1e-6)

    def swish(x):
        return x * torch.sigmoid(x)

    def resnet(name, x):
        h = conv(f"{name}.conv1", swish(norm(f"{name}.norm1", x)), padding=1)
        h = conv(f"{name}.conv2", swish(norm(f"{name}.norm2", h)), padding=1)
        skip = f"{name}.nin_shortcut"
        return h + (conv(skip, x) if f"decoder.{skip}.weight" in state else x)

    maps, x = [], torch.cat([(1 - mask) * image, mask], dim=1)
    for i in range(5):
        x = conv(f"encoder.layers.{i}", x, padding=1, stride=1 if i < 2 else 2)
        maps.append(x)
        x = x.relu()

    h = resnet("mid.block_1", conv("conv_in", latent, padding=1))
    normed = norm("mid.attn_1.norm", h)
    q, k, v = (conv(f"mid.attn_1.{name}", normed).flatten(2) for name in "qkv")
    weights = torch.softmax(q.transpose(1, 2) @ k / q.shape[1] ** 0.5, dim=-1)
    h = h + conv("mid.attn_1.proj_out", (v @ weights.transpose(1, 2)).view_as(h))
    h = resnet("mid.block_2", h)
    for level in (3, 2, 1, 0):
        reduced = (F.interpolate(mask, size=h.shape[-2:], mode="area") > 0).float()
        h = h * reduced + maps[level + 1] * (1 - reduced)
        for block in range(2):
            h = resnet(f"up.{level}.block.{block}", h)
        if level:
            h = conv(f"up.{level}.upsample.conv", F.interpolate(h, scale_factor=2.0, mode="nearest"), padding=1)
    h = h * mask + maps[0] * (1 - mask)
    return conv("conv_out", swish(norm("norm_out", h)), padding=1)


@pytest.mark.parametrize("has_encoder", [True, False])
@torch.inference_mode()
def test_asuka_agrees_with_a_plain_reference(has_encoder, tmp_path, make_vae, blob_mask):
    state = {
        name.replace("decoder.condition_encoder.", "decoder.encoder."): tensor
        for name, tensor in make_vae(ASUKA).state_dict().items()
        if has_encoder or not name.startswith("encoder.")
    }
    junk = {
        "decoder.encoder_up_layers.0.deconv.weight": torch.zeros(4, 4),
        "loss.discriminator.main.0.bias": torch.ones(3),
    }
    torch.save({"state_dict": state | junk, "epoch": 3}, tmp_path / "asuka_decoder.ckpt")
    checkpoint = read(tmp_path / "asuka_decoder.ckpt")
    assert checkpoint.layout is Layout.ASUKA
    assert checkpoint.config.condition == ASUKA.condition
    assert (checkpoint.config.encoder_channels is not None) is has_encoder
    vae = build(checkpoint)
    for height, width in SIZES:
        image, mask = torch.rand(1, 3, height, width) * 2 - 1, blob_mask(height, width)
        latent = torch.randn(1, 16, height // 8, width // 8)
        expected = asuka_reference(state, latent, image, mask)
        assert_close(vae.decode(latent, image=image, mask=mask), expected)


@torch.inference_mode()
def test_decoder_takes_the_encoder_of_its_vae(tmp_path, make_vae):
    whole = make_vae(ASUKA)
    save(whole, tmp_path / "whole.safetensors")
    alone = copy.deepcopy(whole)
    alone.encoder = None
    alone.config = AutoencoderConfig.from_dict(ASUKA.to_dict() | {"encoder_channels": None})
    save(alone, tmp_path / "decoder.safetensors")
    joined = with_encoder(read(tmp_path / "decoder.safetensors"), read(tmp_path / "whole.safetensors"))
    assert joined.config == ASUKA
    image = torch.rand(1, 3, 32, 48) * 2 - 1
    assert torch.equal(build(joined).encode(image), whole.encode(image))
