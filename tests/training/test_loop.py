"""The training loop: what it computes, what it writes, and that a stop loses nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open

import asymvq
from asymvq.cli import main
from asymvq.config import ConditionConfig, ConditionKind
from asymvq.grow import grown_config
from asymvq.training.computing import learning_rate
from asymvq.training.loop import Training, TrainingError
from asymvq.training.recipe import RECIPES, UNKNOWN_TO_OLD_RUNS, Recipe, parse_setting
from asymvq.training.start import condition_to_train
from asymvq.training.state import State, read_state, state_folder, write_state

from .conftest import STOCK, TINY, assert_equal, training, weights


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
        before = dataclasses.replace(TINY, **UNKNOWN_TO_OLD_RUNS)
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
            {"adversarial": 0.5, "decoder_lr": 0.0},
            {"decoder_lr": -0.1},
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

    def test_asking_for_affine_gives_an_older_one_what_it_lacks(self):
        old = ConditionConfig.affine(16, sees_errors=False, in_blocks=False)
        conditional = dataclasses.replace(STOCK, condition=old)
        assert condition_to_train(conditional, TINY) == old
        assert condition_to_train(conditional, TINY, kind=ConditionKind.AFFINE) == ConditionConfig.affine(16)

    def test_its_width_can_be_asked_for(self):
        wide = ConditionConfig.affine(96)
        assert condition_to_train(STOCK, TINY, width=96) == wide
        conditional = dataclasses.replace(STOCK, condition=ConditionConfig.affine(32))
        assert condition_to_train(conditional, TINY, width=96) == wide
        with pytest.raises(ValueError, match="affine condition, whose width can be chosen, but got blend"):
            condition_to_train(STOCK, TINY, kind=ConditionKind.BLEND, width=96)

    @pytest.mark.parametrize(
        ("asked", "flag", "named"), [("fades", "errors_fade", "fading"), ("fits", "fits_errors", "fitting")]
    )
    def test_its_errors_can_be_made_to_fade_or_be_fitted(self, asked, flag, named):
        wanted = ConditionConfig.affine(32, **{flag: True})
        conditional = dataclasses.replace(STOCK, condition=ConditionConfig.affine(32))
        assert condition_to_train(conditional, TINY, **{asked: True}) == wanted
        kept = dataclasses.replace(STOCK, condition=wanted)
        assert condition_to_train(kept, TINY) == wanted
        wider = condition_to_train(kept, TINY, kind=ConditionKind.AFFINE, width=40)
        assert wider == dataclasses.replace(wanted, channels=40)
        with pytest.raises(ValueError, match=f"whose errors' {named} can be chosen, but got blend"):
            condition_to_train(STOCK, TINY, kind=ConditionKind.BLEND, **{asked: True})
        blind = dataclasses.replace(STOCK, condition=ConditionConfig.affine(32, sees_errors=False))
        with pytest.raises(ValueError, match="no errors are seen"):
            condition_to_train(blind, TINY, **{asked: True})

    def test_a_decoder_that_does_not_learn_decodes_plainly_as_before(self, vae, pictures, tmp_path):
        out = tmp_path / "out.safetensors"
        config = grown_config(vae.config, "base", condition=ConditionConfig.affine(8))
        recipe = dataclasses.replace(TINY, steps=4, decoder_lr=0.0, average=0.9)
        list(Training(vae, config, pictures, recipe, out=out))
        list(Training(vae, config, pictures, dataclasses.replace(recipe, steps=6), out=out, resume=True))
        trained, before = weights(out), vae.state_dict()
        assert_equal({name: tensor for name, tensor in trained.items() if name in before}, before)
        assert trained["decoder.condition_encoder.scales.0.weight"].any()
        learning = dataclasses.replace(recipe, steps=8, decoder_lr=0.5)
        list(Training(vae, config, pictures, learning, out=out, resume=True))
        assert not torch.equal(weights(out)["decoder.conv_in.weight"], before["decoder.conv_in.weight"])

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
        assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
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
                "other": 0.5,
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
