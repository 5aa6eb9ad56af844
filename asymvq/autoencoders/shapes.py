"""Sizes of a network, read off its tensors under the model's own names, which all families share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

from ..config import Config

ConfigT = TypeVar("ConfigT", bound=Config)


def config_of(kind: type[ConfigT], **values: Any) -> ConfigT:
    """The shape that a file's tensors have.

    Raises:
        ValueError: no autoencoder has it.
    """
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{error} The file is damaged, or of another architecture.") from error


def conv_shape(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    """(out, in, height, width) of a convolution.

    Raises:
        ValueError: it is missing, or no 2-D convolution.
    """
    if name not in state:
        raise ValueError(f"Expected tensor {name}, but it is missing. The file is incomplete; download it again.")
    shape = tuple(state[name].shape)
    if len(shape) != 4:
        hint = " Video VAEs of this kind are not supported." if len(shape) == 5 else ""
        raise ValueError(f"Expected {name} to be a 2-D convolution, but got shape {shape}.{hint}")
    return shape


def level_channels(state: Mapping[str, Tensor], levels: str) -> tuple[int, ...]:
    """Widths of `levels`, "decoder.up" or "encoder.down", fine to coarse."""
    channels: list[int] = []
    while (name := f"{levels}.{len(channels)}.block.0.conv1.weight") in state or not channels:
        channels.append(conv_shape(state, name)[0])
    return tuple(channels)


def block_counts(state: Mapping[str, Tensor], levels: str) -> tuple[int, ...]:
    """Residual blocks of each level, fine to coarse."""
    counts: list[int] = []
    for level in range(len(level_channels(state, levels))):
        count = 0
        while f"{levels}.{level}.block.{count}.conv1.weight" in state:
            count += 1
        counts.append(count)
    return tuple(counts)


def preset_of(config: Config, presets: Mapping[str, Config]) -> str | None:
    """The published decoder of this shape, by its name in `presets`; "stock" for base without a condition."""
    for name, preset in presets.items():
        if (config.decoder_channels, config.decoder_block_counts) == (
            preset.decoder_channels,
            preset.decoder_block_counts,
        ):
            return name if config.condition is not None else "stock" if name == "base" else None
    return None
