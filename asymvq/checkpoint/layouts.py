"""Whose file it is: the autoencoder is found in it, its family recognised, its tensors checked to be all of one.

How each family names its tensors stands in `asymvq.autoencoders`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..autoencoders import FAMILIES, Layout, family_of
from ..autoencoders import recognise as recognise_family
from ..autoencoders.hints import Hints
from ..config import Config
from .compare import differences, shapes
from .errors import CheckpointError, shown
from .foreign import foreign_autoencoder, quantised
from .locate import Found, find_autoencoder, refuse_torn
from .native import PREFIX, from_native

__all__ = ["Hints", "Layout", "recognise"]

log = logging.getLogger(__name__)

_TENSORS_A_BLOCK = 6
"""The least that a residual block has: weights and biases of three convolutions, or of two with the norms' weights."""
_VALUES = {name for family in FAMILIES for name in family.VALUES}

_TRAINING_REMAINS = re.compile(
    r"(loss\w*|\w+_loss|discriminator|disc|lpips|criterion|metrics?|optim\w*|\w*schedulers?|\w*scaler|callbacks|loops"
    r"|model_ema|ema_model|hyper_parameters)\."
)
_COUNTERS = re.compile(r"\w+")
"""Names without a dot, of one number: steps, epochs, decays."""
_OTHER_PARTS = re.compile(
    r"(model\.diffusion_model|diffusion_model|cond_stage_model|conditioner|denoiser|text_encoders?(_\d)?|text_model|unet"
    r"|transformer|control_model|clip_\w+|te\d?|proj_out|lora_\w+|embedding_manager)\."
    r"|(betas|alphas_cumprod\w*|\w+_alphas_cumprod|log_one_minus\w+|posterior_\w+|lvlb_weights|logvar|scale_factor"
    r"|learnable_vector|edm_mean|edm_std|ztsnr|v_pred|sigmas)$"
)
"""Of whole checkpoints, where their names share the autoencoder's prefix."""


def recognise(
    tensors: Mapping[str, Tensor], hints: Hints | None = None, *, encoder_alone: bool = False
) -> tuple[Layout, Config, dict[str, Tensor]]:
    """Layout, shape and the tensors under the model's names, checked to be exactly the model's.

    Args:
        hints: what stands beside the tensors.
        encoder_alone: whether a file without a decoder will do: to take the encoder from.

    Raises:
        CheckpointError: no autoencoder, not all and only the tensors of one, or one of another kind.
    """
    found = find_autoencoder(tensors)
    inside, left_out = _without_remains(found)
    hints = replace(hints or Hints(), others=(*found.outside, *left_out))
    _refuse_foreign(inside)
    layout, config, state = _read(found, inside, hints)
    refuse_torn(found.prefix, found.outside, family_of(config).ROOTS)
    _check_complete(config, state, encoder_alone)
    try:
        latents = config.latents or family_of(config).latents(config, layout, hints)
    except ValueError as error:
        what = shown(error, 200).rstrip(".")
        raise CheckpointError(
            f"Expected latents beside the weights as a VAE has them, but got: {what}. It stands in the config.json or "
            "the file's metadata; download it again, or remove it."
        ) from error
    try:
        return layout, config.replaced(latents=latents), state
    except ValueError as error:
        raise CheckpointError(f"{error} What stands beside the weights belongs to another model.") from error


def _read(found: Found, inside: dict[str, Tensor], hints: Hints) -> tuple[Layout, Config, dict[str, Tensor]]:
    if found.is_native:
        return Layout.NATIVE, *from_native({PREFIX + name: tensor for name, tensor in inside.items()})
    known = recognise_family(inside)
    if known is None:
        raise CheckpointError(
            f"Expected an autoencoder, but of what one has, only {shown(found.anchor)} is there. The file is "
            "incomplete or of another architecture."
        )
    family, layout = known
    try:
        return layout, *family.read(inside, layout, hints)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(error) from error


def _without_remains(found: Found) -> tuple[dict[str, Tensor], list[str]]:
    """The autoencoder's tensors, and the names of what training or the rest of a checkpoint left among them."""
    inside: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in found.tensors.items():
        if found.is_native:  # holds nothing else
            inside[name] = tensor
            continue
        remains = _TRAINING_REMAINS.match(name) or _OTHER_PARTS.match(name)
        if remains or (tensor.numel() == 1 and name not in _VALUES and _COUNTERS.fullmatch(name)):
            left_out.append(name)
        else:
            inside[name] = tensor
    if left_out or found.outside:
        log.info("Left out %d tensors that do not belong to the autoencoder.", len(left_out) + len(found.outside))
    return inside, left_out


def _refuse_foreign(tensors: Mapping[str, Tensor]) -> None:
    if name := quantised(tensors):
        raise CheckpointError(
            f"Expected weights in float32, float16 or bfloat16, but got quantised ones ({shown(name)}). Get an "
            "unquantised file; a VAE is small."
        )
    if kind := foreign_autoencoder(tensors):
        raise CheckpointError(
            f"Expected an autoencoder of a family that is supported, but got {kind}. It has other latents or another "
            "network, which cannot be read here; decode with the nodes or the pipeline of its own model."
        )


def _check_complete(config: Config, state: Mapping[str, Tensor], encoder_alone: bool) -> None:
    levels = len(config.decoder_channels)
    decoders = 0 if (alone := not any(name.startswith("decoder.") for name in state)) else 1
    if alone and not encoder_alone:
        raise CheckpointError(
            "Expected an autoencoder with a decoder, but got an encoder alone. Choose the decoder's file, and give "
            "this one as the VAE to take the encoder from (base_vae)."
        )
    blocks = decoders * sum(config.decoder_block_counts)
    blocks += sum(config.encoder_block_counts) if config.encoder_channels else 0
    if (least := _TENSORS_A_BLOCK * blocks) > len(state):  # before anything is built, which costs time a block
        raise CheckpointError(
            f"Expected at least {least} tensors for {levels} levels with {blocks} residual blocks, but "
            f"got {len(state)}. The file is incomplete or damaged."
        )
    with torch.device("meta"):
        expected = shapes(AsymmetricAutoencoder(config).state_dict())
    if alone:
        expected = {name: shape for name, shape in expected.items() if not name.startswith("decoder.")}
    if found := differences(expected, shapes(state)):
        raise CheckpointError(
            f"Expected the {len(expected)} tensors of an autoencoder with decoder channels {config.decoder_channels}, "
            f"but got a file with tensors {found}. It is incomplete or of another architecture."
        )
