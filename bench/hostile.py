"""Small files that ask for gigabytes or minutes, or to be written into: what reading them costs.

    python bench/hostile.py [--only NAME] [--json FILE]

Each is read in a process of its own, under limits on its memory and its time. Reading must cost at most a small
multiple of the file, whatever it says of itself, and end in a CheckpointError of one printable line below 500
characters. The table gives what reading added to the process's memory at its peak. The exit status is 1 if any failed.
"""

from __future__ import annotations

import argparse
import copy
import gc
import io
import json
import multiprocessing
import os
import pickle
import struct
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from clock import measured
from safetensors.torch import save_file

import asymvq
from asymvq.autoencoders import AutoencoderConfig
from asymvq.paint_by_example import load_head

MIB = 2**20
CPU_SECONDS, MORE_MEMORY = 60, 2**30
"""What stops a case. Both are far above what one may take."""
MOST_SECONDS, MOST_MIB, MOST_TIMES = 3.0, 64, 20
"""What a case may take: so many seconds of computing (of `clock.py`), and MiB, or times the file's size if more."""


class Call:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call: tuple[Any, ...] = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def zipped(path: Path, program: bytes, method: int = zipfile.ZIP_STORED, **entries: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", program)
        for name, content in entries.items():
            archive.writestr(f"a/data/{name.removeprefix('_')}", content)


def programs() -> dict[str, bytes]:
    """Of the format's own opcodes; each is tried as a zip and as torch's old format."""
    start = b"\x80\x02"
    tuples = start + b")" + b"2\x86" * 10 + b"2\x86" * 90
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n"
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpuK\4tQ"
    name = b"X" + struct.pack("<I", 2**20) + b"a" * 2**20 + b"q\0"
    copied = b"ccollections\nOrderedDict\nh\0\x85R0"
    colliding = [b"\x8a\x0c" + (n * (2**61 - 1)).to_bytes(12, "little") for n in range(60_000)]  # all hash to 0
    return {
        "3 GB of bytes in 20": b"\x80\x05\x96" + struct.pack("<Q", 3 * 2**30) + b"abc.",
        "2^62 bytes of text": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
        "nested tuples as keys": start + b"}" + tuples[2:] + b"K\1s.",
        "nested tuples as a set": b"\x80\x04\x8f(" + tuples[2:] + b"\x90.",
        "nested tuples as a storage": tuples + b"Q.",
        "nested tuples as a shape": start + tensor + b"(" + storage + b"K\0" + tuples[2:] + b")tR.",
        "a list copied 1 000 times": start + b"(" + b"K\1" * 90_000 + b"lq\0" + copied * 1000 + b".",
        "a dict copied 1 000 times": start + b"(" + b"K\1" * 90_000 + b"dq\0" + copied * 1000 + b".",
        "arguments copied 1 000 times": start + b"(" + b"K\1" * 90_000 + b"tq\0" + (tensor + b"h\0R0") * 1000 + b".",
        "400 000 class names": start + b"".join(b"cm\nC%d\n0" % n for n in range(400_000)) + b"N.",
        "long names again and again": start + name + b"0" + b"h\0h\0\x930" * 20_000 + b".",
        "8 MB of lists": start + b"]" * 2**23 + b".",
        "8 MB of dicts": start + b"}" * 2**23 + b".",
        "8 MB of marks": start + b"(" * 2**23 + b".",
        "lists in lists": start + b"]" * 90_000 + b"a" * 89_999 + b".",
        "keys that collide": start + b"}(" + b"N".join(colliding) + b"Nu.",
        "numbers of 60 000 digits": start + (b"L" + b"9" * 60_000 + b"L\n0") * 50 + b".",
        "attributes of our functions": start + tensor + b"}X\x0e\0\0\0__kwdefaults__}sb.",
        "attributes of a class": start + b"ccollections\nOrderedDict\n}X\x08\0\0\0__init__Nsb.",
        "attributes of a storage": start + storage + b"}X\5\0\0\0numelK\xffsb.",
        "a name that colours the terminal": start + b"cos\n\x1b[31m\x07system\n(tR.",
        "a key that colours the terminal": start + b"}X\6\0\0\0\x1b[31m\nK\1s.",
    }  # fmt: skip


def old_format(path: Path, program: bytes) -> None:
    head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path.write_bytes(head + program + pickle.dumps([], 2))


def rebuilt(*more: Any, size: tuple[int, ...] = (4,), stride: tuple[int, ...] = (1,)) -> Call:
    storage = torch.ones(4)._typed_storage()
    return Call(torch._utils._rebuild_tensor_v2, storage, 0, size, stride, False, OrderedDict(), *more)


def stock_shapes(width: int = 128) -> dict[str, torch.Size]:
    widths = (width, 2 * width, 4 * width, 4 * width)
    with torch.device("meta"):
        config = AutoencoderConfig(decoder_channels=widths, decoder_blocks=3, encoder_channels=widths, condition=None)
        return {name: t.shape for name, t in asymvq.AsymmetricAutoencoder(config).state_dict().items()}


def overlapping(path: Path) -> None:
    state = {name: torch.zeros(shape) for name, shape in stock_shapes(32).items() if "conv1.weight" in name}
    torch.save({f"decoder.{n}": next(iter(state.values())).clone() for n in range(500)}, path)
    with zipfile.ZipFile(path) as old:
        program = next(old.read(name) for name in old.namelist() if name.endswith("data.pkl"))
        data = old.read(next(name for name in old.namelist() if name.endswith("data/0")))
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("a/data.pkl", program)
        new.writestr("a/data/0", data)
        for n in range(1, 500):
            entry = copy.copy(new.getinfo("a/data/0"))
            entry.filename = f"a/data/{n}"
            new.filelist.append(entry)


def sparse_zip(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(2**40)
        content = io.BytesIO()
        torch.save({"decoder.conv_in.weight": torch.zeros(4)}, content)
        with zipfile.ZipFile(content) as old, zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))


