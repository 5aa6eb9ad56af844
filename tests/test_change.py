"""What an edit changed on purpose."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from test_align import texture
from torch import Tensor

from asymvq import change_mask
from asymvq.align import blur
from asymvq.change import ROUND_TRIPS, regions

DRIFT = torch.tensor([0.08, -0.05, 0.02])[:, None, None]
EXACT: dict[str, Any] = {"grow": 0, "feather": 0}


def round_trip(picture: Tensor) -> Tensor:
    """Colours and light drifted, detail lost and invented as by a VAE: more where there is more of it."""
    fine = picture[0] - blur(picture[0], 1.0)
    noise = torch.randn(fine.shape, generator=torch.Generator().manual_seed(3))
    lost = picture[0] - 0.5 * fine + 0.5 * noise * blur(fine.square(), 2.0).sqrt()
    tilt = torch.linspace(-0.05, 0.05, picture.shape[-1])
    return (lost * 0.92 + DRIFT + tilt).clamp(-1, 1)[None]


def overlap(found: Tensor, true: Tensor) -> float:
    a, b = found > 0.5, true > 0.5
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(scope="module")
def source() -> Tensor:
    picture = texture(192, 256, 0)
    picture[..., :60, :] = 0.3  # without detail
    return picture


@pytest.fixture(scope="module")
def mask() -> Tensor:
    y, x = torch.meshgrid(torch.arange(192), torch.arange(256), indexing="ij")
    return (torch.hypot((y - 80) * 1.3, x - 120.0) < 45).float()[None, None]


def recoloured(source: Tensor) -> Tensor:
    return source + torch.tensor([0.4, -0.2, -0.2])[:, None, None]


@pytest.mark.parametrize("content", [lambda s: texture(192, 256, 1), recoloured, lambda s: torch.full_like(s, -0.6)])
def test_it_finds_what_was_changed(source, mask, content):
    edited = round_trip(torch.lerp(source, content(source), mask).clamp(-1, 1))
    assert overlap(change_mask(edited, source, **EXACT), mask) > 0.85


@pytest.mark.parametrize(("order", "tint"), [([0, 1, 2], 0.4), ([1, 2, 0], 0.25)])
def test_a_large_recoloured_part_does_not_pass_for_drift_or_noise(source, order, tint):
    mask = (torch.arange(256) < 90).float().expand(1, 1, 192, 256)
    other = source[:, order] + tint * torch.tensor([1.0, -0.5, -0.5])[:, None, None]
    edited = round_trip(torch.lerp(source, other, mask).clamp(-1, 1))
    assert overlap(change_mask(edited, source, **EXACT), mask) > 0.9


@pytest.mark.parametrize("content", [lambda s: texture(192, 256, 1), recoloured])
def test_its_border_is_exact(source, mask, content):
    edited = torch.lerp(source, content(source), mask).clamp(-1, 1) * 0.92 + DRIFT
    found = change_mask(edited, source, **EXACT)
    assert (found != mask).float().mean() < 0.01


def test_a_recoloured_part_of_a_plain_one_does_not_pass_for_drift():
    """That the plain part's colour became another explains most of the picture, but takes much drift."""
    source = texture(192, 256, 0) * 0.5
    plain = torch.tensor([0.0, 0.2, 0.6])[:, None, None]
    source[..., :110, :] = plain + 0.1 * source[..., :110, :]
    mask = torch.zeros(1, 1, 192, 256)
    mask[..., :100, 20:170] = 1
    edited = round_trip(torch.lerp(source, recoloured(source), mask).clamp(-1, 1))
    assert overlap(change_mask(edited, source, **EXACT), mask) > 0.9


def without_purple(picture: Tensor) -> Tensor:
    """As VAEs of few channels do: what is purple comes back as grey."""
    red, green, blue = picture.split(1, dim=1)
    purple = (torch.minimum(red, blue) - green - 0.2).clamp(min=0)
    return picture + purple * torch.tensor([-0.5, 0.5, -0.5])[:, None, None]


def test_what_the_vae_does_by_itself_is_no_change(source, mask):
    picture = source * 0.5
    picture[..., 70:, 180:] += torch.tensor([0.5, -0.4, 0.5])[:, None, None]

    def drifted(picture: Tensor) -> Tensor:
        return without_purple((picture * 0.92 + DRIFT).clamp(-1, 1))

    assert change_mask(drifted(picture), picture).any()
    assert not change_mask(drifted(picture), picture, round_trip=without_purple).any()
    edited = drifted(torch.lerp(picture, texture(192, 256, 1) * 0.5, mask))
    assert overlap(change_mask(edited, picture, round_trip=without_purple, **EXACT), mask) > 0.9


