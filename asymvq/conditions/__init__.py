"""How kept pixels enter a decoder: one file a kind.

A condition is a module of the decoder's. `prepare` is called once a decode, `apply` of what it returns once at each
`asymvq.walk.ConditionPoint`, from the coarsest level to the output, and `inside` for each residual block behind one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from ..config import ConditionKind, Config
from ..layers import Ops
from ..walk import Change
from .affine import Affine
from .blend import Blend


class Prepared(Protocol):
    """A condition for one decode of pictures."""

    def apply(self, level: int, features: Tensor) -> Tensor:
        """The features (B, C, h, w) under the condition. Those given are not used again and may be overwritten, where
        it was prepared with `striped`."""
        ...

    def inside(self, level: int, block: int) -> Sequence[Change]:
        """What it does in each stage of a residual block, which is the next to run; nothing, if empty."""
        ...


class Condition(Protocol):
    sees_errors: bool

    def prepare(self, image: Tensor, mask: Tensor, *, errors: Tensor | None = None, striped: bool = False) -> Prepared:
        """
        Args:
            image: (B, 3, H, W) in [-1, 1].
            mask: (B, 1, H, W) in [0, 1], 1 = edited.
            errors: (B, 3, H, W), given where `sees_errors`: `asymvq.detail.errors_of`.
            striped: in little memory and without gradients; B = 1.
        """
        ...


def condition_of(config: Config, ops: Ops, stage_channels: Sequence[Sequence[Sequence[int]]]) -> Affine | Blend | None:
    """The condition of a decoder of this shape, as a module; None where it has none.

    Args:
        stage_channels: `asymvq.decoder.Decoder.stage_channels`.
    """
    if config.condition is None:
        return None
    if config.condition.kind is ConditionKind.AFFINE:
        return Affine(config.condition, config.condition_channels, stage_channels, config.image_channels, ops)
    return Blend(config.condition, config.condition_channels, config.image_channels, ops)


__all__ = ["Affine", "Blend", "Condition", "Prepared", "condition_of"]
