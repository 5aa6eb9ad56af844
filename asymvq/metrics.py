"""How well a decode keeps what the mask keeps, and how well the rest fits to it.

Everywhere `output` and `source` are (B, 3, H, W) in [-1, 1], `mask` is (B or 1, 1, H, W) in [0, 1] and 1 = edited. A
pixel counts as edited where `asymvq.masks.edited` says so, which is what the decoder is shown, else as kept. Every
`…_error` is a mean squared one in this range, the paper's unit (arXiv 2306.04632). All raise ValueError where shapes do
not fit, and `NothingToMeasureError` where the mask leaves no pixel to count.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import edited

DATA_RANGE = 2.0
"""From -1 to 1."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
OUTLINE = 6
"""Pixels: a mask that follows an object is seldom nearer to its outline."""


class NothingToMeasureError(ValueError):
    """The mask leaves a metric no pixel, or the picture is smaller than the metric's window."""


def kept_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Mean squared error of the kept pixels: the paper's "preservation error"."""
    return _mean_squared_error(output, source, mask, ~edited(mask), "keeps some pixels")


def masked_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Mean squared error of the edited pixels, where the true picture is known."""
    return _mean_squared_error(output, source, mask, edited(mask), "edits some pixels")


def border_error(output: Tensor, source: Tensor, mask: Tensor, width: int = 4) -> float:
    """Mean squared error of the edited pixels within `width` rows and columns of a kept one."""
    kept = (~edited(mask)).float()
    near = F.max_pool2d(kept, kernel_size=2 * width + 1, stride=1, padding=width) > 0
    return _mean_squared_error(output, source, mask, near & edited(mask), "has a border")


def seam_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Mean squared difference between the jump across the mask's border and the source's jump there.

    A jump is the difference of two neighbours in a row or column, of which one is kept and one edited. It sees a seam
    that `border_error` does not tell from other errors, and no error that both sides share.
    """
    _check_sizes(output, source, mask)
    difference = output.double() - source.double()
    inside = edited(mask)
    squares = []
    for axis in (-2, -1):
        across = inside.diff(dim=axis)  # of booleans: where neighbours differ
        squares.append(difference.diff(dim=axis).masked_select(across).square())
    return _mean(torch.cat(squares), "has a border")


def edge_step(output: Tensor, mask: Tensor, beside: int = 2, *, source: Tensor | None = None) -> float:
    """How many times as large the jumps across the mask's border are as expected there; about 1 where no seam shows.

    A jump is a mean of absolute differences of neighbours in a row or column. Expected are those `beside` pixels from
    the border on either side. With a `source`, what its contrast at the border is more than anywhere is expected too,
    as an outline that the mask follows is no seam: contrast is the difference of the means of `OUTLINE` pixels on
    either side. A source of one colour in all that is edited was filled, and tells nothing. Half a level of 8 bits is
    added to both: flat areas have no jumps.
    """
    _check_sizes(output, output if source is None else source, mask)
    inside = edited(mask).expand(output.shape[0], -1, -1, -1)
    across, near, outline, anywhere = [], [], [], []
    for axis in (-2, -1):
        jumps = output.double().diff(dim=axis).abs().mean(1, keepdim=True)
        border = inside.diff(dim=axis)
        across.append(jumps.masked_select(border))
        count = jumps.shape[axis] - beside
        if count > 0:
            for here, there in ((0, beside), (beside, 0)):
                at = border.narrow(axis, here, count) & ~border.narrow(axis, there, count)
                near.append(jumps.narrow(axis, there, count).masked_select(at))
        if source is not None and not _is_filled(source, inside):
            contrast = _contrast(source.double(), axis)
            outline.append(contrast.masked_select(border))
            anywhere.append(contrast.flatten())
    half_a_level = DATA_RANGE / 255 / 2
    usual = _mean(torch.cat(near) if near else output.new_empty(0), "has a border, with pixels beside it")
    if outline:
        usual += max(0.0, (torch.cat(outline).mean() - torch.cat(anywhere).mean()).item())
    return (_mean(torch.cat(across), "has a border") + half_a_level) / (usual + half_a_level)


