"""Which files make a model (one, one of a folder's, several shards), and what the config.json beside them says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CheckpointError, shown
from .source import read_json

DIFFUSERS_STEM = "diffusion_pytorch_model"
MAX_SHARDS = 64

_FILE = re.compile(rf"{DIFFUSERS_STEM}(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin)")
_INDEX = re.compile(r".*\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[\w.]+)")
_WEIGHTS = (".safetensors", ".sft", ".bin", ".ckpt", ".pt", ".pth")
_VARIANTS = ("", "fp16", "bf16")
"""Which is read where a folder has several: full precision, then halves, then others by name, `non_ema` last."""


@dataclass(frozen=True)
class Place:
    """The files of one model."""

    files: tuple[Path, ...]
    config: Path | None = None
    """The config.json that belongs to them."""
    index: Mapping[str, Any] | None = None
    """File names by tensors, where an index says so."""


def find(path: Path) -> Place:
    """The files to read for `path`: itself, those that it is the index or a shard of, or a diffusers folder's.

    Raises:
        CheckpointError: there are none, or some are missing.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise CheckpointError("Expected a file or a folder, but there is none. Check the path.")
    if _INDEX.fullmatch(path.name):
        return _indexed(path)
    if match := _SHARD.fullmatch(path.name):
        return _all_shards(path, match)
    return Place((path,), _config_of(path) if path.name.startswith(DIFFUSERS_STEM) else None)


def _in_folder(folder: Path) -> Place:
    names = sorted(entry.name for entry in folder.iterdir())
    found = [(name, match) for name in names if (match := _FILE.fullmatch(name) or _INDEX.fullmatch(name))]
    if found:
        name, match = min(found, key=lambda pair: _rank(*pair))
        return find(folder / name)
    shards = [name for name in names if _SHARD.fullmatch(name) and name.endswith(_WEIGHTS)]
    others = [name for name in names if name.endswith(_WEIGHTS) and name not in shards]
    if (len(others) == 1 and not shards) or (shards and not others):
        place = find(folder / [*others, *shards][0])
        return Place(place.files, _config_of(place.files[0]), place.index)
    if (folder / "vae").is_dir():  # a whole pipeline's
        return _in_folder(folder / "vae")
    got = f"{len(others)} others" if others else "none"
    raise CheckpointError(
        f"Expected a folder with {DIFFUSERS_STEM}.safetensors (or .bin, a variant of it, or its shards), but got "
        f"{got}. Choose the folder of the VAE itself (often vae/), or a file."
    )


def _rank(name: str, match: re.Match[str]) -> tuple[bool, bool, int, str, bool]:
    variant = match["variant"] or ""
    order = _VARIANTS.index(variant) if variant in _VARIANTS else len(_VARIANTS)
    return match["kind"] == "bin", variant == "non_ema", order, variant, name.endswith(".json")


def _config_of(file: Path) -> Path | None:
    config = file.with_name("config.json")
    return config if config.is_file() else None


def _indexed(path: Path) -> Place:
    try:
        index = read_json(path).get("weight_map")
    except ValueError as error:
        raise CheckpointError(
            f"Expected the index of a sharded model, but it cannot be read: {shown(error, 120)}. Download it again."
        ) from error
    if not isinstance(index, dict) or not index:
        raise CheckpointError("Expected the index of a sharded model, but it has no weight_map. Download it again.")
    names = sorted({str(name) for name in index.values()})
    if len(names) > MAX_SHARDS:
        raise CheckpointError(f"Expected up to {MAX_SHARDS} shards, but this index names {len(names)}.")
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name) or name in (".", ".."):
            raise CheckpointError(
                f"Expected an index of a sharded model that names files beside it, but got {shown(name)}: outside its "
                "folder. Nothing was read; download it again."
            )
        if not path.with_name(name).is_file():
            raise CheckpointError(
                f"Expected the files that this index of a sharded model names beside it ({len(names)}), but "
                f"{shown(name)} is missing. The index holds no weights itself; download them, too."
            )
    return Place(tuple(path.with_name(name) for name in names), _config_of(path), index)


def _all_shards(path: Path, match: re.Match[str]) -> Place:
    count = int(match["count"])
    if not 1 <= count <= MAX_SHARDS:
        raise CheckpointError(f"Expected one of up to {MAX_SHARDS} shards, but its name says of {count}.")
    names = [f"{match['stem']}-{number:05}-of-{match['count']}{match['suffix']}" for number in range(1, count + 1)]
    missing = [name for name in names if not path.with_name(name).is_file()]
    if missing:
        raise CheckpointError(
            f"Expected all {count} parts of the model, but this is one part of several, and {len(missing)} are not "
            f"beside it ({shown(missing[0])}). Put them into one folder."
        )
    return Place(tuple(path.with_name(name) for name in names), _config_of(path))


def read_config(config: Path | None) -> dict[str, Any]:
    """What a config.json says; nothing where there is none. No value of it is checked here.

    Raises:
        CheckpointError: no JSON.
        OSError: it cannot be read.
    """
    if config is None:
        return {}
    try:
        return read_json(config)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"Expected a diffusers config in {config.name} beside it, but got: {shown(error, 200).rstrip('.')}. "
            "Download it again, or remove it."
        ) from error
