"""The host's progress bar, and its interrupt between two pieces of work."""

from __future__ import annotations

from . import host


class HostProgress:
    """`asymvq.runtime.Progress` of a node that runs."""

    def __init__(self) -> None:
        self._bar = host.ProgressBar(1)

    def __call__(self, done: float, total: int) -> None:
        host.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(round(1000 * done / total), 1000)
