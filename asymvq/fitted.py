"""What a plain decode gets wrong in fine detail, learned from one picture's own kept pixels.

Where pixels are kept the truth is known, so a decoder's habits can be seen there: an edge that it draws too soft, a
texture that it leaves out. A ridge regression tells them from what the decode shows around a pixel, and corrects edited
pixels with it. It is what video codecs do with an adaptive loop filter (Tsai et al., IEEE Journal of Selected Topics in
Signal Processing 7, 2013), here with features that are not linear: of random 5 × 5 filters (Rahimi and Recht, "Random
features for large-scale kernel machines", 2007), two Gaussian bumps each (Broomhead and Lowe, "Multivariable functional
interpolation and adaptive networks", Complex Systems 2, 1988). Bumps tell of what is like the kept pixels, and nothing
of what is not; and where an edited pixel's leverage (Hoaglin and Welsch, "The hat matrix in regression and ANOVA", The
American Statistician 32, 1978) shows that nothing like it was kept, the correction is held back.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .crop import Box
from .detail import DETAIL, low_pass

FILTERS = 128
SIZE = 5
"""Pixels to a side of a filter."""
RIDGE = 0.03
"""Of each feature's variance: how far the regression is held back."""
DOUBT = 4096
"""With so many kept pixels it is held back twice as much; with more of them, less so."""
TRUST = 4.0
"""Leverage, of the kept pixels' mean, up to which a correction is trusted; it falls as one over it beyond."""
SHARE = 0.5
"""Of a correction, what is made: edited pixels show something else than kept ones, and follow them by half."""
SEEN = 65536
"""Kept pixels that are looked at, at most: one at random of as many equal parts, as a regular pattern would favour
parts of latent cells."""
STRIPE = 2**21
"""Values of the features that are held at once."""
TINY = 1e-4
"""Deviation of responses below which they are those of an even area."""
LEAST = 1e-2
"""Deviation that a feature is taken to have at least; it is about 0.3 where it tells anything."""


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
        picture = F.pad(plain[i : i + 1].float(), (SIZE // 2,) * 4, mode="replicate")[0]
        missing = torch.where(inside, 0, image[i].float() - plain[i].float())
        for channel in missing:  # one by one, for less memory
            channel -= low_pass(channel[None], ~inside, factor * DETAIL)[0]
        if len(kept) > SEEN:
            chosen = (np.arange(SEEN) + np.random.RandomState(1).random_sample(SEEN)) * (len(kept) / SEEN)
            kept = kept[torch.from_numpy(chosen.astype(np.int64)).to(kept.device)]
        rows, columns = kept // inside.shape[1], kept % inside.shape[1]
        regression = _Regression.of(_windows(picture, rows, columns), missing[:, rows, columns].T)
        limit = missing.abs().amax()
        for part in box.stripes(max(1, STRIPE // (2 * FILTERS * box.width))):
            # in the padded picture it is the part with its surroundings
            seen = Box(part.top, part.left, part.height + SIZE - 1, part.width + SIZE - 1).of(picture)
            found = SHARE * regression(seen).clamp(-limit, limit)
            part.of(result)[i] = torch.where(part.of(inside), found, 0)
    return result


@dataclass(frozen=True)
class _Regression:
    filters: Tensor
    """(FILTERS, 3, SIZE, SIZE), such that kept pixels' responses have a deviation of 1."""
    shift: Tensor
    """(FILTERS,): what makes their mean 0."""
    mean: Tensor
    """(2 FILTERS,), of the features."""
    weight: Tensor
    """(2 FILTERS, 3)."""
    bias: Tensor
    """(3,)."""
    root: Tensor
    """(2 FILTERS, 2 FILTERS): the length of a feature's product with it is the root of its leverage, 1 in the mean."""

    @classmethod
    def of(cls, windows: Tensor, missing: Tensor) -> _Regression:
        """Fitted to (N, 3 SIZE SIZE) windows, in the middle of which (N, 3) are missing."""
        drawn = np.random.RandomState(0).standard_normal((FILTERS, windows.shape[1]))
        filters = torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).float().to(windows)
        middle = filters @ windows.mean(dim=0)
        covariance = torch.cov(windows.T, correction=0)
        deviation = ((filters @ covariance) * filters).sum(dim=1).clamp(min=0).sqrt() + TINY
        filters, shift = filters / deviation[:, None], -middle / deviation
        count = 2 * FILTERS
        # small systems, which a CPU solves in full precision whatever the device
        total = torch.zeros(count, dtype=torch.float64)
        gram = torch.zeros(count, count, dtype=torch.float64)
        product = torch.zeros(count, 3, dtype=torch.float64)
        bias, near = missing.mean(dim=0), None
        together = max(1, STRIPE // count)
        for part, lacking in zip(windows.split(together), missing.split(together), strict=True):
            features = _bumps(torch.addmm(shift, part, filters.T), dim=1)
            near = features.mean(dim=0) if near is None else near  # about their mean, against rounding
            features -= near
            total += features.sum(dim=0).cpu()
            gram += (features.T @ features).cpu()
            product += (features.T @ (lacking - bias)).cpu()
        assert near is not None  # there is at least one window
        mean = total / len(windows)
        gram = gram / len(windows) - mean[:, None] * mean
        spread = gram.diagonal().clamp(min=LEAST**2).sqrt()
        held = RIDGE * (1 + DOUBT / len(windows))
        system = gram / spread / spread[:, None] + held * torch.eye(count, dtype=gram.dtype)
        factor, _ = torch.linalg.cholesky_ex(system)  # what is not finite stays so, as it is in the plain decode
        root = torch.linalg.solve_triangular(factor, torch.diag(1 / spread), upper=False).T
        weight = root @ (root.T @ product / len(windows))
        root /= torch.sum(root * (gram @ root)).clamp(min=TINY).sqrt()
        mean, weight, root = (x.float().to(windows) for x in (mean, weight, root))
        return cls(filters.view(FILTERS, 3, SIZE, SIZE), shift, near + mean, weight, bias, root)

    def __call__(self, picture: Tensor) -> Tensor:
        """(3, h, w) of (3, h + SIZE - 1, w + SIZE - 1)."""
        features = _bumps(F.conv2d(picture[None], self.filters, self.shift)[0], dim=0)
        size = features.shape[1:]
        features = (features.flatten(1) - self.mean[:, None]).T
        leverage = torch.linalg.vector_norm(features @ self.root, dim=1, keepdim=True).square()
        found = (features @ self.weight + self.bias) * (TRUST / leverage.clamp(min=TRUST))
        return found.T.unflatten(1, size)


def _bumps(response: Tensor, *, dim: int) -> Tensor:
    """Along `dim` twice as many: how near each is to -1, and to 1."""
    return torch.cat([torch.exp(-0.5 * (response - centre).square()) for centre in (-1, 1)], dim=dim)


def _windows(picture: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, 3 SIZE SIZE) around (N,) pixels of a picture (3, H, W) that is padded by half of SIZE."""
    reach = torch.arange(SIZE, device=picture.device)
    found = picture[:, rows[:, None, None] + reach[:, None], columns[:, None, None] + reach]
    return found.movedim(1, 0).flatten(1)
