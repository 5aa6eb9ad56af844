"""An edited picture laid over its source again: edit models give the whole picture back shifted, zoomed or turned.

Both pictures are reduced to what drift of colours and light leaves alone (local mean and spread normalised). Phase
correlation over a few scales and angles gives the start; Gauss-Newton steps on a pyramid refine it to parts of a pixel
(Lucas & Kanade 1981; the gradient is the mean of both pictures', Malis 2004), on luma, and last on the three colours.
What the edit changed does not fit any position and weighs next to nothing (Geman & McClure's weights on the local
error as a share of the local texture, so that plain parts, where every position fits, do not set the scale).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import edited as is_edited
from .values import image_values, mask_values

COARSE_SIDE, FINEST_SIDE = 192, 2048
"""Long side, pixels, of the pyramid's coarsest picture, and what it has at most."""
STEPS = 12
SCALES = tuple(1 + 0.0125 * i for i in range(-6, 7))
ANGLES = (-1.5, -0.75, 0.0, 0.75, 1.5)
"""Degrees."""
WHITENING, CANDIDATES, CANDIDATE_STEPS = (0.5, 1.0), 3, 8
LARGEST_SHIFT = 0.12
"""Of a side."""
FINEST, SPREAD, LEAST_SPREAD = 1.6, 6.0, 0.05
"""Sigmas, pixels of a level: of the finest detail looked at (a VAE invents what is finer) and of the local statistics;
and the spread, of 1, below which there is no texture."""
WINDOW = 9
"""Pixels a side over which an error is averaged before it is weighed."""
USUAL, OUTLIER, FAINT = 0.3, 3.0, 0.02
"""The share of the texture that surely fits: how its worst errs is usual; how many times that weighs a quarter; and the
power, of a normalised picture's 1, below which there is no texture to fit."""
LEAST_AGREEMENT, LEAST_SHARE = 0.55, 0.2
"""Local correlation of what agrees, and the share of the textured picture that has to."""
LARGEST_DOUBT = 0.35
"""Pixels (of a source of up to 1 024, else of its share) by which two halves of a picture may disagree."""
NOTHING = 0.04
"""Pixels of mean displacement below which resampling would only blur."""
SAMPLE = 16
"""Pixels between the points at which displacements are compared."""


@dataclass(frozen=True)
class Aligned:
    """What `align` found, picture by picture.

    `picture` (B, 3, H, W) has the source's size, values in the range given. Where `covered` (B, 1, H, W, bool) is
    false, the edited picture did not reach and the source stands. `shift` (B, 2) is by how many source pixels the
    edited picture lay too far right and down, at its middle; `scale` (B,) how many times as large it was drawn;
    `rotation` (B,) by how many degrees it was turned clockwise. All are against the edited picture laid over it:
    scaled to its size, or with equal scale of both sides where that fits better. `sure` (B,) bool: where it is false,
    nothing was found that could be relied on, and the picture is the edited one, scaled to the source's size alone.
    """

    picture: Tensor
    covered: Tensor
    shift: Tensor
    scale: Tensor
    rotation: Tensor
    sure: Tensor


@dataclass(frozen=True)
class _Motion:
    """From a source's pixels to an edited picture's, both from the middle and in source pixels.

    q = [[1 + a, -b], [b, 1 + a]] p + (x, y), with `values` (x, y, a, b). `extent` is the edited picture's height and
    width in source pixels before that.
    """

    values: Tensor
    extent: tuple[float, float]

    def apply(self, points: Tensor) -> Tensor:
        """(…, 2) points as (x, y)."""
        x, y, a, b = self.values
        px, py = points[..., 0], points[..., 1]
        return torch.stack([(1 + a) * px - b * py + x, b * px + (1 + a) * py + y], dim=-1)

    def sample(self, edited: Tensor, points: Tensor) -> Tensor:
        """(C, h, w) of `edited` (C, …, …) at source points (h, w, 2)."""
        grid = self.apply(points) * 2 / points.new_tensor(self.extent[::-1])
        return F.grid_sample(edited[None], grid[None], "bicubic", "border", align_corners=False)[0]

    def covers(self, points: Tensor, rim: float = 0.0) -> Tensor:
        """(h, w) bool: which source points lie in the edited picture, `rim` source pixels off its border."""
        half = points.new_tensor(self.extent[::-1]) / 2 - rim
        return (self.apply(points).abs() <= half).all(dim=-1)


