"""The start that copies kept pixels, and the loss of symmetric VAEs."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.masks import random_thick_mask
from asymvq.metrics import kept_error
from asymvq.pictures import read_picture
from asymvq.training.copying import check_copying, hold_to_code, start_with_copying
from asymvq.training.step import autoencoder_loss

CONFIG = AutoencoderConfig(
    decoder_channels=(16, 32, 32),
    decoder_blocks=2,
    encoder_channels=(16, 16, 16),
    encoder_blocks=1,
    norm_groups=4,
)


@pytest.fixture
def vae() -> AsymmetricAutoencoder:
    torch.manual_seed(0)
    return AsymmetricAutoencoder(CONFIG)


@pytest.fixture
def photo(tmp_path):
    """Smooth colours with some texture, as a file."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:80, 0:120]
    picture = 128 + 80 * np.sin(x / 15)[..., None] * np.cos(y / 11 + np.arange(3)[:, None, None]).transpose(1, 2, 0)
    picture = (picture + rng.normal(0, 12, picture.shape)).clip(0, 255).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(picture).save(path)
    return path


def crops(photo, size: int) -> torch.Tensor:
    """(2, 3, size, size): two corners of the photo."""
    picture = read_picture(photo)[0]
    return torch.stack([picture[:, :size, :size], picture[:, -size:, -size:]])


def masks(size: int) -> torch.Tensor:
    rng = np.random.default_rng(2)
    return torch.stack([random_thick_mask(size, size, rng) for _ in range(2)])


class TestCopying:
    @torch.no_grad()
    def test_kept_pixels_are_copied_before_any_training(self, vae, photo):
        image = crops(photo, 64)
        mask = masks(64)
        untrained = vae.decode(vae.encode(image), image=image, mask=mask)
        start_with_copying(vae)
        copied = vae.decode(vae.encode(image), image=image, mask=mask)
        assert kept_error(untrained, image, mask) > 1e-2
        assert kept_error(copied, image, mask) < 1e-6

    def test_generated_pixels_can_still_be_learned(self, vae, photo):
        start_with_copying(vae)
        image, mask = crops(photo, 32), masks(32)
        optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
        losses = []
        for _ in range(40):
            output = vae.decode(vae.encode(image).detach(), image=image, mask=mask)
            loss = ((output - image).abs() * mask).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    @torch.no_grad()
    def test_the_copy_survives_training_where_generated_pixels_are_held_to_the_code(self, vae, photo):
        start_with_copying(vae)
        torch.manual_seed(1)
        for parameter in vae.decoder.up.parameters():  # as training would
            parameter += 0.03 * torch.randn_like(parameter)
        vae.decoder.up[0].block[-1].conv2.bias += 0.5
        image = crops(photo, 64)
        mask = masks(64)
        latent = vae.encode(image)
        drifted = vae.decode(latent, image=image, mask=mask)
        hold_to_code(vae)
        held = vae.decode(latent, image=image, mask=mask)
        assert kept_error(held, image, mask) < 1e-5 < kept_error(drifted, image, mask)
        weights = vae.decoder.up[0].block[1].conv2.weight.clone()
        hold_to_code(vae)
        torch.testing.assert_close(vae.decoder.up[0].block[1].conv2.weight, weights)
        assert held.std() > 0.01

    @torch.no_grad()
    def test_a_decoder_that_does_not_copy_is_told_apart(self, vae):
        with pytest.raises(ValueError, match="copies kept pixels"):
            check_copying(vae)
        start_with_copying(vae)
        check_copying(vae)

    def test_a_decoder_without_room_is_refused(self):
        with pytest.raises(ValueError, match="4 channels a group"):
            start_with_copying(AsymmetricAutoencoder(dataclasses.replace(CONFIG, norm_groups=8)))


class TestAutoencoderLoss:
    def test_a_symmetric_vae_learns_both_halves(self, photo):
        vae = AsymmetricAutoencoder(dataclasses.replace(CONFIG, condition=None))
        image = torch.rand(2, 3, 32, 32) * 2 - 1
        loss, log = autoencoder_loss(vae, image, kl_weight=1e-3)
        loss.backward()
        assert loss.item() == pytest.approx(log["l1"] + 1e-3 * log["kl"], rel=1e-5)
        assert vae.encoder.conv_in.weight.grad.any()
        assert vae.decoder.conv_in.weight.grad.any()
