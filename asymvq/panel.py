"""The labelled panel that compares decodes with their source."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps
from torch import Tensor

from .checkpoint.errors import shown
from .masks import edited
from .metrics import NothingToMeasureError, edge_step
from .pictures import to_pillow

BACKGROUND, INK, FAINT_INK = (246, 246, 244), (28, 29, 33), (96, 98, 104)
ACCENT, DETAIL_FRAME, NOT_COMPARED = (255, 122, 26), (255, 255, 255), (58, 60, 66)
MARGIN, GAP = 28, 20
TITLE_SIZE, FINDING_SIZE, CAPTION_SIZE = 30, 27, 20
TITLE_HEIGHT, FINDING_HEIGHT, CAPTION_HEIGHT = 44, 38, 30
MAX_TILE, MIN_COLUMN = (460, 600), 400
MIN_TILE = 24
"""Of a side: what is longer and thinner than 19:1 is drawn thicker than it is, so that it can be seen."""
LONGEST_TEXT = 400
"""Characters of a title or caption that are looked at: more than fit in a column."""
DETAIL_SHARE = 1 / 5
"""Width of the detail as a share of the picture's."""
AMPLIFY = 10
BORDER = 8
"""Pixels on either side of the mask's edge: where a seam would show."""
KEPT = ((-50, "as good as identical"), (-38, "slightly changed"), (math.inf, "changed"))
"""Words for a peak signal-to-noise ratio in dB, which is larger where less changed."""
STEPS = ((1.3, "none"), (2.2, "small"), (4, "visible"), (math.inf, "strong"))
"""Words for `asymvq.metrics.edge_step`. Photos themselves have 0.7 to 1.1 at any border; 1.3 is hard to find."""


@dataclass(frozen=True)
class Decoded:
    """A column of the panel."""

    title: str
    picture: Tensor
    """(3, H, W) in [-1, 1]."""
    caption: str = ""
    detail_caption: str = ""
    findings: tuple[str, ...] = ()
    """What was measured, in words, a line each: large enough to be read where the panel is drawn small."""


def findings(
    picture: Tensor, source: Tensor, mask: Tensor, kept_psnr: float, masked_psnr: float, *, truth: bool = False
) -> tuple[str, ...]:
    """What was measured, in words, a line each; as many for every picture.

    Args:
        picture: (3, H, W) in [-1, 1].
        source, mask, truth: as `draw_panel`.
        kept_psnr: of the kept pixels, dB; infinite where they are identical, NaN where there are none.
        masked_psnr: the same of the edited ones.
    """
    if math.isnan(kept_psnr):
        lines = ["kept pixels: none"]
    else:
        kept = "identical" if math.isinf(kept_psnr) else f"{_word(KEPT, -kept_psnr)} ({kept_psnr:.1f} dB)"
        lines = [f"kept pixels: {kept}"]
    if truth:
        found = (
            "none" if math.isnan(masked_psnr) else "identical" if math.isinf(masked_psnr) else f"{masked_psnr:.1f} dB"
        )
        lines.append(f"edit: {found}")
    try:
        lines.append(f"edge step: {_word(STEPS, edge_step(picture[None], mask[None], source=source[None]))}")
    except NothingToMeasureError:
        lines.append("edge step: no edge")
    return tuple(lines)


def _word(scale: Sequence[tuple[float, str]], value: float) -> str:
    """The first whose limit is not exceeded."""
    return next(word for limit, word in scale if value <= limit)


@dataclass(frozen=True)
class _Tile:
    title: str
    picture: Image.Image
    caption: str
    findings: tuple[str, ...] = ()


