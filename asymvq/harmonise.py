"""Colours and light of an edit made to continue those of the kept pixels. No weights, any decoder.

What a decode gets wrong is seen on kept pixels, where the source is known: r = image - decoded. What of it goes on
inside the mask is estimated as universal kriging does, a Gaussian process with a mean that is linear in a few features
(Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006, section 2.7):

    r(p) = features(p) · b + t(p) + noise,      b_g ~ N(0, τ_g²),      t ~ GP(0, σ² k)

- features: constant, linear and quadratic in the position (drift of a whole picture); the decode's colour (contrast,
  saturation, hue); and the first of them within a few pixels of the mask only, where latent cells that the mask
  touches reach over its border: with a noise mask that is all that is seen of the drift inside.
- k: exponentials, as smooth as a membrane: what is near a kept pixel errs as it does.
- τ_g and σ are chosen by each picture itself (evidence, MacKay 1992; EM steps): a good autoencoder's decode of its own
  latent has nothing to mend and is left alone, a drifting one is corrected fully.

Pixels where the content differs across the mask's border are mixed by the decoder and tell nothing of drift: the jump
there weights them down. Large residuals weigh less (Cauchy). The colour map falls to nothing for colours that no kept
pixel has.

With a noise mask, latent cells that the mask does not touch are the source's own. What kept pixels away from it err by
then comes from normalisation over the whole picture. It tells of the edit where that continues the picture; where its
content is another, only the mask's surroundings do.

Of a video, what is estimated from the frames around each is averaged, so that it does not flicker. Frames whose
corrections differ inside the mask, as after a cut or where the light changes, count less.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import starmap
from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from .detail import DETAIL, low_pass

CELL = 8
"""Pixels a side of the means that are observed beside the mask; COARSE times as many elsewhere."""
COARSE = 4
MAX_SIDE = 320
"""Larger surroundings are looked at in blocks of 2, 4 or CELL pixels a side."""
MAX_OBSERVATIONS = 1200
"""Larger cells where there would be more: what a Cholesky factorisation takes milliseconds for."""
MARGIN = 64
"""Pixels around the mask that are looked at, at least; else half the mask's length."""
LENGTH, SHORT_SHARE = 24.0, 0.3
"""Pixels over which the kernel falls to 1/e, and the share of it that falls over a quarter of them."""
REACH = 3.0
"""Lengths beyond which the kernel counts as nothing inside the mask."""
NOISE = 0.3
"""Variance of a cell's own error beside the kernel's."""
OUTLIER = 0.3
"""Residual, in [-1, 1], that weighs half."""
MIXED = 0.1
"""Jump of the content across the mask's border, likewise."""
COLOUR_REACH = 2.5
"""Standard deviations of the kept colours at which the colour map is strongest; beyond, it falls again."""
COLOUR_FLOOR = 0.0005
"""Variance added to the kept colours': what cannot be told apart from grey."""
COLOUR_GROUP, WHOLE_PICTURE = 3, (0, 1, 2, 3)
"""In `_features`: the colour map's group, and those that pixels away from the mask tell of."""
CONTINUED, JUMP = 0.4, 0.15
"""Share of the mask's border from which on an edit continues the picture; the jump across it that counts half."""
RING = 1.25
"""Latent cells that an edited one reaches over the mask's border, the decoder's own reach included."""
EVIDENCE_STEPS = 6
FRAMES = 2
"""Of a video, before and after each frame: those whose estimates are averaged."""
STEADY = 0.03
"""Root mean square, in [-1, 1], of what two frames' corrections differ by: with it a weight falls as a Gaussian."""


