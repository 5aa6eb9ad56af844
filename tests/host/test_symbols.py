"""What the pack uses of the host beside its published interface: one file names it, and each of it is there."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

from .conftest import PACK

NODES = sorted((PACK / "nodes").glob("*.py"))
PRIVATE = ("comfy", "folder_paths", "nodes", "server", "execution", "latent_preview", "node_helpers", "comfy_extras")
HOST = PACK / "nodes" / "host.py"


def symbols() -> list[str]:
    """The table's names, read without the host."""
    tree = ast.parse(HOST.read_text("utf-8"))
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "_IN")
    return [name for names in ast.literal_eval(table).values() for name in names]


@pytest.mark.parametrize("path", [path for path in NODES if path != HOST], ids=lambda path: path.name)
def test_one_file_knows_the_host(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [f"{node.module}"]
        assert not [name for name in modules if name.split(".")[0] in PRIVATE], f"line {node.lineno}"


def test_the_table_is_what_the_nodes_use() -> None:
    used = {name for path in NODES for name in re.findall(r"\bhost\.([A-Za-z_]\w*)", path.read_text("utf-8"))}
    functions = {name for name in used if re.search(rf"^def {name}\b", HOST.read_text("utf-8"), re.MULTILINE)}
    assert used - functions - {"py", "NAME"} == set(symbols())


@pytest.mark.parametrize("name", symbols())
def test_the_host_has_it(host, name: str) -> None:
    module, purpose = host.pack("nodes.host").SYMBOLS[name]
    found = getattr(importlib.import_module(module), name, None)
    assert found is not None, f"{module}.{name} is gone: {purpose}"
    assert getattr(host.pack("nodes.host"), name) is found


CALLS = {
    # what our calls give by position or name
    "load_models_gpu": {"memory_required"}, "VAE": {"sd", "config", "dtype"}, "CoreModelPatcher": {"load_device"},
    "load_state_dict_guess_config": {"output_clip", "metadata"}, "load_torch_file": {"return_metadata"},
    "archive_model_dtypes": {"model"}, "repeat_to_batch_size": {"tensor", "batch_size"},
    "get_save_image_path": {"filename_prefix", "output_dir"},
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_it_takes_what_we_give(host, name: str) -> None:
    parameters = inspect.signature(getattr(host.pack("nodes.host"), name)).parameters
    assert CALLS[name] <= set(parameters), host.pack("nodes.host").SYMBOLS[name]


@pytest.mark.parametrize(
    "name",
    ["encode", "encode_tiled", "decode", "decode_tiled", "get_sd", "model_size", "spacial_compression_encode",
     "spacial_compression_decode", "temporal_compression_decode", "throw_exception_if_invalid"],
)  # fmt: skip
def test_the_hosts_vae_has_the_methods(host, name: str) -> None:
    assert callable(getattr(host.pack("nodes.host").VAE, name)), "our VAE overrides it, or stock nodes call it"


@pytest.mark.parametrize(
    "name",
    ["latent_channels", "output_channels", "downscale_ratio", "upscale_ratio", "process_input", "memory_used_decode",
     "memory_used_encode", "first_stage_model", "patcher", "size", "device", "vae_dtype", "output_device"],
)  # fmt: skip
def test_the_hosts_vae_has_the_attributes(host, name: str) -> None:
    source = inspect.getsource(host.pack("nodes.host").VAE.__init__)
    assert f"self.{name}" in source, "our VAE sets or reads it"


def test_what_is_gone_is_said(host, monkeypatch) -> None:
    ours = host.pack("nodes.host")
    monkeypatch.setitem(ours.SYMBOLS, "gone", ("comfy.utils", "nothing"))
    with pytest.raises(RuntimeError, match=r"comfy\.utils\.gone.*nothing"):
        _ = ours.gone
    with pytest.raises(AttributeError):
        _ = ours.unknown


def test_the_host_is_told_of_a_training(host) -> None:
    import comfy.model_management

    def fails() -> None:
        with host.pack("nodes.host").told_of_training():
            assert comfy.model_management.in_training
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fails()
    assert not comfy.model_management.in_training


def test_device_contexts(host) -> None:
    with host.pack("nodes.host").device_context(torch.device("cpu")):
        pass
