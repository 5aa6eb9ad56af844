"""Tells the host how much memory a decode will take, and gives freed memory back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..asymvq.config import Config
from ..asymvq.memory_model import decode_bytes, encode_bytes
from . import host

AMD_FACTOR = 2.73
"""What the host multiplies the memory of its own KL VAEs by on AMD's GPUs; it has no name there."""


@dataclass(frozen=True)
class DecodeMemory:
    """Bytes for one latent of a batch, as the host asks for them: shape (…, h, w) and dtype."""

    config: Config
    device: torch.device

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype, *, conditioned: bool | None = None) -> float:
        size = (shape[-2], shape[-1])
        return on_this_machine(
            decode_bytes(self.config, size, dtype=dtype, device=self.device, conditioned=conditioned)
        )


@dataclass(frozen=True)
class EncodeMemory:
    """The same for one picture of (…, H, W)."""

    config: Config
    device: torch.device

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> float:
        return on_this_machine(encode_bytes(self.config, (shape[-2], shape[-1]), dtype=dtype, device=self.device))


def on_this_machine(size: int) -> float:
    """Bytes that are asked of the host for so many: it has a factor for some GPUs."""
    return size * (AMD_FACTOR if host.is_amd() else 1.0)


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
