"""A VAE that half precision cannot compute, in every node of the host that runs one: no black pictures, no NaN."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import asymvq
from asymvq.autoencoders import AutoencoderConfig

CONFIG = AutoencoderConfig(
    decoder_channels=(8, 8, 16, 16), decoder_blocks=1, encoder_channels=(8, 8, 16, 16), encoder_blocks=1, norm_groups=4
)
HEIGHT, WIDTH = 144, 192


def write_vae(host: SimpleNamespace, name: str, scale: float) -> None:
    torch.manual_seed(0)
    vae = asymvq.AsymmetricAutoencoder(CONFIG).eval().requires_grad_(False)
    # beyond float16's 65 504 behind this layer; the next GroupNorm takes the scale out again
    for part in (vae.encoder, vae.decoder):
        part.conv_in.weight.mul_(scale / part.conv_in.weight.abs().max())
    asymvq.save(vae, host.base / "models" / "vae" / name)


@pytest.fixture(scope="module", params=[6e4, 2e5], ids=["features overflow", "weights overflow"])
def vaes(request, host):
    """The same VAE in float32 and in float16."""
    write_vae(host, "overflow.safetensors", request.param)
    loader = host.nodes.NODE_CLASS_MAPPINGS["AsymVQLoader"]
    with torch.inference_mode():
        return [loader.execute(vae_name="overflow.safetensors", dtype=dtype).args[0] for dtype in ("fp32", "fp16")]


@pytest.fixture
def case(vaes):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(2, HEIGHT, WIDTH, 3, generator=generator)
    mask = torch.zeros(1, HEIGHT, WIDTH)
    mask[:, 30:90, 40:130] = 1
    return {"image": image, "mask": mask, "samples": {"samples": 8 * vaes[0].encode(image)}}


def run(host, node: str, **inputs):
    cls = host.nodes.NODE_CLASS_MAPPINGS[node]
    with torch.inference_mode():
        output = cls.execute(**inputs) if hasattr(cls, "define_schema") else getattr(cls(), cls.FUNCTION)(**inputs)
    return getattr(output, "args", output)


def conditioning(output):
    positive, _, latent = output
    return torch.cat([positive[0][1]["concat_latent_image"], latent["samples"]])


TILES = {"tile_size": 64, "overlap": 16, "temporal_size": 64, "temporal_overlap": 8}
NODES = {
    "VAEEncode": lambda host, vae, image, mask, samples: run(host, "VAEEncode", vae=vae, pixels=image)[0]["samples"],
    "VAEEncodeTiled": lambda host, vae, image, mask, samples: run(
        host, "VAEEncodeTiled", vae=vae, pixels=image, **TILES
    )[0]["samples"],
    "VAEEncodeForInpaint": lambda host, vae, image, mask, samples: run(
        host, "VAEEncodeForInpaint", vae=vae, pixels=image, mask=mask
    )[0]["samples"],
    "InpaintModelConditioning": lambda host, vae, image, mask, samples: conditioning(
        run(
            host,
            "InpaintModelConditioning",
            positive=[[torch.zeros(1), {}]],
            negative=[[torch.zeros(1), {}]],
            vae=vae,
            pixels=image,
            mask=mask,
        )
    ),
    "VAEDecode": lambda host, vae, image, mask, samples: run(host, "VAEDecode", vae=vae, samples=samples)[0],
    "VAEDecodeTiled": lambda host, vae, image, mask, samples: run(
        host, "VAEDecodeTiled", vae=vae, samples=samples, **TILES
    )[0],
    "AsymVQDecode": lambda host, vae, image, mask, samples: run(
        host, "AsymVQDecode", vae=vae, samples=samples, image=image, mask=mask, keep="network"
    )[0],
}


@torch.inference_mode()
@pytest.mark.parametrize("name", NODES)
def test_every_node_gives_what_float32_gives(name, host, vaes, case, caplog):
    expected, output = (NODES[name](host, vae, **case) for vae in vaes)
    assert expected.std() > 0.01
    assert torch.isfinite(output).all()
    assert (output - expected).abs().mean() < 0.02 * expected.std()
    if vaes[1].vae_dtype == torch.float16:
        assert ("decoding" if "Decode" in name else "encoding") + " again in float32" in caplog.text


@torch.inference_mode()
def test_the_stock_fallback_to_tiles_is_rescued(host, vaes, case, monkeypatch):
    """Where the host runs out of memory it encodes in tiles by itself."""
    expected = vaes[0].encode_tiled(case["image"])
    vae, whole = vaes[1], host.pack("asymvq.autoencoder").AsymmetricAutoencoder.encode

    def limited(model, image):
        if image.shape[0] > 1:
            raise torch.cuda.OutOfMemoryError("pretended limit")
        return whole(model, image)

    monkeypatch.setattr(type(vae.first_stage_model), "encode", limited)
    output = vae.encode(case["image"])
    assert (output - expected).abs().mean() < 0.02 * expected.std()


def test_numbers_that_nothing_rescues_are_an_error(host, vaes, case):
    broken = torch.full_like(case["image"], float("nan"))
    with pytest.raises(ValueError, match="Expected a finite image"):
        run(host, "VAEEncode", vae=vaes[1], pixels=broken)
    samples = {"samples": torch.full_like(case["samples"]["samples"], float("nan"))}
    for node, options in (("VAEDecode", {}), ("VAEDecodeTiled", TILES)):
        with pytest.raises(ValueError, match="Expected a finite latent"):
            run(host, node, vae=vaes[1], samples=samples, **options)
