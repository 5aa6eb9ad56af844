"""How a file's tensors differ from those that the network needs, in words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .errors import shown

Shapes = Mapping[str, tuple[int, ...]]


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(expected: Shapes, got: Shapes) -> str:
    """How many tensors are missing, unexpected or of another shape, and which first; "" where all is as expected."""
    wrong = [
        f"{name}: expected {shape}, got {got[name]}"
        for name, shape in expected.items()
        if name in got and got[name] != shape
    ]
    faults = {
        "missing": [name for name in expected if name not in got],
        "unexpected": [name for name in got if name not in expected],
        "of another shape": wrong,
    }
    found = {fault: names for fault, names in faults.items() if names}
    return "; ".join(f"{len(names)} {fault} ({_first(names, 3 // len(found))})" for fault, names in found.items())


def _first(names: list[str], count: int) -> str:
    return ", ".join(shown(name) for name in names[:count]) + (", …" if len(names) > count else "")
