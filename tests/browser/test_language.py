"""The nodes in another language of the frontend's."""

from __future__ import annotations

import json

from host.conftest import PACK

from .conftest import Frontend

ADDED = """kind => {
    const node = LiteGraph.createNode(kind)
    app.rootGraph.add(node)
    const label = part => part.localized_name ?? part.label ?? part.name
    return { title: node.title, labels: [...node.inputs, ...node.widgets].map(label) }
}"""


def test_nodes_are_translated(own_page: Frontend) -> None:
    chinese = json.loads((PACK / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))["AsymVQDecode"]
    own_page.server.post("/settings/Comfy.Locale", "zh")
    try:
        own_page.load()
        node = own_page.page.evaluate(ADDED, "AsymVQDecode")
    finally:
        own_page.server.post("/settings/Comfy.Locale", "en")
    assert node["title"] == chinese["display_name"]
    assert {part["name"] for part in chinese["inputs"].values()} <= set(node["labels"])


def test_a_help_page_shows_its_picture(frontend: Frontend) -> None:
    """Where the frontend looks for a page's pictures: beside it."""
    frontend.load()
    for page in (PACK / "web" / "docs").glob("*.md"):
        names = [part.split(")")[0] for part in page.read_text("utf-8").split("](") if ".jpg" in part.split(")")[0]]
        assert names, page.name
        for name in names:
            width = frontend.page.evaluate(
                """source => new Promise(done => {
                    const picture = new Image()
                    picture.onload = picture.onerror = () => done(picture.naturalWidth)
                    picture.src = source
                })""",
                f"/extensions/pack.under_any-name/docs/{name}",
            )
            assert width > 0, name
