"""A small VAE, pictures and a recipe that several test files here train with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.grow import grown_config
from asymvq.training.data import Pictures
from asymvq.training.loop import Training
from asymvq.training.recipe import Recipe

STOCK = AutoencoderConfig(
    decoder_channels=(8, 16),
    decoder_blocks=1,
    encoder_channels=(8, 16),
    encoder_blocks=1,
    condition=None,
    norm_groups=4,
)
TINY = Recipe(
    steps=6,
    batch=2,
    crop=16,
    crop_scale=(0.4, 1.0),
    lpips=0.0,
    lr=1e-3,
    warm_up=2,
    harmonise=0.5,
    unconditioned=0.5,
    measured=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Pictures of every kind that artists have lying about."""
    path = tmp_path_factory.mktemp("pictures")
    (path / "below").mkdir()
    rng = np.random.default_rng(0)

    def pixels(*shape: int) -> np.ndarray:
        smooth = rng.uniform(0, 255, (4, 5, *shape[2:]))
        return np.kron(smooth, np.ones((8, 8) + (1,) * (len(shape) - 2)))[: shape[0], : shape[1]].astype(np.uint8)

    Image.fromarray(pixels(32, 40, 3)).save(path / "colour.png")
    Image.fromarray(pixels(32, 40, 3)).save(path / "below" / "photo.jpg")
    Image.fromarray(pixels(32, 40)).save(path / "grey.png")
    Image.fromarray(pixels(32, 40, 4)).save(path / "alpha.png")
    Image.fromarray(pixels(32, 40, 3)).convert("CMYK").save(path / "print.tiff")
    Image.fromarray(pixels(32, 40).astype(np.uint16) * 257).save(path / "deep.png")
    Image.fromarray(pixels(12, 40, 3)).save(path / "small.png")
    (path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    (path / "notes.txt").write_text("not a picture")
    return path


@pytest.fixture(scope="module")
def pictures(folder) -> Pictures:
    return Pictures.from_folder(folder, crop=TINY.crop, crop_scale=TINY.crop_scale)


@pytest.fixture
def vae(make_vae) -> AsymmetricAutoencoder:
    return make_vae(STOCK)


def training(vae, pictures, out: Path, recipe: Recipe = TINY, preset: str = "base", **options) -> Training:
    return Training(vae, grown_config(vae.config, preset), pictures, recipe, out=out, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return asymvq.load(path).state_dict()


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture
def vae_file(vae, tmp_path) -> Path:
    path = tmp_path / "stock.safetensors"
    asymvq.save(vae, path)
    return path
