"""The box around a mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asymvq.crop import Box, box_around


def mask_with(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., top:bottom, left:right] = 1
    return mask


def test_a_small_mask_lies_in_the_middle():
    assert box_around(mask_with(1000, 2000, 400, 900, 440, 1000), size=512) == Box(164, 694, 512, 512)


def test_a_large_mask_gets_a_margin_and_a_multiple_of_8():
    assert box_around(mask_with(2000, 3000, 500, 700, 900, 1301), size=512) == Box(332, 632, 736, 736)


def test_a_small_picture_is_taken_whole():
    assert box_around(mask_with(300, 700, 5, 690, 10, 700), size=512) == Box(0, 188, 300, 512)


def test_all_masks_of_a_batch_are_in_it():
    batch = torch.cat([mask_with(900, 900, 10, 10, 20, 20), mask_with(900, 900, 600, 600, 601, 601)])
    box = box_around(batch, size=64)
    assert box.of(batch).sum() == batch.sum()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), height=st.integers(8, 200), width=st.integers(8, 200), size=st.sampled_from([8, 64, 120]))
def test_it_holds_the_mask_and_stays_in_the_picture(data, height, width, size):
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    mask = mask_with(height, width, top, left, bottom, right)
    box = box_around(mask, size=size, margin=16)
    part = box.of(mask)
    assert part.shape[-2:] == (box.height, box.width)
    assert part.sum() == mask.sum()
    assert box.height >= min(size, height)
    assert box.width >= min(size, width)
    assert top - box.top >= 16 or box.top == 0 or box.top + box.height == height


def test_noise_in_a_masks_black_does_not_count():
    mask = mask_with(1000, 2000, 400, 900, 440, 1000)
    assert box_around(mask.clamp(min=8 / 255), size=512) == box_around(mask, size=512)


@pytest.mark.parametrize("noise", [0.0, 8 / 255])
def test_an_empty_mask_is_an_error(noise: float):
    with pytest.raises(ValueError, match="open the mask editor"):
        box_around(torch.full((1, 1, 8, 8), noise), size=64)


def test_stripes_are_the_box():
    box = Box(3, 5, 25, 7)
    stripes = box.stripes(10)
    assert stripes == [Box(3, 5, 10, 7), Box(13, 5, 10, 7), Box(23, 5, 5, 7)]
    assert Box(0, 0, 0, 4).stripes(10) == []
