"""Mask files: whatever editors and ComfyUI save a mask as."""

from __future__ import annotations

import logging
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..masks import edited
from .opening import PictureError
from .reading import Raster, read_raster, stripes

logger = logging.getLogger(__name__)

TOLERANCE = 16 / 255
"""What still counts as one colour, as white, or as black."""


def read_mask(path: str | PathLike[str]) -> Tensor:
    """(1, 1, H, W) float32 in [0, 1], 1 = edited.

    Without transparency white is edited. Where transparency varies, the picture's visible part tells what it is:

    - Of one colour: strokes on a transparent layer, as painting programs export them. What is painted is edited.
    - Of black and white on a layer that is mostly transparent: the same, and white is edited.
    - Anything else: a picture with holes, as ComfyUI's mask editor saves it. What is transparent is edited.

    All but the last are said in the log, with the share of the picture that is edited.

    Raises:
        OSError: no such file.
        ValueError: not a picture that can be read, one that is transparent all over, or one without white whose values
            are 0 and 1.
    """
    path = Path(path)
    raster = read_raster(path)
    raster.warn(path)
    brightness, alpha = _brightness(raster), _opacity(raster)
    if alpha is None or float(alpha.min()) == float(alpha.max()) > 0:
        return _checked(brightness, raster, path)
    if not alpha.any():
        raise PictureError(
            path,
            "it is transparent all over, which tells no edited from kept pixels. Save the mask in black and white",
        )
    painted = _painted(raster, brightness, alpha)
    if painted is None:
        return alpha.neg_().add_(1)[None, None]
    mask, kind = painted
    logger.warning(
        "%s: taken as a mask painted on a transparent layer, %s: %.3g %% of it is edited. If what is transparent was "
        "meant, save the mask in black and white.",
        path, kind, 100 * edited(mask).float().mean().item(),
    )  # fmt: skip
    return mask[None, None]


def _checked(brightness: Tensor, raster: Raster, path: Path) -> Tensor:
    brightest = float(brightness.max()) * raster.white
    if 0 < brightest < 1.5 < raster.white:
        raise ValueError(
            f"Expected a mask from black to white (0 to {raster.white:g}), but got {path} with 0 and 1 alone. If 1 "
            f"means edited, multiply its values by {raster.white:g}."
        )
    return brightness[None, None]


def _painted(raster: Raster, brightness: Tensor, alpha: Tensor) -> tuple[Tensor, str] | None:
    """The mask of a painted layer, and how it was understood; None for a picture with holes."""
    visible = alpha >= alpha.max() / 2
    colours = torch.from_numpy(np.ascontiguousarray(raster.colours, np.float32)).div_(raster.white)[visible]
    darkest, brightest = colours.amin(0), colours.amax(0)
    if float((brightest - darkest).max()) <= TOLERANCE:
        return alpha, "what is painted counts"
    grey = float((colours.amax(1) - colours.amin(1)).max()) <= TOLERANCE
    extreme = ((colours <= TOLERANCE) | (colours >= 1 - TOLERANCE)).all(1).float().mean().item()
    if grey and extreme >= 0.98 and visible.float().mean().item() < 0.5:
        return brightness * alpha, "where white counts"
    return None


def _brightness(raster: Raster) -> Tensor:
    """(H, W) in [0, 1], as Pillow makes grey of RGB."""
    height, width, _ = raster.values.shape
    result = torch.empty(height, width)
    for rows in stripes(height, width * 3):
        colours = raster.colours[rows]
        if colours.shape[-1] == 3:
            parts = colours.astype(np.uint64) @ np.array([19595, 38470, 7471], np.uint64)
            colours = (parts + 0x8000) >> 16
        result[rows] = torch.from_numpy(colours.reshape(-1, width).astype(np.float32))
    return result.div_(raster.white)


def _opacity(raster: Raster) -> Tensor | None:
    if raster.alpha is None:
        return None
    return torch.from_numpy(np.ascontiguousarray(raster.alpha, np.float32)).div_(raster.opaque)
