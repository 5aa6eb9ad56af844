"""Encoding whole, in tiles, and where memory runs out."""

from __future__ import annotations

import logging
import sys

import pytest
import torch
from PIL import Image

import asymvq
from asymvq.cli import main
from asymvq.pictures import read_picture

CONFIG = asymvq.AutoencoderConfig(
    decoder_channels=(8, 16), decoder_blocks=1, encoder_channels=(8, 16), encoder_blocks=1, norm_groups=4,
    condition=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def vae() -> asymvq.AsymmetricAutoencoder:
    torch.manual_seed(0)
    return asymvq.AsymmetricAutoencoder(CONFIG).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 9, 12, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(144, 192), mode="bilinear").contiguous()


def test_the_whole_is_the_networks(vae, image):
    assert torch.equal(asymvq.encode(vae, image), vae.encode(image))
    pixels = image.add(1).mul(127.5).round().byte()
    assert torch.equal(asymvq.encode(vae, pixels), vae.encode(pixels))


def test_tiles_are_near_the_whole(vae, image):
    seen: list[tuple[int, int]] = []
    whole = vae.encode(image)
    tiled = asymvq.encode(vae, image, tile=96, progress=lambda done, total: seen.append((done, total)))
    assert tiled.shape == whole.shape
    error = (tiled - whole).abs().mean() / whole.std()
    assert 0 < error < 0.25
    assert seen[-1] == (6, 6)
    assert torch.equal(asymvq.encode(vae, image, tile=192), whole)


class Small(asymvq.AsymmetricAutoencoder):
    """Encodes no more than so many pixels at once."""

    def __init__(self, pixels: int) -> None:
        super().__init__(CONFIG)
        self.pixels, self.at_once, self.sizes = pixels, 1000, list[int]()

    def encode(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append(max(image.shape[-2:]))
        if image.shape[-2] * image.shape[-1] > self.pixels or len(image) > self.at_once:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return super().encode(image)


def test_where_memory_runs_out_tiles_become_smaller(caplog):
    large, small = torch.rand(1, 3, 520, 640) * 2 - 1, Small(300 * 300)
    with caplog.at_level(logging.WARNING):
        latent = asymvq.encode(small, large)
    assert latent.shape == (1, 4, 260, 320)
    assert small.sizes[:3] == [640, 512, 256]
    assert "tiles of 256 pixels" in caplog.text
    with pytest.raises(RuntimeError, match="allocate memory"):
        asymvq.encode(Small(100 * 100), large)
    with pytest.raises(RuntimeError, match="allocate memory"):
        asymvq.encode(small, large, smaller_tiles=False)


def test_pictures_go_one_by_one_before_tiles(caplog):
    small = Small(100 * 100)
    small.at_once = 1
    with caplog.at_level(logging.WARNING):
        latent = asymvq.encode(small, torch.rand(3, 3, 64, 96) * 2 - 1)
    assert latent.shape == (3, 4, 32, 48)
    assert small.sizes == [96] * 4
    assert caplog.messages == ["Out of memory while encoding 3 at once: trying again one by one."]


def test_what_would_not_fit_is_not_tried(caplog, monkeypatch):
    monkeypatch.setattr(sys.modules["asymvq.encode"], "available_memory", lambda device: 10_000_000)
    large, small = torch.zeros(1, 3, 64, 640), Small(10**9)
    with caplog.at_level(logging.WARNING):
        asymvq.encode(small, large)
    assert max(small.sizes) == 512
    assert "0.0 GB are free: it is encoded in tiles of 512 pixels" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tile": 1}, "a tile of at least 1"), ({"tile": 64, "overlap": 64}, "an overlap below it")],
)
def test_mistakes(vae, image, options, message):
    with pytest.raises(ValueError, match=message):
        asymvq.encode(vae, image, **options)


def test_sides_that_do_not_fit(vae):
    with pytest.raises(ValueError, match="multiples of"):
        asymvq.encode(vae, torch.zeros(1, 3, 65, 64), tile=32)


def test_command(vae, image, tmp_path):

    asymvq.save(vae, tmp_path / "vae.safetensors")
    Image.fromarray(image[0].add(1).mul(127.5).byte().permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    words = ["encode", "--vae", str(tmp_path / "vae.safetensors"), "--image", str(tmp_path / "a.png")]
    assert main([*words, "--out", str(tmp_path / "tiled.safetensors"), "--tile", "96"]) == 0
    assert main([*words, "--out", str(tmp_path / "whole.safetensors")]) == 0
    from safetensors.torch import load_file

    (tiled,), (whole,) = (load_file(tmp_path / f"{name}.safetensors").values() for name in ("tiled", "whole"))
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)


@torch.inference_mode()
def test_commands_compute_small_vaes_in_float32(vae, image, tmp_path):
    from safetensors.torch import load_file

    asymvq.save(vae, tmp_path / "half.safetensors", dtype=torch.float16)
    Image.fromarray(image[0].add(1).mul(127.5).byte().permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    half = asymvq.load(tmp_path / "half.safetensors", dtype=torch.float32)
    expected = half.encode(read_picture(tmp_path / "a.png"))
    words = ["encode", "--vae", str(tmp_path / "half.safetensors"), "--image", str(tmp_path / "a.png"), "--out"]
    for name, options in (("plain", []), ("asked", ["--dtype", "fp16"])):
        assert main([*words, str(tmp_path / f"{name}.safetensors"), *options]) == 0
    plain, asked = (next(iter(load_file(tmp_path / f"{name}.safetensors").values())) for name in ("plain", "asked"))
    torch.testing.assert_close(plain, expected, rtol=1e-5, atol=1e-5)
    assert (asked - expected).abs().max() > 1e-4
