"""Errors of a plain decode, fitted to the same picture's kept pixels."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from asymvq import fitted
from asymvq.config import ConditionConfig
from asymvq.detail import with_detail_of
from asymvq.fitted import fitted_errors
from asymvq.grow import grow
from asymvq.memory_model import FITTING, FITTING_PLANES

from .test_affine import CONFIGS, built, given, stir
from .test_memory_model import LiveBytes


def blurred(picture: torch.Tensor) -> torch.Tensor:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    weight = (kernel[:, None] * kernel).expand(3, 1, 3, 3)
    return torch.nn.functional.conv2d(torch.nn.functional.pad(picture, (1,) * 4, mode="replicate"), weight, groups=3)


@pytest.fixture
def case(blob_mask):
    """A truth of edges and texture, a decode that draws it too soft, and a mask."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 3, 12, 15, generator=generator)
    truth = torch.nn.functional.interpolate(coarse, scale_factor=8, mode="nearest")
    truth = blurred(truth + 0.3 * torch.randn(truth.shape, generator=generator)).tanh()
    return truth, blurred(truth), blob_mask(96, 120)


def test_a_habit_seen_on_kept_pixels_is_corrected_on_edited_ones(case):
    truth, soft, mask = case
    found = fitted_errors(soft, image=truth, mask=mask, factor=8)
    edited = mask.expand_as(truth) > 0
    before, after = (truth - soft)[edited].square().mean(), (truth - soft - found)[edited].square().mean()
    assert after < 0.7 * before
    assert (found[~edited] == 0).all()


def test_what_lies_under_the_mask_does_not_matter(case):
    truth, soft, mask = case
    edited = mask.expand_as(truth) > 0
    found = fitted_errors(soft, image=torch.where(edited, torch.nan, truth), mask=mask, factor=8)
    assert torch.equal(found, fitted_errors(soft, image=truth, mask=mask, factor=8))


def test_a_decode_without_errors_and_one_with_noise_are_left_alone(case):
    truth, _, mask = case
    assert fitted_errors(truth, image=truth, mask=mask, factor=8).abs().max() < 1e-5
    noise = 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    noisy = truth.new_zeros(truth.shape)  # nothing tells what is missing
    found = fitted_errors(noisy, image=noisy + noise, mask=mask, factor=8)
    assert found.square().mean() < 0.01 * noise.square().mean()


def test_the_fewer_pixels_are_kept_the_less_is_corrected(case):
    truth, soft, _ = case
    strengths = []
    for columns in (60, 8, 1):
        mask = torch.zeros(1, 1, 96, 120)
        mask[..., columns:] = 1
        strengths.append(fitted_errors(soft, image=truth, mask=mask, factor=8)[..., 60:].square().mean())
    assert strengths[0] > 1.5 * strengths[1] > 3 * strengths[2]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_nothing_kept_or_nothing_edited(case, value):
    truth, soft, mask = case
    assert (fitted_errors(soft, image=truth, mask=torch.full_like(mask, value), factor=8) == 0).all()


def test_an_edit_that_shows_something_else_is_not_corrected_beyond_measure(case):
    truth, soft, mask = case
    other = torch.where(mask > 0, 40 * truth.roll(17, dims=-1), soft)
    found = fitted_errors(other, image=truth, mask=mask, factor=8)
    assert found.isfinite().all()
    assert found.abs().max() <= 2 * (truth - soft).abs().max()


def test_where_nothing_like_it_was_kept_little_is_corrected(case, monkeypatch):
    truth, soft, mask = case
    other = torch.where(mask > 0, 2 * truth.roll(17, dims=-1), soft)

    def strength(plain: torch.Tensor) -> float:
        return fitted_errors(plain, image=truth, mask=mask, factor=8).square().mean().item()

    held_back = [strength(plain) for plain in (other, soft)]
    monkeypatch.setattr(fitted, "TRUST", 1e9)
    unlike, alike = (held / strength(plain) for held, plain in zip(held_back, (other, soft), strict=True))
    assert unlike < 0.7 < 0.9 < alike


def test_stripes_are_as_the_whole(case, monkeypatch):
    truth, soft, mask = case
    whole = fitted_errors(soft, image=truth, mask=mask, factor=8)
    monkeypatch.setattr(fitted, "STRIPE", 2**16)
    torch.testing.assert_close(fitted_errors(soft, image=truth, mask=mask, factor=8), whole, atol=1e-5, rtol=0)


def test_pictures_of_a_batch_do_not_mix(case):
    truth, soft, mask = case
    pair = [torch.cat([x, x.flip(-1)]) for x in (soft, truth, mask)]
    both = fitted_errors(pair[0], image=pair[1], mask=pair[2], factor=8)
    for i in range(2):
        plain, image, alone = (x[i : i + 1] for x in pair)
        torch.testing.assert_close(both[i : i + 1], fitted_errors(plain, image=image, mask=alone, factor=8))


def test_of_more_kept_pixels_as_many_are_seen(case, monkeypatch):
    truth, soft, mask = case
    everything = fitted_errors(soft, image=truth, mask=mask, factor=8)
    monkeypatch.setattr(fitted, "SEEN", 6000)
    some = fitted_errors(soft, image=truth, mask=mask, factor=8)
    assert torch.corrcoef(torch.stack([everything.flatten(), some.flatten()]))[0, 1] > 0.9


def test_a_decode_that_is_not_finite_stays_so(case):
    truth, soft, mask = case
    found = fitted_errors(soft * torch.nan, image=truth, mask=mask, factor=8)
    assert found[mask.expand_as(soft) > 0].isnan().all()


@pytest.mark.parametrize("name", CONFIGS)
@torch.no_grad()
def test_a_decode_takes_it_where_kept_pixels_do_not_reach(name, blob_mask):
    seeing = built(dataclasses.replace(CONFIGS[name], condition=ConditionConfig.affine(8)))
    stir(seeing)
    fitting = grow(seeing, seeing.config.replaced(condition=ConditionConfig.affine(8, fits_errors=True)))
    latent, condition = given(seeing.config, blob_mask, cells=(16, 16))
    image, mask = condition["image"], condition["mask"]
    plain = seeing.decode(latent)
    found = fitted_errors(plain, image=image, mask=mask, factor=seeing.factor)
    for striped in (False, True):
        before, after = (v.decode(latent, **condition, striped=striped) for v in (seeing, fitting))
        assert torch.equal(before[mask.expand_as(before) == 0], after[mask.expand_as(after) == 0])
        # with nothing seen by the condition it would be this
        expected = with_detail_of(plain, plain, mask=mask, factor=seeing.factor, fitted=found) - plain
        change = after - before
        assert change.abs().max() > 1e-4
        assert torch.corrcoef(torch.stack([change.flatten(), expected.flatten()]))[0, 1] > 0.7
    with pytest.raises(ValueError, match="can grow into"):
        grow(fitting, seeing.config)


@pytest.mark.parametrize("side", [256, 768])
def test_it_takes_no_more_memory_than_is_counted(side):
    plain, noise = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, side, side)
    mask[..., side // 4 : -side // 4, side // 4 : -side // 4] = 1
    with LiveBytes() as live:
        fitted_errors(plain, image=plain + 0.1 * noise, mask=mask, factor=8)
    counted = 4 * (FITTING + FITTING_PLANES * side**2)
    assert 0.2 * counted < live.peak < counted
