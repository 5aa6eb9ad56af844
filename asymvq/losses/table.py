"""What a loss is: its settings, which recipe, command line and training node take over, and what it computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Figures = dict[str, Tensor]
Term = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Figures]]
"""Output and target, (B, 3, H, W) in [-1, 1], and mask, (B, 1, H, W) of 0 and 1, 1 = edited, to the loss as weighted by
the recipe, a scalar, and the figures to report."""


@dataclass(frozen=True)
class Widget:
    """A setting on the training node; of whole numbers where its default is one."""

    maximum: float
    step: float | None = None


def setting(
    default: float, text: str, *, widget: Widget | None = None, reconstructs: bool = False, positive: bool = False
) -> Any:
    """A field of a loss's settings.

    Args:
        text: a sentence or two: the command line's help, the widget's tooltip, and the row in the documentation.
        widget: None: the training node does not show it.
        reconstructs: it is the weight of a loss that is enough to train with.
        positive: 0 is no value for it.
    """
    known = {"text": text, "widget": widget, "reconstructs": reconstructs, "positive": positive}
    return dataclasses.field(default=default, metadata=known)


@dataclass(frozen=True)
class Setting:
    """A loss's setting as its file gives it: see `setting`."""

    name: str
    default: float
    text: str
    widget: Widget | None
    reconstructs: bool
    positive: bool


def weighted(weight: float, loss: Callable[..., tuple[Tensor, Figures]]) -> Term | None:
    """`loss(output, target, mask=mask)` times `weight`; None where that is 0."""
    if not weight:
        return None

    def term(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, Figures]:
        value, figures = loss(output, target, mask=mask)
        return weight * value, figures

    return term


def _no_term(recipe: Any, device: torch.device) -> Term | None:
    return None


def _no_check(recipe: Any) -> None:
    return


@dataclass(frozen=True)
class Loss:
    """A row of the table.

    Args:
        settings: a frozen dataclass, keyword-only, of fields from `setting`, whose names no other setting of the recipe
            has.
        term: what it adds to the reconstruction loss, of the recipe and the device to compute on; None: nothing, as
            with a weight of 0.
        check: raises ValueError where the recipe's settings do not go together.
    """

    settings: type[Any]
    term: Callable[[Any, torch.device], Term | None] = _no_term
    check: Callable[[Any], None] = _no_check


def settings_of(losses: Iterable[Loss]) -> Iterator[Setting]:
    """All settings, in the table's order."""
    for loss in losses:
        for field in dataclasses.fields(loss.settings):
            default: Any = field.default
            yield Setting(field.name, default, **field.metadata)
