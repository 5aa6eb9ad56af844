"""The picture of loss curves."""

from __future__ import annotations

import math

import numpy as np

from asymvq.training.plot import COLOURS, PAPER, draw_losses

SIZE = (480, 240)
AXIS = 50  # pixels; on its left are numbers


def columns_with(curve: list[float]) -> set[int]:
    """Of the plot's inside, those where the first curve's own colour, or its faint one, is drawn."""
    pixels = np.asarray(draw_losses({"": curve}, size=SIZE)).astype(int)[40:200, AXIS:]
    towards = np.array(COLOURS[0]) - np.array(PAPER)
    share = (pixels - np.array(PAPER)) @ towards / (towards @ towards)
    straight = np.abs(pixels - np.array(PAPER) - share[..., None] * towards).sum(axis=-1) < 30
    return set(np.flatnonzero(((share > 0.2) & straight).any(axis=0)).tolist())


def test_what_is_measured_now_and_then_is_joined() -> None:
    curve = [math.nan] * 101
    curve[10::10] = [0.1 / (1 + i) for i in range(10)]
    drawn = columns_with(curve)
    assert set(range(min(drawn), max(drawn) + 1)) == drawn


def test_gaps_of_what_is_measured_always_stay() -> None:
    curve = [0.1 / (1 + i / 10) for i in range(101)]
    curve[40:60] = [math.nan] * 20
    drawn = columns_with(curve)
    whole = set(range(min(drawn), max(drawn) + 1))
    assert 0.15 < len(whole - drawn) / len(whole) < 0.25


def test_whatever_there_is_can_be_drawn() -> None:
    for curve in ([], [0.1], [math.nan], [math.nan, 0.1, math.nan], [0.0, -1.0, math.inf]):
        assert draw_losses({"loss": curve}, size=SIZE).size == SIZE