def align(
    edited: Tensor, source: Tensor, *, mask: Tensor | None = None, image_range: tuple[float, float] = (-1.0, 1.0)
) -> Aligned:
    """Lays edited pictures over their sources: shift, scale and small rotations, to parts of a pixel.

    Up to half of the area may have been changed; colours and light may have drifted. A picture of another size is
    scaled to the source's.

    Args:
        edited: (B, 3, h, w), values in `image_range` or integers.
        source: (B or 1, 3, H, W), likewise.
        mask: (B or 1, 1, H, W) in [0, 1], of the source's size: what it edits is not looked at. Not needed.
        image_range: of both pictures.

    Raises:
        ValueError: shapes or counts that do not fit, or values out of range.
    """
    _check(edited, source, mask)
    low, high = image_range
    edited, source = (image_values(t, low=low, high=high) for t in (edited, source))
    edited = edited.to(source.device)
    left_out = None if mask is None else is_edited(mask_values(mask).to(source.device))
    parts = []
    for i in range(edited.shape[0]):
        ignored = None if left_out is None else left_out[i % left_out.shape[0], 0]
        parts.append(_align_one(edited[i], source[i % source.shape[0]], ignored, low, high))
    return Aligned(*(torch.stack(part) for part in zip(*parts, strict=True)))


