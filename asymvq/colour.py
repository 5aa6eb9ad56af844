"""Colour shifts as diffusion models bring them, imitated for measuring, and the usual remedy for them.

What is encoded is a shifted copy of a picture, so that the true picture is known inside the mask too.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import edited


class ShiftKind(str, Enum):
    """Where a latent's colours are shifted."""

    GLOBAL = "global"
    """Everywhere alike."""
    VARYING = "varying"
    """Linearly over the picture: not at all in its middle, and opposite at opposite sides."""
    NOISE_MASK = "noise-mask"
    """Everywhere alike in the cells that the mask touches. The others are the source's, as a noise mask keeps them."""
    NOISE_MASK_VARYING = "noise-mask-varying"
    """Linearly over the picture, in those cells."""

    @property
    def varies(self) -> bool:
        return self in (ShiftKind.VARYING, ShiftKind.NOISE_MASK_VARYING)

    @property
    def masked(self) -> bool:
        """Whether cells that the mask does not touch are the source's."""
        return self in (ShiftKind.NOISE_MASK, ShiftKind.NOISE_MASK_VARYING)


def random_shift(size: tuple[int, int], limit: float, rng: np.random.Generator, *, varies: bool = False) -> Tensor:
    """What to add to a picture of `size` (H, W), (1, 3, H or 1, W or 1), in the units of [-1, 1].

    Args:
        limit: of each channel's shift, which is uniform up to it, up or down; where it varies, of the shift in the
            middle of each side.
    """
    if not varies:
        return torch.from_numpy(rng.uniform(-limit, limit, (1, 3, 1, 1))).float()
    across, down = torch.from_numpy(rng.uniform(-limit, limit, (2, 1, 3, 1, 1))).float()
    return across * torch.linspace(-1, 1, size[1]) + down * torch.linspace(-1, 1, size[0])[:, None]


def touched_cells(mask: Tensor, factor: int) -> Tensor:
    """(B, 1, h, w) bool: the latent's cells that `mask` (B, 1, H, W) touches; H = h · factor, W = w · factor."""
    return F.max_pool2d(edited(mask).float(), factor) > 0


def noise_masked(
    encode: Callable[[Tensor], Tensor], image: Tensor, shifted: Tensor, mask: Tensor, factor: int
) -> Tensor:
    """The latent of `shifted` in the cells that the mask touches, that of `image` in the others.

    `encode` takes (1, 3, H, W) to the latent, (1, C, H / factor, W / factor).
    """
    return torch.where(touched_cells(mask, factor), encode(shifted), encode(image))


def fit_colours(decoded: Tensor, *, image: Tensor, mask: Tensor) -> Tensor:
    """`decoded` with a gain and an offset a channel that bring its kept pixels nearest to the source's.

    What colour-matching nodes do at best: least squares, one for the whole picture.

    Args:
        decoded: (B, 3, H, W) in about [-1, 1].
        image: (B or 1, 3, H, W) in [-1, 1], the source.
        mask: (B or 1, 1, H, W) in [0, 1], 1 = edited. Without kept pixels nothing changes.
    """
    weight = (~edited(mask)).to(decoded.dtype)
    count = weight.sum(dim=(-2, -1), keepdim=True).clamp(min=1)

    def mean(values: Tensor) -> Tensor:
        return (values * weight).sum(dim=(-2, -1), keepdim=True) / count

    middle, target = mean(decoded), mean(image)
    spread = mean((decoded - middle).square())
    gain = torch.where(spread > 0, mean((decoded - middle) * (image - target)) / spread.clamp(min=1e-12), 1)
    fitted = (decoded - middle) * gain + target
    return torch.where(weight.sum(dim=(-2, -1), keepdim=True) > 0, fitted, decoded)
