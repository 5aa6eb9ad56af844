"""A part of a picture at the size that a model likes, and its edit put back: what is kept comes back bit for bit.

The part may reach beyond the picture, and the picture may be widened first (outpainting): beyond its border it is
continued by its nearest pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .compose import Keep, compose, harmonised_parts
from .crop import Box
from .harmonise import check_frames
from .masks import edited, grow_mask
from .runtime import Progress
from .source import Source
from .values import image_values, mask_values

MOST_PIXELS = 2**28


@dataclass(frozen=True)
class Crop:
    """What `crop_for_inpainting` cut out, for `stitch`.

    `image` (B, 3, H, W) and `mask` (B or 1, 1, H, W) are the whole picture, widened where it was to be. `box` is the
    part in its pixels, which may reach beyond it; `size` its (height, width) as it was handed out.
    """

    image: Tensor
    mask: Tensor
    box: Box
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """By how much the part was enlarged."""
        return math.sqrt(self.size[0] * self.size[1] / (self.box.height * self.box.width))


def crop_for_inpainting(
    image: Tensor,
    mask: Tensor | None = None,
    *,
    context: int = 64,
    context_share: float = 0.25,
    aspect: float | None = None,
    megapixels: float | None = None,
    size: tuple[int, int] | None = None,
    multiple: int = 8,
    expand: tuple[int, int, int, int] = (0, 0, 0, 0),
    grow: int = 0,
) -> tuple[Tensor, Tensor, Crop]:
    """The part of pictures around what their masks edit, scaled to what a model likes.

    Several pictures share one part, around all their masks.

    Args:
        image: (B, 3, H, W), any range.
        mask: (B or 1, 1, H, W) in [0, 1] or bool, 1 = edited. Not needed where the picture is widened.
        context, context_share: what is shown around the mask on each side: so many pixels, or that share of the mask's
            longer side if it is more.
        aspect: width / height of the part; else as the mask has it. Not with `size`.
        megapixels: the part is scaled to so many million pixels. Not with `size`.
        size: (height, width) that the part is scaled to, each rounded to the multiple.
        multiple: both sides are multiples of it.
        expand: pixels added to the picture left, top, right and bottom, all edited.
        grow: pixels to grow the mask by; at the rim of a widened picture that much of it is painted anew.

    Returns:
        The part (B, 3, h, w) and its mask (B or 1, 1, h, w), and what `stitch` needs.

    Raises:
        ValueError: an empty mask, shapes that do not fit, or settings out of range.
    """
    _check(image, mask, context, context_share, aspect, megapixels, size, multiple, expand)
    mask = image.new_zeros(1, 1, *image.shape[-2:], dtype=torch.float32) if mask is None else mask_values(mask)
    left, top, right, bottom = expand
    whole = Box(-top, -left, image.shape[-2] + top + bottom, image.shape[-1] + left + right)
    if any(expand):
        image, mask = _continued(image, whole), _continued(mask, whole).clone()
        inner = Box(top, left, whole.height - top - bottom, whole.width - left - right)
        outside = torch.ones_like(mask, dtype=torch.bool)
        inner.of(outside)[...] = False
        mask[outside] = 1.0
    mask = grow_mask(mask, grow)
    box, size = _plan(mask, context, context_share, aspect, megapixels, size, multiple)
    if size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"Expected a part of at most {MOST_PIXELS >> 20} million pixels, but got {size[1]}×{size[0]}. Ask for a "
            "smaller one."
        )
    part, part_mask = _continued(image, box), _continued(mask, box, edge=False)
    if (box.height, box.width) != size:
        low, high = torch.aminmax(part)
        part = _scaled(part, size, "bicubic").clamp(low, high)
        part_mask = _scaled(part_mask, size, "bilinear").clamp(0, 1)
    return part, part_mask, Crop(image, mask, box, size)


def stitch(
    crop: Crop,
    picture: Tensor,
    *,
    strength: float = 0.0,
    image_range: tuple[float, float] = (-1.0, 1.0),
    frames: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Edits of a part put back into the whole picture; only what the mask edits is taken from them.

    Args:
        picture: (N, 3, h, w), of the part's size or another, to which it is scaled. N and the number of pictures that
            were cut: one divides the other, the fewer are taken in turn.
        strength: 0 to 1, how far its colours are made to continue those of the kept pixels.
        image_range: of `picture` and of the picture that was cut.
        frames: so many results in a row are frames of one video, harmonised steadily (`asymvq.harmonise`).
        progress: called with (done, total) after each picture that is harmonised. What it raises ends the work.

    Returns:
        (B, 3, H, W), of the whole picture's type. Where the mask keeps, it is bit for bit as it was.

    Raises:
        ValueError: shapes or counts that do not fit, or values out of range.
    """
    if picture.ndim != 4 or picture.shape[1] != 3:
        raise ValueError(f"Expected an edited part of shape (B, 3, H, W), but got {tuple(picture.shape)}.")
    picture = image_values(picture, low=image_range[0], high=image_range[1])
    image, mask, box = crop.image, crop.mask, crop.box
    count = max(picture.shape[0], image.shape[0])
    if count % picture.shape[0] or count % image.shape[0]:
        raise ValueError(
            f"Expected as many edited parts as pictures, or a number that divides the other, but got "
            f"{picture.shape[0]} for {image.shape[0]}. Repeat or drop some."
        )
    picture = picture.to(image).repeat(count // picture.shape[0], 1, 1, 1)
    picture = _scaled(picture, (box.height, box.width), "bicubic").clamp(*image_range)
    # what reaches beyond the picture was only for the model
    top, left = max(0, -box.top), max(0, -box.left)
    start = Box(box.top + top, box.left + left, 0, 0)
    height = min(box.height - top, image.shape[-2] - start.top)
    width = min(box.width - left, image.shape[-1] - start.left)
    picture = Box(top, left, height, width).of(picture)
    part = Box(start.top, start.left, height, width)
    whole = Source(image, mask, (part.top, part.left, part.height, part.width))
    if strength:
        check_frames(frames, count)
        parts = ((picture[i : i + 1], whole.slice(i, i + 1)) for i in range(count))
        harmonised: list[Tensor] = []
        for part in harmonised_parts(parts, strength, image_range=image_range, frames=frames):
            harmonised.append(part)
            if progress is not None:
                progress(len(harmonised), count)
        picture = torch.cat(harmonised)
    return compose(picture, whole, Keep.EXACT)


def _plan(
    mask: Tensor,
    context: int,
    context_share: float,
    aspect: float | None,
    megapixels: float | None,
    size: tuple[int, int] | None,
    multiple: int,
) -> tuple[Box, tuple[int, int]]:
    """The part of a picture and the (height, width) that it is scaled to."""
    touched = Box.around(edited(mask))
    if not touched.height:
        raise ValueError(
            "Expected a mask to crop around or sides to expand, but got neither: the mask is empty. Paint it "
            "(right-click the Load Image node, open the mask editor), or expand a side."
        )
    whole = tuple(mask.shape[-2:])
    margin = max(context, round(context_share * max(touched.height, touched.width)))
    # what lies beyond the picture shows nothing
    starts = [max(0, touched.top - margin), max(0, touched.left - margin)]
    ends = [
        min(whole[0], touched.top + touched.height + margin), min(whole[1], touched.left + touched.width + margin)
    ]  # fmt: skip
    sides = [end - start for start, end in zip(starts, ends, strict=True)]
    if size is not None:
        size = (_rounded(size[0], multiple), _rounded(size[1], multiple))
        aspect = size[1] / size[0]
    if aspect is not None:
        sides = [max(sides[0], math.ceil(sides[1] / aspect - 1e-6)), max(sides[1], math.ceil(sides[0] * aspect - 1e-6))]
    if size is None and megapixels is not None:
        ratio = math.sqrt(megapixels * 1e6 / (sides[0] * sides[1]))
        size = (_rounded(sides[0] * ratio, multiple), _rounded(sides[1] * ratio, multiple))
    if size is None:
        sides = [-(-side // multiple) * multiple for side in sides]
        size = (sides[0], sides[1])
    elif aspect is None:  # rounding changed the shape a little: the part follows, so that nothing is stretched
        ratio = size[1] / size[0]
        sides = [max(sides[0], round(sides[1] / ratio)), max(sides[1], round(sides[0] * ratio))]
    places = []
    for start, end, side, full in zip(starts, ends, sides, whole, strict=True):
        place = (start + end - side) // 2
        places.append(min(max(0, place), full - side) if side <= full else (full - side) // 2)
    return Box(places[0], places[1], sides[0], sides[1]), size


def _rounded(side: float, multiple: int) -> int:
    return max(multiple, round(side / multiple) * multiple)


def _continued(picture: Tensor, box: Box, *, edge: bool = True) -> Tensor:
    """`box` of (B, C, H, W), beyond the border its nearest pixels, or 0."""
    indices, inside = [], []
    for start, length, side in ((box.top, box.height, picture.shape[-2]), (box.left, box.width, picture.shape[-1])):
        places = torch.arange(start, start + length, device=picture.device)
        indices.append(places.clamp(0, side - 1))
        inside.append((places >= 0) & (places < side))
    part = picture[..., indices[0], :][..., indices[1]]
    return part if edge else part * (inside[0][:, None] & inside[1])


def _scaled(picture: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(picture.shape[-2:]) == size:
        return picture
    dtype = picture.dtype
    return F.interpolate(picture.float(), size, mode=mode, antialias=True, align_corners=False).to(dtype)


def _check(
    image: Tensor,
    mask: Tensor | None,
    context: int,
    context_share: float,
    aspect: float | None,
    megapixels: float | None,
    size: tuple[int, int] | None,
    multiple: int,
    expand: tuple[int, int, int, int],
) -> None:
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(
            f"Expected an image of shape (B, 3, H, W), floats, but got {tuple(image.shape)} of {image.dtype}."
        )
    count, size_found = image.shape[0], tuple(image.shape[-2:])
    if mask is not None and (mask.ndim != 4 or mask.shape[0] not in (1, count) or mask.shape[1:] != (1, *size_found)):
        raise ValueError(
            f"Expected mask of shape ({count} or 1, 1, {size_found[0]}, {size_found[1]}), as the image is, but got "
            f"{tuple(mask.shape)}. Use the mask that was made for it."
        )
    if size is not None and (aspect is not None or megapixels is not None):
        raise ValueError("Expected size, or aspect and megapixels, but got both. Leave one out.")
    if context < 0 or not context_share >= 0 or multiple < 1 or min(expand) < 0:
        raise ValueError(
            f"Expected context, context_share and expand of 0 or more and a multiple of 1 or more, but got {context}, "
            f"{context_share}, {expand} and {multiple}."
        )
    if (aspect is not None and not 0 < aspect < math.inf) or (megapixels is not None and not 0 < megapixels < math.inf):
        raise ValueError(f"Expected an aspect and megapixels above 0, but got {aspect} and {megapixels}.")
    if size is not None and min(size) < 1:
        raise ValueError(f"Expected a size of at least one pixel a side, but got {size[1]}×{size[0]}.")
