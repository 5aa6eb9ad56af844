"""A real ComfyUI for the tests in this folder."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from .server import Server

PACK = Path(__file__).parents[2]


def find_host() -> Path | None:
    """$COMFYUI_PATH, the host whose custom_nodes the pack lies in, or comfy-cli's default workspace."""
    candidates = [
        Path(os.environ["COMFYUI_PATH"]) if os.environ.get("COMFYUI_PATH") else None,
        PACK.parents[1] if PACK.parent.name == "custom_nodes" else None,
        Path.home() / "comfy" / "ComfyUI",
    ]
    return next((path for path in candidates if path is not None and (path / "comfy" / "sd.py").exists()), None)


def reason_to_skip() -> str | None:
    """Why the tests of this folder cannot run, and what to do about it."""
    path = find_host()
    if path is None:
        return "no ComfyUI found: set COMFYUI_PATH to a checkout, or put one into ~/comfy/ComfyUI"
    essential = (path / "requirements.txt").read_text("utf-8").split("#non essential")[0]
    names = re.findall(r"^[\w-]+", essential, re.MULTILINE)
    missing = [name for name in names if not is_installed(name)]
    if missing:
        return f"ComfyUI lacks {missing[0]} and {len(missing) - 1} more: pip install -r {path / 'requirements.txt'}"
    return None


def is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = reason_to_skip()
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.host)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def host_path() -> Path:
    path = find_host()
    assert path is not None
    return path


@pytest.fixture(scope="session")
def host(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """ComfyUI in this process, on the CPU, with the pack loaded as ComfyUI loads it.

    `.nodes` is the host's module, `.pack` gives modules of ours as the host knows them, `.base` is its data folder.
    """
    base = make_base_folder(tmp_path_factory.mktemp("comfyui"))
    sys.path.insert(0, str(host_path))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = str(base)
    import folder_paths

    # as main.py does: nodes.py puts comfy/ first on sys.path, whose utils.py would hide the host's utils/
    import utils.extra_config  # noqa: F401

    import nodes

    # as the host's main.py does
    folder_paths.set_output_directory(str(base / "output"))
    folder_paths.add_model_folder_path("vae", str(base / "output" / "vae"))

    level = logging.getLogger().level
    folder = base / "custom_nodes" / "pack.under_any-name"
    # an error in an entrypoint is logged without a traceback: look for the nodes themselves
    assert asyncio.run(nodes.load_custom_node(str(folder)))
    assert "AsymVQLoader" in nodes.NODE_CLASS_MAPPINGS
    assert asyncio.run(nodes.load_custom_node(str(host_path / "comfy_extras" / "nodes_model_merging.py")))
    logging.getLogger().setLevel(level)
    root = str(folder).replace(".", "_x_")

    def pack(name: str) -> ModuleType:
        return sys.modules[f"{root}.{name}"]

    return SimpleNamespace(base=base, nodes=nodes, folder_paths=folder_paths, pack=pack)


@pytest.fixture(scope="session")
def server(host_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(host_path, make_base_folder(tmp_path_factory.mktemp("comfyui_server")))
    running.wait_until_ready()
    yield running
    running.stop()


def make_base_folder(base: Path) -> Path:
    """A data folder with the pack in custom_nodes, under a name of its own."""
    models = [f"models/{kind}" for kind in ("checkpoints", "clip_vision", "vae")]
    for name in ("custom_nodes", *models, "input", "output", "user"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes" / "pack.under_any-name").symlink_to(PACK, target_is_directory=True)
    return base
