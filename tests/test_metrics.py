"""The metrics on pictures whose errors are known, and against reference implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from asymvq.masks import random_thick_mask
from asymvq.metrics import (
    NothingToMeasureError,
    border_error,
    colour_error,
    drift,
    edge_step,
    gradient_error,
    kept_error,
    masked_error,
    outside,
    psnr,
    seam_error,
    ssim,
)


@pytest.fixture
def mask() -> torch.Tensor:
    """12×16, the right half edited."""
    mask = torch.zeros(1, 1, 12, 16)
    mask[..., 8:] = 1
    return mask


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """A smooth picture and a noisy copy that fits it loosely, (2, 3, 40, 56)."""
    generator = torch.Generator().manual_seed(0)
    source = F.interpolate(torch.rand(2, 3, 5, 7, generator=generator), size=(40, 56), mode="bicubic") * 2 - 1
    return source * 0.9 + 0.1 * torch.randn(source.shape, generator=generator), source


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


def test_any_mask_above_the_floor_is_edited_and_what_is_below_is_kept(mask: torch.Tensor):
    source = torch.zeros(1, 3, 12, 16)
    output = source + mask
    for soft in (mask * 0.1, mask * 0.1 + 0.02 * (1 - mask)):
        assert kept_error(output, source, soft) == 0
        assert masked_error(output, source, soft) == 1
        assert psnr(output, source, outside(soft)) == math.inf
    with pytest.raises(ValueError, match="edits some pixels"):
        masked_error(output, source, mask * 0.03)


class TestSeam:
    def test_is_the_squared_jump_across_the_border(self, mask: torch.Tensor):
        source = torch.rand(1, 3, 12, 16)
        assert seam_error(source + 0.3 * mask, source, mask) == pytest.approx(0.09)

    def test_an_error_on_both_sides_is_no_seam(self, mask: torch.Tensor):
        source = torch.rand(1, 3, 12, 16)
        assert seam_error(source + 0.3, source, mask) == pytest.approx(0, abs=1e-9)

    def test_away_from_the_border_nothing_counts(self, mask: torch.Tensor):
        source = torch.zeros(1, 3, 12, 16)
        output = torch.rand(1, 3, 12, 16)
        output[..., 7:9] = 0.4
        assert seam_error(output, source, mask) == 0

    def test_rows_and_columns_count_alike(self):
        """A single edited pixel has four neighbours; in a corner two."""
        source = torch.zeros(2, 3, 5, 6)
        mask = torch.zeros(2, 1, 5, 6)
        mask[0, 0, 2, 3] = mask[1, 0, 0, 0] = 1
        output = source.clone()
        output[0, :, 2, 2] = 0.5  # a kept neighbour
        assert seam_error(output, source, mask) == pytest.approx(0.25 / 6)


class TestEdgeStep:
    """It needs no reference, so that it can be told of edits without one."""

    def test_of_a_ramp(self, mask: torch.Tensor):
        ramp = torch.linspace(-0.6, 0.6, 16).expand(1, 3, 12, 16)
        assert edge_step(ramp, mask) == pytest.approx(1)
        slope, half = 1.2 / 15, 1 / 255
        stepped = ramp + 0.2 * mask
        assert edge_step(stepped, mask) == pytest.approx((slope + 0.2 + half) / (slope + half))

    def test_flat_areas(self, mask: torch.Tensor):
        flat = torch.zeros(1, 3, 12, 16)
        assert edge_step(flat, mask) == 1
        assert edge_step(flat + mask * 2 / 255, mask) == pytest.approx(3)

    def test_a_drifted_edit_has_one_and_a_harmonised_one_hardly(self, pair: tuple[Tensor, Tensor]):
        source = pair[1]
        mask = random_thick_mask(40, 56, np.random.default_rng(3))[None]
        drifted = torch.lerp(source, source * 0.9 + 0.2, mask)
        for reference in (None, source):
            assert edge_step(source, mask, source=reference) < 1.3 < 2 < edge_step(drifted, mask, source=reference)

    def test_an_outline_that_the_source_has_beside_the_masks_edge_is_none(self):
        """A dark head before a bright wall, which becomes the sea; the mask cuts two pixels into the head."""
        texture = 0.05 * torch.rand(1, 3, 40, 40)
        source, mask = texture - 0.9, torch.zeros(1, 1, 40, 40)
        source[..., :22] += 1.6
        mask[..., :24] = 1
        edit = torch.where(mask > 0, texture + 0.2, source)
        assert edge_step(edit, mask) > 10
        assert edge_step(edit, mask, source=source) < 1.3
        # the same edit where the source has no outline
        plain = torch.where(mask > 0, texture - 0.9, source)
        assert edge_step(edit, mask, source=plain) == pytest.approx(edge_step(edit, mask), rel=0.2)
        # and where what is edited was filled with a colour, as where a picture is made wider
        assert edge_step(edit, mask, source=torch.where(mask > 0, 0.0, source)) == edge_step(edit, mask)

    def test_masks_of_single_pixels_and_rows(self):
        picture = torch.rand(1, 3, 9, 9)
        mask = torch.zeros(1, 1, 9, 9)
        mask[..., 4, :] = 1
        assert 0 < edge_step(picture, mask) < 3
        assert 0 < edge_step(picture, mask, source=picture) < 3
        with pytest.raises(NothingToMeasureError):
            edge_step(torch.rand(1, 3, 1, 2), torch.tensor([[[[0.0, 1.0]]]]))
        with pytest.raises(NothingToMeasureError):
            edge_step(picture, torch.ones(1, 1, 9, 9))


class TestColour:
    def test_is_the_squared_shift_of_the_mean(self, mask: torch.Tensor):
        source = torch.rand(2, 3, 12, 16)
        shift = torch.tensor([0.1, -0.2, 0.0]).view(1, 3, 1, 1)
        expected = (0.1**2 + 0.2**2) / 3
        assert colour_error(source + shift * mask, source, mask) == pytest.approx(expected, rel=1e-5)

    def test_errors_that_cancel_are_no_shift(self, mask: torch.Tensor):
        source = torch.zeros(1, 3, 12, 16)
        checkers = (torch.arange(12)[:, None] + torch.arange(16)) % 2 - 0.5
        assert colour_error(source + checkers, source, mask) == pytest.approx(0, abs=1e-12)
        assert masked_error(source + checkers, source, mask) == pytest.approx(0.25)

    def test_pictures_that_the_mask_spares_are_left_out(self, mask: torch.Tensor):
        source = torch.zeros(2, 3, 12, 16)
        masks = torch.cat([mask, torch.zeros_like(mask)])
        assert colour_error(source + 0.2, source, masks) == pytest.approx(0.04)


class TestGradient:
    """ASUKA's Grad."""

    def test_a_step_at_a_straight_edge(self, mask: torch.Tensor):
        """Sobel weighs a step by 4; canny marks one of the two columns beside the edge, and both see the step."""
        source = torch.zeros(1, 3, 12, 16)
        assert gradient_error(source + 0.1 * mask, source, mask) == pytest.approx(4 * 0.1 * 127.5)

    def test_errors_off_the_edge_and_in_kept_pixels_do_not_count(self, mask: torch.Tensor):
        source = torch.rand(1, 3, 12, 16)
        output = source.clone()
        output[..., :8] += 0.5
        output[..., 11:] += 0.5
        assert gradient_error(output, source, mask) == pytest.approx(0, abs=1e-4)

    def test_a_gradient_of_its_own_counts(self, mask: torch.Tensor):
        """Beside a kept pixel an edit may begin anywhere: half of a step in the first column is half as steep."""
        source = torch.zeros(1, 3, 12, 16)
        output = 0.1 * mask
        output[..., 8] = 0.05
        assert gradient_error(output.expand_as(source), source, mask) < 4 * 0.1 * 127.5

    def test_pictures_of_one_row(self):
        source = torch.zeros(1, 3, 1, 4)
        mask = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 4)
        assert gradient_error(source + 0.1 * mask, source, mask) == pytest.approx(4 * 0.1 * 127.5)

    def test_without_a_border_there_is_nothing_to_measure(self, mask: torch.Tensor):
        source = torch.zeros(1, 3, 12, 16)
        with pytest.raises(ValueError, match="has a border"):
            gradient_error(source, source, torch.ones_like(mask))

    @pytest.mark.parametrize("seed", range(4))
    def test_agrees_with_opencv(self, seed: int):
        import cv2

        rng = np.random.default_rng(seed)
        height, width = (int(n) for n in rng.integers(20, 160, 2))
        output, source = (torch.from_numpy(rng.uniform(-1, 1, (1, 3, height, width))).float() for _ in range(2))
        mask = random_thick_mask(height, width, rng)[None]
        edges = cv2.Canny(mask[0, 0].mul(255).byte().numpy(), 100, 200) > 0
        levels = [(t[0].double().numpy() + 1) * 127.5 for t in (torch.where(mask > 0, output, source), source)]
        means = []
        for channel in range(3):
            x, y = (
                cv2.Sobel(levels[0][channel], cv2.CV_64F, *d, ksize=3)
                - cv2.Sobel(levels[1][channel], cv2.CV_64F, *d, ksize=3)
                for d in ((1, 0), (0, 1))
            )
            means.append(np.hypot(x, y)[edges].mean())
        assert gradient_error(output, source, mask) == pytest.approx(np.mean(means), rel=1e-5)


