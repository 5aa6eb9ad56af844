"""The training loop: what it sees, what it writes, and that a stop loses nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.cli import main
from asymvq.config import ConditionConfig, ConditionKind
from asymvq.grow import grown_config
from asymvq.training.computing import learning_rate
from asymvq.training.data import Pictures, Samples
from asymvq.training.harmonise import ColourShift, Drift
from asymvq.training.latents import Latents
from asymvq.training.loop import Training, TrainingError
from asymvq.training.recipe import RECIPES, UNKNOWN_TO_OLD_RUNS, Recipe, parse_setting
from asymvq.training.start import condition_to_train
from asymvq.training.state import State, read_state, state_folder, write_state

STOCK = AutoencoderConfig(
    decoder_channels=(8, 16),
    decoder_blocks=1,
    encoder_channels=(8, 16),
    encoder_blocks=1,
    condition=None,
    norm_groups=4,
)
TINY = Recipe(
    steps=6, batch=2, crop=16, crop_scale=(0.4, 1.0), lpips=0.0, lr=1e-3, warm_up=2, harmonise=0.5, unconditioned=0.5
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


class TestHeldOut:
    @pytest.fixture
    def recipe(self) -> Recipe:
        return dataclasses.replace(TINY, held_out=0.34, measured=4, measure_steps=2)

    def test_they_are_not_trained_on(self, pictures, recipe):
        rest, held = pictures.split(recipe.held_out)
        assert (len(rest), len(held)) == (4, 2)
        assert {*rest.sources, *held.sources} == {*pictures.sources}
        assert pictures.split(0.34)[1].sources == held.sources
        assert pictures.split(0.1) == (pictures, None)
        assert torch.equal(rest[0], pictures[pictures.sources.index(rest.sources[0])])

    def test_the_best_weights_are_saved(self, vae, pictures, tmp_path, recipe, monkeypatch):
        losses = iter([0.5, 0.2, 0.3])
        monkeypatch.setattr(Training, "_measure", lambda run: next(losses))
        out, averages = tmp_path / "out.safetensors", {}
        run = training(vae, pictures, out, recipe)
        for report in run:
            averages[report.step] = {name: tensor.clone() for name, tensor in run.average.items()}
            assert ("held_out" in report.figures) == (report.step % 2 == 0)
        assert run.best.step == 4
        trained = weights(out)
        for name, tensor in averages[4].items():
            assert torch.equal(trained[name], tensor)
        with safe_open(out, framework="pt") as file:
            assert json.loads(file.metadata()["asymvq.training"])["best_step"] == 4

    def test_measuring_is_repeatable_and_changes_nothing(self, vae, pictures, tmp_path, recipe):
        run = training(vae, pictures, tmp_path / "a.safetensors", recipe)
        before = {name: p.detach().clone() for p, name in run.parameters.items()}
        assert run._measure() == run._measure() > 0
        assert all(torch.equal(p, before[name]) for p, name in run.parameters.items())
        run.close()

    def test_a_stopped_run_goes_on_bit_by_bit(self, vae, pictures, tmp_path, recipe):
        whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
        first = training(vae, pictures, whole, recipe)
        list(first)
        for report in (reports := iter(training(vae, pictures, parts, recipe))):
            if report.step == 3:
                reports.close()
        second = training(vae, pictures, parts, recipe, resume=True)
        list(second)
        assert_equal(weights(parts), weights(whole))
        assert (second.best.step, second.best.loss) == (first.best.step, first.best.loss)
        np.testing.assert_array_equal(second.history["held_out"], first.history["held_out"])

    def test_patience_ends_a_run_and_keeps_it_ended(self, vae, pictures, tmp_path, recipe, monkeypatch):
        losses = iter([0.2, 0.5, 0.4, 0.3, 0.1])
        monkeypatch.setattr(Training, "_measure", lambda run: next(losses))
        out = tmp_path / "out.safetensors"
        recipe = dataclasses.replace(recipe, steps=20, patience=2)
        run = training(vae, pictures, out, recipe)
        assert [report.step for report in run][-1] == 6
        assert run.finished
        assert read_state(run.folder).step == 6
        assert list(training(vae, pictures, out, recipe, resume=True)) == []
        longer = dataclasses.replace(recipe, patience=3)
        assert [report.step for report in training(vae, pictures, out, longer, resume=True)] == [7, 8]

    def test_a_folder_of_ones_own(self, vae, folder, tmp_path):
        out = tmp_path / "out.safetensors"
        argv = ["train", "--base", str(tmp_path / "base.safetensors"), "--data", str(folder), "--out", str(out)]
        asymvq.save(vae, tmp_path / "base.safetensors")
        settings = [f"--set={name}" for name in ("lpips=0", "measured=2", "crop_scale=0.4,1", "measure_steps=1")]
        more = ["--steps", "2", "--batch", "2", "--crop", "16", "--device", "cpu", "--held-out", str(folder / "below")]
        assert main([*argv, *settings, *more]) == 0
        with safe_open(out, framework="pt") as file:
            assert json.loads(file.metadata()["asymvq.training"])["best_step"] in (1, 2)

    def test_runs_of_before_are_not_measured(self, vae, pictures, tmp_path, recipe):
        out, whole = tmp_path / "out.safetensors", tmp_path / "whole.safetensors"
        before = dataclasses.replace(TINY, varying=0.0, inside=0.0, softened=0.0, held_out=0.0)
        for report in (reports := iter(training(vae, pictures, out, before))):
            if report.step == 3:
                reports.close()
        folder = state_folder(out)
        state = read_state(folder)
        for name in UNKNOWN_TO_OLD_RUNS:
            del state.settings["recipe"][name]
        del state.settings["held_out"]
        write_state(folder, state)
        run = training(vae, pictures, out, recipe, resume=True)
        list(run)
        assert run.held_out is None
        list(training(vae, pictures, whole, before))
        assert_equal(weights(out), weights(whole))


class TestRecipe:
    def test_round_trip(self):
        for recipe in RECIPES.values():
            assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe

    def test_the_papers_settings(self):
        paper = RECIPES["paper"]
        assert learning_rate(paper, 0, pictures=80) == pytest.approx(4.5e-6 * 80 * 0.01)
        assert learning_rate(paper, 5000, pictures=80) == pytest.approx(4.5e-6 * 80)
        assert learning_rate(paper, paper.steps, pictures=80) == pytest.approx(1e-6)

    @pytest.mark.parametrize(
        ("setting", "expected"),
        [
            ("border=4", {"border": 4.0}),
            ("crop_scale=0.2,0.5", {"crop_scale": (0.2, 0.5)}),
            ("copying=true", {"copying": True}),
            ("fixed_crops=100", {"fixed_crops": 100}),
            ("start=scratch", {"start": "scratch"}),
        ],
    )
    def test_settings_from_text(self, setting, expected):
        assert parse_setting(setting) == expected

    @pytest.mark.parametrize("setting", ["speed=9", "batch=many", "copying=perhaps", "betas=1", "start=there"])
    def test_nonsense_is_refused(self, setting):
        with pytest.raises(ValueError, match="Expected"):
            parse_setting(setting)

    @pytest.mark.parametrize(
        "changes",
        [
            {"batch": 0},
            {"unconditioned": 1.5},
            {"crop_scale": (0.9, 0.5)},
            {"l1": 0.0, "lpips": 0.0},
            {"average": 1.0},
            {"adversarial": 0.5, "copying": True},
        ],
    )
    def test_impossible_values_are_refused(self, changes):
        with pytest.raises(ValueError, match="Expected"):
            dataclasses.replace(Recipe(), **changes)


class TestCondition:
    def test_it_is_what_was_asked_for_the_runs_the_vaes_or_the_recipes(self, vae, pictures, tmp_path):
        affine, blend = ConditionConfig.affine(32), ConditionConfig()
        conditional = dataclasses.replace(STOCK, condition=blend)
        assert condition_to_train(STOCK, TINY) == affine
        assert condition_to_train(dataclasses.replace(STOCK, decoder_channels=(64, 64)), TINY) == affine.affine(64)
        assert condition_to_train(STOCK, RECIPES["paper"]) == blend
        assert condition_to_train(STOCK, dataclasses.replace(TINY, copying=True)) == blend
        assert condition_to_train(STOCK, TINY, kind=ConditionKind.BLEND) == blend
        assert condition_to_train(conditional, TINY) == blend
        assert condition_to_train(conditional, TINY, kind=ConditionKind.AFFINE) == affine
        run = training(vae, pictures, tmp_path / "out.safetensors", dataclasses.replace(TINY, steps=1))
        list(run)
        assert run.vae.config.condition == blend
        assert condition_to_train(STOCK, TINY, folder=run.folder) == blend
        assert condition_to_train(STOCK, TINY, folder=tmp_path / "none") == affine

    def test_an_affine_run_starts_as_the_stock_decoder(self, vae, pictures, tmp_path):
        out = tmp_path / "out.safetensors"
        config = grown_config(vae.config, "2x", condition=ConditionConfig.affine(8))
        run = Training(vae, config, None, dataclasses.replace(TINY, steps=0), out=out)
        run.save()
        run.close()
        start = asymvq.load(out)
        image = torch.rand(1, 3, 32, 32) * 2 - 1
        mask = torch.zeros(1, 1, 32, 32)
        mask[..., 9:20, 5:] = 1
        latent = vae.encode(image)
        torch.testing.assert_close(start.decode(latent, image=image, mask=mask), vae.decode(latent), atol=1e-4, rtol=0)
        list(Training(vae, config, pictures, TINY, out=out, overwrite=True))
        trained = asymvq.load(out)
        assert trained.decoder.condition_encoder.scales[0].weight.any()
        assert (trained.decode(latent, image=image, mask=mask) - trained.decode(latent)).abs().max() > 1e-5


class TestLoop:
    def test_a_decoder_learns_and_its_file_says_how(self, vae, pictures, tmp_path):
        out = tmp_path / "out.safetensors"
        recipe = dataclasses.replace(TINY, steps=60, lr=3e-3)
        reports = list(training(vae, pictures, out, recipe))
        assert [report.step for report in reports] == list(range(1, 61))
        losses = [report.loss for report in reports]
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
        assert {"kept", "generated"} <= reports[0].figures.keys()
        assert reports[-1].saved
        assert reports[-1].seconds_left == 0
        with safe_open(out, framework="pt") as file:
            summary = json.loads(file.metadata()["asymvq.training"])
        assert summary["steps"] == 60
        assert summary["recipe"]["lr"] == 3e-3
        assert asymvq.load(out).config.condition is not None

    def test_encoder_and_given_vae_stay_as_they_were(self, vae, pictures, tmp_path):
        before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        out = tmp_path / "out.safetensors"
        list(training(vae, pictures, out))
        assert_equal(vae.state_dict(), before)
        trained = weights(out)
        frozen = [name for name in before if not name.startswith("decoder.")]
        assert frozen
        assert_equal({n: trained[n] for n in frozen}, {n: before[n] for n in frozen})
        assert not torch.equal(trained["decoder.conv_in.weight"], before["decoder.conv_in.weight"])

    @pytest.mark.parametrize(
        "changes",
        [
            {"adversarial": 0.5, "adversarial_start": 3, "crop": 32},
            {"accumulate": 2, "weight_decay": 0.01, "average": 0.0},
            {"precision": "bf16", "ssim": 0.2, "fixed_crops": 5},
            {
                "amplified": 1.0,
                "through_harmonise": True,
                "inside": 0.5,
                "fixed_crops": 3,
                "harmonise": 1.0,
                "crop": 32,
            },
        ],
        ids=["GAN", "accumulated, AdamW", "bf16, fixed crops", "through harmonising"],
    )
    def test_a_stopped_run_goes_on_bit_by_bit(self, vae, pictures, tmp_path, changes):
        recipe = Recipe.from_dict({**TINY.to_dict(), **changes})
        whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
        list(training(vae, pictures, whole, recipe))
        for report in (reports := iter(training(vae, pictures, parts, recipe))):
            if report.step == 3:
                reports.close()
        assert read_state(state_folder(parts)).step == 3
        second = training(vae, pictures, parts, recipe, resume=True)
        assert [report.step for report in second] == [4, 5, 6]
        assert_equal(weights(parts), weights(whole))
        assert len(second.history["loss"]) == 6

    def test_less_memory_and_other_layouts_give_the_same_step(self, vae, pictures, tmp_path):
        losses = []
        for name, changes in {"a": {}, "b": {"recompute": True}, "c": {"channels_last": False}}.items():
            recipe = dataclasses.replace(TINY, steps=3, **changes)
            losses.append([r.loss for r in training(vae, pictures, tmp_path / f"{name}.safetensors", recipe)])
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
        assert losses[2] == pytest.approx(losses[0], rel=1e-4)

    def test_accumulation_is_a_larger_batch(self, vae, pictures, tmp_path):
        once = dataclasses.replace(TINY, steps=2, batch=4)
        twice = dataclasses.replace(TINY, steps=2, batch=2, accumulate=2)
        one = [r.loss for r in training(vae, pictures, tmp_path / "1.safetensors", once)]
        two = [r.loss for r in training(vae, pictures, tmp_path / "2.safetensors", twice)]
        assert two == pytest.approx(one, rel=1e-4)

    def test_accumulation_is_a_larger_batch_for_the_discriminator_too(self, vae, pictures, tmp_path):
        moments = []
        for batch, accumulate in ((4, 1), (2, 2)):
            recipe = dataclasses.replace(TINY, steps=1, crop=32, adversarial=0.5, batch=batch, accumulate=accumulate)
            run = training(vae, pictures, tmp_path / f"{batch}.safetensors", recipe)
            list(run)
            tensors = read_state(run.folder).tensors
            moments.append({k: t for k, t in tensors.items() if "discriminator" in k and k.endswith("/exp_avg")})
        assert len(moments[0]) > 5
        for name, tensor in moments[0].items():
            torch.testing.assert_close(moments[1][name], tensor, atol=1e-6, rtol=1e-3, msg=name)

    def test_nan_skips_a_step_and_many_end_the_run(self, vae, pictures, tmp_path):
        run = training(vae, pictures, tmp_path / "out.safetensors", dataclasses.replace(TINY, steps=40))
        reconstruction, calls = type(run.criterion).reconstruction, []

        def faulty(criterion, *args):
            calls.append(1)
            loss, log = reconstruction(criterion, *args)
            return loss * (math.nan if len(calls) == 2 or len(calls) > 4 else 1), log

        run.criterion = type("Faulty", (type(run.criterion),), {"reconstruction": faulty})(
            run.recipe, run.criterion.terms
        )
        reports = iter(run)
        losses = [next(reports).loss for _ in range(4)]
        assert [math.isnan(loss) for loss in losses] == [False, True, False, False]
        good = {name: p.detach().clone() for p, name in run.parameters.items()}
        with pytest.raises(TrainingError, match="5 steps in a row"):
            list(reports)
        assert run.skipped == 6
        state = read_state(run.folder)
        assert state.step == 9
        for name, tensor in good.items():
            assert torch.equal(state.tensors[f"weights.{name}"], tensor)

    def test_an_earlier_run_is_not_overwritten(self, vae, pictures, tmp_path):
        out = tmp_path / "out.safetensors"
        list(training(vae, pictures, out))
        with pytest.raises(ValueError, match=r"holds one at step 6\. Resume it"):
            training(vae, pictures, out)
        with pytest.raises(ValueError, match="a run of the same network"):
            training(vae, pictures, out, preset="2x", resume=True)

    def test_another_vae_of_the_same_shape_is_refused(self, make_vae, vae, pictures, tmp_path):
        out = tmp_path / "out.safetensors"
        list(training(vae, pictures, out))
        with pytest.raises(ValueError, match="another encoder"):
            training(make_vae(STOCK, seed=1), pictures, out, resume=True)

    def test_a_decoder_alone_cannot_be_trained(self, make_vae, pictures, tmp_path):
        alone = make_vae(dataclasses.replace(STOCK, encoder_channels=None, quant_conv=False))
        with pytest.raises(ValueError, match="VAE with an encoder"):
            training(alone, pictures, tmp_path / "out.safetensors")

    def test_from_scratch_and_held_to_the_copying_code(self, make_vae, pictures, tmp_path):
        vae = make_vae(dataclasses.replace(STOCK, decoder_channels=(16, 32), encoder_channels=(16, 32)))
        out = tmp_path / "out.safetensors"
        recipe = Recipe.from_dict({**TINY.to_dict(), "start": "scratch", "copying": True, "harmonise": 0.0})
        for report in training(vae, pictures, out, recipe):
            assert not report.figures["kept"] > 0.01


class TestState:
    def test_only_the_last_two_are_kept_and_a_damaged_one_is_passed_over(self, tmp_path, caplog):
        for step in (1, 2, 3):
            write_state(tmp_path, State(step, {"x": torch.full((3,), float(step))}, {"a": 1}))
        leftover = tmp_path / ".asymvq-killed.tmp"
        leftover.mkdir()
        (leftover / ".lock").touch()
        (leftover / "file").write_bytes(b"of a killed process")
        write_state(tmp_path, State(3, {"x": torch.full((3,), 3.0)}, {"a": 1}))
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["step-00000002.safetensors", "step-00000003.safetensors"]
        files[1].write_bytes(files[1].read_bytes()[:-5])
        with caplog.at_level(logging.WARNING):
            assert read_state(tmp_path).step == 2
        assert "step-00000003" in caplog.text
        files[0].write_bytes(b"")
        with pytest.raises(ValueError, match="none of its 2 files"):
            read_state(tmp_path)


def arguments(vae_file: Path, folder: Path, out: Path, *more: str) -> list[str]:
    settings = [f"{name}={getattr(TINY, name)}" for name in ("lr", "warm_up", "harmonise")]
    return [
        "train", "--base", str(vae_file), "--data", str(folder), "--out", str(out), "--recipe", "fidelity", "--batch",
        "2", "--crop", "16", *(word for setting in settings for word in ("--set", setting)), *more,
    ]  # fmt: skip


@pytest.fixture
def vae_file(vae, tmp_path) -> Path:
    path = tmp_path / "stock.safetensors"
    asymvq.save(vae, path)
    return path


class TestCommand:
    def test_trains_resumes_and_leaves_a_picture(self, vae_file, folder, tmp_path, capsys):
        out = tmp_path / "out.safetensors"
        assert main(arguments(vae_file, folder, out, "--steps", "4", "--preset", "2x")) == 0
        assert "6 pictures" in capsys.readouterr().out
        with Image.open(tmp_path / "out.training" / "preview.png") as picture:
            assert np.asarray(picture).std() > 10
        assert asymvq.load(out).config.decoder_channels == (16, 32)
        assert main(arguments(vae_file, folder, out, "--steps", "5", "--preset", "2x")) == 2
        assert "Resume it" in capsys.readouterr().err
        assert main(arguments(vae_file, folder, out, "--steps", "5", "--preset", "2x", "--resume")) == 0
        assert "step 5 of 5" in capsys.readouterr().out

    def test_no_steps_write_the_larger_decoder(self, vae, vae_file, folder, tmp_path):
        out = tmp_path / "grown.safetensors"
        assert main(arguments(vae_file, folder, out, "--steps", "0", "--preset", "2x")) == 0
        latent = torch.randn(1, 4, 8, 8)
        with torch.no_grad():
            difference = (asymvq.load(out).decode(latent) - vae.decode(latent)).abs().max()
        assert difference <= 1e-4
        assert not state_folder(out).exists()

    def test_logs_for_tensorboard(self, vae_file, folder, tmp_path):
        pytest.importorskip("tensorboard")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        options = ["--steps", "3", "--log-dir", str(tmp_path / "log")]
        assert main(arguments(vae_file, folder, tmp_path / "out.safetensors", *options)) == 0
        events = EventAccumulator(str(tmp_path / "log")).Reload()
        assert len(events.Scalars("loss/loss")) == 3
        assert events.Images("preview")

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--preset", "huge"], "Expected a preset"),
            (["--set", "speed=9"], "a setting of the recipe"),
            (["--crop", "512"], "at least 512 pixels"),
            (["--crop", "15"], "multiple of 2"),
        ],
    )
    def test_mistakes_are_explained(self, vae_file, folder, tmp_path, capsys, more, message):
        assert main(arguments(vae_file, folder, tmp_path / "out.safetensors", "--steps", "1", *more)) == 2
        assert message in capsys.readouterr().err

    def test_killed_runs_go_on_bit_by_bit(self, vae_file, folder, tmp_path):
        """Killed at random moments, also while it writes."""
        steps = ["--steps", "60", "--save-steps", "1"]
        whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
        assert main(arguments(vae_file, folder, whole, *steps)) == 0
        rng, kills = random.Random(0), 0
        while True:
            process = start(arguments(vae_file, folder, killed, *steps, "--resume"))
            before = reached(killed)
            while kills < 2 and process.poll() is None and reached(killed) < before + 5:
                time.sleep(0.01)
            if kills < 2 and process.poll() is None:
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
                process.wait()
                kills += 1
                continue
            assert process.wait(300) == 0
            break
        assert kills == 2
        assert_equal(weights(killed), weights(whole))

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
    def test_ctrl_c_saves_and_says_how_to_go_on(self, vae_file, folder, tmp_path):
        out = tmp_path / "out.safetensors"
        process = start(arguments(vae_file, folder, out, "--steps", "100000", "--save-steps", "5"))
        while reached(out) < 5 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "--resume" in errors.decode()
        assert asymvq.load(out).config.condition is not None


def start(words: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "asymvq", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def reached(out: Path) -> int:
    """The step of the last state on disk."""
    names = [path.name for path in state_folder(out).glob("step-*.safetensors")]
    return max((int(name[5:13]) for name in names), default=0)


TWO_PROCESSES = """
import os, sys, torch
from pathlib import Path
import asymvq
from asymvq.grow import grown_config
from asymvq.training.data import Pictures
from asymvq.training.distributed import joined
from asymvq.training.loop import Training
from asymvq.training.start import condition_to_train
from asymvq.training.recipe import Recipe
import json

