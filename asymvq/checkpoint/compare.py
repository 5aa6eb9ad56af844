"""What is wrong with a set of tensors, in words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

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
    return "; ".join(f"{len(names)} {fault} ({_first(names)})" for fault, names in faults.items() if names)


def _first(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
