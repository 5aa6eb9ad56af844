"""The help pages in `web/docs`: a page a node in every language of `locales`, as the frontend looks for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

PACK = Path(__file__).parents[1]
PAGES = PACK / "web" / "docs"
STRINGS = {path.parent.name: json.loads(path.read_text("utf-8")) for path in (PACK / "locales").glob("*/nodeDefs.json")}
KINDS = sorted(STRINGS["en"])
WIDE = "。，、；：？！”）"
EVERY = pytest.mark.parametrize(("language", "kind"), [(name, kind) for name in sorted(STRINGS) for kind in KINDS])


def page_of(language: str, kind: str) -> Path:
    """The frontend asks for `ID/LANGUAGE.md`, and for `ID.md` where there is none."""
    return PAGES / f"{kind}.md" if language == "en" else PAGES / kind / f"{language}.md"


def pictures(text: str) -> list[str]:
    return re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)


def test_every_page_is_a_nodes() -> None:
    assert set(PAGES.rglob("*.md")) == {page_of(language, kind) for language in STRINGS for kind in KINDS}


def test_every_picture_is_shown() -> None:
    shown = {name for page in PAGES.rglob("*.md") for name in pictures(page.read_text("utf-8"))}
    assert shown == {path.name for path in PAGES.iterdir() if path.suffix in (".jpg", ".png", ".webp")}


@EVERY
def test_it_names_every_input_and_output_as_the_node_does(language: str, kind: str) -> None:
    text, node = page_of(language, kind).read_text("utf-8"), STRINGS[language][kind]
    assert text.startswith(f"# {node['display_name']}\n")
    marked = {a or b for a, b in re.findall(r"\*\*([^*\n]+)\*\*|`([^`\n]+)`", text)}
    names = {part["name"] for side in ("inputs", "outputs") for part in node[side].values()}
    assert not names - marked


@EVERY
def test_it_shows_what_the_node_does(language: str, kind: str) -> None:
    text = page_of(language, kind).read_text("utf-8")
    assert "![The node" not in text
    shown = pictures(text)
    assert shown
    assert shown == pictures(page_of("en", kind).read_text("utf-8"))
    for name in shown:  # frontends look for them in the folder of all pages, in every language
        with Image.open(PAGES / name) as picture:
            assert min(picture.size) > 100


@pytest.mark.parametrize("language", sorted(STRINGS.keys() - {"en"}))
@pytest.mark.parametrize("kind", KINDS)
def test_emphasis_and_paragraphs_of_a_translation_survive_markdown(language: str, kind: str) -> None:
    """Emphasis does not close between a wide punctuation mark and a letter, and a line's end becomes a space."""
    lines = page_of(language, kind).read_text("utf-8").split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        for content, after in re.findall(r"\*+([^*]+)\*+(.?)", line):
            assert not (content[-1] in WIDE and after.strip() and after not in WIDE), line
        if line and not line.startswith(("#", "|", "-", "!")):
            assert not following or following.startswith(("|", "-", "!")), line
