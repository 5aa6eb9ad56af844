"""What a training sees: pictures, crops, masks, drift."""

from __future__ import annotations

import dataclasses
import logging
import math

import numpy as np
import pytest
import torch

from asymvq.training.data import Pictures, Samples, recoloured
from asymvq.training.harmonise import ColourShift, Drift
from asymvq.training.latents import Latents

from .conftest import STOCK, TINY, training


class TestRecoloured:
    def test_channels_change_places_and_keep_their_order_of_light(self):
        light = torch.linspace(-1, 1, 16 * 12).reshape(1, 16, 12)
        picture = torch.cat([light, -light, 0 * light - 0.5])
        found = [recoloured(picture, np.random.default_rng(seed)) for seed in range(40)]
        assert all(result.min() >= -1 and result.max() <= 1 for result in found)
        flat = [int(result.flatten(1).std(dim=1).argmin()) for result in found]
        assert set(flat) == {0, 1, 2}
        for result, place in zip(found, flat, strict=True):
            # a gamma keeps black, white and what is lighter than what
            assert torch.equal(result[place], result[place, :1, :1].expand(16, 12))
            for other in {0, 1, 2} - {place}:
                steps = result[other].flatten().diff()
                assert (steps > 0).all() or (steps < 0).all()
                assert sorted(result[other].flatten()[[0, -1]].tolist()) == [-1.0, 1.0]


class TestCropsForWantOfMorePhotos:
    @pytest.mark.parametrize("setting", ["recoloured", "turned"])
    def test_a_share_of_the_crops_and_none_that_is_measured(self, setting, vae, pictures, tmp_path):
        plain = dataclasses.replace(TINY, harmonise=0.0, held_out=0.2)
        recipe = dataclasses.replace(plain, **{setting: 0.5})
        before, after = (Samples(pictures, each, STOCK, seed=0).batch(0, 64).image for each in (plain, recipe))
        changed = (before != after).flatten(1).any(1).float().mean()
        assert 0.3 < changed < 0.7
        run = training(vae, pictures, tmp_path / "vae.safetensors", recipe)
        assert getattr(run.samples.recipe, setting) == 0.5
        assert getattr(run.held_out.recipe, setting) == 0.0

    def test_crops_are_turned_in_three_ways(self, pictures):
        plain = dataclasses.replace(TINY, harmonise=0.0)
        before, after = (
            Samples(pictures, each, STOCK, seed=0).batch(0, 64).image
            for each in (plain, dataclasses.replace(plain, turned=1.0))
        )
        for turns in (1, 2, 3):
            assert 8 < (before.rot90(turns, (-2, -1)) == after).flatten(1).all(1).sum() < 40
        assert not (before == after).flatten(1).all(1).any()


