"""Facts about an autoencoder that no tensor tells: from metadata, config files, names of files and of other tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import LatentSpace

LATENTS_KEY = "asymvq.latents"
"""In the metadata: how pipelines scale the latents."""


@dataclass(frozen=True)
class Hints:
    name: str = ""
    """The file's, without its ending, after those of the folders that it lies in: "taesdxl/vae/model"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of diffusers, in the config.json beside it."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Of the safetensors header."""
    others: Sequence[str] = ()
    """Names of the file's tensors that are not the autoencoder's: what else a whole checkpoint holds."""

    @property
    def said(self) -> LatentSpace | None:
        """The latents that our own files name in their metadata.

        Raises:
            ValueError: they cannot be read.
        """
        if LATENTS_KEY not in self.metadata:
            return None
        try:
            return LatentSpace.from_dict(json.loads(self.metadata[LATENTS_KEY]))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{error} It stands in the metadata as {LATENTS_KEY}; save the file again.") from error

    def configured_latents(self) -> LatentSpace | None:
        """Those of the config.json, where it names a scaling factor.

        Raises:
            ValueError: values that no latents have.
        """
        return None if self.config.get("scaling_factor") is None else LatentSpace.from_dict(self.config)
