"""Wan 2.1's autoencoder, for one frame: of Qwen-Image too, and of all that share theirs.

A video's convolutions reach back in time and find zeros before the first frame. So a single frame meets the last
temporal tap of every kernel only, and the network is one of 2-D convolutions, exactly. What joins frames in time
(`time_conv`) is never run for the first one.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..config import MAX_BLOCKS, MAX_LEVELS, ConditionConfig, LatentSpace, Pooling
from ..config import Config as AnyConfig
from ..decoder import Decoder
from ..encoder import Encoder
from ..layers import Blocks, Downsample, FusedAttention, Ops, ResidualBlock, RMSNorm, Upsample
from ..text import shown
from ..widening import Widening
from .codec import LatentCodec
from .hints import Hints
from .layout import Layout
from .parts import Parts, quantisation
from .shapes import block_counts, config_of, conv_shape, level_channels

log = logging.getLogger(__name__)

NAME = "wan"
USED_BY = "Qwen-Image, Wan 2.1"
WIDENING = Widening(keeps_length=True)
LAYOUTS = (Layout.WAN, Layout.WAN_DIFFUSERS)
EXPORTS = {"diffusers": Layout.WAN_DIFFUSERS, "original": Layout.WAN}
ROOTS = ("encoder", "decoder", "conv1", "conv2", "quant_conv", "post_quant_conv")
ANCHORS = ("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma")
"""A layout's each."""
BARE_ANCHORS = ()
VALUES = ()

LATENTS = LatentSpace(
    1.0,
    latents_mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    latents_std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
)  # fmt: skip
"""Of all published members; diffusers' config.json holds them, and no tensor does."""
_OTHER_MEMBERS = ("decoder.upsamples.0.upsamples.", "decoder.up_blocks.0.upsampler.")
"""Of Wan 2.2 and Qwen-Image 2.1, whose levels are nested."""

_BLOCK = (
    ("norm1", "residual.0", "norm1"),
    ("conv1", "residual.2", "conv1"),
    ("norm2", "residual.3", "norm2"),
    ("conv2", "residual.6", "conv2"),
    ("nin_shortcut", "shortcut", "conv_shortcut"),
)
_ENDS = (("conv_in", "conv1", "conv_in"), ("norm_out", "head.0", "norm_out"), ("conv_out", "head.2", "conv_out"))
_ATTENTION = ("norm", "to_qkv", "proj")
_TIME = ".time_conv."


