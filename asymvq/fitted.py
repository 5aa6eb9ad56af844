"""What a plain decode gets wrong in fine detail, learned from one picture's own kept pixels.

Where pixels are kept the truth is known, so a decoder's habits can be seen there: an edge that it draws too soft, a
texture that it leaves out. A linear regression tells them from what the decode shows around a pixel, and corrects
edited pixels with it. It is what video codecs do with an adaptive loop filter (Tsai et al., IEEE Journal of Selected
Topics in Signal Processing 7, 2013), here with features that are not linear: random 3 × 3 filters and a SiLU (Rahimi
and Recht, "Random features for large-scale kernel machines", 2007), again in a 3 × 3 window.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import Box
from .detail import DETAIL, low_pass

FILTERS = 32
RIDGE = 0.6
"""Of each feature's variance: how far the regression is held back."""
DOUBT = 4096
"""With so many kept pixels it is held back twice as much; with more of them, less so."""
SEEN = 16384
"""Kept pixels that are looked at, at most, taken at random: a regular pattern would favour parts of latent cells."""
REACH = 2
"""Pixels that a correction looks to each side."""
STRIPE = 2**22
"""Values of the features that are held at once."""
TINY = 1e-4


def fitted_errors(plain: Tensor, *, image: Tensor, mask: Tensor, factor: int) -> Tensor:
    """What `plain` lacks of fine detail on edited pixels, (B, 3, H, W) float32; 0 on kept ones. No correction is larger
    than the largest error on kept pixels.

    Args:
        plain: (B, 3, H, W), the latent's decode without its condition.
        image: (B, 3, H, W) in [-1, 1]. Under the mask, values do not matter.
        mask: (B, 1, H, W), above 0 = edited.
        factor: pixels a latent cell. What is finer than `asymvq.detail.DETAIL` of it is fine.
    """
    result = torch.zeros(plain.shape, device=plain.device)
    for i, inside in enumerate(mask[:, 0] > 0):
        box = Box.around(inside)
        kept = torch.nonzero(~inside.flatten())[:, 0]
        if not box.height or not len(kept):
            continue
        picture = F.pad(plain[i : i + 1].float(), (REACH,) * 4, mode="replicate")[0]
        missing = torch.where(inside, 0, image[i].float() - plain[i].float())
        for channel in missing:  # one by one, for less memory
            channel -= low_pass(channel[None], ~inside, factor * DETAIL)[0]
        if len(kept) > SEEN:
            kept = kept[torch.from_numpy(np.random.RandomState(1).randint(len(kept), size=SEEN)).to(kept.device)]
        rows, columns = kept // inside.shape[1], kept % inside.shape[1]
        regression = _Regression.of(_windows(picture, rows, columns), missing[:, rows, columns])
        limit = missing.abs().amax()
        for part in box.stripes(max(1, STRIPE // (FILTERS * box.width))):
            # in the padded picture it is the part with its surroundings
            seen = Box(part.top, part.left, part.height + 2 * REACH, part.width + 2 * REACH).of(picture)
            found = regression(seen[None])[0].clamp(-limit, limit)
            part.of(result)[i] = torch.where(part.of(inside), found, 0)
    return result


@dataclass(frozen=True)
class _Regression:
    filters: Tensor
    """(FILTERS, 3, 3, 3)."""
    scale: Tensor
    """(2, FILTERS, 1, 1): of what they give, the mean and the deviation."""
    weight: Tensor
    """(3, FILTERS, 3, 3)."""
    bias: Tensor
    """(3,)."""

    @classmethod
    def of(cls, windows: Tensor, missing: Tensor) -> _Regression:
        """Fitted to (N, 3, 5, 5) windows, in the middle of which (3, N) are missing."""
        filters = np.random.RandomState(0).standard_normal((FILTERS, 3, 3, 3))
        filters /= np.linalg.norm(filters.reshape(FILTERS, -1), axis=1)[:, None, None, None]
        filters = torch.from_numpy(filters).float().to(windows)
        response = F.conv2d(windows, filters)
        middle = response[..., 1, 1]
        scale = torch.stack([middle.mean(dim=0), middle.std(dim=0, correction=0) + TINY])[..., None, None]
        features = _scaled(response, scale).flatten(1)
        mean, features = features.mean(dim=0), features - features.mean(dim=0)
        # a small system, which a CPU solves in full precision whatever the device
        gram, product = ((features.T @ other / len(windows)).cpu().double() for other in (features, missing.T))
        spread = gram.diagonal().sqrt() + TINY
        held = RIDGE * (1 + DOUBT / len(windows))
        system = gram / spread / spread[:, None] + held * torch.eye(len(gram), dtype=gram.dtype)
        weight = (torch.linalg.solve(system, product / spread[:, None]) / spread[:, None]).T.float().to(windows)
        return cls(filters, scale, weight.unflatten(1, (FILTERS, 3, 3)), missing.mean(dim=1) - weight @ mean)

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, h, w) of (B, 3, h + 4, w + 4)."""
        return F.conv2d(_scaled(F.conv2d(pictures, self.filters), self.scale), self.weight, self.bias)


def _scaled(response: Tensor, scale: Tensor) -> Tensor:
    return F.silu((response - scale[0]) / scale[1])


def _windows(picture: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, 3, 5, 5) around (N,) pixels of a picture (3, H + 4, W + 4) that is padded by REACH."""
    reach = torch.arange(2 * REACH + 1, device=picture.device)
    return picture[:, rows[:, None, None] + reach[:, None], columns[:, None, None] + reach].movedim(1, 0)
