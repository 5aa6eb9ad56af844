"""A source picture and its mask beside a latent: what is edited, which part the latent covers, and how often."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .autoencoder import check_latent, check_together
from .crop import Box
from .masks import MASK_FLOOR, edited
from .network import Grid
from .tiles import Tile
from .values import image_values, is_finite, mask_values, why_unusable

logger = logging.getLogger(__name__)

MOSTLY_EDITED = 0.75
"""Of a picture: a mask that edits more than this may be an inverted one."""


@dataclass(frozen=True)
class Source:
    """A source picture and its mask, matched to a latent.

    `image` (B, 3, H, W) and `mask` (B, 1, H, W) each hold as many as there are, or fewer, which are then taken in
    turn. `window` is (top, left, height, width) of what the latent covers, in the picture's pixels: a part of it, or
    more, from (0, 0) on, where the latent was made of a padded picture.
    """

    image: Tensor
    mask: Tensor
    window: tuple[int, int, int, int]

    @property
    def count(self) -> int:
        """Pictures, or masks if there are more of them."""
        return max(self.image.shape[0], self.mask.shape[0])

    @property
    def covered(self) -> Box:
        """The part of the picture that the latent covers."""
        top, left, height, width = self.window
        return Box(top, left, min(height, self.image.shape[-2] - top), min(width, self.image.shape[-1] - left))

    def rim(self) -> list[Box]:
        """The parts around it, which the encoder's crop left out."""
        (height, width), part = self.image.shape[-2:], self.covered
        bottom, right = part.top + part.height, part.left + part.width
        boxes = [
            Box(0, 0, part.top, width),
            Box(bottom, 0, height - bottom, width),
            Box(part.top, 0, part.height, part.left),
            Box(part.top, right, part.height, width - right),
        ]
        return [box for box in boxes if box.height and box.width]

    def crop(self, tensor: Tensor, tile: Tile | None = None, factor: int = 1) -> Tensor:
        """What the latent covers of `tensor` (…, H, W), or a tile of it; past the border its nearest pixels."""
        top, left, height, width = self.window
        if tile is not None:
            top, left = top + tile.top * factor, left + tile.left * factor
            height, width = tile.height * factor, tile.width * factor
        return nearest(tensor, Box(top, left, height, width))

    def touched(self, factor: int) -> Tensor:
        """The latent's cells that the mask touches, (B, h, w) bool; at the rim it touches the nearest ones."""
        pixels, (top, left, height, width) = edited(self.mask)[:, 0], self.window
        pixels = F.pad(pixels, (0, max(0, width - pixels.shape[-1]), 0, max(0, height - pixels.shape[-2])))
        pixels = _folded(_folded(pixels, -2, top, height), -1, left, width)
        return pixels.reshape(-1, height // factor, factor, width // factor, factor).any(dim=4).any(dim=2)

    def unedited(self) -> bool:
        """Whether the mask keeps every pixel, so that there is nothing to decode."""
        return not edited(self.mask).any()

    def edited_share(self) -> float:
        """Of the pictures' pixels."""
        return edited(self.mask).float().mean().item()

    def remarks(self) -> list[str]:
        """What a user should know of masks that edit nothing, or keep nothing."""
        pixels = edited(self.mask).flatten(1)
        count, empty, whole = len(pixels), int((~pixels.any(dim=1)).sum()), int(pixels.all(dim=1).sum())
        above = f"nowhere above {int(255 * MASK_FLOOR)} of 255"
        texts: list[str] = []
        if empty:
            texts.append(f"{_which(empty, count)} empty ({above}): nothing is edited there.")
        if whole:
            texts.append(f"{_which(whole, count)} white all over: no pixel of the source is kept there.")
        return texts

    def summary(self) -> str:
        """Its remarks, or how much is edited, in a line for people."""
        share = self.edited_share()
        edited = f"Edited: {'under 0.1%' if share < 0.001 else f'{share:.1%}'} of the image."
        if share > MOSTLY_EDITED:
            edited += " If that should be kept, invert the mask."
        return " ".join(self.remarks()) or edited

    def cycled(self, latent: Tensor) -> Tensor:
        """`latent`, repeated in turn where there are more pictures or masks."""
        return latent.repeat(max(1, self.count // latent.shape[0]), 1, 1, 1)

    def slice(self, start: int, stop: int) -> Source:
        """Pictures `start` to `stop`; one that serves a whole batch stays one."""
        return Source(_turn(self.image, start, stop), _turn(self.mask, start, stop), self.window)


def fit_source(
    grid: Grid,
    latent: Tensor,
    *,
    image: Tensor | None,
    mask: Tensor | None,
    image_range: tuple[float, float] = (-1.0, 1.0),
) -> Source | None:
    """Matches image and mask to a latent; None where neither is given. Says in the log if nothing is edited, or kept.

    Arguments and errors as `asymvq.decode`; `grid` is the network or its config, `image_range` what an image's values
    lie in.
    """
    fault = why_unusable(latent)
    if fault is None and not latent.is_floating_point():
        fault = f"one of {latent.dtype}"
    if fault is not None:
        raise ValueError(f"Expected a latent as a dense tensor of floats that holds some, but got {fault}.")
    check_latent(grid, latent)
    check_together(image=image, mask=mask)
    if image is None or mask is None:
        return None
    height, width = latent.shape[-2:]
    covered = Covered(
        (height * grid.factor, width * grid.factor),
        len(latent),
        grid.factor,
        f"a latent of {width}×{height}",
        "latents",
    )
    return _fit(covered, image, mask, grid.image_channels, image_range)


def fit_pictures(
    pictures: Tensor,
    *,
    image: Tensor,
    mask: Tensor,
    factor: int = 1,
    image_range: tuple[float, float] = (-1.0, 1.0),
    called: str = "edited picture",
) -> Source:
    """Matches image and mask to edited pictures, as `fit_source` does to latents.

    Args:
        pictures: (B, C, H, W), of the source's size, or smaller by less than the factor, as after an encoder that
            crops in the middle.
        factor: that sides of what was encoded are multiples of; 1: pictures of the source's size alone.
        called: what an error calls one of them.

    Raises:
        ValueError: sizes or counts that do not fit, or values out of range.
    """
    size = (pictures.shape[-2], pictures.shape[-1])
    covered = Covered(size, len(pictures), factor, f"the {called}", f"{called}s")
    return _fit(covered, image, mask, pictures.shape[1], image_range)


@dataclass(frozen=True)
class Covered:
    """What a source is matched to."""

    size: tuple[int, int]
    """Height and width in pixels."""
    count: int
    factor: int
    """Of this many pixels less than one may differ, cropped or padded by an encoder."""
    name: str
    plural: str


def _fit(covered: Covered, image: Tensor, mask: Tensor, channels: int, image_range: tuple[float, float]) -> Source:
    low, high = image_range
    image, mask = image_values(image, low=low, high=high), mask_values(mask)
    for name, tensor, wanted in (("image", image, channels), ("mask", mask, 1)):
        if tensor.ndim != 4 or tensor.shape[1] != wanted:
            raise ValueError(f"Expected {name} of shape (B, {wanted}, H, W), but got {tuple(tensor.shape)}.")
    if image.shape[-2:] != mask.shape[-2:]:
        raise ValueError(
            f"Expected image and mask of one size, but got an image of {_size(image)} and a mask of {_size(mask)} "
            "pixels (width×height). Resize the mask to the image, or use the mask that was made for it."
        )
    source = Source(image, mask, _window(covered, image))
    counts = (covered.count, image.shape[0], mask.shape[0])
    if any(max(counts) % count for count in counts):
        raise ValueError(
            f"Expected as many {covered.plural}, images and masks, or numbers of them that divide the largest and are "
            f"taken in turn, but got {counts[0]}, {counts[1]} and {counts[2]}. Repeat or drop some, or give one for "
            "all."
        )
    _require_finite_kept(source)
    for text in source.remarks():
        logger.warning("%s", text)
    return source


def nearest(tensor: Tensor, box: Box) -> Tensor:
    """A box of `tensor` (…, H, W), which may reach over the border: there the nearest pixel counts. A view inside."""
    for dim, start, length in ((-2, box.top, box.height), (-1, box.left, box.width)):
        size = tensor.shape[dim]
        if start >= 0 and start + length <= size:
            tensor = tensor.narrow(dim, start, length)
        else:
            lines = torch.arange(start, start + length, device=tensor.device)
            tensor = tensor.index_select(dim, lines.clamp(0, size - 1))
    return tensor


def _window(covered: Covered, image: Tensor) -> tuple[int, int, int, int]:
    (height, width), factor = covered.size, covered.factor
    spare = (image.shape[-2] - height, image.shape[-1] - width)
    if all(0 <= s < factor for s in spare):  # cropped in the middle, as ComfyUI does
        return spare[0] // 2, spare[1] // 2, height, width
    if all(-factor < s <= 0 for s in spare):
        return 0, 0, height, width
    near = f", or of less than {factor} more or less on both sides" if factor > 1 else ""
    raise ValueError(
        f"Expected an image of {width}×{height} pixels for {covered.name}{near}, but got {_size(image)}. Give the "
        "image that was encoded, or scale it to that size."
    )


def _require_finite_kept(source: Source) -> None:
    """Raises ValueError where a kept pixel is NaN or infinite. Under the mask it does not matter."""
    if is_finite(source.image):
        return
    # only those that meet: pictures and masks are taken in turn
    for i in range(math.lcm(source.image.shape[0], source.mask.shape[0])):
        part = source.slice(i, i + 1)
        if (~torch.isfinite(part.image) & ~edited(part.mask)).any():
            raise ValueError(
                f"Expected a finite source image, but picture {i % source.image.shape[0] + 1} holds NaN or infinity in "
                "pixels that the mask keeps: the step that made the image went wrong. Make it anew, or mask them."
            )


def _folded(pixels: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` lines of bool `pixels` from `start`; those before and after count for the nearest that is left."""
    size = pixels.shape[dim]
    if size == length:
        return pixels
    inner = pixels.narrow(dim, start, length).clone()
    for line, first, last in ((0, 0, start), (length - 1, start + length, size)):
        if last > first:
            inner.narrow(dim, line, 1).logical_or_(pixels.narrow(dim, first, last - first).any(dim, keepdim=True))
    return inner


def _turn(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Entries `start` to `stop` of a batch that begins anew at its end; a single one stays one."""
    count = tensor.shape[0]
    if count == 1:
        return tensor
    first = start % count
    if first + stop - start <= count:
        return tensor[first : first + stop - start]
    return tensor[torch.arange(start, stop, device=tensor.device) % count]


def _which(number: int, count: int) -> str:
    return "The mask is" if count == 1 else f"{number} of {count} masks {'is' if number == 1 else 'are'}"


def _size(tensor: Tensor) -> str:
    return f"{tensor.shape[-1]}×{tensor.shape[-2]}"
