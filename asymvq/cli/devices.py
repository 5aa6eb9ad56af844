"""Devices and precisions by name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch

from ..autoencoder import AsymmetricAutoencoder
from ..checkpoint import load
from ..precision import DTYPES, suggested_dtype, why_slow
from ..runtime import is_out_of_memory

logger = logging.getLogger(__name__)


def parse_dtype(name: str | None) -> torch.dtype | None:
    return None if name is None else DTYPES[name]


def parse_device(name: str) -> torch.device:
    """
    Raises:
        ValueError: no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    # AssertionError and NotImplementedError: torch builds without the backend
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "not available"
        raise ValueError(f"Expected a device of this machine, but got {name!r}: {reason}") from error
    return device


def load_vae(
    path: Path, *, dtype: str | None, device: torch.device | str, base: Path | None = None
) -> AsymmetricAutoencoder:
    """A VAE to compute with; without a `dtype` in the file's, but a small one, and any on a CPU, in float32.

    Raises:
        CheckpointError: as `asymvq.load`.
    """
    if said := why_slow(parse_dtype(dtype), device):
        logger.warning("%s", said)
    vae = load(path, dtype=parse_dtype(dtype), device=device, base=base)
    suggested = suggested_dtype(vae.state_dict(), device) if dtype is None else None
    return vae if suggested is None else vae.to(suggested)


@contextlib.contextmanager
def out_of_memory_says(advice: str, device: str) -> Iterator[None]:
    """Running out of memory within, on any device, is a ValueError with what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f"Out of memory on {device}. {advice}") from error
