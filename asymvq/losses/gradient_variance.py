"""How much the gradients vary from pixel to pixel, patch by patch: what squared errors let a decoder leave out.

Gradient variance loss (Abrahamyan et al. 2022, arXiv 2202.00997). Where texture cannot be known, squared errors are
least without any; its amount can be known, and is compared here wherever it lies in the patch. Unlike the paper's,
variances are compared as deviations, so that faint texture counts beside strong edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .table import Term, setting, weighted

PATCH = 8
"""Pixels, the paper's."""
FAINT = 1e-3
"""A deviation below which differences stop to count: a root has no slope to follow at zero."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    gradient_variance: float = setting(
        0.0, "Weight of the gradient variance loss: as much fine detail in edited pixels as in the true ones."
    )


def term(recipe: Any, device: torch.device) -> Term | None:
    return weighted(recipe.gradient_variance, gradient_variance_loss)


def check(recipe: Any) -> None:
    if recipe.gradient_variance and recipe.crop < PATCH + 2:
        raise ValueError(
            f"Expected a crop of at least {PATCH + 2} pixels for gradient_variance, but got {recipe.crop}. "
            f"Use larger crops, or gradient_variance=0."
        )


def gradient_variance_loss(output: Tensor, target: Tensor, *, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared difference of the gradients' standard deviations.

    Args:
        output: (B, 3, H, W), as `target` in [-1, 1]; at least `PATCH` + 2 pixels high and wide. Only edited pixels
            count; kept ones are taken as true.
        mask: (B, 1, H, W) of 0 and 1, 1 = edited.
    """
    composed = torch.where(mask > 0, output.float(), target)
    loss = (_deviations(composed) - _deviations(target)).square().mean()
    return loss, {"gradient_variance": loss.detach()}


def _deviations(image: Tensor) -> Tensor:
    """(B, 2, h, w): of the grey picture's horizontal and vertical gradients over whole patches."""
    smooth, slope = image.new_tensor([1.0, 2.0, 1.0]) / 4, image.new_tensor([-1.0, 0.0, 1.0]) / 2
    sobel = torch.stack([smooth[:, None] * slope, slope[:, None] * smooth])[:, None]
    gradients = F.conv2d(image.mean(dim=1, keepdim=True), sobel)
    mean = F.avg_pool2d(gradients, PATCH)
    centred = gradients[..., : mean.shape[-2] * PATCH, : mean.shape[-1] * PATCH] - F.interpolate(
        mean, scale_factor=PATCH
    )
    variance = F.avg_pool2d(centred.square(), PATCH) * (PATCH**2 / (PATCH**2 - 1))
    return (variance + FAINT**2).sqrt()
