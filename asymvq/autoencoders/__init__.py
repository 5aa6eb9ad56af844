"""Families of autoencoders: one file each, with how its files are recognised and named, its shape as data, its network.

Inside, all families share one set of names, the LDM's (`decoder.up.3.block.0.conv1.weight`, finest level 0), one
encoder and one decoder; they differ in blocks, widths and codec. A new family is a module with the surface of `Family`,
a row in `FAMILIES`, and its layouts' names in `layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor

from ..config import Config, LatentSpace
from ..layers import Ops
from ..widening import Widening
from . import kl, tiny, wan
from .hints import Hints
from .kl import PRESETS, AutoencoderConfig
from .layout import Layout
from .parts import Parts
from .shapes import preset_of
from .spaces import LATENT_CHANNELS, LATENT_SPACES

__all__ = [
    "FAMILIES",
    "LATENT_CHANNELS",
    "LATENT_SPACES",
    "PRESETS",
    "AutoencoderConfig",
    "Family",
    "Hints",
    "Layout",
    "build",
    "config_from_dict",
    "config_to_dict",
    "family_of",
    "preset_name",
    "recognise",
]


class Family(Protocol):
    """What a family's module answers, as functions and constants."""

    @property
    def NAME(self) -> str:
        """In files and in messages; `Config.family` of its configs."""
        ...

    @property
    def USED_BY(self) -> str:
        """The best-known models that have it, for messages."""
        ...

    @property
    def WIDENING(self) -> Widening:
        """How its layers are widened; its parts say the rest (`grow_from`)."""
        ...

    @property
    def Config(self) -> type[Config]:
        """Its shape: a frozen dataclass."""
        ...

    @property
    def PRESETS(self) -> Mapping[str, Config]:
        """Published decoders by their names: "base" is the stock one's size."""
        ...

    @property
    def LAYOUTS(self) -> tuple[Layout, ...]:
        """Its ways to name tensors, in files that other programs write."""
        ...

    @property
    def EXPORTS(self) -> Mapping[str, Layout]:
        """Which of them `asymvq.save` writes, by what it calls them: "diffusers", "original"."""
        ...

    @property
    def ROOTS(self) -> tuple[str, ...]:
        """First parts of its names. Where there are such beside a copy, something was torn off it."""
        ...

    @property
    def ANCHORS(self) -> tuple[str, ...]:
        """Each of its whole files has a tensor of one of these names; what stands before it is a wrapper's prefix."""
        ...

    @property
    def BARE_ANCHORS(self) -> tuple[str, ...]:
        """The same for files of one half whose names lack their root."""
        ...

    @property
    def VALUES(self) -> tuple[str, ...]:
        """Names of tensors whose values, single numbers, belong to the shape."""
        ...

    def build(self, config: Any, ops: Ops) -> Parts:
        """Its network, with fresh weights."""
        ...

    def recognise(self, tensors: Mapping[str, Tensor]) -> Layout | None:
        """Which of the layouts these tensors have, judged by a few names; None: they are another family's."""
        ...

    def whole_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """One half's tensors with a bare anchor, as `recognise` and `read` take them; None: they are no such half."""
        ...

    def read(
        self, tensors: Mapping[str, Tensor], layout: str, hints: Hints | None = None
    ) -> tuple[Config, dict[str, Tensor]]:
        """Shape, read off the tensors', and the tensors under the model's names. What has no name there keeps its own,
        for the caller to refuse.

        Args:
            tensors: may be on the meta device, but for those of `VALUES`; what comes back are views of them.

        Raises:
            ValueError: a member of the family that is not supported, or that cannot be told from another.
        """
        ...

    def latents(self, config: Any, layout: Layout, hints: Hints) -> LatentSpace | None:
        """How pipelines scale the latents of what was read, where anything tells; None: nothing is guessed.

        Raises:
            ValueError: what stands beside the file fits no latents.
        """
        ...

    def write(
        self, state: Mapping[str, Tensor], config: Any, layout: str, *, base: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The tensors under a layout's names, and metadata that says what is to be known about them.

        Args:
            base: a file of that layout, for what the model does not have.

        Raises:
            ValueError: the layout has no such model, or the base does not fit.
        """
        ...

    def diffusers_config(self, config: Any) -> dict[str, Any]:
        """The config.json of the diffusers model with the same function.

        Raises:
            ValueError: there is none.
        """
        ...


FAMILIES: tuple[Family, ...] = (wan, tiny, kl)
"""In the order in which they are asked whether a file is theirs: the one with the most common names last."""


def family_of(config: Config) -> Family:
    return _family(config.family)


def recognise(tensors: Mapping[str, Tensor]) -> tuple[Family, Layout] | None:
    """Whose tensors these are, and in which layout; None: nobody's."""
    for family in FAMILIES:
        if (layout := family.recognise(tensors)) is not None:
            return family, layout
    return None


def preset_name(config: Config) -> str | None:
    """The published decoder of this shape: "base", "1.5x" or "2x"; "stock" for base without a condition; else None."""
    return preset_of(config, family_of(config).PRESETS)


def build(config: Config, ops: Ops) -> Parts:
    """The network of a shape, with fresh weights."""
    return family_of(config).build(config, ops)


def config_to_dict(config: Config) -> dict[str, Any]:
    """As `json.dumps` takes it, and `config_from_dict` takes back."""
    data = config.to_dict()
    return data if config.family == kl.NAME else {"family": config.family, **data}


def config_from_dict(data: Mapping[str, Any]) -> Config:
    """The inverse of `config_to_dict`. What names no family is from before there were several.

    Raises:
        ValueError: an unknown family, or values that fit no autoencoder of it.
    """
    values = dict(data)
    return cast(Config, _family(values.pop("family", kl.NAME)).Config.from_dict(values))


def _family(name: object) -> Family:
    for family in FAMILIES:
        if name == family.NAME:
            return family
    names = ", ".join(family.NAME for family in FAMILIES)
    raise ValueError(f"Expected an autoencoder of a known family ({names}), but got {name!r}. Update this pack.")
