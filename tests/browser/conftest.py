"""The real frontend in a headless Chromium, served by a real ComfyUI."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from host.conftest import PACK, find_host, is_installed, make_base_folder, reason_to_skip
from host.server import Server

FOLDER = "pack.under_any-name"
"""The pack's in custom_nodes."""
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
LOAD_MS = 120_000  # on a busy machine
NEWER = "COMFYUI_FRONTENDS"
"""Environment variable: folders with other frontends than the host's, as `--front-end-root` takes them."""


def frontends() -> list[Any]:
    """The host's own (None), and those of `NEWER`; where there are none, one that is skipped."""
    roots = [Path(root) for root in os.environ.get(NEWER, "").split(os.pathsep) if root]
    how = (
        f"no newer frontend: pip install --no-deps --target DIR comfyui-frontend-package, and "
        f"{NEWER}=DIR/comfyui_frontend_package/static"
    )
    newer = [pytest.param(root, id=f"frontend{i}") for i, root in enumerate(roots, 1)]
    return [
        pytest.param(None, id="own"),
        *(newer or [pytest.param("", id="newer", marks=pytest.mark.skip(reason=how))]),
    ]


def chromium() -> str | None:
    """The system's, or the one that `playwright install chromium` brought."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    if system := next(filter(None, map(shutil.which, names)), None):
        return system
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def reason_to_skip_browser() -> str | None:
    """Why there is no frontend to open, and what to do about it."""
    if importlib.util.find_spec("playwright") is None:
        return 'no Playwright: pip install -e ".[test]"'
    if chromium() is None:
        return "no Chromium: playwright install chromium, or your system's package"
    if reason := reason_to_skip():
        return reason
    if not is_installed("comfyui-frontend-package"):
        return f"ComfyUI lacks its frontend: pip install -r {find_host()}/requirements.txt"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    reason = reason_to_skip_browser() if ours else None
    for item in ours:
        item.add_marker(pytest.mark.browser)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@dataclass(frozen=True)
class Model:
    """A file that a workflow names."""

    name: str
    directory: str
    url: str


def models_of(workflow: Path) -> list[Model]:
    nodes = json.loads(workflow.read_text("utf-8"))["nodes"]
    entries = [model for node in nodes for model in node.get("properties", {}).get("models", [])]
    return sorted({Model(m["name"], m["directory"], m["url"]) for m in entries}, key=lambda m: m.name)


def add_empty_models(base: Path) -> list[Path]:
    """Files of the right names, which the frontend lists and nobody reads."""
    models = {model for workflow in WORKFLOWS for model in models_of(workflow)}
    paths = [base / "models" / model.directory / model.name for model in models]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


@dataclass
class Frontend:
    """A page, and what its console said against us."""

    page: Any
    server: Server
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> None:
        def heard(message: Any) -> None:
            url = message.location.get("url", "")
            words = f"{message.text} {url}"
            # what the frontend asks other servers about us (its registry) is its own business
            if (
                message.type == "error"
                and url.startswith(self.server.url)
                and (FOLDER in words or "asymvq" in words.lower())
            ):
                self.complaints.append(words)

        self.page.on("console", heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, workflow: str) -> None:
        """As the template browser does it; returns when its nodes are drawn."""
        count = len(json.loads((PACK / "workflows" / f"{workflow}.json").read_text("utf-8"))["nodes"])
        self.page.goto(f"{self.server.url}/?template={workflow}&source={FOLDER}")
        self.page.wait_for_function(
            "count => window.app?.vueAppReady && window.app.rootGraph?.nodes.length === count",
            arg=count,
            timeout=LOAD_MS,
        )
        self.page.wait_for_timeout(1000)  # what is missing is looked for after that

    def open_empty(self) -> None:
        self.page.goto(self.server.url)
        self.page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph", timeout=LOAD_MS)

    def search(self, term: str) -> Any:
        """Types it where an artist looks for nodes; the results."""
        dialog = self.page.get_by_role("dialog")
        for _ in range(20):  # a first start shows the templates, at some time
            self.page.keyboard.press("Escape")
            self.page.wait_for_timeout(500)
            self.page.mouse.dblclick(900, 400)
            self.page.wait_for_timeout(500)
            if dialog.get_by_role("option").count():
                break
        self.page.keyboard.type(term)
        self.page.wait_for_timeout(1000)  # the list is not that of a part of the term
        return dialog.get_by_role("option")

    def texts(self) -> dict[str, str]:
        """What stands on nodes, by their kinds."""
        return self.page.evaluate(
            """() => Object.fromEntries(app.rootGraph.nodes
                .map(node => [node.type, node.widgets?.find(widget => widget.name === "$$node-text-preview")?.value])
                .filter(([, text]) => text))"""
        )

    def set_widget(self, kind: str, name: str, value: object) -> None:
        self.page.evaluate(
            """([kind, name, value]) => {
                const node = app.rootGraph.nodes.find(node => node.type === kind)
                const widget = node.widgets.find(widget => widget.name === name)
                widget.value = value
                widget.callback?.(value)
            }""",
            [kind, name, value],
        )

    def run(self) -> dict[str, Any]:
        """Presses Run; the history of what it queued."""
        before = self.server.get("/history").keys()
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        return self.server.wait_for_new(before)


@pytest.fixture(scope="package", params=frontends())
def browser_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    host = find_host()
    assert host is not None
    base = make_base_folder(tmp_path_factory.mktemp("comfyui_browser"))
    # every ComfyUI comes with this picture, which LoadImage nodes start with
    shutil.copy(host / "input" / "example.png", base / "input")
    (base / "input" / "video.mp4").touch()  # named by a workflow, and listed
    running = Server(host, base, arguments=("--front-end-root", str(request.param)) if request.param else ())
    running.wait_until_ready()
    yield running
    running.stop()


@pytest.fixture(scope="package")  # not longer: while it is there, its event loop lets no other start in this thread
def chrome() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def frontend(chrome: Any, browser_server: Server) -> Iterator[Frontend]:
    context = chrome.new_context(viewport={"width": 1600, "height": 900})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = Frontend(context.new_page(), browser_server)
    opened.listen()
    yield opened
    context.close()


@pytest.fixture(params=["classic", "Nodes 2.0"])
def canvas(request: pytest.FixtureRequest, frontend: Frontend) -> Iterator[str]:
    """Both ways in which a frontend draws nodes."""
    frontend.server.post("/settings/Comfy.VueNodes.Enabled", request.param != "classic")
    yield request.param
    frontend.server.post("/settings/Comfy.VueNodes.Enabled", False)


@pytest.fixture
def models_at_hand(browser_server: Server) -> Iterator[None]:
    paths = add_empty_models(browser_server.base)
    yield
    for path in paths:
        path.unlink()
