"""Picture files: every kind of pixels that is read, and that a file's kept pixels come back as they are."""

from __future__ import annotations

import struct
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
from asymvq.pictures import (
    PictureError,
    read_picture,
    read_raster,
    write_picture,
)

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
