"""Structural similarity (Wang et al. 2004)."""

from __future__ import annotations

from torch import Tensor

WINDOW = 11
"""Pixels: the window of the paper, a Gaussian of deviation 1.5."""


def structure_loss(output: Tensor, target: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """1 - SSIM over (B, 3, H, W) in [-1, 1], the mean over pixels and channels; by kornia.

    Raises:
        ModuleNotFoundError: kornia is not installed (ComfyUI brings it).
    """
    from kornia.metrics import ssim

    # its luminance term is meant for values from 0 on
    similarity = ssim(output.float() * 0.5 + 0.5, target * 0.5 + 0.5, WINDOW, max_val=1.0).mean()
    return 1 - similarity, {"ssim": similarity.detach()}
