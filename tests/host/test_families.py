"""Every family of autoencoders against the host's own classes: the same latents and pictures from the same weights."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from test_families import FLUX2, assert_same, built, picture, shaken

import asymvq
from asymvq.autoencoders import AutoencoderConfig, kl, tiny, wan

from .test_stock_vaes import kl_tensors, stock, wan_tensors

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


# Our loader's VAE in the host's stock nodes


def flux2_files(folder):
    tensors = kl_tensors(z_channels=32, batch_norm_latent=True)
    torch.save({name: t.half().contiguous().clone() for name, t in tensors.items()}, folder / "flux2.ckpt")
    return {"vae_name": "flux2.ckpt"}


def small_decoder_files(folder):
    config = AutoencoderConfig(
        latent_channels=128, decoder_channels=(32, 32, 32, 64), decoder_blocks=2, condition=None, latent_packing=2,
        encoder_channels=(32, 64, 64, 64), encoder_blocks=1,
    )  # fmt: skip
    tensors = kl.write(built(config).state_dict(), config, "stock LDM")[0]
    torch.save(tensors, folder / "whole.ckpt")
    inside = ("decoder.", "post_quant_conv.")
    small = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith(inside)}
    torch.save(small, folder / "small_decoder.ckpt")
    return {"vae_name": "small_decoder.ckpt", "base_vae": "whole.ckpt"}


def wan_files(folder):
    torch.save(wan_tensors(), folder / "wan_2.1_vae.ckpt")
    return {"vae_name": "wan_2.1_vae.ckpt"}


def wan_diffusers_files(folder):
    torch.save(wan.write(built(WAN).state_dict(), WAN, "Wan diffusers")[0], folder / "wan_diffusers.ckpt")
    return {"vae_name": "wan_diffusers.ckpt"}


def tiny_files(folder):
    config = tiny.Config(latent_channels=128, latent_packing=2, pooled=True)
    small = folder.parent / "vae_approx"
    for part in ("encoder", "decoder"):
        small.mkdir(exist_ok=True)
        torch.save(tiny.write(built(config).state_dict(), config, f"TAESD {part}")[0], small / f"taef2_{part}.pth")
    return {"vae_name": "vae_approx/taef2_decoder.pth", "base_vae": "vae_approx/taef2_encoder.pth"}


FILES = {
    "FLUX.2": (flux2_files, (128, 4, 6)),
    "FLUX.2, small decoder": (small_decoder_files, (128, 4, 6)),
    "Wan": (wan_files, (16, 1, 8, 12)),
    "Wan, diffusers": (wan_diffusers_files, (16, 1, 8, 12)),
    "TAEF2": (tiny_files, (128, 4, 6)),
}
STOCK = ("FLUX.2", "Wan")
"""What the host's own loader takes too."""


@pytest.fixture(scope="module", params=FILES)
def case(host, request):
    """Name, what the loader was given, our VAE, and the shape of one picture's latent."""
    write, shape = FILES[request.param]
    inputs = write(host.base / "models" / "vae")
    vae = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"].execute(**inputs, dtype="fp32").args[0]
    return request.param, inputs, vae, shape


def a_picture(count=1):
    return torch.rand(count, 64, 96, 3, generator=torch.Generator().manual_seed(3))


def stock_vae(host, name, inputs):
    if name not in STOCK:
        return None
    vae = stock(host, "VAELoader", vae_name=inputs["vae_name"])
    vae.first_stage_model.float()
    vae.vae_dtype = torch.float32
    return vae


def test_encoding_and_decoding_in_stock_nodes(host, case):
    name, inputs, vae, shape = case
    theirs = stock_vae(host, name, inputs)
    latent = stock(host, "VAEEncode", pixels=a_picture(), vae=vae)
    assert latent["samples"].shape == (1, *shape)
    decoded = stock(host, "VAEDecode", samples=latent, vae=vae)
    assert decoded.shape == (1, 64, 96, 3)
    if theirs is not None:
        expected = stock(host, "VAEEncode", pixels=a_picture(), vae=theirs)
        assert_same(latent["samples"], expected["samples"])
        assert_same(decoded, stock(host, "VAEDecode", samples=expected, vae=theirs))
    several = stock(host, "VAEEncode", pixels=a_picture(3), vae=vae)
    assert several["samples"].shape == (3, *shape)
    assert stock(host, "VAEDecode", samples=several, vae=vae).shape == (3, 64, 96, 3)


