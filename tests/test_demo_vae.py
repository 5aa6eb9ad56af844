"""The bundled VAE keeps what it promises, on the bundled photos, which it was not trained on."""

from pathlib import Path

import numpy as np
import pytest
import torch

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.cli.demo import edit
from asymvq.config import ConditionKind
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, kept_error, masked_error, psnr, seam_error
from asymvq.pictures import cover, read_mask, read_picture

ASSETS = Path(asymvq.__file__).parent / "assets"
SIZE = 256


@pytest.fixture(scope="module")
def vae() -> AsymmetricAutoencoder:
    return asymvq.load(ASSETS / "demo.safetensors", dtype=torch.float32)


@pytest.fixture(scope="module", params=["picture", "example", "picture under the demo's mask"])
def case(request: pytest.FixtureRequest, vae: AsymmetricAutoencoder):
    """Image, mask and decodes: pasted, plain and harmonised, conditional and harmonised."""
    if request.param in ("picture", "example"):
        image = read_picture(ASSETS / f"{request.param}.png")[..., :SIZE, :SIZE]
        mask = random_thick_mask(SIZE, SIZE, np.random.default_rng(0))[None]
    else:
        image = cover(read_picture(ASSETS / "picture.png"), (SIZE, SIZE))
        mask = cover(read_mask(ASSETS / "mask.png"), (SIZE, SIZE)).round()
    latent = vae.encode(image)
    plain = asymvq.decode(vae, latent)
    harmonised = asymvq.harmonise(plain, image=image, mask=mask)
    pasted, harmonised = (torch.where(mask > 0, decoded, image) for decoded in (plain, harmonised))
    conditional = asymvq.decode(vae, latent, image=image, mask=mask, harmonise=1.0)
    return image, mask, plain, pasted, harmonised, conditional


def test_is_a_small_kl_vae_with_a_condition(vae: AsymmetricAutoencoder):
    assert (ASSETS / "demo.safetensors").stat().st_size <= 8_000_000
    assert (vae.config.factor, vae.config.latent_channels) == (8, 4)
    assert vae.config.condition is not None
    assert vae.config.condition.kind is ConditionKind.AFFINE
    assert vae.config.condition.sees_errors
    assert vae.config.condition.in_blocks
    assert vae.config.condition.errors_fade
    assert vae.config.condition.fits_errors
    assert vae.config.encoder_channels is not None


def test_draws_the_picture(case):
    image, _, plain, *_ = case
    assert psnr(plain, image) > 23


def test_the_conditional_decode_harmonised_is_better_than_pasting_and_than_harmonising_alone(case):
    image, mask, _, pasted, harmonised, conditional = case
    for error, than_pasted, than_harmonised in (
        (masked_error, 0.9, 0.99), (border_error, 0.9, 0.96), (seam_error, 0.95, 1.02)
    ):  # fmt: skip
        found = error(conditional, image, mask)
        assert found < than_pasted * error(pasted, image, mask)
        assert found < than_harmonised * error(harmonised, image, mask)


def test_what_was_there_does_not_come_back(vae):
    """The demo's own edit: a bright background becomes a dark sea, by a hard cut in the latent."""
    picture, example, mask = (read(ASSETS / name) for read, name in (
        (read_picture, "picture.png"), (read_picture, "example.png"), (read_mask, "mask.png")
    ))  # fmt: skip
    image, example, mask = (cover(one, (SIZE, SIZE)) for one in (picture, example, mask))
    truth, mask = torch.where(mask > 0.5, example, image), mask.round()
    latent = edit(vae, image, example, mask)
    pasted = torch.where(mask > 0, asymvq.decode(vae, latent), image)
    conditional = asymvq.decode(vae, latent, image=image, mask=mask)
    for error, most in ((masked_error, 1.0), (border_error, 0.95), (seam_error, 1.03)):
        assert error(conditional, truth, mask) < most * error(pasted, truth, mask)


def test_kept_pixels_are_the_sources_own(case):
    image, mask, plain, *_, conditional = case
    assert kept_error(plain, image, mask) > 0.001
    assert kept_error(conditional, image, mask) == 0
