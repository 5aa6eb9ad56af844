"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) on VGG features."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def perceptual_loss(
    output: Tensor, target: Tensor, *, distance: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean distance of (B, 3, H, W) in [-1, 1].

    Args:
        distance: from `asymvq.perceptual.load_lpips`, (B,) of two batches.
    """
    loss = distance(output.float(), target).mean()
    return loss, {"lpips": loss.detach()}
