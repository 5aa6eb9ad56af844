"""Batches made by threads while the ones before are trained on."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from .data import Batch, Samples

AHEAD = 2
"""Batches that are made before they are asked for."""
MOST_THREADS = 8
"""Reading and cutting a large photo takes one of them some 60 ms, one that is in memory 7 ms."""


class Prefetched:
    """The batches of `numbers`, in their order, whichever thread is done first. A context manager.

    Args:
        numbers: first number and count of each batch.
        threads: that make samples; None: as many as there are processors, up to `MOST_THREADS`.
    """

    def __init__(self, samples: Samples, numbers: Iterator[tuple[int, int]], *, threads: int | None = None):
        self._samples, self._numbers = samples, numbers
        self._pool = ThreadPoolExecutor(threads or min(MOST_THREADS, os.cpu_count() or 1))
        self._waiting: deque[tuple[int, list[Future[tuple[Tensor, ...]]]]] = deque()

    def __enter__(self) -> Prefetched:
        for _ in range(AHEAD):
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __next__(self) -> Batch:
        first, rows = self._waiting.popleft()
        batch = self._samples.collate(first, [row.result() for row in rows])
        self._start()
        return batch

    def _start(self) -> None:
        first, count = next(self._numbers)
        self._waiting.append((first, [self._submit(number) for number in range(first, first + count)]))

    def _submit(self, number: int) -> Future[tuple[Tensor, ...]]:
        try:
            return self._pool.submit(self._samples.sample, number)
        except RuntimeError:  # the interpreter is ending; the step that it waits for still gets its batch
            done: Future[tuple[Tensor, ...]] = Future()
            done.set_result(self._samples.sample(number))
            return done
