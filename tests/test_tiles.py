import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymvq.tiles import feather, plan_tiles

sizes = st.integers(1, 70)


@given(height=sizes, width=sizes, tile=st.integers(1, 40), share=st.floats(0, 0.99))
def test_tiles_cover_the_grid_with_the_overlap_asked_for(height, width, tile, share):
    overlap = int(tile * share)
    tiles = plan_tiles(height, width, tile=tile, overlap=overlap)
    covered = torch.zeros(height, width)
    for piece in tiles:
        assert (piece.height, piece.width) == (min(tile, height), min(tile, width))
        piece.of(covered).add_(1)
    assert covered.min() >= 1
    for size, starts in ((height, {p.top for p in tiles}), (width, {p.left for p in tiles})):
        ordered = sorted(starts)
        assert ordered[0] == 0
        assert ordered[-1] == max(0, size - tile)
        assert all(b - a <= tile - overlap for a, b in itertools.pairwise(ordered))


def test_feathered_tiles_average_to_what_they_agree_on():
    picture = torch.rand(24 * 4, 36 * 4)
    total, weights = torch.zeros_like(picture), torch.zeros_like(picture)
    for piece in plan_tiles(24, 36, tile=10, overlap=3):
        weight = feather(piece, 24, 36, overlap=3, factor=4)
        assert weight.min() > 0
        piece.of(total, 4).add_(piece.of(picture, 4) * weight)
        piece.of(weights, 4).add_(weight)
    torch.testing.assert_close(total / weights, picture)


def test_weights_stay_whole_at_the_pictures_own_border():
    first = plan_tiles(24, 24, tile=10, overlap=3)[0]
    weight = feather(first, 24, 24, overlap=3, factor=2)
    assert (weight[0, :14] == 1).all()
    assert weight[0, -1] < 0.2


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0), (8, 8), (8, -1)])
def test_impossible_tiles_are_refused(tile, overlap):
    with pytest.raises(ValueError, match="Expected a tile of at least 1"):
        plan_tiles(10, 10, tile=tile, overlap=overlap)
