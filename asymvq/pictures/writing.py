"""Pictures to PNG files. An edited picture keeps of its source's file all that a PNG can hold."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from torch import Tensor

from ..masks import alpha
from ..outputs import replacing
from .reading import Raster, stripes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {3: 2, 4: 6}
COMPRESSION = 6
UP = 2
"""PNG's filter that subtracts the row above."""
PROFILE_NAME = b"ICC profile"


def write_picture(
    path: str | PathLike[str],
    image: Tensor,
    *,
    source: Raster | None = None,
    mask: Tensor | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a PNG; an existing file is replaced only by a complete one.

    Without a source it has 8 bits. With one it has the source's bits, colour profile, resolution and EXIF data, and its
    alpha where the mask keeps it; edited pixels are opaque. Values that are the source's come out as they were.

    Args:
        image: (3, H, W) in [-1, 1].
        source: what `image` was edited from, of its size.
        mask: (1, H, W) in [0, 1], 1 = edited. None: nothing.

    Raises:
        OSError: the file cannot be written (FileExistsError: it exists, and `overwrite` is not set).
        ValueError: a source or mask of another size.
    """
    for name, size in (
        ("source", source and source.values.shape[:2]),
        ("mask", None if mask is None else mask.shape[-2:]),
    ):
        if size is not None and tuple(size) != tuple(image.shape[-2:]):
            raise ValueError(
                f"Expected a {name} of {image.shape[-1]}×{image.shape[-2]} pixels, the picture's size, but got "
                f"{size[1]}×{size[0]}."
            )
    path = Path(path)
    if source is None:
        with replacing(path, overwrite=overwrite) as temporary:
            to_pillow(image).save(temporary, format="PNG")
        return
    with replacing(path, overwrite=overwrite) as temporary, temporary.open("wb") as file:
        _write_png(file, image, source, mask)


def to_pillow(image: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] to an 8-bit RGB image, rounded to the nearest value."""
    pixels = np.empty((*image.shape[-2:], 3), np.uint8)
    for rows in stripes(image.shape[-2], image.shape[-1] * 3):
        pixels[rows] = _quantised(image[:, rows], 8)
    return Image.fromarray(pixels)


def _quantised(image: Tensor, bits: int) -> np.ndarray:
    """(H, W, 3) of 8 or 16 bits, rounded to the nearest value."""
    white = 2**bits - 1
    values = image.detach().float().add(1).mul(white / 2).round_().clamp_(0, white).permute(1, 2, 0)
    return values.cpu().numpy().astype(np.uint8 if bits == 8 else np.uint16)


def _write_png(file: BinaryIO, image: Tensor, source: Raster, mask: Tensor | None) -> None:
    _, height, width = image.shape
    channels = 3 if source.alpha is None else 4
    file.write(SIGNATURE)
    _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, source.bits, COLOUR_TYPES[channels], 0, 0, 0))
    metadata = source.metadata
    if metadata.icc:
        _chunk(file, b"iCCP", PROFILE_NAME + b"\0\0" + zlib.compress(metadata.icc))
    for name, data in metadata.chunks:
        if not (name == b"sRGB" and metadata.icc):  # one of the two may stand
            _chunk(file, name, data)
    if metadata.exif:
        _chunk(file, b"eXIf", metadata.exif)
    compressor = zlib.compressobj(COMPRESSION)
    for rows in _filtered(image, source, mask):
        if data := compressor.compress(rows):
            _chunk(file, b"IDAT", data)
    _chunk(file, b"IDAT", compressor.flush())
    _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, name: bytes, data: bytes) -> None:
    file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name))))


def _filtered(image: Tensor, source: Raster, mask: Tensor | None) -> Iterator[bytes]:
    """The rows as a PNG has them before compression, some at a time."""
    _, height, width = image.shape
    above: np.ndarray | None = None
    for rows in stripes(height, width * 4):
        values = _quantised(image[:, rows], source.bits)
        if source.alpha is not None:
            fourth = _alpha(source, rows, None if mask is None else mask[0, rows], source.bits)
            values = np.concatenate([values, fourth[..., None]], -1)
        lines = np.ascontiguousarray(values, values.dtype.newbyteorder(">"))
        lines = lines.reshape(-1).view(np.uint8).reshape(values.shape[0], -1)
        if above is None:
            above = np.zeros_like(lines[:1])
        filtered = np.full((lines.shape[0], lines.shape[1] + 1), UP, np.uint8)
        np.subtract(lines, np.concatenate([above, lines[:-1]]), out=filtered[:, 1:])
        above = lines[-1:]
        yield filtered.tobytes()


def _alpha(source: Raster, rows: slice, mask: Tensor | None, bits: int) -> np.ndarray:
    """(h, W): the source's, and opaque where it is edited; where the mask is soft, between the two."""
    assert source.alpha is not None
    opaque = 2**bits - 1
    kept = source.alpha[rows].astype(np.float32) * (opaque / source.opaque)
    if mask is not None:
        kept += (opaque - kept) * alpha(mask.detach().float().cpu()).numpy()
    return kept.round().astype(np.uint8 if bits == 8 else np.uint16)


def prepare_output(path: Path, suffixes: tuple[str, ...]) -> None:
    """Checks how an output file is called.

    Raises:
        ValueError: the name ends in none of `suffixes`.
    """
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"Expected an output file that ends in {' or '.join(suffixes)}, but got {path}.")
