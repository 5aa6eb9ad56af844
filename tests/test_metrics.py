"""The metrics on pictures whose errors are known."""

from __future__ import annotations

import pytest
import torch

from asymvq.metrics import border_error, kept_error, masked_error


@pytest.fixture
def mask() -> torch.Tensor:
    """12×16, the right half edited."""
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 8:] = 1
    return mask


def test_each_error_counts_its_own_pixels(mask: torch.Tensor):
    source = torch.zeros(2, 3, 12, 16)
    output = source + torch.where(mask > 0, 0.5, 0.1)
    assert kept_error(output, source, mask) == pytest.approx(0.01)
    assert masked_error(output, source, mask) == pytest.approx(0.25)


def test_error_is_a_mean_over_pixels_channels_and_batch(mask: torch.Tensor):
    source = torch.zeros(2, 3, 12, 16)
    output = source.clone()
    output[1, 2, 3, 4] = 2.0
    assert kept_error(output, source, mask) == pytest.approx(4 / (2 * 3 * 12 * 8))
    assert masked_error(output, source, mask) == 0


@pytest.mark.parametrize("width", [1, 4, 6])
def test_border_is_width_pixels_wide(mask: torch.Tensor, width: int):
    source = torch.zeros(1, 3, 12, 16)
    output = torch.full_like(source, 9.0)
    output[..., 8 : 8 + width] = 0.2
    assert border_error(output, source, mask, width) == pytest.approx(0.04)


def test_any_mask_above_zero_is_edited(mask: torch.Tensor):
    source = torch.zeros(1, 3, 12, 16)
    output = source + mask
    assert kept_error(output, source, mask * 0.01) == 0
    assert masked_error(output, source, mask * 0.01) == 1


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        (kept_error, 1.0, "keeps some pixels"),
        (masked_error, 0.0, "edits some pixels"),
        (border_error, 1.0, "has a border"),
    ],
)
def test_no_pixel_to_measure_is_an_error(metric, value: float, message: str):
    source = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=message):
        metric(source, source, torch.full((1, 1, 8, 8), value))


def test_sizes_must_match(mask: torch.Tensor):
    with pytest.raises(ValueError, match="one size"):
        kept_error(torch.zeros(1, 3, 12, 16), torch.zeros(1, 3, 12, 24), mask)