class TestPictures:
    def test_every_kind_is_found_and_unfit_ones_are_named(self, folder, caplog):
        with caplog.at_level(logging.WARNING):
            pictures = Pictures.from_folder(folder, crop=16, crop_scale=(0.5, 1.0))
        assert len(pictures) == 6
        assert "Skipped 2 pictures" in caplog.text
        assert "broken.png (it is damaged or cut short" in caplog.text
        assert "small.png (40×12: too small)" in caplog.text
        for number in range(6):
            assert pictures[number].shape == (3, 32, 40)
            assert pictures[number].dtype == torch.uint8
            assert pictures[number].float().std() > 10

    def test_a_file_that_turns_out_broken_is_replaced(self, folder, tmp_path, caplog):
        whole = (folder / "colour.png").read_bytes()
        (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
        (tmp_path / "b.png").write_bytes(whole)
        pictures = Pictures.from_folder(tmp_path, crop=16, crop_scale=(0.5, 1.0))
        with caplog.at_level(logging.WARNING):
            assert torch.equal(pictures[0], pictures[1])
        assert "a.png" in caplog.text

    def test_large_pictures_are_kept_no_larger_than_needed(self):
        large = torch.randint(0, 256, (3, 200, 300), dtype=torch.uint8)
        assert Pictures([large], crop=16, crop_scale=(0.5, 1.0))[0].shape == (3, 32, 48)

    def test_previews_of_runs_are_no_pictures(self, folder, tmp_path):
        for name in ("a.png", "run.training/preview.png"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((folder / "colour.png").read_bytes())
        assert len(Pictures.from_folder(tmp_path, crop=16, crop_scale=(0.5, 1.0))) == 1

    @pytest.mark.parametrize("name", ["", "missing"])
    def test_a_folder_without_pictures_is_refused(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"Expected (pictures|a folder)"):
            Pictures.from_folder(tmp_path / name, crop=16, crop_scale=(0.5, 1.0))

    def test_too_small_pictures_are_refused(self, folder):
        with pytest.raises(ValueError, match="at least 64 pixels a side"):
            Pictures.from_folder(folder, crop=64, crop_scale=(0.5, 1.0))


class TestSamples:
    def test_depend_on_seed_and_number_alone(self, pictures):
        samples = Samples(pictures, TINY, STOCK, seed=1)
        whole, part = samples.batch(0, 4), Samples(pictures, TINY, STOCK, seed=1).batch(2, 2)
        for name in ("image", "encoded", "mask", "noise", "extra_noise", "inside"):
            assert torch.equal(getattr(whole, name)[2:], getattr(part, name))
        other = Samples(pictures, TINY, STOCK, seed=2).batch(0, 4)
        assert not torch.equal(whole.image, other.image)

    def test_ranges_masks_and_shifts(self, pictures):
        batch = Samples(pictures, TINY, STOCK, seed=0).batch(0, 64)
        assert batch.image.shape == (64, 3, 16, 16)
        assert batch.noise.shape == (64, 4, 8, 8)
        assert batch.image.abs().max() <= 1
        full = batch.mask.flatten(1).amin(1) == 1
        assert 16 < full.sum() < 48
        shifted = (batch.image != batch.encoded).flatten(1).any(1)
        assert 4 < shifted.sum() < 28
        assert not (shifted & full).any()
        assert torch.equal(batch.extra_noise.flatten(1).any(1), shifted)
        assert 1 < batch.inside.sum() < shifted.sum()
        assert not (batch.inside.flatten() & ~shifted).any()

    def test_every_picture_is_seen_before_one_comes_again(self, pictures):
        samples = Samples(pictures, TINY, STOCK, seed=3)
        assert sorted(samples._shuffled(n) for n in range(6, 12)) == list(range(6))

    def test_fixed_crops_come_again_with_other_masks(self, pictures):
        samples = Samples(pictures, dataclasses.replace(TINY, fixed_crops=4, unconditioned=0.0), STOCK, seed=0)
        first, again = samples.batch(0, 4), samples.batch(4, 4)
        assert first.crops == again.crops == (0, 1, 2, 3)
        assert torch.equal(first.encoded, again.encoded)
        assert not torch.equal(first.mask, again.mask)


class TestColourShift:
    def test_nothing_is_nothing_and_every_part_does_what_it_says(self):
        image = torch.rand(3, 8, 8) - 0.5
        torch.testing.assert_close(ColourShift()(image), image)
        torch.testing.assert_close(ColourShift(brightness=0.2)(image), image + 0.2)
        grey = ColourShift(saturation=0.0)(image)
        torch.testing.assert_close(grey[0], grey[2])
        flat = ColourShift(contrast=0.0, saturation=0.0)(image)
        assert flat.std() < 1e-6
        third = ColourShift(hue=2 * math.pi / 3)(image)
        torch.testing.assert_close(third, image[[2, 0, 1]])


class TestDrift:
    IMAGE = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4

    def test_nothing_is_nothing(self):
        torch.testing.assert_close(Drift()(self.IMAGE), self.IMAGE)

    def test_it_varies_from_one_side_to_the_other(self):
        drift = Drift(ColourShift(brightness=0.1), ColourShift(brightness=-0.1), angle=0.0)
        change = (drift(self.IMAGE) - self.IMAGE).mean(dim=(0, 1))
        torch.testing.assert_close(change, torch.linspace(0.1, -0.1, 32))

    def test_it_moves_by_parts_of_a_pixel(self):
        flat = torch.full((3, 24, 32), 0.25)
        torch.testing.assert_close(Drift(blur=0.7, moved=(0.5, -0.5))(flat), flat)
        ramp = torch.linspace(-0.5, 0.5, 32).expand(3, 24, 32)
        change = Drift(blur=0.7, moved=(0.4, 0.0))(ramp)[:, :, 4:-4] - ramp[:, :, 4:-4]
        torch.testing.assert_close(change.abs(), torch.full_like(change, 0.4 / 31), atol=2e-4, rtol=0)
        assert Drift(blur=0.7)(self.IMAGE).std() < 0.8 * self.IMAGE.std()

    def test_shares(self):
        rng = np.random.default_rng(0)
        drifts = [Drift.random(rng, ColourShift(), varying=0.3, softened=0.2) for _ in range(400)]
        assert 0.2 < np.mean([drift.other is not None for drift in drifts]) < 0.4
        assert 0.1 < np.mean([drift.blur is not None for drift in drifts]) < 0.3
        assert all(max(map(abs, drift.moved)) <= 0.5 for drift in drifts)
        off = [Drift.random(rng, ColourShift(), varying=0, softened=0) for _ in range(20)]
        assert all(drift.other is None and drift.blur is None for drift in off)

    def test_settings_of_before_give_the_samples_of_before(self, pictures):
        off = dataclasses.replace(TINY, varying=0.0, inside=0.0, softened=0.0)
        batch = Samples(pictures, off, STOCK, seed=0).batch(0, 32)
        assert not batch.inside.any()
        number = int((batch.image != batch.encoded).flatten(1).any(1).nonzero()[0])
        samples, rng = Samples(pictures, off, STOCK, seed=0), np.random.default_rng([0, 0, number])
        image = samples._crop(samples._shuffled(number), rng)
        assert torch.equal(image, batch.image[number])
        assert torch.equal(ColourShift.random(rng)(image), batch.encoded[number])

    def test_inside_only_kept_cells_are_the_true_pictures(self, vae, pictures, tmp_path):
        recipe = dataclasses.replace(TINY, crop=32, harmonise=1.0, unconditioned=0.0, inside=1.0, fixed_crops=8)
        run = training(vae, pictures, tmp_path / "out.safetensors", recipe)
        run.close()
        cached, once = (Latents(run.vae, mixed=True, cached=cached) for cached in (True, False))
        for _ in range(2):
            batch = run.samples.batch(0, 8)
            assert batch.inside.all()
            latent = once.of(batch)
            torch.testing.assert_close(cached.of(batch), latent)
            own, deviation = vae.posterior(batch.image)
            expected = own + deviation * batch.noise
            kept = (torch.nn.functional.max_pool2d(batch.mask, 2) == 0).expand_as(latent)
            assert kept.any()
            torch.testing.assert_close(latent[kept], expected[kept])
            assert (latent[~kept] - expected[~kept]).abs().mean() > 1e-3

    def test_composed_losses_leave_kept_pixels_alone(self, vae, pictures, tmp_path):
        recipe = dataclasses.replace(TINY, composed=True, steps=2, unconditioned=0.0)
        reports = list(training(vae, pictures, tmp_path / "out.safetensors", recipe))
        assert all(report.figures["kept"] == 0 < report.figures["generated"] for report in reports)
