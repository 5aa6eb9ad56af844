"""Picture files: what is opened, what it costs, and that a file's kept pixels come back as they are."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

import asymvq
from asymvq.cli.latents import read_latent
from asymvq.pictures import (
    PictureError,
    PictureTooLargeError,
    open_picture,
    read_mask,
    read_picture,
    read_raster,
    write_picture,
)
from asymvq.pictures.folders import pictures_in
from asymvq.pictures.opening import MAX_MEGAPIXELS_VARIABLE
from asymvq.training.data import Pictures

ROOT = Path(asymvq.__file__).parent.parent
RNG = np.random.default_rng(0)
SIZE = (37, 53)  # height, width
KEPT = np.zeros(SIZE, bool)
KEPT[:20] = True


def noise(*channels: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (*SIZE, *channels), dtype, endpoint=True)


def png16(path: Path, values: np.ndarray, colour_type: int, *more: tuple[bytes, bytes]) -> None:
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(data))


def values_of(path: Path) -> tuple[np.ndarray, int]:
    """(H, W, C) of a PNG that we wrote, by hand, and its bits."""
    data, at, pixels = path.read_bytes(), 8, b""
    width = height = bits = colour = 0
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(name + body) == struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0]
        if name == b"IHDR":
            width, height, bits, colour, *_ = struct.unpack(">IIBBBBB", body)
        pixels += body if name == b"IDAT" else b""
        at += 12 + length
    channels = {2: 3, 6: 4}[colour]
    lines = np.frombuffer(zlib.decompress(pixels), np.uint8).reshape(height, -1)
    assert (lines[:, 0] == 2).all()
    raw = np.cumsum(lines[:, 1:], axis=0, dtype=np.uint8)
    return raw.reshape(-1).view(np.uint8 if bits == 8 else ">u2").reshape(height, width, channels), bits


def edited(path: Path, out: Path) -> tuple[np.ndarray, int]:
    """A file with its lower half replaced, as `decode` does."""
    source = read_raster(path)
    image = source.image()
    mask = torch.from_numpy(~KEPT).float()[None, None]
    result = torch.where(mask > 0, torch.rand_like(image) * 2 - 1, image)
    write_picture(out, result[0], source=source, mask=mask[0])
    return values_of(out)


# Each writes a file and returns the values that its kept pixels have to come back with, and the bits.


def rgb(path: Path) -> tuple[np.ndarray, int]:
    values = noise(3)
    Image.fromarray(values).save(path)
    return values, 8


def rgba(path: Path) -> tuple[np.ndarray, int]:
    values = noise(4)
    Image.fromarray(values).save(path)
    return values, 8


def grey(path: Path) -> tuple[np.ndarray, int]:
    values = noise()
    Image.fromarray(values).save(path)
    return np.stack([values] * 3, -1), 8


def grey_alpha(path: Path) -> tuple[np.ndarray, int]:
    values = noise(2)
    Image.fromarray(values, "LA").save(path)
    return values[..., [0, 0, 0, 1]], 8


def black_and_white(path: Path) -> tuple[np.ndarray, int]:
    image = Image.fromarray(noise()).convert("1")
    image.save(path)
    return np.stack([np.asarray(image.convert("L"))] * 3, -1), 8


def palette(path: Path) -> tuple[np.ndarray, int]:
    image = Image.fromarray(noise(3)).quantize(64)
    image.save(path)
    return np.asarray(image.convert("RGB")), 8


def palette_transparent(path: Path) -> tuple[np.ndarray, int]:
    image = Image.fromarray(noise(3)).quantize(64)
    image.save(path, transparency=bytes(range(64)))
    with Image.open(path) as again:
        return np.asarray(again.convert("RGBA")), 8


def grey16(path: Path) -> tuple[np.ndarray, int]:
    values = noise(dtype=np.uint16)
    Image.fromarray(values).save(path)
    return np.stack([values] * 3, -1), 16


def grey16_big_endian(path: Path) -> tuple[np.ndarray, int]:
    values = noise(dtype=np.uint16)
    Image.frombytes("I;16B", SIZE[::-1], values.astype(">u2").tobytes()).save(path)
    return np.stack([values] * 3, -1), 16


def rgb16(path: Path) -> tuple[np.ndarray, int]:
    values = noise(3, dtype=np.uint16)
    png16(path, values, 2)
    return values, 16


def rgba16(path: Path) -> tuple[np.ndarray, int]:
    values = noise(4, dtype=np.uint16)
    png16(path, values, 6)
    return values, 16


def grey_alpha16(path: Path) -> tuple[np.ndarray, int]:
    values = noise(2, dtype=np.uint16)
    png16(path, values, 4)
    return values[..., [0, 0, 0, 1]], 16


def rgb16_one_transparent(path: Path) -> tuple[np.ndarray, int]:
    values = noise(3, dtype=np.uint16)
    values[3, 4] = values[5, 6] = (1, 2, 3)
    values[7, 8] = (1, 2, 4)  # another colour, though the same in 8 bits
    png16(path, values, 2, (b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    alpha = np.full((*SIZE, 1), 65535, np.uint16)
    alpha[3, 4] = alpha[5, 6] = 0
    return np.concatenate([values, alpha], -1), 16


def int32_of_8_bits(path: Path) -> tuple[np.ndarray, int]:
    values = noise().astype(np.int32)
    Image.fromarray(values).save(path)
    return np.stack([values] * 3, -1), 8


def white_is_zero(path: Path) -> tuple[np.ndarray, int]:
    values = noise(dtype=np.uint16)
    Image.fromarray(values).save(path, tiffinfo={262: 0})
    return np.stack([65535 - values] * 3, -1), 16


def turned(path: Path) -> tuple[np.ndarray, int]:
    values = noise(3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(values))).save(path, exif=exif)
    return values, 8


@pytest.mark.parametrize(
    ("write", "suffix"),
    [
        (rgb, ".png"), (rgb, ".tif"), (rgb, ".bmp"), (rgba, ".png"), (rgba, ".tif"), (grey, ".png"), (grey, ".tif"),
        (grey_alpha, ".png"), (black_and_white, ".png"), (black_and_white, ".tif"), (palette, ".png"),
        (palette, ".gif"), (palette_transparent, ".png"), (grey16, ".png"), (grey16, ".tif"),
        (grey16_big_endian, ".tif"), (rgb16, ".png"), (rgba16, ".png"), (grey_alpha16, ".png"),
        (rgb16_one_transparent, ".png"), (int32_of_8_bits, ".tif"), (white_is_zero, ".tif"), (turned, ".png"),
        (turned, ".tif"),
    ],
)  # fmt: skip
def test_kept_pixels_of_the_file_come_back_exactly(
    write: Callable[[Path], tuple[np.ndarray, int]], suffix: str, tmp_path: Path
):
    expected, bits = write(tmp_path / f"source{suffix}")
    values, bits_of_result = edited(tmp_path / f"source{suffix}", tmp_path / "out.png")
    assert bits_of_result == bits
    assert values.shape == expected.shape
    assert np.array_equal(values[KEPT], expected[KEPT])
    if values.shape[-1] == 4:
        assert (values[~KEPT][:, 3] == 2**bits - 1).all(), "edited pixels are opaque"
    with Image.open(tmp_path / "out.png") as again:  # and others can read it
        assert again.size == (SIZE[1], SIZE[0])
        again.load()


@given(height=st.integers(1, 9), width=st.integers(1, 9), channels=st.integers(1, 4), sixteen=st.booleans())
def test_any_size_comes_back_exactly(
    height: int, width: int, channels: int, sixteen: bool, tmp_path_factory: pytest.TempPathFactory
):
    path, out = (tmp_path_factory.getbasetemp() / name for name in ("any.png", "out.png"))
    dtype = np.uint16 if sixteen else np.uint8
    values = RNG.integers(0, 2 ** (8 * dtype().itemsize), (height, width, channels), dtype)
    values[0, 0] = np.iinfo(dtype).max
    if sixteen:
        png16(path, values, {1: 0, 2: 4, 3: 2, 4: 6}[channels])
    else:
        Image.fromarray(values[..., 0] if channels == 1 else values, [None, "LA", None, None][channels - 1]).save(path)
    source = read_raster(path)
    write_picture(out, source.image()[0], source=source)
    again, bits = values_of(out)
    assert bits == 8 * dtype().itemsize
    assert np.array_equal(again, values[..., {1: [0, 0, 0], 2: [0, 0, 0, 1]}.get(channels, list(range(channels)))])


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [3, 4])
def test_tiff_with_16_bits_a_channel(channels: int, order: str, compressed: bool, tmp_path: Path):
    values = noise(channels, dtype=np.uint16)
    strip = values.astype(f"{order}u2").tobytes()
    if compressed:
        strip = zlib.compress(strip)
    tags = {
        256: (4, SIZE[1]), 257: (4, SIZE[0]), 258: (3, [16] * channels), 259: (3, 8 if compressed else 1), 262: (3, 2),
        273: (4, 8), 277: (3, channels), 278: (4, SIZE[0]), 279: (4, len(strip)), 338: (3, 2),
    }  # fmt: skip
    if channels == 3:
        del tags[338]
    strip += b"\0" * (len(strip) % 2)
    bits_at = 8 + len(strip)
    directory = struct.pack(f"{order}H", len(tags))
    for tag, (kind, value) in tags.items():
        if isinstance(value, list):
            directory += struct.pack(f"{order}HHII", tag, kind, len(value), bits_at)
        elif kind == 3:
            directory += struct.pack(f"{order}HHIHH", tag, kind, 1, value, 0)
        else:
            directory += struct.pack(f"{order}HHII", tag, kind, 1, value)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    head = {"<": b"II\x2a\0", ">": b"MM\0\x2a"}[order] + struct.pack(f"{order}I", bits_at + len(bits))
    (tmp_path / "deep.tif").write_bytes(head + strip + bits + directory + b"\0" * 4)
    result, bits_of_result = edited(tmp_path / "deep.tif", tmp_path / "out.png")
    assert bits_of_result == 16
    assert np.array_equal(result[KEPT], values[KEPT])


def test_what_is_seen_stays(tmp_path: Path):
    """Profile, gamma and resolution; of EXIF what is no preview and no orientation."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    exif[0x8769] = {0x9003: "2026:01:01 00:00:00", 0x927C: b"a preview"}
    for suffix, options in ((".png", {}), (".jpg", {"quality": 100}), (".tif", {}), (".webp", {"lossless": True})):
        path, out = tmp_path / f"source{suffix}", tmp_path / "out.png"
        Image.fromarray(noise(3)).save(path, icc_profile=profile, dpi=(300, 200), exif=exif.tobytes(), **options)
        source = read_raster(path)
        write_picture(out, source.image()[0], source=source)
        with Image.open(out) as result:
            assert result.size == SIZE, suffix
            assert result.info["icc_profile"] == profile, suffix
            if suffix not in (".webp", ".tif"):
                assert result.info["dpi"] == pytest.approx((200, 300), abs=0.01), suffix  # turned with the picture
            kept = result.getexif()
            assert 0x0112 not in kept, suffix
            assert kept[0x010F] == "maker", suffix
            assert kept.get_ifd(0x8769) == {0x9003: "2026:01:01 00:00:00"}, suffix
    png16(tmp_path / "gamma.png", noise(3, dtype=np.uint16), 2, (b"gAMA", struct.pack(">I", 100000)))
    source = read_raster(tmp_path / "gamma.png")
    write_picture(out, source.image()[0], source=source)
    with Image.open(out) as result:
        assert result.info["gamma"] == 1