vae = asymvq.load(sys.argv[1])
recipe = Recipe.from_dict(json.loads(sys.argv[4]))
pictures = Pictures.from_folder(Path(sys.argv[2]), crop=recipe.crop, crop_scale=recipe.crop_scale)
torch.set_num_threads(1)
with joined(torch.device("cpu")) as (processes, device):
    run = Training(vae, grown_config(vae.config, "base"), pictures, recipe, out=Path(sys.argv[3]), processes=processes)
    for report in run:
        pass
"""


def test_two_processes_have_the_gradient_of_one_with_twice_the_batch(vae, vae_file, folder, pictures, tmp_path):
    """One step of Adam without momentum: its moments are the gradient."""
    one = Recipe.from_dict({**TINY.to_dict(), "steps": 1, "batch": 4, "clip": 0.0})
    two = dataclasses.replace(one, batch=2)
    single, double = tmp_path / "single.safetensors", tmp_path / "double.safetensors"
    list(training(vae, pictures, single, one))
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(script), str(vae_file), str(folder), str(double), json.dumps(two.to_dict()),
        ],
        check=True, timeout=300, cwd=Path(__file__).parents[1], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    expected, got = (read_state(state_folder(path)).tensors for path in (single, double))
    names = [name for name in expected if name.endswith("/exp_avg")]
    assert len(names) > 20
    for name in names:
        torch.testing.assert_close(got[name], expected[name], atol=1e-6, rtol=1e-4, msg=name)
