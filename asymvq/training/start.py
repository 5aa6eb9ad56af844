"""The network that a training starts from, and digests that tell whether two runs start from the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from ..autoencoder import AsymmetricAutoencoder
from ..config import ConditionConfig, ConditionKind, Config
from ..grow import grow, match_norms, shifts_norms
from .copying import check_copying, start_with_copying
from .data import Samples
from .recipe import Recipe, Start
from .state import read_settings

MATCHED_PICTURES = 8
AFFINE_WIDTH = 64
"""Channels of an affine condition's maps; half of it for small decoders."""


def condition_to_train(
    config: Config,
    recipe: Recipe,
    *,
    kind: ConditionKind | None = None,
    width: int | None = None,
    fades: bool = False,
    fits: bool = False,
    folder: Path | None = None,
) -> ConditionConfig:
    """The condition that a decoder is trained with. A new affine one sees errors and works in the residual blocks too,
    and so does one that is asked for.

    Args:
        config: of the VAE to start from.
        kind: what was asked for; None: that of the run in `folder`, else the VAE's own, else the recipe's.
        width: channels of an affine condition's maps, where it was asked for; else those of the run or the VAE, or
            `AFFINE_WIDTH`.
        fades: whether its errors are to fade from now on (`ConditionConfig.errors_fade`).
        fits: whether they are to be fitted from now on (`ConditionConfig.fits_errors`).
        folder: of a run's states, which may not be there.

    Raises:
        ValueError: a width, fading or fitting for a condition of another kind or that sees no errors, or a width that
            none has.
    """
    found = _condition(config, recipe, kind, folder)
    if width is None and not fades and not fits:
        return found
    if found.kind is not ConditionKind.AFFINE:
        chosen = "width" if width is not None else "errors' fading" if fades else "errors' fitting"
        raise ValueError(f"Expected an affine condition, whose {chosen} can be chosen, but got {found.kind.value}.")
    return replace(
        found,
        channels=found.channels if width is None else width,
        errors_fade=fades or found.errors_fade,
        fits_errors=fits or found.fits_errors,
    )


def _condition(config: Config, recipe: Recipe, kind: ConditionKind | None, folder: Path | None) -> ConditionConfig:
    settings = None if folder is None else read_settings(folder)
    of_run = None if settings is None else settings["config"].get("condition")
    if of_run is not None and kind in (None, ConditionConfig.from_dict(of_run).kind):
        return ConditionConfig.from_dict(of_run)
    if kind is None:
        # the copy of kept pixels is written into a blend
        kind = ConditionKind.BLEND if recipe.copying else recipe.condition
        if config.condition is not None:
            return config.condition
    if config.condition is not None and config.condition.kind is kind:
        is_affine = kind is ConditionKind.AFFINE
        return replace(config.condition, sees_errors=is_affine, in_blocks=is_affine)
    if kind is ConditionKind.BLEND:
        return ConditionConfig()
    narrow = config.decoder_channels[0] < AFFINE_WIDTH
    return ConditionConfig.affine(AFFINE_WIDTH // 2 if narrow else AFFINE_WIDTH)


def needs_pictures(vae: AsymmetricAutoencoder, config: Config, recipe: Recipe) -> bool:
    """Whether the start alone needs pictures: a fractional width shifts the norms, which are matched on some."""
    return recipe.start is Start.GROW and shifts_norms(vae, config)


def started(
    vae: AsymmetricAutoencoder,
    config: Config,
    recipe: Recipe,
    samples: Samples | None,
    seed: int,
    *,
    weights_follow: bool = False,
) -> AsymmetricAutoencoder:
    """The network before its first step, float32 on the CPU.

    Args:
        samples: to match norms on, where `needs_pictures` says so.
        weights_follow: all weights will be replaced, so that no norms need be matched.
    """
    if recipe.start is Start.SCRATCH:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fresh = AsymmetricAutoencoder(config).float()
            frozen = {k: v for k, v in vae.state_dict().items() if not k.startswith("decoder.")}
            fresh.load_state_dict(frozen, strict=False)
            if recipe.copying:
                start_with_copying(fresh)
        return fresh
    grown = grow(vae, config, seed=seed)
    if recipe.copying:
        check_copying(grown)
    if needs_pictures(vae, config, recipe) and not weights_follow:
        assert samples is not None
        reference = grow(vae, vae.config, seed=seed)  # a float32 copy on the CPU
        match_norms(grown, reference, reference.encode(samples.batch(0, MATCHED_PICTURES).image))
    return grown


def frozen_digest(vae: AsymmetricAutoencoder) -> str:
    """A decoder goes on with the encoder that it was trained for, and no other."""
    return _digest(vae, lambda name: not name.startswith("decoder."))


def decoder_digest(vae: AsymmetricAutoencoder) -> str:
    """Of what a decoder is grown from."""
    return _digest(vae, lambda name: name.startswith("decoder."))


def _digest(vae: AsymmetricAutoencoder, chosen: Callable[[str], bool]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(vae.state_dict().items()):
        if chosen(name):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
