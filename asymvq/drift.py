"""What a decode gets wrong, read off the kept pixels around a mask and carried into it.

It is seen on kept pixels, where the source is known: r = image - decoded. What of it goes on inside the mask is
estimated as universal kriging does, a Gaussian process with a mean that is linear in a few features (Rasmussen &
Williams, Gaussian Processes for Machine Learning, 2006, section 2.7):

    r(p) = features(p) · b + t(p) + noise,      b_g ~ N(0, τ_g²),      t ~ GP(0, σ² k)

- features: constant, linear and quadratic in the position (drift of a whole picture); the decode's colour (contrast,
  saturation, hue); and the first of them within a few pixels of the mask only, where latent cells that the mask
  touches reach over its border: with a noise mask that is all that is seen of the drift inside.
- k: exponentials, as smooth as a membrane: what is near a kept pixel errs as it does.
- τ_g and σ are chosen by each picture itself (evidence, MacKay 1992; EM steps): a good autoencoder's decode of its own
  latent has nothing to mend and is left alone, a drifting one is corrected fully.

With a noise mask, latent cells that the mask does not touch are the source's own. What kept pixels away from it err by
then comes from normalisation over the whole picture. It tells of the edit where that continues the picture; where its
content is another, only the mask's surroundings do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from .observations import CELL, Observations, bounded, colour_spread, observe, reduced, ring_of, weights_of

MARGIN = 64
"""Pixels around the mask that are looked at, at least; else half the mask's length."""
LENGTH, SHORT_SHARE = 24.0, 0.3
"""Pixels over which the kernel falls to 1/e, and the share of it that falls over a quarter of them."""
REACH = 3.0
"""Lengths beyond which the kernel counts as nothing inside the mask."""
NOISE = 0.3
"""Variance of a cell's own error beside the kernel's."""
COLOUR_GROUP, WHOLE_PICTURE = 3, (0, 1, 2, 3)
"""In `features_at`: the colour map's group, and those that pixels away from the mask tell of."""
CONTINUED = 0.4
"""Share of the mask's border from which on an edit continues the picture."""
EVIDENCE_STEPS = 6


Part = tuple[EllipsisType, slice, slice]


