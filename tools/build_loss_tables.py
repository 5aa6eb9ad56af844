"""Writes the tables of the losses' settings into docs/training.md and the training node's help page.

    python tools/build_loss_tables.py

They come from `asymvq.losses.LOSSES`. A table takes the place of the one below the heading "Losses".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from asymvq.losses import LOSSES, Setting, settings_of
from asymvq.training.recipe import RECIPES

PACK = Path(__file__).parents[1]
PAGES = {PACK / "docs" / "training.md": False, PACK / "web" / "docs" / "AsymVQTrain.md": True}
"""And whether a page is the node's, which shows settings with a widget only."""
TABLE = re.compile(r"(\n## Losses\n(?:[^|#\n].*\n|\n)+)(?:\|.*\n)+")


def table(settings: Iterable[Setting]) -> str:
    """In Markdown, with the value that each recipe has."""
    names = [f"`{name}`" for name in RECIPES]
    rows = [["setting", "", *names], ["---"] * (2 + len(names))]
    rows += [[f"`{s.name}`", s.text, *(f"{getattr(r, s.name):g}" for r in RECIPES.values())] for s in settings]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page(text: str, *, node: bool) -> str:
    """Its text with today's table."""
    settings = (setting for setting in settings_of(LOSSES) if setting.widget is not None or not node)
    text, count = TABLE.subn(lambda match: match[1] + table(settings), text)
    assert count == 1
    return text


def main() -> None:
    for path, node in PAGES.items():
        path.write_text(page(path.read_text("utf-8"), node=node), "utf-8")
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
