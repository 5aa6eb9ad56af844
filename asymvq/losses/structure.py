"""Structural similarity (Wang et al. 2004)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..metrics import ssim_map
from .table import Term, Widget, setting


@dataclass(frozen=True, kw_only=True)
class Settings:
    ssim: float = setting(
        0.0, "Weight of the structural similarity loss (SSIM).", widget=Widget(100, 0.05), reconstructs=True
    )


def term(recipe: Any, device: torch.device) -> Term | None:
    if not recipe.ssim:
        return None

    def weighted(output: Tensor, target: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss, log = structure_loss(output, target)
        return recipe.ssim * loss, log

    return weighted


def structure_loss(output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """1 - SSIM over (B, 3, H, W) in [-1, 1], the mean over pixels and channels."""
    similarity = ssim_map(output.float(), target).mean()
    return 1 - similarity, {"ssim": similarity.detach()}
