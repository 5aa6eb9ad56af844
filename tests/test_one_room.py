"""Families are known in `asymvq.autoencoders` alone: nowhere else does a line of code name one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from asymvq.autoencoders import FAMILIES, LATENT_SPACES, Layout, tiny

PACK = Path(__file__).parents[1]
ROOM = PACK / "asymvq" / "autoencoders"
MODULES = [p for folder in ("asymvq", "nodes") for p in (PACK / folder).rglob("*.py") if ROOM not in p.parents]
NAMES = {
    *(family.NAME for family in FAMILIES),
    *(layout.value for family in FAMILIES for layout in family.LAYOUTS),
    *(family.Config.__name__ for family in FAMILIES if family.Config.__name__ != "Config"),
    *LATENT_SPACES,
    *tiny.SPACES,
    *("flux1", "flux2", "flux.1", "flux.2", "qwen", "qwen-image", "sd15", "sd1.5", "wan2.1"),
} - {Layout.NATIVE, "diffusers", "paper", "kl"}
"""Besides "paper" and "kl": a recipe and a loss are called so too."""
SHARED = {"__init__", "hints", "layout", "codec", "parts", "shapes", "spaces"}
FILES = {path.stem for path in ROOM.glob("*.py")} - SHARED
PROSE = 3
"""Words. What is longer is a sentence for people."""


def named(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that name a family: by a module, a class, a layout, or a literal that is no sentence."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
    searched = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "search_aliases"]
    texts |= {id(node) for words in searched for node in ast.walk(words)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and "autoencoders" in f"{node.module}":
            parts = [f"{node.module}".rpartition(".")[2], *(alias.name for alias in node.names)]
            found = ["AutoencoderConfig" if name in FILES else name for name in parts]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Layout":
            found = [str(getattr(Layout, node.attr, ""))]
        elif isinstance(node, ast.Name):
            found = [node.id] if node.id == "AutoencoderConfig" else []
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            found = [] if len(node.value.split()) >= PROSE else [node.value, *re.split(r"[\s,/|]+", node.value)]
        else:
            found = []
        for name in found:
            if name.lower() in {known.lower() for known in NAMES}:
                yield getattr(node, "lineno", 0), name


PUBLIC = {PACK / "asymvq" / name for name in ("__init__.py", "config.py")}
"""What Python users import, `AutoencoderConfig` among it: from `config` since before it had a room of its own."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACK)))
def test_no_code_outside_names_a_family(path):
    found = [(line, name) for line, name in named(ast.parse(path.read_text("utf-8")))]
    allowed = {"AutoencoderConfig"} if path in PUBLIC else set()
    assert [(line, name) for line, name in found if name not in allowed] == []


@pytest.mark.parametrize(
    "code",
    [
        "from asymvq.autoencoders import wan",
        "from .autoencoders.kl import build",
        "isinstance(config, AutoencoderConfig)",
        "if config.family == 'tiny': pass",
        "Layout.TAESD",
        "x = {'sdxl': 1}",
        "y = 'flux'",
    ],
)
def test_the_check_finds_them(code):
    assert list(named(ast.parse(code)))


def test_the_check_leaves_words_alone():
    code = '"""Of Wan."""\nx = "Choose the VAE that Wan was trained with."\nLayout.NATIVE\nkl = torch.finfo(t).tiny'
    assert not list(named(ast.parse(code)))