@dataclass(frozen=True)
class Config(AnyConfig):
    """Wan 2.1's shape. Channel tuples run from the finest level to the coarsest.

    The convolution after upsampling halves the width, so that features enter a level narrower than the one before it
    left them.
    """

    family = NAME
    frames = True

    latent_channels: int = 16
    decoder_channels: tuple[int, ...] = (96, 192, 384, 384)
    decoder_blocks: int = 3
    """Residual blocks a level."""
    encoder_channels: tuple[int, ...] | None = (96, 192, 384, 384)
    encoder_blocks: int = 2
    condition: ConditionConfig | None = None
    quant_conv: bool = True
    post_quant_conv: bool = True
    image_channels: int = 3
    latents: LatentSpace | None = dataclasses.field(default=None, compare=False)
    temporal: tuple[bool, ...] = (False, True, True)
    """Whether a video changes its length too between a level and the next coarser one. One frame does not."""

    latent_packing = 1
    float32_norms = True

    def __post_init__(self) -> None:
        self._check()
        for name in ("decoder_blocks", "encoder_blocks"):
            self._check_count(name, getattr(self, name), MAX_BLOCKS)
        if any(c % 2 for c in self.decoder_channels[1:]):
            raise ValueError(f"Expected even widths below the finest level, but got {self.decoder_channels}.")
        joints = len(self.decoder_channels) - 1
        if len(self.temporal) != joints or not all(type(value) is bool for value in self.temporal):
            raise ValueError(f"Expected temporal to be {joints} times true or false, but got {self.temporal}.")

    @property
    def decoder_multiple(self) -> int:
        return 2

    @property
    def pooling(self) -> Pooling:
        return Pooling.NONE

    @property
    def entering_channels(self) -> tuple[int, ...]:
        return (*(c // 2 for c in self.decoder_channels[1:]), self.decoder_channels[-1])

    @property
    def decoder_block_counts(self) -> tuple[int, ...]:
        return (self.decoder_blocks,) * len(self.decoder_channels)

    @property
    def encoder_block_counts(self) -> tuple[int, ...]:
        return (self.encoder_blocks,) * len(self.decoder_channels)


PRESETS: dict[str, AnyConfig] = {"base": Config()}
"""As published."""


def build(config: Config, ops: Ops) -> Parts:
    blocks = Blocks(
        residual=partial(ResidualBlock, norm=RMSNorm, ops=ops),
        upsample=partial(Upsample, ops=ops),
        downsample=partial(Downsample, ops=ops),
        norm=RMSNorm,
        attention=partial(FusedAttention, norm=RMSNorm, ops=ops),
    )
    encoder = None
    if config.encoder_channels is not None:
        encoder = Encoder(config, blocks, ops, out_channels=2 * config.latent_channels)
    return Parts(encoder, Decoder(config, blocks, ops), *quantisation(config, ops), LatentCodec())


def recognise(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of these names, or None."""
    return next((layout for layout, mark in zip(LAYOUTS, ANCHORS, strict=True) if mark in tensors), None)


def whole_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """None: nobody writes a decoder alone without its root."""
    return None


def read(tensors: Mapping[str, Tensor], layout: str, hints: Hints | None = None) -> tuple[Config, dict[str, Tensor]]:
    """Shape, and the tensors under the model's names, kernels reduced to what one frame meets.

    Raises:
        ValueError: another member of the family.
    """
    if any(key.startswith(_OTHER_MEMBERS) for key in tensors):
        raise ValueError(
            "Expected the VAE of Wan 2.1 or Qwen-Image (16 latent channels), but got one of Wan 2.2 or Qwen-Image 2.1, "
            "which are not supported. Choose the VAE that your model was trained with."
        )
    modules = _modules(*_sizes(tensors, layout), layout)
    state: dict[str, Tensor] = {}
    left_out: list[str] = []
    for key, tensor in tensors.items():
        if _TIME in key and key.split(_TIME)[0] + ".resample.1" in modules:
            left_out.append(key)
            continue
        module, _, parameter = key.rpartition(".")
        own = modules.get(module)
        name = key if own is None else f"{own}.{parameter}"
        if name in state:
            raise ValueError(f"Expected one tensor for {shown(name)}, but got several, {shown(key)} among them.")
        state[name] = tensor if own is None else _one_frame(tensor, parameter)
    if left_out:
        log.debug("left out %d tensors that one frame does not meet, e.g. %s", len(left_out), left_out[0])
    return _config(state, _temporal(left_out, modules)), state


def latents(config: Config, layout: Layout, hints: Hints) -> LatentSpace | None:
    """What diffusers' config.json says, else what all published members have.

    Raises:
        ValueError: the file says what no latents of this family are.
    """
    statistics = {name: hints.config[name] for name in ("latents_mean", "latents_std") if name in hints.config}
    if statistics:
        return LatentSpace.from_dict({"scaling_factor": LATENTS.scaling_factor, **statistics})
    return hints.said or (LATENTS if config.latent_channels == len(LATENTS.latents_mean or ()) else None)


def diffusers_config(config: Config) -> dict[str, Any]:
    """The config.json of the diffusers model with the same function: AutoencoderKLWan's, also for Qwen-Image.

    Raises:
        ValueError: there is none.
    """
    encoder, decoder = config.encoder_channels, config.decoder_channels
    if config.condition is not None or encoder is None or not (config.quant_conv and config.post_quant_conv):
        raise _not_in_diffusers("an encoder, both quantisation convolutions and no condition", "another")
    multiples = [c / encoder[0] for c in encoder]
    if any(c != decoder[0] * m for c, m in zip(decoder, multiples, strict=True)) or any(m % 1 for m in multiples):
        raise _not_in_diffusers("widths of one row of whole multiples", f"{encoder} and {decoder}")
    if config.decoder_blocks != config.encoder_blocks + 1:
        raise _not_in_diffusers(
            "one block a level more in the decoder", f"{config.encoder_blocks} and {config.decoder_blocks}"
        )
    known = {} if config.latents is None else config.latents.to_dict()
    return {
        "_class_name": "AutoencoderKLWan",
        "base_dim": encoder[0],
        "decoder_base_dim": None if decoder[0] == encoder[0] else decoder[0],
        "z_dim": config.latent_channels,
        "dim_mult": [int(m) for m in multiples],
        "num_res_blocks": config.encoder_blocks,
        "attn_scales": [],
        "temperal_downsample": list(config.temporal),
        "dropout": 0.0,
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        **{name: known[name] for name in ("latents_mean", "latents_std") if name in known},
    }


def _not_in_diffusers(expected: str, got: str) -> ValueError:
    return ValueError(f'Expected a model as diffusers has it, with {expected}, but got {got}. Save with "native".')


def write(
    state: Mapping[str, Tensor], config: Config, layout: str, *, base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """3-D kernels for loaders of the whole VAE, and metadata that says where their other taps come from.

    A picture is decoded as the model does. Videos mix frames by taps that were not trained with the others: those of
    `base`, a file of the same layout, or zeros.

    Raises:
        ValueError: the model has a condition, or the base has other tensors.
    """
    if config.condition is not None:
        raise ValueError(
            f'Expected a model without a condition for layout "{layout}", but this one has one, which other loaders '
            'cannot use. Save with layout "native" instead.'
        )
    names = {
        own: file for file, own in _modules(len(config.decoder_channels), config.encoder_blocks,
                                            config.decoder_blocks, layout).items()
    }  # fmt: skip
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, parameter = key.rpartition(".")
        tensors[f"{names[module]}.{parameter}"] = _all_taps(tensor, module, parameter)
    for sampler, channels, out_channels in _time_convolutions(config):
        if sampler in names and f"{sampler}.weight" in state:
            prefix = names[sampler].removesuffix(".resample.1") + _TIME
            like = state[f"{sampler}.weight"]
            tensors[f"{prefix}weight"] = like.new_zeros(out_channels, channels, 3, 1, 1)
            tensors[f"{prefix}bias"] = like.new_zeros(out_channels)
    if base is not None:
        _take_taps(tensors, base)
    else:
        log.warning(
            "Wrote zeros for what joins frames in time: pictures decode as before, videos do not. Give the file that "
            "the model came from as its base to keep that."
        )
    return tensors, {"asymvq.temporal_taps": "zeros" if base is None else "base"}


def _modules(levels: int, encoder_blocks: int, decoder_blocks: int, layout: str) -> dict[str, str]:
    """Modules in a file to the model's own."""
    column = 1 + LAYOUTS.index(layout)
    return {row[column]: row[0] for row in _rows(levels, encoder_blocks, decoder_blocks)}


def _rows(levels: int, encoder_blocks: int, decoder_blocks: int) -> Iterator[tuple[str, str, str]]:
    """Every module's name: the model's own, Wan's, diffusers'."""
    yield "quant_conv", "conv1", "quant_conv"
    yield "post_quant_conv", "conv2", "post_quant_conv"
    for part in ("encoder", "decoder"):
        yield from _inside((part, part, part), _ENDS)
        for i, own in enumerate(("block_1", "block_2")):
            names = (f"{part}.mid.{own}", f"{part}.middle.{2 * i}", f"{part}.mid_block.resnets.{i}")
            yield from _inside(names, _BLOCK)
        names = (f"{part}.mid.attn_1", f"{part}.middle.1", f"{part}.mid_block.attentions.0")
        yield from _inside(names, [(leaf, leaf, leaf) for leaf in _ATTENTION])
    index = 0
    for level in range(levels):
        for block in range(encoder_blocks):
            names = (
                f"encoder.down.{level}.block.{block}",
                f"encoder.downsamples.{index}",
                f"encoder.down_blocks.{index}",
            )
            yield from _inside(names, _BLOCK)
            index += 1
        if level < levels - 1:
            names = (f"encoder.down.{level}", f"encoder.downsamples.{index}", f"encoder.down_blocks.{index}")
            yield from _inside(names, [("downsample.conv", "resample.1", "resample.1")])
            index += 1
    index = 0
    for up, level in enumerate(reversed(range(levels))):
        for block in range(decoder_blocks):
            names = (
                f"decoder.up.{level}.block.{block}",
                f"decoder.upsamples.{index}",
                f"decoder.up_blocks.{up}.resnets.{block}",
            )
            yield from _inside(names, _BLOCK)
            index += 1
        if level:
            names = (f"decoder.up.{level}", f"decoder.upsamples.{index}", f"decoder.up_blocks.{up}")
            yield from _inside(names, [("upsample.conv", "resample.1", "upsamplers.0.resample.1")])
            index += 1


def _inside(names: tuple[str, str, str], leaves: Collection[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    for own, wan, diffusers in leaves:
        yield f"{names[0]}.{own}", f"{names[1]}.{wan}", f"{names[2]}.{diffusers}"


def _sizes(tensors: Mapping[str, Tensor], layout: str) -> tuple[int, int, int]:
    """Levels, blocks of an encoder's level, blocks of a decoder's level."""
    if layout == Layout.WAN:
        encoder_blocks = _before_sampler(tensors, "encoder.downsamples")
        decoder_blocks = _before_sampler(tensors, "decoder.upsamples")
        levels = 1 + len(_numbers(tensors, r"decoder\.upsamples\.(\d{1,4})\.resample\.1\.weight"))
    else:
        encoder_blocks = _before_sampler(tensors, "encoder.down_blocks")
        decoder_blocks = len(_numbers(tensors, r"decoder\.up_blocks\.0\.resnets\.(\d{1,4})\.conv1\.weight"))
        levels = len(_numbers(tensors, r"decoder\.up_blocks\.(\d{1,4})\.resnets\.0\.conv1\.weight"))
    if levels > MAX_LEVELS or max(encoder_blocks, decoder_blocks) > MAX_BLOCKS:
        raise ValueError(
            f"Expected up to {MAX_LEVELS} levels of up to {MAX_BLOCKS} blocks, but got {levels} of {encoder_blocks} in "
            f"the encoder and {decoder_blocks} in the decoder. The file is damaged, or of another architecture."
        )
    return levels, encoder_blocks, decoder_blocks


def _before_sampler(tensors: Mapping[str, Tensor], part: str) -> int:
    """Blocks before the first change of resolution, of parts that are numbered through."""
    samplers = _numbers(tensors, re.escape(part) + r"\.(\d{1,4})\.resample\.1\.weight")
    blocks = _numbers(tensors, re.escape(part) + r"\.(\d{1,4})\.(?:residual\.2|conv1)\.weight")
    return min(samplers) if samplers else len(blocks)


def _numbers(tensors: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(match[1]) for key in tensors if (match := re.fullmatch(pattern, key))}


def _one_frame(tensor: Tensor, parameter: str) -> Tensor:
    if parameter == "gamma":
        return tensor.squeeze(tuple(range(1, tensor.ndim)))
    return tensor[:, :, -1] if tensor.ndim == 5 and tensor.shape[2] else tensor


def _all_taps(tensor: Tensor, module: str, parameter: str) -> Tensor:
    """The inverse of `_one_frame`, with zeros for the other taps."""
    attention = ".attn_1." in module
    if parameter == "gamma":
        return tensor.view(-1, *[1] * (2 if attention else 3))
    if parameter != "weight" or attention or module.endswith(("sample.conv",)):
        return tensor
    taps = tensor.shape[-1]
    whole = tensor.new_zeros(*tensor.shape[:2], taps, *tensor.shape[2:])
    whole[:, :, -1] = tensor
    return whole


def _time_convolutions(config: Config) -> Iterator[tuple[str, int, int]]:
    """The sampler that each stands at, its channels in and out."""
    for level, temporal in enumerate(config.temporal):
        if temporal and config.encoder_channels is not None:
            channels = config.encoder_channels[level]
            yield f"encoder.down.{level}.downsample.conv", channels, channels
        if temporal:
            channels = config.decoder_channels[level + 1]
            yield f"decoder.up.{level + 1}.upsample.conv", channels, 2 * channels


def _take_taps(tensors: dict[str, Tensor], base: Mapping[str, Tensor]) -> None:
    """Fills in, from a file with the same tensors, what one frame does not meet."""
    different = sorted(
        {*tensors} ^ {*base} | {key for key in {*tensors} & {*base} if tensors[key].shape != base[key].shape}
    )
    if different:
        raise ValueError(
            f"Expected a base file with the model's tensors, but {len(different)} differ, the first of them "
            f"{different[0]}. Take the file that the decoder was trained from, or none."
        )
    for key, tensor in tensors.items():
        if _TIME in key:
            tensors[key] = base[key].to(tensor)
        elif tensor.ndim == 5:
            tensors[key] = torch.cat([base[key][:, :, :-1].to(tensor), tensor[:, :, -1:]], dim=2)


def _temporal(time_convolutions: list[str], modules: Mapping[str, str]) -> set[int]:
    """Levels between which and the next coarser one a video's length changes."""
    levels: set[int] = set()
    for key in time_convolutions:
        part, _, level, *_ = modules[key.split(_TIME)[0] + ".resample.1"].split(".")
        levels.add(int(level) - (part == "decoder"))
    return levels


def _config(state: Mapping[str, Tensor], temporal: set[int]) -> Config:
    channels = level_channels(state, "decoder.up")
    has_encoder = any(key.startswith("encoder.") for key in state)
    image_channels = conv_shape(state, "decoder.conv_out.weight")[0]
    seen = conv_shape(state, "encoder.conv_in.weight")[1] if has_encoder else image_channels
    if seen != image_channels:
        raise ValueError(
            f"Expected a VAE whose decoder makes the {seen} channels that its encoder sees, but it makes "
            f"{image_channels}: upscaling decoders are not supported. Choose the VAE itself."
        )
    joints = range(len(channels) - 1)
    return config_of(
        Config,
        latent_channels=conv_shape(state, "decoder.conv_in.weight")[1],
        decoder_channels=channels,
        decoder_blocks=block_counts(state, "decoder.up")[0],
        encoder_channels=level_channels(state, "encoder.down") if has_encoder else None,
        encoder_blocks=block_counts(state, "encoder.down")[0] if has_encoder else Config.encoder_blocks,
        quant_conv="quant_conv.weight" in state,
        post_quant_conv="post_quant_conv.weight" in state,
        image_channels=image_channels,
        # a file without any was made for pictures: as published ones are
        temporal=tuple(i in temporal if temporal else i > 0 for i in joints),
    )