@pytest.mark.parametrize(
    ("values", "said", "white"),
    [
        (np.linspace(0, 4095, 64).astype(np.uint16), "12 bits", 4095),
        (np.linspace(0, 1023, 64).astype(np.uint16), "10 bits", 1023),
        (np.linspace(0, 255, 64).astype(np.uint16), "8 bits", 255),
        (np.linspace(0, 65535, 64).astype(np.uint16), None, 65535),
        (np.zeros(64, np.uint16), None, 65535),
        (np.linspace(0, 255, 64).astype(np.int32), "8 bits", 255),
        (np.linspace(0, 65535, 64).astype(np.int32), "16 bits", 65535),
        (np.linspace(0, 1, 64).astype(np.float32), None, 1),
        (np.linspace(0, 255, 64).astype(np.float32), "8 bits", 255),
        (np.linspace(0, 65535, 64).astype(np.float32), "16 bits", 65535),
    ],
)
def test_the_range_of_deep_greys(
    values: np.ndarray, said: str | None, white: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = tmp_path / "grey.tif"
    Image.fromarray(values.reshape(8, 8)).save(path)
    image = read_picture(path)
    torch.testing.assert_close(image[0, 0], torch.from_numpy(values.reshape(8, 8) / (white / 2) - 1).float())
    assert [said in record.message for record in caplog.records] == ([] if said is None else [True])


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-1, 1, 64, dtype=np.float32),
        np.linspace(0, 3, 64, dtype=np.float32),
        np.full(64, np.nan, np.float32),
        np.full(64, np.inf, np.float32),
        np.arange(64, dtype=np.int32) - 1,
        np.arange(64, dtype=np.int32) * 100_000,
        np.arange(64, dtype=np.int32) % 2,
    ],
)
def test_values_of_no_known_range_are_an_error(values: np.ndarray, tmp_path: Path):
    Image.fromarray(values.reshape(8, 8)).save(tmp_path / "grey.tif")
    with pytest.raises(PictureError, match=r"Save it as PNG|NaN") as error:
        read_picture(tmp_path / "grey.tif")
    assert len(str(error.value)) < 500


