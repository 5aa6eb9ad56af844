"""Tiny autoencoders of madebyollin/taesd: TAESD, TAESDXL, TAESD3, TAEF1, TAEF2. Convolutions and ReLU, hardly a norm.

They work on pictures in [0, 1] and on latents as the sampler has them, scaled and shifted, where the VAEs that they
stand in for do not; TAEF2's is FLUX.2's, packed and normalised.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import MAX_BLOCKS, ConditionConfig, LatentSpace, Pooling
from ..config import Config as AnyConfig
from ..decoder import Decoder
from ..encoder import Encoder
from ..layers import Blocks, Ops, Residual, Stage, Upsample
from ..text import shown
from ..walk import Change, Run, Step
from ..widening import Widening
from .codec import ScaledLatent
from .hints import Hints
from .layout import Layout
from .parts import Parts
from .shapes import block_counts, config_of, conv_shape, level_channels
from .spaces import LATENT_SPACES

NAME = "tiny"
USED_BY = "TAESD, TAEF1, TAEF2"
WIDENING = Widening()
LAYOUTS = (
    Layout.TAESD, Layout.TAESD_MODULE, Layout.TAESD_ENCODER, Layout.TAESD_DECODER, Layout.TAESD_DIFFUSERS,
)  # fmt: skip
EXPORTS = {"diffusers": Layout.TAESD_DIFFUSERS, "original": Layout.TAESD}
ROOTS = ("encoder", "decoder", "taesd_encoder", "taesd_decoder")
ANCHORS = ("taesd_decoder.1.weight", "decoder.layers.0.weight", "decoder.3.conv.0.weight")
BARE_ANCHORS = ("3.conv.0.weight", "1.conv.0.weight")

SPACES: dict[str, LatentSpace] = {
    "taesd": LATENT_SPACES["sd"],
    "taesdxl": LATENT_SPACES["sdxl"],
    "taesd3": LATENT_SPACES["sd3"],
    "taef1": LATENT_SPACES["flux"],
    "taef2": LatentSpace(1.0),
}
"""By name, whose latents a tiny autoencoder is for. No shape tells TAESD from TAESDXL."""
_PACKED_CHANNELS = 32
"""Of FLUX.2's latent before it is packed two by two."""
_POOL_GROUPS = 4
_PREFIXES: dict[str, tuple[str | None, str | None]] = {
    Layout.TAESD: ("taesd_encoder.", "taesd_decoder."),
    Layout.TAESD_MODULE: ("encoder.", "decoder."),
    Layout.TAESD_ENCODER: ("", None),
    Layout.TAESD_DECODER: (None, ""),
    Layout.TAESD_DIFFUSERS: ("encoder.layers.", "decoder.layers."),
}
_BLOCK = (
    ("conv1", "conv.0"),
    ("conv2", "conv.2"),
    ("conv3", "conv.4"),
    ("nin_shortcut", "skip"),
    ("pool.0", "pool.0"),
    ("pool.1", "pool.1"),
    ("pool.3", "pool.3"),
)
_SCALE, _SHIFT = VALUES = ("vae_scale", "vae_shift")


@dataclass(frozen=True)
class Config(AnyConfig):
    """The shape of a tiny autoencoder. Tuples run from the finest level to the coarsest."""

    family = NAME

    latent_channels: int = 4
    decoder_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    encoder_channels: tuple[int, ...] | None = (64, 64, 64, 64)
    encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    condition: ConditionConfig | None = None
    image_channels: int = 3
    latents: LatentSpace | None = dataclasses.field(default=None, compare=False)
    pooled: bool = False
    """Whether the blocks of the coarsest level see the whole picture's statistics (TAEF2)."""
    latent_packing: int = 1
    latent_scale: float = 1.0
    latent_shift: float = 0.0

    attention = False
    block_convolutions = 3
    quant_conv = False
    post_quant_conv = False

    def __post_init__(self) -> None:
        self._check()
        levels = len(self.decoder_channels)
        for name in ("decoder_blocks", "encoder_blocks"):
            blocks = getattr(self, name)
            if not isinstance(blocks, tuple) or len(blocks) != levels:
                raise ValueError(f"Expected {name} of {levels} levels, but got {blocks}.")
            for count in blocks:
                self._check_count(name, count, MAX_BLOCKS)
        self._check_flag("pooled")
        LatentSpace(self.latent_scale, self.latent_shift)  # raises ValueError

    @property
    def decoder_block_counts(self) -> tuple[int, ...]:
        return self.decoder_blocks

    @property
    def encoder_block_counts(self) -> tuple[int, ...]:
        return self.encoder_blocks

    @property
    def pooling(self) -> Pooling:
        return Pooling.FEATURES if self.pooled else Pooling.NONE