def test_tiles_in_stock_nodes(host, case):
    _, _, vae, shape = case
    tiled = stock(host, "VAEEncodeTiled", pixels=a_picture(), vae=vae, tile_size=64, overlap=16)
    assert tiled["samples"].shape == (1, *shape)
    for samples in (tiled, {"samples": tiled["samples"].reshape(1, shape[0], *shape[-2:])}):
        decoded = stock(host, "VAEDecodeTiled", samples=samples, vae=vae, tile_size=64, overlap=16)
        assert decoded.shape == (1, 64, 96, 3)


def test_inpaint_conditioning(host, case):
    _, _, vae, shape = case
    cls = host.nodes.NODE_CLASS_MAPPINGS["InpaintModelConditioning"]
    mask = torch.zeros(1, 64, 96)
    mask[:, 10:30, 20:50] = 1
    with torch.inference_mode():
        positive, _, latent = cls().encode(
            positive=[[torch.zeros(1), {}]], negative=[[torch.zeros(1), {}]], pixels=a_picture(), vae=vae, mask=mask
        )
    assert latent["samples"].shape == (1, *shape)
    assert positive[0][1]["concat_latent_image"].shape == (1, *shape)


def test_our_decode_takes_the_latent(host, case):
    _, _, vae, _ = case
    image, mask = a_picture(), torch.zeros(1, 64, 96)
    mask[:, 10:30, 20:50] = 1
    latent = stock(host, "VAEEncode", pixels=image, vae=vae)
    node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQDecode"]
    with torch.inference_mode():
        result = node.execute(samples=latent, vae=vae, image=image, mask=mask, keep="exact").args[0]
        plain = node.execute(samples=latent, vae=vae).args[0]
    assert torch.equal(result[:, 40:], image[:, 40:])
    assert torch.allclose(result[:, 12:28, 22:48], plain[:, 12:28, 22:48], atol=0.05)
    assert not torch.equal(plain, image)


def test_saved_and_read_back(host, case):
    name, _, vae, _ = case
    host.nodes.NODE_CLASS_MAPPINGS["VAESave"]().save(vae=vae, filename_prefix=f"vae/{name}")
    saved = max((host.base / "output" / "vae").glob(f"{name}_*.safetensors"))
    again = asymvq.load(saved)
    assert again.config.to_dict() == vae.config.to_dict()
    state = vae.first_stage_model.state_dict()
    assert all(torch.equal(tensor, state[key].cpu()) for key, tensor in again.state_dict().items())
    node = host.nodes.NODE_CLASS_MAPPINGS["AsymVQSave"]
    path = node.execute(vae=vae, filename_prefix=f"vae/{name}", layout="original").args[0]
    assert asymvq.load(path).config.to_dict() == vae.config.to_dict()


def test_several_frames_are_refused_where_a_picture_is_decoded(host, case):
    _, _, vae, shape = case
    video = torch.zeros(1, shape[0], 3, *shape[-2:])
    for node, more in (("VAEDecode", {}), ("VAEDecodeTiled", {"tile_size": 512, "overlap": 64})):
        with pytest.raises(ValueError, match=r"3 frames.*Load VAE"):
            stock(host, node, samples={"samples": video}, vae=vae, **more)
    with pytest.raises(ValueError, match="3 frames"):
        host.nodes.NODE_CLASS_MAPPINGS["AsymVQDecode"].execute(samples={"samples": video}, vae=vae)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision(host, case, dtype):
    _, inputs, reference, _ = case
    image = a_picture()
    if dtype == "fp16":  # in which a CPU's convolutions take hundreds of times as long
        image = image[:, :16, :16]
    latent = stock(host, "VAEEncode", pixels=image, vae=reference)
    expected = stock(host, "VAEDecode", samples=latent, vae=reference)
    vae = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"].execute(**inputs, dtype=dtype).args[0]
    decoded = stock(host, "VAEDecode", samples=latent, vae=vae)
    assert (decoded.float() - expected).abs().mean() < 0.02
