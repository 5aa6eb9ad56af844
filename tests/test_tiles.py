import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asymvq.tiles import Plan, Tile, feather, plan_masked, plan_tiles

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


def test_plans_are_taken_in_turn_also_from_the_middle_on():
    first, second = (Tile(0, 0, 1, 1),), (Tile(1, 1, 2, 2),)
    plan = Plan((first, second), 1)
    assert [plan.of(i) for i in range(4)] == [first, second, first, second]
    assert plan.slice(1, 4).pictures == (second, first, second)
    assert Plan((first,), 1).slice(2, 5).pictures == (first,)


class TestMasked:
    @given(
        height=st.integers(4, 60),
        width=st.integers(4, 60),
        blobs=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
        context=st.integers(0, 6),
        tile=st.sampled_from([None, 16, 24]),
    )
    def test_every_masked_cell_is_covered_with_its_context(self, height, width, blobs, context, tile):
        cells = torch.zeros(height, width, dtype=torch.bool)
        for top, left, tall, wide in blobs:
            y, x = int(top * (height - 1)), int(left * (width - 1))
            cells[y : y + 1 + int(tall * 10), x : x + 1 + int(wide * 10)] = True
        tiles = plan_masked(cells, context=context, tile=tile, overlap=4)
        covered = torch.zeros(height, width, dtype=torch.bool)
        for piece in tiles:
            assert piece.of(cells).any()
            assert max(piece.height, piece.width) <= (tile or 60)
            piece.of(covered).fill_(True)
        assert covered[cells].all()
        if tile is None:
            around = (
                torch.nn.functional.max_pool2d(cells[None].float(), 2 * context + 1, stride=1, padding=context)[0] > 0
            )
            assert covered[around].all()
            assert sum(t.area for t in tiles) <= height * width

    def test_blobs_far_apart_get_tiles_of_their_own_and_near_ones_share(self):
        cells = torch.zeros(100, 100, dtype=torch.bool)
        cells[2:10, 2:10] = cells[90:100, 80:90] = True
        assert set(plan_masked(cells, context=4, tile=None, overlap=0)) == {Tile(0, 0, 14, 14), Tile(86, 76, 14, 18)}
        near = torch.zeros(100, 100, dtype=torch.bool)
        near[40:50, 40:50] = near[52:60, 44:54] = True
        assert plan_masked(near, context=4, tile=None, overlap=0) == [Tile(36, 36, 28, 22)]

    def test_a_thin_diagonal_is_followed(self):
        tiles = plan_masked(torch.eye(128, dtype=torch.bool), context=4, tile=None, overlap=0)
        assert sum(t.area for t in tiles) < 0.35 * 128 * 128

    def test_nothing_masked_is_nothing_to_do(self):
        assert plan_masked(torch.zeros(9, 9, dtype=torch.bool), context=4, tile=None, overlap=0) == []