PRESETS: dict[str, AnyConfig] = {"base": Config()}
"""As published."""


class TinyBlock(Residual):
    """Three convolutions; `pooled`: on top of what the whole picture's statistics say."""

    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d
    nin_shortcut: nn.Conv2d | None
    after = staticmethod(F.relu)

    def __init__(self, in_channels: int, out_channels: int, ops: Ops, *, pooled: bool = False):
        super().__init__()
        self.conv1 = ops.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv3 = ops.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.nin_shortcut = None
        if in_channels != out_channels:
            self.nin_shortcut = ops.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        self.pool, self.local = None, not pooled
        if pooled:
            width = 4 * in_channels
            self.pool = nn.Sequential(
                ops.Conv2d(in_channels, width, kernel_size=1, bias=False),
                ops.GroupNorm(num_groups=_POOL_GROUPS, num_channels=width),
                nn.ReLU(inplace=True),
                ops.Conv2d(width, in_channels, kernel_size=1, bias=False),
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        return Stage(self.conv1), Stage(self.conv2, None, F.relu), Stage(self.conv3, None, F.relu)

    @property
    def shortcut(self) -> nn.Conv2d | None:
        return self.nin_shortcut

    def forward(self, x: Tensor, changes: Sequence[Change] = ()) -> Tensor:
        return super().forward(x if self.pool is None else x + self.pool(x), changes)

    def grow_from(self, old: Residual, widening: Widening) -> None:
        super().grow_from(old, widening)
        if self.pool is not None:
            assert isinstance(old, TinyBlock)
            assert old.pool is not None
            for layer, before in zip(self.pool, old.pool, strict=True):
                if isinstance(layer, nn.GroupNorm):
                    widening.norm(layer, before)
                elif isinstance(layer, nn.Conv2d) and isinstance(before, nn.Conv2d):
                    widening.conv(layer, before)  # without a length that is kept, normed or not is one

    def start_as_identity(self) -> None:
        super().start_as_identity()
        if self.pool is not None:
            for parameter in self.pool[-1].parameters():
                parameter.zero_()


class TinyDownsample(nn.Module):
    def __init__(self, channels: int, ops: Ops):
        super().__init__()
        self.conv = ops.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class TinyEncoder(Encoder):
    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the latent, (B, C, h, w), of which there is no posterior."""
        return super().forward(image * 0.5 + 0.5)


class TinyDecoder(Decoder):
    def enter(self, latent: Tensor) -> Tensor:
        return F.relu(self.conv_in(torch.tanh(latent / 3) * 3))

    def walk(self) -> list[Step]:
        return [*super().walk(), Run(_signed)]


def _signed(image: Tensor) -> Tensor:
    """[0, 1] to [-1, 1]."""
    return (image - 0.5) * 2


def build(config: Config, ops: Ops) -> Parts:
    blocks = Blocks(
        residual=partial(TinyBlock, ops=ops),
        upsample=partial(Upsample, ops=ops, bias=False),
        downsample=partial(TinyDownsample, ops=ops),
        last_residual=partial(TinyBlock, ops=ops, pooled=config.pooled),
    )
    encoder = None
    if config.encoder_channels is not None:
        encoder = TinyEncoder(config, blocks, ops, out_channels=config.network_latent_channels)
    codec = ScaledLatent(config.latent_scale, config.latent_shift, config.latent_packing)
    return Parts(encoder, TinyDecoder(config, blocks, ops), None, None, codec)


def recognise(tensors: Mapping[str, Tensor]) -> Layout | None:
    """The layout of these names, or None."""
    if "taesd_decoder.1.weight" in tensors:
        return Layout.TAESD
    if "decoder.layers.0.weight" in tensors and "decoder.layers.2.conv.0.weight" in tensors:
        return Layout.TAESD_DIFFUSERS
    if "decoder.1.weight" in tensors and "decoder.3.conv.0.weight" in tensors:
        return Layout.TAESD_MODULE
    if "1.weight" in tensors and "3.conv.0.weight" in tensors:
        return Layout.TAESD_DECODER
    if "0.weight" in tensors and "1.conv.0.weight" in tensors:
        return Layout.TAESD_ENCODER
    return None


def whole_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """As they are: bare numbers are how either half is published."""
    return dict(tensors) if recognise(tensors) in (Layout.TAESD_DECODER, Layout.TAESD_ENCODER) else None


def together(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The two published files of one autoencoder as one, of layout "TAESD"."""
    parts = zip(_PREFIXES[Layout.TAESD], (encoder, decoder), strict=True)
    return {f"{prefix}{key}": tensor for prefix, part in parts for key, tensor in part.items()}


def read(tensors: Mapping[str, Tensor], layout: str, hints: Hints | None = None) -> tuple[Config, dict[str, Tensor]]:
    """Shape, and the tensors under the model's names. An encoder alone has the shape of one with a decoder like it.

    Raises:
        ValueError: latents of an unknown scale.
    """
    rest = dict(tensors)
    scale, shift = (_number(name, rest.pop(name)) if name in rest else None for name in VALUES)
    modules = {
        file: own
        for part, prefix in zip(("encoder", "decoder"), _PREFIXES[layout], strict=True)
        if prefix is not None
        for own, file in _rows(part, _counts(tensors, prefix, part), prefix, layout)
    }
    state: dict[str, Tensor] = {}
    for key, tensor in rest.items():
        module, _, parameter = key.rpartition(".")
        own = modules.get(module)
        name = key if own is None else f"{own}.{parameter}"
        if name in state:
            raise ValueError(f"Expected one tensor for {shown(name)}, but got several, {shown(key)} among them.")
        state[name] = tensor
    alone = layout == Layout.TAESD_ENCODER
    channels = conv_shape(state, "encoder.conv_out.weight")[0] if alone else conv_shape(state, _FIRST)[1]
    space = _space_of(hints or Hints(), channels) if scale is None else LatentSpace(scale, shift)
    return _config(state, channels, space, alone), state


_FIRST = "decoder.conv_in.weight"


def latents(config: Config, layout: Layout, hints: Hints) -> LatentSpace | None:
    """Those that it was made for: the file tells, or is not read."""
    return config.latents


def diffusers_config(config: Config) -> dict[str, Any]:
    """The config.json of the diffusers model with the same function.

    Its scale is 1: AutoencoderTiny's latents are scaled ones, as the sampler has them.

    Raises:
        ValueError: there is none.
    """
    _check_writable(config, Layout.TAESD_DIFFUSERS)
    if config.encoder_channels is None:
        raise ValueError(
            "Expected a tiny autoencoder as diffusers has them, with an encoder, but got a decoder alone. Give its VAE "
            'too, or save with layout "native".'
        )
    if len({*config.encoder_channels, *config.decoder_channels}) != 1:
        raise ValueError(
            "Expected a tiny autoencoder as diffusers has them, of one width, but got "
            f'{config.encoder_channels} and {config.decoder_channels}. Save with layout "native" instead.'
        )
    return {
        "_class_name": "AutoencoderTiny",
        "act_fn": "relu",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.network_latent_channels,
        "encoder_block_out_channels": list(config.encoder_channels),
        "decoder_block_out_channels": list(config.decoder_channels),
        "num_encoder_blocks": list(config.encoder_blocks),
        "num_decoder_blocks": list(reversed(config.decoder_blocks)),
        "upsampling_scaling_factor": 2,
        "latent_magnitude": 3,
        "latent_shift": 0.5,
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
        "force_upcast": False,
    }


def write(
    state: Mapping[str, Tensor], config: Config, layout: str, *, base: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors as a layout names them; "TAESD encoder" and "TAESD decoder" are the network's halves.

    Raises:
        ValueError: a condition, or blocks that diffusers does not have.
    """
    _check_writable(config, layout)
    names: dict[str, str] = {}
    for part, prefix in zip(("encoder", "decoder"), _PREFIXES[layout], strict=True):
        if prefix is not None:
            counts = config.encoder_blocks if part == "encoder" else config.decoder_blocks
            names |= dict(_rows(part, counts, prefix, layout))
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        module, _, parameter = key.rpartition(".")
        if module in names:
            tensors[f"{names[module]}.{parameter}"] = tensor
    metadata: dict[str, str] = {}
    if layout == Layout.TAESD:
        tensors[_SCALE], tensors[_SHIFT] = torch.tensor(config.latent_scale), torch.tensor(config.latent_shift)
        metadata["tae_latent_channels"] = str(config.latent_channels)
    return tensors, metadata


def _check_writable(config: Config, layout: str) -> None:
    if config.condition is not None:
        raise ValueError(
            f'Expected a model without a condition for layout "{layout}", but this one has one, which other loaders '
            'cannot use. Save with layout "native" instead.'
        )
    if layout == Layout.TAESD_DIFFUSERS and config.pooled:
        raise ValueError(
            "Expected a tiny autoencoder as diffusers has them, but this one (TAEF2's kind) sees the whole picture's "
            'statistics. Save with layout "original" instead.'
        )


def _rows(part: str, counts: tuple[int, ...], prefix: str, layout: str) -> Iterator[tuple[str, str]]:
    """Every module of a part: the model's own name, the file's."""
    levels = list(enumerate(counts))
    if part == "encoder":
        index = 0
        yield "encoder.conv_in", f"{prefix}{index}"
        for level, count in levels:
            for block in range(count):
                index += 1
                yield from _block(f"encoder.down.{level}.block.{block}", f"{prefix}{index}")
            index += 1
            last = level == len(counts) - 1
            yield ("encoder.conv_out" if last else f"encoder.down.{level}.downsample.conv"), f"{prefix}{index}"
        return
    index = 0 if layout == Layout.TAESD_DIFFUSERS else 1  # after the clamp, a layer where it is one
    yield "decoder.conv_in", f"{prefix}{index}"
    index += 1  # the activation
    for level, count in reversed(levels):
        for block in range(count):
            index += 1
            yield from _block(f"decoder.up.{level}.block.{block}", f"{prefix}{index}")
        index += 2 if level else 1  # the enlargement is a layer too
        yield (f"decoder.up.{level}.upsample.conv" if level else "decoder.conv_out"), f"{prefix}{index}"


def _block(own: str, file: str) -> Iterator[tuple[str, str]]:
    for a, b in _BLOCK:
        yield f"{own}.{a}", f"{file}.{b}"


def _counts(tensors: Mapping[str, Tensor], prefix: str, part: str) -> tuple[int, ...]:
    """Blocks of each level, fine to coarse: how many stand in a row."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.conv\.0\.weight")
    counts: list[int] = []
    previous = -2
    for index in sorted(int(match[1]) for key in tensors if (match := pattern.fullmatch(key))):
        if index == previous + 1:
            counts[-1] += 1
        else:
            counts.append(1)
        previous = index
    return tuple(counts if part == "encoder" else reversed(counts))


def _number(name: str, tensor: Tensor) -> float:
    if tensor.numel() != 1 or tensor.is_meta or not tensor.is_floating_point():
        raise ValueError(f"Expected one number in {name}, but got {tuple(tensor.shape)}. The file is damaged.")
    return round(float(tensor), 6)


def _space_of(hints: Hints, channels: int) -> LatentSpace:
    if channels == _PACKED_CHANNELS:
        return SPACES["taef2"]
    if hints.said is not None:
        return hints.said
    for part in reversed(hints.name.lower().split("/")):
        for word in re.findall(r"[a-z0-9]+", part):
            if word in SPACES:
                return SPACES[word]
    raise ValueError(
        "Expected to know which VAE's latents this tiny autoencoder is for, but neither the file nor its name tells "
        f"({shown(hints.name, 40) or 'no name'}, {channels} latent channels). Give it its published name: "
        f"{', '.join(f'{space}_decoder' for space in SPACES)}."
    )


def _config(state: Mapping[str, Tensor], channels: int, space: LatentSpace, encoder_alone: bool) -> Config:
    has_encoder = any(key.startswith("encoder.") for key in state)
    packing = 2 if channels == _PACKED_CHANNELS else 1
    levels = "encoder.down" if encoder_alone else "decoder.up"
    blocks, widths = block_counts(state, levels), level_channels(state, levels)
    image = conv_shape(state, "encoder.conv_in.weight")[1] if encoder_alone else conv_shape(state, _LAST)[0]
    return config_of(
        Config,
        latent_channels=channels * packing**2,
        decoder_channels=widths,
        decoder_blocks=blocks,
        encoder_channels=level_channels(state, "encoder.down") if has_encoder else None,
        encoder_blocks=block_counts(state, "encoder.down") if has_encoder else blocks,
        image_channels=image,
        pooled=any(".pool." in key for key in state),
        latent_packing=packing,
        latents=space,
        latent_scale=space.scaling_factor,
        latent_shift=space.shift_factor or 0.0,
    )


_LAST = "decoder.conv_out.weight"
