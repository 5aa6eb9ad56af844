"""Picture files to values: every kind of pixel that our formats have, with what the file says beside them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from .metadata import Metadata, read_exif, read_metadata
from .opening import PictureError, decode, open_picture

logger = logging.getLogger(__name__)

STRIPE = 1 << 22
"""Values that are converted at once: beside a picture there is a stripe of it, never a second copy."""
GUESSED_BITS = (8, 10, 12, 16)
"""What cameras, scanners and programs leave unscaled in wider values. What fills 16 bits is no guess there."""
SMALLEST_WHITE = 16
"""Integers that stay below this, and floats between 1 and this, are in no range that pictures have."""
ORIENTATION = 0x0112
TIFF_PHOTOMETRIC, TIFF_PLANES = 262, 284
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda v: v[:, ::-1],
    3: lambda v: v[::-1, ::-1],
    4: lambda v: v[::-1],
    5: lambda v: v.swapaxes(0, 1),
    6: lambda v: np.rot90(v, 3),
    7: lambda v: v.swapaxes(0, 1)[::-1, ::-1],
    8: lambda v: np.rot90(v),
}
"""EXIF's orientations; from 5 on they swap the sides."""


@dataclass(frozen=True)
class Raster:
    """The pixels of a file, upright."""

    values: np.ndarray
    """(H, W, C): 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; uint8, uint16, int32 or float32."""
    white: float
    """The value of white; black is 0."""
    opaque: float
    """The value of alpha that covers."""
    notes: tuple[str, ...] = ()
    """How the file was understood, where it leaves room for doubt."""
    metadata: Metadata = field(default_factory=Metadata)

    @property
    def colours(self) -> np.ndarray:
        """(H, W, 1 or 3)."""
        return self.values[..., : 1 if self.values.shape[-1] < 3 else 3]

    @property
    def alpha(self) -> np.ndarray | None:
        """(H, W)."""
        return self.values[..., -1] if self.values.shape[-1] in (2, 4) else None

    @property
    def bits(self) -> int:
        """Of a file that holds these values: 8 or 16."""
        return 8 if self.white == 255 and self.values.dtype.kind != "f" else 16

    def image(self) -> Tensor:
        """(1, 3, H, W) float32 in [-1, 1]."""
        height, width, _ = self.values.shape
        image = torch.empty(1, 3, height, width)
        for rows in stripes(height, width * 3):
            colours = torch.from_numpy(np.ascontiguousarray(self.colours[rows], dtype=np.float32))
            image[0, :, rows] = colours.permute(2, 0, 1) / (self.white / 2) - 1
        return image

    def bytes(self) -> Tensor:
        """(3, H, W) uint8."""
        height, width, _ = self.values.shape
        pixels = torch.empty(3, height, width, dtype=torch.uint8)
        for rows in stripes(height, width * 3):
            colours = self.colours[rows]
            if self.white != 255 or colours.dtype != np.uint8:
                colours = (colours.astype(np.float32) * (255 / self.white)).round().astype(np.uint8)
            pixels[:, rows] = torch.from_numpy(np.ascontiguousarray(colours)).permute(2, 0, 1)
        return pixels

    def warn(self, name: object, *more: str) -> None:
        """One line in the log with all that has to be said of a file."""
        if self.notes or more:
            logger.warning("%s: %s.", name, "; ".join([*self.notes, *more]))


