"""The architecture of an autoencoder as a dataclass: widths, depths, factors, condition, latent space."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, TypeVar

MAX_LEVELS, MAX_BLOCKS, MAX_CHANNELS, MAX_LATENT_CHANNELS, MAX_NORM_GROUPS, MAX_IMAGE_CHANNELS = (
    10, 64, 2**14, 2**10, 2**10, 2**6,
)  # fmt: skip
"""Far above any autoencoder there is, and low enough that a damaged or hostile file is refused before it costs."""

CONTEXT = 48
"""Pixels around a mask that a mask-local decode is shown at most."""


def _is_count(value: object, most: int) -> bool:
    return type(value) is int and 1 <= value <= most


def _is_number(value: object) -> bool:
    # float() of a long int overflows
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**53)


def _with_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


class MaskReduction(str, Enum):
    """How the full-resolution mask is brought to a level's resolution."""

    NEAREST = "nearest"
    """The paper: the upper left pixel under each feature."""
    ANY = "any"
    """ASUKA: 1 wherever any pixel under the feature is masked."""


class ConditionKind(str, Enum):
    """How the kept pixels' feature maps change the decoder's features."""

    BLEND = "blend"
    """They take their place where pixels are kept: the paper and ASUKA."""
    AFFINE = "affine"
    """They scale and shift them, and start by changing nothing."""


AFFINE_FLAGS = ("sees_errors", "in_blocks", "errors_fade", "fits_errors")
"""What an affine condition may do besides, as fields of `ConditionConfig`."""


