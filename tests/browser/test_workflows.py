"""The workflows as an artist meets them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from host.conftest import PACK
from host.graphs import prompt_of
from PIL import Image

from .conftest import BOTH, FOLDER, VUE, WORKFLOWS, Frontend, models_of

EVERY = pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
NEEDS_FILES = pytest.mark.parametrize("workflow", [w for w in WORKFLOWS if models_of(w)], ids=lambda path: path.stem)

UNLIKE = itertools.count()
"""Numbers that differ, so that a node has to run again."""

GRAPH = """() => ({
    nodes: app.rootGraph.nodes.map(node => ({
        id: node.id, type: node.type, title: node.title, red: !!node.has_errors,
        known: node.type in LiteGraph.registered_node_types,
        box: Array.from(node.boundingRect),
    })),
    links: [...app.rootGraph.links.values()].map(link => {
        const from = app.rootGraph.getNodeById(link.origin_id), to = app.rootGraph.getNodeById(link.target_id)
        return {
            sound: from?.outputs[link.origin_slot]?.links?.includes(link.id) === true
                && to?.inputs[link.target_slot]?.link === link.id
        }
    }),
})"""

EXAMPLES_ARE_SHOWN = """() => app.rootGraph.nodes.filter(node => node.type === "LoadImage")
    .every(node => node.imgs?.[0]?.naturalWidth === 640)"""


def overlap(a: list[float], b: list[float]) -> bool:
    """Of (x, y, width, height)."""
    return a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@EVERY
@BOTH
@pytest.mark.usefixtures("models_at_hand")
def test_it_opens_whole_and_converts(frontend: Frontend, canvas: str, workflow: Path) -> None:
    saved = json.loads(workflow.read_text("utf-8"))
    frontend.open(workflow.stem)
    assert frontend.page.evaluate("!!LiteGraph.vueNodesMode") == (canvas == VUE)
    graph = frontend.page.evaluate(GRAPH)

    assert not [node["type"] for node in graph["nodes"] if not node["known"]]
    assert not [node["title"] for node in graph["nodes"] if node["red"]]
    assert len(graph["links"]) == len(saved["links"])
    assert all(link["sound"] for link in graph["links"])
    assert all(node["title"] for node in graph["nodes"])
    assert not [
        (a["title"], b["title"]) for a, b in itertools.combinations(graph["nodes"], 2) if overlap(a["box"], b["box"])
    ]
    frontend.page.wait_for_function(EXAMPLES_ARE_SHOWN)
    view = saved["extra"]["asymvq_view"]
    frontend.page.wait_for_function("scale => Math.abs(app.canvas.ds.scale - scale) < 1e-6", arg=view["scale"])
    assert frontend.page.get_by_text("View details").count() == 0, frontend.page.inner_text("body")

    prompt = frontend.page.evaluate("async () => (await app.graphToPrompt()).output")
    kinds = frontend.server.get("/object_info")
    assert prompt
    for node in prompt.values():
        required: dict[str, Any] = kinds[node["class_type"]]["input"].get("required", {})
        given = {name.split(".")[0] for name in node["inputs"]}
        assert required.keys() <= given, node["class_type"]
    # what the host tests post without a frontend is what it would post
    posted = prompt_of(saved, kinds, frontend.server.version)
    assert {number: node["class_type"] for number, node in posted.items()} == {
        number: node["class_type"] for number, node in prompt.items()
    }
    for number, node in posted.items():
        theirs = prompt[number]["inputs"]
        assert {name: value for name, value in node["inputs"].items() if name in theirs} == {
            name: theirs[name] for name in node["inputs"] if name in theirs
        }
        assert {name for name, value in theirs.items() if isinstance(value, list)} <= node["inputs"].keys()
    assert not frontend.complaints


def test_a_link_opens_a_template(own_page: Frontend) -> None:
    own_page.open_link("01_quickstart")
    kinds = {node["type"] for node in own_page.page.evaluate(GRAPH)["nodes"]}
    assert {"AsymVQLoader", "AsymVQDecode"} <= kinds
    assert not own_page.complaints


@BOTH
def test_quickstart_runs(frontend: Frontend) -> None:
    frontend.open("01_quickstart")
    prompt = frontend.page.evaluate("async () => (await app.graphToPrompt()).output")
    saved = json.loads((PACK / "tests" / "host" / "prompts" / "quickstart.json").read_text("utf-8"))
    assert {key: node["class_type"] for key, node in prompt.items()} == {
        key: node["class_type"] for key, node in saved.items()
    }
    # another one in each canvas: a node that need not run again says nothing
    frontend.set_widget("GrowMask", "expand", 8 + next(UNLIKE))

    history = frontend.run()
    assert history["status"]["status_str"] == "success", history["status"]
    assert history["outputs"]
    # what the mask does stays on the node, which grows for it without covering another
    frontend.wait_for_text("AsymVQDecode", "Edited: ")
    boxes = {node["title"]: node["box"] for node in frontend.page.evaluate(GRAPH)["nodes"]}
    assert not [(a, b) for a, b in itertools.combinations(boxes, 2) if overlap(boxes[a], boxes[b])]
    # the panel is drawn inside its node
    panel = frontend.page.evaluate(
        "app.rootGraph.nodes.find(node => node.type === 'AsymVQCompare').imgs?.map(image => image.naturalWidth)"
    )
    assert panel is None or panel[0] > 1000
    assert not frontend.complaints


def test_outpainting_runs(frontend: Frontend) -> None:
    frontend.open("outpainting")
    frontend.set_widget("AsymVQInpaintCrop", "context", 64 + next(UNLIKE))
    history = frontend.run()
    assert history["status"]["status_str"] == "success", history["status"]
    (image,) = [image for output in history["outputs"].values() for image in output.get("images", [])]
    with Image.open(frontend.server.base / "output" / image["subfolder"] / image["filename"]) as picture:
        assert picture.size == (640 + 256, 424)
    frontend.wait_for_text("AsymVQInpaintCrop", "Part of 512×512 pixels")
    assert not frontend.complaints


@BOTH
def test_a_training_that_is_interrupted_says_that_it_is_saved(frontend: Frontend) -> None:
    frontend.open("train_decoder")
    frontend.set_widget("AsymVQTrain", "steps", 100_000)
    frontend.set_widget("AsymVQTrain", "save_name", f"stopped_{next(UNLIKE)}")
    before = frontend.server.get("/history").keys()
    frontend.page.get_by_role("button", name="Run", exact=True).first.click()
    frontend.wait_for_text("AsymVQTrain", "step ")
    frontend.page.evaluate("fetch('/interrupt', {method: 'POST'})")
    frontend.server.wait_for_new(before)
    text = frontend.wait_for_text("AsymVQTrain", "Stopped ")
    assert re.fullmatch(r"Stopped after step \d+ of 100000: saved\. Run again to go on\.", text)
    assert not frontend.complaints


def test_train_decoder_runs(frontend: Frontend) -> None:
    """With few steps: a CPU is slow."""
    frontend.open("train_decoder")
    frontend.set_widget("AsymVQTrain", "steps", 4)
    history = frontend.run()
    assert history["status"]["status_str"] == "success", history["status"]
    assert list((frontend.server.base / "output" / "vae").rglob("*.safetensors"))
    assert not frontend.complaints


@NEEDS_FILES
def test_missing_models_are_named_with_folder_and_link(frontend: Frontend, workflow: Path) -> None:
    frontend.open(workflow.stem)
    frontend.page.get_by_text("View details").click()
    frontend.page.get_by_text("Missing Models").first.wait_for()
    shown = frontend.page.inner_text("body")
    models = models_of(workflow)
    for model in models:
        assert model.name in shown
        assert model.directory in shown

    links = set()
    for button in frontend.page.get_by_role("button", name="Copy URL").all():
        button.click()
        page = frontend.page.evaluate("navigator.clipboard.readText()")
        links.add(page.replace("/blob/", "/resolve/"))  # it copies the address of the file's page
    assert links == {model.url for model in models}


def test_the_template_browser_shows_them(frontend: Frontend) -> None:
    frontend.load()
    frontend.page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = frontend.page.get_by_role("dialog")
    dialog.get_by_text(FOLDER).first.click()
    names, seen = {workflow.stem for workflow in WORKFLOWS}, set[str]()
    # cards are made, and their pictures loaded, as they come into view: scrolled through in steps, to the end and back
    for number in range(120):
        seen |= set(
            frontend.page.evaluate(
                "[...document.querySelectorAll('[role=dialog] img')].filter(i => i.naturalWidth).map(i => i.alt)"
            )
        )
        if names <= seen:
            break
        down = number // 12 % 2 == 0
        dialog.locator("img").first.hover(force=True)
        frontend.page.mouse.wheel(0, 250 if down else -250)
        frontend.page.wait_for_timeout(300)
    assert not names - seen
