"""Which pixels of an edit were meant to change: those that differ from the source by more than drift and noise do.

An edit model gives the whole picture back, its colours drifted and its detail once through a VAE. What a picture's own
unchanged part says of both is taken off:

1. Drift: offsets that are quadratic in the position and a linear map of the colours, fitted to means of cells. What
   was changed is an outlier (Geman & McClure's weights, their scale falling), and what clipping hides counts nothing.
   A recoloured part can pass for drift, and drift for a recoloured part; of many starts, each a colour shift that some
   part of the picture has, the one is taken that leaves the least unexplained with the least drift.
2. Noise: differences, blurred by three widths, are whitened over the colours (Tyler's M-estimator, 1987) and compared
   with their expected power, which grows with the source's detail there and with its saturation: a sum with factors
   ≥ 0, fitted to the picture (Itakura–Saito divergence, multiplicative updates) with weights that let what was changed
   count little.
3. The logarithms of those ratios, weighted, are the log odds of a change (`WEIGHTS`).
4. The mask of the largest sum of log odds, less the length of its border: total variation, minimised exactly as a
   convex problem (Chan, Esedoglu & Nikolova 2006; Chambolle & Pock 2011).
5. Wide blurs do not say where exactly a change ends. Near the border of that mask, log odds are of the finest blur and
   of likeness: whether a difference is more usual inside or outside, around there (two local normal distributions, as
   in Lankton & Tannenbaum 2008). Their mask is cut once more; of its parts, those with low odds on the whole are noise.

1 and 2 are told three times what did not change: all of the picture; the larger part of it, with the least odds then
(least trimmed squares, Rousseeuw 1984: a large edit spoils what is learnt from all); and what is unlikely by that.

Where the VAE is at hand, the edit is compared with what would have come back if nothing had been changed: the source
with the edit's drift, encoded and decoded. What the VAE does to colours and detail by itself is then no difference.
That drift is fitted to what comes back, starting with none. What a VAE draws at a picture's edges is not what it draws
where the picture goes on, as that of an edit that was laid over its source may: there it is compared with both.

Weights are those of logistic regression over training photos with known edits, as `bench/change_mask.py --fit` does it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .align import blur
from .masks import grow_mask
from .values import image_values

GROW, FEATHER = 8, 8
SMALLEST, HOLES = 0.0005, 0.002
LARGEST_SIDE = 1024
"""Larger pictures are looked at reduced to this."""
ROUND_TRIPS, MULTIPLE = 3, 32
"""Through the VAE, if it is known, and one more with a rim; and pixels, of which the sides of what it is given are
multiples."""
RIM = MULTIPLE
"""Pixels from a picture's edges within which a VAE may draw otherwise than where the picture goes on."""
CELL = 8
CLIPPED = 0.94
"""An edited picture's values beyond this, of 1, may stand for any that are farther out."""
START_PARTS = 4
"""Rows and columns of parts, whose colour shifts the fit of drift starts with."""
DRIFT_STEPS, DRIFT_SCALE, DRIFT_FALL, DRIFT_FLOOR = 10, 0.2, 0.75, 0.04
"""Steps, and the scale, of [-1, 1], at which an error weighs a quarter: at first, from step to step, and at least."""
RIDGE = (1e-6, 3e-4, 3e-4, 1e-3, 1e-3, 1e-3, 5e-4, 5e-4, 5e-4)
"""What drift costs, for each square of a coefficient: of 1, x, y, x², xy, y² and the three colours."""
BLURS, FINEST, POOL = (2.0, 8.0, 24.0), 2.0, 1.0
"""Sigmas, pixels: differences are blurred by the first, in pictures reduced so that this is at most about FINEST; there
their power is averaged over POOL."""
PARTS = 16
"""Of a picture's shorter side: no blur is wider."""
SPREAD = 0.02
"""Of the power around it: what blurring carries over the edge of a change."""
BANDS, DETAIL_POOL, COLOUR_POOL = (1.0, 2.0, 4.0, 8.0), 3.0, 2.0
"""Sigmas that part the source's detail into bands, and over which its power and that of the colours are averaged."""
LEVEL = (0.6 / 127.5) ** 2
"""Power of differences that count nothing: 0.6 of 255 levels."""
OUTLIER = 6.0
"""How many times the expected power weighs a quarter."""
THINNED = 3
"""Every so many pixels, in rows and columns, noise is fitted to."""
LEAST, MOST = -2.0, 12.0
"""Bounds of the logarithms of ratios."""
WEIGHTS, BIAS = (0.86, 1.06, 0.95), -6.92
BORDER_WEIGHTS, BORDER_BIAS = (0.7, 0.31), -1.66
"""Of the finest blur's ratio and of likeness, near a border."""
BAND, SETTLED, APART = 12, 10, 2
"""Pixels from a border: near it; and inside and outside, from where on differences tell what is usual there."""
SHARP, LOCAL, LIKENESS = 1.0, 12, 8.0
"""Sigmas, pixels, of differences near a border, and over which it is told what is usual; and the bound of likeness."""
CERTAIN, BORDER = 4.0, 4.0
"""Bound of the log odds of a pixel; and what a pixel of border costs."""
BEYOND_DOUBT, BEYOND_DOUBT_TOLD = 2.5, 2.75
"""Mean log odds of a part that is kept, and where the VAE is known: on training photos, those of noise had less, of
most edits more. Where it is known, noise had up to 2.5, and all but the smallest parts of edits 3.0 or more."""
SENSITIVITY_RANGE = 4.0
"""By how much the log odds differ between the least and the highest sensitivity."""
CUTS, HALF = 100, 2
"""Steps to find a mask; and how many pixels a side are one for the first."""
MAJORITY, AROUND = 0.6, 4.0
"""Share of the picture that surely did not change; and the sigma, pixels, over which odds are averaged to choose it."""


