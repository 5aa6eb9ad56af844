"""Picture files to tensors and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor


def read_picture(path: Path) -> Tensor:
    """(1, 3, H, W) float32 in [-1, 1], turned as its EXIF data say. Alpha is dropped, the colours under it stay.

    8-bit values v become v / 127.5 - 1; `write_picture` gives exactly v back.

    Raises:
        OSError: no such file.
        ValueError: not a picture.
    """
    return picture_tensor(_open(path))


def picture_tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in [-1, 1] of a Pillow image of any mode."""
    if _is_deep(picture):
        grey = torch.from_numpy(_deep_grey(picture) * 2 - 1)
        return grey.expand(1, 3, -1, -1).contiguous()
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return pixels.permute(2, 0, 1)[None].float().div(127.5).sub(1)


def read_mask(path: Path) -> Tensor:
    """(1, 1, H, W) float32 in [0, 1], 1 = edited: white, or what is transparent in a picture with transparency.

    A picture that has an alpha channel without using it counts by its brightness. Errors as `read_picture`.
    """
    picture = _open(path)
    if _is_deep(picture):
        return torch.from_numpy(_deep_grey(picture))[None, None]
    if "A" in picture.getbands() or "transparency" in picture.info:
        alpha = np.array(picture.convert("RGBA").getchannel("A"))
        if alpha.min() < 255:
            return torch.from_numpy(alpha)[None, None].float().div(255).neg().add(1)
    return torch.from_numpy(np.array(picture.convert("L")))[None, None].float().div(255)


def write_picture(path: Path, image: Tensor) -> None:
    """Writes (3, H, W) in [-1, 1] as an 8-bit PNG."""
    to_pillow(image).save(path, format="PNG")


def to_pillow(image: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] to an 8-bit RGB image, rounded to the nearest value."""
    pixels = image.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


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


def prepare_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Makes the folder of an output file.

    Raises:
        ValueError: the name ends in none of `suffixes`.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"Expected an output file that ends in {' or '.join(suffixes)}, but got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)


def _open(path: Path) -> Image.Image:
    """The picture, loaded and turned upright."""
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except UnidentifiedImageError:
        raise ValueError(f"Expected a picture (PNG, JPEG, WebP, …), but got {path}, which is none.") from None
    # Pillow raises SyntaxError for broken PNG chunks, OSError without a file name for truncated data
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"Expected a readable picture, but got {path}: {error}") from error
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"Expected a readable picture, but got {path}: {error}") from error


def _is_deep(picture: Image.Image) -> bool:
    """Whether Pillow would clip the values in a conversion to 8 bits: 16-bit and float greyscale."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _deep_grey(picture: Image.Image) -> np.ndarray:
    """(H, W) float32 in [0, 1]. Float pictures are in that range already."""
    values = np.array(picture, dtype=np.float32)
    return np.clip(values if picture.mode == "F" else values / 65535, 0, 1)
