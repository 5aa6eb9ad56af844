"""The LDM's KL autoencoder, with GroupNorm: of Stable Diffusion, SDXL, FLUX.1 and .2, and all that share theirs.

The model's names are its LDM code's (`decoder.up.3.block.0.conv1.weight`, finest level 0); the condition encoder is
`decoder.condition_encoder`, attention projections are 1×1 convolutions, and FLUX.2's statistics are the codec's.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import MAX_BLOCKS, MAX_NORM_GROUPS, ConditionConfig, ConditionKind, LatentSpace, MaskReduction, Pooling
from ..config import Config as AnyConfig
from ..decoder import Decoder
from ..encoder import Encoder
from ..layers import Attention, Blocks, Downsample, Ops, ResidualBlock, Upsample, group_norm
from ..text import shown
from ..widening import Widening
from .codec import EPS, LatentCodec, NormalisedLatent
from .hints import Hints
from .layout import Layout
from .parts import Parts, quantisation
from .shapes import config_of, conv_shape, level_channels, preset_of
from .spaces import LATENT_CHANNELS, LATENT_SPACES

log = logging.getLogger(__name__)

NAME = "kl"
USED_BY = "SD, SDXL, SD3, FLUX.1, FLUX.2"
WIDENING = Widening()
LAYOUTS = (Layout.PAPER, Layout.ASUKA, Layout.DIFFUSERS, Layout.STOCK_LDM, Layout.STOCK_DIFFUSERS)
EXPORTS = {"diffusers": Layout.STOCK_DIFFUSERS, "original": Layout.STOCK_LDM}
ROOTS = ("encoder", "decoder", "quant_conv", "post_quant_conv", "bn")
ANCHORS = ("decoder.conv_in.weight",)
BARE_ANCHORS = ("conv_in.weight",)
VALUES = ()

DEFAULT_NORM_GROUPS = 32
_COUNTER = "bn.num_batches_tracked"
"""Of FLUX.2's batch norm: counts training's steps, and nothing uses it."""
_DIFFUSERS_CONDITION_LEVELS = 4

_REMAINS = re.compile(r"decoder\.(up_layers|encoder_up_layers)\.")
"""Deconvolutions that the paper's and ASUKA's code make only to read widths off them."""

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
_CONDITION = "layers.0.weight"

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


_PAPERS = ConditionConfig()


@dataclass(frozen=True)
class AutoencoderConfig(AnyConfig):
    """Everything that decides the architecture of a KL autoencoder: the LDM's, of Stable Diffusion and FLUX.

    Channel tuples run from the finest level (full resolution) to the coarsest (the latent's).
    """

    family = NAME

    latent_channels: int = 4
    decoder_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_blocks: int = 3
    """Residual blocks a level."""
    encoder_channels: tuple[int, ...] | None = (128, 256, 512, 512)
    """None: a decoder without an encoder."""
    encoder_blocks: int = 2
    condition: ConditionConfig | None = _PAPERS
    """None: a plain decoder, as in stock VAEs."""
    quant_conv: bool = True
    post_quant_conv: bool = True
    norm_groups: int = 32
    image_channels: int = 3
    latents: LatentSpace | None = dataclasses.field(default=None, compare=False)
    """Goes along with the shape, but is no part of it: two configs of one shape are equal. None: nobody said."""
    latent_packing: int = 1
    """FLUX.2: 2, and the packed latent is normalised by statistics that the file holds."""

    def __post_init__(self) -> None:
        self._check()
        for name, most in (
            ("decoder_blocks", MAX_BLOCKS), ("encoder_blocks", MAX_BLOCKS), ("norm_groups", MAX_NORM_GROUPS)
        ):  # fmt: skip
            self._check_count(name, getattr(self, name), most)
        for name in ("decoder_channels", "encoder_channels"):
            if any(c % self.norm_groups for c in getattr(self, name) or ()):
                raise ValueError(
                    f"Expected {name} to be multiples of norm_groups={self.norm_groups}, but got {getattr(self, name)}."
                )

    @property
    def decoder_block_counts(self) -> tuple[int, ...]:
        return (self.decoder_blocks,) * len(self.decoder_channels)

    @property
    def encoder_block_counts(self) -> tuple[int, ...]:
        return (self.encoder_blocks,) * len(self.decoder_channels)

    @property
    def decoder_multiple(self) -> int:
        return self.norm_groups

    @property
    def pooling(self) -> Pooling:
        return Pooling.NORMS

    def to_dict(self) -> dict[str, Any]:
        data = super().to_dict()
        if self.latent_packing == 1:  # as it was before there was packing
            del data["latent_packing"]
        return data


Config = AutoencoderConfig

PRESETS: dict[str, AutoencoderConfig] = {
    "base": AutoencoderConfig(),
    "1.5x": AutoencoderConfig(decoder_channels=(192, 384, 768, 768), decoder_blocks=4),
    "2x": AutoencoderConfig(decoder_channels=(256, 512, 1024, 1024), decoder_blocks=6),
}
"""The paper's decoders (arXiv 2306.04632), all on Stable Diffusion's own encoder."""


def build(config: Config, ops: Ops) -> Parts:
    norm = partial(group_norm, groups=config.norm_groups, ops=ops)
    blocks = Blocks(
        residual=partial(ResidualBlock, norm=norm, ops=ops),
        upsample=partial(Upsample, ops=ops),
        downsample=partial(Downsample, ops=ops),
        norm=norm,
        attention=partial(Attention, norm=norm, ops=ops),
    )
    channels, packing = config.network_latent_channels, config.latent_packing
    encoder = None
    if config.encoder_channels is not None:
        encoder = Encoder(config, blocks, ops, out_channels=2 * channels)
    decoder = Decoder(config, blocks, ops)
    codec = LatentCodec() if packing == 1 else NormalisedLatent(config.latent_channels, packing)
    return Parts(encoder, decoder, *quantisation(config, ops), codec)


def recognise(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of these names, or None."""
    if ANCHORS[0] not in tensors:
        return None
    diffusers = any(map(_DIFFUSERS_LEVEL.match, tensors))
    first = next((tensors[n] for p in ("", "condition_") if (n := f"decoder.{p}encoder.{_CONDITION}") in tensors), None)
    if diffusers:
        return Layout.STOCK_DIFFUSERS if first is None else Layout.DIFFUSERS
    if first is None:
        return Layout.STOCK_LDM
    last = tensors.get("decoder.conv_out.weight")
    sees_mask = last is not None and first.ndim == last.ndim == 4 and first.shape[1] == last.shape[0] + 1
    return Layout.ASUKA if sees_mask else Layout.PAPER


def whole_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Of a decoder alone whose names lack "decoder."; what has levels down, too, is no decoder."""
    parts = {name.partition(".")[0] for name in tensors}
    if parts & {"up", "up_blocks"} and parts & {"mid", "mid_block"} and not parts & {"down", "down_blocks"}:
        return {name if name.startswith(_ROOTED) else f"decoder.{name}": tensor for name, tensor in tensors.items()}
    return None


_ROOTED = tuple(f"{root}." for root in ROOTS if root not in ("encoder", "decoder"))


def read(tensors: Mapping[str, Tensor], layout: str, hints: Hints | None = None) -> tuple[Config, dict[str, Tensor]]:
    """Shape, and the tensors under the model's names.

    Raises:
        ValueError: no autoencoder of the family, or two names of one tensor.
    """
    groups = _norm_groups((hints or Hints()).config)
    coarsest = max((int(match[1]) for name in tensors if (match := _DIFFUSERS_LEVEL.match(name))), default=0)
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if _REMAINS.match(name):
            log.info("Left out %s, which only the training's code used.", name)
            continue
        ours = _rename(_reverse_levels(name, _DIFFUSERS_LEVEL, "up", coarsest), _TO_MODEL)
        if ours in state:
            raise ValueError(f"Expected one tensor for {shown(ours)}, but got several, {shown(name)} among them.")
        attention = tensor.ndim == 2 and _ATTENTION_WEIGHT.search(ours)
        state[ours] = tensor[:, :, None, None] if attention else tensor
    packing = _take_statistics(state)
    return _config(state, groups, packing), state


def latents(config: Config, layout: Layout, hints: Hints) -> LatentSpace | None:
    """How pipelines scale the latents, where the file tells. None: nothing tells, and nothing is guessed.

    Raises:
        ValueError: what stands beside the file fits no latents.
    """
    if config.latent_packing > 1:  # normalised already, by statistics that the file holds
        return LatentSpace.from_dict({**hints.config, "scaling_factor": 1.0})
    if hints.config.get("_class_name") in ("AutoencoderKL", "AsymmetricAutoencoderKL"):
        # what diffusers takes then: configs older than the field belong to Stable Diffusion 1 and 2
        data = {name: value for name, value in hints.config.items() if value is not None}
        return LatentSpace.from_dict({"scaling_factor": LATENT_SPACES["sd"].scaling_factor, **data})
    if (space := hints.configured_latents() or hints.said) is not None:
        return space
    architecture = hints.metadata.get("modelspec.architecture", "").lower()
    for name, pattern in _TELLING_ARCHITECTURES:
        if config.latent_channels == LATENT_CHANNELS[name] and re.match(pattern, architecture):
            return LATENT_SPACES[name]
    if not any(name in _NORMALISED_OTHERWISE for name in hints.others):
        for name, pattern in _TELLING_PARTS:
            part = re.compile(pattern)
            if config.latent_channels == LATENT_CHANNELS[name] and any(map(part.match, hints.others)):
                return LATENT_SPACES[name]
    if layout is Layout.PAPER and config.latent_channels == 4 and preset_of(config, PRESETS) in PRESETS:
        return LATENT_SPACES["sd"]
    if layout is Layout.ASUKA and config.latent_channels == 16:
        return LATENT_SPACES["flux"]
    return None


def write(
    state: Mapping[str, Tensor], config: Config, layout: str, *, base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors under LDM's names or diffusers'; a model with a condition has the latter only.

    Raises:
        ValueError: the layout has no such model.
    """
    if layout == Layout.STOCK_DIFFUSERS:
        tensors = to_diffusers(state, config)
    elif config.condition is not None:
        raise ValueError(
            f'Expected a model without a condition for layout "{layout}", but this one has one, which other loaders '
            'cannot use. Save with layout "native" instead.'
        )
    else:
        _require_plain(config, "other loaders expect it")
        tensors = dict(state)
    named = {name.replace("codec.", "bn."): tensor for name, tensor in tensors.items()}
    if config.latent_packing > 1:
        named[_COUNTER] = torch.tensor(0)
    return named, {}


def to_diffusers(state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """The tensors under diffusers' names, attention weights as matrices."""
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if _ATTENTION_WEIGHT.search(name):
            tensor = tensor.flatten(1)
        name = _reverse_levels(name, _MODEL_LEVEL, "up_blocks", len(config.decoder_channels) - 1)
        converted[_rename(name, _TO_DIFFUSERS)] = tensor
    return converted


def diffusers_config(config: Config) -> dict[str, Any]:
    """The config.json of the diffusers model with the same function.

    Raises:
        ValueError: there is none.
    """
    if config.encoder_channels is None:
        raise _unlike("diffusers has it", "an encoder", "a decoder alone")
    common = {
        "act_fn": "silu",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.network_latent_channels,
        "norm_num_groups": config.norm_groups,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.encoder_channels),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.decoder_channels),
    }
    if config.latent_packing > 1:
        if config.condition is not None:
            raise _unlike("diffusers has it", "no condition where latents are packed", "a condition")
        _require_plain(config, "diffusers has it")
        same = config.decoder_channels == config.encoder_channels
        sample_size = config.latents and config.latents.sample_size
        return {
            "_class_name": "AutoencoderKLFlux2",
            **common,
            "block_out_channels": list(config.encoder_channels),
            "decoder_block_out_channels": None if same else list(config.decoder_channels),
            "layers_per_block": config.encoder_blocks,
            "use_quant_conv": config.quant_conv,
            "use_post_quant_conv": config.post_quant_conv,
            "batch_norm_eps": EPS,
            "patch_size": [config.latent_packing] * 2,
            **({} if sample_size is None else {"sample_size": sample_size}),
        }
    common |= {} if config.latents is None else config.latents.to_dict()
    if config.condition is None:
        _require_plain(config, "diffusers has it")
        return {
            "_class_name": "AutoencoderKL",
            **common,
            "block_out_channels": list(config.decoder_channels),
            "layers_per_block": config.encoder_blocks,
            "use_quant_conv": config.quant_conv,
            "use_post_quant_conv": config.post_quant_conv,
        }
    _require_diffusers_condition(config)
    return {
        "_class_name": "AsymmetricAutoencoderKL",
        **common,
        "down_block_out_channels": list(config.encoder_channels),
        "layers_per_down_block": config.encoder_blocks,
        "up_block_out_channels": list(config.decoder_channels),
        "layers_per_up_block": config.decoder_blocks - 1,
    }


