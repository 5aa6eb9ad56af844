"""Picture files to tensors and back."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from .mask_files import read_mask
from .opening import PictureError, PictureTooLargeError, open_picture
from .reading import Raster, picture_tensor, read_raster
from .writing import prepare_output, to_pillow, write_picture

__all__ = [
    "PictureError",
    "PictureTooLargeError",
    "Raster",
    "cover",
    "open_picture",
    "picture_tensor",
    "prepare_output",
    "read_mask",
    "read_picture",
    "read_raster",
    "to_pillow",
    "write_picture",
]


def read_picture(path: str | PathLike[str]) -> Tensor:
    """(1, 3, H, W) float32 in [-1, 1], turned as its EXIF data say. Alpha is dropped, the colours under it stay.

    8-bit values v become v / 127.5 - 1; `write_picture` gives exactly v back. `read_raster` keeps what the file says
    beside its pixels.

    Raises:
        OSError: no such file.
        ValueError: not a picture that can be read (`PictureError`).
    """
    path = Path(path)
    raster = read_raster(path)
    raster.warn(path)
    return raster.image()


def cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of (B, 3, H, W) in [-1, 1], resized to (height, width) without distortion."""
    height, width = image.shape[-2:]
    scale = min(height / size[0], width / size[1])
    crop_height, crop_width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    crop = image[..., top : top + crop_height, left : left + crop_width]
    if crop.shape[-2:] == size:
        return crop
    return F.interpolate(crop, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
