"""Files are read, not mapped, and only what is taken of them; safetensors headers as their own library reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load as library_load
from safetensors.torch import save as library_save
from safetensors.torch import save_file

import asymvq
from asymvq.autoencoders import AutoencoderConfig
from asymvq.checkpoint import CheckpointError, read, read_tensors
from asymvq.checkpoint.reading import open_tensors
from asymvq.checkpoint.source import Source, parse_json, read_json
from asymvq.checkpoint.tensors import read_each

TINY = AutoencoderConfig(
    decoder_channels=(32, 64), decoder_blocks=1, encoder_channels=(32, 64), encoder_blocks=1, norm_groups=32
)


@pytest.fixture
def tiny(make_vae):
    return make_vae(TINY)


CHANGED_IN_USE = """
    import os, sys, torch, asymvq
    path = sys.argv[1]
    vae = asymvq.load(path)
    size = os.path.getsize(path)
    if sys.argv[2] == "truncate":
        os.truncate(path, 0)
    else:
        with open(path, "r+b") as file:
            file.write(bytes(size // 2))
            file.truncate()
    total = sum(float(p.double().sum()) for p in vae.parameters())
    with torch.inference_mode():
        picture = vae.decode(torch.zeros(1, vae.config.latent_channels, 2, 2))
    print(total, float(picture.double().sum()))
"""


@pytest.mark.parametrize("how", ["truncate", "overwrite"])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_a_file_that_is_changed_in_use_changes_nothing(kind, how, tmp_path, tiny):
    path = tmp_path / ("vae.safetensors" if kind == "safetensors" else "vae.ckpt")
    if kind == "safetensors":
        asymvq.save(tiny, path)
    else:
        names = {n.replace("decoder.condition_encoder.", "decoder.encoder."): t for n, t in tiny.state_dict().items()}
        torch.save(names, path, _use_new_zipfile_serialization=kind == "zip")
    with torch.inference_mode():
        picture = tiny.decode(torch.zeros(1, tiny.config.latent_channels, 2, 2))
    total = sum(float(p.double().sum()) for p in tiny.parameters())
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHANGED_IN_USE), str(path), how], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert [float(word) for word in result.stdout.split()] == pytest.approx(
        [total, float(picture.double().sum())], abs=1e-6
    )


@pytest.mark.parametrize("left", [0, 1, 2**15, 2**17 - 1])
def test_a_file_that_gets_shorter_while_it_is_read_is_an_error(left, tmp_path):
    save_file({"a": torch.ones(2**15), "b": torch.ones(3)}, tmp_path / "a.safetensors")
    with open_tensors(tmp_path / "a.safetensors") as file:
        os.truncate(tmp_path / "a.safetensors", left)
        with pytest.raises(CheckpointError, match="got shorter"):
            dict(read_each(file.tensors, [file]))


def test_only_what_is_taken_is_read(tmp_path):
    save_file({"big": torch.ones(2**24), "small": torch.arange(12.0).view(3, 4)}, tmp_path / "a.safetensors")
    with open_tensors(tmp_path / "a.safetensors") as file:
        assert all(tensor.is_meta for tensor in file.tensors.values())
        before = file._source.allowance
        view = file.tensors["small"][1:, None, ::2]
        taken = dict(read_each({"x": view}, [file]))
        assert torch.equal(taken["x"], torch.arange(12.0).view(3, 4)[1:, None, ::2])
        assert before - file._source.allowance < 100


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_tensors_of_one_storage_are_read_once_and_apart(zipped, tmp_path):
    flat = torch.arange(2.0**20)
    views = {str(n): flat[n * 4096 : (n + 1) * 4096].view(64, 64) for n in range(256)}
    torch.save(views, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    tensors, _ = read_tensors(tmp_path / "a.ckpt")
    assert all(torch.equal(tensors[name], view) for name, view in views.items())
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors.values()) == flat.nbytes
    tensors["0"].zero_()
    assert tensors["1"][0, 0] == 4096


def test_tied_weights_do_not_share_memory(tmp_path):
    weight = torch.ones(4)
    torch.save({"a": weight, "b": weight, "c": weight[:1].expand(4)}, tmp_path / "a.ckpt")
    with open_tensors(tmp_path / "a.ckpt") as file:
        tensors = dict(read_each(file.tensors, [file]))
    tensors["a"].zero_()
    tensors["c"][0] = 5
    assert tensors["b"].tolist() == [1, 1, 1, 1]
    assert tensors["c"].tolist() == [5, 1, 1, 1]


def test_a_pipe_and_a_device_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(CheckpointError, match="Expected a file"):
            read_tensors(path)


def test_the_allowance_bounds_all_reads_together(tmp_path):
    (tmp_path / "a").write_bytes(bytes(100))
    with Source(tmp_path / "a") as source:
        source.allowance = 250
        assert source.read_at(0, 100) == source.read_at(0, 100)
        with pytest.raises(CheckpointError, match="read once"):
            source.read_at(0, 100)
        with pytest.raises(CheckpointError, match="cut short"):
            source.read_at(50, 51)


@pytest.mark.parametrize("text", [b"[1]", b"3", b"{", b"\xff", b"[" * 10**5, b'{"a":' * 10**5, b"9" * 10**5])
def test_json_that_is_no_object_is_a_value_error(text, tmp_path):
    with pytest.raises(ValueError):  # noqa: PT011 - of any kind
        parse_json(text)
    (tmp_path / "a").write_bytes(text)
    with pytest.raises(ValueError):  # noqa: PT011
        read_json(tmp_path / "a")


# Safetensors headers


def is_written(dtype: torch.dtype) -> bool:
    """By the library that is installed: older ones know fewer types."""
    try:
        library_save({"a": torch.zeros(1, dtype=dtype)})
    except KeyError:
        return False
    return True


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool,
          torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32,
          torch.uint64, torch.complex64]  # fmt: skip
WRITTEN = [dtype for dtype in DTYPES if is_written(dtype)]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8),
        st.tuples(st.sampled_from(WRITTEN), st.lists(st.integers(0, 4), max_size=4)),
        min_size=1,  # of none the library writes what it cannot read
        max_size=6,
    ),
    st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_reads_what_the_library_writes(tmp_path_factory, shapes, metadata):
    tensors = {
        name: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype)
        for name, (dtype, shape) in shapes.items()
        if name != "__metadata__"
    }
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    path.write_bytes(library_save(tensors, metadata))
    read_back, found = read_tensors(path)
    assert read_back.keys() == tensors.keys()
    assert found == metadata
    for name, tensor in tensors.items():
        assert read_back[name].dtype == tensor.dtype
        assert read_back[name].shape == tensor.shape
        assert read_back[name].view(-1).view(torch.uint8).equal(tensor.view(-1).view(torch.uint8)) or not tensor.numel()


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS = {
    "a hole": {"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}},
    "an overlap": {"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}},
    "the same bytes": {"a": ENTRY, "b": ENTRY},
    "another shape": {"a": {**ENTRY, "shape": [3]}},
    "a negative shape": {"a": {**ENTRY, "shape": [-2]}},
    "a huge shape": {"a": {**ENTRY, "shape": [2**62, 2**62]}},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "text for a shape": {"a": {**ENTRY, "shape": "2"}},
    "another type": {"a": {**ENTRY, "dtype": "F3"}},
    "a list for a type": {"a": {**ENTRY, "dtype": []}},
    "offsets backwards": {"a": {**ENTRY, "data_offsets": [8, 0]}},
    "three offsets": {"a": {**ENTRY, "data_offsets": [0, 8, 8]}},
    "bytes left": {"a": {**ENTRY, "data_offsets": [0, 4], "shape": [1]}},
    "no object": {"a": 3},
    "metadata that is no text": {"a": ENTRY, "__metadata__": {"x": 3}},
    "a list of metadata": {"a": ENTRY, "__metadata__": ["x"]},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_refuses_what_the_library_refuses(kind, tmp_path):
    text = json.dumps(HEADERS[kind]).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(8 if len(HEADERS[kind]) < 2 else 20)
    with pytest.raises(SafetensorError):
        library_load(content)
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_tensors(tmp_path / "a.safetensors")


def test_loading_takes_little_more_python_memory_than_the_header(tmp_path, tiny):
    asymvq.save(tiny, tmp_path / "a.safetensors")
    read(tmp_path / "a.safetensors")
    tracemalloc.start()
    read(tmp_path / "a.safetensors")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
