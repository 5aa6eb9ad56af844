"""The blueprints, as an artist adds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from host.conftest import PACK

from .conftest import Frontend

BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))

ADDED = """() => app.rootGraph.nodes.filter(node => node.isSubgraphNode?.()).map(node => ({
    title: node.title, inputs: node.inputs.filter(input => !input.widget).map(input => input.name),
    outputs: node.outputs.map(output => output.name), widgets: node.widgets.map(widget => [widget.name, widget.value]),
    kinds: node.subgraph.nodes.map(inner => inner.type),
}))"""
WIRED = """() => {
    const whole = app.rootGraph.nodes.find(node => node.isSubgraphNode?.())
    const add = (kind, x, y) => {
        const node = LiteGraph.createNode(kind)
        app.rootGraph.add(node)
        node.pos = [x, y]
        return node
    }
    const wire = (from, output, to, input) => from.connect(
        from.outputs.findIndex(slot => slot.name === output), to, to.inputs.findIndex(slot => slot.name === input)
    )
    whole.pos = [900, 100]
    const pictures = add("AsymVQDemoPictures", 0, 100), loader = add("AsymVQLoader", 0, 300)
    const encoded = add("VAEEncode", 450, 300), saved = add("SaveImage", 1400, 100)
    loader.widgets.find(widget => widget.name === "vae_name").value = "demo (bundled)"
    wire(pictures, "example", encoded, "pixels")
    wire(loader, "VAE", encoded, "vae")
    wire(encoded, "LATENT", whole, "samples")
    wire(pictures, "picture", whole, "image")
    wire(pictures, "mask", whole, "mask")
    wire(whole, "IMAGE", saved, "images")
    app.canvas.setDirty(true, true)
}"""


def add(frontend: Frontend, name: str) -> dict[str, Any]:
    """From the search, onto the canvas."""
    frontend.open_empty()
    frontend.page.evaluate("app.rootGraph.clear()")
    frontend.search(name).filter(has_text=name).first.click()
    frontend.page.wait_for_timeout(1000)
    frontend.page.mouse.move(700, 400)
    frontend.page.mouse.click(700, 350)  # some frontends let it hang on the pointer first
    frontend.page.wait_for_function("app.rootGraph.nodes.length === 1")
    frontend.page.wait_for_timeout(500)
    (added,) = frontend.page.evaluate(ADDED)
    return added


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("canvas")
def test_it_is_added_with_all_that_it_shows(frontend: Frontend, path: Path) -> None:
    saved = json.loads(path.read_text("utf-8"))
    (outer,), (inner,) = saved["nodes"], saved["definitions"]["subgraphs"]
    added = add(frontend, path.stem)
    assert added["title"] == path.stem
    assert added["inputs"] == [slot["name"] for slot in outer["inputs"]]
    assert added["outputs"] == [slot["name"] for slot in outer["outputs"]]
    assert added["kinds"] == [node["type"] for node in inner["nodes"]]
    shown = [widget for _, widget in outer["properties"]["proxyWidgets"] if widget != "control_after_generate"]
    assert [name for name, _ in added["widgets"] if name != "control_after_generate"] == shown
    assert not frontend.complaints


def test_decode_and_keep_runs(frontend: Frontend, canvas: str) -> None:
    add(frontend, "Decode and keep")
    frontend.page.evaluate(WIRED)
    history = frontend.run()
    assert history["status"]["status_str"] == "success", (canvas, history["status"])
    assert history["outputs"]
    assert not frontend.complaints