def _require_plain(config: Config, as_who: str) -> None:
    """Other loaders take the encoder's channels (FLUX.2: any) and one block more for the decoder."""
    if config.encoder_channels is None:
        raise _unlike(as_who, "an encoder", "a decoder alone")
    channels_differ = config.latent_packing == 1 and config.decoder_channels != config.encoder_channels
    if channels_differ or config.decoder_blocks != config.encoder_blocks + 1:
        raise _unlike(
            as_who,
            "a plain decoder of the encoder's channels and one block a level more",
            f"channels {config.decoder_channels} after {config.encoder_channels}, blocks {config.decoder_blocks} "
            f"after {config.encoder_blocks}",
        )


def _require_diffusers_condition(config: Config) -> None:
    assert config.condition is not None
    as_who = "diffusers has it"
    if config.condition.kind is not ConditionKind.BLEND:
        raise _unlike(
            as_who,
            "a condition that blends feature maps in",
            "one that scales and shifts the decoder's features (affine)",
        )
    if config.condition.sees_mask or config.condition.mask_reduction is not MaskReduction.NEAREST:
        raise _unlike(
            as_who,
            "a condition that sees the masked picture alone, and nearest masks",
            f"sees_mask={config.condition.sees_mask}, mask_reduction={config.condition.mask_reduction.value}",
        )
    if not (config.quant_conv and config.post_quant_conv):
        raise _unlike(as_who, "quant_conv and post_quant_conv", "an asymmetric VAE without them")
    if config.condition_channels != _diffusers_condition_channels(config):
        raise _unlike(
            as_who,
            f"{_DIFFUSERS_CONDITION_LEVELS} levels with condition maps of {_diffusers_condition_channels(config)} "
            "channels for these widths",
            f"{config.condition_channels}",
        )
    if config.decoder_channels[0] == config.decoder_channels[1]:
        # diffusers finds a map by its shape, so that of two alike the second hides the first
        raise _unlike(as_who, "other widths at the two finest levels", f"{config.decoder_channels[0]} at both")


