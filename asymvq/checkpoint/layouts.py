"""The families of files: recognised by their keys, renamed to the model's own names, sized from their shapes.

The model's names are those of the LDM code (`decoder.up.3.block.0.conv1.weight`, finest level 0); the condition
encoder is `decoder.condition_encoder`, and attention projections are 1×1 convolutions.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..config import (
    LATENT_CHANNELS,
    LATENT_SPACES,
    PRESETS,
    AutoencoderConfig,
    ConditionConfig,
    Config,
    LatentSpace,
    MaskReduction,
    preset_name,
)
from .compare import differences, shapes
from .errors import CheckpointError, shown
from .foreign import foreign_autoencoder, quantised
from .locate import Found, find_autoencoder
from .native import LATENTS_KEY, PREFIX, from_native

log = logging.getLogger(__name__)

DEFAULT_NORM_GROUPS = 32
_TENSORS_A_BLOCK = 6
"""The least that a residual block has: weights and biases of three convolutions, or of two with the norms' weights."""


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


_TRAINING_REMAINS = re.compile(
    r"(loss\w*|\w+_loss|discriminator|disc|lpips|criterion|metrics?|optim\w*|\w*schedulers?|\w*scaler|callbacks|loops"
    r"|model_ema|ema_model|hyper_parameters)\."
    # deconvolutions that the paper's and ASUKA's code make only to read widths off them
    r"|decoder\.(up_layers|encoder_up_layers)\."
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

# Read from the last pair to the first on the way back. What the longer names contain comes first: `.block.` is no part
# of `.mid.block_1.`, but `.resnets.` is of `.mid_block.resnets.0.`.
_TO_DIFFUSERS = (
    (".attn_1.norm.", ".attn_1.group_norm."),
    (".attn_1.q.", ".attn_1.to_q."),
    (".attn_1.k.", ".attn_1.to_k."),
    (".attn_1.v.", ".attn_1.to_v."),
    (".attn_1.proj_out.", ".attn_1.to_out.0."),
    (".block.", ".resnets."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".downsample.", ".downsamplers.0."),
    (".upsample.", ".upsamplers.0."),
    (".norm_out.", ".conv_norm_out."),
    ("encoder.down.", "encoder.down_blocks."),
    (".mid.block_1.", ".mid_block.resnets.0."),
    (".mid.block_2.", ".mid_block.resnets.1."),
    (".mid.attn_1.", ".mid_block.attentions.0."),
)
_TO_MODEL = (
    *((theirs, ours) for ours, theirs in reversed(_TO_DIFFUSERS)),
    # older diffusers
    (".attn_1.query.", ".attn_1.q."),
    (".attn_1.key.", ".attn_1.k."),
    (".attn_1.value.", ".attn_1.v."),
    (".attn_1.proj_attn.", ".attn_1.proj_out."),
    # the paper and ASUKA
    ("decoder.encoder.", "decoder.condition_encoder."),
    # FLUX.2's own code
    ("encoder.quant_conv.", "quant_conv."),
    ("decoder.post_quant_conv.", "post_quant_conv."),
)
"""All of them for every file, so that mixed names are read too: the check that follows is exact."""
_DIFFUSERS_LEVEL = re.compile(r"^decoder\.up_blocks\.(\d{1,4})\.")
_MODEL_LEVEL = re.compile(r"^decoder\.up\.(\d{1,4})\.")
_ATTENTION_WEIGHT = re.compile(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$")

_TELLING_PARTS = (
    # latent space, and what a whole checkpoint beside it holds
    ("sdxl", r"conditioner\."),
    ("sd", r"cond_stage_model\."),
    ("sd3", r"model\.diffusion_model\.joint_blocks\."),
    ("flux", r"model\.diffusion_model\.double_blocks\."),
)
_TELLING_ARCHITECTURES = (
    ("sdxl", r"stable-diffusion-xl"),
    ("sd", r"stable-diffusion-v[12]"),
    ("sd3", r"stable-diffusion-v?3"),
    ("flux", r"flux\W?1"),
)
"""As `modelspec.architecture` in the metadata names them."""
_NORMALISED_OTHERWISE = ("edm_mean", "edm_std")
"""Playground's checkpoints look like SDXL's."""


def recognise(
    tensors: Mapping[str, Tensor],
    *,
    norm_groups: int | None = None,
    latents: LatentSpace | None = None,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Layout, Config, dict[str, Tensor]]:
    """Layout, shape and the tensors under the model's names, checked to be exactly the model's.

    Args:
        norm_groups: where the file's neighbour says so; no tensor's shape does.
        latents: likewise.
        metadata: of the file, which may tell the latent space.

    Raises:
        CheckpointError: no autoencoder, not all and only the tensors of one, or one of another kind.
    """
    found = find_autoencoder(tensors)
    inside, left_out = _without_remains(found)
    _refuse_foreign(inside)
    if found.is_native:
        layout = Layout.NATIVE
        config, state = from_native({PREFIX + name: tensor for name, tensor in inside.items()})
    else:
        layout, state = _to_model_names(inside)
        config = _config_from_shapes(state, norm_groups or DEFAULT_NORM_GROUPS)
    state = {name: _attention_as_conv(name, tensor) for name, tensor in state.items()}
    _check_complete(config, state)
    if latents is None:
        latents = config.latents or _told_latents(layout, config, [*found.outside, *left_out], metadata or {})
    try:
        return layout, config.replaced(latents=latents), state
    except ValueError as error:
        raise CheckpointError(f"{error} What stands beside the weights belongs to another model.") from error


def _without_remains(found: Found) -> tuple[dict[str, Tensor], list[str]]:
    """The autoencoder's tensors, and the names of what training or the rest of a checkpoint left among them."""
    inside: dict[str, Tensor] = {}
    left_out: list[str] = []
    for name, tensor in found.tensors.items():
        if found.is_native:  # holds nothing else
            inside[name] = tensor
            continue
        remains = _TRAINING_REMAINS.match(name) or _OTHER_PARTS.match(name)
        if remains or (tensor.numel() == 1 and _COUNTERS.fullmatch(name)):
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
            f"Expected an autoencoder like those of SD, SDXL, SD3 and FLUX.1, but got {kind}. It has other latents or "
            "another network, which cannot be read here; decode with the nodes or the pipeline of its own model."
        )


def _told_latents(
    layout: Layout, config: Config, others: Iterable[str], metadata: Mapping[str, str]
) -> LatentSpace | None:
    """How pipelines scale the latents, where the file tells. None: nothing tells, and nothing is guessed."""
    if LATENTS_KEY in metadata:
        try:
            return LatentSpace.from_dict(json.loads(metadata[LATENTS_KEY]))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{error} It stands in the metadata as {LATENTS_KEY}; save the file again."
            ) from error
    architecture = metadata.get("modelspec.architecture", "").lower()
    for name, pattern in _TELLING_ARCHITECTURES:
        if config.latent_channels == LATENT_CHANNELS[name] and re.match(pattern, architecture):
            return LATENT_SPACES[name]
    others = list(others)
    if not any(name in _NORMALISED_OTHERWISE for name in others):
        for name, pattern in _TELLING_PARTS:
            part = re.compile(pattern)
            if config.latent_channels == LATENT_CHANNELS[name] and any(map(part.match, others)):
                return LATENT_SPACES[name]
    if layout is Layout.PAPER and config.latent_channels == 4 and preset_name(config) in PRESETS:
        return LATENT_SPACES["sd"]
    if layout is Layout.ASUKA and config.latent_channels == 16:
        return LATENT_SPACES["flux"]
    return None


