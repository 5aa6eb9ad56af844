"""How sure a mean over pictures is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS = 2000
COVERED = 0.95


def interval(values: Sequence[float], over: Sequence[float], pictures: Sequence[str]) -> tuple[float, float]:
    """The ends of a 95 % bootstrap interval of sum(values) / sum(over): percentiles over draws of pictures.

    What was measured of one picture stays together, as its masks are alike in how hard they are (Efron & Tibshirani,
    An Introduction to the Bootstrap, 1993). The draws are the same in every call.

    Args:
        values: finite numbers, each of a decode.
        over: what they are compared with, above 0; ones for a mean.
        pictures: the picture of each. At least two are needed.

    Raises:
        ValueError: fewer pictures.
    """
    names, of = np.unique(np.asarray(pictures), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"Expected at least two pictures for an interval, but got {len(names)}.")
    sums = np.stack([np.bincount(of, weights=np.asarray(numbers, dtype=float)) for numbers in (values, over)])
    draws = np.random.default_rng(0).integers(0, len(names), (DRAWS, len(names)))
    drawn = sums[:, draws].sum(axis=-1)
    low, high = np.percentile(drawn[0] / drawn[1], [50 * (1 - COVERED), 50 * (1 + COVERED)])
    return float(low), float(high)