def _diffusers_condition_channels(config: Config) -> tuple[int, ...]:
    """What diffusers makes of the finest and the coarsest width: doubled level by level, up to the coarsest."""
    finest, coarsest = config.decoder_channels[0], config.decoder_channels[-1]
    widths = (min(finest * 2**level, coarsest) for level in range(_DIFFUSERS_CONDITION_LEVELS))
    return (*widths, coarsest)


def _unlike(as_who: str, expected: str, got: str) -> ValueError:
    return ValueError(
        f'Expected a model as {as_who}, with {expected}, but got {got}. Save with layout="native" instead.'
    )


def _rename(name: str, pairs: Collection[tuple[str, str]]) -> str:
    for old, new in pairs:
        if old[0] == "." or name.startswith(old):
            name = name.replace(old, new)
    return name


def _reverse_levels(name: str, level: re.Pattern[str], new: str, coarsest: int) -> str:
    """LDM counts a decoder's levels from the finest, diffusers from the coarsest."""
    return level.sub(lambda match: f"decoder.{new}.{coarsest - int(match[1])}.", name)


def _norm_groups(config: Mapping[str, Any]) -> int:
    """What a config.json says that no tensor does, and what it must not say."""
    if (activation := config.get("act_fn", "silu")) not in ("silu", "swish"):
        raise ValueError(
            f"Expected act_fn silu in config.json, but got {shown(repr(activation))}: another architecture."
        )
    if (eps := config.get("batch_norm_eps", EPS)) != EPS:
        raise ValueError(f"Expected batch_norm_eps {EPS} in config.json, but got {shown(repr(eps))}: another VAE.")
    groups = config.get("norm_num_groups")
    if groups is not None and (type(groups) is not int or groups < 1):
        raise ValueError(
            f"Expected norm_num_groups ≥ 1 in config.json, but got {shown(repr(groups))}. Download it again."
        )
    return groups or DEFAULT_NORM_GROUPS


