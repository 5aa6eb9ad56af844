"""Saving: the project's own format, diffusers', or the model's original one. A file is complete or not there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..autoencoders import LATENT_CHANNELS, LATENT_SPACES, family_of
from ..config import ConfigT, LatentSpace
from ..outputs import replacing
from ..precision import too_large_for
from .errors import CheckpointError
from .folders import DIFFUSERS_STEM
from .locate import find_autoencoder
from .native import latents_metadata, native_metadata, to_native
from .reading import read_tensors

LAYOUTS = ("native", "diffusers", "original")


def save(
    vae: AsymmetricAutoencoder,
    path: str | PathLike[str],
    *,
    layout: Literal["native", "diffusers", "original"] = "native",
    dtype: torch.dtype | None = None,
    metadata: Mapping[str, str] | None = None,
    latents: LatentSpace | str | None = None,
    overwrite: bool = True,
    base: str | PathLike[str] | None = None,
) -> None:
    """Writes a model; an existing file is replaced only by a complete one.

    Args:
        path: a `.safetensors` file; with layout "diffusers" also a folder, which gets the weights and a config.json
            that `from_pretrained` of diffusers' class for this model reads.
        layout: "native": our own. "diffusers": its names. "original": those of the model's authors, which ComfyUI's own
            loaders read; for models without a condition.
        dtype: None: each tensor's own.
        metadata: added to the safetensors header, e.g. a training summary or `modelspec.title`.
        latents: how pipelines scale the latents: a `LatentSpace`, or "sd", "sdxl", "sd3" or "flux". None: as the file
            said that the model came from. No weight tells it, and a wrong one draws washed-out pictures, so that a
            diffusers folder is refused where nobody said.
        overwrite: an existing file may be replaced.
        base: a file of that layout, for what the model does not have: of a video VAE, of which the model is one frame,
            all that joins frames. None: zeros, with which videos do not decode.

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
    family = family_of(config)
    settings = family.diffusers_config(config) if layout == "diffusers" else {}
    if beside and config.latents is None:
        known = ", ".join(f'"{name}" ({space.scaling_factor:g})' for name, space in LATENT_SPACES.items())
        raise ValueError(
            "Expected to know the scaling factor of this VAE's latents, which diffusers' config.json must say, but the "
            f"file that it came from does not tell. Say the latents: {known}, or the scaling factor itself."
        )
    raw = None if base is None else _raw(Path(base))
    tensors, said = family.write(state, config, family.EXPORTS[layout], base=raw)
    # config.json says it, unless it is the model's own scale that it must name
    told = beside and settings.get("scaling_factor", 1.0) == getattr(config.latents, "scaling_factor", 1.0)
    alone = {} if told else latents_metadata(config)
    _save_tensors(tensors, weights, {"format": "pt", **alone, **said, **(metadata or {})}, overwrite)
    for file in beside:
        with replacing(file, overwrite=overwrite) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _raw(path: Path) -> dict[str, Tensor]:
    """The autoencoder of a file, under the file's own names."""
    try:
        return find_autoencoder(read_tensors(path)[0]).tensors
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


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
    if layout not in LAYOUTS:
        raise ValueError(f'Expected layout "native", "diffusers" or "original", but got {layout!r}.')
    if path.suffix.lower() == ".safetensors":
        return (path,)
    if layout != "diffusers":
        raise ValueError(f"Expected a path that ends in .safetensors, but got {path}.")
    return path / f"{DIFFUSERS_STEM}.safetensors", path / "config.json"


def _save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str], overwrite: bool) -> None:
    with replacing(path, overwrite=overwrite) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)
