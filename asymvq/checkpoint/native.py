"""The project's own format: one safetensors file, keys prefixed, with the config in a tensor.

The prefix makes a stock loader refuse the file instead of reading it wrongly. The config is a tensor because hosts
that rewrite a file keep its tensors and lose its metadata; the copy in the metadata is for people to read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone

import torch
from torch import Tensor, nn

from ..autoencoders import config_from_dict, config_to_dict, preset_name
from ..autoencoders.hints import LATENTS_KEY
from ..config import ConditionKind, Config, LatentSpace
from .errors import CheckpointError, shown

PREFIX = "asymvq."
CONFIG_KEY = PREFIX + "config"
FORMAT_VERSION = 6
"""The newest that is read. What versions before it can read too is written as theirs."""
MAX_CONFIG_BYTES = 2**16


def to_native(vae: nn.Module | Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors of a native file, for hosts that write files themselves.

    Args:
        vae: an `AsymmetricAutoencoder`, or its state dict.
        config: its `.config`.

    Returns:
        The same tensors under prefixed names, and the config: uint8, (N,), UTF-8 JSON.
    """
    state = vae.state_dict() if isinstance(vae, nn.Module) else vae
    data = {"format": format_version(config), "config": config_to_dict(config)}
    if config.latents is not None:  # beside the config, where older versions do not look
        data["latents"] = config.latents.to_dict()
    text = json.dumps(data)
    tensors = {PREFIX + name: tensor for name, tensor in state.items()}
    tensors[CONFIG_KEY] = torch.tensor(list(text.encode()), dtype=torch.uint8)
    return tensors


def native_metadata(config: Config, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Safetensors metadata for people and model managers; nothing is read back from it.

    Args:
        extra: added last, so that it can also replace: a training summary, `modelspec.title`, `modelspec.author`.
    """
    size = preset_name(config) or "custom"
    return {
        "format": "pt",
        "asymvq.format": str(format_version(config)),
        "asymvq.config": json.dumps(config_to_dict(config)),
        **latents_metadata(config),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "asymmetric-vqgan/vae",
        "modelspec.implementation": "asymvq",
        "modelspec.title": f"Asymmetric VQGAN {size}, {config.latent_channels} latent channels",
        "modelspec.date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **(extra or {}),
    }


def format_version(config: Config) -> int:
    """6 has errors that are fitted, 5 ones that fade, 4 conditions in the blocks, 3 those that see errors, 2 affine
    ones; 1 is all before."""
    if config.condition is None or config.condition.kind is not ConditionKind.AFFINE:
        return 1
    if config.condition.fits_errors:
        return 6
    if config.condition.errors_fade:
        return 5
    if config.condition.in_blocks:
        return 4
    return 3 if config.condition.sees_errors else 2


def latents_metadata(config: Config) -> dict[str, str]:
    return {} if config.latents is None else {LATENTS_KEY: json.dumps(config.latents.to_dict())}


def from_native(tensors: Mapping[str, Tensor]) -> tuple[Config, dict[str, Tensor]]:
    """The inverse of `to_native`.

    Raises:
        CheckpointError: no readable config, or one of a newer version.
    """
    state = dict(tensors)
    encoded = state.pop(CONFIG_KEY, None)
    if encoded is None:
        raise CheckpointError(f"Expected the config as tensor {CONFIG_KEY!r}, but it is missing. Save the file again.")
    if encoded.numel() > MAX_CONFIG_BYTES:
        raise CheckpointError(f"Expected a config of up to {MAX_CONFIG_BYTES} bytes, but got {encoded.numel()}.")
    try:
        # Tools that convert every tensor to half precision leave 0…255 exact.
        data = json.loads(bytes(encoded.flatten().to(torch.uint8).tolist()))
        version = data["format"]
        config = config_from_dict(data["config"]) if version in range(1, FORMAT_VERSION + 1) else None
        if config is not None and data.get("latents") is not None:
            config = config.replaced(latents=LatentSpace.from_dict(data["latents"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"Expected the config as JSON in tensor {CONFIG_KEY!r}, but it cannot be read: {str(error).rstrip('.')}. "
            "Save the file again."
        ) from error
    if config is None:
        raise CheckpointError(
            f"Expected format version {FORMAT_VERSION} or older, but got {shown(version)}. Update asymvq to read the "
            "file."
        )
    return config, {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
