"""Whether a training run on disk can go on with the settings that are asked for, and which of them differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .recipe import UNKNOWN_TO_OLD_RUNS, Recipe
from .state import State, read_settings

SUMMARY_KEY = "asymvq.training"
"""Of the header of a trained VAE: JSON with the recipe, the step that it holds, and the name of its run."""
FIXED = ("precision", "copying", "start")
"""Settings of a recipe that a run keeps to its end."""
EXECUTION = ("channels_last", "recompute", "compile")
"""Settings that change how steps are computed, not which."""
_WORDS = {"pictures": "number of pictures", "digest": "pictures", "decoder": "VAE", "processes": "processes"}


def known_to_run(recipe: Recipe, folder: Path) -> Recipe:
    """As a run of an earlier version was made."""
    settings = read_settings(folder)
    if settings is None:
        return recipe
    return dataclasses.replace(recipe, **{k: v for k, v in UNKNOWN_TO_OLD_RUNS.items() if k not in settings["recipe"]})


def check_same_run(state: State, settings: Mapping[str, Any], folder: Path) -> None:
    """
    Raises:
        ValueError: the run in `folder` cannot go on with these settings, whatever its step.
    """
    old = state.settings
    if _network(old["config"]) != _network(settings["config"]):
        raise ValueError(
            f"Expected a run of the same network, but {folder} holds one of {old['config']}, and {settings['config']} "
            "is asked for. Use the same preset and VAE, or another name."
        )
    if old["encoder"] != settings["encoder"]:
        raise ValueError(
            f"Expected the VAE that the run in {folder} was started with, but got one with another encoder. Use that "
            "VAE, or another name."
        )
    for name in FIXED:
        before, now = old["recipe"].get(name, settings["recipe"][name]), settings["recipe"][name]
        if before != now:
            raise ValueError(
                f"Expected {name} {before}, as the run in {folder} was started with, but got {now}. Use that, or "
                "another name for a new run."
            )


def _network(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what pipelines do to the latents, which earlier versions did not know."""
    return {name: value for name, value in config.items() if name != "latents"}


def differences(state: State, settings: Mapping[str, Any]) -> list[str]:
    """What a run's next steps would be made with that its last ones were not, in words."""
    old, new = state.settings, settings
    found = [
        f"{name} {old['recipe'][name]} → {value}"
        for name, value in new["recipe"].items()
        if name in old["recipe"] and old["recipe"][name] != value and name not in EXECUTION
    ]
    for name in ("seed", "pictures", "processes"):
        if name in old and old[name] != new[name]:
            found.append(f"{_WORDS.get(name, name)} {old[name]} → {new[name]}")
    for name in ("digest", "decoder"):
        if name in old and old[name] != new[name] and not (name == "digest" and old["pictures"] != new["pictures"]):
            found.append(f"other {_WORDS[name]}" if name == "digest" else f"another {_WORDS[name]} to start from")
    return found


def read_summary(out: Path) -> dict[str, Any] | None:
    """What the header of a trained VAE says of its run; None where there is no such file, or not a whole one."""
    try:
        with safe_open(out, framework="pt") as file:
            summary = json.loads((file.metadata() or {})[SUMMARY_KEY])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None
