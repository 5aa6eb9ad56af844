"""Pickles: weights come out, nothing runs."""

from __future__ import annotations

import argparse
import builtins
import copyreg
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch

from asymvq.checkpoint import CheckpointError, read_tensors


def read_pickle(path):
    return read_tensors(path)[0]


class LocalCallback:
    def __init__(self):
        self.best = torch.tensor(0.5)


class OldStyle:
    def __reduce__(self):
        return copyreg._reconstructor, (OldStyle, object, None), {"a": 1}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def zip_with(path, program: bytes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/byteorder", "little")
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_what_torch_writes(zipped, tmp_path):
    base = torch.arange(24.0)
    state = OrderedDict(
        plain=torch.randn(3, 4),
        half=torch.randn(5).half(),
        bfloat=torch.randn(5).bfloat16(),
        integers=torch.arange(4),
        view=base.view(4, 6)[1:3, ::2],
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
        scalar=torch.tensor(3.0),
        empty=torch.zeros(0, 3),
        shared=base,
        no_tensor="text",
    )
    state._metadata = {"": {"version": 1}}
    torch.save({"state_dict": state, "epoch": 1}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    read = read_pickle(tmp_path / "x.ckpt")
    assert list(read) == [name for name in state if name != "no_tensor"]
    for name, tensor in read.items():
        assert tensor.dtype == state[name].dtype
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_reads_beside_foreign_objects(zipped, tmp_path):
    omegaconf = pytest.importorskip("omegaconf")
    content = {
        "state_dict": {"a": torch.ones(2)},
        "callbacks": {LocalCallback: LocalCallback(), "old": OldStyle()},
        "hyper_parameters": omegaconf.OmegaConf.create({"ch_mult": [1, 2, 4, 4], "name": "x"}),
        "arguments": argparse.Namespace(lr=1e-4, path=pathlib.Path("a/b")),
        "numbers": [np.float64(1.5), np.arange(3), {1, 2}, defaultdict(list, a=[1]), torch.device("cpu"), b"bytes"],
        "types": [torch.float16, torch.Size([1, 2]), torch.nn.functional.relu],
        "optimizer_states": [torch.optim.Adam([torch.nn.Parameter(torch.ones(2))]).state_dict()],
    }
    torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_pickle(tmp_path / "x.ckpt")["a"], torch.ones(2))


def test_imports_no_module_that_a_pickle_names(tmp_path, monkeypatch):
    module = types.ModuleType("foreign_project")
    module.Callback = type("Callback", (), {"__module__": "foreign_project"})
    monkeypatch.setitem(sys.modules, "foreign_project", module)
    torch.save({"state_dict": {"a": torch.ones(2)}, "callback": module.Callback()}, tmp_path / "x.ckpt")
    monkeypatch.delitem(sys.modules, "foreign_project")
    (tmp_path / "foreign_project.py").write_text("class Callback: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(read_pickle(tmp_path / "x.ckpt")) == ["a"]
    assert "foreign_project" not in sys.modules


MARKER = "executed"
ATTACKS = {
    "os.system": (Call(os.system, f"touch {MARKER}"), r"(posix|nt)\.system"),
    "eval": (Call(eval, f"open('{MARKER}', 'w')"), r"builtins\.eval"),
    "exec": (Call(exec, f"open('{MARKER}', 'w')"), r"builtins\.exec"),
    "open": (Call(builtins.open, MARKER, "w"), r"io\.open"),
    "Popen": (Call(subprocess.Popen, ["touch", MARKER]), r"subprocess\.Popen"),
    "getattr": (Call(getattr, "a", "upper"), r"builtins\.getattr"),
    "partial": (functools.partial(os.system, f"touch {MARKER}"), r"functools\.partial"),
    "nested pickle": (Call(pickle.loads, pickle.dumps(Call(os.system, f"touch {MARKER}"))), r"_?pickle\.loads"),
    "torch.load": (Call(torch.load, MARKER), r"torch\.serialization\.load"),
    "in a list in a dict": ({"a": [Call(os.system, f"touch {MARKER}")]}, r"(posix|nt)\.system"),
}


@pytest.mark.parametrize("how", ["zip", "legacy", "bare"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_refuses_calls(attack, how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    payload, name = ATTACKS[attack]
    content = {"state_dict": {"a": torch.ones(2)}, "payload": payload}
    if how == "bare":
        (tmp_path / "x.ckpt").write_bytes(pickle.dumps(payload))
    else:
        torch.save(content, tmp_path / "x.ckpt", _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(CheckpointError, match=name):
        read_pickle(tmp_path / "x.ckpt")
    assert not (tmp_path / MARKER).exists()


TOUCH = f"V touch {MARKER}\n".encode()
PROGRAMS = {
    "INST": (b"(" + TOUCH + b"ios\nsystem\n.", r"os\.system"),
    "OBJ": (b"(cos\nsystem\n" + TOUCH + b"o.", r"os\.system"),
    "Python 2 names": (b"c__builtin__\neval\n(V1\ntR.", r"builtins\.eval"),
    "BUILD then call": (
        b"cargparse\nNamespace\n)\x81}V__setstate__\ncos\nsystem\nsb" + TOUCH + b"b.",
        r"os\.system",
    ),
    "BUILD on a class": (b"cforeign\nThing\n}V__init__\ncforeign\nrun\nsb(tR.", "damaged"),
    "NEWOBJ": (b"\x80\x02cforeign\nrun\n" + TOUCH + b"\x85\x81.", r"foreign\.run"),
    "third-party function": (b"cnumpy.testing._private.utils\nrunstring\n(" + TOUCH + b"}tR.", "runstring"),
    "dotted name": (b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93" + TOUCH + b"\x85R.", r"os\.system"),
    "reconstructor": (b"ccopy_reg\n_reconstructor\n(cforeign\nrun\nc__builtin__\nobject\nNtR.", r"foreign\.run"),
    "rebuild of a subclass": (b"ctorch._tensor\n_rebuild_from_type_v2\n(cforeign\nrun\nN(t}tR.", r"foreign\.run"),
    "extension registry": (b"\x80\x02\x82\x01.", "copyreg"),
    "call of a string": (b"Vtext\n(tR.", "cannot be read"),
    "huge memo index": (b"\x80\x02Nr\xff\xff\xff\xff.", "state dict"),
    "huge string": (b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0fabc.", "cannot be read"),
    "cut short": (b"\x80\x02}q\x00", "cannot be read"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_refuses_programs(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, message = PROGRAMS[program]
    with pytest.raises(CheckpointError, match=message):
        read_pickle(zip_with(tmp_path / "x.ckpt", code))
    assert not (tmp_path / MARKER).exists()


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (1000,), (1,)), (2, (2, 2), (1, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)), (0, ("2",), (1,))],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_refuses_tensors_outside_their_storage(offset, size, stride, zipped, tmp_path):
    storage = torch.ones(4)._typed_storage()
    tensor = Call(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())
    torch.save({"a": tensor}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(tmp_path / "x.ckpt")


def test_tensors_cannot_be_altered_after_they_were_made(tmp_path):
    tensor = Call(torch._utils._rebuild_tensor_v2, torch.ones(4)._typed_storage(), 0, (4,), (1,), False, OrderedDict())
    tensor.call = (*tensor.call, {"offset": 100})  # a BUILD with this state follows
    torch.save({"a": tensor}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(tmp_path / "x.ckpt")


def test_refuses_torchscript(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_pickle(tmp_path / "x.pt")


def test_refuses_a_whole_model(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"state dict.*torch\.nn\.modules\.linear\.Linear"):
        read_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_refuses_a_cut_file(share, zipped, tmp_path):
    torch.save({"a": torch.randn(5000)}, tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "x.ckpt").read_bytes()
    (tmp_path / "x.ckpt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(tmp_path / "x.ckpt")


def test_reading_leaves_the_file_alone(tmp_path):
    torch.save({"a": torch.zeros(5)}, tmp_path / "x.ckpt")
    before = (tmp_path / "x.ckpt").read_bytes()
    read_pickle(tmp_path / "x.ckpt")["a"].fill_(1)
    assert (tmp_path / "x.ckpt").read_bytes() == before


@pytest.mark.parametrize("pair", [list, tuple])
def test_reads_an_ordered_dict_as_python_2_wrote_it(pair, tmp_path):
    torch.save(Call(OrderedDict, [pair(("a", torch.ones(2))), pair(("b", torch.zeros(3)))]), tmp_path / "a.pt")
    tensors = read_pickle(tmp_path / "a.pt")
    assert tensors["a"].tolist() == [1, 1]
    assert tensors["b"].tolist() == [0, 0, 0]


def test_reads_many_small_tensors(tmp_path):
    # more steps for their size than any model takes
    torch.save({f"tensor {n}": torch.ones(1) for n in range(3000)}, tmp_path / "a.pt")
    assert len(read_pickle(tmp_path / "a.pt")) == 3000


# Nested dicts


def test_tensors_of_nested_dicts_get_dotted_names(tmp_path):
    one = torch.ones(2)
    content = {
        "model": {"a.b": one, "n": 3},
        "state_dict": {"c": one},
        "e": {"f": {"state_dict": {"g": one}}},
        "h": one,
    }
    torch.save(content, tmp_path / "a.pt")
    assert read_pickle(tmp_path / "a.pt").keys() == {"model.a.b", "c", "e.f.g", "h"}


def test_a_name_of_two_tensors_is_refused(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "a": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="one tensor each, but a names several"):
        read_pickle(tmp_path / "a.pt")


def test_shared_dicts_do_not_multiply(tmp_path):
    content = {str(i): torch.ones(1) for i in range(100)}
    for _ in range(4):
        content = {str(i): content for i in range(100)}
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="more than 200000 entries"):
        read_pickle(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16], ids=str)
def test_types_without_a_storage_of_their_own(dtype, tmp_path):
    tensor = torch.arange(6).reshape(2, 3).to(dtype)
    try:
        torch.save({"a": tensor}, tmp_path / "a.pt")
    except KeyError:
        pytest.skip(f"this torch cannot write {dtype}")
    assert torch.equal(read_pickle(tmp_path / "a.pt")["a"].float(), tensor.float())
