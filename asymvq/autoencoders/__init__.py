"""Families of autoencoders: one file each, with how its files are recognised and named, its shape as data, its network.

Inside, all families share one set of names, the LDM's (`decoder.up.3.block.0.conv1.weight`, finest level 0), one
encoder and one decoder; they differ in blocks, widths and codec. A new family is a module with this surface, and a row
in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

from torch import Tensor

from ..config import Config
from ..layers import Ops
from ..widening import Widening
from . import kl, tiny, wan
from .parts import Parts


class Family(Protocol):
    """What a family's module answers, as functions and constants."""

    @property
    def NAME(self) -> str:
        """In files and in messages; `Config.family` of its configs."""
        ...

    @property
    def WIDENING(self) -> Widening:
        """How its layers are widened; its parts say the rest (`grow_from`)."""
        ...

    @property
    def Config(self) -> type[Config]:
        """Its shape: a frozen dataclass."""
        ...

    def build(self, config: Any, ops: Ops) -> Parts:
        """Its network, with fresh weights."""
        ...


class ForeignFiles(Protocol):
    """What the module of a family answers besides, whose files other programs write."""

    @property
    def LAYOUTS(self) -> tuple[str, ...]:
        """Its ways to name tensors."""
        ...

    def recognise(self, tensors: Mapping[str, Tensor]) -> str | None:
        """Which of the layouts these tensors have, judged by a few names; None: they are another family's."""
        ...

    def read(self, tensors: Mapping[str, Tensor], layout: str, *, name: str = "") -> tuple[Config, dict[str, Tensor]]:
        """Shape, read off the tensors', and the tensors under the model's names. What has no name there keeps its own,
        for the caller to refuse.

        Args:
            name: the file's, for what no tensor tells.

        Raises:
            ValueError: a member of the family that is not supported, or that cannot be told from another.
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


FAMILIES: tuple[Family, ...] = (kl, wan, tiny)
FOREIGN_FILES: tuple[ForeignFiles, ...] = (wan, tiny)


def family_of(config: Config) -> Family:
    return _family(config.family)


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