def stripes(height: int, row_values: int) -> Iterator[slice]:
    """Slices of rows of about STRIPE values each."""
    rows = max(1, STRIPE // max(1, row_values))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def read_raster(path: str | PathLike[str]) -> Raster:
    """Everything that is kept of a picture file.

    Values are as the file has them. Their white is what its format says; where 16 bits hold values of fewer, and for
    32-bit integers and floats, whose range no file tells, it follows from the brightest value. Such a guess is one of
    `notes`.

    Raises:
        OSError: no such file.
        PictureError: not a picture that can be read, or values in no range that pictures have.
    """
    path = Path(path)
    notes: list[str] = []
    with open_picture(path) as picture:
        exif = read_exif(picture) if picture.format == "TIFF" else None
        values = _read_deep_colour(picture, path, notes)
        if values is None:
            decode(picture, path)
            values = values_of(picture, path)
        white, opaque = _range(values, _container(picture, values), path, notes)
        if _has_more(picture):
            notes.append("only the first of its pictures is used")
        if picture.mode == "CMYK":
            notes.append("its CMYK colours are converted without their profile: convert it to RGB in a picture editor")
        orientation = _orientation(picture)
        metadata = read_metadata(picture, path, exif)
    if orientation in _TURNS:
        values = _TURNS[orientation](values)
    if orientation >= 5:
        metadata = metadata.turned()
    if values.dtype.kind == "f":
        metadata = replace(metadata, lost=(*metadata.lost, "its floats are rounded to 16 bits in the result"))
    return Raster(values, white, opaque, tuple(notes), metadata)


def picture_tensor(picture: Image.Image) -> Tensor:
    """(1, 3, H, W) float32 in [-1, 1] of a Pillow image of any mode."""
    values = values_of(picture, "an image")
    return Raster(values, *_range(values, _container(picture, values), "an image", [])).image()


def values_of(picture: Image.Image, name: object) -> np.ndarray:
    """(H, W, C), the values of a loaded image of Pillow's as `Raster` has them."""
    key = picture.info.get("transparency")
    see_through = key is not None or not {"A", "a"}.isdisjoint(picture.getbands())
    if _is_deep_grey(picture):
        return _deep_grey(picture, key if isinstance(key, int) else None)
    if picture.mode in ("1", "L", "LA", "La"):
        mode = "LA" if see_through else "L"
    elif picture.mode in ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        mode = "RGBA" if see_through else "RGB"
    else:
        raise PictureError(name, f"colours of the kind {picture.mode}, which are not read. Save it in RGB")
    values = np.empty((picture.height, picture.width, len(mode)), np.uint8)
    for rows in stripes(picture.height, picture.width * len(mode)):
        part = picture.crop((0, rows.start, picture.width, rows.stop))
        values[rows] = np.asarray(part.convert(mode)).reshape(values[rows].shape)
    return values


def _is_deep_grey(picture: Image.Image) -> bool:
    """Whether Pillow would clip the values in a conversion to 8 bits: greyscale of 16 bits and more, and floats."""
    return picture.mode.startswith("I") or picture.mode == "F"


def _deep_grey(picture: Image.Image, key: int | None) -> np.ndarray:
    """(H, W, 1), or 2 where one value counts as transparent."""
    sixteen = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    dtype = np.uint16 if sixteen else np.float32 if picture.mode == "F" else np.int32
    values = np.empty((picture.height, picture.width, 1 if key is None else 2), dtype)
    for rows in stripes(picture.height, picture.width):
        values[rows, :, 0] = np.asarray(picture.crop((0, rows.start, picture.width, rows.stop)))
        if key is not None:
            values[rows, :, 1] = np.where(values[rows, :, 0] == key, 0, 65535)
    if sixteen and getattr(picture, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == 0:  # white is 0
        np.subtract(np.uint16(_container(picture, values) or 0), values, out=values)
    return values


def _read_deep_colour(picture: ImageFile.ImageFile, path: Path, notes: list[str]) -> np.ndarray | None:
    """(H, W, C) uint16 of colour with 16 bits a channel, of which Pillow keeps 8. None for other pictures.

    Of each value, Pillow's raw modes for 16 bits take the first byte or the second. The file is decoded once with each:
    so both come from Pillow's own decoders, whatever the compression.
    """
    rawmode = _rawmode(picture)
    if rawmode == "LA;16B" and picture.mode == "RGBA":
        decode(picture, path, rawmode="RGBA")  # four bytes a pixel: two of grey, two of alpha
        return values_of(picture, path).view(">u2").astype(np.uint16)
    kind, _, end = rawmode.partition(";16")
    if not end or kind == "I":
        return None
    planes = getattr(picture, "tag_v2", {}).get(TIFF_PLANES) == 2  # then Pillow picks its raw modes itself
    if kind not in ("RGB", "RGBA", "RGBX") or end not in ("B", "L", "N") or planes:
        notes.append("8 of its 16 bits a channel are read: save it in RGB, its alpha and channels not separated")
        return None
    decode(picture, path, rawmode=f"{kind};16B")
    first = values_of(picture, path)
    with open_picture(path) as again:
        decode(again, path, rawmode=f"{kind};16L")
        second = values_of(again, path)
    high, low = (first, second) if end == "B" or (end == "N" and sys.byteorder == "big") else (second, first)
    values = high.astype(np.uint16)
    values <<= 8
    values |= low
    key = picture.info.get("transparency")
    if kind == "RGB" and isinstance(key, tuple):  # Pillow compares with 8 bits
        np.multiply((values[..., :3] != np.array(key, np.uint16)).any(-1), np.uint16(65535), out=values[..., 3])
    return values


def _rawmode(picture: ImageFile.ImageFile) -> str:
    """How the pixels lie in the file, as Pillow names it; "" where it does not matter."""
    names = {tile[3] if isinstance(tile[3], str) else (tile[3] or ("",))[0] for tile in picture.tile}
    name = names.pop() if len(names) == 1 else ""
    return name if isinstance(name, str) else ""


def _container(picture: Image.Image, values: np.ndarray) -> int | None:
    """The white that the format says, where it says one."""
    if values.dtype == np.uint8:
        return 255
    if values.dtype != np.uint16:
        return None
    return 4095 if getattr(picture, "tag_v2", {}).get(258) in (12, (12,)) else 65535  # BitsPerSample


def _range(values: np.ndarray, container: int | None, name: object, notes: list[str]) -> tuple[float, float]:
    """(white, opaque)."""
    opaque = 255 if values.dtype == np.uint8 else 65535
    if container == 255:
        return 255, opaque
    colours = values[..., : 1 if values.shape[-1] < 3 else 3]
    darkest, brightest = float(colours.min()), float(colours.max())
    floats = values.dtype.kind == "f"
    if not (np.isfinite(darkest) and np.isfinite(brightest)):
        raise PictureError(name, "it holds NaN or infinity. Save it as PNG with 16 bits")
    if floats and darkest >= 0 and brightest <= 1:
        return 1, opaque
    bits = next((bits for bits in GUESSED_BITS if brightest < 2**bits), None)
    if container is not None:
        if bits is None or 2**bits > container or brightest < SMALLEST_WHITE:
            return container, opaque
        notes.append(f"its brightest value is {brightest:g} of {container}: taken as values of {bits} bits")
        return 2**bits - 1, opaque
    if darkest < 0 or bits is None or 0 < brightest < SMALLEST_WHITE:
        raise PictureError(
            name,
            f"{'floats' if floats else '32-bit integers'} from {darkest:g} to {brightest:g}, of which no range of "
            "brightness is known. Save it as PNG with 8 or 16 bits",
        )
    if brightest > 0:
        kind = "floats" if floats else "32-bit integers"
        notes.append(f"{kind} from {darkest:g} to {brightest:g}: taken as values of {bits} bits")
    return 2**bits - 1, opaque


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # EXIF data may be damaged in any way, and a picture without them is still one
        return 1
    return value if isinstance(value, int) else 1


def _has_more(picture: ImageFile.ImageFile) -> bool:
    """Whether the file is an animation, or has several pages."""
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # Pillow looks for the next picture, which may be damaged
        return True