def _is_filled(source: Tensor, inside: Tensor) -> bool:
    pixels = source.movedim(1, -1)[inside[:, 0]]
    return bool((pixels == pixels[:1]).all())


def _contrast(source: Tensor, axis: int) -> Tensor:
    """Of neighbours along `axis`: how the means differ of `OUTLINE` pixels on either side: (B, 1, H, W), one less."""
    rows = source if axis == -1 else source.transpose(-2, -1)
    padded = F.pad(rows, (OUTLINE - 1, OUTLINE - 1, 0, 0), mode="replicate")
    means = F.avg_pool2d(padded, (1, OUTLINE), stride=1)
    size = rows.shape[-1] - 1
    difference = means.narrow(-1, OUTLINE, size) - means.narrow(-1, 0, size)
    contrast = difference.abs().mean(1, keepdim=True)
    return contrast if axis == -1 else contrast.transpose(-2, -1)


def colour_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """Squared error of the edited pixels' mean colour: the colour shift that a latent carries and a decoder leaves."""
    _check_sizes(output, source, mask)
    inside = edited(mask).expand(output.shape[0], -1, -1, -1).double()
    count = inside.sum(dim=(-2, -1))
    shift = ((output.double() - source.double()) * inside).sum(dim=(-2, -1)) / count
    # pictures that the mask does not touch have no colour to compare
    return _mean(shift[count[:, 0] > 0].square(), "edits some pixels")


def gradient_error(output: Tensor, source: Tensor, mask: Tensor) -> float:
    """How far gradients at the mask's edge are from the source's: ASUKA's `Grad` (arXiv 2312.04831).

    The source's kept pixels are put into `output` first. Of that and of the source Sobel's gradients are taken, a
    channel at a time, on values from 0 to 255; the result is the mean length of their difference over Canny's edges of
    the mask, here of what it edits.
    """
    _check_sizes(output, source, mask)
    inside = edited(mask)
    difference = torch.where(inside, output.double() - source.double(), 0) * (255 / DATA_RANGE)
    lengths = _sobel(difference, "reflect").square().sum(dim=0).sqrt()
    return _mean(lengths.masked_select(_canny(inside)), "has a border")


def psnr(output: Tensor, source: Tensor, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, infinite where nothing differs.

    Args:
        mask: the pixels that count, where it edits; all without one. For the kept ones: `outside(mask)`.
    """
    where = torch.ones_like(output[:1, :1]) if mask is None else mask
    error = _mean_squared_error(output, source, where, edited(where), "has pixels to count")
    return math.inf if error == 0 else 10 * math.log10(DATA_RANGE**2 / error)


def ssim(output: Tensor, source: Tensor, mask: Tensor | None = None) -> float:
    """Structural similarity (Wang et al. 2004: Gaussian window of 11 pixels, sigma 1.5), mean over the channels.

    Args:
        mask: the centres of the windows that count, as in `psnr`; windows that reach out of the picture are mirrored.
            Without one, all windows that lie in the picture, as is usual.
    """
    _check_sizes(output, source, mask)
    if min(output.shape[-2:]) < SSIM_WINDOW:
        raise NothingToMeasureError(
            f"Expected pictures of at least {SSIM_WINDOW}×{SSIM_WINDOW} pixels for SSIM, but got {tuple(output.shape)}."
        )
    similarity = ssim_map(output.double(), source.double())
    if mask is None:
        inner = SSIM_WINDOW // 2
        return similarity[..., inner:-inner, inner:-inner].mean().item()
    return _mean(similarity.masked_select(edited(mask)), "has pixels to count")


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at every pixel, of the shape of `x` and `y`; windows that reach out of the picture are mirrored."""
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x, variance_y = _window_mean(x * x) - mean_x**2, _window_mean(y * y) - mean_y**2
    covariance = _window_mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    scale = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return similarity / scale


def drift(
    round_trip: Callable[[Tensor], Tensor], source: Tensor, *, trips: int, mask: Tensor | None = None
) -> list[float]:
    """Mean squared error after each of `trips` round trips: what piles up when a picture is edited again and again.

    Args:
        round_trip: takes a picture, encodes and decodes it. It is given its own output next time.
        source: (B, 3, H, W) in [-1, 1], where it starts, and what is compared with.
        mask: the pixels that count, as in `psnr`.
    """
    where = torch.ones_like(source[:1, :1]) if mask is None else mask
    picture, errors = source, []
    for _ in range(trips):
        picture = round_trip(picture)
        errors.append(_mean_squared_error(picture, source, where, edited(where), "has pixels to count"))
    return errors


def outside(mask: Tensor) -> Tensor:
    """The mask of what `mask` keeps, 0 and 1: where a soft mask edits a little, it keeps nothing."""
    return (~edited(mask)).to(mask.dtype)


def _sobel(picture: Tensor, padding: str) -> Tensor:
    """(2, B, C, H, W) of (B, C, H, W): Sobel's gradients along rows and along columns."""
    p = picture
    for sides, length in (((1, 1, 0, 0), picture.shape[-1]), ((0, 0, 1, 1), picture.shape[-2])):
        p = F.pad(p, sides, mode=padding if length > 1 else "replicate")
    rows = p[..., :-2, :] + 2 * p[..., 1:-1, :] + p[..., 2:, :]
    columns = p[..., :-2] + 2 * p[..., 1:-1] + p[..., 2:]
    return torch.stack([rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]])


