"""The graphs in `workflows/`, looked at without a host."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import build_subgraphs
import build_workflows
import pytest
from PIL import Image

WORKFLOWS = sorted((Path(__file__).parents[1] / "workflows").glob("*.json"))
BLUEPRINTS = sorted((Path(__file__).parents[1] / "subgraphs").glob("*.json"))
TITLE = 30  # what the host draws above a node's position
MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")
LOADERS = {
    "AsymVQLoader", "AsymVQPaintByExampleLoader", "CheckpointLoaderSimple", "CLIPLoader", "DualCLIPLoader",
    "LoraLoaderModelOnly", "UNETLoader", "VAELoader",
}  # fmt: skip


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def graph(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def test_all_are_here() -> None:
    assert [path.stem for path in WORKFLOWS] == [
        "01_quickstart", "edit_flux2_klein", "edit_qwen", "inpainting", "inpainting_flux_fill", "inpainting_sdxl",
        "inpainting_z_image", "large_photo", "outpainting", "paint_by_example", "text_to_image",
        "train_decoder", "video_inpaint",
    ]  # fmt: skip


def test_they_are_what_the_builder_writes(path: Path, graph: dict[str, Any]) -> None:
    assert build_workflows.graph(path.stem, build_workflows.GRAPHS[path.stem]) == graph


def test_links_and_slots_agree(graph: dict[str, Any]) -> None:
    assert graph["version"] == 0.4
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"])
    assert max(nodes) == graph["last_node_id"]
    assert max(link[0] for link in graph["links"]) == graph["last_link_id"]
    for number, origin, origin_slot, target, target_slot, kind in graph["links"]:
        output = nodes[origin]["outputs"][origin_slot]
        target_input = nodes[target]["inputs"][target_slot]
        assert number in output["links"]
        assert target_input["link"] == number
        assert output["type"] == target_input["type"] == kind
    from_outputs = [link for node in nodes.values() for output in node["outputs"] for link in output["links"]]
    sockets = [socket for node in nodes.values() for socket in node["inputs"]]
    into_inputs = [socket["link"] for socket in sockets if socket["link"] is not None]
    assert sorted(from_outputs) == sorted(into_inputs) == sorted(link[0] for link in graph["links"])


def test_every_node_says_who_provides_it(graph: dict[str, Any]) -> None:
    for node in graph["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        assert node["properties"]["Node name for S&R"] == node["type"]
        provider = "asymvq" if node["type"].startswith("AsymVQ") else "comfy-core"
        assert node["properties"]["cnr_id"] == provider
        assert node["properties"]["ver"]


def test_every_file_can_be_downloaded(graph: dict[str, Any]) -> None:
    for node in graph["nodes"]:
        files = [v for v in node["widgets_values"] if str(v).endswith(MODEL_SUFFIXES)]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == files
        assert files or node["type"] not in LOADERS or "demo (bundled)" in node["widgets_values"]
        for model in models:
            assert model["url"].startswith("https://huggingface.co/")
            assert "/resolve/" in model["url"]
            assert model["url"].endswith("/" + model["name"])
            assert model["directory"] in ("checkpoints", "diffusion_models", "loras", "text_encoders", "vae")


def test_nothing_lies_on_anything(graph: dict[str, Any]) -> None:
    boxes = [(*node["pos"], *node["size"]) for node in graph["nodes"]]
    boxes = [(x, y - TITLE, x + width, y + height) for x, y, width, height in boxes]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)
    groups = [group["bounding"] for group in graph["groups"]]
    groups = [(x, y, x + width, y + height) for x, y, width, height in groups]
    for box in boxes:
        around = [g for g in groups if g[0] <= box[0] and g[1] <= box[1] and box[2] <= g[2] and box[3] <= g[3]]
        assert len(around) == 1, box


def test_it_explains_itself(graph: dict[str, Any]) -> None:
    notes = [node["widgets_values"][0] for node in graph["nodes"] if node["type"] == "MarkdownNote"]
    assert notes
    assert notes[0].startswith("## ")
    assert (
        graph["extra"]["asymvq_view"]["scale"] >= 0.9
    )  # notes' letters are 10 pixels high; much smaller, they are blank boxes
    for note in notes:
        assert 20 < len(note) < 700
        assert "`" not in note  # code is unreadable on a coloured note in Nodes 2.0


def test_it_has_a_thumbnail(path: Path) -> None:
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (400, 400)
    assert path.with_suffix(".jpg").stat().st_size < 100_000


@pytest.fixture(params=BLUEPRINTS, ids=lambda path: path.stem)
def blueprint(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return request.param.stem, json.loads(request.param.read_text("utf-8"))


def test_blueprints_are_what_the_builder_writes(blueprint: tuple[str, dict[str, Any]]) -> None:
    name, saved = blueprint
    assert build_subgraphs.BLUEPRINTS.keys() == {path.stem for path in BLUEPRINTS}
    assert build_subgraphs.built(name) == saved


def test_wires_and_ends_of_a_blueprint_agree(blueprint: tuple[str, dict[str, Any]]) -> None:
    name, saved = blueprint
    (outer,), (inner,) = saved["nodes"], saved["definitions"]["subgraphs"]
    assert outer["type"] == inner["id"]
    assert outer["title"] == inner["name"] == name
    assert inner["description"]
    assert saved["extra"]["BlueprintSearchAliases"]
    links = {link["id"]: link for link in inner["links"]}
    assert len(links) == len(inner["links"]) == inner["state"]["lastLinkId"]
    nodes = {node["id"]: node for node in inner["nodes"]}
    starts, ends = inner["inputNode"]["id"], inner["outputNode"]["id"]
    for link in links.values():
        start = inner["inputs"] if link["origin_id"] == starts else nodes[link["origin_id"]]["outputs"]
        end = inner["outputs"] if link["target_id"] == ends else nodes[link["target_id"]]["inputs"]
        assert start[link["origin_slot"]]["type"] == end[link["target_slot"]]["type"] == link["type"]
    for side in ("inputs", "outputs"):
        names = [slot["name"] for slot in inner[side]]
        assert names == [slot["name"] for slot in outer[side]]
        for slot in inner[side]:
            assert slot["linkIds"]
            assert all(links[number]["type"] == slot["type"] for number in slot["linkIds"])
    for node in nodes.values():  # nothing that needs a wire is without
        assert all(slot["link"] for slot in node["inputs"] if "widget" not in slot)
    assert outer["id"] not in nodes
    assert {number for number, _ in outer["properties"]["proxyWidgets"]} <= {str(number) for number in nodes}
