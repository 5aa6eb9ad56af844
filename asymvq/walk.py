"""The walk through a decoder, as data: what both its executors, `decoder` (plain) and `lean` (striped), follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Change = Callable[[Tensor, int, int], Tensor]
"""What a condition makes of rows of features (B, C, h, w), from the first to before the last row."""
Report = Callable[[float], None]
"""Called with the share of a network's work that is done, above 0 and below 1. What it raises ends the work."""


class Run(NamedTuple):
    """Features through a part of the network."""

    part: Callable[..., Tensor]
    recompute: bool = False
    """Training: keep only the input, and compute the rest again for the gradient."""
    place: tuple[int, int] | None = None
    """A residual block's level and its number there, where a condition may change what is inside."""

    def __call__(self, x: Tensor, changes: Sequence[Change] = ()) -> Tensor:
        """`changes`: of a residual block, one for each of its stages, or none."""
        given = (x, changes) if changes else (x,)
        return cast(Tensor, checkpoint(self.part, *given, use_reentrant=False)) if self.recompute else self.part(*given)


class ConditionPoint(NamedTuple):
    """Where a condition may change the features."""

    level: int
    """0: before the output; i + 1: where they enter level i of the decoder."""


Step = Run | ConditionPoint


def reported(steps: Sequence[Step], costs: Sequence[float], report: Report, device: torch.device) -> Iterator[Step]:
    """The steps, one after another; `report` hears of each that costs something when the device is done with it, but
    not of the last.

    Args:
        costs: of each step, in any unit.
        device: that computes them. A GPU is waited for: it takes orders long before it follows them.
    """
    total, done = sum(costs), 0.0
    for step, cost in zip(steps, costs, strict=True):
        yield step
        done += cost
        if cost and done < total:
            _wait_for(device)
            report(done / total)


def _wait_for(device: torch.device) -> None:
    if device.type == "mps":
        torch.mps.synchronize()
    elif device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
