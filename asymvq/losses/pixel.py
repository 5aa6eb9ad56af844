"""Absolute and squared error, pixel by pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import Term, Widget, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    l1: float = setting(1.0, "Weight of the absolute error.", reconstructs=True)
    l2: float = setting(0.0, "Weight of the squared error, which is what PSNR measures.", reconstructs=True)
    border: float = setting(
        2.0,
        "Extra weight of errors in edited pixels right next to kept ones, where a seam would show.",
        widget=Widget(100, 0.5),
    )
    border_width: int = setting(4, "How far from kept pixels border counts, in pixels.", positive=True)


def term(recipe: Any, device: torch.device) -> Term:
    """Of any recipe: it reports the errors in kept and in edited pixels."""

    def weighted(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        weights = None
        if recipe.border:
            weights = border_weights(mask, weight=recipe.border, width=recipe.border_width)
        return pixel_loss(output, target, mask=mask, weights=weights, l1=recipe.l1, l2=recipe.l2)

    return weighted


def border_weights(mask: Tensor, *, weight: float, width: int) -> Tensor:
    """(B, 1, H, W): 1 + `weight` for generated pixels within `width` rows and columns of a kept one, else 1.

    The paper weighs all pixels alike. Pixels far inside a mask can be had from the latent alone; those next to kept
    ones are where a decoder shows that it uses the condition.

    Args:
        mask: (B, 1, H, W) of 0 and 1, 1 = generated.
    """
    near = F.max_pool2d(1 - mask, kernel_size=2 * width + 1, stride=1, padding=width)
    return 1 + weight * near * mask


def pixel_loss(
    output: Tensor, target: Tensor, *, mask: Tensor, weights: Tensor | None = None, l1: float = 1.0, l2: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean of `l1` · absolute + `l2` · squared error, and how the absolute one splits into kept and generated.

    Args:
        output: (B, 3, H, W), as `target` in [-1, 1].
        mask: (B, 1, H, W) of 0 and 1, 1 = generated.
        weights: (B, 1, H, W).

    Returns:
        The loss; "kept" and "generated", the unweighted absolute errors (NaN where the batch has no such pixel).
    """
    error = (output.float() - target).abs()
    penalty = l1 * error + l2 * error.square() if l2 else l1 * error
    loss = (penalty if weights is None else penalty * weights).mean()
    with torch.no_grad():
        channels = error.shape[1]
        log = {
            name: (error * where).sum() / (channels * where.sum())
            for name, where in (("kept", 1 - mask), ("generated", mask))
        }
    return loss, log