def test_cmyk_and_greyscale_profiles_are_said(tmp_path: Path):
    Image.fromarray(noise(4), "CMYK").save(tmp_path / "a.tif")
    assert "CMYK" in " ".join(read_raster(tmp_path / "a.tif").notes)
    grey_profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    grey_profile[16:20] = b"GRAY"
    Image.fromarray(noise()).save(tmp_path / "a.png", icc_profile=bytes(grey_profile))
    metadata = read_raster(tmp_path / "a.png").metadata
    assert metadata.icc is None
    assert "greyscale" in " ".join(metadata.lost)
    Image.fromarray(RNG.random((8, 8), np.float32)).save(tmp_path / "a.tif")
    assert "rounded to 16 bits" in " ".join(read_raster(tmp_path / "a.tif").metadata.lost)


def strokes(colour: tuple[int, int, int], under: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    layer = Image.new("RGBA", (40, 30), (*under, 0))
    layer.paste((*colour, 255), (10, 5, 20, 15))
    return layer


def black_and_white_strokes() -> Image.Image:
    layer = strokes((255, 255, 255))
    layer.paste((0, 0, 0, 255), (30, 5, 35, 15))
    return layer


def photo_with_a_hole(under: bool) -> Image.Image:
    pixels = RNG.integers(0, 256, (30, 40, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[5:15, 10:20, 3] = 0
    if not under:  # browsers leave no colour where nothing is seen
        pixels[5:15, 10:20] = 0
    return Image.fromarray(pixels)


def manga_with_a_hole() -> Image.Image:
    pixels = np.where(RNG.random((30, 40, 1)) < 0.1, 0, 255).astype(np.uint8).repeat(4, -1)
    pixels[..., 3] = 255
    pixels[5:15, 10:20] = 0
    return Image.fromarray(pixels)


def opaque() -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", (40, 30), (0, 0, 0, 255)), strokes((255, 255, 255)))


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (strokes((255, 255, 255)), True),
        (strokes((255, 255, 255), under=(255, 255, 255)), True),
        (strokes((0, 0, 0)), True),
        (strokes((200, 30, 60)), True),
        (black_and_white_strokes(), True),
        (photo_with_a_hole(True), False),
        (photo_with_a_hole(False), False),
        (manga_with_a_hole(), False),
        (opaque(), False),
        (opaque().convert("RGB"), False),
        (opaque().convert("L"), False),
        (strokes((255, 255, 255)).convert("LA"), True),
    ],
)
def test_what_a_mask_with_transparency_means(
    picture: Image.Image, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Strokes on a transparent layer: what is painted. ComfyUI's mask editor: what is transparent."""
    picture.save(tmp_path / "mask.png")
    expected = torch.zeros(1, 1, 30, 40)
    expected[..., 5:15, 10:20] = 1
    assert torch.equal(read_mask(tmp_path / "mask.png"), expected)
    assert [r.levelname for r in caplog.records] == ["WARNING"] * said


def test_masks_that_tell_nothing(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.new("RGBA", (40, 30)).save(path)
    with pytest.raises(PictureError, match="transparent all over"):
        read_mask(path)
    for dtype in (np.uint8, np.uint16):
        Image.fromarray((np.arange(64).reshape(8, 8) % 2).astype(dtype)).save(path)
        with pytest.raises(ValueError, match="0 and 1 alone"):
            read_mask(path)
    Image.new("RGBA", (40, 30), (255, 255, 255, 128)).save(path)  # the same everywhere: says nothing
    assert (read_mask(path) == 1).all()


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\n{ } loop\n"
FOREIGN = {
    "EPS": (EPS, "PostScript"),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
    "AVIF": (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF"),
    "PSD": (b"8BPS\0\1", "Photoshop"),
    "CR2": (b"II\x2a\0\x10\0\0\0CR\2\0", "Canon raw"),
    "SVG": (b'<?xml version="1.0"?><svg/>', "SVG"),
    "PDF": (b"%PDF-1.7", "PDF"),
    "JXL": (b"\xff\x0a", "JPEG XL"),
    "JP2": (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    "AppleDouble": (b"\0\x05\x16\x07\0\2\0\0Mac OS X", "macOS"),
    "web page": (b"<!DOCTYPE html>", "web page"),
    "LFS": (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    "PPM": (b"P6 1 1 255\n\0\0\0", "none"),
    "text": (b"hello", "none"),
    "empty": (b"", "empty"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named_and_start_no_program(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def start(*arguments: object, **_: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess.Popen, "__init__", start)
    monkeypatch.setattr(os, "system", start)
    content, word = FOREIGN[kind]
    (tmp_path / "picture.png").write_bytes(content + b"\0" * 300 * bool(content))
    for read in (read_picture, read_mask, read_raster):
        with pytest.raises(PictureError, match=word) as error:
            read(tmp_path / "picture.png")
        assert "picture.png" in str(error.value)
        assert len(error.value.reason) < 320


def test_a_training_over_postscript_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marker = tmp_path / "started"
    for name in ("gs", "gswin64c"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch '{marker}'\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(EPS)
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / "b.png")
    pictures = Pictures.from_folder(tmp_path / "data", crop=32, crop_scale=(1, 1))
    assert len(pictures) == 1
    assert "PostScript" in pictures.skipped[0]
    assert not marker.exists()


def test_pictures_are_opened_in_one_place():
    """Pillow's own open would try all its formats; nothing but the tests may call it."""
    for folder in ("asymvq", "nodes", "tools", "bench"):
        for file in (ROOT / folder).rglob("*.py"):
            assert "Image.open(" not in file.read_text("utf-8"), file


def test_size_is_checked_before_anything_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(MAX_MEGAPIXELS_VARIABLE, "0.01")
    for suffix in (".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"):
        path = tmp_path / f"large{suffix}"
        Image.new("RGB", (120, 100)).save(path)
        path.write_bytes(path.read_bytes()[:700])  # the pixels are not even there
        with pytest.raises(PictureTooLargeError, match=f"set the environment variable {MAX_MEGAPIXELS_VARIABLE} to 1"):
            read_picture(path)
    monkeypatch.setenv(MAX_MEGAPIXELS_VARIABLE, "much")
    with pytest.raises(ValueError, match="a number of megapixels"):
        read_picture(path)
    monkeypatch.delenv(MAX_MEGAPIXELS_VARIABLE)
    Image.new("1", (66_000, 2)).save(tmp_path / "strip.png")
    with pytest.raises(PictureTooLargeError, match="Cut it into parts"):
        read_picture(tmp_path / "strip.png")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_large_pictures_are_read_past_pillows_limit(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / f"large{suffix}"
    Image.new("RGB", (120, 100), (9, 9, 9)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    assert read_picture(path).shape == (1, 3, 100, 120)
    assert Image.MAX_IMAGE_PIXELS == 1000, "what others set stays"


MEMORY = """
import resource, sys
from pathlib import Path
from asymvq.pictures import read_picture, read_mask, read_raster
read_picture(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ways = {"picture": read_picture, "mask": read_mask, "bytes": lambda path: read_raster(path).bytes()}
ways[sys.argv[3]](Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize(("kind", "per_pixel"), [("picture", 17), ("mask", 13), ("bytes", 9)])
def test_memory_is_a_small_multiple(kind: str, per_pixel: int, tmp_path: Path):
    """A picture in floats takes 12 bytes a pixel; the 177 megapixels of a 2 MB PNG once took 28."""
    Image.new("RGB", (8, 8)).save(tmp_path / "small.png")
    Image.new("RGB", (5000, 4000), (255, 0, 0)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small.png"), str(tmp_path / "large.png"), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    stripes = 90 << 20
    assert int(done.stdout) < per_pixel * 20_000_000 + stripes


def test_pipes_devices_and_sockets_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "device.png")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket.png"))
    started = time.monotonic()
    for name in ("pipe.png", "device.png", "socket.png"):
        for read in (read_picture, read_mask, read_latent):
            with pytest.raises(ValueError, match="Expected a"):
                read(tmp_path / name)
    Image.new("RGB", (40, 40)).save(tmp_path / "good.png")
    pictures = Pictures.from_folder(tmp_path, crop=32, crop_scale=(1, 1))
    assert len(pictures) == 1
    assert len(pictures.skipped) == 3
    assert time.monotonic() - started < 5
    listener.close()


def test_links_are_followed_once_and_never_in_circles(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in (data / "below" / "more", elsewhere, data / ".hidden"):
        folder.mkdir(parents=True)
        Image.new("RGB", (40, 40)).save(folder / "a.png")
        (folder / "._a.png").write_bytes(b"\0\x05\x16\x07")
    os.symlink("/", data / "root")
    os.symlink(data, data / "below" / "circle")
    os.symlink(elsewhere, data / "link")
    os.symlink(elsewhere, data / "second")
    os.symlink(data / "itself", data / "itself")
    os.symlink(data / "gone", data / "gone.png")
    found = pictures_in(data)
    assert len(found) == 3
    assert {path.name for path in found} == {"a.png", "gone.png"}
    assert f"{data / 'root'}: a link to a folder that holds" in caplog.text


def test_a_folder_of_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("asymvq.pictures.folders.MAX_ENTRIES", 3)
    for number in range(4):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(ValueError, match="more than 3 files"):
        pictures_in(tmp_path)


def test_animations_and_pages_are_said(tmp_path: Path):
    frames = [Image.fromarray(noise(3)) for _ in range(3)]
    for suffix in (".gif", ".webp", ".tif", ".png"):
        frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], lossless=True)
        assert "only the first" in " ".join(read_raster(tmp_path / f"a{suffix}").notes), suffix


def test_previews_of_raw_photos_are_not_taken_for_them(tmp_path: Path):
    for tags in ({50706: b"\1\4\0\0"}, {254: 1}):
        Image.new("RGB", (40, 40)).save(tmp_path / "photo.tif", tiffinfo=tags)
        with pytest.raises(PictureError, match="raw photo"):
            read_picture(tmp_path / "photo.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tif", ".gif"])
@given(data=st.data())
def test_damaged_pictures_are_refused_or_read(
    suffix: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, Image.registered_extensions()[suffix])
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read_raster(path)
    except PictureError as error:
        assert len(str(error)) < 500  # noqa: PT017
        assert str(error).isprintable()  # noqa: PT017


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path: Path):
    """A limit on file sizes is a disk that fills up in the midst of it."""
    Image.fromarray(noise(3)).save(tmp_path / "source.png")
    (tmp_path / "out.png").write_bytes(b"before")
    script = """
import resource, sys
from pathlib import Path
import torch
from asymvq.pictures import read_raster, write_picture
folder = Path(sys.argv[1])
source = read_raster(folder / "source.png")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for given in (source, None):
    try:
        write_picture(folder / "out.png", source.image()[0], source=given)
    except OSError:
        print("refused")
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["refused"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.png", "source.png"]
    assert (tmp_path / "out.png").read_bytes() == b"before"


def test_streams_can_be_opened(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3)).save(buffer, "PNG")
    with open_picture(buffer) as picture:
        assert picture.size == (4, 3)
