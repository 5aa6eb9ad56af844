"""How well a decode keeps what the mask keeps, and how well the rest fits to it.

Everywhere `output` and `source` are (B, 3, H, W) in [-1, 1], `mask` is (B or 1, 1, H, W) in [0, 1] and 1 = edited. A
pixel counts as kept where the mask is 0, as edited where it is above 0: that is what the decoder is shown.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kept_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Mean squared error of the kept pixels: the paper's "preservation error".

    Raises:
        ValueError: there is no such pixel, or the shapes do not fit.
    """
    return _mean_squared_error(output, source, mask, mask <= 0, "keeps some pixels")


def masked_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Mean squared error of the edited pixels, where the true picture is known. Errors as `kept_error`."""
    return _mean_squared_error(output, source, mask, mask > 0, "edits some pixels")


def border_error(output: Tensor, source: Tensor, mask: Tensor, width: int = 4) -> float:
    """Mean squared error of the edited pixels within `width` rows and columns of a kept one: the seam.

    Errors as `kept_error`.
    """
    kept = (mask <= 0).float()
    near = F.max_pool2d(kept, kernel_size=2 * width + 1, stride=1, padding=width) > 0
    return _mean_squared_error(output, source, mask, near & (mask > 0), "has a border")


def _mean_squared_error(output: Tensor, source: Tensor, mask: Tensor, where: Tensor, expected: str) -> float:
    """Over the pixels of `where` (B or 1, 1, H, W) bool, summed in float64."""
    if output.shape != source.shape or mask.shape[-2:] != output.shape[-2:]:
        raise ValueError(
            "Expected output, source and mask of one size, but got "
            f"{tuple(output.shape)}, {tuple(source.shape)} and {tuple(mask.shape)}."
        )
    if not where.any():
        raise ValueError(f"Expected a mask that {expected}, but got one that does not.")
    difference = (output.double() - source.double()).masked_select(where)
    return difference.square().mean().item()