def _canny(inside: Tensor) -> Tensor:
    """Canny's edges (1986) of (B, 1, H, W) bool, as OpenCV finds them: every jump is above its thresholds.

    What is left of the algorithm: the steepest pixels along the gradient, which is rounded to four directions.
    """
    x, y = _sobel(inside.double(), "replicate")
    steep = x.abs() + y.abs()
    p = F.pad(steep, (1, 1, 1, 1))

    def at(down: int, right: int) -> Tensor:
        return p[..., 1 + down : 1 + down + steep.shape[-2], 1 + right : 1 + right + steep.shape[-1]]

    slope = math.tan(math.pi / 8)
    flat, upright = y.abs() < slope * x.abs(), y.abs() * slope > x.abs()
    across, down = (steep > at(0, -1)) & (steep >= at(0, 1)), (steep > at(-1, 0)) & (steep >= at(1, 0))
    falling = (steep > at(-1, -1)) & (steep > at(1, 1))
    rising = (steep > at(-1, 1)) & (steep > at(1, -1))
    diagonal = torch.where(x * y < 0, rising, falling)
    return (steep > 0) & torch.where(flat, across, torch.where(upright, down, diagonal))


def _window_mean(picture: Tensor) -> Tensor:
    """Gaussian-weighted means of (B, C, H, W), of the same shape, mirrored at the picture's border."""
    half = SSIM_WINDOW // 2
    steps = torch.arange(-half, half + 1, dtype=picture.dtype, device=picture.device)
    weights = torch.exp(-0.5 * (steps / SSIM_SIGMA) ** 2)
    weights = (weights / weights.sum()).expand(picture.shape[1], 1, 1, -1)
    padded = F.pad(picture, (half, half, half, half), mode="reflect")
    rows = F.conv2d(padded, weights, groups=picture.shape[1])
    return F.conv2d(rows, weights.mT, groups=picture.shape[1])


def _mean_squared_error(output: Tensor, source: Tensor, mask: Tensor, where: Tensor, expected: str) -> float:
    """Over the pixels of `where` (B or 1, 1, H, W) bool, summed in float64."""
    _check_sizes(output, source, mask)
    return _mean((output.double() - source.double()).masked_select(where).square(), expected)


def _check_sizes(output: Tensor, source: Tensor, mask: Tensor | None) -> None:
    if output.shape != source.shape or (mask is not None and mask.shape[-2:] != output.shape[-2:]):
        raise ValueError(
            "Expected output, source and mask of one size, but got "
            f"{tuple(output.shape)}, {tuple(source.shape)} and {None if mask is None else tuple(mask.shape)}."
        )


def _mean(values: Tensor, expected: str) -> float:
    if values.numel() == 0:
        raise NothingToMeasureError(f"Expected a mask that {expected}, but got one that does not.")
    return values.mean().item()
