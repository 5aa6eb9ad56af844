"""A few of the cases of `bench/fuzz.py`."""

from __future__ import annotations

import random
from pathlib import Path

import fuzz
import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("seeds", "case"):
        (folder / name).mkdir()
    fuzz.write_seeds(folder / "seeds")
    return folder


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", ["files", "calls"])
def test_bad_input_ends_in_a_clear_error(what: str, folder: Path) -> None:
    outcomes = [fuzz.CASES[what](number, 1, folder) for number in range(60)]
    assert not [outcome for outcome in outcomes if outcome.startswith("FAILED")]
    assert any(outcome.startswith("refused") for outcome in outcomes)


def test_changed_configs_end_in_a_clear_error(folder: Path) -> None:
    import asymvq

    path = folder / "case" / "config.safetensors"
    own = (folder / "seeds" / "native.safetensors").read_bytes()
    messages = []
    for number in range(100):
        path.write_bytes(fuzz.mutate_config(own, random.Random(f"config {number}")))
        try:
            asymvq.load(path)
        except asymvq.CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(30 < len(message) < 500 for message in messages)


def test_seeds_load_as_they_are(folder: Path) -> None:
    import asymvq

    for path in (folder / "seeds").iterdir():
        asymvq.load(path)
