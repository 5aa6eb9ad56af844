"""The pack as an artist has it: unpacked from a zip, beside other packs, and removed again."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import PACK
from .server import Server
from .test_server import changed

FOLDER = "ComfyUI asymmetric-vqgan (1)"
"""What a browser and an unzip make of a download."""

OTHER_PACK = """
from .nodes.number import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS"]
"""
OTHER_NODE = """
class Number:
    CATEGORY = "number"
    RETURN_TYPES = ("INT",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def run(self):
        return (1,)


NODE_CLASS_MAPPINGS = {"KIND": Number}
"""


def unpack(folder: Path, archive: Path) -> None:
    """What is in the checkout, zipped and unzipped, without version control's own files."""
    entries = ("__init__.py", "asymvq", "nodes", "web", "workflows", "locales", "pyproject.toml", "requirements.txt")
    with zipfile.ZipFile(archive, "w") as packed:
        for path in (p for entry in entries for p in ([PACK / entry, *(PACK / entry).rglob("*")])):
            if path.is_file() and "__pycache__" not in path.parts:
                packed.write(path, path.relative_to(PACK))
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)


def add_other_pack(folder: Path, kind: str) -> None:
    """A pack that has a top-level nodes/ too."""
    (folder / "nodes").mkdir(parents=True)
    (folder / "__init__.py").write_text(OTHER_PACK, "utf-8")
    (folder / "nodes" / "__init__.py").write_text("", "utf-8")
    (folder / "nodes" / "number.py").write_text(OTHER_NODE.replace("KIND", kind), "utf-8")


def files(base: Path) -> dict[str, int]:
    """Path to size of all that lies in the data folder, but for what the host itself writes at any start."""
    own = ("server.log", "__pycache__", "user/comfyui", "user/__manager", "user/default", "temp/")
    names = {str(path.relative_to(base)): path.stat().st_size for path in base.rglob("*") if path.is_file()}
    return {name: size for name, size in names.items() if not any(part in name for part in own)}


def failed_packs(server: Server) -> list[str]:
    """Not the host's own nodes that lack something: that is its business."""
    lines = server.log.splitlines()
    assert any("custom_nodes" in line and "seconds" in line for line in lines), "the host lists the packs it imports"
    return [line for line in lines if "IMPORT FAILED" in line and "custom_nodes" in line]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("installed")
    for name in ("custom_nodes", "models/vae", "input", "output", "user"):
        (base / name).mkdir(parents=True)
    # the host loads packs in the order of their names: one before ours, one after
    for folder, kind in (("a_numbers", "NumberBefore"), ("z_numbers", "NumberAfter")):
        add_other_pack(base / "custom_nodes" / folder, kind)
    return base


def test_from_a_zip_beside_other_packs_and_removed_again(host_path: Path, base: Path, tmp_path: Path) -> None:
    before = files(base)
    folder = base / "custom_nodes" / FOLDER
    unpack(folder, tmp_path / "pack.zip")
    unpacked = files(base)

    server = Server(host_path, base)
    try:
        server.wait_until_ready()
        history = server.run(changed({}))
        assert history["status"]["status_str"] == "success", history["status"]
        assert {"NumberBefore", "NumberAfter", "AsymVQDecode"} <= server.get("/object_info").keys()
        assert FOLDER in server.get("/workflow_templates")
    finally:
        server.stop()
    assert not failed_packs(server)
    added = files(base).keys() - unpacked.keys()
    assert added, "the quickstart saves a picture"
    assert all(name.startswith("output/") for name in added)
    assert {name: size for name, size in files(base).items() if name in unpacked} == unpacked

    shutil.rmtree(folder)
    server = Server(host_path, base)
    try:
        server.wait_until_ready("NumberBefore")
        kinds: dict[str, Any] = server.get("/object_info")
        assert not [kind for kind in kinds if kind.startswith("AsymVQ")]
        assert "AsymVQ" not in json.dumps(server.get("/workflow_templates"))
    finally:
        server.stop()
    assert not failed_packs(server)
    left = {name: size for name, size in files(base).items() if not name.startswith("output/")}
    assert left == before
