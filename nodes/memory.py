"""Memory that was freed, and the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import torch


def give_back_memory(device: torch.device) -> None:
    """Returns what was freed on the CPU to the system.

    glibc keeps it in pieces of many sizes, so that a host that is on for days grows: `bench/load.py`. Takes some
    milliseconds. Other devices have the host's `soft_empty_cache`, other systems do it themselves.
    """
    trim = _malloc_trim()
    if device.type == "cpu" and trim is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    """None where the C library has none."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