@dataclass(frozen=True)
class Surroundings:
    """The mask's box, and what is looked at around it."""

    around: Part
    inside: Part
    edited_around: Tensor
    """(H, W) bool: what is edited of the surroundings."""

    @classmethod
    def of(cls, mask: Tensor) -> Surroundings | None:
        """Of a mask (H, W); None where nothing is edited, or all."""
        touched = torch.nonzero(_any_edited(mask, 1)).flatten()
        if len(touched) == 0:
            return None
        top, bottom = touched[[0, -1]].tolist()
        left, right = torch.nonzero(_any_edited(mask[top : bottom + 1], 0)).flatten()[[0, -1]].tolist()
        if (bottom + 1 - top, right + 1 - left) == tuple(mask.shape) and (mask > 0).all():
            return None
        margin = max(MARGIN, (bottom - top + 1) // 2, (right - left + 1) // 2)
        around = slice(max(0, top - margin), bottom + 1 + margin), slice(max(0, left - margin), right + 1 + margin)
        box = slice(top, bottom + 1), slice(left, right + 1)
        return cls((..., *around), (..., *box), mask[around] > 0)

    @property
    def offset(self) -> tuple[int, int]:
        """Of the box in its surroundings, rows and columns."""
        return self.inside[1].start - self.around[1].start, self.inside[2].start - self.around[2].start

    @property
    def edited(self) -> Tensor:
        """(h, w) bool: what is edited of the box."""
        (top, left), (_, rows, columns) = self.offset, self.inside
        return self.edited_around[top : top + rows.stop - rows.start, left : left + columns.stop - columns.start]

    def near(self, position: Tensor) -> Tensor:
        """(N,) bool: which of (N, 2) points of the surroundings the kernel reaches from the box."""
        start = torch.tensor(self.offset, device=position.device)
        stop = start + torch.tensor(self.edited.shape, device=position.device)
        outside = torch.maximum(start - position, position - stop)
        return (outside < REACH * LENGTH).all(dim=1)


def _any_edited(mask: Tensor, dim: int) -> Tensor:
    return mask.any(dim=dim) if mask.dtype == torch.bool else mask.amax(dim=dim) > 0


def estimate(
    plain: Tensor,
    image: Tensor,
    part: Surroundings,
    known: Tensor | None,
    factor: int,
    noise_mask: bool,
    at: tuple[int, int],
) -> Drift | None:
    """What the mask's surroundings, plain and image (3, H, W), tell; None where that is nothing.

    known: (1, H, W) bool, what of them was decoded. at: as `Drift` has it.
    """
    size = (plain.shape[-2], plain.shape[-1])
    blocks = reduced(plain, image, ~part.edited_around)
    with torch.no_grad():
        weight, continued = weights_of(blocks)
        if known is not None and not known.all():
            # a block of which a part was not decoded counts nothing
            gaps = (~known).float()
            weight = weight * (1 - F.max_pool2d(gaps, blocks.side, ceil_mode=True)[0])
        middle, root = colour_spread(blocks.plain, weight)
        ring = ring_of(blocks, factor)
    seen = observe(blocks, weight, ring, bounded(blocks.plain, middle, root))
    if len(seen.residual) == 0:
        return None
    features, groups = features_at(seen.position, seen.colour, seen.ring, size)
    coefficients, dual = _fit(seen, features, groups)
    if noise_mask:
        trust = (continued / CONTINUED).clamp(max=1).square()
        of_whole = torch.isin(groups, torch.tensor(WHOLE_PICTURE, device=groups.device))
        coefficients = coefficients * torch.where(of_whole, trust, 1)[:, None]
    return Drift(
        at, size, seen.position, dual, coefficients, coefficients[groups == COLOUR_GROUP].T, middle, root,
        limit=2 * seen.residual.detach().abs().amax(dim=0)[:, None, None], step=max(CELL // 2, 2 * blocks.side),
    )  # fmt: skip


@dataclass(frozen=True)
class Drift:
    """What is estimated of one picture, as a function of position and colour."""

    at: tuple[int, int]
    """Row and column of the frame at which its surroundings begin."""
    size: tuple[int, int]
    """Of its surroundings."""
    position: Tensor
    """(N, 2), rows and columns in its surroundings, of what was observed."""
    dual: Tensor
    """(N, 3), the kernel's coefficients."""
    coefficients: Tensor
    """(P, 3), those of `features_at`."""
    colour_map: Tensor
    """(3, 3), of the colours that `bounded` gives with `middle` and `root`."""
    middle: Tensor
    root: Tensor
    limit: Tensor
    """(3, 1, 1): the ring shows a part of what is inside; nothing beyond twice what is seen is believed."""
    step: int
    """Pixels of the grid on which it is evaluated."""

    def inside(self, part: Surroundings, decoded: Tensor, at: tuple[int, int], step: int) -> Tensor:
        """What to add to `decoded` (3, h, w), the mask's box, of use where it is edited.

        part, at: the box in its surroundings, and where they begin in the frame. step: of the grid, pixels.
        """
        shift = torch.tensor(at, device=decoded.device) - torch.tensor(self.at, device=decoded.device)
        near = part.near(self.position - shift)
        position, dual = self.position[near], self.dual[near]

        def smooth(points: Tensor) -> Tensor:
            """All but the colour map, (N, 3) at (N, 2) points inside the mask."""
            points = points + shift
            ones = torch.ones_like(points[:, :1])
            values, _ = features_at(points, 0 * ones.expand(-1, 3), ones, self.size)
            return values @ self.coefficients + kernel(points, position) @ dual

        field = _on_grid(smooth, part.edited, part.offset, step)
        colour = bounded(decoded, self.middle, self.root).flatten(1)
        correction = field + (self.colour_map @ colour).reshape(decoded.shape)
        return correction.clamp(-self.limit, self.limit)


def features_at(position: Tensor, colour: Tensor, ring: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(N, P) features at N points, and (P,) the group of each: those whose coefficients are of one size."""
    y, x = ((position[:, i : i + 1] / size[i] - 0.5) * 2 for i in (0, 1))
    one = torch.ones_like(x)
    groups = [
        [one],
        [x, y],
        [x * x - 1 / 3, 1.5 * x * y, y * y - 1 / 3],
        [colour],
        [ring],
        [ring * x, ring * y],
    ]
    columns = [torch.cat(group, dim=1) for group in groups]
    numbers = [torch.full((c.shape[1],), i, device=x.device) for i, c in enumerate(columns)]
    return torch.cat(columns, dim=1), torch.cat(numbers)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) covariances between points, 1 at no distance."""
    slow = torch.cdist(a, b).mul_(-1 / LENGTH).exp_()
    # the short one is a power of the long one: one exponential less
    return torch.lerp(slow, slow.square().square_(), SHORT_SHARE)


def _fit(seen: Observations, features: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (P, 3) of the features, and (N, 3) of the kernel's.

    In coordinates that whiten the covariance K of t + noise, L⁻¹ with K = L Lᵀ, this is ridge regression: each group
    of coefficients has the penalty σ²/τ_g².
    """
    noise = NOISE / seen.share.clamp(min=0.05)
    factor = torch.linalg.cholesky(kernel(seen.position, seen.position) + torch.diag(noise))
    white = torch.linalg.solve_triangular(factor, torch.cat([features, seen.residual], dim=1), upper=False)
    x, z = white[:, : features.shape[1]], white[:, features.shape[1] :]
    gram, moment = x.T @ x, x.T @ z
    with torch.no_grad():
        penalty = evidence(z, x, gram, moment, groups)
    coefficients = torch.linalg.solve(gram + torch.diag(penalty), moment)
    dual = torch.linalg.solve_triangular(factor.T, z - x @ coefficients, upper=True)
    return coefficients, dual


def evidence(z: Tensor, x: Tensor, gram: Tensor, moment: Tensor, groups: Tensor) -> Tensor:
    """(P,) penalties under which what is seen is most likely, nearly; the channels share them."""
    count, channels = z.shape
    membership = F.one_hot(groups).float()
    size = membership.sum(dim=0)
    noise = z.square().mean().clamp(min=1e-7)
    spread = torch.full_like(size, 0.01)
    for _ in range(EVIDENCE_STEPS):
        penalty = (noise / spread)[groups]
        inverse = torch.linalg.inv(gram + torch.diag(penalty))
        coefficients = inverse @ moment
        free = count - (1 - penalty * inverse.diagonal()).sum()
        noise = ((z - x @ coefficients).square().sum() / (channels * free.clamp(min=1))).clamp(min=1e-7)
        expected = coefficients.square().mean(dim=1) + inverse.diagonal() * noise
        spread = ((membership.T @ expected) / size).clamp(min=1e-9)
    return (noise / spread)[groups]


def _on_grid(of: Callable[[Tensor], Tensor], edited: Tensor, offset: Sequence[int], step: int) -> Tensor:
    """(3, h, w): `of` points, on a grid of `step` pixels where `edited` (h, w), interpolated between."""
    height, width = edited.shape
    padding = (0, -width % step, 0, -height % step)
    wanted = F.max_pool2d(F.max_pool2d(F.pad(edited.float()[None], padding), step), 3, 1, 1)[0] > 0
    points = (torch.nonzero(wanted) + 0.5) * step + torch.tensor(offset, device=edited.device)
    grid = torch.zeros(*wanted.shape, 3, device=edited.device)
    grid[wanted] = torch.cat([of(part) for part in points.split(4096)])
    size = (wanted.shape[0] * step, wanted.shape[1] * step)
    return F.interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bilinear")[0, :, :height, :width]