@pytest.mark.parametrize("beyond", [0, 24, 64])
def test_what_the_vae_does_at_a_pictures_edges_is_no_change(beyond):
    """Also where the edit was larger than its source, or moved, so that its edges lie outside."""

    def dark_at_edges(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        distances = [torch.minimum(torch.arange(n), n - 1 - torch.arange(n)) for n in (height, width)]
        nearest = torch.minimum(distances[0][:, None], distances[1])
        return picture - 0.5 * (1 - nearest / 12).clamp(min=0)

    whole = texture(192 + 2 * beyond, 256 + 2 * beyond, 0) * 0.3
    frame = (..., slice(beyond, beyond + 192), slice(beyond, beyond + 256))
    edited = dark_at_edges(whole + DRIFT)[frame]
    assert not change_mask(edited, whole[frame], round_trip=dark_at_edges).any()


def test_a_small_picture_has_no_rim():
    small = texture(48, 40, 0) * 0.5
    for crop in (small, small[..., :30, :24]):
        assert not change_mask(crop * 0.9, crop, round_trip=lambda picture: picture).any()


def test_a_round_trip_is_of_what_a_vae_takes(source):
    given = []

    def round_trip(picture: Tensor) -> Tensor:
        given.append(picture)
        return picture

    image = source[..., :150, :201] / 2 + 0.5
    assert not change_mask(image * 0.9, image, image_range=(0.0, 1.0), round_trip=round_trip).any()
    assert [picture.shape for picture in given] == [*[(1, 3, 160, 224)] * ROUND_TRIPS, (1, 3, 224, 288)]
    assert torch.allclose(given[0][..., :150, :201], image, atol=1e-6)
    assert all(picture.min() >= 0 and picture.max() <= 1 for picture in given)
    with pytest.raises(ValueError, match="round trip of shape"):
        change_mask(image * 0.9, image, image_range=(0.0, 1.0), round_trip=lambda picture: picture[..., 1:])


def test_what_drift_clips_is_no_change(source):
    light = source.clone()
    light[..., 20:60, 100:200] = 0.97
    light[..., 120:160, 30:130] = -0.97
    edited = (light * 1.12 + 0.08).clamp(-1, 1)
    assert not change_mask(edited, light).any()


def test_drift_and_a_round_trip_are_no_change(source):
    assert not change_mask(round_trip(source), source).any()
    assert not change_mask(source, source).any()


def test_where_the_source_stands_nothing_changed(source, mask):
    """As beyond the rim of an aligned edit: it has not drifted there."""
    edited = round_trip(source)
    edited[..., :12] = source[..., :12]
    assert not change_mask(edited, source).any()
    pasted = torch.lerp(source, recoloured(source), mask)
    assert overlap(change_mask(pasted, source, **EXACT), mask) > 0.85


def test_grown_by_whole_pixels_then_soft(source, mask):
    edited = torch.lerp(source, texture(192, 256, 1), mask)
    bare = change_mask(edited, source, **EXACT)
    assert set(bare.unique().tolist()) == {0, 1}
    grown = change_mask(edited, source, grow=6, feather=0)
    assert torch.equal(grown, F.max_pool2d(bare, 13, 1, 6))
    soft = change_mask(edited, source, grow=6, feather=6)
    assert overlap(soft, grown) > 0.97
    assert ((soft > 0.1) & (soft < 0.9)).sum() > 500
    assert soft[bare == 1].min() > 0.95


def test_small_parts_and_holes(source):
    edited = source.clone()
    edited[..., 20:28, 20:28] = -1
    edited[..., 100:180, 100:200] *= -1
    edited[..., 130:145, 130:150] = source[..., 130:145, 130:150]
    everything = change_mask(edited, source, smallest=0, fill_holes=0, **EXACT)
    assert everything[..., 22:26, 22:26].all()
    assert not everything[..., 136:140, 138:142].any()
    cleaned = change_mask(edited, source, smallest=0.01, fill_holes=0.05, **EXACT)
    assert not cleaned[..., :50, :50].any()
    assert cleaned[..., 110:170, 110:190].all()


def test_sensitivity_only_adds(source, mask):
    edited = round_trip(torch.lerp(source, source + 0.06, blur(mask[0], 6)[None]).clamp(-1, 1))
    shares = [float(change_mask(edited, source, sensitivity=s, **EXACT).mean()) for s in (0, 0.5, 1)]
    assert shares == sorted(shares)


def test_ranges_sizes_and_batches(source, mask):
    edited = torch.cat([source, torch.lerp(source, texture(192, 256, 1), mask)])
    found = change_mask(edited, source, **EXACT)
    assert found.shape == (2, 1, 192, 256)
    assert not found[0].any()
    unit = change_mask(edited / 2 + 0.5, source / 2 + 0.5, image_range=(0.0, 1.0), **EXACT)
    assert overlap(unit[1], found[1]) > 0.99


def test_large_pictures_are_looked_at_reduced(source, mask, monkeypatch):
    monkeypatch.setattr("asymvq.change.LARGEST_SIDE", 128)
    edited = torch.lerp(source, texture(192, 256, 1), mask)
    found = change_mask(edited, source, **EXACT)
    assert found.shape == (1, 1, 192, 256)
    assert overlap(found, mask) > 0.75


@pytest.mark.parametrize("size", [(1, 1), (9, 300), (33, 16)])
def test_any_size(size):
    a, b = (torch.rand(2, 1, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1).unbind()
    assert change_mask(a, b).shape == (1, 1, *size)
    assert not change_mask(a, a).any()


@pytest.mark.parametrize("seed", range(4))
def test_regions_are_scipys(seed):
    mask = np.random.default_rng(seed).random((37, 50)) < 0.4 + 0.1 * seed
    labels, sizes = regions(mask)
    expected, count = ndimage.label(mask)
    assert len(sizes) == count + 1
    assert len(np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1).T) == len(np.unique(expected))
    assert np.bincount(labels.ravel(), minlength=count + 1)[1:].tolist() == sizes[1:].tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: change_mask(a[0], b), r"\(B, 3, H, W\)"),
        (lambda a, b: change_mask(a, b.repeat(2, 1, 1, 1)), "Repeat some"),
        (lambda a, b: change_mask(a[..., :100], b), r"asymvq\.align"),
        (lambda a, b: change_mask(a * 255, b), "Scale it"),
        (lambda a, b: change_mask(a, b, sensitivity=math.nan), "sensitivity from 0 to 1"),
        (lambda a, b: change_mask(a, b, grow=-1), "grow of 0 or more"),
    ],
)
def test_bad_input(source, call, message):
    with pytest.raises(ValueError, match=message):
        call(source, source)
