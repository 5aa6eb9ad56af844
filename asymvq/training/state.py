"""The state of a training run on disk: everything that resuming needs, in one safetensors file, never half-written.

Tensors are the weights, their average, the optimiser's moments, the discriminator and the figures of every step; the
rest is JSON in the header.
What is random in a step is drawn from the seed and the step's number, so that no generator's state has to be kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..outputs import remove_leftovers, replacing

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
KEPT = 2
STATE_SUFFIX = ".training"
_FILE = re.compile(r"step-(\d{8})\.safetensors")


@dataclass
class State:
    """What is written and read back."""

    step: int
    tensors: dict[str, Tensor]
    """Each group of them under a prefix: see `pack`."""
    settings: dict[str, Any]
    """The network and the recipe that made it, as JSON has them."""
    skipped: int = 0
    scaler: dict[str, Any] = field(default_factory=dict)
    """Of the loss scaling in half precision."""


def state_folder(out: Path) -> Path:
    """Beside the file that a run is to write."""
    return out.with_name(out.stem + STATE_SUFFIX)


def write_state(folder: Path, state: State) -> Path:
    """Writes a state and removes all but the last two; those are removed only after it is on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    text = json.dumps(
        {"step": state.step, "settings": state.settings, "skipped": state.skipped, "scaler": state.scaler}
    )
    header = {
        "format": "pt",
        "asymvq.training.format": str(FORMAT_VERSION),
        "asymvq.training.state": text,
        "asymvq.training.checksum": _checksum(text, tensors),
    }
    path = folder / f"step-{state.step:08}.safetensors"
    with replacing(path) as temporary:
        save_file(tensors, temporary, header)
    for old in _files(folder)[:-KEPT]:
        old.unlink()
    remove_leftovers(folder)
    return path


def read_state(folder: Path) -> State | None:
    """The last state that can be read; None where there is none.

    A damaged file (a full disk, a failing one, flipped bits) is named in the log, and the one before it is taken.

    Raises:
        ValueError: files, but none that can be read.
    """
    files = _files(folder)
    for path in reversed(files):
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                data = json.loads(header["asymvq.training.state"])
                if header["asymvq.training.format"] != str(FORMAT_VERSION):
                    raise ValueError(f"format version {header['asymvq.training.format']}")
                # copied: what stays mapped from a file ends the process when that is cut short
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            # states of earlier versions have no checksum, and no name of their run either
            expected = header.get("asymvq.training.checksum")
            old = expected is None and "run" not in data["settings"]
            if not old and expected != _checksum(header["asymvq.training.state"], tensors):
                raise ValueError("its content is not what was written")
            return State(data["step"], tensors, data["settings"], data["skipped"], data["scaler"])
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            logger.warning("Skipped the training state %s, which cannot be read: %s", path, error)
    if files:
        raise ValueError(f"Expected a training state in {folder}, but none of its {len(files)} files can be read.")
    return None


def read_settings(folder: Path) -> dict[str, Any] | None:
    """Of the newest state whose header can be read, without its tensors; None where there is none."""
    for path in reversed(_files(folder)):
        try:
            with safe_open(path, framework="pt") as file:
                settings = json.loads((file.metadata() or {})["asymvq.training.state"])["settings"]
        except (SafetensorError, OSError, KeyError, TypeError, ValueError):
            continue
        if isinstance(settings, dict):
            return settings
    return None


def remove_states(folder: Path) -> None:
    """All of a run's."""
    for path in _files(folder):
        path.unlink()


def newest_step(folder: Path) -> int | None:
    """Of the last state file, whether it can be read or not."""
    return max((int(path.stem.removeprefix("step-")) for path in _files(folder)), default=None)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _FILE.fullmatch(path.name))


def pack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names with a prefix; `unpack` takes it off again."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def unpack(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """What the optimiser keeps of each parameter, as `parameter/what`."""
    return {
        f"{name}/{what}": torch.as_tensor(value)
        for parameter, name in names.items()
        for what, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], names: Mapping[nn.Parameter, str]
) -> None:
    """The inverse of `optimizer_tensors`."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, tensor in tensors.items():
        name, what = key.rsplit("/", 1)
        parameter = parameters[name]
        # step counters stay on the CPU, as the optimiser makes them
        value = tensor.clone() if what == "step" else tensor.to(parameter, copy=True)
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)  # the parameter's memory layout
        optimizer.state[parameter][what] = value
