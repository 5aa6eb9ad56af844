"""Writes the tables of the losses' settings into docs/training.md and the training node's help pages.

    python tools/build_loss_tables.py

They come from `asymvq.losses.LOSSES`, in other languages with the words of `locales`. The table below the heading
"Losses" is replaced.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from asymvq.losses import LOSSES, Setting, settings_of
from asymvq.training.recipe import RECIPES

PACK = Path(__file__).parents[1]
HELP = PACK / "web" / "docs"
NODE = "AsymVQTrain"
PAGES = [PACK / "docs" / "training.md", HELP / f"{NODE}.md", *sorted((HELP / NODE).glob("*.md"))]
HEADINGS = ("Losses", "损失")
HEADS = {"zh": "设置"}
"""Of the first column, by language."""
TABLE = re.compile(rf"(\n## (?:{'|'.join(HEADINGS)})\n(?:[^|#\n].*\n|\n)+)(?:\|.*\n)+")


def page(path: Path) -> str:
    """Its text with today's table."""
    node, language = HELP in path.parents, path.stem if path.parent.name == NODE else "en"
    settings = (setting for setting in settings_of(LOSSES) if setting.widget is not None or not node)
    names = [f"`{name}`" for name in RECIPES]
    rows = [[HEADS.get(language, "setting"), "", *names], ["---"] * (2 + len(names))]
    for setting in settings:
        values = [f"{getattr(recipe, setting.name):g}" for recipe in RECIPES.values()]
        rows.append([*_words(setting, language), *values])
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    text, count = TABLE.subn(lambda match: match[1] + table, path.read_text("utf-8"))
    assert count == 1, path
    return text


def _words(setting: Setting, language: str) -> tuple[str, str]:
    """Its name as the page shows it, and the sentence about it."""
    if language == "en":
        return f"`{setting.name}`", setting.text
    inputs = json.loads((PACK / "locales" / language / "nodeDefs.json").read_text("utf-8"))[NODE]["inputs"]
    words = inputs.get(f"recipe_{setting.name}") or inputs[setting.name]
    return f"**{words['name']}**", words["tooltip"]


def main() -> None:
    for path in PAGES:
        path.write_text(page(path), "utf-8")
        print(f"Wrote {path}")


if __name__ == "__main__":
    main()
