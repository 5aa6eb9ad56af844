"""The panel that compares decodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from clock import measured
from PIL import Image, ImageFont

from asymvq.masks import random_thick_mask
from asymvq.panel import Decoded, _fitted, amplified_difference, draw_panel, find_detail
from asymvq.pictures import to_pillow


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("size", [(40, 64), (64, 40), (16, 200), (8, 8), (16, 8000), (8000, 16)])
def test_panel_of_any_size(size: tuple[int, int], truth: bool):
    source = torch.rand(3, *size) * 2 - 1
    mask = random_thick_mask(*size, np.random.default_rng(0))
    panel = draw_panel(source, mask, [Decoded("A", source, "a", "x"), Decoded("B", -source, "b" * 99)], truth=truth)
    assert panel.mode == "RGB"
    assert panel.width == draw_panel(source, torch.zeros_like(mask), [Decoded("A", source)] * 2).width
    assert panel.width > 3 * 400


@pytest.mark.parametrize("truth", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 5), (10, 4000), (4000, 3)])
def test_panel_of_pictures_below_any_window(size: tuple[int, int], truth: bool):
    source = torch.rand(3, *size) * 2 - 1
    for mask in (torch.zeros(1, *size), torch.ones(1, *size), (torch.rand(1, *size) > 0.5).float()):
        panel = draw_panel(source, mask, [Decoded("A", -source), Decoded("B", source)], truth=truth)
        assert panel.height > 3 * 24


@pytest.mark.parametrize(
    "text", ["x" * 10**7, "wide " * 10**6, "a\nb\n" * 10**5, "\ud800\x00\x1b[31m", "\u0301" * 10**6, ""],
    ids=["long", "words", "lines", "unprintable", "combining", "empty"],
)  # fmt: skip
def test_texts_that_cannot_be_shown_cost_nothing(text: str):
    source = torch.rand(3, 8, 8) * 2 - 1
    with measured() as cost:
        panel = draw_panel(source, torch.zeros(1, 8, 8), [Decoded(text, source, text, text)])
    assert cost.seconds < 5
    assert panel.size == draw_panel(source, torch.zeros(1, 8, 8), [Decoded("A", source, "a", "x")]).size


def test_texts_are_cut_where_the_column_ends():
    font = ImageFont.load_default(size=20)
    for length in (1, 20, 39, 40, 41, 80, 4000):
        fitted = _fitted("m" * length, font, 400)
        assert font.getlength(fitted) <= 400
        if fitted != "m" * length:
            assert font.getlength(fitted[:-1] + "m…") > 400


def test_the_difference_is_amplified_and_cut_off():
    original, picture = Image.new("RGB", (2, 1), (100, 100, 100)), Image.new("RGB", (2, 1), (100, 97, 140))
    assert amplified_difference(picture, original, 10).getpixel((0, 0)) == (0, 30, 255)
    assert amplified_difference(original, picture, 2.5).getpixel((1, 0)) == (0, 8, 100)


def test_edited_pixels_are_compared_only_where_the_truth_is_known():
    source = torch.zeros(3, 40, 60)
    mask = torch.zeros(1, 40, 60)
    mask[:, 10:30, 20:40] = 1
    decoded = Decoded("A", source + 0.3 * mask)

    def white_pixels(truth: bool) -> int:
        """Ten times 0.3 is beyond white."""
        return int((np.asarray(draw_panel(source, mask, [decoded], truth=truth)) == 255).all(-1).sum())

    assert white_pixels(truth=True) > white_pixels(truth=False) + 10_000


def test_findings_stand_below_their_picture():
    source = torch.rand(3, 40, 60) * 2 - 1
    mask = torch.zeros(1, 40, 60)

    def drawn(*findings: str) -> np.ndarray:
        return np.asarray(draw_panel(source, mask, [Decoded("A", source, "a", findings=findings)]))

    none, one, two = drawn(), drawn("kept pixels: identical"), drawn("kept pixels: identical", "edge step: small")
    line = one.shape[0] - none.shape[0]
    assert two.shape[0] - one.shape[0] == line > 30
    # in the result's column, below its picture and above what the source's caption pushes down
    half = two.shape[1] // 2
    assert np.array_equal(one[: 2 * line, half:], two[: 2 * line, half:])
    assert ((two < 100).all(-1)[:, half:].sum()) > ((one < 100).all(-1)[:, half:].sum()) + 200


@pytest.fixture
def checkered() -> torch.Tensor:
    """An error of (3, 80, 120) in three places."""
    error = torch.zeros(3, 80, 120)
    checkers = (torch.arange(10)[:, None] + torch.arange(20)) % 2
    error[:, 50:60, 60:80] += checkers  # kept
    error[:, 25:35, 20:40] += 2 * checkers  # at the edge
    error[:, :10, :20] += 3 * checkers  # deep in what was edited
    error[:, :, 100:] += 1  # a colour shift, no texture
    return error


@pytest.mark.parametrize(("truth", "left_top"), [(False, (60, 50)), (True, (20, 25))])
def test_detail_is_where_texture_was_lost(checkered: torch.Tensor, truth: bool, left_top: tuple[int, int]):
    source = torch.zeros_like(checkered)
    mask = torch.zeros(1, 80, 120)
    mask[:, :30, :50] = 1
    left, top, right, bottom = find_detail(source, mask, [source, checkered], truth=truth)
    assert left <= left_top[0] < left_top[0] + 20 <= right
    assert top <= left_top[1] < left_top[1] + 10 <= bottom


def test_detail_is_at_the_edge_where_nothing_was_lost():
    source = torch.rand(3, 80, 120)
    mask = torch.zeros(1, 80, 120)
    mask[:, 40:, 60:] = 1
    left, top, right, bottom = find_detail(source, mask, [source])
    assert left - 8 <= 60 <= right + 8
    assert top - 8 <= 40 <= bottom + 8


def test_detail_of_any_shape_is_the_part_that_lost_most():
    """Against sums that are taken one by one."""
    source, mask = torch.rand(3, 37, 90), torch.zeros(1, 37, 90)
    mask[:, 10:20, 30:60] = 1
    left, top, right, bottom = find_detail(source, mask, [source + 0.01 * source.sin()], truth=True)
    edge = torch.nn.functional.max_pool2d(torch.stack([mask, 1 - mask]), 17, 1, 8).prod(0)
    noise = 0.01 * source.sin()
    slow = torch.nn.functional.avg_pool2d(noise, 17, 1, 8, count_include_pad=False)
    lost = ((noise - slow).square().mean(0) * edge[0]).double()
    height, width = bottom - top, right - left
    sums = lost.unfold(0, height, 1).unfold(1, width, 1).sum((-2, -1))
    assert sums[top, left] == pytest.approx(sums.max().item(), rel=1e-4)


def test_to_pillow_clips():
    assert to_pillow(torch.tensor([-3.0, 0.0, 3.0])[:, None, None]).getpixel((0, 0)) == (0, 128, 255)
