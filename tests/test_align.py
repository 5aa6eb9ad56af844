"""Edits laid over their sources again."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asymvq import align
from asymvq.align import blur


def texture(height: int, width: int, seed: int) -> Tensor:
    """(1, 3, height, width) in [-1, 1], of every size of detail down to a few pixels."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for cell in (4, 8, 16, 40):
        noise = torch.randn(1, 3, height // cell + 2, width // cell + 2, generator=generator)
        picture += F.interpolate(noise, (height, width), mode="bicubic") * cell**0.3
    return torch.tanh(picture * 0.3)


def moved(picture: Tensor, x: float, y: float, scale: float, turn: float) -> Tensor:
    """As the motion that `align` reports."""
    height, width = picture.shape[-2:]
    rows, columns = torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2
    px, py = columns - x, rows[:, None] - y
    cos, sin = math.cos(math.radians(turn)) / scale, math.sin(math.radians(turn)) / scale
    grid = torch.stack([(cos * px + sin * py) * 2 / width, (-sin * px + cos * py) * 2 / height], dim=-1)
    return F.grid_sample(picture, grid[None], "bicubic", "reflection", align_corners=False).clamp(-1, 1)


@pytest.fixture(scope="module")
def source() -> Tensor:
    return texture(192, 256, 0)


@pytest.fixture(scope="module")
def edited(source: Tensor) -> Tensor:
    """A quarter of it is something else, and its colours are others."""
    picture = source.clone()
    picture[..., 40:150, 60:180] = texture(192, 256, 1)[..., 40:150, 60:180]
    return (picture * 0.9 + 0.06 * torch.tensor([1.0, -1, 0.5])[:, None, None]).clamp(-1, 1)


@pytest.mark.parametrize(
    ("x", "y", "scale", "turn"), [(7.3, -4.6, 1.02, 0.4), (-11.5, 2.25, 0.975, -0.5), (0.4, 0, 1, 0)]
)
def test_it_finds_shift_scale_and_rotation(source, edited, x, y, scale, turn):
    found = align(moved(edited, x, y, scale, turn), source)
    assert found.sure.all()
    assert found.shift[0].tolist() == pytest.approx([x, y], abs=0.1)
    assert float(found.scale) == pytest.approx(scale, abs=0.0008)
    assert float(found.rotation) == pytest.approx(turn, abs=0.04)
    inner = (..., slice(20, -20), slice(20, -20))
    assert (found.picture - edited)[inner].abs().mean() < 0.02


def test_plain_parts_do_not_set_the_scale_of_errors():
    """Below a sky, detail that went through a VAE fits worse than the sky, and is what tells."""
    y, x = torch.meshgrid(torch.arange(192), torch.arange(256), indexing="ij")
    sky = (y < 130 - 50 * torch.exp(-(((x - 130) / 50) ** 2))).float()
    source = torch.lerp(texture(192, 256, 0) * 0.5 - 0.3, torch.tensor(0.6), sky)
    edited = moved(source, 3.3, -2.6, 1.01, 0.3)[0]
    fine = edited - blur(edited, 1.5)
    noise = torch.randn(fine.shape, generator=torch.Generator().manual_seed(0))
    edited = (edited - 0.8 * fine + 0.6 * noise * blur(fine.square(), 2.0).sqrt()) * 0.92 + 0.05
    edited[:, 20:90, 20:110] = texture(192, 256, 9)[0, :, 20:90, 20:110]
    found = align(edited[None].clamp(-1, 1), source)
    assert found.shift[0].tolist() == pytest.approx([3.3, -2.6], abs=0.02)
    assert float(found.scale) == pytest.approx(1.01, abs=0.0003)


@pytest.mark.parametrize("order", [[1, 2, 0], [1, 1, 1]])
def test_other_colours_everywhere(source, edited, order):
    before, after = (t.mean(dim=1, keepdim=True) + 0.4 * t for t in (source, moved(edited, 3, -2, 1.01, 0)))
    found = align(after[:, order].clamp(-1, 1), before.clamp(-1, 1))
    assert found.sure.all()
    assert found.shift[0].tolist() == pytest.approx([3, -2], abs=0.1)


@pytest.mark.parametrize("size", [(240, 320), (144, 192), (208, 256)])
def test_another_size_is_scaled_to_the_sources(source, edited, size):
    picture = F.interpolate(moved(edited, 3, -2, 1.01, 0), size, mode="bicubic", antialias=True).clamp(-1, 1)
    found = align(picture, source)
    assert found.picture.shape == source.shape
    assert found.sure.all()
    assert found.shift[0].tolist() == pytest.approx([3, -2], abs=0.15)


def test_another_scene_is_left_as_it_was(source):
    other = texture(192, 256, 7)
    found = align(other, source)
    assert not found.sure.any()
    assert torch.equal(found.picture, other)
    assert found.covered.all()


def test_what_lies_right_is_not_resampled(source, edited):
    found = align(edited, source)
    assert found.sure.all()
    assert torch.equal(found.picture, edited)


def test_flat_pictures_are_unsure():
    flat = torch.zeros(1, 3, 64, 64)
    assert not align(flat, flat).sure.any()


def test_where_the_edit_does_not_reach_the_source_stands(source, edited):
    found = align(moved(edited, 10, 0, 1, 0), source, mask=torch.zeros(1, 1, 192, 256))
    missing = ~found.covered.expand_as(source)
    assert not missing.any() or torch.equal(found.picture[missing], source[missing])
    assert torch.equal(found.covered[0, 0, :, :200], torch.ones(192, 200, dtype=torch.bool))


def test_ranges_and_batches(source, edited):
    pair = torch.cat([moved(edited, 2, 1, 1, 0), moved(edited, -3, 0, 1, 0)]) / 2 + 0.5
    found = align(pair, source / 2 + 0.5, image_range=(0.0, 1.0))
    assert found.shift.shape == (2, 2)
    assert found.shift[:, 0].tolist() == pytest.approx([2, -3], abs=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: align(a[0], b), r"\(B, 3, H, W\)"),
        (lambda a, b: align(a, b.repeat(2, 1, 1, 1)), "Repeat some"),
        (lambda a, b: align(a, b, mask=torch.zeros(1, 1, 4, 4)), "Scale it to the source's size"),
        (lambda a, b: align(a * 255, b), "Scale it"),
    ],
)
def test_bad_input(source, edited, call, message):
    with pytest.raises(ValueError, match=message):
        call(edited, source)