@dataclass(frozen=True)
class ConditionConfig:
    """The branch that shows the kept pixels to the decoder."""

    sees_mask: bool = False
    """Blend: whether its first convolution also takes the mask (ASUKA) or the masked picture alone (the paper)."""
    mask_reduction: MaskReduction = MaskReduction.NEAREST
    """Blend only."""
    kind: ConditionKind = ConditionKind.BLEND
    channels: int | None = None
    """Affine: the width of its feature maps. A blend's widths are the decoder's."""
    sees_errors: bool = False
    """Affine: whether it is also shown what the plain decode gets wrong (`asymvq.conditions.Condition`)."""
    in_blocks: bool = False
    """Affine: whether it also scales and shifts what the residual blocks' convolutions take."""
    errors_fade: bool = False
    """Affine: whether errors on edited pixels fade with the distance from kept ones (`asymvq.detail.reach_of_kept`), so
    that the decode farther in is the plain one."""
    fits_errors: bool = False
    """Affine: whether edited pixels that kept ones do not reach are corrected by what the plain decode gets wrong on
    this picture's kept ones (`asymvq.fitted`)."""

    @classmethod
    def affine(
        cls,
        channels: int = 64,
        *,
        sees_errors: bool = True,
        in_blocks: bool = True,
        errors_fade: bool = False,
        fits_errors: bool = False,
    ) -> ConditionConfig:
        return cls(
            kind=ConditionKind.AFFINE, channels=channels,
            sees_errors=sees_errors, in_blocks=in_blocks, errors_fade=errors_fade, fits_errors=fits_errors,
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As `json.dumps` takes it, and `from_dict` takes back."""
        if self.kind is ConditionKind.AFFINE:
            more = {name: True for name in AFFINE_FLAGS if getattr(self, name)}
            return {"kind": self.kind.value, "channels": self.channels, **more}
        return {"sees_mask": self.sees_mask, "mask_reduction": self.mask_reduction.value}

    @classmethod
    def from_dict(cls, data: object) -> ConditionConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: other fields, or values of another kind.
        """
        if isinstance(data, Mapping) and data.get("kind") == ConditionKind.AFFINE.value:
            if set(data) - set(AFFINE_FLAGS) != {"kind", "channels"}:
                raise ValueError(
                    f"Expected an affine condition of kind, channels and perhaps {', '.join(AFFINE_FLAGS)}, but got "
                    f"{_cut(data)}."
                )
            return cls.affine(data["channels"], **{name: data.get(name, False) for name in AFFINE_FLAGS})
        if isinstance(data, Mapping) and data.get("coarsest") is True:
            # an early field that said what always is
            data = {name: value for name, value in data.items() if name != "coarsest"}
        if not isinstance(data, Mapping) or set(data) != {"sees_mask", "mask_reduction"}:
            raise ValueError(f"Expected a condition of sees_mask and mask_reduction, but got {_cut(data)}.")
        reduction, reductions = data["mask_reduction"], [member.value for member in MaskReduction]
        if reduction not in reductions:
            raise ValueError(f"Expected mask_reduction to be one of {reductions}, but got {_cut(reduction)}.")
        return cls(data["sees_mask"], MaskReduction(reduction))

    def __post_init__(self) -> None:
        if not isinstance(self.kind, ConditionKind):
            raise ValueError(f"Expected kind to be a ConditionKind, but got {_cut(self.kind)}.")
        if self.kind is ConditionKind.AFFINE:
            if not _is_count(self.channels, MAX_CHANNELS):
                raise ValueError(
                    f"Expected channels to be a whole number from 1 to {MAX_CHANNELS} with an affine condition, but "
                    f"got {_cut(self.channels)}."
                )
            for name in ("errors_fade", "fits_errors"):
                if getattr(self, name) is True and self.sees_errors is not True:
                    raise ValueError(f"Expected {name} with sees_errors alone, but got it without: no errors are seen.")
            if self.sees_mask is not False or self.mask_reduction is not MaskReduction.NEAREST:
                raise ValueError(
                    "Expected neither sees_mask nor mask_reduction with an affine condition, which always sees the "
                    f"mask, but got {_cut(self.sees_mask)} and {_cut(self.mask_reduction)}."
                )
        elif self.channels is not None or any(getattr(self, name) is not False for name in AFFINE_FLAGS):
            got = ", ".join(f"{name} {_cut(getattr(self, name))}" for name in ("channels", *AFFINE_FLAGS))
            raise ValueError(
                f"Expected neither channels nor {' nor '.join(AFFINE_FLAGS)} with a blend, whose widths are the "
                f"decoder's, but got {got}."
            )
        for name in ("sees_mask", *AFFINE_FLAGS):
            if type(value := getattr(self, name)) is not bool:
                raise ValueError(f"Expected {name} to be true or false, but got {_cut(value)}.")
        if not isinstance(self.mask_reduction, MaskReduction):
            raise ValueError(f"Expected mask_reduction to be a MaskReduction, but got {_cut(self.mask_reduction)}.")


@dataclass(frozen=True)
class LatentSpace:
    """What a diffusion pipeline must know of a VAE and no tensor tells: its model sees (z - shift) · scaling.

    Encoding and decoding give and take z itself, and do not use it. It goes along from file to file.
    """

    scaling_factor: float
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    """One number a latent channel, as `latents_std`: models that normalise each channel have both."""
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool | None = None
    """Whether pipelines run the VAE in float32. None: not said, as in all that follow."""
    sample_size: int | tuple[int, int] | None = None
    """Side (or height and width) of the pictures that the VAE was trained on, pixels."""

    def __post_init__(self) -> None:
        if not _is_number(self.scaling_factor) or self.scaling_factor <= 0:
            raise ValueError(f"Expected scaling_factor to be a number above 0, but got {_cut(self.scaling_factor)}.")
        if self.shift_factor is not None and not _is_number(self.shift_factor):
            raise ValueError(f"Expected shift_factor to be a number, but got {_cut(self.shift_factor)}.")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and not (
                isinstance(values, tuple) and len(values) <= MAX_LATENT_CHANNELS and all(map(_is_number, values))
            ):
                raise ValueError(f"Expected {name} to be one number a latent channel, but got {_cut(values)}.")
        if self.force_upcast is not None and type(self.force_upcast) is not bool:
            raise ValueError(f"Expected force_upcast to be true or false, but got {_cut(self.force_upcast)}.")
        sides = self.sample_size if isinstance(self.sample_size, tuple) else (self.sample_size,) * 2
        if self.sample_size is not None and not (
            len(sides) == 2 and all(type(side) is int and 0 < side <= 2**20 for side in sides)
        ):
            raise ValueError(f"Expected sample_size to be a side in pixels, but got {_cut(self.sample_size)}.")

    def to_dict(self) -> dict[str, Any]:
        """What is known, under diffusers' names, as `json.dumps` takes it."""
        values = ((name, value) for name, value in dataclasses.asdict(self).items() if value is not None)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LatentSpace:
        """The inverse of `to_dict`, also from a whole diffusers config: names that do not belong here are skipped.

        Raises:
            ValueError: no scaling_factor, or values of another kind.
        """
        if not isinstance(data, Mapping) or "scaling_factor" not in data:
            raise ValueError(f"Expected a scaling_factor, but got {_cut(data)}.")
        known: dict[str, Any] = {field.name: data.get(field.name) for field in dataclasses.fields(cls)}
        return cls(**_with_tuples(known))


class Pooling(Enum):
    """How a decoder sees the whole picture, besides by attention."""

    NONE = "none"
    NORMS = "norms"
    """GroupNorm's means and deviations: those of a part of the picture are much alike."""
    FEATURES = "features"
    """It draws from them: a part of the picture is decoded otherwise."""


ConfigT = TypeVar("ConfigT", bound="Config")


class Config(ABC):
    """What the shapes of all families answer. Each is a frozen dataclass with more fields of its own.

    Channel tuples run from the finest level (full resolution) to the coarsest (the network's latent). Latents are as
    models see them: where they are packed, `latent_channels` and `factor` differ from the network's own.
    """

    family: ClassVar[str]
    """Its name in files."""
    attention: ClassVar[bool] = True
    """Whether there is attention in the middle, over the whole picture."""
    block_convolutions: ClassVar[int] = 2
    """One after the other in a residual block, each of 3×3."""
    frames: ClassVar[bool] = False
    """Whether its models' latents have a dimension of time, (B, C, T, h, w), of which a picture is one frame."""
    float32_norms: ClassVar[bool] = False
    """Whether norms hold half-precision features in float32."""
    latent_channels: int
    image_channels: int
    decoder_channels: tuple[int, ...]
    decoder_blocks: Any
    """Residual blocks a level: one number, or one a level."""
    encoder_channels: tuple[int, ...] | None
    condition: ConditionConfig | None
    quant_conv: bool
    post_quant_conv: bool
    latent_packing: int
    """Side of the squares of the network's latent that are packed into channels; 1: not packed."""
    latents: LatentSpace | None

    @property
    @abstractmethod
    def decoder_block_counts(self) -> tuple[int, ...]:
        """Residual blocks of each level."""

    @property
    @abstractmethod
    def encoder_block_counts(self) -> tuple[int, ...]:
        """Residual blocks of each level; meaningless without an encoder."""

    @property
    def entering_channels(self) -> tuple[int, ...]:
        """Width of the features that enter each level of the decoder."""
        return (*self.decoder_channels[1:], self.decoder_channels[-1])

    @property
    def condition_channels(self) -> tuple[int, ...]:
        """Widths of the decoder's features at the condition points, fine to coarse: two at full resolution, before the
        output and where they enter the finest level, then one a coarser level. A blend's maps have them too."""
        return (self.decoder_channels[0], *self.entering_channels)

    @property
    def network_factor(self) -> int:
        """Ratio of the picture's size to that of the latent inside the network."""
        return 2 ** (len(self.decoder_channels) - 1)

    @property
    def factor(self) -> int:
        """Ratio of the picture's size to the latent's."""
        return self.network_factor * self.latent_packing

    @property
    def network_latent_channels(self) -> int:
        """Channels of the latent inside the network."""
        return self.latent_channels // self.latent_packing**2

    @property
    @abstractmethod
    def pooling(self) -> Pooling:
        """What of the decoder sees the whole picture's statistics."""

    @property
    def reach(self) -> int | None:
        """Pixels around a pixel beyond which nothing changes it in a decode, but for the middle's attention, where
        there is one. None: statistics of the whole picture do."""
        if self.pooling is not Pooling.NONE:
            return None
        before = self.network_factor * (1 + (2 * self.block_convolutions if self.attention else 0))
        # maps of the kept pixels enter behind the middle: two convolutions of 3×3, and one of 4×4 a halving
        condition = 2 * self.network_factor if self.condition is not None else 0
        counts = enumerate(self.decoder_block_counts)
        levels = sum(2**level * (1 + count * self.block_convolutions) for level, count in counts)
        # each level's own convolution is that after the upsampling into it, or the last, of which the coarsest has none
        return max(before, condition) + levels - self.network_factor + 1

    @property
    def context(self) -> int | None:
        """See `asymvq.network.Grid`: no more than there is to be seen."""
        if self.pooling is Pooling.FEATURES:
            return None
        return CONTEXT if self.reach is None else min(CONTEXT, self.reach)

    @property
    def decoder_multiple(self) -> int:
        """What each of the decoder's widths has to be a multiple of."""
        return 1

    def grown(self: ConfigT, width: float, depth: int) -> ConfigT:
        """With a decoder `width` times as wide, of `depth` more blocks a level, and a condition.

        Raises:
            ValueError: less than what there is, or widths that the network cannot have.
        """
        channels, multiple, blocks = self.decoder_channels, self.decoder_multiple, self.decoder_blocks
        wider = tuple(c * width for c in channels)
        if width < 1 or depth < 0 or any(c != round(c) or round(c) % multiple for c in wider):
            raise ValueError(
                f"Expected a width factor of 1 or more that keeps {channels} multiples of {multiple}, and no fewer "
                f"blocks, but got {width:g} and {depth}. Try 1.5 or 2."
            )
        return self.replaced(
            decoder_channels=tuple(round(c) for c in wider),
            decoder_blocks=tuple(b + depth for b in blocks) if isinstance(blocks, tuple) else blocks + depth,
            condition=self.condition or ConditionConfig(),
        )

    def replaced(self: ConfigT, **changes: Any) -> ConfigT:
        """A copy with other values; names that are no fields of this family are an error."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def _check(self) -> None:
        """What every shape keeps to; lists become tuples.

        Raises:
            ValueError: values that fit no autoencoder.
        """
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        bounds = {"latent_channels": MAX_LATENT_CHANNELS, "image_channels": MAX_IMAGE_CHANNELS, "latent_packing": 16}
        for name, most in bounds.items():
            self._check_count(name, getattr(self, name), most)
        for name in ("quant_conv", "post_quant_conv"):
            self._check_flag(name)
        if self.condition is not None and not isinstance(self.condition, ConditionConfig):
            raise ValueError(f"Expected condition to be a ConditionConfig or None, but got {_cut(self.condition)}.")
        if self.latents is not None and not isinstance(self.latents, LatentSpace):
            raise ValueError(f"Expected latents to be a LatentSpace or None, but got {_cut(self.latents)}.")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self.latents, name, None)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"Expected {self.latent_channels} numbers in {name}, but got {len(values)}.")
        if self.latent_channels % self.latent_packing**2:
            raise ValueError(
                f"Expected latent_channels to be a multiple of latent_packing² = {self.latent_packing**2}, but got "
                f"{self.latent_channels}."
            )
        for name in ("decoder_channels", "encoder_channels"):
            channels = getattr(self, name)
            if channels is None and name == "encoder_channels":
                continue
            if not isinstance(channels, tuple) or not 1 <= len(channels) <= MAX_LEVELS:
                raise ValueError(f"Expected {name} to be of 1 to {MAX_LEVELS} levels, but got {_cut(channels)}.")
            if not all(_is_count(c, MAX_CHANNELS) for c in channels):
                raise ValueError(
                    f"Expected {name} to be whole numbers from 1 to {MAX_CHANNELS}, but got {_cut(channels)}."
                )
        if self.encoder_channels is not None and len(self.encoder_channels) != len(self.decoder_channels):
            raise ValueError(
                f"Expected as many encoder as decoder levels, but got {len(self.encoder_channels)} "
                f"and {len(self.decoder_channels)}."
            )

    @staticmethod
    def _check_count(name: str, value: object, most: int) -> None:
        if not _is_count(value, most):
            raise ValueError(f"Expected {name} to be a whole number from 1 to {most}, but got {_cut(value)}.")

    def _check_flag(self, name: str) -> None:
        if type(value := getattr(self, name)) is not bool:
            raise ValueError(f"Expected {name} to be true or false, but got {_cut(value)}.")

    def to_dict(self) -> dict[str, Any]:
        """The shape, as `json.dumps` takes it, and `from_dict` takes back; without `latents`."""
        data = dataclasses.asdict(self)  # pyright: ignore[reportArgumentType]
        del data["latents"]
        if self.condition is not None:
            data["condition"] = self.condition.to_dict()
        return data

    @classmethod
    def from_dict(cls: type[ConfigT], data: Mapping[str, Any]) -> ConfigT:
        """The inverse of `to_dict`. Nothing is converted: a "4" is no 4.

        Raises:
            ValueError: unknown fields, or values that fit no autoencoder.
        """
        known = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
        fields = {field.name for field in known} - {"latents"}
        if not isinstance(data, Mapping) or (set(data) - fields):
            unknown = sorted(map(str, set(data) - fields)) if isinstance(data, Mapping) else data
            raise ValueError(f"Expected an autoencoder config, but got unknown fields {_cut(unknown)}.")
        values = _with_tuples(data)
        if values.get("condition") is not None:
            values["condition"] = ConditionConfig.from_dict(values["condition"])
        return cls(**values)


MOVED = ("AutoencoderConfig", "PRESETS", "preset_name")
"""Names of version 0.1 that stand in `asymvq.autoencoders` today."""


def __getattr__(name: str) -> Any:
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import autoencoders

    return getattr(autoencoders, name)
