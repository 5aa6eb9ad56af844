import numpy as np
import pytest
import torch

from asymvq.masks import grow_mask, random_thick_mask


def test_masks_are_binary_seeded_and_cover_a_like_share_at_any_size():
    shares = []
    for size in (64, 256):
        masks = [random_thick_mask(size, size * 3 // 2, np.random.default_rng(seed)) for seed in range(60)]
        assert all(m.shape == (1, size, size * 3 // 2) and set(m.unique().tolist()) == {0.0, 1.0} for m in masks)
        shares.append(torch.stack(masks).mean().item())
    assert abs(shares[0] - shares[1]) < 0.05
    assert 0.1 < shares[0] < 0.6
    again = random_thick_mask(64, 96, np.random.default_rng(7))
    assert torch.equal(again, random_thick_mask(64, 96, np.random.default_rng(7)))


def test_growing_moves_the_border_by_that_many_pixels_and_keeps_softness():
    mask = torch.zeros(2, 1, 20, 30)
    mask[0, 0, 10, 15] = 1.0
    mask[1, 0, 0, 0] = 0.5
    grown = grow_mask(mask, 3)
    assert grown[0].sum() == 7 * 7
    assert grown[0, 0, 7:14, 12:19].min() == 1
    assert grown[1, 0, :4, :4].eq(0.5).all()
    assert grown[1].count_nonzero() == 16
    assert grow_mask(mask, 0) is mask
    with pytest.raises(ValueError, match="0 or more pixels"):
        grow_mask(mask, -1)


def test_thickness_scales_strokes_and_boxes_and_nothing_else():
    def masks(**options) -> torch.Tensor:
        return torch.stack([random_thick_mask(64, 96, np.random.default_rng(seed), **options) for seed in range(40)])

    thin, usual, thick = masks(thickness=0.2), masks(thickness=1.0), masks(thickness=2.0)
    assert torch.equal(usual, masks())
    assert thin.mean() < 0.5 * usual.mean()
    assert thick.mean() > 1.5 * usual.mean()
    for each in (thin, thick):
        shares = each.mean(dim=(1, 2, 3))
        assert 0 < shares.min() < shares.max() < 1


@pytest.mark.parametrize(
    ("size", "thickness", "message"), [((64, 64), 0.0, "above 0"), ((64, 64), 3.0, "up to 2"), ((7, 64), 1.0, "64×7")]
)
def test_masks_that_cannot_be(size: tuple[int, int], thickness: float, message: str):
    with pytest.raises(ValueError, match=message):
        random_thick_mask(*size, np.random.default_rng(0), thickness=thickness)
