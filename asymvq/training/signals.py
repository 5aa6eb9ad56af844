"""Signals that end a process, and work that must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Ctrl-C, `kill` and a shutdown, a dropped connection; Ctrl-Break on Windows."""


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Handlers of these signals run after the block, not within it. In other threads than the main one none runs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    previous = {number: handler for number in ENDING if callable(handler := signal.getsignal(number))}
    for number in previous:
        signal.signal(number, lambda number, _: arrived.append(number))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)


@contextlib.contextmanager
def stopping(stop: Callable[[], None], *, together: float = 0.0) -> Iterator[None]:
    """The first of these signals calls `stop`, the second raises KeyboardInterrupt, more do nothing.

    Signals that are ignored, as SIGHUP is under nohup, stay so.

    Args:
        together: seconds after the first in which more are the same one: torchrun hands on what the terminal has sent
            already.
    """
    count, first = 0, 0.0

    def handle(number: int, frame: object) -> None:
        nonlocal count, first
        if count == 1 and time.monotonic() - first < together:
            return
        count += 1
        first = first or time.monotonic()
        if count == 1:
            stop()
        elif count == 2:
            raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in ENDING}
    previous = {number: handler for number, handler in previous.items() if handler not in (signal.SIG_IGN, None)}
    for number in previous:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
