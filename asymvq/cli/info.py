"""`info`: what a checkpoint is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from ..autoencoders import preset_name
from ..checkpoint import Checkpoint, read
from ..config import ConditionKind, LatentSpace
from .convert import describe as describe_latents

LONGEST_VALUE = 60
"""Metadata values are cut to this many characters in the table."""


def run(args: argparse.Namespace) -> None:
    facts = describe(read(args.file))
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_table(facts)))


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Everything that `info` says, in plain JSON types."""
    config = checkpoint.config
    return {
        "family": config.family,
        "layout": checkpoint.layout.value,
        "preset": preset_name(config),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "factor": config.factor,
        "parameters": {
            "total": _count(checkpoint, ""),
            "encoder": _count(checkpoint, "encoder.", "quant_conv."),
            "decoder": _count(checkpoint, "decoder.", "post_quant_conv."),
        },
        "config": config.to_dict(),
        "latents": None if config.latents is None else config.latents.to_dict(),
        "metadata": checkpoint.metadata,
    }


def _count(checkpoint: Checkpoint, *prefixes: str) -> int:
    return sum(tensor.numel() for name, tensor in checkpoint.state_dict.items() if name.startswith(prefixes))


def _table(facts: dict[str, Any]) -> list[str]:
    config, parameters = facts["config"], facts["parameters"]
    rows = {
        "family": facts["family"],
        "layout": facts["layout"],
        "preset": facts["preset"] or "none of the published",
        "dtype": facts["dtype"],
        "latent": f"{config['latent_channels']} channels, 1/{facts['factor']} of the picture's size",
        "scaling": describe_latents(facts["latents"] and LatentSpace.from_dict(facts["latents"])),
        "encoder": _half(config["encoder_channels"], config["encoder_blocks"]),
        "decoder": _half(config["decoder_channels"], config["decoder_blocks"]),
        "condition": _condition(config["condition"]),
        "parameters": f"{_millions(parameters['total'])} (encoder {_millions(parameters['encoder'])}, "
        f"decoder {_millions(parameters['decoder'])})",
    }
    rows |= {key: _cut(value) for key, value in sorted(facts["metadata"].items()) if key != "format"}
    width = max(map(len, rows)) + 2
    return [f"{key:<{width}}{value}" for key, value in rows.items()]


def _half(channels: Sequence[int] | None, blocks: int | Sequence[int]) -> str:
    if channels is None:
        return "none"
    counts = str(blocks) if isinstance(blocks, int) else ", ".join(map(str, blocks))
    return f"channels {', '.join(map(str, channels))} (fine to coarse), residual blocks a level: {counts}"


def _condition(condition: dict[str, Any] | None) -> str:
    if condition is None:
        return "none: a plain decoder"
    if condition.get("kind") == ConditionKind.AFFINE.value:
        sees = ", and so do the plain decode's errors" if condition.get("sees_errors") else ""
        sees += ", which fade with the distance from kept pixels" if condition.get("errors_fade") else ""
        sees += "; farther in, errors fitted to kept pixels are corrected" if condition.get("fits_errors") else ""
        inside = ", inside its residual blocks too" if condition.get("in_blocks") else ""
        channels = f"affine, {condition['channels']} channels"
        return f"{channels}: kept pixels scale and shift the decoder's features{inside}{sees}"
    sees = "the kept pixels and the mask" if condition["sees_mask"] else "the kept pixels"
    return f"sees {sees}; mask reduction: {condition['mask_reduction']}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _cut(value: str) -> str:
    line = " ".join(value.split())
    return line if len(line) <= LONGEST_VALUE else line[: LONGEST_VALUE - 1] + "…"
