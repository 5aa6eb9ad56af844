"""What a picture file says beside its pixels: how they are seen, how large, and where they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from .opening import open_regular

COLOUR_CHUNKS = (b"cHRM", b"gAMA", b"sRGB", b"cICP", b"pHYs")
"""Of a PNG: what its numbers mean, and the shape and size of a pixel. They are carried over as they are."""
EXIF_TAGS = (270, 271, 272, 305, 306, 315, 33432)
"""Description, make, model, software, date, artist, copyright."""
EXIF_FOLDERS = (0x8769, 0x8825)
"""The camera's settings, and the place."""
EXIF_LEFT_OUT = (0x927C, 0xA002, 0xA003, 0xA005)
"""Maker's notes, which may hold a preview of the unedited picture; and sizes, which the file itself tells."""
INCH = 0.0254
MAX_EXIF = 1 << 20
Exif: TypeAlias = tuple[bytes | None, tuple[str, ...]]


@dataclass(frozen=True)
class Metadata:
    """What goes from a source into the edited picture."""

    icc: bytes | None = None
    """An RGB colour profile."""
    exif: bytes | None = None
    """Without preview, orientation and maker's notes."""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    """(name, data) of a PNG's chunks for colour and resolution."""
    lost: tuple[str, ...] = ()
    """What cannot be carried over, in words."""

    def turned(self) -> Metadata:
        """For a picture whose sides are swapped."""
        chunks = ((n, d[4:8] + d[:4] + d[8:] if n == b"pHYs" else d) for n, d in self.chunks)
        return replace(self, chunks=tuple(chunks))


def read_metadata(picture: Image.Image, path: Path, exif: Exif | None = None) -> Metadata:
    """Of a decoded picture and its file; `exif` is what `read_exif` gave where it had to be read before decoding."""
    icc, lost = _profile(picture)
    data, also_lost = exif or read_exif(picture)
    chunks = _png_chunks(path) if picture.format == "PNG" else _resolution(picture)
    return Metadata(icc, data, chunks, (*lost, *also_lost))


def _profile(picture: Image.Image) -> tuple[bytes | None, tuple[str, ...]]:
    icc = picture.info.get("icc_profile")
    if not isinstance(icc, bytes) or not icc:
        return None, ()
    if len(icc) < 128 or icc[36:40] != b"acsp":
        return None, ("its colour profile is damaged and left out",)
    if icc[16:20] == b"RGB ":
        return icc, ()
    if icc[16:20] == b"GRAY" and picture.mode != "CMYK":
        return None, ("its colour profile is for greyscale and left out of the RGB result",)
    return None, () if picture.mode == "CMYK" else ("its colour profile is not for RGB and left out",)


def _png_chunks(path: Path) -> tuple[tuple[bytes, bytes], ...]:
    """Those of COLOUR_CHUNKS that stand before the pixels, of a file that Pillow has read."""
    found: dict[bytes, bytes] = {}
    with open_regular(path) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8 and head[4:] != b"IDAT":
            length, name = int.from_bytes(head[:4], "big"), head[4:]
            if name in COLOUR_CHUNKS and length <= 64:
                found[name] = file.read(length)
                file.seek(4, 1)
            else:
                file.seek(length + 4, 1)
    return tuple(found.items())


def _resolution(picture: Image.Image) -> tuple[tuple[bytes, bytes], ...]:
    try:
        x, y = (float(value) for value in picture.info.get("dpi", ()))
    except (TypeError, ValueError, ZeroDivisionError):  # none, or fractions with a zero
        return ()
    if not all(math.isfinite(v) and 1 <= v < 1e6 for v in (x, y)):
        return ()
    per_metre = (round(v / INCH) for v in (x, y))
    return ((b"pHYs", b"".join(v.to_bytes(4, "big") for v in per_metre) + b"\x01"),)


def read_exif(picture: Image.Image) -> Exif:
    """What is kept of EXIF data, and what is lost in words.

    Of a PNG they are known once it is decoded; of a TIFF before that alone: Pillow turns it upright, and forgets them.
    """
    kept = Image.Exif()
    try:
        exif = picture.getexif()
        for tag in EXIF_TAGS:
            if tag in exif:
                kept[tag] = exif[tag]
        for tag in EXIF_FOLDERS:
            fields = {name: value for name, value in exif.get_ifd(tag).items() if name not in EXIF_LEFT_OUT}
            if fields:
                kept[tag] = fields
        data = kept.tobytes() if len(kept) else b""
    except Exception:  # EXIF data may be damaged in any way, and a picture without them is still one
        return None, ("its EXIF data are damaged and left out",)
    data = data.removeprefix(b"Exif\0\0")
    if len(data) > MAX_EXIF:
        return None, (f"its EXIF data are larger than {MAX_EXIF} bytes and left out",)
    return data or None, ()
