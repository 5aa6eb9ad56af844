"""Every mistake of mistakes.py, queued in a real ComfyUI, is explained on the node that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import PACK
from .mistakes import MISTAKES, Mistake, failure, start_server
from .server import Server


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("mistakes") / "comfyui")
    yield running
    running.stop()


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.what)
def test_a_mistake_is_explained_on_its_node(mistaken: Server, mistake: Mistake) -> None:
    error = failure(mistaken, mistake)
    assert error["node_type"] == mistake.at
    assert mistake.says in error["exception_message"]
    assert "." not in error["exception_type"]  # which is shown before the message
    assert not (mistaken.base / "ran").exists()
    outside = {path.name for path in mistaken.base.parent.iterdir()}
    assert outside == {"comfyui"}


def test_every_node_that_can_be_used_wrongly_is_here(mistaken: Server) -> None:
    ours = {kind for kind in mistaken.get("/object_info") if kind.startswith("AsymVQ")}
    takes_what_it_gets = {"AsymVQDemoPictures", "AsymVQLossPlot"}
    needs_a_whole_model = {"AsymVQPaintByExampleConditioning"}  # test_paint_by_example.py has its mistakes
    assert {mistake.at for mistake in MISTAKES} - {"VAEEncode"} == ours - takes_what_it_gets - needs_a_whole_model


def test_the_docs_list_every_mistake() -> None:
    rows = (PACK / "docs" / "errors.md").read_text("utf-8").splitlines()
    listed = [row.split(" | ")[0].removeprefix("| ") for row in rows if row.startswith("| ")][1:]
    assert listed == [mistake.what for mistake in MISTAKES]
