"""The training step and the start that copies kept pixels."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.config import AutoencoderConfig
from asymvq.metrics import kept_error
from asymvq.training.copying import hold_to_code, start_with_copying
from asymvq.training.data import RandomCrops, random_masks
from asymvq.training.step import autoencoder_loss, decoder_loss

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


class TestCopying:
    @torch.no_grad()
    def test_kept_pixels_are_copied_before_any_training(self, vae, photo):
        image = RandomCrops([photo], size=64).batch(2, np.random.default_rng(1))
        mask = random_masks(2, 64, np.random.default_rng(2))
        untrained = vae.decode(vae.encode(image), image=image, mask=mask)
        start_with_copying(vae)
        copied = vae.decode(vae.encode(image), image=image, mask=mask)
        assert kept_error(untrained, image, mask) > 1e-2
        assert kept_error(copied, image, mask) < 1e-6

    def test_generated_pixels_can_still_be_learned(self, vae, photo):
        start_with_copying(vae)
        rng = np.random.default_rng(0)
        image, mask = RandomCrops([photo], size=32).batch(2, rng), random_masks(2, 32, rng)
        optimizer = torch.optim.Adam(vae.parameters(), lr=2e-3)
        losses = []
        for _ in range(40):
            loss, log = decoder_loss(vae, image, mask)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(log["generated_l1"])
        assert losses[-1] < 0.5 * losses[0]

    @torch.no_grad()
    def test_the_copy_survives_training_where_generated_pixels_are_held_to_the_code(self, vae, photo):
        start_with_copying(vae)
        torch.manual_seed(1)
        for parameter in vae.decoder.up.parameters():  # as training would
            parameter += 0.03 * torch.randn_like(parameter)
        vae.decoder.up[0].block[-1].conv2.bias += 0.5
        image = RandomCrops([photo], size=64).batch(2, np.random.default_rng(1))
        mask = random_masks(2, 64, np.random.default_rng(2))
        latent = vae.encode(image)
        drifted = vae.decode(latent, image=image, mask=mask)
        hold_to_code(vae)
        held = vae.decode(latent, image=image, mask=mask)
        assert kept_error(held, image, mask) < 1e-5 < kept_error(drifted, image, mask)
        weights = vae.decoder.up[0].block[1].conv2.weight.clone()
        hold_to_code(vae)
        torch.testing.assert_close(vae.decoder.up[0].block[1].conv2.weight, weights)
        assert held.std() > 0.01

    def test_a_decoder_without_room_is_refused(self):
        with pytest.raises(ValueError, match="4 channels a group"):
            start_with_copying(AsymmetricAutoencoder(dataclasses.replace(CONFIG, norm_groups=8)))


class TestStep:
    def test_the_encoder_is_frozen_and_an_all_ones_mask_leaves_the_condition_out(self, vae, photo):
        image = RandomCrops([photo], size=32).batch(2, np.random.default_rng(0))
        loss, _ = decoder_loss(vae, image, torch.ones(2, 1, 32, 32))
        loss.backward()
        assert all(p.grad is None for p in vae.encoder.parameters())
        assert vae.decoder.conv_in.weight.grad is not None
        assert all(p.grad is None or not p.grad.any() for p in vae.decoder.condition_encoder.parameters())

    def test_the_loss_is_the_weighted_mean_of_both_parts(self, vae, photo):
        rng = np.random.default_rng(0)
        image = RandomCrops([photo], size=32).batch(2, rng)
        mask = random_masks(2, 32, rng)
        torch.manual_seed(3)
        loss, log = decoder_loss(vae, image, mask, kept_weight=2.0)
        share = mask.mean().item()
        assert loss.item() == pytest.approx(share * log["generated_l1"] + 2 * (1 - share) * log["kept_l1"], rel=1e-5)

    def test_a_symmetric_vae_learns_both_halves(self, photo):
        vae = AsymmetricAutoencoder(dataclasses.replace(CONFIG, condition=None))
        image = RandomCrops([photo], size=32).batch(2, np.random.default_rng(0))
        loss, log = autoencoder_loss(vae, image, kl_weight=1e-3)
        loss.backward()
        assert loss.item() == pytest.approx(log["l1"] + 1e-3 * log["kl"], rel=1e-5)
        assert vae.encoder.conv_in.weight.grad.any()
        assert vae.decoder.conv_in.weight.grad.any()


class TestCrops:
    def test_are_seeded_of_the_right_size_and_range(self, photo):
        crops = RandomCrops([photo], size=32)
        first = crops.batch(4, np.random.default_rng(5))
        assert first.shape == (4, 3, 32, 32)
        assert first.min() >= -1
        assert first.max() <= 1
        assert torch.equal(first, crops.batch(4, np.random.default_rng(5)))
        assert not torch.equal(first[0], first[1])

    def test_too_small_or_no_pictures_are_refused(self, photo):
        with pytest.raises(ValueError, match="at least 128 pixels a side"):
            RandomCrops([photo], size=128)
        with pytest.raises(ValueError, match="at least one picture"):
            RandomCrops([], size=32)