class TestPsnr:
    def test_known_answers(self, mask: torch.Tensor):
        source = torch.zeros(1, 3, 12, 16)
        output = torch.where(mask > 0, 0.2, 0.02).expand_as(source)
        assert psnr(output, source, mask) == pytest.approx(20)  # a tenth of the range
        assert psnr(output, source, outside(mask)) == pytest.approx(40)
        assert psnr(source, source) == math.inf

    def test_is_torchmetrics(self, pair: tuple[Tensor, Tensor], blob_mask: Callable[[int, int], Tensor]):
        reference = pytest.importorskip("torchmetrics.functional.image").peak_signal_noise_ratio
        output, source = pair
        assert psnr(output, source) == pytest.approx(reference(output, source, data_range=2.0).item(), rel=1e-5)
        mask = blob_mask(40, 56)
        counted = (mask > 0).expand_as(source)
        expected = reference(output[counted], source[counted], data_range=2.0).item()
        assert psnr(output, source, mask) == pytest.approx(expected, rel=1e-5)


class TestSsim:
    def test_known_answers(self, pair: tuple[Tensor, Tensor]):
        _, source = pair
        assert ssim(source, source) == pytest.approx(1)
        # two flat pictures: only the means speak
        a, b = torch.full((1, 3, 16, 16), 0.5), torch.full((1, 3, 16, 16), -0.25)
        assert ssim(a, b) == pytest.approx((-0.25 + 4e-4) / (0.3125 + 4e-4), rel=1e-5)

    def test_is_torchmetrics(self, pair: tuple[Tensor, Tensor], blob_mask: Callable[[int, int], Tensor]):
        reference = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
        output, source = pair
        # its own mean takes in the windows that are mirrored at the border; the original's does not
        _, every = reference(output, source, data_range=2.0, return_full_image=True)
        expected = every[..., 5:-5, 5:-5].mean().item()
        assert 0.2 < expected < 0.95
        assert ssim(output, source) == pytest.approx(expected, abs=1e-5)
        mask = blob_mask(40, 56)
        for counted in (mask, outside(mask)):
            expected = every.masked_select(counted > 0).mean().item()
            assert ssim(output, source, counted) == pytest.approx(expected, abs=1e-5)

    def test_pictures_smaller_than_the_window(self):
        with pytest.raises(ValueError, match="11×11"):
            ssim(torch.zeros(1, 3, 10, 30), torch.zeros(1, 3, 10, 30))


