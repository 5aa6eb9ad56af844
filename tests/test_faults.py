"""Training under fault: real processes and signals, full disks, diverged weights, other runs. No work is lost."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import asymvq
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.autoencoders import AutoencoderConfig
from asymvq.cli import main
from asymvq.grow import grown_config
from asymvq.outputs import ExistsError, LockedError
from asymvq.training.computing import autocast
from asymvq.training.copying import check_copying, hold_to_code, start_with_copying
from asymvq.training.data import Pictures, Samples
from asymvq.training.loop import Training, TrainingError
from asymvq.training.prefetch import Prefetched
from asymvq.training.recipe import RECIPES, Precision, Recipe
from asymvq.training.signals import deferred
from asymvq.training.state import read_state, state_folder

STOCK = AutoencoderConfig(
    decoder_channels=(8, 16), decoder_blocks=1, encoder_channels=(8, 16), encoder_blocks=1, condition=None,
    norm_groups=4,
)  # fmt: skip
TINY = Recipe(steps=4, batch=2, crop=16, crop_scale=(0.4, 1.0), lpips=0.0, lr=1e-3, warm_up=2, measured=2)
needs_signals = pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(3):
        pixels = np.kron(rng.uniform(0, 255, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(path / f"{number}.png")
    return path


@pytest.fixture
def pictures(folder) -> Pictures:
    return Pictures.from_folder(folder, crop=TINY.crop, crop_scale=TINY.crop_scale)


@pytest.fixture
def vae(make_vae) -> AsymmetricAutoencoder:
    return make_vae(STOCK)


@pytest.fixture
def vae_file(vae, tmp_path) -> Path:
    path = tmp_path / "stock.safetensors"
    asymvq.save(vae, path)
    return path


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out.safetensors"


def training(vae, pictures, out: Path, recipe: Recipe = TINY, preset: str = "base", **options: Any) -> Training:
    return Training(vae, grown_config(vae.config, preset), pictures, recipe, out=out, **options)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return asymvq.load(path).state_dict()


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


def summary(out: Path) -> dict[str, Any]:
    with safe_open(out, framework="pt") as file:
        return json.loads(file.metadata()["asymvq.training"])


def words(vae_file: Path, folder: Path, out: Path, *more: str) -> list[str]:
    return [
        "train", "--base", str(vae_file), "--data", str(folder), "--out", str(out), "--recipe", "fidelity", "--batch",
        "2", "--crop", "16", "--device", "cpu", *more,
    ]  # fmt: skip


def start(arguments: list[str], before: str = "") -> subprocess.Popen[str]:
    """The command line in a process of its own, after some code that provokes a fault."""
    code = f"import sys\n{before}\nfrom asymvq.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip


def wait_for_step(out: Path, process: subprocess.Popen[str], step: int = 1) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(int(path.name[5:13]) >= step for path in state_folder(out).glob("step-*.safetensors")):
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate())


class TestOwnFiles:
    def test_another_file_is_not_overwritten_unless_asked(self, vae, pictures, out):
        asymvq.save(vae, out)
        before = out.read_bytes()
        for resume in (False, True):
            with pytest.raises(ExistsError, match=r"out\.safetensors is another"):
                training(vae, pictures, out, resume=resume)
        assert out.read_bytes() == before
        list(training(vae, pictures, out, overwrite=True))
        assert summary(out)["steps"] == 4

    def test_the_file_of_a_run_whose_states_were_removed_stays(self, vae, pictures, out):
        list(training(vae, pictures, out))
        for path in state_folder(out).iterdir():
            path.unlink()
        with pytest.raises(ExistsError):
            training(vae, pictures, out, resume=True)
        # and the file of another run of the same name does
        whole = out.read_bytes()
        list(training(vae, pictures, out, overwrite=True))
        out.write_bytes(whole)
        with pytest.raises(ExistsError):
            training(vae, pictures, out, resume=True, recipe=dataclasses.replace(TINY, steps=6))

    def test_a_file_that_comes_while_training_stays_and_nothing_is_lost(self, vae, pictures, out):
        reports = iter(training(vae, pictures, out))
        next(reports)
        asymvq.save(vae, out)
        before = out.read_bytes()
        with pytest.raises(TrainingError, match="step 4, is in"):
            list(reports)
        assert out.read_bytes() == before
        out.unlink()
        assert list(training(vae, pictures, out, resume=True)) == []
        assert summary(out)["steps"] == 4

    def test_overwriting_a_run_starts_it_anew(self, vae, pictures, out):
        list(training(vae, pictures, out, dataclasses.replace(TINY, steps=6)))
        again = training(vae, pictures, out, overwrite=True)
        assert [report.step for report in again] == [1, 2, 3, 4]
        assert read_state(state_folder(out)).step == 4

    def test_the_base_is_never_overwritten(self, vae_file, folder, capsys):
        before = vae_file.read_bytes()
        assert main(words(vae_file, folder, vae_file, "--steps", "1", "--overwrite")) == 2
        assert "no input" in capsys.readouterr().err
        assert vae_file.read_bytes() == before

    def test_commands_do_not_overwrite(self, vae_file, folder, tmp_path, capsys):
        latent = tmp_path / "x.latent"
        encode = ["encode", "--vae", vae_file, "--image", folder / "0.png", "--out", latent]
        decode = ["decode", "--vae", vae_file, "--latent", latent, "--out", tmp_path / "x.png"]
        convert = ["convert", vae_file, tmp_path / "c.safetensors", "--layout", "native"]
        evaluate = ["evaluate", "--vae", vae_file, "--images", folder / "0.png", "--random-masks", 0, "--out", tmp_path]
        train = words(vae_file, folder, tmp_path / "t.safetensors", "--steps", "0")
        for command in (encode, decode, convert, evaluate, train):
            assert main([str(word) for word in command]) == 0
            written = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
            assert main([str(word) for word in command]) == 2, command
            assert "--overwrite" in capsys.readouterr().err
            assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == written
            assert main([*(str(word) for word in command), "--overwrite"]) == 0


class TestFinished:
    def test_the_same_again_is_said_and_changes_nothing(self, vae, pictures, out):
        list(training(vae, pictures, out))
        before = out.read_bytes()
        again = training(vae, pictures, out, resume=True)
        assert "had made all its 4 steps" in again.notes[0]
        assert list(again) == []
        assert out.read_bytes() == before

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"seed": 1}, "seed 0 → 1"),
            ({"recipe": dataclasses.replace(TINY, lr=2e-3)}, r"lr 0\.001 → 0\.002"),
            ({"recipe": dataclasses.replace(TINY, ssim=0.5)}, r"ssim 0\.0 → 0\.5"),
            ({"recipe": dataclasses.replace(TINY, steps=3)}, "steps 4 → 3"),
            ({"pictures": 2}, "number of pictures 3 → 2"),
            ({"pictures": 3}, "other pictures"),
        ],
        ids=["seed", "rate", "losses", "fewer steps", "fewer pictures", "other pictures"],
    )
    def test_something_else_is_refused_with_what_differs(self, vae, pictures, folder, tmp_path, out, changes, message):
        list(training(vae, pictures, out))
        if "pictures" in changes:
            others = tmp_path / "others"
            others.mkdir()
            for number in range(changes["pictures"]):
                with Image.open(folder / f"{number}.png") as picture:
                    picture.rotate(180).save(others / f"{number}.png")
            others = Pictures.from_folder(others, crop=TINY.crop, crop_scale=TINY.crop_scale)
            changes = {**changes, "pictures": others}
        with pytest.raises(ValueError, match=f"has made all its 4 steps, and these differ: .*{message}.*more steps"):
            training(**{"vae": vae, "pictures": pictures, "out": out, "resume": True, **changes})

    def test_how_steps_are_computed_may_change(self, vae, pictures, out):
        list(training(vae, pictures, out))
        assert list(training(vae, pictures, out, dataclasses.replace(TINY, recompute=True), resume=True)) == []

    def test_more_steps_go_on_with_a_word(self, vae, pictures, out):
        list(training(vae, pictures, out))
        more = training(vae, pictures, out, dataclasses.replace(TINY, steps=6, lr=5e-4), resume=True, seed=2)
        assert "step 4 with other settings" in more.notes[0]
        for difference in ("steps 4 → 6", "lr 0.001 → 0.0005", "seed 0 → 2"):
            assert difference in more.notes[0]
        assert [report.step for report in more] == [5, 6]

    def test_renamed_pictures_are_the_same_and_changed_bytes_are_not(self, folder, tmp_path):
        def digest(path: Path) -> str:
            return Pictures.from_folder(path, crop=16, crop_scale=(0.5, 1.0)).digest()

        other = tmp_path / "other"
        other.mkdir()
        for number in range(3):
            (other / f"a{number}.png").write_bytes((folder / f"{number}.png").read_bytes())
        assert digest(other) == digest(folder)
        large = other / "z.bmp"
        Image.new("RGB", (400, 400)).save(large)
        before = digest(other)
        content = bytearray(large.read_bytes())
        content[len(content) // 2] ^= 1
        large.write_bytes(content)
        assert digest(other) != before

    @pytest.mark.parametrize("settings", [{"precision": Precision.BF16}, {"copying": True}, {"start": "scratch"}])
    def test_what_a_run_keeps_to_its_end(self, vae, pictures, out, settings):
        list(training(vae, pictures, out))
        recipe = Recipe.from_dict({**TINY.to_dict(), "steps": 9, **settings})
        with pytest.raises(ValueError, match=f"Expected {next(iter(settings))} .* as the run in"):
            training(vae, pictures, out, recipe, resume=True)

    @pytest.mark.parametrize("what", ["moved", "stale"])
    def test_a_file_that_is_missing_or_stale_is_written(self, vae_file, folder, tmp_path, out, what):
        assert main(words(vae_file, folder, out, "--steps", "2")) == 0
        stale = out.read_bytes()
        assert main(words(vae_file, folder, out, "--steps", "3", "--resume")) == 0
        whole = weights(out)
        out.unlink() if what == "moved" else out.write_bytes(stale)
        assert main(words(vae_file, folder, out, "--steps", "3", "--resume")) == 0
        assert summary(out)["steps"] == 3
        assert_equal(weights(out), whole)


class TestKilled:
    @needs_signals
    @pytest.mark.parametrize("at", [2, 4], ids=["midway", "at the last step"])
    def test_between_the_state_and_the_file(self, vae_file, folder, tmp_path, out, at):
        whole, steps = tmp_path / "whole.safetensors", ("--steps", "4", "--save-steps", "1")
        assert main(words(vae_file, folder, whole, *steps)) == 0
        before = (
            "import os, signal\nfrom asymvq.training import files\nreal = files.save\ncount = 0\n"
            "def save(*args, **options):\n"
            "    global count\n    count += 1\n"
            f"    if count == {at}: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    real(*args, **options)\nfiles.save = save"
        )
        process = start(words(vae_file, folder, out, *steps), before)
        assert process.wait(120) == -signal.SIGKILL
        assert read_state(state_folder(out)).step == at
        assert summary(out)["steps"] == at - 1
        assert main(words(vae_file, folder, out, *steps, "--resume")) == 0
        assert summary(out)["steps"] == 4
        assert_equal(weights(out), weights(whole))
        assert not list(tmp_path.rglob(".asymvq-*"))
        assert not list(tmp_path.rglob("*.lock"))

    @needs_signals
    @pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
    def test_signals_save_also_when_they_come_twice_during_a_save(self, vae_file, folder, out, name):
        number = getattr(signal, name)
        before = (
            "import os, signal, time\nfrom asymvq.training import files\nreal = files.write_state\ncount = 0\n"
            "def write_state(*args):\n"
            "    global count\n    count += 1\n"
            "    if count == 3:\n"
            f"        for _ in range(3): os.kill(os.getpid(), {int(number)}); time.sleep(0.05)\n"
            "    return real(*args)\nfiles.write_state = write_state"
        )
        process = start(words(vae_file, folder, out, "--steps", "1000000", "--save-steps", "2"), before)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130, errors
        assert "stopped and saved" in errors
        assert read_state(state_folder(out)).step >= 6
        assert summary(out)["steps"] == read_state(state_folder(out)).step

    @needs_signals
    def test_nohup_is_respected(self, vae_file, folder, out):
        before = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)"
        process = start(words(vae_file, folder, out, "--steps", "1000000", "--save-steps", "1"), before)
        wait_for_step(out, process)
        process.send_signal(signal.SIGHUP)
        step = read_state(state_folder(out)).step
        wait_for_step(out, process, step + 3)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)
        assert process.returncode == 130

    @needs_signals
    def test_a_signal_waits_for_what_must_not_be_cut(self):
        done = []
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012
            with deferred():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
                done.append(1)
            raise AssertionError("the signal was lost")
        assert done

    @pytest.mark.parametrize("error", [OSError("broken"), torch.OutOfMemoryError("full"), KeyboardInterrupt()])
    def test_every_way_out_saves(self, vae, pictures, out, monkeypatch, error):
        run = training(vae, pictures, out)
        sample = Samples.sample

        def failing(samples: Samples, number: int):
            if number == 5:
                raise error
            return sample(samples, number)

        monkeypatch.setattr(Samples, "sample", failing)
        with pytest.raises(type(error)):
            list(run)
        assert read_state(run.folder).step == summary(out)["steps"] == 2


class TestStates:
    @pytest.mark.parametrize("damage", ["bit in a tensor", "zeros", "cut", "header", "empty"])
    def test_a_damaged_one_is_refused_and_the_one_before_is_taken(self, vae, pictures, out, damage):
        list(training(vae, pictures, out, save_steps=1))
        newest = state_folder(out) / "step-00000004.safetensors"
        content = bytearray(newest.read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        if damage == "bit in a tensor":
            content[(header + len(content)) // 2] ^= 4
        elif damage == "zeros":
            content[header + 100 : header + 5000] = bytes(4900)
        elif damage == "header":
            content[content.index(b"skipped") + 11] ^= 1
        newest.write_bytes(b"" if damage == "empty" else content[:-9] if damage == "cut" else content)
        run = training(vae, pictures, out, resume=True)
        assert run.step == 3
        assert "The state of step 4 is damaged" in " ".join(run.notes)
        expected = weights(out)
        assert [report.step for report in run] == [4]
        assert_equal(weights(out), expected)


class TestDivergence:
    @pytest.mark.parametrize("lr", [1e3, 1e30], ids=["large weights", "infinite weights"])
    @pytest.mark.parametrize("save_steps", [1, 3])
    def test_good_weights_stay_and_a_lower_rate_goes_on_from_them(self, vae, pictures, out, lr, save_steps):
        recipe = dataclasses.replace(TINY, steps=3, average=0.5)
        list(training(vae, pictures, out, recipe, save_steps=1))
        good, files = weights(out), {p.name: p.read_bytes() for p in state_folder(out).iterdir()}
        diverging = dataclasses.replace(recipe, steps=40, lr=lr, warm_up=0)
        with pytest.raises(TrainingError, match=r"of step 3, is in .*its weights are in .*lower learning rate"):
            list(training(vae, pictures, out, diverging, resume=True, save_steps=save_steps))
        assert_equal(weights(out), good)
        assert {p.name: p.read_bytes() for p in state_folder(out).iterdir()} == files
        lower = dataclasses.replace(recipe, steps=6, lr=1e-4)
        reports = list(training(vae, pictures, out, lower, resume=True))
        assert [report.step for report in reports] == [4, 5, 6]
        assert all(report.loss < 1 for report in reports)

    def test_nothing_is_claimed_where_nothing_was_saved(self, vae, pictures, out):
        with pytest.raises(TrainingError, match="Nothing of this run is on disk yet"):
            list(training(vae, pictures, out, dataclasses.replace(TINY, steps=40, lr=1e30, warm_up=0)))
        assert not out.exists()

    @pytest.mark.parametrize("name", ["paper", "fidelity"])
    def test_the_scalers_first_overflows_are_not_bad_steps(self, vae, pictures, out, name):
        recipe = dataclasses.replace(
            RECIPES[name], steps=60, batch=2, crop=32, crop_scale=(1.0, 1.0), lpips=0.0, warm_up=5,
            adversarial_start=40, precision=Precision.FP16,
        )  # fmt: skip
        run = training(vae, pictures, out, recipe)
        run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**40})
        reports = list(run)
        assert reports[-1].skipped >= 7
        assert np.isfinite(reports[-1].loss)
        assert list(training(vae, pictures, out, recipe, resume=True)) == []

    def test_gradients_that_never_come_end_the_run(self, vae, pictures, out):
        run = training(vae, pictures, out, dataclasses.replace(TINY, steps=99, precision=Precision.FP16))
        run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**-19})
        next(run.vae.decoder.parameters()).register_hook(lambda gradient: gradient * float("inf"))
        with pytest.raises(TrainingError, match="5 steps in a row"):
            list(run)


class TestTwoAtOnce:
    def test_in_one_process(self, vae, pictures, out):
        first = iter(training(vae, pictures, out))
        next(first)
        with pytest.raises(LockedError, match="another run of this process"):
            training(vae, pictures, out, resume=True)
        with pytest.raises(LockedError):
            training(vae, pictures, out, folder=out.parent / "elsewhere")
        first.close()
        assert [report.step for report in training(vae, pictures, out, resume=True)] == [2, 3, 4]

    @needs_signals
    def test_in_two_processes_and_after_a_kill(self, vae_file, folder, out, capsys):
        process = start(words(vae_file, folder, out, "--steps", "1000000", "--save-steps", "1"))
        wait_for_step(out, process)
        assert main(words(vae_file, folder, out, "--steps", "9", "--resume")) == 2
        assert f"process {process.pid} on " in capsys.readouterr().err
        step = read_state(state_folder(out)).step
        wait_for_step(out, process, step + 2)  # it goes on as if nothing had been
        process.kill()
        process.communicate()
        step = read_state(state_folder(out)).step
        assert main(words(vae_file, folder, out, "--steps", str(step + 2), "--resume")) == 0


class TestFullDisk:
    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can mount a small disk")
    def test_is_one_line_and_the_state_before_is_intact(self, vae_file, folder, tmp_path, capsys):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            out = disk / "out.safetensors"
            assert main(words(vae_file, folder, out, "--steps", "1")) == 0
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError):  # noqa: PT011, PT012
                while True:
                    file.write(bytes(4096))
            before = weights(out)
            capsys.readouterr()
            assert main(words(vae_file, folder, out, "--steps", "3", "--resume")) == 2
            errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("asymvq: error")]
            assert len(errors) == 1
            assert "No space left" in errors[0] or "disk is full" in errors[0]
            assert read_state(state_folder(out)).step == 1
            assert_equal(weights(out), before)
            filler.unlink()
            assert main(words(vae_file, folder, out, "--steps", "3", "--resume")) == 0
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="only root can mount a small disk")
    def test_that_fills_while_training(self, vae, pictures, tmp_path):
        disk = tmp_path / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
        if subprocess.run(mount, check=False, capture_output=True).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            out = disk / "out.safetensors"
            reports = iter(training(vae, pictures, out, dataclasses.replace(TINY, steps=9), save_steps=2))
            assert next(reports)
            assert next(reports).saved
            with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError):  # noqa: PT011, PT012
                while True:
                    file.write(bytes(4096))
            with pytest.raises(TrainingError, match=r"disk is full.*state, of step 2, is in"):
                list(reports)
            assert read_state(state_folder(out)).step == summary(out)["steps"] == 2
        finally:
            subprocess.run(["umount", str(disk)], check=True)


class TestNames:
    @pytest.mark.parametrize("name", ["x" * 240 + ".safetensors", "a\ud800.safetensors", "a\0.safetensors"])
    def test_are_checked_before_anything_is_read(self, folder, tmp_path, capsys, name):
        missing = tmp_path / "missing.safetensors"
        assert main(words(missing, folder, tmp_path / name)) == 2
        assert "missing" not in capsys.readouterr().err


class TestUntrained:
    def test_needs_neither_pictures_nor_the_weights_of_a_loss(self, vae, vae_file, tmp_path, monkeypatch, capsys):
        def load(*_: object) -> None:
            raise AssertionError("loaded")

        monkeypatch.setattr("asymvq.perceptual.load_lpips", load)
        grown = tmp_path / "grown.safetensors"
        base = ["train", "--base", str(vae_file), "--steps", "0", "--device", "cpu", "--recipe", "quick"]
        assert main([*base, "--out", str(grown), "--preset", "2x"]) == 0
        latent = torch.randn(1, 4, 8, 8)
        with torch.no_grad():
            difference = (asymvq.load(grown).decode(latent) - vae.decode(latent)).abs().max()
        assert difference <= 1e-4
        assert main([*base, "--out", str(tmp_path / "x.safetensors"), "--preset", "1.5x"]) == 2
        assert "--data" in capsys.readouterr().err
        assert main([*base, "--out", str(tmp_path / "y.safetensors"), "--recipe", "quick", "--steps", "5"]) == 2
        assert "--data" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--batch", "--crop"])
    def test_zeros_are_refused(self, vae_file, folder, out, capsys, option):
        assert main(words(vae_file, folder, out, option, "0")) == 2
        assert f"Expected {option[2:]} to be > 0" in capsys.readouterr().err


class TestDevices:
    @pytest.mark.parametrize("kind", ["privateuseone", "meta"])
    def test_without_autocast(self, kind):
        device = torch.device(kind)
        with autocast(device, TINY):
            pass
        with pytest.raises(ValueError, match="Train in fp32"):
            autocast(device, dataclasses.replace(TINY, precision=Precision.BF16))

    def test_copying_makes_no_tensors_on_the_cpu(self, make_vae):
        vae = make_vae(dataclasses.replace(STOCK, decoder_channels=(16, 32), encoder_channels=(16, 32)))
        vae = AsymmetricAutoencoder(grown_config(vae.config, "base"))
        start_with_copying(vae)
        expected = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
        hold_to_code(vae)
        check_copying(vae)
        for name, tensor in vae.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], msg=name)
        vae.to("meta")
        with OneDevice("meta"):
            start_with_copying(vae)
            hold_to_code(vae)


class OneDevice(torch.utils._python_dispatch.TorchDispatchMode):
    """No operation mixes a tensor of this device with one of another, but for single numbers."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        kinds = {x.device.type for x in tensors if x.ndim}
        copies = "copy" in str(func)
        assert len(kinds) < 2 or copies, f"{func}: {kinds}"
        return func(*args, **(kwargs or {}))


class TestPrefetch:
    def test_order_and_values_do_not_depend_on_threads(self, pictures):
        samples = Samples(pictures, TINY, STOCK, seed=0)
        numbers = [(first, 2) for first in range(0, 16, 2)]
        with Prefetched(samples, iter([*numbers, *[(0, 1)] * 9]), threads=4) as batches:
            for first, count in numbers:
                batch, expected = next(batches), samples.batch(first, count)
                for field in dataclasses.fields(batch):
                    if field.name != "crops":
                        assert torch.equal(getattr(batch, field.name), getattr(expected, field.name))
