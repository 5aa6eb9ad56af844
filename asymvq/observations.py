"""What kept pixels around a mask tell of a decode's errors: weighted means over cells of them.

Pixels where the content differs across the mask's border are mixed by the decoder and tell nothing of drift: the jump
there weights them down. Large residuals weigh less (Cauchy). Colours are told as far as kept pixels have them: those
that no kept one has shrink to nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 8
"""Pixels a side of the means that are observed beside the mask; COARSE times as many elsewhere."""
COARSE = 4
MAX_SIDE = 320
"""Larger surroundings are looked at in blocks of 2, 4 or CELL pixels a side."""
MAX_OBSERVATIONS = 1200
"""Larger cells where there would be more: what a Cholesky factorisation takes milliseconds for."""
OUTLIER = 0.3
"""Residual, in [-1, 1], that weighs half."""
MIXED = 0.1
"""Jump of the content across the mask's border, likewise."""
JUMP = 0.15
"""The same, for whether an edit continues the picture."""
COLOUR_REACH = 2.5
"""Standard deviations of the kept colours at which the colour map is strongest; beyond, it falls again."""
COLOUR_FLOOR = 0.0005
"""Variance added to the kept colours': what cannot be told apart from grey."""
RING = 1.25
"""Latent cells that an edited one reaches over the mask's border, the decoder's own reach included."""


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


def reduced(plain: Tensor, image: Tensor, kept: Tensor) -> Blocks:
    """Of plain and image (3, H, W); kept (H, W) bool."""
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
    """(N, 3), as `bounded` gives them."""
    ring: Tensor
    """(N, 1): share of an edited latent cell in them."""
    share: Tensor
    """(N,): weight in full cells of CELL² pixels."""


def weights_of(blocks: Blocks) -> tuple[Tensor, Tensor]:
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


def colour_spread(plain: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (3, 1) and inverse root of the covariance (3, 3) of the kept colours."""
    colours, share = plain.flatten(1), weight.flatten() / weight.sum().clamp(min=1e-6)
    middle = (colours * share).sum(dim=1, keepdim=True)
    centred = colours - middle
    covariance = (centred * share) @ centred.T + COLOUR_FLOOR * torch.eye(3, device=plain.device)
    root = torch.linalg.cholesky(covariance)
    return middle, torch.linalg.solve_triangular(root, torch.eye(3, device=plain.device), upper=False)


def bounded(picture: Tensor, middle: Tensor, root: Tensor) -> Tensor:
    """Colours (3, H, W) in standard deviations of the kept ones; those that are far from all of these shrink to 0."""
    z = root @ (picture.flatten(1) - middle)
    return (z / (1 + z.square().sum(dim=0) / COLOUR_REACH**2)).reshape(picture.shape)


def ring_of(blocks: Blocks, factor: int) -> Tensor:
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


def observe(blocks: Blocks, weight: Tensor, ring: Tensor, colour: Tensor) -> Observations:
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
