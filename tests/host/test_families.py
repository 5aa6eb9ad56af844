"""Every family of autoencoders against the host's own classes: the same latents and pictures from the same weights."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from test_families import FLUX2, assert_same, built, picture, shaken

from asymvq.autoencoders import tiny, wan
from asymvq.config import AutoencoderConfig

WAN = wan.Config(decoder_channels=(16, 32, 64, 64), encoder_channels=(16, 32, 64, 64))
"""Of a width of its own; the rest the host takes for granted."""
TINY = {
    "taesdxl": tiny.Config(latent_scale=0.13025),
    "taesd3": tiny.Config(latent_channels=16, latent_scale=1.5305, latent_shift=0.0609),
    "taef2": tiny.Config(latent_channels=128, latent_packing=2, pooled=True),
}


def to_host(image):
    """(B, 3, H, W) in [-1, 1] to the host's (B, H, W, 3) in [0, 1]."""
    return image.movedim(1, -1) * 0.5 + 0.5


@pytest.mark.parametrize("cells", [(8, 8), (9, 7)], ids=str)
@torch.inference_mode()
def test_wan_is_the_hosts(host, cells):
    import comfy.sd

    vae = built(WAN)
    tensors, _ = wan.write(vae.state_dict(), WAN, "Wan")
    theirs = comfy.sd.VAE(sd=tensors, dtype=torch.float32)
    theirs.throw_exception_if_invalid()
    assert theirs.first_stage_model.state_dict().keys() == tensors.keys()
    assert theirs.latent_channels == WAN.latent_channels
    for image in picture(WAN, cells).split(1):
        latent = vae.encode(image)
        encoded = theirs.encode(to_host(image))
        assert encoded.shape == (1, *latent.shape[1:2], 1, *latent.shape[2:])
        assert_same(latent, encoded[:, :, 0].float())
        decoded = theirs.decode(encoded).reshape(1, *image.shape[-2:], 3)
        assert_same(to_host(vae.decode(latent)).clamp(0, 1), decoded.float())


@pytest.mark.parametrize("name", TINY)
@torch.inference_mode()
def test_tiny_autoencoders_are_the_hosts(host, name):
    import comfy.sd
    import comfy.taesd.taesd

    config = TINY[name]
    if config.pooled and "pool" not in inspect.getsource(comfy.taesd.taesd.Block):
        pytest.skip("ComfyUI knows TAEF2 from 0.21 on")
    vae = built(config)
    tensors, metadata = tiny.write(vae.state_dict(), config, "TAESD")
    # as the host's own loader gives it, which knows the number by the file's name
    metadata = {"tae_latent_channels": int(metadata["tae_latent_channels"])}
    theirs = comfy.sd.VAE(sd=dict(tensors), dtype=torch.float32, metadata=metadata)
    theirs.throw_exception_if_invalid()
    assert theirs.first_stage_model.state_dict().keys() == tensors.keys()
    image = picture(config, (10, 6))
    latent = vae.encode(image)
    assert_same(latent, theirs.first_stage_model.encode(image))
    assert_same(vae.decode(latent), theirs.first_stage_model.decode(latent))


@torch.inference_mode()
def test_flux2_is_the_hosts(host):
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = AutoencoderConfig(
        latent_channels=16, decoder_channels=(32, 64), decoder_blocks=2, encoder_channels=(32, 64), encoder_blocks=1,
        condition=None, latent_packing=2,
    )  # fmt: skip
    shape = {
        "double_z": True, "z_channels": 4, "resolution": 32, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2],
        "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0, "batch_norm_latent": True,
    }  # fmt: skip
    vae = built(config)
    state = {name.replace("codec.", "bn."): tensor for name, tensor in vae.state_dict().items()}
    theirs = AutoencoderKL(embed_dim=4, ddconfig=shape).eval()
    theirs.load_state_dict(state | {"bn.num_batches_tracked": torch.tensor(0)}, strict=True)
    image = picture(config, (10, 6))
    latent = vae.encode(image)
    assert latent.shape == (2, 16, 5, 3)
    assert_same(latent, theirs.encode(image))
    assert_same(vae.decode(latent), theirs.decode(latent))


def test_the_packing_is_what_the_host_says_of_flux2(host):
    import comfy.latent_formats

    latent_format = comfy.latent_formats.Flux2()
    config = tiny.Config(latent_channels=128, latent_packing=2, pooled=True)
    assert latent_format.latent_channels == config.latent_channels
    assert latent_format.spacial_downscale_ratio == config.factor
    latent = torch.randn(1, 128, 4, 6)
    assert torch.equal(latent_format.process_out(latent), latent)
    codec = built(dataclasses.replace(FLUX2, latent_channels=128)).codec
    assert torch.equal(built(config).codec.decode(latent), latent_format.latent_rgb_factors_reshape(latent))
    shaken(codec)
    torch.testing.assert_close(codec.encode(codec.decode(latent)), latent)