def test_drift_follows_what_piles_up(mask: torch.Tensor):
    source = torch.zeros(1, 3, 12, 16)
    errors = drift(lambda picture: picture + 0.1 * mask, source, trips=3, mask=mask)
    assert errors == pytest.approx([0.01, 0.04, 0.09])
    assert drift(lambda picture: picture + 0.1 * mask, source, trips=2, mask=outside(mask)) == [0, 0]
    assert drift(lambda picture: picture + 0.1, source, trips=1) == pytest.approx([0.01])


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        (kept_error, 1.0, "keeps some pixels"),
        (masked_error, 0.0, "edits some pixels"),
        (border_error, 1.0, "has a border"),
        (seam_error, 1.0, "has a border"),
        (seam_error, 0.0, "has a border"),
        (colour_error, 0.0, "edits some pixels"),
        (psnr, 0.0, "has pixels to count"),
        (ssim, 0.0, "has pixels to count"),
    ],
)
def test_no_pixel_to_measure_is_an_error(metric, value: float, message: str):
    source = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=message):
        metric(source, source, torch.full((1, 1, 16, 16), value))


@pytest.mark.parametrize("metric", [kept_error, masked_error, border_error, seam_error, colour_error, psnr, ssim])
def test_sizes_must_match(metric, mask: torch.Tensor):
    with pytest.raises(ValueError, match="one size"):
        metric(torch.zeros(1, 3, 12, 16), torch.zeros(1, 3, 12, 24), mask)
