"""The families of files: recognised by their keys, renamed to the model's own names, sized from their shapes.

The model's names are those of the LDM code (`decoder.up.3.block.0.conv1.weight`, finest level 0); the condition
encoder is `decoder.condition_encoder`, and attention projections are 1×1 convolutions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from enum import Enum

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..config import AutoencoderConfig, ConditionConfig, MaskReduction
from .compare import differences, shapes
from .errors import CheckpointError
from .native import PREFIX, from_native

log = logging.getLogger(__name__)

DEFAULT_NORM_GROUPS = 32


class Layout(Enum):
    PAPER = "paper"
    """buxiangzhiren/Asymmetric_VQGAN: LDM keys, `decoder.encoder` sees the masked picture."""
    ASUKA = "asuka"
    """Yikai-Wang/asuka-misato: LDM keys, `decoder.encoder` also sees the mask."""
    DIFFUSERS = "diffusers"
    """diffusers' AsymmetricAutoencoderKL."""
    NATIVE = "native"
    STOCK_LDM = "stock LDM"
    STOCK_DIFFUSERS = "stock diffusers"


_STOCK_PREFIXES = ("", "first_stage_model.", "vae.")
_ROOTS = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
_UNUSED = ("decoder.up_layers.", "decoder.encoder_up_layers.")
"""Deconvolutions that the paper's and ASUKA's code make only to read widths off them."""

