"""What is edited, by a mask's file: white, or transparent, or painted on a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asymvq.pictures import (
    PictureError,
    read_mask,
)

RNG = np.random.default_rng(0)


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
