"""Structural similarity (Wang et al. 2004)."""

from __future__ import annotations

from torch import Tensor

from ..metrics import ssim_map


def structure_loss(output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """1 - SSIM over (B, 3, H, W) in [-1, 1], the mean over pixels and channels."""
    similarity = ssim_map(output.float(), target).mean()
    return 1 - similarity, {"ssim": similarity.detach()}
