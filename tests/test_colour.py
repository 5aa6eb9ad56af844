"""Imitated colour shifts, the global fit, and intervals over pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from asymvq.colour import ShiftKind, fit_colours, noise_masked, random_shift, touched_cells
from asymvq.intervals import interval


class TestShift:
    def test_a_global_one_is_one_colour(self):
        shift = random_shift((12, 20), 0.2, np.random.default_rng(0))
        assert shift.shape == (1, 3, 1, 1)
        assert 0 < shift.abs().max() <= 0.2

    def test_a_varying_one_is_linear_and_nothing_in_the_middle(self):
        shift = random_shift((13, 21), 0.2, np.random.default_rng(0), varies=True)
        assert shift.shape == (1, 3, 13, 21)
        assert shift[..., 6, 10].abs().max() < 1e-6
        torch.testing.assert_close(shift.flip(-1, -2), -shift)
        for axis in (-1, -2):
            torch.testing.assert_close(shift.diff(n=2, dim=axis), torch.zeros_like(shift.diff(n=2, dim=axis)))
        assert shift[..., 6, :].abs().max() <= 0.2

    def test_the_kinds(self):
        assert [kind.value for kind in ShiftKind if kind.varies] == ["varying", "noise-mask-varying"]
        assert [kind.value for kind in ShiftKind if kind.masked] == ["noise-mask", "noise-mask-varying"]

    def test_a_noise_mask_keeps_the_cells_that_the_mask_does_not_touch(self, blob_mask):
        mask = blob_mask(24, 32)
        image, shifted = torch.zeros(1, 3, 24, 32), torch.ones(1, 3, 24, 32)
        latent = noise_masked(lambda picture: F.avg_pool2d(picture, 4), image, shifted, mask, 4)
        touched = touched_cells(mask, 4)
        assert 0 < touched.sum() < touched.numel()
        assert torch.equal(latent, touched.float().expand_as(latent))
        assert torch.equal(touched, F.max_pool2d(mask, 4) > 0)


class TestFit:
    def test_undoes_a_gain_and_an_offset_a_channel(self, blob_mask):
        mask = blob_mask(24, 32)
        image = torch.rand(2, 3, 24, 32) * 2 - 1
        gain, offset = torch.tensor([0.7, 1.1, 0.9]).view(3, 1, 1), torch.tensor([0.1, -0.2, 0.0]).view(3, 1, 1)
        torch.testing.assert_close(fit_colours(image * gain + offset, image=image, mask=mask), image)

    def test_is_least_squares_on_kept_pixels(self, blob_mask):
        mask = blob_mask(24, 32)
        image, decoded = (torch.rand(1, 3, 24, 32, dtype=torch.float64) for _ in range(2))
        kept = mask[0, 0] == 0
        for channel, fitted in enumerate(fit_colours(decoded, image=image, mask=mask)[0]):
            gain, offset = np.polyfit(decoded[0, channel][kept], image[0, channel][kept], 1)
            np.testing.assert_allclose(fitted, gain * decoded[0, channel] + offset)

    def test_without_kept_pixels_or_without_contrast(self):
        image, decoded = torch.rand(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.5)
        assert torch.equal(fit_colours(decoded, image=image, mask=torch.ones(1, 1, 8, 8)), decoded)
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., :4] = 1
        expected = image[..., 4:].mean(dim=(-2, -1), keepdim=True).expand_as(decoded)
        torch.testing.assert_close(fit_colours(decoded, image=image, mask=mask), expected)


class TestInterval:
    def test_covers_the_mean_about_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(200):
            values = rng.normal(3, 1, 30)
            low, high = interval(values.tolist(), [1.0] * 30, [str(i) for i in range(30)])
            hits += low < 3 < high
        assert 175 <= hits <= 198

    def test_masks_of_one_picture_stay_together(self):
        """Many masks a picture make nothing surer than their pictures are."""
        values, names = [1.0, 2.0, 4.0, 5.0], ["a", "b", "c", "d"]
        once = interval(values, [1.0] * 4, names)
        often = interval(values * 10, [1.0] * 40, names * 10)
        assert often == pytest.approx(once)

    def test_a_ratio_is_of_sums_in_pairs(self):
        assert interval([2.0, 20.0], [1.0, 10.0], ["a", "b"]) == (2, 2)

    def test_one_picture(self):
        with pytest.raises(ValueError, match="at least two pictures"):
            interval([1.0, 2.0], [1.0, 1.0], ["a", "a"])
