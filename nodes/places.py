"""Where nodes write: names below the host's output folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..asymvq.outputs import check_below, check_name
from . import host

LONGEST_ENDING = "_00001_.safetensors"
"""What is added to a name, at most."""


@dataclass(frozen=True)
class Place:
    folder: Path
    name: str
    """Without an ending."""
    counter: int
    """The first number that no file of this name has."""
    subfolder: str
    """Of the output folder; empty for the folder itself."""


def place_below_output(prefix: str) -> Place:
    """The host's place for a name such as "vae/mine", with its variables (%year%) filled in.

    Raises:
        ValueError: it leaves the output folder, or no file can have the name.
    """
    check_below(prefix)
    folder, name, counter, subfolder, _ = host.get_save_image_path(prefix, host.get_output_directory())
    check_name(name + LONGEST_ENDING)
    return Place(Path(folder), name, counter, subfolder)
