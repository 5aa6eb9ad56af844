"""A loss that nobody has: a copy of the library, under another name, whose table has one row more."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

NAME, DEFAULT, TEXT = "darkness", 0.25, "Weight of how dark a picture is: a toy."


def add_toy(losses: Any) -> None:
    """The row, as a loss's own file has it."""

    @dataclass(frozen=True, kw_only=True)
    class Settings:
        darkness: float = losses.setting(DEFAULT, TEXT, widget=losses.Widget(8.0, 0.5), reconstructs=True)

    def term(recipe: Any, device: object) -> Callable[..., Any]:
        def weighted(output: Any, target: Any, mask: Any) -> tuple[Any, dict[str, Any]]:
            loss = (1 - output.float()).mean()
            return recipe.darkness * loss, {NAME: loss.detach()}

        return weighted

    losses.LOSSES = (*losses.LOSSES, losses.Loss(Settings, term))


@contextmanager
def library_with_toy(package: ModuleType) -> Iterator[Callable[[str], ModuleType]]:
    """Gives modules of the copy by their names, as `training.recipe`.

    Args:
        package: the copy's, of any name; nothing below it may have been imported.
    """
    sys.modules[package.__name__] = package
    try:
        prefix = f"{package.__name__}.asymvq"
        add_toy(importlib.import_module(f"{prefix}.losses"))
        yield lambda name: importlib.import_module(f"{package.__name__}.{name}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == package.__name__]:
            del sys.modules[name]
