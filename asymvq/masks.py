"""Masks: what counts as edited, random ones for training and evaluation, and the preparation of a user's."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

MASK_FLOOR = 8.5 / 255
"""Up to here a pixel is kept exactly, and from 1 minus this on it is edited fully: 8 levels of an 8-bit mask, and as
many at the other end. That is what lossy files and resizing leave in black and white: in JPEG and WebP, down to quality
10, at most 6 levels at 16 pixels or more from a mask's edge (bench/mask_noise.py)."""
REFERENCE_SIZE = 256
"""Stroke lengths and widths below are in pixels of a picture whose short side is this."""
MIN_SIDE = 8
MAX_THICKNESS = 2.0
"""Beyond, few masks leave anything to keep."""


def edited(mask: Tensor) -> Tensor:
    """Which pixels a mask in [0, 1] edits, bool of its shape; the others are kept. The rule for all of the library."""
    return mask > MASK_FLOOR


def alpha(mask: Tensor) -> Tensor:
    """How much of the edit a pixel gets, of the mask's shape: 0 exactly where it is kept, 1 where it is white.

    Between `MASK_FLOOR` and 1 minus it, alpha is the mask stretched to [0, 1], so that it jumps nowhere.
    """
    return ((mask - MASK_FLOOR) / (1 - 2 * MASK_FLOOR)).clamp(0, 1)


def random_thick_mask(
    height: int, width: int, rng: np.random.Generator, *, thickness: float = 1.0, scale: float = 1.0
) -> Tensor:
    """A "random thick" mask as LaMa (arXiv 2109.07161) and the asymmetric VQGAN train with: thick strokes or boxes.

    Lengths grow with the short side, so that a mask covers a like share of any picture.

    Args:
        thickness: of strokes and boxes, as a multiple of what those train with: up to 2.
        scale: of lengths and thicknesses together.

    Returns:
        (1, H, W) float, values 0 and 1, 1 = to be generated. Never empty and never full.

    Raises:
        ValueError: a thickness out of range, or a picture too small to be edited in part.
    """
    canvas = draw_thick_mask(height, width, rng, thickness=thickness, scale=scale)
    return torch.from_numpy(np.array(canvas)).float().div_(255)[None]


def draw_thick_mask(
    height: int, width: int, rng: np.random.Generator, *, thickness: float = 1.0, scale: float = 1.0
) -> Image.Image:
    """What `random_thick_mask` returns, of 0 and 255 in a byte a pixel. Arguments and errors as there."""
    if not 0 < thickness <= MAX_THICKNESS:
        raise ValueError(f"Expected a thickness above 0 and up to {MAX_THICKNESS:g}, but got {thickness:g}.")
    if min(height, width) < MIN_SIDE:
        raise ValueError(f"Expected a mask of at least {MIN_SIDE}×{MIN_SIDE} pixels, but got {width}×{height}.")
    scale = scale * min(height, width) / REFERENCE_SIZE
    while True:
        canvas = Image.new("L", (width, height))
        if rng.random() < 1.0 / 1.3:
            _draw_strokes(canvas, scale, thickness, rng)
        else:
            _draw_boxes(canvas, scale, thickness, rng)
        if canvas.getextrema() == (0, 255):
            return canvas


def _draw_strokes(canvas: Image.Image, scale: float, thickness: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(canvas)
    for stroke in range(int(rng.integers(1, 6))):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, canvas.height)
        for _ in range(int(rng.integers(1, 6))):
            angle = rng.uniform(0, 4)
            if stroke % 2 == 0:
                angle = 2 * math.pi - angle
            length = (10 + rng.uniform(0, 200)) * scale
            radius = (5 + rng.uniform(0, 100)) * thickness * scale / 2
            end_x = float(np.clip(x + length * math.sin(angle), 0, canvas.width))
            end_y = float(np.clip(y + length * math.cos(angle), 0, canvas.height))
            draw.line([(x, y), (end_x, end_y)], fill=255, width=max(1, round(2 * radius)))
            for cx, cy in ((x, y), (end_x, end_y)):  # round ends, so that turns leave no notch
                draw.ellipse([cx - radius, cy - radius, cx + radius, cy + radius], fill=255)
            x, y = end_x, end_y


def _draw_boxes(canvas: Image.Image, scale: float, thickness: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(canvas)
    margin = 10 * scale
    for _ in range(int(rng.integers(1, 4))):
        box_width, box_height = rng.uniform(30, 150, size=2) * thickness * scale
        left = rng.uniform(margin, max(margin, canvas.width - margin - box_width))
        top = rng.uniform(margin, max(margin, canvas.height - margin - box_height))
        draw.rectangle([left, top, left + box_width, top + box_height], fill=255)


def grow_mask(mask: Tensor, pixels: int) -> Tensor:
    """`mask` (…, H, W) in [0, 1] grown by `pixels` in every direction (a square), its softness carried along.

    Raises:
        ValueError: a negative number of pixels.
    """
    if pixels < 0:
        raise ValueError(f"Expected to grow a mask by 0 or more pixels, but got {pixels}.")
    if pixels == 0:
        return mask
    size = 2 * pixels + 1
    flat = mask.reshape(-1, 1, *mask.shape[-2:])
    flat = F.max_pool2d(flat, (size, 1), stride=1, padding=(pixels, 0))
    flat = F.max_pool2d(flat, (1, size), stride=1, padding=(0, pixels))
    return flat.reshape(mask.shape)
