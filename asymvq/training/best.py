"""The weights of a run that did best on held-out pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


class Best:
    """
    Attributes:
        step: None: nothing was measured.
        loss: on held-out pictures, after that step.
        since: measurements after it, none of them better.
        weights: of that step, averaged; None before the first measurement.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.loss = math.inf
        self.since = 0
        self.weights: dict[str, Tensor] | None = None

    def count(self, step: int, loss: float) -> bool:
        """Counts a measurement; whether it is the best so far. One that is not finite does not count."""
        if not math.isfinite(loss):
            return False
        better = loss < self.loss
        if better:
            self.step, self.loss = step, loss
        self.since = 0 if better else self.since + 1
        return better

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Copies the weights of `step`."""
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}
