"""Picture files, opened: which files, which formats, how large.

This is the only place that hands a file to Pillow. `PIL.Image.open` would try some forty formats, among them
PostScript, for which it starts Ghostscript; here a file's first bytes choose one of six decoders, and no other runs.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..checkpoint.errors import shown

READABLE = "PNG, JPEG, WebP, BMP, TIFF or GIF"
SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff")
"""What picture files in a folder are called."""
MAX_MEGAPIXELS = 256
MAX_MEGAPIXELS_VARIABLE = "ASYMVQ_MAX_MEGAPIXELS"
"""Environment variable for a limit of one's own: it holds for the command line, training and nodes alike."""
MAX_SIDE = 65535
BYTES_PER_PIXEL = 8
"""Of the largest allowed picture: what a file may hold at most (16-bit RGBA that is not compressed)."""
SPARE_BYTES = 64 << 20
"""Beside the pixels: profiles, previews, texts."""
HEAD = 64
LONGEST_REASON = 300

_DECODERS: tuple[tuple[bytes, int, type[ImageFile.ImageFile]], ...] = (
    (b"\x89PNG\r\n\x1a\n", 0, PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", 0, JpegImagePlugin.JpegImageFile),
    (b"WEBP", 8, WebPImagePlugin.WebPImageFile),
    (b"II\x2a\0", 0, TiffImagePlugin.TiffImageFile),
    (b"MM\0\x2a", 0, TiffImagePlugin.TiffImageFile),
    (b"GIF8", 0, GifImagePlugin.GifImageFile),
    (b"BM", 0, BmpImagePlugin.BmpImageFile),
)
_FOREIGN: tuple[tuple[bytes, int, str], ...] = (
    (b"ftypavif", 4, "an AVIF picture"),
    (b"ftypavis", 4, "an AVIF animation"),
    (b"ftypheic", 4, "a HEIC photo"),
    (b"ftypheix", 4, "a HEIC photo"),
    (b"ftyphevc", 4, "a HEIC sequence"),
    (b"ftypmif1", 4, "a HEIF picture"),
    (b"ftypmsf1", 4, "a HEIF sequence"),
    (b"ftypcrx ", 4, "a Canon raw photo (CR3)"),
    (b"ftyp", 4, "a video (MP4, MOV)"),
    (b"II\x2a\0\x10\0\0\0CR", 0, "a Canon raw photo (CR2)"),
    (b"IIU\0", 0, "a Panasonic raw photo (RW2)"),
    (b"IIRO", 0, "an Olympus raw photo (ORF)"),
    (b"FUJIFILMCCD-RAW", 0, "a Fujifilm raw photo (RAF)"),
    (b"II\x2b\0", 0, "a BigTIFF"),
    (b"MM\0\x2b", 0, "a BigTIFF"),
    (b"II\xbc\x01", 0, "a JPEG XR picture"),
    (b"\xff\x0a", 0, "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  ", 0, "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", 0, "a JPEG 2000 picture"),
    (b"8BPS", 0, "a Photoshop document (PSD)"),
    (b"gimp xcf", 0, "a GIMP document (XCF)"),
    (b"\x76\x2f\x31\x01", 0, "an OpenEXR picture"),
    (b"#?RADIANCE", 0, "a Radiance HDR picture"),
    (b"%!PS", 0, "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", 0, "a PostScript document"),
    (b"%PDF", 0, "a PDF document"),
    (b"DDS ", 0, "a DDS texture"),
    (b"qoif", 0, "a QOI picture"),
    (b"\0\0\1\0", 0, "an icon (ICO)"),
    (b"icns", 0, "an icon (ICNS)"),
    (b"\xd7\xcd\xc6\x9a", 0, "a Windows metafile (WMF)"),
    (b"PK\x03\x04", 0, "a zip archive, or a document that is one (Krita, OpenRaster)"),
    (b"\x1a\x45\xdf\xa3", 0, "a video (WebM, MKV)"),
)
_NO_PICTURES = {
    b"\0\x05\x16\x07": "macOS's notes on another file, whose name is this one's without ._",
    b"version https://git-lfs": "a Git LFS pointer, saved in place of the picture. Download the picture itself",
}
_lock = threading.Lock()


class PictureError(ValueError):
    """A file that is no picture that can be read. `reason` is the message without the file's name."""

    def __init__(self, path: object, reason: str):
        self.reason = shown(reason, LONGEST_REASON)
        super().__init__(f"Expected a picture ({READABLE}), but got {path}: {self.reason}.")


class PictureTooLargeError(PictureError):
    """A picture with more pixels than are allowed."""


@contextlib.contextmanager
def open_picture(file: Path | BinaryIO) -> Iterator[ImageFile.ImageFile]:
    """A picture as Pillow has it, its header read and nothing decoded; `decode` does that.

    Args:
        file: a regular file, or one that is open.

    Raises:
        OSError: there is no such file, or it cannot be read.
        PictureError: it is no picture, one of a format that is not read, or too large: more pixels than
            `max_pixels()`, a side above `MAX_SIDE`, or a file larger than such a picture can be.
    """
    if isinstance(file, Path):
        with open_regular(file) as stream:
            yield _identify(stream, file)
    else:
        yield _identify(file, getattr(file, "name", "data in memory"))


def decode(picture: ImageFile.ImageFile, name: object, *, rawmode: str | None = None) -> None:
    """Decodes a picture of `open_picture` in place.

    Args:
        name: of the file, for messages.
        rawmode: how its pixels lie in the file, in place of what Pillow takes them for.

    Raises:
        PictureError: what follows the header is damaged.
    """
    if rawmode is not None:
        picture.tile = [_with_rawmode(tile, rawmode) for tile in picture.tile]
    try:
        with _pillow_allows(picture.width * picture.height):
            picture.load()
    except MemoryError:
        raise PictureError(
            name, f"{picture.width}×{picture.height} pixels, more than there is memory for. Make it smaller"
        ) from None
    # whatever Pillow's decoders raise on damaged data: OSError, SyntaxError, ValueError, struct.error, EOFError, …
    except Exception as error:
        raise PictureError(name, f"it is damaged or cut short ({_words(error)})") from error


def _with_rawmode(tile: Any, rawmode: str) -> Any:
    """A tile is (decoder, place, offset, arguments): a tuple in older versions of Pillow, a named one in newer."""
    *rest, args = tile
    args = rawmode if isinstance(args, str) else (rawmode, *args[1:])
    return tile._replace(args=args) if hasattr(tile, "_replace") else (*rest, args)


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file for reading. Pipes, devices and sockets are refused without being opened: they would wait.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no regular file.
    """
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ValueError(f"Expected a file, but got {path}, which is a pipe, a device or a socket.")
    return path.open("rb")


def max_pixels() -> int:
    """How many pixels a picture may have.

    Raises:
        ValueError: the environment variable holds no number.
    """
    text = os.environ.get(MAX_MEGAPIXELS_VARIABLE)
    if not text:
        return MAX_MEGAPIXELS * 10**6
    try:
        pixels = int(float(text) * 1e6)
    except (ValueError, OverflowError):
        pixels = 0
    if pixels <= 0:
        raise ValueError(f"Expected {MAX_MEGAPIXELS_VARIABLE} to be a number of megapixels, but got {shown(text)!r}.")
    return pixels


def check_size(width: int, height: int, name: object) -> None:
    """Raises PictureError unless a picture of this size may be read."""
    limit = max_pixels()
    if width < 1 or height < 1:
        raise PictureError(name, f"it has no pixels ({width}×{height})")
    if width * height > limit:
        raise PictureTooLargeError(
            name,
            f"{width}×{height} pixels are {width * height / 1e6:.4g} megapixels, and up to {limit / 1e6:g} are read. "
            f"Make it smaller, or allow more: set the environment variable {MAX_MEGAPIXELS_VARIABLE} to "
            f"{-(-width * height // 10**6)}",
        )
    if max(width, height) > MAX_SIDE:
        raise PictureTooLargeError(
            name, f"{width}×{height} pixels, and sides up to {MAX_SIDE} are read. Cut it into parts"
        )


def _identify(stream: BinaryIO, name: object) -> ImageFile.ImageFile:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    if size > BYTES_PER_PIXEL * max_pixels() + SPARE_BYTES:
        raise PictureTooLargeError(name, f"a file of {size / 1e9:.3g} GB is larger than any picture that is read")
    head = stream.read(HEAD)
    stream.seek(0)
    if not head:
        raise PictureError(name, "the file is empty")
    _refuse_foreign(head, name)
    decoder = next((d for magic, at, d in _DECODERS if head[at : at + len(magic)] == magic), None)
    if decoder is None:
        raise PictureError(name, "it is none")
    width = height = 0
    if decoder is WebPImagePlugin.WebPImageFile:  # Pillow makes room for its pixels when it opens it
        width, height = _webp_size(head)
        check_size(width, height, name)
    try:
        with _pillow_allows(width * height):
            picture = decoder(stream)
    # as above, for damaged headers
    except Exception as error:
        raise PictureError(name, f"it is damaged or cut short ({_words(error)})") from error
    if isinstance(picture, TiffImagePlugin.TiffImageFile) and _is_preview(picture):
        raise PictureError(
            name, "a raw photo or a preview (its first page says so), which is not read. Develop it, and save it as PNG"
        )
    check_size(*picture.size, name)
    return picture


def _is_preview(picture: TiffImagePlugin.TiffImageFile) -> bool:
    """Whether what Pillow would read is the preview of a raw photo (DNG, NEF, ARW are TIFFs)."""
    subfile = picture.tag_v2.get(254, 0)  # NewSubfileType
    return 50706 in picture.tag_v2 or (isinstance(subfile, int) and bool(subfile & 1))  # DNGVersion


def _refuse_foreign(head: bytes, name: object) -> None:
    for magic, at, kind in _FOREIGN:
        if head[at : at + len(magic)] == magic:
            raise PictureError(name, f"{kind}, a format that is not read. Save it as PNG or JPEG")
    for magic, kind in _NO_PICTURES.items():
        if head.startswith(magic):
            raise PictureError(name, kind)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")):
        raise PictureError(name, "an SVG drawing, a format that is not read. Save it as PNG")
    if text.startswith((b"<!doctype", b"<html")):
        raise PictureError(name, "a web page, saved in place of the picture. Download the picture itself")


def _webp_size(head: bytes) -> tuple[int, int]:
    """(width, height) of a WebP's first chunk; (0, 0) where it has none."""
    kind = head[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    return 0, 0


@contextlib.contextmanager
def _pillow_allows(pixels: int) -> Iterator[None]:
    """Some of Pillow's decoders hold a limit of their own, which is one for the whole process. Where a picture that we
    allow exceeds it, it is lifted to that picture's size, and put back.
    """
    usual = Image.MAX_IMAGE_PIXELS
    if usual is None or pixels <= usual:
        yield
        return
    with _lock:
        usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _words(error: Exception) -> str:
    return shown(str(error) or type(error).__name__, 160)
