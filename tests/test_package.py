"""What is published, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asymvq

PACK = Path(__file__).parents[1]
LARGEST = 20_000_000
"""Bytes of all that is published, unpacked."""


def tracked() -> list[str]:
    """Files under version control."""
    if not (PACK / ".git").exists():
        pytest.skip("no git checkout")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PACK, check=True, capture_output=True).stdout
    return [name for name in names.decode().split("\0") if name and (PACK / name).exists()]


def published() -> list[str]:
    """What comfy-cli packs: tracked files that .comfyignore does not name. Ours names top-level entries only."""
    lines = (PACK / ".comfyignore").read_text("utf-8").splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"/[\w.]+/?", line) for line in ignored)  # a bare docs/ would take web/docs/ along
    return [name for name in tracked() if not any(f"/{name}".startswith(entry) for entry in ignored)]


def test_the_archive_holds_what_the_host_needs_and_no_more() -> None:
    names = published()
    entries = {name.split("/")[0] for name in names}
    needed = {"__init__.py", "asymvq", "nodes", "subgraphs", "web", "workflows", "pyproject.toml", "requirements.txt",
              "LICENSE"}  # fmt: skip
    assert needed <= entries
    assert entries <= needed | {"README.md", "CHANGELOG.md", "SECURITY.md", "locales"}
    assert "asymvq/assets/demo.safetensors" in names
    for page in (PACK / "web" / "docs").rglob("*.md"):
        assert page.relative_to(PACK).as_posix() in names
    assert sum((PACK / name).stat().st_size for name in names) < LARGEST


def test_the_registry_finds_its_fields() -> None:
    text = (PACK / "pyproject.toml").read_text("utf-8")
    for field in ("PublisherId", "DisplayName", "Icon", "Banner", "Repository", "requires-comfyui", "version"):
        assert re.search(rf'^{field} = ".+"$', text, re.MULTILINE), field
    assert re.search(r'^license = \{ file = "LICENSE" \}', text, re.MULTILINE)
    for device in ("NVIDIA CUDA", "AMD ROCm", "Apple Metal"):
        assert f'"Environment :: GPU :: {device}"' in text
    for name in re.findall(r'^(?:Icon|Banner) = ".+/main/(.+)"$', text, re.MULTILINE):
        assert (PACK / name).is_file(), name


def test_the_oldest_versions_that_are_declared_are_tested() -> None:
    dependencies = re.search(r"^dependencies = \[(.+)\]$", (PACK / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    assert dependencies is not None
    floors = dict(re.findall(r'"(\w+)>=([\d.]+)"', dependencies[1]))
    assert {"torch", "safetensors", "numpy", "pillow"} == floors.keys()
    text = (PACK / ".github" / "workflows" / "test.yml").read_text("utf-8")
    pinned = dict(re.findall(r"(\w+)==([\d.]+)", text.split("  oldest:")[1].split("  host:")[0]))
    for name, floor in floors.items():
        assert f"{pinned[name]}.".startswith(f"{floor}."), name
    for line in (PACK / "requirements.txt").read_text("utf-8").splitlines():
        assert line.startswith("#"), line  # an installed pack must not exchange the host's torch


def test_actions_that_see_a_secret_are_pinned_to_a_commit() -> None:
    text = (PACK / ".github" / "workflows" / "publish.yml").read_text("utf-8")
    assert "secrets." in text
    assert re.search(r"uses: Comfy-Org/publish-node-action@[0-9a-f]{40}$", text, re.MULTILINE)


def test_the_registrys_security_rules_find_nothing() -> None:
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", "check", ".", "--isolated", "--select", "S102,S307,E702"]
    result = subprocess.run(command, cwd=PACK, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_importing_the_library_loads_nothing_heavy() -> None:
    code = """
import sys
import torch
before = set(sys.modules)
import asymvq
roots = {name.split(".")[0] for name in set(sys.modules) - before}
print(*sorted(roots))
"""
    roots = subprocess.run([sys.executable, "-c", code], cwd=PACK, check=True, capture_output=True, text=True).stdout
    heavy = {"torchvision", "torchmetrics", "torch_fidelity", "lpips", "diffusers", "transformers", "scipy",
             "matplotlib", "pandas", "omegaconf", "tensorboard"}  # fmt: skip
    assert not heavy & set(roots.split())


@pytest.mark.parametrize(
    ("found", "refused"), [("0.19.5", True), ("0.3.75", True), ("0.20.0", False), ("1.0.0", False)]
)
def test_an_older_host_gets_one_clear_line(found: str, refused: bool, tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{found}"\n', "utf-8")
    code = f"""
import importlib.util, sys
sys.path.insert(0, {str(tmp_path)!r})
spec = importlib.util.spec_from_file_location("host_check", {str(PACK / "nodes" / "host.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    module.require_host()
except RuntimeError as error:
    print(error)
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    line = f"Asymmetric VQGAN needs ComfyUI 0.20.0 or newer, but this is {found}. Update ComfyUI.\n"
    assert output == (line if refused else "")


def test_names_that_have_moved_are_found_where_they_were():
    from asymvq import config

    assert config.AutoencoderConfig is asymvq.AutoencoderConfig
    assert config.PRESETS is asymvq.PRESETS
    assert config.preset_name(asymvq.PRESETS["2x"]) == "2x"
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        config.other  # noqa: B018


def test_nothing_that_is_published_imports_or_runs_what_a_variable_names():
    """What the registry's scan refuses, and what a reader cannot follow."""
    for name in published():
        if not name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse((PACK / name).read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "compile", "__import__", "os.system"), f"{name}:{node.lineno}"
                assert not called.startswith(("subprocess.", "importlib.")), f"{name}:{node.lineno}"