def to_diffusers(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors under diffusers' names, attention weights as matrices."""
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _ATTENTION_WEIGHT.search(name):
            tensor = tensor.flatten(1)
        name = _reverse_levels(name, _MODEL_LEVEL, "up_blocks", len(config.decoder_channels) - 1)
        converted[_rename(name, _TO_DIFFUSERS)] = tensor
    return converted


def _rename(name: str, pairs: Collection[tuple[str, str]]) -> str:
    for old, new in pairs:
        if old[0] == "." or name.startswith(old):
            name = name.replace(old, new)
    return name


def _reverse_levels(name: str, level: re.Pattern[str], new: str, coarsest: int) -> str:
    """LDM counts a decoder's levels from the finest, diffusers from the coarsest."""
    return level.sub(lambda match: f"decoder.{new}.{coarsest - int(match[1])}.", name)


def _attention_as_conv(name: str, tensor: Tensor) -> Tensor:
    return tensor[:, :, None, None] if tensor.ndim == 2 and _ATTENTION_WEIGHT.search(name) else tensor


def _to_model_names(tensors: Mapping[str, Tensor]) -> tuple[Layout, dict[str, Tensor]]:
    levels = [int(match[1]) for name in tensors if (match := _DIFFUSERS_LEVEL.match(name))]
    coarsest = max(levels, default=0)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = _rename(_reverse_levels(name, _DIFFUSERS_LEVEL, "up", coarsest), _TO_MODEL)
        if ours in state:
            raise CheckpointError(f"Expected one tensor for {shown(ours)}, but got several, {shown(name)} among them.")
        state[ours] = tensor
    first = state.get("decoder.condition_encoder.layers.0.weight")
    if levels:
        return Layout.STOCK_DIFFUSERS if first is None else Layout.DIFFUSERS, state
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
        if "norm_groups" not in str(error):
            raise CheckpointError(f"{error} The file is damaged, or of another architecture.") from error
        raise CheckpointError(
            f"{error} If the model was made with another number of groups, put its config.json (norm_num_groups) "
            "beside a diffusers file."
        ) from error


def _check_complete(config: Config, state: Mapping[str, Tensor]) -> None:
    levels = len(config.decoder_channels)
    blocks = sum(config.decoder_block_counts) + (sum(config.encoder_block_counts) if config.encoder_channels else 0)
    if (least := _TENSORS_A_BLOCK * blocks) > len(state):  # before anything is built, which costs time a block
        raise CheckpointError(
            f"Expected at least {least} tensors for {levels} levels with {blocks} residual blocks, but "
            f"got {len(state)}. The file is incomplete or damaged."
        )
    with torch.device("meta"):
        expected = shapes(AsymmetricAutoencoder(config).state_dict())
    if found := differences(expected, shapes(state)):
        raise CheckpointError(
            f"Expected the {len(expected)} tensors of an autoencoder with decoder channels {config.decoder_channels}, "
            f"but got a file with tensors {found}. It is incomplete or of another architecture."
        )
