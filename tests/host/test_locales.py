"""Every word on a node, in every language that we have."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import PACK
from .server import Server

LANGUAGES = sorted(path.parent for path in (PACK / "locales").glob("*/nodeDefs.json"))
OTHERS = [path for path in LANGUAGES if path.name != "en"]


def strings(language: Path) -> dict[str, Any]:
    return json.loads((language / "nodeDefs.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_locales", PACK / "tools" / "build_locales.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_english_is_what_the_nodes_say(server: Server, builder: ModuleType) -> None:
    assert strings(PACK / "locales" / "en") == builder.english(server.get("/object_info"))


def test_every_node_input_and_output_explains_itself(server: Server, builder: ModuleType) -> None:
    for kind, node in builder.english(server.get("/object_info")).items():
        assert node["description"], kind
        for part in (*node["inputs"].values(), *node["outputs"].values()):
            assert part["name"], kind
            assert part.get("tooltip"), (kind, part["name"])


@pytest.mark.parametrize("language", OTHERS, ids=lambda path: path.name)
def test_nothing_is_missing_stale_or_untranslated(language: Path, builder: ModuleType) -> None:
    ours, english = strings(language), strings(PACK / "locales" / "en")
    assert builder.paths(ours) == builder.paths(english)
    for kind, node in ours.items():
        assert node["display_name"] != english[kind]["display_name"]
        assert node["description"] != english[kind]["description"]
        for side in ("inputs", "outputs"):
            for name, part in node[side].items():
                assert part["tooltip"] != english[kind][side][name]["tooltip"], (kind, name)


def test_there_is_another_language() -> None:
    assert OTHERS


def test_the_host_hands_them_out(server: Server) -> None:
    translations = server.get("/i18n")
    for language in LANGUAGES:
        assert strings(language).items() <= translations[language.name]["nodeDefs"].items()


def test_search_finds_the_nodes(server: Server) -> None:
    kinds = {kind: node for kind, node in server.get("/object_info").items() if kind.startswith("AsymVQ")}
    for term, kind in {
        "inpaint": "AsymVQDecode",
        "outpaint": "AsymVQInpaintCrop",
        "seam": "AsymVQHarmonise",
        "composite original": "AsymVQDecode",
        "preserve original pixels": "AsymVQDecode",
        "重绘": "AsymVQDecode",
        "asymmetric vae": "AsymVQLoader",
    }.items():
        assert term in kinds[kind]["search_aliases"]
    assert all(node["search_aliases"] for node in kinds.values())


def test_all_lie_in_one_folder(server: Server) -> None:
    kinds = server.get("/object_info")
    assert {node["category"] for kind, node in kinds.items() if kind.startswith("AsymVQ")} == {"Asymmetric VQGAN"}
