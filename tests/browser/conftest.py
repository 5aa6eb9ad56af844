"""The real frontend in a headless Chromium, served by a real ComfyUI."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from host.conftest import PACK, find_host, is_installed, make_base_folder, reason_to_skip
from host.server import Server

FOLDER = "pack.under_any-name"
"""The pack's in custom_nodes."""
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
LOAD_MS = 240_000  # on a busy machine
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


LOAD = """async ([folder, name]) => {
    const answer = await fetch(`/api/workflow_templates/${folder}/${name}.json`)
    await app.loadGraphData(await answer.json(), true, true, name, { openSource: "template" })
}"""
"""What the template browser does with the card that is chosen; it ends when what is missing has been looked for."""


@dataclass
class Frontend:
    """A page, and what its console said against us."""

    page: Any
    server: Server
    complaints: list[str] = field(default_factory=list)
    loaded: bool = False

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
        """As the template browser does it."""
        self.load()
        self.page.evaluate(LOAD, [FOLDER, workflow])

    def open_link(self, workflow: str) -> None:
        """A link to a template, in a page of its own; returns when its nodes are drawn."""
        count = len(json.loads((PACK / "workflows" / f"{workflow}.json").read_text("utf-8"))["nodes"])
        self.page.goto(f"{self.server.url}/?template={workflow}&source={FOLDER}")
        self.page.wait_for_function(
            "count => window.app?.vueAppReady && window.app.rootGraph?.nodes.length === count",
            arg=count,
        )
        self.loaded = True

    def load(self) -> None:
        """The frontend, where it is not there yet; that takes much longer than opening a workflow in it."""
        if not self.loaded:
            self.page.goto(self.server.url)
            self.page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph")
            self.loaded = True

    def open_empty(self) -> None:
        """A new workflow."""
        self.load()
        self.page.evaluate("app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")
        self.page.wait_for_function("!app.rootGraph.nodes.length")

    def close_dialogs(self) -> None:
        """What a test before this one has left open."""
        if self.loaded:
            for _ in range(2):
                self.page.keyboard.press("Escape")

    def wait_for_text(self, kind: str, begins: str) -> str:
        """What stands on the node of this kind, when it begins so."""
        self.page.wait_for_function(
            """([kind, begins]) => app.rootGraph.nodes.find(node => node.type === kind).widgets.find(
                widget => widget.name === "$$node-text-preview")?.value?.startsWith(begins)""",
            arg=[kind, begins],
        )
        return self.texts()[kind]

    def search(self, term: str) -> Any:
        """Types it where an artist looks for nodes; the results."""
        dialog = self.page.get_by_role("dialog")
        options = dialog.get_by_role("option")
        for _ in range(20):  # a first start shows the templates, at some time
            self.page.keyboard.press("Escape")
            self._wait_until(lambda: not dialog.count())
            self.page.mouse.dblclick(900, 400)
            if self._wait_until(lambda: bool(options.count())):
                break
        before = options.all_inner_texts()
        self.page.keyboard.insert_text(term)  # at once: the list is never that of a part of the term
        assert self._wait_until(lambda: options.all_inner_texts() != before, tries=100), term
        self._settle(options.all_inner_texts)
        return options

    def _wait_until(self, holds: Callable[[], bool], tries: int = 10) -> bool:
        """Whether it comes to hold, looking every 0.1 s."""
        for _ in range(tries):
            if holds():
                return True
            self.page.wait_for_timeout(100)
        return holds()

    def _settle(self, look: Callable[[], object]) -> None:
        """Until the same is seen for 0.3 s."""
        seen, same = look(), 0
        while same < 3:
            self.page.wait_for_timeout(100)
            now = look()
            seen, same = now, same + 1 if now == seen else 0

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


@pytest.fixture(scope="package")
def browser_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Server]]:
    """One for each frontend, by its folder. They start side by side."""
    host = find_host()
    assert host is not None
    running = {}
    for frontend in frontends():
        if frontend.marks:  # it is skipped
            continue
        (root,) = frontend.values
        base = make_base_folder(tmp_path_factory.mktemp("comfyui_browser"))
        running[root] = Server(host, base, arguments=("--front-end-root", str(root)) if root else ())
    yield running
    for server in running.values():
        server.stop()


@pytest.fixture(scope="package", params=frontends())
def browser_server(request: pytest.FixtureRequest, browser_servers: dict[Any, Server]) -> Server:
    server = browser_servers[request.param]
    server.wait_until_ready()
    return server


@pytest.fixture(scope="package")  # not longer: while it is there, its event loop lets no other start in this thread
def chrome() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


Pages = dict[tuple[str, bool], Frontend]
CLASSIC, VUE = "classic", "Nodes 2.0"
"""The two ways in which a frontend draws nodes."""


@pytest.fixture(scope="package")
def pages(chrome: Any, browser_server: Server) -> Iterator[Pages]:
    """One a canvas, and one more where models are at hand: a page reads their names once."""
    opened: Pages = {}
    yield opened
    for frontend in opened.values():
        frontend.page.context.close()


def new_page(chrome: Any, server: Server) -> Frontend:
    """A page that is not loaded yet."""
    # without animations, whose drawing takes more of a small machine than a run does
    context = chrome.new_context(viewport={"width": 1600, "height": 900}, reduced_motion="reduce")
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened = Frontend(context.new_page(), server)
    opened.page.set_default_timeout(LOAD_MS)
    opened.listen()
    return opened


def new_canvas(chrome: Any, server: Server, canvas: str) -> Frontend:
    """A page with the frontend in it, that draws nodes in this way."""
    opened = new_page(chrome, server)
    # read once, when a page is loaded
    server.post("/settings/Comfy.VueNodes.Enabled", canvas == VUE)
    server.post("/settings/Comfy.TutorialCompleted", True)  # the first start would show the templates
    opened.load()
    assert opened.page.evaluate("!!LiteGraph.vueNodesMode") == (canvas == VUE)
    return opened


@pytest.fixture
def canvas(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", CLASSIC)


BOTH = pytest.mark.parametrize("canvas", [CLASSIC, VUE], indirect=True)


@pytest.fixture
def frontend(
    request: pytest.FixtureRequest, chrome: Any, browser_server: Server, pages: Pages, canvas: str
) -> Iterator[Frontend]:
    """In a page that all tests with this canvas share, until one fails."""
    models = "models_at_hand" in request.fixturenames
    if models:
        request.getfixturevalue("models_at_hand")
    key = canvas, models
    if key not in pages:
        pages[key] = new_canvas(chrome, browser_server, canvas)
    opened = pages[key]
    opened.complaints.clear()
    opened.page.bring_to_front()
    yield opened
    if request.node.stash.get(FAILED, False):
        pages.pop(key).page.context.close()
    else:
        opened.close_dialogs()


@pytest.fixture
def own_page(chrome: Any, browser_server: Server) -> Iterator[Frontend]:
    """A page of the test's own, not loaded yet."""
    opened = new_page(chrome, browser_server)
    yield opened
    opened.page.context.close()


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[FAILED] = True
    return report


@pytest.fixture
def models_at_hand(browser_server: Server) -> Iterator[None]:
    paths = add_empty_models(browser_server.base)
    yield
    for path in paths:
        path.unlink()