# Longer names first: `.mid_block.resnets.0.` before `.resnets.`.
_LDM_TO_DIFFUSERS = (
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
    (".mid.attn_1.q.", ".mid_block.attentions.0.to_q."),
    (".mid.attn_1.k.", ".mid_block.attentions.0.to_k."),
    (".mid.attn_1.v.", ".mid_block.attentions.0.to_v."),
    (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
    ("encoder.down.", "encoder.down_blocks."),
    (".block.", ".resnets."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".downsample.", ".downsamplers.0."),
    (".upsample.", ".upsamplers.0."),
    (".norm_out.", ".conv_norm_out."),
)
_OLD_DIFFUSERS_ATTENTION = (
    (".query.", ".to_q."),
    (".key.", ".to_k."),
    (".value.", ".to_v."),
    (".proj_attn.", ".to_out.0."),
)
_ATTENTION_WEIGHT = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")


def recognise(
    tensors: Mapping[str, Tensor], *, norm_groups: int | None = None
) -> tuple[Layout, AutoencoderConfig, dict[str, Tensor]]:
    """Layout, shape and the tensors under the model's names, checked to be exactly the model's.

    Args:
        norm_groups: where the file's neighbour says so; no tensor's shape does.

    Raises:
        CheckpointError: no autoencoder, or not all and only the tensors of one.
    """
    if any(name.startswith(PREFIX) for name in tensors):
        layout, (config, state) = Layout.NATIVE, from_native(tensors)
    else:
        layout, state = _to_model_names(_without_prefix(tensors))
        config = _config_from_shapes(state, norm_groups or DEFAULT_NORM_GROUPS)
    state = {name: _attention_as_conv(name, tensor) for name, tensor in state.items()}
    _check_complete(config, state)
    return layout, config, state


def to_diffusers(state: Mapping[str, Tensor], config: AutoencoderConfig) -> dict[str, Tensor]:
    """The tensors under diffusers' names, attention weights as matrices."""
    coarsest = len(config.decoder_channels) - 1
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _ATTENTION_WEIGHT.search(name):
            tensor = tensor.flatten(1)
        converted[_rename(_reverse_levels(name, "up", "up_blocks", coarsest), _LDM_TO_DIFFUSERS)] = tensor
    return converted


def _rename(name: str, pairs: Collection[tuple[str, str]]) -> str:
    for old, new in pairs:
        name = name.replace(old, new)
    return name


def _reverse_levels(name: str, old: str, new: str, coarsest: int) -> str:
    """LDM counts a decoder's levels from the finest, diffusers from the coarsest."""
    return re.sub(rf"^decoder\.{old}\.(\d+)\.", lambda match: f"decoder.{new}.{coarsest - int(match[1])}.", name)


def _attention_as_conv(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if tensor.ndim == 2 and _ATTENTION_WEIGHT.search(name) else tensor


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _STOCK_PREFIXES:
        if f"{prefix}decoder.conv_in.weight" in tensors:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    raise CheckpointError(
        f"Expected an autoencoder with a decoder (decoder.conv_in.weight), but got {_what_else(tensors)}. Choose a VAE "
        "file: asymmetric (paper, diffusers, ASUKA, or saved by this pack) or stock (SD, SDXL, SD3, FLUX)."
    )


def _what_else(tensors: Mapping[str, Tensor]) -> str:
    names = list(tensors)
    if not names:
        return "a file without tensors"
    if any("lora" in name.lower() for name in names):
        return "a LoRA"
    if any(name.startswith("encoder.conv_in.") for name in names):
        return "an encoder alone"
    if any(re.search(r"^(model\.diffusion_model\.|input_blocks\.|time_embed|double_blocks\.)", name) for name in names):
        return "a diffusion model without a VAE"
    return f"{len(names)} tensors, the first of them {names[:3]}"


def _to_model_names(tensors: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    levels = {int(match[1]) for name in tensors if (match := re.match(r"decoder\.up_blocks\.(\d+)\.", name))}
    if levels:
        pairs = (*_OLD_DIFFUSERS_ATTENTION, *((new, old) for old, new in _LDM_TO_DIFFUSERS))
        state = {
            _rename(_reverse_levels(name, "up_blocks", "up", max(levels)), pairs): tensor
            for name, tensor in tensors.items()
        }
        asymmetric = "decoder.condition_encoder.layers.0.weight" in state
        return Layout.DIFFUSERS if asymmetric else Layout.STOCK_DIFFUSERS, state

    # Training checkpoints hold losses, discriminators and averaged weights beside the model.
    state = {
        re.sub(r"^decoder\.encoder\.", "decoder.condition_encoder.", name): tensor
        for name, tensor in tensors.items()
        if name.startswith(_ROOTS) and not name.startswith(_UNUSED)
    }
    if len(state) < len(tensors):
        log.debug("left out %d tensors that do not belong to the autoencoder", len(tensors) - len(state))
    first = state.get("decoder.condition_encoder.layers.0.weight")
    if first is None:
        return Layout.STOCK_LDM, state
    image_channels = _shape(state, "decoder.conv_out.weight")[0]
    return Layout.ASUKA if first.ndim == 4 and first.shape[1] == image_channels + 1 else Layout.PAPER, state


def _shape(state: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    """(out, in, height, width) of a convolution."""
    if name not in state:
        raise CheckpointError(f"Expected tensor {name}, but it is missing. The file is incomplete; download it again.")
    shape = tuple(state[name].shape)
    if len(shape) != 4:
        hint = " Video VAEs are not supported." if len(shape) == 5 else ""
        raise CheckpointError(f"Expected {name} to be a 2-D convolution, but got shape {shape}.{hint}")
    return shape


def _level_channels(state: Mapping[str, Tensor], part: str) -> tuple[int, ...]:
    channels: list[int] = []
    while (name := f"{part}.{len(channels)}.block.0.conv1.weight") in state or not channels:
        channels.append(_shape(state, name)[0])
    return tuple(channels)


def _count_blocks(state: Mapping[str, Tensor], part: str) -> int:
    count = 0
    while f"{part}.0.block.{count}.conv1.weight" in state:
        count += 1
    return count


def _config_from_shapes(state: Mapping[str, Tensor], norm_groups: int) -> AutoencoderConfig:
    has_encoder = any(name.startswith("encoder.") for name in state)
    image_channels = _shape(state, "decoder.conv_out.weight")[0]
    condition = None
    if "decoder.condition_encoder.layers.0.weight" in state:
        sees_mask = _shape(state, "decoder.condition_encoder.layers.0.weight")[1] == image_channels + 1
        condition = ConditionConfig(sees_mask, MaskReduction.ANY if sees_mask else MaskReduction.NEAREST)
    try:
        return AutoencoderConfig(
            latent_channels=_shape(state, "decoder.conv_in.weight")[1],
            decoder_channels=_level_channels(state, "decoder.up"),
            decoder_blocks=_count_blocks(state, "decoder.up"),
            encoder_channels=_level_channels(state, "encoder.down") if has_encoder else None,
            encoder_blocks=_count_blocks(state, "encoder.down") if has_encoder else AutoencoderConfig.encoder_blocks,
            condition=condition,
            quant_conv="quant_conv.weight" in state,
            post_quant_conv="post_quant_conv.weight" in state,
            norm_groups=norm_groups,
            image_channels=image_channels,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{error} If the model was made with another number of groups, put its config.json (norm_num_groups) "
            "beside a diffusers file."
        ) from error


def _check_complete(config: AutoencoderConfig, state: Mapping[str, Tensor]) -> None:
    with torch.device("meta"):
        expected = shapes(AsymmetricAutoencoder(config).state_dict())
    if found := differences(expected, shapes(state)):
        raise CheckpointError(
            f"Expected the {len(expected)} tensors of an autoencoder with decoder channels {config.decoder_channels}, "
            f"but got a file with tensors {found}. It is incomplete or of another architecture."
        )