def draw_panel(
    source: Tensor, mask: Tensor, decodes: Sequence[Decoded], *, truth: bool = False, amplify: float = AMPLIFY
) -> Image.Image:
    """A grid: the source, its mask and a detail on the left, then a column for each decode.

    Args:
        source: (3, H, W) in [-1, 1].
        mask: (1, H, W) in [0, 1], 1 = edited. Empty for a comparison without a mask.
        decodes: from the worst to the best.
        truth: whether the source is what edited pixels should be, too. They are then compared like the others, and the
            detail is at the mask's edge.
        amplify: what differences are multiplied by to be seen.
    """
    _, height, width = source.shape
    scale = min(MAX_TILE[0] / width, MAX_TILE[1] / height)
    size = (max(MIN_TILE, round(width * scale)), max(MIN_TILE, round(height * scale)))
    detail_width = size[0] if size[0] >= MIN_COLUMN // 4 else MIN_COLUMN
    inside = edited(mask)
    covered = Image.fromarray((inside[0].cpu().numpy() * 255).astype(np.uint8))
    small_edited = covered.resize(size, Image.Resampling.BOX).point([0] * 128 + [255] * 128)
    share = inside.float().mean().item()
    box = find_detail(source, mask, [decoded.picture for decoded in decodes], truth=truth)

    def whole(picture: Image.Image) -> Image.Image:
        return picture.resize(size, Image.Resampling.LANCZOS)

    def detail(picture: Image.Image) -> Image.Image:
        return picture.crop(box).resize((detail_width, detail_width // 2), Image.Resampling.BICUBIC)

    original = to_pillow(source)
    framed = whole(original)
    corners = [round(v * size[axis % 2] / (width, height)[axis % 2]) for axis, v in enumerate(box)]
    ImageDraw.Draw(framed).rectangle(corners, outline=DETAIL_FRAME, width=2)
    mask_caption = f"orange: edited, {share:.0%} of the picture" if share else "nothing is edited"
    rows = [
        [_Tile("Source", framed, "framed: the detail below")],
        [_Tile("Mask", _tint(whole(original), small_edited), mask_caption)],
        [_Tile("Source, detail", detail(original), "magnified" if truth else "a kept part, magnified")],
    ]
    error_caption = "black: as in the source" if truth or not share else "black: kept as it was; grey: edited"
    for decoded in decodes:
        picture = to_pillow(decoded.picture)
        difference = whole(amplified_difference(picture, original, amplify))
        if not truth:
            difference.paste(NOT_COMPARED, mask=small_edited)
        rows[0].append(_Tile(decoded.title, whole(picture), decoded.caption, decoded.findings))
        rows[1].append(_Tile(f"Its error, {amplify:g}x", _outline(difference, small_edited), error_caption))
        rows[2].append(_Tile("Its detail", detail(picture), decoded.detail_caption))
    return _lay_out(rows)


def amplified_difference(picture: Image.Image, original: Image.Image, amplify: float) -> Image.Image:
    """What differs in each colour of two RGB images of one size, times `amplify`, cut off at white."""
    levels = [min(255, round(amplify * v)) for v in range(256)]
    return ImageChops.difference(picture, original).point(levels * 3)


def find_detail(
    source: Tensor, mask: Tensor, pictures: Sequence[Tensor], *, truth: bool = False
) -> tuple[int, int, int, int]:
    """The part, twice as wide as high, that shows best what the decodes make of the source.

    That is where they lost most of its texture: at the mask's edge where the true picture is known, else in what the
    mask keeps, away from its edge. Where nothing was lost, it is where most of the edge is.

    Args as `draw_panel`. Returns (left, top, right, bottom) in pixels.
    """
    _, height, width = source.shape
    box_width = min(width, max(2, min(round(width * DETAIL_SHARE), height * 2)))
    box_height = max(1, box_width // 2)
    inside = edited(mask).float()[None]
    near_edited, near_kept = (_grown(part, BORDER) for part in (inside, 1 - inside))
    edge = near_edited * near_kept
    lost = torch.stack([_texture(picture - source) for picture in pictures]).mean(0)
    lost = lost * (edge if truth else 1 - near_edited)
    if not lost.any():
        lost = edge
    scores = _box_sums(lost[0, 0], box_height, box_width)
    top, left = divmod(int(torch.argmax(scores)), scores.shape[1])
    return left, top, left + box_width, top + box_height


def _grown(part: Tensor, pixels: int) -> Tensor:
    for size, padding in (((2 * pixels + 1, 1), (pixels, 0)), ((1, 2 * pixels + 1), (0, pixels))):
        part = F.max_pool2d(part, size, stride=1, padding=padding)
    return part


def _box_sums(values: Tensor, height: int, width: int) -> Tensor:
    """The sums over all boxes of this size in (H, W), from a table of sums: large boxes cost as much as small ones."""
    table = F.pad(values.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    rows = table[height:] - table[:-height]
    return rows[:, width:] - rows[:, :-width]


def _texture(difference: Tensor) -> Tensor:
    """The energy of (3, H, W) without what changes slowly, such as a shift of colour: (1, 1, H, W)."""
    difference = difference.float()[None]
    slow = difference
    for size, padding in (((17, 1), (8, 0)), ((1, 17), (0, 8))):
        slow = F.avg_pool2d(slow, size, stride=1, padding=padding, count_include_pad=False)
    return (difference - slow).square().mean(1, keepdim=True)


def _tint(picture: Image.Image, inside: Image.Image) -> Image.Image:
    """The picture in dim grey with the edited part in the accent colour."""
    dim = ImageOps.grayscale(picture).point([round(40 + 0.5 * v) for v in range(256)]).convert("RGB")
    coloured = Image.blend(dim, Image.new("RGB", dim.size, ACCENT), 0.75)
    return Image.composite(coloured, dim, inside)


def _outline(picture: Image.Image, inside: Image.Image) -> Image.Image:
    border = ImageChops.subtract(inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3)))
    picture.paste(ACCENT, mask=border)
    return picture


def _lay_out(rows: list[list[_Tile]]) -> Image.Image:
    sizes = (TITLE_SIZE, FINDING_SIZE, CAPTION_SIZE)
    title_font, finding_font, caption_font = (ImageFont.load_default(size=size) for size in sizes)
    column = max(MIN_COLUMN, *(tile.picture.width for tile in rows[0]))
    heights = [
        TITLE_HEIGHT
        + max(tile.picture.height for tile in row)
        + max(FINDING_HEIGHT * len(tile.findings) + CAPTION_HEIGHT * bool(tile.caption) for tile in row)
        for row in rows
    ]
    width = 2 * MARGIN + len(rows[0]) * column + (len(rows[0]) - 1) * GAP
    panel = Image.new("RGB", (width, 2 * MARGIN + sum(heights) + GAP * (len(rows) - 1)), BACKGROUND)
    draw = ImageDraw.Draw(panel)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        for number, tile in enumerate(row):
            left = MARGIN + number * (column + GAP)
            draw.text((left, top), _fitted(tile.title, title_font, column), INK, title_font)
            panel.paste(tile.picture, (left, top + TITLE_HEIGHT))
            below = top + TITLE_HEIGHT + tile.picture.height + 5
            for finding in tile.findings:
                draw.text((left, below), _fitted(finding, finding_font, column), INK, finding_font)
                below += FINDING_HEIGHT
            draw.text((left, below), _fitted(tile.caption, caption_font, column), FAINT_INK, caption_font)
        top += height + GAP
    return panel


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, shortened to what fits in `width` pixels."""
    text = shown(text, LONGEST_TEXT)
    if font.getlength(text) <= width:
        return text
    count = bisect.bisect_right(range(1, len(text)), width, key=lambda count: font.getlength(text[:count] + "…"))
    return text[:count] + "…"
