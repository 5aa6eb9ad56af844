"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) on VGG features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .table import Term, Widget, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    lpips: float = setting(
        1.0,
        "Weight of the perceptual loss (LPIPS). Above 0 it needs the weights of VGG (0.5 GB), which are downloaded "
        "once.",
        widget=Widget(100, 0.05),
        reconstructs=True,
    )


def term(recipe: Any, device: torch.device) -> Term | None:
    """
    Raises:
        ValueError: VGG's weights are not there.
    """
    if not recipe.lpips:
        return None
    from ..perceptual import load_lpips

    distance = load_lpips(device)

    def weighted(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log = perceptual_loss(output, target, distance=distance)
        return recipe.lpips * loss, log

    return weighted


def perceptual_loss(
    output: Tensor, target: Tensor, *, distance: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean distance of (B, 3, H, W) in [-1, 1].

    Args:
        distance: from `asymvq.perceptual.load_lpips`, (B,) of two batches.
    """
    loss = distance(output.float(), target).mean()
    return loss, {"lpips": loss.detach()}
