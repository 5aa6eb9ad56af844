"""Saving: the project's own format, or diffusers'. A file is either complete or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..config import (
    LATENT_CHANNELS,
    LATENT_SPACES,
    AutoencoderConfig,
    ConditionKind,
    Config,
    ConfigT,
    LatentSpace,
    MaskReduction,
)
from ..outputs import replacing
from ..precision import too_large_for
from .folders import DIFFUSERS_STEM
from .layouts import to_diffusers
from .native import latents_metadata, native_metadata, to_native

_DIFFUSERS_CONDITION_LEVELS = 4


def save(
    vae: AsymmetricAutoencoder,
    path: str | PathLike[str],
    *,
    layout: Literal["native", "diffusers"] = "native",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    latents: LatentSpace | str | None = None,
    overwrite: bool = True,
) -> None:
    """Writes a model; an existing file is replaced only by a complete one.

    Args:
        path: a `.safetensors` file; with layout "diffusers" also a folder, which gets the weights and a config.json
            that `AsymmetricAutoencoderKL.from_pretrained` (`AutoencoderKL` for a stock VAE) reads.
        dtype: None: each tensor's own.
        metadata: added to the safetensors header, e.g. a training summary or `modelspec.title`.
        latents: how pipelines scale the latents: a `LatentSpace`, or "sd", "sdxl", "sd3" or "flux". None: as the file
            said that the model came from. No weight tells it, and a wrong one draws washed-out pictures, so that a
            diffusers folder is refused where nobody said.
        overwrite: an existing file may be replaced.

    Raises:
        FileExistsError: there is such a file, and `overwrite` is not set.
        ValueError: another kind of path, an unknown layout or latent space, what diffusers cannot express, or weights
            that `dtype` cannot hold.
    """
    config = with_latents(vae.config, latents)
    weights, *beside = output_files(Path(path), layout)
    if dtype is not None and (name := too_large_for(dtype, vae.state_dict())):
        raise ValueError(
            f"Expected weights that fit {dtype}, but {name} holds larger ones. Save in bfloat16 or float32."
        )
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in vae.state_dict().items()}
    if layout == "native":
        _save_tensors(to_native(state, config), weights, native_metadata(config, metadata), overwrite)
        return
    diffusers = diffusers_config(config)
    if beside and config.latents is None:
        known = ", ".join(f'"{name}" ({space.scaling_factor:g})' for name, space in LATENT_SPACES.items())
        raise ValueError(
            "Expected to know the scaling factor of this VAE's latents, which diffusers' config.json must say, but the "
            f"file that it came from does not tell. Say the latents: {known}, or the scaling factor itself."
        )
    alone = {} if beside else latents_metadata(config)  # where no config.json says it
    _save_tensors(to_diffusers(state, config), weights, {"format": "pt", **alone, **(metadata or {})}, overwrite)
    for file in beside:
        with replacing(file, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(diffusers, indent=2) + "\n", encoding="utf-8")


def with_latents(config: ConfigT, latents: LatentSpace | str | None) -> ConfigT:
    """`config` with other latents, where they are given.

    Raises:
        ValueError: an unknown name, or a space of another number of channels.
    """
    if latents is None:
        return config
    if isinstance(latents, str):
        if latents not in LATENT_SPACES:
            raise ValueError(f"Expected latents of {', '.join(LATENT_SPACES)}, but got {latents!r}.")
        if (channels := LATENT_CHANNELS[latents]) != config.latent_channels:
            raise ValueError(
                f"Expected latents with {config.latent_channels} channels, as this VAE's, but those of {latents} have "
                f"{channels}."
            )
        latents = LATENT_SPACES[latents]
    return config.replaced(latents=latents)


def output_files(path: Path, layout: str) -> tuple[Path, ...]:
    """What `save` writes.

    Raises:
        ValueError: another kind of path, or an unknown layout.
    """
    if layout not in ("native", "diffusers"):
        raise ValueError(f'Expected layout "native" or "diffusers", but got {layout!r}.')
    if path.suffix.lower() == ".safetensors":
        return (path,)
    if layout == "native":
        raise ValueError(f"Expected a path that ends in .safetensors, but got {path}.")
    return path / f"{DIFFUSERS_STEM}.safetensors", path / "config.json"


def diffusers_config(config: Config) -> dict[str, Any]:
    """The config.json of the diffusers model with the same function.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(config, AutoencoderConfig) or config.latent_packing > 1:
        packed = ", packed" if config.latent_packing > 1 else ""
        raise _not_in_diffusers("has GroupNorm, and latents that are not packed", f"family {config.family}{packed}")
    if config.encoder_channels is None:
        raise _not_in_diffusers("has an encoder", "a decoder alone")
    common = {
        "act_fn": "silu",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.norm_groups,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.encoder_channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.decoder_channels),
        **({} if config.latents is None else config.latents.to_dict()),
    }
    if config.condition is None:
        if config.decoder_channels != config.encoder_channels or config.decoder_blocks != config.encoder_blocks + 1:
            raise _not_in_diffusers(
                "has a plain decoder of the encoder's channels and one block a level more",
                f"channels {config.decoder_channels} after {config.encoder_channels}, blocks {config.decoder_blocks} "
                f"after {config.encoder_blocks}",
            )
        return {
            "_class_name": "AutoencoderKL",
            **common,
            "block_out_channels": list(config.decoder_channels),
            "layers_per_block": config.encoder_blocks,
            "use_quant_conv": config.quant_conv,
            "use_post_quant_conv": config.post_quant_conv,
        }
    if config.condition.kind is not ConditionKind.BLEND:
        raise _not_in_diffusers(
            "has a condition that blends feature maps in", "one that scales and shifts the decoder's features (affine)"
        )
    if config.condition.sees_mask or config.condition.mask_reduction is not MaskReduction.NEAREST:
        raise _not_in_diffusers(
            "has a condition that sees the masked picture alone, and nearest masks",
            f"sees_mask={config.condition.sees_mask}, mask_reduction={config.condition.mask_reduction.value}",
        )
    if not (config.quant_conv and config.post_quant_conv):
        raise _not_in_diffusers("has quant_conv and post_quant_conv", "an asymmetric VAE without them")
    if config.condition_channels != _diffusers_condition_channels(config):
        raise _not_in_diffusers(
            f"has {_DIFFUSERS_CONDITION_LEVELS} levels with condition maps of {_diffusers_condition_channels(config)} "
            "channels for these widths",
            f"{config.condition_channels}",
        )
    if config.decoder_channels[0] == config.decoder_channels[1]:
        # diffusers finds a map by its shape, so that of two alike the second hides the first
        raise _not_in_diffusers("has other widths at the two finest levels", f"{config.decoder_channels[0]} at both")
    return {
        "_class_name": "AsymmetricAutoencoderKL",
        **common,
        "down_block_out_channels": list(config.encoder_channels),
        "layers_per_down_block": config.encoder_blocks,
        "up_block_out_channels": list(config.decoder_channels),
        "layers_per_up_block": config.decoder_blocks - 1,
    }


def _diffusers_condition_channels(config: AutoencoderConfig) -> tuple[int, ...]:
    """What diffusers makes of the finest and the coarsest width: doubled level by level, up to the coarsest."""
    finest, coarsest = config.decoder_channels[0], config.decoder_channels[-1]
    widths = (min(finest * 2**level, coarsest) for level in range(_DIFFUSERS_CONDITION_LEVELS))
    return (*widths, coarsest)


def _not_in_diffusers(expected: str, got: str) -> ValueError:
    return ValueError(f'Expected a model as diffusers {expected}, but got {got}. Save with layout="native" instead.')


def _save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str], overwrite: bool) -> None:
    with replacing(path, overwrite=overwrite) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)