def change_mask(
    edited: Tensor,
    source: Tensor,
    *,
    sensitivity: float = 0.5,
    grow: int = GROW,
    feather: int = FEATHER,
    smallest: float = SMALLEST,
    fill_holes: float = HOLES,
    image_range: tuple[float, float] = (-1.0, 1.0),
    round_trip: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The mask of what an edit changed on purpose; empty where only colours, light and detail drifted.

    Lay the edit over its source first (`align`). Up to about 40 % of the area may have changed. A tint over a large
    plain part, as a whole sky, may pass for drift.

    Args:
        edited: (B, 3, H, W), values in `image_range` or integers.
        source: (B or 1, 3, H, W), likewise.
        sensitivity: 0 (what is beyond doubt) to 1 (faint changes too, and some noise).
        grow: pixels by which what was found grows in every direction.
        feather: pixels over which the grown mask's edge is soft, about; 0 for a hard one.
        smallest: share of the picture, 0 to 1, below which what was found is noise.
        fill_holes: share of the picture, 0 to 1, up to which what is unchanged within a change is changed too.
        image_range: of all pictures.
        round_trip: the edit's VAE, if it is known: encodes and decodes a picture (1, 3, h, w), values in `image_range`.
            Called four times for each edited picture, with sides that are multiples of 32 pixels and at most about
            1088 long. What the VAE does to colours and detail by itself then does not count.

    Returns:
        (B, 1, H, W) float32 in [0, 1], 1 = changed, on the source's device.

    Raises:
        ValueError: shapes, counts or sizes that do not fit, values or settings out of range, or a round trip of
            another shape.
    """
    _check(edited, source, sensitivity, grow, feather, smallest, fill_holes)
    low, high = image_range
    back = None if round_trip is None else partial(_back, round_trip, image_range)
    more = (sensitivity - 0.5) * SENSITIVITY_RANGE
    masks = []
    for i in range(edited.shape[0]):
        these = [t[i if len(t) > 1 else 0] for t in (edited, source)]
        these = [image_values(t, low=low, high=high).to(source.device, torch.float32) for t in these]
        these = [torch.nan_to_num((t - low) * (2 / (high - low)) - 1, 0.0, 0.0, 0.0) for t in these]
        found = _found(*these, back, more, smallest, fill_holes)
        mask = grow_mask(found.float()[None], grow)
        masks.append(blur(mask, feather / 2).clamp(0, 1) if feather else mask)
    return torch.stack(masks)


def _found(
    edited: Tensor,
    source: Tensor,
    back: Callable[[Tensor], Tensor] | None,
    more: float,
    smallest: float,
    holes: float,
) -> Tensor:
    """(H, W) bool: what was changed between (3, H, W) in [-1, 1]. `more` is added to the log odds.

    `back`: what a VAE makes of a picture (3, h, w).
    """
    height, width = source.shape[-2:]
    ratio = min(1.0, LARGEST_SIDE / max(height, width))
    same = (edited == source).all(dim=0)
    if ratio < 1:
        size = [max(1, round(side * ratio)) for side in (height, width)]
        edited, source, same = (
            F.interpolate(t[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]
            for t in (edited, source, same[None])
        )
        same = same[0] > 0.999
    expected = source
    if back is not None and not same.all():
        expected = torch.where(same, source, _expected(edited, source, back))
    doubt = BEYOND_DOUBT if back is None else BEYOND_DOUBT_TOLD
    found, odds = (t.cpu().numpy() for t in _likeliest(edited, expected, same, more))
    found = torch.from_numpy(_cleaned(found, odds, doubt, smallest, holes)).to(source.device)
    if ratio == 1:
        return found
    return F.interpolate(found[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0] > 0.5


def _back(round_trip: Callable[[Tensor], Tensor], image_range: tuple[float, float], picture: Tensor) -> Tensor:
    """`round_trip` of (3, h, w) in [-1, 1], of any size."""
    low, high = image_range
    height, width = picture.shape[-2:]
    whole = F.pad(picture[None], (0, -width % MULTIPLE, 0, -height % MULTIPLE), "replicate")
    back = round_trip((whole + 1) * ((high - low) / 2) + low)
    if back.shape != whole.shape:
        raise ValueError(f"Expected a round trip of shape {tuple(whole.shape)}, but got {tuple(back.shape)}.")
    return ((back[0, :, :height, :width].to(picture) - low) * (2 / (high - low)) - 1).clamp(-1, 1)


def _likeliest(edited: Tensor, source: Tensor, same: Tensor, more: float) -> tuple[Tensor, Tensor]:
    """The mask (h, w) bool of a change, and the log odds (h, w) of each pixel. `same` (h, w): where both are equal."""
    detail = detail_powers(source)
    unchanged = torch.ones_like(source[0])
    for majority in (True, False):
        likely = blur(_log_odds(evidence(edited, source, same, detail, unchanged)[0])[None], AROUND)[0]
        unchanged = (likely <= (likely[::THINNED, ::THINNED].quantile(MAJORITY) if majority else 0)).float()
    unchanged = (F.max_pool2d(1 - unchanged[None], 2 * CELL + 1, 1, CELL)[0] < 0.5).float()
    ratios, difference = evidence(edited, source, same, detail, unchanged)
    odds = (_log_odds(ratios) + more).clamp(-CERTAIN, CERTAIN)
    found = _enlarged(_cut(_cells(odds[None], HALF)[0], BORDER / HALF)[None], HALF, odds)[0] > 0.5
    likeness, near = border_evidence(difference, found)
    at_border = BORDER_WEIGHTS[0] * ratios[0] + BORDER_WEIGHTS[1] * likeness + BORDER_BIAS + more
    return _cut(torch.where(near, at_border.clamp(-CERTAIN, CERTAIN), odds)) > 0.5, odds


def _log_odds(ratios: Tensor) -> Tensor:
    """(h, w): the log odds of a change, of `evidence`."""
    return torch.einsum("nhw,n->hw", ratios, ratios.new_tensor(WEIGHTS)) + BIAS


def evidence(edited: Tensor, source: Tensor, same: Tensor, detail: Tensor, unchanged: Tensor) -> tuple[Tensor, Tensor]:
    """Differences without drift: (n, h, w), logarithms of how much stronger than noise each blur of them is; (3, h, w).

    `same` (h, w): where both are equal; `unchanged` (h, w): what tells of drift and noise.
    """
    difference = source - _without_drift(edited, source, unchanged)
    difference = torch.where(same, 0, _not_clipped(difference, edited))
    widest = min(unchanged.shape) / PARTS
    ratios = [_excess(difference, max(BLURS[0], min(sigma, widest)), detail, unchanged) for sigma in BLURS]
    return torch.stack(ratios).clamp(LEAST, MOST), difference


def border_evidence(difference: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """(h, w): how much likelier a difference (3, h, w) is inside than outside, as a logarithm; and where that tells.

    `found` (h, w) bool is inside. It tells near its border, where enough of both sides is around.
    """
    inside, outside = (part.float()[None] for part in (found, ~found))
    near = (F.max_pool2d(part, 2 * BAND + 1, 1, BAND)[0] > 0.5 for part in (inside, outside))
    sharp = blur(difference, SHARP)
    sides = ((outside, SETTLED), (inside, APART))
    settled = [1 - F.max_pool2d(other, 2 * pixels + 1, 1, pixels) for other, pixels in sides]
    (inner, inner_share), (outer, outer_share) = (_log_density(sharp, side) for side in settled)
    known = (inner_share > 0.02) & (outer_share > 0.02)
    return (inner - outer).clamp(-LIKENESS, LIKENESS), known & next(near) & next(near)


def _log_density(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """(h, w): log density of values (3, h, w) in a normal distribution of those around; and the share those have.

    `weight` (1, h, w): what counts of those around.
    """
    parts = LOCAL // 2
    sums = torch.cat([values * weight, values.square() * weight, weight])
    sums = _enlarged(blur(_cells(sums, parts), LOCAL / parts), parts, values)
    mean, square = (sums[:-1] / sums[-1].clamp(min=1e-4)).chunk(2)
    variance = (square - mean.square()).clamp(min=0) + 1e-4
    distance = ((values - mean).square() / variance).clamp(max=30)
    return -0.5 * (distance + variance.log()).sum(dim=0), sums[-1]


def _excess(difference: Tensor, sigma: float, detail: Tensor, unchanged: Tensor) -> Tensor:
    """(h, w): the logarithm of how much stronger than noise a difference (3, h, w) is, blurred by `sigma`."""
    whole, parts = difference, max(1, round(sigma / FINEST))
    difference, detail, (unchanged,) = (_cells(t, parts) for t in (difference, detail, unchanged[None]))
    coarse = blur(difference, sigma / parts)
    white = torch.einsum("ij,jhw->ihw", _whitening(coarse, unchanged), coarse)
    power = blur(white.square().sum(dim=0, keepdim=True), POOL)[0]
    causes = detail[[0, *(1 + i for i, finest in enumerate(BANDS) if finest >= min(sigma, BANDS[-1])), -1]]
    expected = torch.einsum("n,nhw->hw", _noise(power, causes, unchanged), causes)
    expected = expected + SPREAD * blur(power[None], 2 * sigma / parts)[0]
    return _enlarged(((power + LEVEL) / (expected + LEVEL)).log()[None], parts, whole)[0]


def _without_drift(edited: Tensor, source: Tensor, unchanged: Tensor) -> Tensor:
    """`edited` (3, h, w) with the colours and light that `source` has where `unchanged` (h, w)."""
    return edited + torch.einsum("nhw,nc->chw", _features(edited), _drift_between(edited, source, unchanged))


def _expected(edited: Tensor, source: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """(3, h, w): what would have come back, with the drift that `edited` has, if nothing had been changed."""
    drifted, expected = source, back(source)
    for _ in range(ROUND_TRIPS - 1):
        drifted = _with_drift(drifted, edited, expected)
        expected = back(drifted)
    return _where_it_goes_on(edited, expected, drifted, back)


def _where_it_goes_on(edited: Tensor, expected: Tensor, drifted: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
    """`expected` (3, h, w), and near its edges what comes back of a mirrored rim, where `edited` is nearer to that."""
    height, width = edited.shape[-2:]
    if min(height, width) <= RIM:
        return expected
    wider = back(F.pad(drifted[None], (RIM,) * 4, "reflect")[0])[:, RIM : RIM + height, RIM : RIM + width]
    as_it_is, gone_on = (blur((edited - t).square().sum(dim=0, keepdim=True), FINEST) for t in (expected, wider))
    rim = torch.ones_like(as_it_is, dtype=torch.bool)
    rim[:, RIM : height - RIM, RIM : width - RIM] = False
    return torch.where(rim & (gone_on < as_it_is), wider, expected)


def _with_drift(source: Tensor, edited: Tensor, expected: Tensor) -> Tensor:
    """`source` (3, h, w) with the drift that `edited` has of `expected`: what `_without_drift` undoes."""
    drift = _drift_between(edited, expected, torch.ones_like(source[0]))
    places = _positions(source.shape[-2], source.shape[-1], source)
    drifted = source - torch.einsum("nhw,nc->chw", places, drift[:-3])
    drifted = torch.einsum("nhw,nc->chw", drifted, torch.linalg.inv(drift[-3:] + torch.eye(3).to(drift)))
    return drifted.clamp(-1, 1)


def _drift_between(edited: Tensor, source: Tensor, unchanged: Tensor) -> Tensor:
    """(9, 3): how much of each feature `edited` (3, h, w) lacks of `source` where `unchanged` (h, w)."""
    weight = _cells(unchanged[None], CELL).clamp(min=1e-3)
    before, after = (_cells(t * unchanged, CELL) / weight for t in (source, edited))
    return _drift(*(t.cpu().double() for t in (before, after, weight[0]))).to(edited)


def _drift(before: Tensor, after: Tensor, weight: Tensor) -> Tensor:
    """(9, 3): how much of each feature `after` (3, h, w) lacks, fitted with `weight` (h, w)."""
    features, after = _features(after).flatten(1).T, after.flatten(1)
    residual, starts = before.flatten(1) - after, _starts(before - after.view_as(before))
    weight = weight.flatten() / weight.sum()
    products = (features[:, :, None] * features[:, None]).flatten(1)
    ridge = torch.tensor(RIDGE, dtype=weight.dtype)
    drifts, scale = F.pad(starts[:, None], (0, 0, 0, len(ridge) - 1)), DRIFT_SCALE

    def predicted() -> tuple[Tensor, Tensor, Tensor]:
        """Of each start (S, n, 3): what it adds, and what that leaves; and (S, n), how large that is."""
        drift = features @ drifts
        left = _not_clipped((residual.T - drift).mT[..., None], after[..., None])[..., 0].mT
        return drift, left, left.square().sum(dim=2) / scale**2

    for _ in range(DRIFT_STEPS):
        drift, left, error = predicted()
        now = weight / (1 + error) ** 2
        gram = (now @ products).unflatten(1, (len(ridge), len(ridge))) + torch.diag(ridge)
        drifts = torch.linalg.solve(gram, features.T @ (now[..., None] * (drift + left)))
        scale = max(DRIFT_FLOOR, DRIFT_FALL * scale)
    error = predicted()[-1]
    misfit = (weight * error / (1 + error)).sum(dim=1)
    return drifts[(misfit + (ridge[:, None] * drifts.square()).sum(dim=(1, 2)) / scale**2).argmin()]


def _starts(residual: Tensor) -> Tensor:
    """(S, 3): medians of the parts of a grid over (3, h, w)."""
    h, w = residual.shape[-2:]
    rows, columns = (min(START_PARTS, n) for n in (h, w))
    parts = []
    for i in range(rows):
        for j in range(columns):
            part = residual[:, i * h // rows : (i + 1) * h // rows, j * w // columns : (j + 1) * w // columns]
            parts.append(part.flatten(1).median(dim=1).values)
    return torch.stack(parts)


def _not_clipped(difference: Tensor, edited: Tensor) -> Tensor:
    """`difference` (..., 3, h, w), the source's from an edit's, 0 where clipping the edit explains it."""
    lighter, darker = edited >= CLIPPED, edited <= -CLIPPED
    return torch.where(lighter, difference.clamp(max=0), torch.where(darker, difference.clamp(min=0), difference))


def _cells(values: Tensor, cell: int) -> Tensor:
    """(C, h, w) to means over cells of that many pixels a side."""
    return values if cell == 1 else F.avg_pool2d(values[None], cell, ceil_mode=True, count_include_pad=False)[0]


def _enlarged(cells: Tensor, cell: int, like: Tensor) -> Tensor:
    """(C, …, …) of cells to the (C, h, w) that `like` (…, h, w) has."""
    if cell > 1:
        cells = F.interpolate(cells[None], scale_factor=cell, mode="bilinear", align_corners=False)[0]
    return cells[..., : like.shape[-2], : like.shape[-1]]


def _features(picture: Tensor) -> Tensor:
    """(9, h, w): what drift depends on: position and colours of (3, h, w)."""
    return torch.cat([_positions(picture.shape[-2], picture.shape[-1], picture), picture])


def _positions(height: int, width: int, like: Tensor) -> Tensor:
    """(6, height, width): 1, x, y, x², xy, y², from -1 to 1."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def detail_powers(source: Tensor) -> Tensor:
    """What noise grows with, (n + 2, h, w): a constant, the power of the source's n bands there, and its saturation."""
    coarse = [blur(source, sigma) for sigma in BANDS]
    bands = [a - b for a, b in zip([source, *coarse[:-1]], coarse, strict=True)]
    colour = source - source.mean(dim=0, keepdim=True)
    powers = [blur(band.square().sum(dim=0, keepdim=True), DETAIL_POOL) for band in bands]
    powers.append(blur(colour.square().sum(dim=0, keepdim=True), COLOUR_POOL))
    return torch.cat([torch.ones_like(powers[0]), *powers])


def _whitening(difference: Tensor, unchanged: Tensor) -> Tensor:
    """(3, 3), by which colours that err much weigh less."""
    values = difference[:, ::THINNED, ::THINNED].flatten(1).T.cpu().double()
    weight = unchanged[::THINNED, ::THINNED].flatten().cpu().double() + 1e-6
    eye = torch.eye(3, dtype=values.dtype)
    spread = eye
    for _ in range(6):
        distance = ((values @ torch.linalg.inv(spread)) * values).sum(dim=1).clamp(min=1e-10)
        spread = (values.T * (weight / distance)) @ values
        spread = spread / spread.trace().clamp(min=1e-12) + 0.007 * eye
        spread = spread * (3 / spread.trace())
    return torch.linalg.inv(torch.linalg.cholesky(spread)).to(difference)


def _noise(power: Tensor, causes: Tensor, unchanged: Tensor) -> Tensor:
    """(n,) factors ≥ 0 of `causes` (n, h, w), whose sum is the power (h, w) to expect."""
    seen = unchanged[::THINNED, ::THINNED] > 0.5
    if seen.sum() < 50:
        seen = torch.ones_like(seen)
    y, x = power[::THINNED, ::THINNED][seen], causes[:, ::THINNED, ::THINNED][:, seen]
    usual = y[:: max(1, len(y) // 50_000)].quantile(0.3)
    factors = (0.5 * usual + 1e-7) / x.mean(dim=1).clamp(min=1e-9) / len(x)
    for _ in range(40):
        expected = factors @ x + 0.1 * LEVEL
        ratio = y / expected
        weight = 1 / (1 + ratio / OUTLIER) ** 2 / expected
        factors = factors * ((x @ (weight * ratio)) / (x @ weight).clamp(min=1e-12)) ** 0.7
    return factors


def _cut(odds: Tensor, border: float = BORDER) -> Tensor:
    """(h, w) in [0, 1], nearly 0 or 1: the mask with the largest sum of `odds`, less `border` a pixel of its border."""
    step = 1 / math.sqrt(8)
    share = torch.sigmoid(odds)
    ahead, right, down = share, torch.zeros_like(odds), torch.zeros_like(odds)
    for _ in range(CUTS):
        right[:, :-1] += step * (ahead[:, 1:] - ahead[:, :-1])
        down[:-1] += step * (ahead[1:] - ahead[:-1])
        longer = (torch.hypot(right, down) / border).clamp(min=1)
        right /= longer
        down /= longer
        divergence = right + down
        divergence[:, 1:] -= right[:, :-1]
        divergence[1:] -= down[:-1]
        before, share = share, (share + step * (divergence + odds)).clamp(0, 1)
        ahead = 2 * share - before
    return share


def _cleaned(found: np.ndarray, odds: np.ndarray, doubt: float, smallest: float, holes: float) -> np.ndarray:
    """(h, w) bool without parts of mean log odds below `doubt` or below `smallest`, and with its holes up to `holes`.

    Sizes are shares of the whole. `odds` (h, w): the log odds of each pixel.
    """
    labels, sizes = regions(found)
    sums = np.bincount(labels.ravel(), weights=odds.ravel(), minlength=len(sizes))
    found = found & ((sizes >= smallest * found.size) & (sums >= doubt * sizes))[labels]
    labels, sizes = regions(~found)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    inside = ~np.isin(np.arange(len(sizes)), rim)
    return found | (~found & (inside & (sizes <= holes * found.size))[labels])


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (h, w) of the connected parts of `mask` (h, w) bool, by their sides; and (n,) their sizes in pixels.

    0 is what is not in the mask; its size is given as 0. Runs of rows are joined until no number falls any more.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    row, start = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    run = np.cumsum(edges == 1).reshape(edges.shape)[:, :-1] * mask
    above, below = run[:-1], run[1:]
    both = (above > 0) & (below > 0)
    pairs = np.divmod(np.unique(above[both].astype(np.int64) * (len(row) + 1) + below[both]), len(row) + 1)
    parent = np.arange(len(row) + 1)
    while True:
        least = np.minimum(parent[pairs[0]], parent[pairs[1]])
        joined = parent.copy()
        for ends in pairs:
            np.minimum.at(joined, ends, least)
            np.minimum.at(joined, parent[ends], least)
        joined = joined[joined]
        if (joined == parent).all():
            break
        parent = joined
    _, names = np.unique(parent, return_inverse=True)
    labels = names[run]
    sizes = np.bincount(names[1:], weights=end - start, minlength=names.max() + 1)
    return labels, sizes


def _check(
    edited: Tensor, source: Tensor, sensitivity: float, grow: int, feather: int, smallest: float, holes: float
) -> None:
    for name, tensor in (("edited", edited), ("source", source)):
        if tensor.ndim != 4 or tensor.shape[1] != 3:
            raise ValueError(f"Expected {name} of shape (B, 3, H, W), but got {tuple(tensor.shape)}.")
    if source.shape[0] not in (1, edited.shape[0]):
        raise ValueError(
            f"Expected one source, or one for each of {edited.shape[0]} edited pictures, but got {source.shape[0]}. "
            "Repeat some."
        )
    if edited.shape[-2:] != source.shape[-2:]:
        sizes = [f"{tensor.shape[-1]}×{tensor.shape[-2]}" for tensor in (edited, source)]
        raise ValueError(
            f"Expected edited and source of one size, but got {sizes[0]} and {sizes[1]} pixels (width×height). "
            "Align them first (asymvq.align, or --align)."
        )
    for name, value in (("sensitivity", sensitivity), ("smallest", smallest), ("fill_holes", holes)):
        if not 0 <= value <= 1:
            raise ValueError(f"Expected {name} from 0 to 1, but got {value:g}.")
    for name, value in (("grow", grow), ("feather", feather)):
        if value < 0:
            raise ValueError(f"Expected {name} of 0 or more pixels, but got {value}.")
