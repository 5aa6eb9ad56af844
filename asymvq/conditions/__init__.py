"""How kept pixels enter a decoder: one file a kind.

A condition is a module of the decoder's. `prepare` is called once a decode, `apply` of what it returns once at each
`asymvq.walk.ConditionPoint`, from the coarsest level to the output.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from ..config import ConditionKind, Config
from ..layers import Ops
from .affine import Affine
from .blend import Blend


class Prepared(Protocol):
    """A condition for one decode of pictures."""

    def apply(self, level: int, features: Tensor) -> Tensor:
        """The features (B, C, h, w) under the condition. Those given are not used again and may be overwritten, where
        it was prepared with `striped`."""
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


def condition_of(config: Config, ops: Ops) -> Affine | Blend | None:
    """The condition of a decoder of this shape, as a module; None where it has none."""
    if config.condition is None:
        return None
    if config.condition.kind is ConditionKind.AFFINE:
        return Affine(config.condition, config.condition_channels, config.image_channels, ops)
    return Blend(config.condition, config.condition_channels, config.image_channels, ops)


__all__ = ["Affine", "Blend", "Condition", "Prepared", "condition_of"]