def harmonise(
    decoded: Tensor,
    *,
    image: Tensor,
    mask: Tensor,
    strength: float = 1.0,
    plain: Tensor | None = None,
    factor: int = 8,
    witness: Tensor | None = None,
    noise_mask: bool = False,
    in_place: bool = False,
    frames: int = 1,
) -> Tensor:
    """`decoded` with the edited pixels' colours and light made to continue the kept ones'. Compose afterwards.

    Args:
        decoded: (B, 3, H, W) in about [-1, 1]. Gradients flow through it.
        image: (B or 1, 3, H, W) in [-1, 1], the source. Only kept pixels count.
        mask: (B or 1, 1, H, W) in [0, 1] or bool, 1 = edited. What is above 0 is corrected, fully; softness is for
            composing.
        strength: 0 changes nothing, 1 is what was estimated, linear between.
        plain: (B, 3, H, W), the same latent's decode without its condition. A conditional decoder gives kept pixels
            back, which then tell nothing; what the plain decode gets wrong does. And it corrects a part of the drift by
            itself: so colours and light are taken from the harmonised plain decode, and detail from `decoded`.
        factor: pixels a latent cell, as the noise mask has them.
        witness: (B or 1, 1, H, W) bool, the pixels that were decoded at all. Where a part alone was, the rest is the
            source and tells nothing.
        noise_mask: whether the latent was made with a noise mask, so that cells that the mask does not touch are the
            source's own.
        in_place: whether `decoded` may be overwritten, which saves a copy of it. Not where gradients are recorded.
        frames: so many pictures in a row are frames of one video; 1: each stands for itself. What is estimated of a
            frame is averaged with what is of the FRAMES before and after it, where they agree, so that colours and
            light do not flicker.

    Returns:
        (B, 3, H, W) of the dtype of `decoded`, computed in float32. Kept pixels stay as decoded; so does all where no
        pixel is kept or none is edited.

    Raises:
        ValueError: shapes or counts that do not fit (the number of pictures is a multiple of `frames`), or a strength
            outside 0 to 1.
    """
    _check(decoded, image, mask, strength, plain, witness)
    check_frames(frames, decoded.shape[0])
    if strength == 0:
        return decoded
    result = decoded if in_place else decoded.clone()

    def of(given: Tensor | None, i: int) -> Tensor | None:
        return None if given is None else given[i % len(given)]

    pictures = (
        Picture(result[i], image[i % len(image)], mask[i % len(mask)], of(plain, i), of(witness, i))
        for i in range(len(result))
    )
    for _ in harmonise_each(pictures, strength=strength, factor=factor, noise_mask=noise_mask, frames=frames):
        pass
    return result


@dataclass(frozen=True)
class Picture:
    """One of those that `harmonise` takes: shapes and values as there, without the batch."""

    decoded: Tensor
    image: Tensor
    mask: Tensor
    plain: Tensor | None = None
    witness: Tensor | None = None
    at: tuple[int, int] = (0, 0)
    """Row and column of its first pixel in a video's frame, of which it may be a part."""


def harmonise_each(
    pictures: Iterable[Picture], *, strength: float, factor: int, noise_mask: bool, frames: int = 1
) -> Iterator[Tensor]:
    """`decoded` of each picture, harmonised in place, in their order. Arguments as `harmonise`.

    Of a video a frame comes once the FRAMES after it were taken: a long one takes the memory of a few.
    """
    # iterators that hold no picture once it was given: it may be a part of much more
    estimates = map(partial(_Estimate.of, factor=factor, noise_mask=noise_mask), pictures)
    return starmap(lambda one, others: one.correct(others, strength, factor), _beside(estimates, frames))


def _beside(estimates: Iterable[_Estimate], frames: int) -> Iterator[tuple[_Estimate, list[_Drift]]]:
    """Each picture, with what is estimated of up to FRAMES before and after it in its video."""
    before: deque[_Drift | None] = deque(maxlen=FRAMES)
    waiting: deque[_Estimate] = deque()

    def first() -> tuple[_Estimate, list[_Drift]]:
        one = waiting.popleft()
        others = [*before, *(other.drift for other in waiting)]
        before.append(one.drift)
        return one, [drift for drift in others if drift is not None]

    for number, _ in enumerate(map(waiting.append, estimates), 1):
        if number % frames == 0:
            while waiting:
                yield first()
            before.clear()
        elif len(waiting) > FRAMES:
            yield first()


Part = tuple[EllipsisType, slice, slice]


@dataclass(frozen=True)
class _Inside:
    """The mask's box in its surroundings."""

    around: Part
    inside: Part
    edited_around: Tensor
    """(H, W) bool: what is edited of the surroundings."""

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


