"""How a step is computed: device and memory layout of a batch, precision, gradients over several processes, rate."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .data import Batch
from .recipe import Precision, Recipe

FIRST_LR = 0.01
"""Where the warm-up starts, as a share of the learning rate (the paper's)."""


def learning_rate(recipe: Recipe, step: int, *, pictures: int) -> float:
    """Linear warm-up from 1 %, then a cosine down to `final_lr`.

    Args:
        step: from 0.
        pictures: a step, over all devices.
    """
    full = recipe.lr * (pictures if recipe.scale_lr else 1)
    if step < recipe.warm_up:
        return full * (FIRST_LR + (1 - FIRST_LR) * step / recipe.warm_up)
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    last = min(recipe.final_lr, full)
    return last + (full - last) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def moved(batch: Batch, device: torch.device, channels_last: bool) -> Batch:
    """The batch on a device."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    tensors = {
        field.name: getattr(batch, field.name).to(device, non_blocking=True, memory_format=layout)
        for field in dataclasses.fields(batch)
        if field.name != "crops"
    }
    return dataclasses.replace(batch, **tensors)


def autocast(device: torch.device, recipe: Recipe) -> contextlib.AbstractContextManager[Any]:
    """In which the forward pass runs, in the recipe's precision.

    Raises:
        ValueError: half precision on a device that has no autocast, as DirectML.
    """
    if recipe.precision is Precision.FP32:
        return contextlib.nullcontext()
    try:
        return torch.autocast(device.type, dtype=recipe.precision.dtype)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"Expected a device with autocast for precision {recipe.precision.value}, but {device} has none. Train in "
            "fp32."
        ) from error


def without_sync(module: nn.Module | None, quiet: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients of all but a step's last batch are averaged over the processes together with its last."""
    return module.no_sync() if quiet and isinstance(module, DistributedDataParallel) else contextlib.nullcontext()