def many_entries(path: Path) -> None:
    names = [b"a/data/%d" % n for n in range(200_000)]
    fields = struct.Struct("<4s6H3I5H2I")
    directory = b"".join(
        fields.pack(b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0) + name for name in names
    )
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 30, 0)
    path.write_bytes(b"PK\3\4" + bytes(26) + directory + end)


def header(path: Path, text: bytes, data: bytes = b"", length: int | None = None) -> None:
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(start: int, end: int, shape: list[int] | None = None) -> dict[str, Any]:
    return {"dtype": "U8", "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


def own_config(path: Path, text: bytes) -> None:
    tensors = {"asymvq.config": torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    save_file({**tensors, "asymvq.decoder.conv_in.weight": torch.zeros(4, 4, 3, 3)}, path)


def beside(path: Path, write: Callable[[Path], object]) -> None:
    """A diffusers file with another config.json."""
    save_file({"decoder.conv_in.weight": torch.zeros(4)}, path)
    write(path.with_name("config.json"))


def sparse_json(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(5 * 2**30)


def head_of(path: Path, blocks: int) -> None:
    tensors = {f"mapper.blocks.{n}.norm1.weight": torch.zeros(1) for n in range(blocks)}
    save_file({**tensors, "proj_out.weight": torch.zeros(1, 1)}, path)


def expanded(path: Path) -> None:
    torch.save({name: torch.zeros(1).expand(shape) for name, shape in stock_shapes().items()}, path)


def shared(path: Path) -> None:
    shapes = stock_shapes(64)
    flat = torch.zeros(max(shape.numel() for shape in shapes.values()))
    torch.save({name: flat[: shape.numel()].view(shape) for name, shape in shapes.items()}, path)


def levels(path: Path) -> None:
    names = [f"decoder.up.{level}.block.0.conv1.weight" for level in range(300)]
    names += [f"decoder.up.0.block.{block}.conv1.weight" for block in range(300)]
    other = {"decoder.conv_in.weight": torch.zeros(32, 4, 1, 1), "decoder.conv_out.weight": torch.zeros(3, 32, 1, 1)}
    save_file({**dict.fromkeys(names), **{n: torch.zeros(32, 1, 1, 1) for n in names}, **other}, path)


def named(path: Path, *names: str) -> None:
    """A small weight under each of these names."""
    save_file({name: torch.zeros(4, 4, 1, 1) for name in names}, path)


WAN = "decoder.middle.0.residual.0.gamma"
NEST = 100_000
FILES: dict[str, Callable[[Path], object]] = {
    **{f"zip: {name}": lambda path, code=code: zipped(path, code) for name, code in programs().items()},
    **{f"old: {name}": lambda path, code=code: old_format(path, code) for name, code in programs().items()},
    "zip: a deflated pickle": lambda path: zipped(path, bytes(2**26), zipfile.ZIP_DEFLATED),
    "zip: a bzip2 pickle": lambda path: zipped(path, bytes(2**24), zipfile.ZIP_BZIP2),
    "zip: deflated data": lambda path: zipped(
        path, pickle_of({"a": torch.zeros(2**22)}), zipfile.ZIP_DEFLATED, _0=bytes(2**24)
    ),
    "zip: 500 entries on the same bytes": overlapping,
    "zip: a terabyte of holes": sparse_zip,
    "zip: 200 000 entries": many_entries,
    "expanded weights": expanded,
    "300 tensors on one storage": shared,
    "a negative view": lambda path: torch.save({"a": rebuilt({"neg": True})}, path),
    "a conjugate view": lambda path: torch.save({"a": rebuilt({"conj": True, "neg": False})}, path),
    "300 × 300 levels and blocks": levels,
    "Wan: 9999 blocks": lambda path: named(path, WAN, "encoder.downsamples.9999.resample.1.weight"),
    "Wan: 20 000 levels": lambda path: named(
        path, WAN, *(f"decoder.upsamples.{n}.resample.1.weight" for n in range(20_000))
    ),
    "Wan: a number of 100 000 digits": lambda path: named(
        path, WAN, "encoder.downsamples." + "9" * 100_000 + ".resample.1.weight"
    ),
    "TAESD: 20 000 blocks": lambda path: named(
        path, "taesd_decoder.1.weight", *(f"taesd_decoder.{n}.conv.0.weight" for n in range(20_000))
    ),
    "TAESD: 9000 levels": lambda path: named(path, "1.weight", *(f"{n}.conv.0.weight" for n in range(3, 9_000, 2))),
    "FLUX.2: latents packed by 1024": lambda path: save_file(
        {"decoder.conv_in.weight": torch.zeros(4, 4, 1, 1), "bn.running_mean": torch.zeros(2**22)}, path
    ),
    "header: of 2^63 bytes": lambda path: header(path, b"{}", length=2**63),
    "header: 8 MB of lists": lambda path: header(path, b'{"a":[' + b"[]," * 2_700_000 + b"[]]}"),
    "header: 700 000 keys": lambda path: header(path, b"{" + b",".join(b'"%d":0' % n for n in range(700_000)) + b"}"),
    "header: nested": lambda path: header(path, b'{"a":' + b"[" * NEST + b"]" * NEST + b"}"),
    "header: overlaps": lambda path: header(
        path, json.dumps({str(n): entry(0, 2**20) for n in range(1000)}).encode(), bytes(2**20)
    ),
    "header: 2^62 elements": lambda path: header(path, json.dumps({"a": entry(0, 2**62)}).encode(), bytes(8)),
    "header: empty but wide": lambda path: header(
        path, json.dumps({"decoder.conv_in.weight": entry(0, 0, [2**62, 0, 2**62, 2**62])}).encode()
    ),
    "header: names of a megabyte": lambda path: header(
        path, json.dumps({"\x1b" * 2**17 + str(n): entry(n, n + 1) for n in range(4)}).encode(), bytes(4)
    ),
    "config: nested": lambda path: own_config(path, b"[" * NEST),
    "config: 10 000 blocks": lambda path: own_config(path, config_text(decoder_blocks=10_000)),
    "config: 2^62 channels": lambda path: own_config(path, config_text(decoder_channels=[2**62] * 4)),
    "config: 100 000 levels": lambda path: own_config(path, config_text(decoder_channels=[32] * 100_000)),
    "config.json: nested": lambda path: beside(path, lambda other: other.write_bytes(b"[" * NEST)),
    "config.json: 5 GB of holes": lambda path: beside(path, sparse_json),
    "head: 20 000 blocks": lambda path: head_of(path, 20_000),
    "a pipe": lambda path: os.mkfifo(path),
}


UNLIKE_A_FILE = ("zip: a terabyte of holes", "config.json: 5 GB of holes", "a pipe")
"""Those that cannot be read back and mutated."""


def config_text(**change: Any) -> bytes:
    return json.dumps({"format": 1, "config": {**AutoencoderConfig().to_dict(), **change}}).encode()


def pickle_of(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    with zipfile.ZipFile(file) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


@dataclass
class Outcome:
    name: str
    size: int
    seconds: float = 0.0
    mib: float = 0.0
    message: str = ""
    wrong: str = ""


def read_one(pipe: Connection, name: str, path: Path) -> None:
    import resource  # not on Windows

    limit = psutil.Process().memory_info().vms + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    outcome = Outcome(name, path.stat().st_blocks * 512)
    gc.freeze()  # looking through what this process was forked with, which copies it, is no cost of the file
    with measured() as cost:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            load_head(path) if name.startswith("head") else asymvq.load(path)
            outcome.wrong = "loaded"
        except asymvq.CheckpointError as error:
            outcome.message = str(error)
        except BaseException as error:
            outcome.wrong = f"{type(error).__name__}: {str(error)[:200]}"
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome.seconds = cost.seconds
    outcome.mib = (after - before) / 1024
    most = max(MOST_MIB, MOST_TIMES * outcome.size / MIB)
    if not outcome.wrong and (outcome.seconds > MOST_SECONDS or outcome.mib > most):
        outcome.wrong = f"{outcome.seconds:.1f} s and {outcome.mib:.0f} MiB"
    if not outcome.wrong and not (30 < len(outcome.message) < 500 and outcome.message.isprintable()):
        outcome.wrong = f"a message of {len(outcome.message)} characters: {outcome.message[:100]!r}"
    pipe.send(outcome)


def try_file(name: str, folder: Path) -> Outcome:
    """Writes the file and reads it in a fork of this process, which has imported everything."""
    path = folder / "diffusion_pytorch_model.safetensors"
    for old in folder.iterdir():
        old.unlink()
    FILES[name](path)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=read_one, args=(theirs, name, path))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return Outcome(name, path.stat().st_blocks * 512, wrong=f"died with status {process.exitcode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [try_file(name, Path(folder)) for name in FILES if args.only in name]
    print(f"{'file':42} {'KB':>8} {'seconds':>8} {'MiB':>6}  outcome")
    for o in outcomes:
        said = f"FAILED: {o.wrong}" if o.wrong else "refused"
        print(f"{o.name:42} {o.size / 1000:8.0f} {o.seconds:8.2f} {o.mib:6.0f}  {said}")
    if args.json:
        args.json.write_text(json.dumps([asdict(o) for o in outcomes], indent=1), encoding="utf-8")
    sys.exit(any(o.wrong for o in outcomes))


if __name__ == "__main__":
    main()
