"""Kills a training again and again, and compares what comes out with a run that was left alone.

    python bench/kill_resume.py [--kills 20] [--seed 0]

A tiny VAE with random weights is trained on random pictures by `python -m asymvq train`, which saves after every step.
The process gets SIGKILL, every other time at a random moment, every other time after a state has been written and
before its weights are. After each, the state on disk is read; at the end, the weights are compared.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import asymvq
from asymvq.training.resume import read_summary
from asymvq.training.state import read_state, state_folder

STEPS = 150
LONGEST = 1.0
"""Seconds that a process may live after its first new step."""
CONFIG = asymvq.AutoencoderConfig(
    decoder_channels=(8, 16), decoder_blocks=1, encoder_channels=(8, 16), encoder_blocks=1, condition=None,
    norm_groups=4,
)  # fmt: skip


KILLED_BETWEEN = """
import os, signal
from asymvq.training import files
save, calls = files.save, 0
def killed(*args, **options):
    global calls
    calls += 1
    if calls == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*args, **options)
files.save = killed
"""
"""Run before the command: SIGKILL between the state of a step and the file of its weights."""


def start(folder: Path, out: Path, before: str = "") -> subprocess.Popen[bytes]:
    data = folder / "pictures"
    words = [
        "train", "--base", str(folder / "vae.safetensors"), "--data", str(data), "--out", str(out), "--recipe",
        "fidelity", "--steps", str(STEPS), "--batch", "2", "--crop", "32", "--save-steps", "1", "--resume",
        "--set", "adversarial=0.5", "--set", "adversarial_start=50", "--device", "cpu",
    ]  # fmt: skip
    program = f"{before}\nimport sys\nfrom asymvq.cli import main\nsys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def reached(out: Path) -> int:
    """The step of the last readable state; raises ValueError where there are files and none can be read."""
    state = read_state(state_folder(out))
    return 0 if state is None else state.step


def written_step(out: Path) -> int:
    """The step whose weights are in `out`."""
    summary = read_summary(out)
    return 0 if summary is None else summary["steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, pixels = random.Random(args.seed), np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.manual_seed(args.seed)
        asymvq.save(asymvq.AsymmetricAutoencoder(CONFIG), folder / "vae.safetensors")
        (folder / "pictures").mkdir()
        for number in range(4):
            picture = np.kron(pixels.uniform(0, 255, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
            Image.fromarray(picture).save(folder / "pictures" / f"{number}.png")
        whole, killed = folder / "whole.safetensors", folder / "killed.safetensors"
        if start(folder, whole).wait() != 0:
            raise SystemExit("the run that is left alone failed")

        at: list[int] = []
        between = 0
        while True:
            before = reached(killed)
            if len(at) == args.kills:
                process = start(folder, killed)
                break
            if len(at) % 2:
                process = start(folder, killed, KILLED_BETWEEN.format(call=rng.randint(2, 6)))
                if process.wait() >= 0:
                    raise SystemExit(f"the run ended after {len(at)} kills: more steps are needed")
                at.append(reached(killed))
                between += written_step(killed) == at[-1] - 1
                continue
            process = start(folder, killed)
            while process.poll() is None and not any(
                int(path.name[5:13]) > before for path in state_folder(killed).glob("step-*.safetensors")
            ):
                time.sleep(0.002)
            time.sleep(rng.uniform(0, LONGEST))
            if process.poll() is not None:
                raise SystemExit(f"the run ended after {len(at)} kills: more steps are needed")
            process.kill()
            process.wait()
            at.append(reached(killed))
        if process.wait() != 0:
            raise SystemExit("the last run failed")
        expected, got = (asymvq.load(path).state_dict() for path in (whole, killed))
        equal = all(torch.equal(tensor, got[key]) for key, tensor in expected.items())
        leftovers = [path.name for path in folder.rglob(".*")]
    print(f"{len(at)} kills, states readable after each, at steps {at} of {STEPS}")
    print(f"{between} of them with the state of a step on disk and the weights of the one before")
    print(f"weights {'bit-identical' if equal else 'DIFFERENT'}; {len(leftovers)} hidden files left behind")
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
