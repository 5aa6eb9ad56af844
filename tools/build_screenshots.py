"""Makes the pictures of workflows in `docs/images`: as ComfyUI's frontend draws them, with results where they run.

    python tools/build_screenshots.py COMFYUI [NAME …]

Takes a ComfyUI checkout, and starts it; Chromium and Playwright have to be installed. Workflows that need files which
are not bundled are shown as they open, with empty files of these names, and with the bundled pictures and a clip of
one where an artist loads some. `build_thumbnails.py` cuts from these pictures. One more, `blueprint_inpaint`, shows a
blueprint and what is in it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from asymvq.pictures import open_picture

ROOT = Path(__file__).parents[1]
RUNNABLE = ("01_quickstart", "outpainting", "train_decoder")
BLUEPRINT = "blueprint_inpaint"
BLUEPRINT_FILE = ROOT / "subgraphs" / "Inpaint, keep the rest.json"
SCALE = 0.8
MARGIN = 160  # what the frontend lays over the canvas's edges
BORDER = 12
PATIENCE_MS = 1_800_000  # for each step, on a busy machine
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # the first start would show the templates
    "Comfy.VueNodes.Enabled": True,  # Nodes 2.0
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",  # the folder's name
}
BOUNDS = """() => {
    const boxes = app.rootGraph.groups.map(group => Array.from(group.boundingRect))
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])))
    const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])))
    return [left, top, right - left, bottom - top]
}"""
NODE_BOUNDS = """() => {
    const graph = app.canvas.graph
    const nodes = [...graph.nodes, graph.inputNode, graph.outputNode].filter(Boolean)
    const boxes = nodes.map(node => Array.from(node.boundingRect))
    const [left, top] = [0, 1].map(i => Math.min(...boxes.map(box => box[i])))
    const [right, bottom] = [0, 1].map(i => Math.max(...boxes.map(box => box[i] + box[i + 2])))
    return [left, top, right - left, bottom - top]
}"""
PICTURES_ARE_THERE = """nodes => nodes.every(id => document.querySelector(`[data-node-id="${id}"] img`))
    && [...document.querySelectorAll("[data-node-id] img")].every(image => image.complete && image.naturalWidth)"""
PLACE = """([left, top, scale, margin]) => {
    app.canvas.deselectAll()
    app.canvas.ds.scale = scale
    app.canvas.ds.offset = [margin / scale - left, margin / scale - top]
    app.canvas.setDirty(true, true)
}"""


def shot(frontend: Any, name: str) -> Image.Image:
    page = frontend.page
    frontend.open(name)
    with_results = []
    if name in RUNNABLE:
        history = frontend.run()
        assert history["status"]["status_str"] == "success", history["status"]
        with_results = [node for node, output in history["outputs"].items() if "images" in output]
    return framed(page, page.evaluate(BOUNDS), with_results)


def blueprint_shot(frontend: Any) -> Image.Image:
    """On the left the node, on the right what is in it."""
    page = frontend.page
    page.evaluate("graph => app.loadGraphData(graph)", json.loads(BLUEPRINT_FILE.read_text("utf-8")))
    outer = framed(page, page.evaluate(NODE_BOUNDS))
    page.evaluate("() => { const [node] = app.rootGraph.nodes; app.canvas.openSubgraph(node.subgraph, node) }")
    inner = framed(page, page.evaluate(NODE_BOUNDS))
    sheet = Image.new("RGB", (outer.width + inner.width, max(outer.height, inner.height)), inner.getpixel((0, 0)))
    sheet.paste(outer, (0, (sheet.height - outer.height) // 2))
    sheet.paste(inner, (outer.width, (sheet.height - inner.height) // 2))
    return sheet


def framed(page: Any, bounds: list[float], with_results: Sequence[str] = ()) -> Image.Image:
    """The part of the graph in `bounds`, once nodes `with_results` have their pictures."""
    left, top, width, height = bounds
    size = {"width": round(width * SCALE) + 2 * MARGIN, "height": round(height * SCALE) + 2 * MARGIN}
    page.set_viewport_size(size)
    page.wait_for_function("size => innerWidth === size.width && innerHeight === size.height", arg=size)
    page.evaluate(PLACE, [left, top, SCALE, MARGIN])
    page.mouse.move(MARGIN // 2, size["height"] - MARGIN // 2)
    page.wait_for_function(PICTURES_ARE_THERE, arg=list(with_results))
    # the canvas may begin below the tabs
    x, y = page.evaluate("(() => { const r = app.canvas.canvas.getBoundingClientRect(); return [r.left, r.top] })()")
    clip = {
        "x": x + MARGIN - BORDER, "y": y + MARGIN - BORDER,
        "width": round(width * SCALE) + 2 * BORDER, "height": round(height * SCALE) + 2 * BORDER,
    }  # fmt: skip
    return settled(lambda: page.screenshot(clip=clip))


def settled(take: Callable[[], bytes], tries: int = 100) -> Image.Image:
    """The picture that is the same a second later, and another second: nothing is being drawn any more."""
    drawn, same = b"", 0
    for _ in range(tries):
        before, drawn = drawn, take()
        same = same + 1 if drawn == before else 0
        if same == 2:
            with open_picture(io.BytesIO(drawn)) as picture:
                return picture.convert("RGB")
        time.sleep(1)
    raise TimeoutError(f"the page looked different in each of {tries} pictures")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host", type=Path, help="a ComfyUI checkout")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    from browser.conftest import WORKFLOWS, Frontend, add_empty_models, chromium
    from host.conftest import make_base_folder
    from host.server import Server
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        base = make_base_folder(Path(folder) / "base")
        add_empty_models(base)
        server = Server(args.host, base)
        server.wait_until_ready()
        for name, value in SETTINGS.items():
            server.post(f"/settings/{name}", value)
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 900}, reduced_motion="reduce")
            page.set_default_timeout(PATIENCE_MS)
            frontend = Frontend(page, server)
            frontend.load()
            shots = {
                f"workflow_{workflow.stem}": partial(shot, frontend, workflow.stem)
                for workflow in WORKFLOWS
                if not args.names or workflow.stem in args.names
            }
            if not args.names or BLUEPRINT in args.names:
                shots[BLUEPRINT] = partial(blueprint_shot, frontend)
            for name, take in shots.items():
                picture = take()
                picture.save(ROOT / "docs" / "images" / f"{name}.png", optimize=True)
                print(f"{name}.png: {picture.width} × {picture.height}", flush=True)
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
