"""How many rows of a picture are computed at once (a stripe), where memory or the processor's cache is the limit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

VALUES = {"cpu": 2**21, "cuda": 2**26}
"""Of one stripe: a CPU's should stay in its cache, a GPU wants work for all its cores."""
OTHER_DEVICES = 2**24


def stripes(height: int, row_values: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """First row and the row after the last, of stripes of about one height."""
    count = max(1, min(height // 4, round(height * row_values / stripe_values(device))))
    edges = [round(height * i / count) for i in range(count + 1)]
    yield from itertools.pairwise(edges)


def stripe_values(device: torch.device) -> int:
    return VALUES.get(device.type, OTHER_DEVICES)
