"""Values as callers have them, and as the library computes with them: images in a range, masks in [0, 1]."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

OVERSHOOT = 0.5
"""Of a range's width: how far outside of it floats may lie. Resampling overshoots by up to 0.2, decoders by more."""
FLOATS = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64))
UNSIGNED = frozenset((torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64))
SIGNED = frozenset((torch.int8, torch.int16, torch.int32, torch.int64))


def why_unusable(value: object) -> str | None:
    """What keeps a value from being a tensor to compute with, in words that follow "but got"; None if nothing does."""
    if not isinstance(value, Tensor):
        return f"{value!r:.40}" if value is None or isinstance(value, str | int | float) else type(value).__name__
    if value.is_nested or value.layout != torch.strided:
        return "a sparse or nested tensor"
    if value.is_meta:
        return "a tensor without values (device meta)"
    if value.dtype not in FLOATS | UNSIGNED | SIGNED:
        return f"a tensor of {value.dtype}"
    if value.numel() == 0:
        return f"an empty tensor of shape {tuple(value.shape)}"
    return None


def image_values(image: Tensor, *, low: float = -1.0, high: float = 1.0, mend: str | None = None) -> Tensor:
    """An image of any type as one in [low, high]: integers are scaled by their type, floats stay as they are.

    Floats may overshoot the range by half its width on either side. NaN and infinity pass: under a mask they do
    not matter, see `asymvq.decode.fit_source`.

    Args:
        image: any shape. 0 and the type's largest value become `low` and `high`.
        mend: what the caller's error says to do about floats outside.

    Raises:
        ValueError: nothing to compute with (`why_unusable`), values outside, or integers whose scale is not clear.
    """
    _require_usable(image, "an image")
    if not image.is_floating_point():
        return _floats(image, "image") / (_largest(image.dtype) / (high - low)) + low
    found = finite_extremes(image)
    _require_range("image", found, low, high, mend)
    return image


def mask_values(mask: Tensor, *, mend: str | None = None) -> Tensor:
    """A mask of any type as float32 in [0, 1]: integers are scaled by their type, small overshoots cut off.

    Integers that are 0 and 1 alone are a mask of 0 and 1, whatever their type. Floats may overshoot by a half.

    Args:
        mask: any shape.
        mend: what the caller's error says to do about floats outside.

    Raises:
        ValueError: nothing to compute with (`why_unusable`), values outside or NaN, or integers of unclear scale.
    """
    _require_usable(mask, "a mask")
    if mask.dtype == torch.bool:
        return mask.float()
    if not mask.is_floating_point():
        values, largest = mask.float(), _largest(mask.dtype)
        if not (found := extremes(values))[0] >= 0 or found[1] != 1:
            return _floats(mask, "mask") / largest
        if largest <= _largest(torch.uint16):
            logger.warning(
                "The mask's largest value is 1, of %d that its type holds: taken as a mask of 0 and 1.", largest
            )
        return values
    found = extremes(mask)
    if not all(map(math.isfinite, found)):
        raise ValueError("Expected a finite mask, but it holds NaN or infinity. Make it anew.")
    _require_range("mask", found, 0.0, 1.0, mend)
    return mask.float() if found[0] >= 0 and found[1] <= 1 else mask.float().clamp(0, 1)


def extremes(tensor: Tensor) -> tuple[float, float]:
    """Least and largest value; NaN where there is one. Takes no memory to speak of, unlike `torch.isfinite`."""
    least, largest = torch.aminmax(tensor.detach())
    return least.item(), largest.item()


def finite_extremes(tensor: Tensor) -> tuple[float, float]:
    """Least and largest of the values that are neither NaN nor infinite; 0 where there is none."""
    found = extremes(tensor)
    if all(map(math.isfinite, found)):
        return found
    finite = tensor[torch.isfinite(tensor)]
    return extremes(finite) if finite.numel() else (0.0, 0.0)


def is_finite(tensor: Tensor) -> bool:
    return all(map(math.isfinite, extremes(tensor)))


def _require_usable(value: object, what: str) -> None:
    fault = why_unusable(value)
    if fault is not None:
        raise ValueError(
            f"Expected {what} as a dense tensor of floats or integers that holds some, but got {fault}. Convert it "
            "first, as with .to_dense() or .float()."
        )


def _require_range(name: str, found: tuple[float, float], low: float, high: float, mend: str | None) -> None:
    spare = OVERSHOOT * (high - low)
    if low - spare <= found[0] and found[1] <= high + spare:
        return
    if mend is None:
        scale = "v / 255" if low == 0 else "v / 127.5 - 1"
        mend = f"Scale it: 8-bit values v become {scale}; integers (uint8, uint16) are scaled by their type."
    raise ValueError(
        f"Expected the {name}'s values in [{low:g}, {high:g}], but got {found[0]:.4g} to {found[1]:.4g}. {mend}"
    )


def _largest(dtype: torch.dtype) -> int:
    return 1 if dtype == torch.bool else torch.iinfo(dtype).max


def _floats(tensor: Tensor, name: str) -> Tensor:
    """Integers as float32, of which the type's largest value is white.

    Raises:
        ValueError: negative values, or a type whose largest value is white in no picture.
    """
    largest = _largest(tensor.dtype)
    values = tensor.float()
    found = extremes(values)
    if found[0] < 0:
        raise ValueError(
            f"Expected the {name}'s values from 0 on, but got {found[0]:.0f} to {found[1]:.0f} in {tensor.dtype}. "
            "Give floats in range, or uint8."
        )
    wide = largest > _largest(torch.uint16)
    if wide or (largest > _largest(torch.uint8) and 1 <= found[1] <= _largest(torch.uint8)):
        raise ValueError(
            f"Expected a type whose largest value is white, but got {tensor.dtype} with values up to {found[1]:.0f}: "
            f"white in it would be {largest}. Give the {name} in the type that it has (uint8: up to 255), or as floats."
        )
    return values