def _surroundings(mask: Tensor) -> tuple[Part, Part] | None:
    """Rows and columns of the mask (H, W) with what is around it, and its own; None where nothing is edited, or all."""
    touched = torch.nonzero(_any_edited(mask, 1)).flatten()
    if len(touched) == 0:
        return None
    top, bottom = touched[[0, -1]].tolist()
    left, right = torch.nonzero(_any_edited(mask[top : bottom + 1], 0)).flatten()[[0, -1]].tolist()
    if (bottom + 1 - top, right + 1 - left) == tuple(mask.shape) and (mask > 0).all():
        return None
    margin = max(MARGIN, (bottom - top + 1) // 2, (right - left + 1) // 2)
    around = slice(max(0, top - margin), bottom + 1 + margin), slice(max(0, left - margin), right + 1 + margin)
    return (..., *around), (..., slice(top, bottom + 1), slice(left, right + 1))


def _any_edited(mask: Tensor, dim: int) -> Tensor:
    return mask.any(dim=dim) if mask.dtype == torch.bool else mask.amax(dim=dim) > 0


def _estimate(
    plain: Tensor,
    image: Tensor,
    part: _Inside,
    known: Tensor | None,
    factor: int,
    noise_mask: bool,
    at: tuple[int, int],
) -> _Drift | None:
    """What the mask's surroundings, plain and image (3, H, W), tell; None where that is nothing.

    known: (1, H, W) bool, what of them was decoded. at: as `_Drift` has it.
    """
    size = (plain.shape[-2], plain.shape[-1])
    blocks = _reduce(plain, image, ~part.edited_around)
    with torch.no_grad():
        weight, continued = _weights(blocks)
        if known is not None and not known.all():
            # a block of which a part was not decoded counts nothing
            gaps = (~known).float()
            weight = weight * (1 - F.max_pool2d(gaps, blocks.side, ceil_mode=True)[0])
        middle, root = _colour_spread(blocks.plain, weight)
        ring = _ring(blocks, factor)
    seen = _observe(blocks, weight, ring, _bounded(blocks.plain, middle, root))
    if len(seen.residual) == 0:
        return None
    features, groups = _features(seen.position, seen.colour, seen.ring, size)
    coefficients, dual = _fit(seen, features, groups)
    if noise_mask:
        trust = (continued / CONTINUED).clamp(max=1).square()
        of_whole = torch.isin(groups, torch.tensor(WHOLE_PICTURE, device=groups.device))
        coefficients = coefficients * torch.where(of_whole, trust, 1)[:, None]
    return _Drift(
        at, size, seen.position, dual, coefficients, coefficients[groups == COLOUR_GROUP].T, middle, root,
        limit=2 * seen.residual.detach().abs().amax(dim=0)[:, None, None], step=max(CELL // 2, 2 * blocks.side),
    )  # fmt: skip


@dataclass(frozen=True)
class _Drift:
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
    """(P, 3), those of `_features`."""
    colour_map: Tensor
    """(3, 3), of the colours that `_bounded` gives with `middle` and `root`."""
    middle: Tensor
    root: Tensor
    limit: Tensor
    """(3, 1, 1): the ring shows a part of what is inside; nothing beyond twice what is seen is believed."""
    step: int
    """Pixels of the grid on which it is evaluated."""

    def inside(self, part: _Inside, decoded: Tensor, at: tuple[int, int], step: int) -> Tensor:
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
            values, _ = _features(points, 0 * ones.expand(-1, 3), ones, self.size)
            return values @ self.coefficients + _kernel(points, position) @ dual

        field = _on_grid(smooth, part.edited, part.offset, step)
        colour = _bounded(decoded, self.middle, self.root).flatten(1)
        correction = field + (self.colour_map @ colour).reshape(decoded.shape)
        return correction.clamp(-self.limit, self.limit)


@dataclass(frozen=True)
class _Estimate:
    """A picture and what was estimated of it, if there is something to correct and something tells."""

    decoded: Tensor
    plain: Tensor | None = None
    part: _Inside | None = None
    drift: _Drift | None = None

    @classmethod
    def of(cls, picture: Picture, factor: int, noise_mask: bool) -> _Estimate:
        device = picture.decoded.device
        covered = picture.mask.to(device)[0]
        parts = _surroundings(covered)
        if parts is None:
            return cls(picture.decoded)
        around, inside = parts
        part = _Inside(around, inside, covered[around] > 0)
        base = picture.decoded if picture.plain is None else picture.plain
        known = None if picture.witness is None else picture.witness[around].to(device)
        image = picture.image.to(device)[around].float()
        at = (picture.at[0] + around[1].start, picture.at[1] + around[2].start)
        with torch.autocast(device.type, enabled=False):
            drift = _estimate(base[around].float(), image, part, known, factor, noise_mask, at)
        return cls(picture.decoded, None if picture.plain is None else picture.plain[inside], part, drift)

    def correct(self, others: Sequence[_Drift], strength: float, factor: int) -> Tensor:
        """`decoded`, in place; `others` are what is estimated of frames beside it."""
        if self.part is None or self.drift is None:
            return self.decoded
        there, edited = self.decoded[self.part.inside], self.part.edited
        below = (there if self.plain is None else self.plain).float()
        with torch.autocast(there.device.type, enabled=False):
            own, *theirs = (d.inside(self.part, below, self.drift.at, self.drift.step) for d in (self.drift, *others))
            correction = _steady(own, theirs, edited)
            if self.plain is not None:
                correction = low_pass(below + correction - there.float(), edited, factor * DETAIL)
            corrected = torch.where(edited, there.float() + strength * correction, there.float())
        self.decoded[self.part.inside] = corrected.to(there.dtype)
        return self.decoded


def _steady(own: Tensor, theirs: Sequence[Tensor], edited: Tensor) -> Tensor:
    """Mean of corrections (3, h, w), those of other frames weighted by how near they are to `own` where edited."""
    total, weights = own, 1.0
    for other in theirs:
        difference = (other - own).detach()[:, edited].square().mean()
        weight = torch.exp(-0.5 * difference / STEADY**2)
        total, weights = total + weight * other, weights + weight
    return total / weights


@dataclass(frozen=True)
class Blocks:
    """Means over blocks of `side`² pixels: one pixel, unless the surroundings are large."""

    side: int
    kept: Tensor
    """(h, w): share of kept pixels."""
    plain: Tensor
    """(3, h, w): mean of the kept ones."""
    residual: Tensor
    """(3, h, w): of image - plain, likewise."""
    inner: Tensor
    """(3, h, w): sum over edited ones of the plain decode, as a share of the block."""
    outer: Tensor
    """(3, h, w): sum over kept ones of the image, likewise."""


def _reduce(plain: Tensor, image: Tensor, kept: Tensor) -> Blocks:
    height, width = kept.shape
    side = 1
    while side < CELL and height * width > (MAX_SIDE * side) ** 2:
        side *= 2
    # a part of each block's rows is enough
    rows = slice(None) if side < CELL // 2 else slice(side // 4, side // 4 + side // 2)
    plain, image, kept = (_blocks_of(t, side)[..., rows, :] for t in (plain, image, kept[None]))
    # what is no number under the mask counts nothing
    values = (kept.float(), torch.where(kept, plain, 0), torch.where(kept, image, 0), plain)
    share, kept_plain, outer, all_plain = (_mean_of_blocks(value, side) for value in values)
    norm = share.clamp(min=0.5 / CELL**2)
    return Blocks(side, share[0], kept_plain / norm, (outer - kept_plain) / norm, all_plain - kept_plain, outer)


def _blocks_of(picture: Tensor, side: int) -> Tensor:
    """(C, H, W) as (C, H / side, side, W), zeros where that ends beyond the picture."""
    height, width = picture.shape[-2:]
    if height % side or width % side:
        picture = F.pad(picture, (0, -width % side, 0, -height % side))
    return picture.unflatten(-2, (-1, side))


def _mean_of_blocks(blocks: Tensor, side: int) -> Tensor:
    """(C, h, side or fewer rows, W) to (C, h, W / side)."""
    rows = blocks.mean(dim=-2)
    return rows if side == 1 else rows.unflatten(-1, (-1, side)).mean(dim=-1)


@dataclass(frozen=True)
class Observations:
    """Weighted means over N cells of kept pixels."""

    position: Tensor
    """(N, 2), rows and columns in pixels."""
    residual: Tensor
    """(N, 3)."""
    colour: Tensor
    """(N, 3), as `_bounded` gives them."""
    ring: Tensor
    """(N, 1): share of an edited latent cell in them."""
    share: Tensor
    """(N,): weight in full cells of CELL² pixels."""


def _weights(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """(h, w) in [0, 1]: how much a block tells of drift, 0 for edited ones; and () how far the edit continues them."""
    sums = torch.cat([blocks.inner, (1 - blocks.kept)[None], blocks.outer, blocks.kept[None]])
    # windows of 20 pixels, on cells of 4
    step = max(1, 4 // blocks.side)
    if step > 1:
        sums = F.avg_pool2d(sums[None], step, ceil_mode=True, count_include_pad=False)[0]
    half = 2 if blocks.side <= 4 else 1
    sums = _window_mean(_window_mean(sums, half, -2), half, -1)
    inner, outer = sums[:3] / sums[3].clamp(min=1e-3), sums[4:7] / sums[7].clamp(min=1e-3)
    square = (inner - outer).square().mean(dim=0)
    border = sums[3] * sums[7]
    continued = (border / (1 + square / JUMP**2)).sum() / border.sum().clamp(min=1e-6)
    jump = square * (sums[3] > 0.01) * 2 * sums[3]
    if step > 1:
        jump = jump.repeat_interleave(step, 0).repeat_interleave(step, 1)
        jump = jump[: blocks.kept.shape[0], : blocks.kept.shape[1]]
    outlier = blocks.residual.square().mean(dim=0) / OUTLIER**2
    return blocks.kept / (1 + outlier) / (1 + jump / MIXED**2), continued


def _window_mean(values: Tensor, half: int, dim: int) -> Tensor:
    """Means over 2 · half + 1 neighbours along a dimension; beyond its ends there is 0."""
    length, mean = values.shape[dim], values.clone()
    for shift in range(1, min(half, length - 1) + 1):
        mean.narrow(dim, shift, length - shift).add_(values.narrow(dim, 0, length - shift))
        mean.narrow(dim, 0, length - shift).add_(values.narrow(dim, shift, length - shift))
    return mean.div_(2 * half + 1)


def _colour_spread(plain: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3, 1) and inverse root of the covariance (3, 3) of the kept colours."""
    colours, share = plain.flatten(1), weight.flatten() / weight.sum().clamp(min=1e-6)
    middle = (colours * share).sum(dim=1, keepdim=True)
    centred = colours - middle
    covariance = (centred * share) @ centred.T + COLOUR_FLOOR * torch.eye(3, device=plain.device)
    root = torch.linalg.cholesky(covariance)
    return middle, torch.linalg.solve_triangular(root, torch.eye(3, device=plain.device), upper=False)


def _bounded(picture: Tensor, middle: Tensor, root: Tensor) -> Tensor:
    """Colours (3, H, W) in standard deviations of the kept ones; those that are far from all of these shrink to 0."""
    z = root @ (picture.flatten(1) - middle)
    return (z / (1 + z.square().sum(dim=0) / COLOUR_REACH**2)).reshape(picture.shape)


def _ring(blocks: Blocks, factor: int) -> Tensor:
    """(h, w): 1 at the mask's border, falling to 0 where its latent cells no longer reach."""
    reach = max(1, round(RING * factor / blocks.side))
    grown = (1 - blocks.kept)[None]
    total = torch.zeros_like(grown)
    for _ in range(reach):
        total += grown
        grown = _neighbours_max(_neighbours_max(grown, -2), -1)
    return total[0] / reach


def _neighbours_max(values: Tensor, dim: int) -> Tensor:
    """Of three neighbours along a dimension each: faster than pooling."""
    largest, length = values.clone(), values.shape[dim] - 1
    for start, beside in ((0, 1), (1, 0)):
        part = largest.narrow(dim, start, length)
        torch.maximum(part, values.narrow(dim, beside, length), out=part)
    return largest


def _observe(blocks: Blocks, weight: Tensor, ring: Tensor, colour: Tensor) -> Observations:
    """Means over cells: fine ones beside the mask, coarse ones elsewhere."""
    height, width = weight.shape
    rows, columns = (
        (torch.arange(n, device=weight.device) + 0.5) * blocks.side for n in (height, width)
    )  # of the blocks' middles
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    values = torch.cat([torch.ones_like(weight)[None], places, blocks.residual, colour, ring[None]]) * weight
    edited = (1 - blocks.kept)[None]
    cell = CELL // blocks.side
    while True:
        block = cell * COARSE
        padding = (0, -width % block, 0, -height % block)
        sums = F.avg_pool2d(F.pad(values, padding), cell) * (cell * blocks.side / CELL) ** 2
        near = F.max_pool2d(F.max_pool2d(F.pad(edited, padding), cell), 5, stride=1, padding=2) > 0
        coarse = F.avg_pool2d(torch.where(near, 0, sums), COARSE) * COARSE**2
        cells = torch.cat([torch.where(near, sums, 0).flatten(1), coarse.flatten(1)], dim=1).T
        cells = cells[cells[:, 0] > 0.02]
        if len(cells) <= MAX_OBSERVATIONS:
            break
        cell *= 2
    share, means = cells[:, 0], cells[:, 1:] / cells[:, :1]
    return Observations(means[:, :2].detach(), means[:, 2:5], means[:, 5:8], means[:, 8:].detach(), share.detach())


def _features(position: Tensor, colour: Tensor, ring: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
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


def _kernel(a: Tensor, b: Tensor) -> Tensor:
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
    factor = torch.linalg.cholesky(_kernel(seen.position, seen.position) + torch.diag(noise))
    white = torch.linalg.solve_triangular(factor, torch.cat([features, seen.residual], dim=1), upper=False)
    x, z = white[:, : features.shape[1]], white[:, features.shape[1] :]
    gram, moment = x.T @ x, x.T @ z
    with torch.no_grad():
        penalty = _evidence(z, x, gram, moment, groups)
    coefficients = torch.linalg.solve(gram + torch.diag(penalty), moment)
    dual = torch.linalg.solve_triangular(factor.T, z - x @ coefficients, upper=True)
    return coefficients, dual


def _evidence(z: Tensor, x: Tensor, gram: Tensor, moment: Tensor, groups: Tensor) -> Tensor:
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


def _check(
    decoded: Tensor, image: Tensor, mask: Tensor, strength: float, plain: Tensor | None, witness: Tensor | None
) -> None:
    if not 0 <= strength <= 1:
        raise ValueError(f"Expected a strength from 0 to 1, but got {strength}.")
    if decoded.ndim != 4 or decoded.shape[1] != 3:
        raise ValueError(f"Expected decoded of shape (B, 3, H, W), but got {tuple(decoded.shape)}.")
    if plain is not None and plain.shape != decoded.shape:
        raise ValueError(
            f"Expected plain of the shape of decoded, {tuple(decoded.shape)}, but got {tuple(plain.shape)}. Give the "
            "plain decode of the same latents."
        )
    given = [("image", image, 3), ("mask", mask, 1), *([] if witness is None else [("witness", witness, 1)])]
    for name, tensor, channels in given:
        count, size = decoded.shape[0], decoded.shape[-2:]
        if tensor.ndim != 4 or tensor.shape[0] not in (1, count) or tensor.shape[1:] != (channels, *size):
            raise ValueError(
                f"Expected {name} of shape ({count} or 1, {channels}, {size[0]}, {size[1]}), as decoded is, but got "
                f"{tuple(tensor.shape)}. Scale it to the decode's size."
            )


def check_frames(frames: int, count: int) -> None:
    """Raises ValueError where `count` pictures are no videos of so many frames."""
    if frames < 1 or count % frames:
        raise ValueError(
            f"Expected frames to divide the number of pictures, {count}, but got {frames}. Give whole videos of so "
            "many frames each, or 1 for pictures that stand for themselves."
        )
