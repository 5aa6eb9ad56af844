"""Which pixels of an edit were meant to change: those that differ from the source by more than drift and noise do.

An edit model gives the whole picture back, its colours drifted and its detail once through a VAE. What a picture's own
unchanged part says of both is taken off:

1. Drift: offsets that are quadratic in the position and a linear map of the colours, fitted to means of cells with
   Geman & McClure's weights, their scale falling: what was changed is an outlier. The colour map is bounded, or a
   recoloured part of a grey picture would pass for drift.
2. Noise: differences, blurred by three widths, are whitened over the colours (Tyler's M-estimator, 1987) and compared
   with their expected power, which grows with the source's detail there and with its saturation: a sum with factors
   ≥ 0, fitted to the picture (Itakura–Saito divergence, multiplicative updates) with weights that let what was changed
   count little.
3. The logarithms of those ratios, weighted, are the log odds of a change (`WEIGHTS`: logistic regression over
   training photos with known edits).
4. The mask of the largest sum of log odds, less the length of its border: total variation, minimised exactly as a
   convex problem (Chan, Esedoglu & Nikolova 2006; Chambolle & Pock 2011). Of its parts, those with low odds on the
   whole are noise.

1 and 2 are told three times what did not change: all of the picture; the larger part of it, with the least odds then
(least trimmed squares, Rousseeuw 1984: a large edit spoils what is learnt from all); and what the mask of that leaves.
"""

from __future__ import annotations

