"""Files that are no pictures, large, damaged or in other ways not to be trusted: what opens them, and what it costs."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import asymvq
from asymvq.cli.latents import read_latent
from asymvq.pictures import (
    PictureError,
    PictureTooLargeError,
    open_picture,
    read_mask,
    read_picture,
    read_raster,
    reading,
)
from asymvq.pictures.folders import pictures_in
from asymvq.pictures.opening import MAX_MEGAPIXELS_VARIABLE
from asymvq.training.data import Pictures

ROOT = Path(asymvq.__file__).parent.parent
SIZE = (37, 53)  # height, width
RNG = np.random.default_rng(0)


def pixels() -> np.ndarray:
    return RNG.integers(0, 256, (*SIZE, 3), np.uint8)


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
    monkeypatch.setattr(reading, "STRIPE", 1000)  # older Pillows hold the limit in parts of a picture too
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
    frames = [Image.fromarray(pixels()) for _ in range(3)]
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
    source = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    Image.fromarray(source).save(buffer, Image.registered_extensions()[suffix])
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
    Image.fromarray(pixels()).save(tmp_path / "source.png")
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
