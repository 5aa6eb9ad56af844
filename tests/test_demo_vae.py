"""The bundled VAE keeps what it promises, on the bundled photos, which it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

import asymvq
from asymvq.masks import random_thick_mask
from asymvq.metrics import kept_error, masked_error
from asymvq.pictures import read_picture

ASSETS = Path(asymvq.__file__).parent / "assets"


@pytest.fixture(scope="module")
def vae():
    return asymvq.load(ASSETS / "demo.safetensors")


def test_is_a_small_kl_vae_with_a_condition(vae):
    assert (ASSETS / "demo.safetensors").stat().st_size <= 12_000_000
    assert (vae.config.factor, vae.config.latent_channels) == (8, 4)
    assert vae.config.condition is not None
    assert vae.config.encoder_channels is not None


@pytest.mark.parametrize("name", ["picture", "example"])
@torch.inference_mode()
def test_kept_pixels_are_as_good_as_the_papers_base_and_100_times_better_than_without(vae, name):
    image = read_picture(ASSETS / f"{name}.png")[..., :256, :256]
    mask = random_thick_mask(256, 256, np.random.default_rng(0))[None]
    latent = vae.encode(image)
    plain = asymvq.decode(vae, latent)
    conditional = asymvq.decode(vae, latent, image=image, mask=mask, keep="network")
    assert kept_error(conditional, image, mask) <= 5.7e-5
    assert kept_error(conditional, image, mask) <= kept_error(plain, image, mask) / 100
    assert masked_error(plain, image, mask) < 0.1  # it draws the picture, not noise