def _take_statistics(state: dict[str, Tensor]) -> int:
    """Gives FLUX.2's statistics the codec's names. What fits no packing of the latent keeps its own.

    Returns:
        The side of the squares that are packed; 1: none.
    """
    mean, weight = state.get("bn.running_mean"), state.get("decoder.conv_in.weight")
    if mean is None or weight is None or weight.ndim != 4 or not weight.shape[1]:
        return 1
    side = math.isqrt(mean.numel() // weight.shape[1])
    if side < 2 or mean.numel() != side**2 * weight.shape[1]:
        return 1
    for name in ("running_mean", "running_var"):
        if f"bn.{name}" in state:
            state[f"codec.{name}"] = state.pop(f"bn.{name}")
    if _COUNTER in state and state[_COUNTER].numel() == 1:
        del state[_COUNTER]
    return side


def _count_blocks(state: Mapping[str, Tensor], part: str) -> int:
    count = 0
    while f"{part}.0.block.{count}.conv1.weight" in state:
        count += 1
    return count


def _config(state: Mapping[str, Tensor], norm_groups: int, packing: int) -> Config:
    has_encoder = any(name.startswith("encoder.") for name in state)
    image_channels = conv_shape(state, "decoder.conv_out.weight")[0]
    first = f"decoder.condition_encoder.{_CONDITION}"
    condition = None
    if first in state:
        sees_mask = conv_shape(state, first)[1] == image_channels + 1
        condition = ConditionConfig(sees_mask, MaskReduction.ANY if sees_mask else MaskReduction.NEAREST)
    config = config_of(
        Config,
        latent_channels=conv_shape(state, "decoder.conv_in.weight")[1] * packing**2,
        decoder_channels=level_channels(state, "decoder.up"),
        decoder_blocks=_count_blocks(state, "decoder.up"),
        encoder_channels=level_channels(state, "encoder.down") if has_encoder else None,
        encoder_blocks=_count_blocks(state, "encoder.down") if has_encoder else Config.encoder_blocks,
        condition=condition,
        quant_conv="quant_conv.weight" in state,
        post_quant_conv="post_quant_conv.weight" in state,
        norm_groups=1,
        image_channels=image_channels,
        latent_packing=packing,
    )
    try:
        return dataclasses.replace(config, norm_groups=norm_groups)
    except ValueError as error:
        raise ValueError(
            f"{error} If the model was made with another number of groups, put its config.json (norm_num_groups) "
            "beside a diffusers file."
        ) from error
