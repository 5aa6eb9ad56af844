"""A real ComfyUI is stopped while a node trains: what it reached is on disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

import asymvq
from asymvq.training.resume import read_summary
from asymvq.training.state import read_state

from .conftest import make_base_folder
from .server import Server
from .test_train import STOCK


def train_prompt(server: Server) -> dict[str, Any]:
    """A training that would take hours, with the node's own settings but for the size of its steps."""
    inputs = server.get("/object_info/AsymVQTrain")["AsymVQTrain"]["input"]
    recipe = inputs["required"]["recipe"][1]["options"][0]
    settings = {
        f"recipe.{name}": options.get("default")
        for name, (_, options) in {**recipe["inputs"]["required"], **recipe["inputs"].get("optional", {})}.items()
    }
    return {
        "vae": {"class_type": "AsymVQLoader", "inputs": {"vae_name": "stock.safetensors", "dtype": "fp32"}},
        "train": {
            "class_type": "AsymVQTrain",
            "inputs": {
                "vae": ["vae", 0], "folder": "photos", "preset": "base", "steps": 100_000, "seed": 0,
                "save_name": "stopped", "resume": True, **settings, "recipe": recipe["key"], "recipe.batch": 2,
                "recipe.crop": 32, "recipe.lpips": 0.0,
            },
        },
        "path": {"class_type": "PreviewAny", "inputs": {"source": ["train", 2]}},
    }  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_training_is_saved(host_path: Path, tmp_path: Path, name: str) -> None:
    base = make_base_folder(tmp_path / "base")
    torch.manual_seed(0)
    asymvq.save(asymvq.AsymmetricAutoencoder(STOCK), base / "models" / "vae" / "stock.safetensors")
    photos, rng = base / "input" / "photos", np.random.default_rng(0)
    photos.mkdir()
    for number in range(2):
        pixels = np.kron(rng.uniform(0, 255, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{number}.png")
    server = Server(host_path, base)
    try:
        server.wait_until_ready("AsymVQTrain")
        next(text for node, text in server.texts(train_prompt(server)) if node == "train" and "step 3 of" in text)
        server.signal(getattr(signal, name))
    finally:
        server.stop()
    states = next((base / "output").rglob("stopped/step-*.safetensors"), None)
    assert states is not None, server.log[-3000:]
    state = read_state(states.parent)
    assert state is not None
    assert state.step > 0
    out = base / "output" / "vae" / "stopped.safetensors"
    summary = read_summary(out)
    assert summary is not None
    assert summary["steps"] == state.step
    assert asymvq.load(out).config.condition is not None
    assert not list(base.rglob("*.lock"))


PARENT = """
import subprocess, sys
from host.server import end_with_parent
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], preexec_fn=end_with_parent)
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
def test_no_server_outlives_the_tests() -> None:
    """They are killed, so that nothing of theirs can stop what they have started."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout is not None
    with parent:
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    running = child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    if running:
        child.kill()
    assert not running