def _align_one(
    edited: Tensor, source: Tensor, ignored: Tensor | None, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    untouched = _Motion(torch.zeros(4, device=source.device), (source.shape[-2], source.shape[-1]))
    found = _find(_unit(edited, low, high), _unit(source, low, high), ignored)
    motion = untouched if found is None or _distance(found, untouched, source) < NOTHING else found
    picture, covered = _resampled(edited, source, motion)
    x, y, a, b = motion.values.cpu().double().tolist()
    if motion.extent[0] / motion.extent[1] == untouched.extent[0] / untouched.extent[1]:
        a = (1 + a) * untouched.extent[0] / motion.extent[0] - 1
        b = b * untouched.extent[0] / motion.extent[0]
    return (
        picture.clamp(low, high).to(source.dtype),
        covered[None],
        torch.tensor([x, y]),
        torch.tensor(math.hypot(1 + a, b)),
        torch.tensor(math.degrees(math.atan2(b, 1 + a))),
        torch.tensor(found is not None),
    )


def _resampled(edited: Tensor, source: Tensor, motion: _Motion) -> tuple[Tensor, Tensor]:
    """The edited picture on the source's pixels, and (H, W) bool where it is; elsewhere it is the source."""
    height, width = source.shape[-2:]
    nothing = not motion.values.any() and motion.extent == (height, width)
    if nothing and edited.shape == source.shape:
        return edited, torch.ones(height, width, dtype=torch.bool, device=source.device)
    smaller = [min(have, round(want)) for have, want in zip(edited.shape[-2:], motion.extent, strict=True)]
    picture = _resized(edited.float(), smaller)  # so that nothing is skipped where it is drawn smaller
    points = _points(height, width, 1.0, source.device)
    covered = motion.covers(points, -0.25)
    return torch.where(covered, motion.sample(picture, points), source.float()), covered


def _find(edited: Tensor, source: Tensor, ignored: Tensor | None) -> _Motion | None:
    """How `edited` (3, h, w) lies over `source` (3, H, W), both in [0, 1]; None where that is not certain."""
    height, width = source.shape[-2:]
    if min(height, width, *edited.shape[-2:]) < 32:
        return None
    side = max(height, width)
    ratios = [1.0]
    while max(ratios[-1] * side / 2, 1) >= COARSE_SIDE * 0.75:
        ratios.append(ratios[-1] / 2)
    ratios = [ratio for ratio in ratios if ratio * side <= FINEST_SIDE][::-1]
    grey = _luma(edited), _luma(source)
    candidates = [_start(*grey, ignored, ratios[0], extent) for extent in _extents(edited, source)]
    if len(candidates) > 1:
        levels = [_Level.make(*grey, ignored, ratios[:2][-1], motion.extent) for motion in candidates]
        candidates = [level.refine(motion) for level, motion in zip(levels, candidates, strict=True)]
        misfits = [level.compare(motion).misfit for level, motion in zip(levels, candidates, strict=True)]
        candidates = [candidates[misfits.index(min(misfits))]]
    motion = candidates[0]
    for ratio in ratios[:-1]:
        motion = _Level.make(*grey, ignored, ratio, motion.extent).refine(motion)
    for pictures in ((edited, source), grey):  # grey for colours that are all others now
        level = _Level.make(*pictures, ignored, ratios[-1], motion.extent)
        refined = level.refine(motion)
        if level.trusts(refined):
            return refined
    return None


def _start(
    edited: Tensor, source: Tensor, ignored: Tensor | None, ratio: float, extent: tuple[float, float]
) -> _Motion:
    """Of the scales, angles and shifts with the highest peaks of phase correlation, the one that fits best, refined.

    Peaks alone would follow a large edit in the middle: what fits is judged with weights.
    """
    level = _Level.make(edited, source, ignored, ratio, extent)
    h, w = level.source.shape[-2:]
    across, down = (_taper(n, source.device) for n in (w, h))
    window = down[:, None] * across
    spectrum = torch.fft.rfft2(level.source[0] * window * level.weight).conj()
    reach_y, reach_x = (max(2, int(LARGEST_SHIFT * n)) for n in (h, w))
    found: dict[float, list[tuple[float, _Motion]]] = {power: [] for power in WHITENING}
    for scale in SCALES:
        for angle in map(math.radians, ANGLES):
            turned = source.new_tensor([0, 0, scale * math.cos(angle) - 1, scale * math.sin(angle)])
            motion = _Motion(turned, extent)
            warped = motion.sample(level.edited, level.points)[0] * motion.covers(level.points)
            cross = torch.fft.rfft2(warped * window) * spectrum
            for power, peaks in found.items():
                surface = torch.fft.irfft2(cross / cross.abs().clamp(min=1e-6) ** power, (h, w))
                surface = torch.roll(surface, (reach_y, reach_x), (0, 1))[: 2 * reach_y + 1, : 2 * reach_x + 1]
                row, column = divmod(int(surface.argmax()), surface.shape[1])
                shift = turned.new_tensor([(column - reach_x) / ratio, (row - reach_y) / ratio, 0, 0])
                peaks.append((float(surface.max()), _Motion(turned + shift, extent)))
    motions = [_Motion(torch.zeros(4, device=source.device), extent)]
    for peaks in found.values():
        motions += [motion for _, motion in sorted(peaks, key=lambda pair: -pair[0])[:CANDIDATES]]
    refined = [level.refine(motion, steps=CANDIDATE_STEPS) for motion in motions]
    return min(refined, key=lambda motion: level.compare(motion).misfit)


def _taper(length: int, device: torch.device) -> Tensor:
    """(length,): 1, falling to 0 over the outer eighths."""
    places = (torch.arange(length, device=device) + 0.5) / length
    return (torch.minimum(places, 1 - places) * 8).clamp(max=1).mul(math.pi / 2).sin()


def _extents(edited: Tensor, source: Tensor) -> list[tuple[float, float]]:
    """Heights and widths, in source pixels, that the edited picture may have: stretched over the source, or with equal
    scale of both sides, cut off or with a rim.
    """
    height, width = source.shape[-2:]
    extents = [(float(height), float(width))]
    rows, columns = height / edited.shape[-2], width / edited.shape[-1]
    if abs(rows / columns - 1) > 0.003:
        extents += [(edited.shape[-2] * ratio, edited.shape[-1] * ratio) for ratio in (rows, columns)]
    return extents


class _Compared(NamedTuple):
    """The edited picture moved (C, h, w); where it may be looked at (h, w); and around each of those pixels the squared
    error and the power of both pictures' texture (h, w).
    """

    warped: Tensor
    seen: Tensor
    error: Tensor
    power: Tensor

    @property
    def misfit(self) -> float:
        """How little agrees, from 0 to 1."""
        return float((self.seen * self.error / (self.error + 0.5)).sum() / self.seen.sum().clamp(min=1))


@dataclass(frozen=True)
class _Level:
    """Both pictures at one size: `source` and `edited` (C, h, w), normalised; `points` (h, w, 2), the source's pixels
    from its middle; `weight` (h, w), 0 where it is not looked at.
    """

    source: Tensor
    edited: Tensor
    points: Tensor
    weight: Tensor
    ratio: float
    whole: tuple[float, float]
    """Height and width of the source."""

    @classmethod
    def make(
        cls, edited: Tensor, source: Tensor, ignored: Tensor | None, ratio: float, extent: tuple[float, float]
    ) -> _Level:
        whole = (float(source.shape[-2]), float(source.shape[-1]))
        size = [max(16, round(side * ratio)) for side in source.shape[-2:]]
        other = [max(16, round(side * ratio)) for side in extent]
        weight = torch.ones(size, device=source.device)
        if ignored is not None:
            weight = 1 - F.adaptive_max_pool2d(ignored.float()[None], size)[0]
        points = _points(size[0], size[1], ratio, source.device)
        points = points * (points.new_tensor([source.shape[-1] / size[1], source.shape[-2] / size[0]]) * ratio)
        return cls(
            _normalised(_resized(source, size)),
            _normalised(_resized(edited, other)),
            points,
            weight,
            ratio,
            whole,
        )

    def compare(self, motion: _Motion) -> _Compared:
        warped = motion.sample(self.edited, self.points)
        seen = self.weight * motion.covers(self.points, 2 / self.ratio)
        error = (warped - self.source).square().mean(dim=0)
        power = (warped.square() + self.source.square()).mean(dim=0) / 2
        error, power = _mean(torch.stack([error, power]) * seen) / _mean(seen[None]).clamp(min=1e-3)
        return _Compared(warped, seen, error, power)

    def refine(self, motion: _Motion, steps: int = STEPS) -> _Motion:
        """Gauss-Newton, until nothing moves by more than 0.003 pixels of the level."""
        for _ in range(steps):
            before, motion = motion, self.step(motion, self.compare(motion))
            change = (motion.values - before.values).abs() * motion.values.new_tensor([1, 1, self.reach, self.reach])
            if float(change.max()) < 0.003 / self.ratio:
                break
        return motion

    @property
    def reach(self) -> float:
        """Source pixels from the middle to the farthest side."""
        return float(self.points.abs().max().clamp(min=1))

    def step(self, motion: _Motion, compared: _Compared, part: Tensor | None = None) -> _Motion:
        """One of Gauss and Newton's. `part` (h, w): the share of each pixel that is looked at."""
        warped, seen, error, power = compared
        if part is not None:
            seen = seen * part
        if seen.sum() < 64:
            return motion
        error = error / (power + FAINT)
        usual = _quantile(error, power * seen, USUAL).clamp(min=1e-3)
        weight = seen / (1 + error / (OUTLIER * usual)) ** 2
        gradients = zip(_gradient(warped), _gradient(self.source), strict=True)
        down, right = ((a + b) * (self.ratio / 2) for a, b in gradients)
        reach = self.reach
        x, y = (self.points / reach).unbind(-1)
        slopes = torch.stack([right, down, right * x + down * y, down * x - right * y])
        weighted = (slopes * weight).flatten(1)
        gram = (weighted @ slopes.flatten(1).T).cpu().double()
        moment = (weighted @ (self.source - warped).flatten()).cpu().double()
        gram = gram + 1e-6 * gram.diagonal().mean() * torch.eye(4, dtype=gram.dtype)
        change = torch.linalg.lstsq(gram, moment[:, None]).solution[:, 0].to(motion.values)
        return _Motion(motion.values + change / change.new_tensor([1, 1, reach, reach]), motion.extent)

    def trusts(self, motion: _Motion) -> bool:
        """Whether enough of the picture agrees, and two halves of it (a chequerboard) agree on the motion."""
        compared = self.compare(motion)
        still = _Motion(torch.zeros_like(motion.values), self.whole)
        moves = _distance(motion, still, self.points) > NOTHING
        if moves and compared.misfit > self.compare(still).misfit:
            return False
        seen = compared.seen
        a, b = self.source * seen, compared.warped * seen
        both, own, others = _mean(torch.stack([(p * q).mean(dim=0) for p, q in ((a, b), (a, a), (b, b))]))
        spreads = own * others
        together = both / spreads.clamp(min=1e-6).sqrt()
        textured = seen * (spreads.sqrt() > 0.05)
        share = float((textured * (together > LEAST_AGREEMENT)).sum() / textured.sum().clamp(min=1))
        if share < LEAST_SHARE or float(textured.mean()) < 0.02:
            return False
        cells = (torch.tensor(seen.shape) / 8).ceil().long().tolist()
        rows, columns = (torch.arange(n, device=seen.device) // cell for n, cell in zip(seen.shape, cells, strict=True))
        board = ((rows[:, None] + columns) % 2).float()
        halves = [self.step(motion, compared, part) for part in (board, 1 - board)]
        doubt = _distance(halves[0], halves[1], self.points)
        return doubt < LARGEST_DOUBT * max(1.0, self.reach * 2 / 1024)


def _distance(motion: _Motion, other: _Motion, where: Tensor) -> float:
    """Mean distance, source pixels, between two motions over a picture (3, H, W), or over points (h, w, 2)."""
    height, width = where.shape[-2:]
    points = where if width == 2 else _points(height, width, 1.0, where.device)
    points = points[::SAMPLE, ::SAMPLE]
    scale = [points.new_tensor(m.extent[::-1]) for m in (motion, other)]
    first, second = motion.apply(points) / scale[0], other.apply(points) / scale[1]
    return float(((first - second) * scale[1]).norm(dim=-1).mean())


def _points(height: int, width: int, ratio: float, device: torch.device) -> Tensor:
    """(height, width, 2): x and y of pixels' middles, from the picture's middle, divided by `ratio`."""
    rows, columns = ((torch.arange(n, device=device) + 0.5 - n / 2) / ratio for n in (height, width))
    return torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1)


def _unit(picture: Tensor, low: float, high: float) -> Tensor:
    """(3, H, W) in [0, 1], what is no number as grey."""
    return torch.nan_to_num((picture.float() - low) / (high - low), 0.5, 0.5, 0.5)


def _luma(picture: Tensor) -> Tensor:
    """(3, H, W) to (1, H, W)."""
    weights = picture.new_tensor([0.299, 0.587, 0.114])
    return (picture * weights[:, None, None]).sum(dim=0, keepdim=True)


def _resized(picture: Tensor, size: list[int]) -> Tensor:
    if list(picture.shape[-2:]) == size:
        return picture
    return F.interpolate(picture[None], size, mode="bicubic", antialias=True, align_corners=False)[0]


def _normalised(picture: Tensor) -> Tensor:
    """(C, H, W) less its local mean, over its local spread."""
    picture = blur(picture, FINEST)
    high = picture - blur(picture, SPREAD)
    return high / (blur(high.square(), SPREAD) + LEAST_SPREAD**2).sqrt()


def blur(picture: Tensor, sigma: float) -> Tensor:
    """(C, H, W) with a Gaussian over it; at the border it is continued by its nearest pixels."""
    radius = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=picture.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(picture.dtype)
    rows = F.pad(picture[:, None], (0, 0, radius, radius), "replicate")
    rows = F.conv2d(rows, kernel[None, None, :, None])
    return F.conv2d(F.pad(rows, (radius, radius, 0, 0), "replicate"), kernel[None, None, None])[:, 0]


def _mean(values: Tensor) -> Tensor:
    """(C, H, W), each pixel the mean of those around it."""
    return F.avg_pool2d(values[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]


def _gradient(values: Tensor) -> tuple[Tensor, Tensor]:
    """Of (C, H, W), down and to the right, a pixel of the level."""
    down, right = torch.gradient(values, dim=(-2, -1))
    return down, right


def _quantile(values: Tensor, weight: Tensor, share: float) -> Tensor:
    """Of (H, W), the value below which that share of the weight lies; over at most about a hundred thousand of them."""
    step = max(1, math.isqrt(values.numel() // 100_000))
    values, order = values[::step, ::step].flatten().sort()
    below = weight[::step, ::step].flatten()[order].cumsum(dim=0)
    return values[(below < share * below[-1]).sum().clamp(max=len(values) - 1)]


def _check(edited: Tensor, source: Tensor, mask: Tensor | None) -> None:
    for name, tensor in (("edited", edited), ("source", source)):
        if tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ValueError(f"Expected {name} of shape (B, 3, H, W), but got {tuple(tensor.shape)}.")
    count = edited.shape[0]
    if source.shape[0] not in (1, count):
        raise ValueError(
            f"Expected one source, or one for each of {count} edited pictures, but got {source.shape[0]}. Repeat some."
        )
    size = source.shape[-2:]
    if mask is not None and (mask.ndim != 4 or mask.shape[0] not in (1, count) or mask.shape[1:] != (1, *size)):
        raise ValueError(
            f"Expected mask of shape ({count} or 1, 1, {size[0]}, {size[1]}), as the source is, but got "
            f"{tuple(mask.shape)}. Scale it to the source's size."
        )
