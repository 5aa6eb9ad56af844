"""The walk through a decoder, as data: what both its executors, `decoder` (plain) and `lean` (striped), follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint


class Run(NamedTuple):
    """Features through a part of the network."""

    part: Callable[[Tensor], Tensor]
    recompute: bool = False
    """Training: keep only the input, and compute the rest again for the gradient."""

    def __call__(self, x: Tensor) -> Tensor:
        return cast(Tensor, checkpoint(self.part, x, use_reentrant=False)) if self.recompute else self.part(x)


class ConditionPoint(NamedTuple):
    """Where a condition may change the features."""

    level: int
    """0: before the output; i + 1: where they enter level i of the decoder."""


Step = Run | ConditionPoint