import math

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
CELL = 8
COLOUR_LIMIT = 0.4
"""Spectral norm of the colour map less the identity."""
DRIFT_STEPS, DRIFT_SCALE, DRIFT_FLOOR = 12, 0.5, 0.01
RIDGE = (1e-6, 1e-4, 1e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-4)
BLURS, POOLS = (1.0, 2.0, 8.0), (1.0, 1.0, 2.0)
"""Sigmas, pixels: differences are blurred by the first, their power is averaged over the second."""
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
LEAST, MOST = -2.0, 6.0
WEIGHTS, BIAS = (0.48, 0.99, 1.41), -7.1
CERTAIN, BORDER = 4.0, 4.0
"""Bound of the log odds of a pixel; and what a pixel of border costs."""
BEYOND_DOUBT = 2.0
"""Mean log odds of a part that is kept: on training photos, those of noise had less, of edits more."""
SENSITIVITY_RANGE = 4.0
"""By how much the log odds differ between the least and the highest sensitivity."""
CUTS = 100
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
        image_range: of both pictures.

    Returns:
        (B, 1, H, W) float32 in [0, 1], 1 = changed, on the source's device.

    Raises:
        ValueError: shapes, counts or sizes that do not fit, values or settings out of range.
    """
    _check(edited, source, sensitivity, grow, feather, smallest, fill_holes)
    low, high = image_range
    masks = []
    for i in range(edited.shape[0]):
        pair = [t[i if len(t) > 1 else 0] for t in (edited, source)]
        pair = [image_values(t, low=low, high=high).to(source.device, torch.float32) for t in pair]
        pair = [torch.nan_to_num((t - low) * (2 / (high - low)) - 1, 0.0, 0.0, 0.0) for t in pair]
        found = _found(*pair, (sensitivity - 0.5) * SENSITIVITY_RANGE, smallest, fill_holes)
        mask = grow_mask(found.float()[None], grow)
        masks.append(blur(mask, feather / 2).clamp(0, 1) if feather else mask)
    return torch.stack(masks)


def _found(edited: Tensor, source: Tensor, more: float, smallest: float, holes: float) -> Tensor:
    """(H, W) bool: what was changed between (3, H, W) in [-1, 1]. `more` is added to the log odds."""
    height, width = source.shape[-2:]
    ratio = min(1.0, LARGEST_SIDE / max(height, width))
    same = (edited == source).all(dim=0)
    if ratio < 1:
        size = [max(1, round(side * ratio)) for side in (height, width)]
        edited, source = (
            F.interpolate(t[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
            for t in (edited, source)
        )
        same = F.interpolate(same[None, None].float(), size, mode="area")[0, 0] == 1
    detail = _detail(source)

    def estimated(unchanged: Tensor) -> tuple[Tensor, Tensor]:
        odds = (_log_odds(edited, source, same, detail, unchanged) + more).clamp(-CERTAIN, CERTAIN)
        return odds, _cut(odds)

    likely = blur(_log_odds(edited, source, same, detail, torch.ones_like(source[0]))[None], AROUND)[0]
    _, share = estimated((likely <= likely[::THINNED, ::THINNED].quantile(MAJORITY)).float())
    odds, share = estimated((F.max_pool2d(share[None], 2 * CELL + 1, 1, CELL)[0] < 0.5).float())
    found = _cleaned((share > 0.5).cpu().numpy(), odds.cpu().numpy(), smallest, holes)
    found = torch.from_numpy(found).to(source.device)
    if ratio == 1:
        return found
    return F.interpolate(found[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0] > 0.5


def _log_odds(edited: Tensor, source: Tensor, same: Tensor, detail: Tensor, unchanged: Tensor) -> Tensor:
    """(h, w): the log odds of a change. `same` (h, w): where both are equal; `unchanged`: what tells of drift."""
    difference = torch.where(same, 0, source - _without_drift(edited, source, unchanged))
    odds = torch.full_like(source[0], BIAS)
    for sigma, pool, weight in zip(BLURS, POOLS, WEIGHTS, strict=True):
        odds += weight * _excess(difference, sigma, pool, detail, unchanged).clamp(LEAST, MOST)
    return odds


def _excess(difference: Tensor, sigma: float, pool: float, detail: Tensor, unchanged: Tensor) -> Tensor:
    """(h, w): the logarithm of how much stronger than noise a difference (3, h, w) is, blurred by `sigma`."""
    coarse = blur(difference, sigma)
    white = torch.einsum("ij,jhw->ihw", _whitening(coarse, unchanged), coarse)
    power = blur(white.square().sum(dim=0, keepdim=True), pool)[0]
    causes = detail[[0, *(1 + i for i, finest in enumerate(BANDS) if finest >= sigma), -1]]
    expected = torch.einsum("n,nhw->hw", _noise(power, causes, unchanged), causes)
    expected = expected + SPREAD * blur(power[None], 2 * max(sigma, 1.5))[0]
    return ((power + LEVEL) / (expected + LEVEL)).log()


def _without_drift(edited: Tensor, source: Tensor, unchanged: Tensor) -> Tensor:
    """`edited` (3, h, w) with the colours and light that `source` has where `unchanged` (h, w)."""
    weight = _cells(unchanged[None]).clamp(min=1e-3)
    before, after = ((_cells(t * unchanged) / weight).flatten(1).T.double() for t in (source, edited))
    places = _positions(weight.shape[-2], weight.shape[-1], after)
    weight = weight.flatten().double()
    features = torch.cat([places.flatten(1).T, after], dim=1)
    ridge = torch.diag(torch.tensor(RIDGE, dtype=torch.float64, device=after.device)) * len(features)
    residual, at = before - after, features.shape[1] - 3
    now, scale = weight, DRIFT_SCALE
    drift = torch.zeros(features.shape[1], 3, dtype=torch.float64, device=after.device)
    for _ in range(DRIFT_STEPS):
        gram, moment = features.T @ (features * now[:, None]) + ridge, features.T @ (residual * now[:, None])
        drift = torch.linalg.solve(gram, moment)
        size = float(torch.linalg.matrix_norm(drift[at:], 2))
        if size > COLOUR_LIMIT:
            colour = drift[at:] * (COLOUR_LIMIT / size)
            drift = torch.cat([torch.linalg.solve(gram[:at, :at], moment[:at] - gram[:at, at:] @ colour), colour])
        error = (residual - features @ drift).square().sum(dim=1)
        scale = max(0.6 * scale, 3 * float(error[weight >= weight.median()].quantile(0.4).sqrt()) + DRIFT_FLOOR)
        now = weight / (1 + error / scale**2) ** 2
    everywhere = torch.cat([_positions(source.shape[-2], source.shape[-1], edited), edited])
    return edited + torch.einsum("nhw,nc->chw", everywhere, drift.to(edited))


def _cells(values: Tensor) -> Tensor:
    """(C, h, w) to means over cells."""
    return F.avg_pool2d(values[None], CELL, ceil_mode=True, count_include_pad=False)[0]


def _positions(height: int, width: int, like: Tensor) -> Tensor:
    """(6, height, width): 1, x, y, x², xy, y², from -1 to 1."""
    rows, columns = ((torch.arange(n, device=like.device, dtype=like.dtype) * 2 + 1) / n - 1 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y])


def _detail(source: Tensor) -> Tensor:
    """What noise grows with, (n + 2, h, w): a constant, the power of the source's n bands there, and its saturation."""
    coarse = [blur(source, sigma) for sigma in BANDS]
    bands = [a - b for a, b in zip([source, *coarse[:-1]], coarse, strict=True)]
    colour = source - source.mean(dim=0, keepdim=True)
    powers = [blur(band.square().sum(dim=0, keepdim=True), DETAIL_POOL) for band in bands]
    powers.append(blur(colour.square().sum(dim=0, keepdim=True), COLOUR_POOL))
    return torch.cat([torch.ones_like(powers[0]), *powers])


