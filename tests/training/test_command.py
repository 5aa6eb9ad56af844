"""Training from the command line: killed, stopped, resumed, and in two processes."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import asymvq
from asymvq.cli import main
from asymvq.training.recipe import Recipe
from asymvq.training.signals import stopping
from asymvq.training.state import read_state, state_folder

from .conftest import TINY, assert_equal, training, weights


def arguments(vae_file: Path, folder: Path, out: Path, *more: str) -> list[str]:
    settings = [f"{name}={getattr(TINY, name)}" for name in ("lr", "warm_up", "harmonise", "measured")]
    return [
        "train", "--base", str(vae_file), "--data", str(folder), "--out", str(out), "--recipe", "fidelity", "--batch",
        "2", "--crop", "16", *(word for setting in settings for word in ("--set", setting)), *more,
    ]  # fmt: skip


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
        steps = ["--steps", "40", "--save-steps", "1"]
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
        cwd=Path(__file__).parents[2],
    )  # fmt: skip


def reached(out: Path) -> int:
    """The step of the last state on disk."""
    names = [path.name for path in state_folder(out).glob("step-*.safetensors")]
    return max((int(name[5:13]) for name in names), default=0)


TWO_PROCESSES = """
import os, sys, time, torch
from pathlib import Path
import asymvq
from asymvq.grow import grown_config
from asymvq.training.data import Pictures
from asymvq.training.distributed import joined
from asymvq.training.loop import Training
from asymvq.training.start import condition_to_train
from asymvq.training.recipe import Recipe
from asymvq.training.signals import stopping
import json

vae = asymvq.load(sys.argv[1])
recipe = Recipe.from_dict(json.loads(sys.argv[4]))
pictures = Pictures.from_folder(Path(sys.argv[2]), crop=recipe.crop, crop_scale=recipe.crop_scale)
torch.set_num_threads(1)
with joined(torch.device("cpu")) as (processes, device):
    run = Training(vae, grown_config(vae.config, "base"), pictures, recipe, out=Path(sys.argv[3]), processes=processes)
    last = Path(sys.argv[3]).with_suffix(".last")
    for report in run:
        if processes.first:
            time.sleep(0.5)
            last.touch()
assert last.exists(), "none leaves before the first has written all"
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
        check=True, timeout=300, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    expected, got = (read_state(state_folder(path)).tensors for path in (single, double))
    names = [name for name in expected if name.endswith("/exp_avg")]
    assert len(names) > 20
    for name in names:
        torch.testing.assert_close(got[name], expected[name], atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("together", "ends"), [(0.0, pytest.raises(KeyboardInterrupt)), (60.0, nullcontext())])
def test_what_torchrun_hands_on_is_no_second_signal(together, ends):
    stops: list[int] = []
    with stopping(lambda: stops.append(1), together=together), ends:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
    assert stops == [1]
