"""The shape of an autoencoder, as data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import Any


class MaskReduction(str, Enum):
    """How the full-resolution mask is brought to a level's resolution."""

    NEAREST = "nearest"
    """The paper: the upper left pixel under each feature."""
    ANY = "any"
    """ASUKA: 1 wherever any pixel under the feature is masked."""


@dataclass(frozen=True)
class ConditionConfig:
    """The branch that shows the kept pixels to the decoder. Its widths follow from the decoder's."""

    sees_mask: bool = False
    """Whether its first convolution also takes the mask (ASUKA) or the masked picture alone (the paper)."""
    mask_reduction: MaskReduction = MaskReduction.NEAREST


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides an autoencoder's architecture.

    Channel tuples run from the finest level (full resolution) to the coarsest (the latent's). `factor` is the ratio
    of picture size to latent size.
    """

    latent_channels: int = 4
    decoder_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_blocks: int = 3
    """Residual blocks a level."""
    encoder_channels: tuple[int, ...] | None = (128, 256, 512, 512)
    """None: a decoder without an encoder."""
    encoder_blocks: int = 2
    condition: ConditionConfig | None = ConditionConfig()
    """None: a plain decoder, as in stock VAEs."""
    quant_conv: bool = True
    post_quant_conv: bool = True
    norm_groups: int = 32
    image_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("decoder_channels", "encoder_channels"):
            channels = getattr(self, name)
            if channels is None:
                continue
            if not channels or any(c % self.norm_groups for c in channels):
                raise ValueError(
                    f"Expected {name} to be multiples of norm_groups={self.norm_groups}, but got {channels}."
                )
        if self.encoder_channels is not None and len(self.encoder_channels) != len(self.decoder_channels):
            raise ValueError(
                f"Expected as many encoder as decoder levels, but got {len(self.encoder_channels)} "
                f"and {len(self.decoder_channels)}."
            )

    @property
    def factor(self) -> int:
        return 2 ** (len(self.decoder_channels) - 1)

    @property
    def condition_channels(self) -> tuple[int, ...]:
        """Widths of the condition maps, fine to coarse: two at full resolution, then one a coarser level.

        Each equals the width of the decoder's features where the map is blended in.
        """
        return (*self.decoder_channels, self.decoder_channels[-1])

    def to_dict(self) -> dict[str, Any]:
        """As `json.dumps` takes it, and `from_dict` takes back."""
        data = dataclasses.asdict(self)
        if self.condition is not None:
            data["condition"]["mask_reduction"] = self.condition.mask_reduction.value
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AutoencoderConfig:
        """The inverse of `to_dict`.

        Raises:
            ValueError: unknown or missing fields, or values that fit no autoencoder.
        """
        data = dict(data)
        unknown = sorted(set(data) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"Expected an autoencoder config, but got unknown fields {unknown}.")
        try:
            if (condition := data.get("condition")) is not None:
                data["condition"] = ConditionConfig(
                    bool(condition["sees_mask"]), MaskReduction(condition["mask_reduction"])
                )
            for name in ("decoder_channels", "encoder_channels"):
                if data.get(name) is not None:
                    data[name] = tuple(int(c) for c in data[name])
            return cls(**data)
        except (TypeError, KeyError) as error:
            raise ValueError(f"Expected an autoencoder config, but got one that does not fit: {error}.") from error


PRESETS: dict[str, AutoencoderConfig] = {
    "base": AutoencoderConfig(),
    "1.5x": AutoencoderConfig(decoder_channels=(192, 384, 768, 768), decoder_blocks=4),
    "2x": AutoencoderConfig(decoder_channels=(256, 512, 1024, 1024), decoder_blocks=6),
}
"""The paper's decoders (arXiv 2306.04632), all on Stable Diffusion's own encoder."""


def preset_name(config: AutoencoderConfig) -> str | None:
    """The published decoder of this shape: "base", "1.5x" or "2x"; "stock" for base without a condition; else None."""
    for name, preset in PRESETS.items():
        if (config.decoder_channels, config.decoder_blocks) == (preset.decoder_channels, preset.decoder_blocks):
            return name if config.condition is not None else "stock" if name == "base" else None
    return None