def _whitening(difference: Tensor, unchanged: Tensor) -> Tensor:
    """(3, 3), by which colours that err much weigh less."""
    values = difference[:, ::THINNED, ::THINNED].flatten(1).T
    weight = unchanged[::THINNED, ::THINNED].flatten() + 1e-6
    eye = torch.eye(3, device=values.device)
    spread = eye
    for _ in range(6):
        distance = ((values @ torch.linalg.inv(spread)) * values).sum(dim=1).clamp(min=1e-10)
        spread = (values.T * (weight / distance)) @ values
        spread = spread / spread.trace().clamp(min=1e-12) + 0.007 * eye
        spread = spread * (3 / spread.trace())
    return torch.linalg.inv(torch.linalg.cholesky(spread))


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


def _cut(odds: Tensor) -> Tensor:
    """(h, w) in [0, 1], nearly 0 or 1: the mask with the largest sum of `odds`, less BORDER a pixel of its border."""
    step = 1 / math.sqrt(8)
    share = torch.sigmoid(odds)
    ahead, right, down = share, torch.zeros_like(odds), torch.zeros_like(odds)
    for _ in range(CUTS):
        right[:, :-1] += step * (ahead[:, 1:] - ahead[:, :-1])
        down[:-1] += step * (ahead[1:] - ahead[:-1])
        longer = (torch.hypot(right, down) / BORDER).clamp(min=1)
        right /= longer
        down /= longer
        divergence = right + down
        divergence[:, 1:] -= right[:, :-1]
        divergence[1:] -= down[:-1]
        before, share = share, (share + step * (divergence + odds)).clamp(0, 1)
        ahead = 2 * share - before
    return share


def _cleaned(found: np.ndarray, odds: np.ndarray, smallest: float, holes: float) -> np.ndarray:
    """(h, w) bool without parts that are doubtful or below `smallest`, and with its holes up to `holes`.

    Both are shares of the whole. `odds` (h, w): the log odds of each pixel.
    """
    labels, sizes = regions(found)
    sums = np.bincount(labels.ravel(), weights=odds.ravel(), minlength=len(sizes))
    found = found & ((sizes >= smallest * found.size) & (sums >= BEYOND_DOUBT * sizes))[labels]
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
    pairs = np.unique(np.stack([above[both], below[both]]), axis=1) if both.any() else np.zeros((2, 0), int)
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
