"""Damaged and hostile input: mutated checkpoints, masks and graphs. None may crash, hang or write where it likes.

    python bench/fuzz.py files [--count 2000] [--seed 0]      checkpoints of every layout, mutated, loaded, decoded
    python bench/fuzz.py calls [--count 500]                  asymvq.decode with other shapes, types and values
    python bench/fuzz.py prompts --host COMFYUI [--count 300] graphs in API format, mutated, queued in a real ComfyUI

A case passes if it works, or ends in an error of ours: a ValueError or TypeError (CheckpointError is one) whose message
says what was expected. Anything else is printed with its number: `--first N --count 1` runs it again. Files and calls
run in a process that may take 2 GiB, and is replaced when it dies, or takes longer than 30 seconds for a case. Reading
a file may take 5 seconds of computing, and 64 MiB or 20 times the file; see `bench/hostile.py`, whose files are mutated
too. Files that appear where they should not are failures. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import io
import json
import multiprocessing
import os
import pickle
import random
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from safetensors.torch import save_file
from torch import Tensor

import asymvq
from asymvq.autoencoders import FAMILIES, AutoencoderConfig, Layout, tiny, wan
from asymvq.config import ConditionConfig, ConditionKind, Config

try:
    import resource
except ImportError:  # Windows: without limits
    resource = None

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))
import hostile  # noqa: E402

SECONDS = 30
MOST_MEMORY = 2**31
READ_SECONDS, READ_MIB, READ_TIMES = 5.0, 64, 20
WIDTHS = (32, 64, 64, 64)  # of the published layouts' 32 groups, four levels as diffusers wants
TINY = AutoencoderConfig(decoder_channels=WIDTHS, decoder_blocks=1, encoder_channels=WIDTHS, encoder_blocks=1)
STOCK = dataclasses.replace(TINY, condition=None)
SEES_MASK = dataclasses.replace(TINY, condition=ConditionConfig(sees_mask=True))
PACKED = dataclasses.replace(STOCK, latent_channels=16, decoder_blocks=2, latent_packing=2)
SMALL: dict[str, Config] = {
    "kl": PACKED,
    "wan": wan.Config(
        latent_channels=4, decoder_channels=(16, 16, 32), decoder_blocks=2, encoder_channels=(16, 16, 32),
        encoder_blocks=1, temporal=(False, True),
    ),
    "tiny": tiny.Config(decoder_channels=(16,) * 3, decoder_blocks=(1,) * 3, encoder_channels=(16,) * 3,
                        encoder_blocks=(1,) * 3),
}  # fmt: skip
"""Of every family a shape that all its layouts have."""
NOT_ALONE = {Layout.PAPER, Layout.ASUKA, Layout.DIFFUSERS, Layout.TAESD_ENCODER}
"""Layouts of decoders with a condition, which are above; and what is no decoder."""
ALIEN: list[Any] = [
    None, "", "x" * 10_000, "../../escaped", "/escaped", "con", "a\0b", "🦄", -1, 0, 1, 2**31, 2**63, -(2**63), 1e308,
    float("nan"), float("inf"), True, [], {}, [[]], {"a": {"b": []}},
]  # fmt: skip


class Canary:
    """A pickle of this runs code, if anybody lets it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def write_seeds(folder: Path) -> list[Path]:
    """A small file of every layout."""
    torch.manual_seed(0)
    vae, stock, sees = (asymvq.AsymmetricAutoencoder(config) for config in (TINY, STOCK, SEES_MASK))
    asymvq.save(vae, folder / "native.safetensors")
    asymvq.save(sees, folder / "native_sees_mask.safetensors")
    asymvq.save(vae, folder / "diffusers", layout="diffusers", latents="sd")
    weights = next((folder / "diffusers").glob("*.safetensors"))
    (folder / "diffusers.safetensors").write_bytes(weights.read_bytes())
    state = {f"first_stage_model.{name}": tensor for name, tensor in stock.state_dict().items()}
    torch.save({"state_dict": state, "global_step": 1}, folder / "zipped.ckpt")
    torch.save({"state_dict": state}, folder / "legacy.ckpt", _use_new_zipfile_serialization=False)
    for family in FAMILIES:
        small = asymvq.AsymmetricAutoencoder(SMALL[family.NAME])
        for condition in (ConditionConfig(), ConditionConfig(kind=ConditionKind.AFFINE, channels=8)):
            shown = asymvq.AsymmetricAutoencoder(small.config.replaced(condition=condition))
            asymvq.save(shown, folder / f"native_{family.NAME}_{condition.kind.value}.safetensors")
        for layout in family.LAYOUTS:
            if layout in NOT_ALONE:
                continue
            tensors, metadata = family.write(small.state_dict(), small.config, layout)
            name = f"taesd_{layout.value.replace(' ', '_')}"
            save_file(tensors, folder / f"{name}.safetensors", metadata=metadata or None)
            torch.save(tensors, folder / f"{name}.ckpt")
    return sorted(path for path in folder.iterdir() if path.is_file())


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, holes and repeats; most of them where the structure is."""
    changed = bytearray(data)
    start = len(data) // 2 if rng.random() < 0.2 else 0  # in the second half there are mostly weights
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if not changed:
            break
        reach = rng.choice((64, 4096, len(changed)))
        at = min(start + rng.randrange(min(reach, len(changed))), len(changed) - 1)
        if not start and rng.random() < 0.2:
            at = len(changed) - 1 - at  # a zip's directory lies at the end
        what = rng.randrange(2 if start else 6)
        if what == 0:
            changed[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif what == 2:
            del changed[at:]
        elif what == 3:
            del changed[at : at + rng.randrange(1, 64)]
        elif what == 4:
            changed[at:at] = rng.randbytes(rng.randrange(1, 64))
        else:
            changed[at : at + 8] = rng.choice((0, 2**31, 2**63 - 1, 2**64 - 1)).to_bytes(8, "little")
    return bytes(changed)


def mutate_safetensors(data: bytes, rng: random.Random) -> bytes:
    """Another header over the same bytes."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    for _ in range(rng.choice((1, 1, 3))):
        name = rng.choice(list(header))
        if name == "__metadata__":
            key = rng.choice(list(header[name]))
            header[name][key] = rng.choice((str(rng.choice(ALIEN)), mutate_text(header[name][key], rng)))
            continue
        entry = header[name]
        what = rng.randrange(6)
        if what == 0:
            entry["dtype"] = rng.choice(("F32", "F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "X"))
        elif what == 1:
            entry["shape"] = [rng.choice((0, 1, 3, 8, 2**31, 2**62)) for _ in range(rng.randrange(6))]
        elif what == 2:
            entry["data_offsets"] = [rng.choice((0, 8, length, 2**62, -1)) for _ in range(2)]
        elif what == 3:
            del header[name]
            if len(header) < 2:
                break
        elif what == 4:
            header[name.replace(".", rng.choice(("_", "..", ".0.")), 1)] = header.pop(name)
        else:
            header[rng.choice(("x", "decoder.conv_in.weight", "decoder.up.99.block.0.conv1.weight"))] = entry
    text = json.dumps(header).encode()
    if rng.random() < 0.5:  # only a header of the old length keeps the offsets' meaning in every reader
        text = text[:length].ljust(length)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def mutate_text(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    return text[:at] + rng.choice(("", '"', "}", "9" * 30, "-1", "null", "\0")) + text[at + rng.randrange(4) :]


def mutate_zip(data: bytes, rng: random.Random, canary: Path) -> bytes:
    """A torch checkpoint with another pickle or other entries."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w") as new:
        what = rng.randrange(5)
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                if what == 0:
                    content = pickle.dumps({"state_dict": Canary(canary)}, protocol=rng.choice((2, 4)))
                elif what == 1:
                    content = b"\x80\x02c" + f"os\nmkdir\nX{chr(0) * 4}".encode() + content
                elif what == 2:
                    content = mutate_bytes(content, rng)
            elif what == 3 and rng.random() < 0.1:
                content = mutate_bytes(content, rng)
            elif what == 4 and rng.random() < 0.1:
                name = rng.choice(("../../escaped", "/escaped", name + "x", name))
            new.writestr(name, content)
    return result.getvalue()


FIELD_VALUES: list[Any] = [
    *ALIEN, "4", 4.0, 0.5, -4, 2**40, 2**62, 10_000, 64, [], [32], [32] * 4, [64, 128, 192, 320], [0] * 4, [-32] * 4,
    [2**40] * 4, [2**62] * 4, [32.0] * 4, ["32"] * 4, [None] * 4, [32] * 10_000, [[32] * 4], {"sees_mask": 1}, False,
]  # fmt: skip


def mutate_config(data: bytes, rng: random.Random) -> bytes:
    """One of our own files with another config in it."""
    tensors = load_bytes(data)
    content: dict[str, Any] = json.loads(bytes(tensors["asymvq.config"].tolist()))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        targets = [content, *[content["config"]] * 8] if isinstance(content.get("config"), dict) else [content]
        target = rng.choice(targets)
        if target is not content and isinstance(target.get("condition"), dict) and rng.random() < 0.2:
            target = target["condition"]
        name = rng.choice([*target, "unknown"])
        what = rng.randrange(8)
        if what == 0:
            target.pop(name, None)
        elif what == 1 and isinstance(target.get(name), list) and target[name]:
            target[name] = copy.copy(target[name])
            target[name][rng.randrange(len(target[name]))] = rng.choice(FIELD_VALUES)
        else:
            target[name] = rng.choice(FIELD_VALUES)
    text = json.dumps(content)
    if rng.random() < 0.1:
        text = rng.choice((mutate_text(text, rng), text.replace("{", "[" * 100_000, 1), f"[{text}]", text * 2))
    raw = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
    dtype = rng.choice((torch.uint8,) * 6 + (torch.float16, torch.float32))
    return save_bytes({**tensors, "asymvq.config": raw.to(dtype)})


def write_mutated(path: Path, original: Path, rng: random.Random, canary: Path) -> str:
    """Writes a changed `original` to `path`, and says how it was changed."""
    data = original.read_bytes()
    if rng.random() < 0.2:
        names = [name for name in hostile.FILES if name not in hostile.UNLIKE_A_FILE]
        hostile.FILES[rng.choice(names)](path)
        changed, kind = path.read_bytes(), "hostile"
        path.with_name("config.json").unlink(missing_ok=True)
        if rng.random() < 0.7:
            changed = mutate_bytes(changed, rng)
    elif original.name.startswith("native") and rng.random() < 0.7:
        changed, kind = mutate_config(data, rng), "config"
    elif original.suffix == ".safetensors" and rng.random() < 0.6:
        changed, kind = mutate_safetensors(data, rng), "header"
    elif original.suffix == ".ckpt" and original.name != "legacy.ckpt" and rng.random() < 0.6:
        changed, kind = mutate_zip(data, rng, canary), "zip"
    else:
        changed, kind = mutate_bytes(data, rng), "bytes"
    path.write_bytes(changed)
    return kind


def peak() -> float:
    """MiB that this process has taken at most so far."""
    return 0.0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def file_case(number: int, seed: int, folder: Path) -> str:
    """Loads a mutated checkpoint; what loads has to decode."""
    rng = random.Random(f"{seed} file {number}")
    canary = folder / "ran"
    original = rng.choice([path for path in sorted((folder / "seeds").iterdir()) if path.is_file()])
    # some under another layout's ending: the content counts
    suffix = rng.choice((original.suffix, original.suffix, ".safetensors", ".ckpt", ".bin"))
    path = folder / "case" / f"taesd{suffix}"  # a name that tells what some layouts do not
    kind = write_mutated(path, original, rng, canary)
    before = sorted(folder.rglob("*"))
    memory, start = peak(), time.process_time()
    try:
        vae = asymvq.load(path)
    except asymvq.CheckpointError as error:
        vae, message = None, str(error)
        if not 30 < len(message) < 500 or not message.isprintable():
            return f"FAILED: says {len(message)} characters, {message[:100]!r}"
    took, memory = time.process_time() - start, peak() - memory
    if took > READ_SECONDS or memory > max(READ_MIB, READ_TIMES * path.stat().st_size / 2**20):
        return f"FAILED: {kind}: reading took {took:.1f} s and {memory:.0f} MiB"
    outcome = "refused" if vae is None else "loaded"
    if vae is not None:
        with torch.inference_mode():
            channels = vae.config.latent_channels
            # as the host does: half precision and what overflows is somebody else's case
            try:
                vae.float().decode(torch.zeros(1, channels, 4, 4))
            except ValueError as error:  # finite weights that are too large for any picture
                outcome = "loaded, but refused to decode" if "NaN or infinity" in str(error) else f"FAILED: {error}"
    if sorted(folder.rglob("*")) != before:
        return "FAILED: wrote a file, or ran code"
    return f"{outcome}, {kind}"


def call_case(number: int, seed: int, folder: Path) -> str:
    """Decodes with other shapes, types and values."""
    rng = random.Random(f"{seed} call {number}")
    generator = torch.Generator().manual_seed(number)
    vae = _seed_vae(folder, rng.choice(("native", "native_sees_mask")))

    count = rng.choice((1, 1, 2))

    def tensor(channels: int, size: int) -> Tensor:
        shape = [rng.choice((count, count, count, 1)), channels, size, size]
        for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            shape[rng.randrange(4)] = rng.choice((0, 1, 2, 3, 5, 7, 17, 33))
        if rng.random() < 0.03:
            shape = shape[rng.randrange(1, 4) :]
        values = torch.randn(shape, generator=generator) * rng.choice((1, 1, 1, 1, 1, 0, 1e4, 1e30))
        if rng.random() < 0.05 and values.numel():
            values.view(-1)[rng.randrange(values.numel())] = rng.choice((float("nan"), float("inf")))
        return values.to(
            rng.choice((torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool))
        )

    latent = tensor(4, 8)
    image, mask = (tensor(channels, 64) if rng.random() < 0.9 else None for channels in (3, 1))
    if mask is not None and rng.random() < 0.9 and mask.dtype.is_floating_point:
        mask = mask.abs().clamp(max=1).round()
    options: dict[str, Any] = {
        "keep": rng.choice((*("exact", "network") * 8, "all", None)),
        "region": rng.choice((*("auto", "masked", "full") * 5, "some")),
    }
    if rng.random() < 0.3:
        options |= {"tile": rng.choice((16, 32, 64, 0, -8, 10**9)), "overlap": rng.choice((0, 8, 16, -1, 10**9))}
    try:
        result = asymvq.decode(vae, latent, image=image, mask=mask, **options)
    except (ValueError, TypeError) as error:
        return "refused" if len(str(error)) > 30 else f"FAILED: says only {error!r}"
    # kept pixels come back as they came, whatever they are
    if not torch.isfinite(result).all() and (image is None or torch.isfinite(image).all()):
        return "FAILED: NaN or infinity came out"
    return "decoded"


_VAES: dict[str, asymvq.AsymmetricAutoencoder] = {}


def _seed_vae(folder: Path, name: str) -> asymvq.AsymmetricAutoencoder:
    if name not in _VAES:
        _VAES[name] = asymvq.load(folder / "seeds" / f"{name}.safetensors")
    return _VAES[name]


CASES: dict[str, Callable[[int, int, Path], str]] = {"files": file_case, "calls": call_case}


def work(pipe: Connection, what: str, seed: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if resource is not None:
        limit = psutil.Process().memory_info().vms + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        number = pipe.recv()
        try:
            pipe.send(CASES[what](number, seed, folder))
        except Exception as error:
            pipe.send(f"FAILED: {type(error).__name__}: {str(error)[:300]}")


def run_in_processes(what: str, numbers: range, seed: int, folder: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    process, pipe = None, None
    for number in numbers:
        if process is None or pipe is None:
            pipe, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, what, seed, folder), daemon=True)
            process.start()
            theirs.close()
            first = True
        pipe.send(number)
        outcome = "FAILED: crashed"
        # importing takes its time too
        if not pipe.poll(SECONDS + (60 if first else 0)):
            outcome = f"FAILED: no answer in {SECONDS} seconds"
            process.kill()
        else:
            try:
                outcome = pipe.recv()
            except EOFError:
                process.join()
                outcome = f"FAILED: crashed with status {process.exitcode}"
        first = False
        if "crashed" in outcome or "no answer" in outcome:
            process = None
        outcomes[outcome.split(":")[0]] += 1
        if outcome.startswith("FAILED"):
            print(f"{what} {number}: {outcome}", flush=True)
    if process is not None:
        process.kill()
    return outcomes


def mutate_prompt(prompt: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    prompt = copy.deepcopy(prompt)
    ours = [node for node in prompt.values() if node["class_type"].startswith("AsymVQ") and node["inputs"]]
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(ours)
        name = rng.choice(list(node["inputs"]) or ["missing"])
        what = rng.randrange(5)
        if what == 0:
            node["inputs"].pop(name, None)
        elif what == 1:
            node["inputs"][rng.choice((name + "x", "samples", "image", "mask"))] = rng.choice(ALIEN)
        elif what == 2:  # a wire from elsewhere
            # of this graph: wires from nowhere at inputs that no node has make the host's own queue fall over
            node["inputs"][name] = [rng.choice(list(prompt)), rng.choice((0, 1, 2, 3, 99, -1))]
        else:
            node["inputs"][name] = rng.choice(ALIEN)
    return prompt


def prompts(host: Path, numbers: range, seed: int) -> Counter[str]:
    """Each is refused, fails with a message, or works; the host goes on, and nothing lies where it should not."""
    sys.path.insert(0, str(ROOT / "tests"))
    from host.conftest import make_base_folder
    from host.server import Server

    sources = [json.loads((ROOT / "tests" / "host" / "prompts" / "quickstart.json").read_text("utf-8")), SAVE]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        base = make_base_folder(Path(folder) / "inside")
        server = Server(host, base)
        server.wait_until_ready()
        try:
            before = places(Path(folder))
            for number in numbers:
                rng = random.Random(f"{seed} prompt {number}")
                outcome = queue(server, mutate_prompt(rng.choice(sources), rng))
                if stray := places(Path(folder)) - before:
                    outcome = f"FAILED: wrote {sorted(stray)[:3]}"
                    before |= stray
                outcomes[outcome.split(":")[0]] += 1
                if outcome.startswith("FAILED"):
                    print(f"prompts {number}: {outcome}", flush=True)
        finally:
            server.stop()
    return outcomes


SAVE = {
    "1": {"class_type": "AsymVQLoader", "inputs": {"vae_name": "demo (bundled)", "base_vae": "none", "dtype": "auto"}},
    "2": {
        "class_type": "AsymVQSave",
        "inputs": {"vae": ["1", 0], "filename_prefix": "vae/fuzz", "layout": "native", "dtype": "auto"},
    },
    "3": {
        "class_type": "AsymVQRandomMask",
        "inputs": {"seed": 1, "width": 64, "height": 64, "batch_size": 1, "thickness": 1.0},
    },
    "4": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}},
    "5": {
        "class_type": "AsymVQCompare",
        "inputs": {"reference": ["4", 0], "results.result_1": ["4", 0], "mask": ["3", 0], "labels": "a",
                   "compare": "kept pixels", "amplify": 10.0},
    },
    "6": {"class_type": "PreviewImage", "inputs": {"images": ["5", 0]}},
}  # fmt: skip


def places(folder: Path) -> set[str]:
    """All files but those of the output folder, and of the host's own housekeeping."""
    own = ("inside/output/", "inside/temp/", "inside/user/", "inside/server.log", "__pycache__")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in names if not any(part in name for part in own)}


def queue(server: Any, prompt: dict[str, Any]) -> str:
    request = urllib.request.Request(
        f"{server.url}/prompt", json.dumps({"prompt": prompt}).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            number = json.load(response)["prompt_id"]
    except urllib.error.HTTPError as error:
        # 400: the host's own check; 500: it could not even check, which is not ours to mend
        return "refused by the host" if error.code == 400 else "the host's own check fell over"
    history = server.wait_for(number)
    if history["status"]["status_str"] == "success":
        return "worked"
    error = dict(history["status"]["messages"])["execution_error"]
    what = f"{error['node_type']}: {error['exception_type']}: {error['exception_message'][:200]}"
    if not error["node_type"].startswith("AsymVQ"):
        return "a stock node's error"
    clear = error["exception_type"].rpartition(".")[2] in ("ValueError", "TypeError", "CheckpointError")
    return "refused" if clear and len(error["exception_message"]) > 30 else f"FAILED: {what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*CASES, "prompts"])
    parser.add_argument("--count", type=int)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--host", type=Path, help="a ComfyUI checkout")
    args = parser.parse_args()

    count = args.count or {"files": 2000, "calls": 500, "prompts": 300}[args.what]
    numbers = range(args.first, args.first + count)
    if args.what == "prompts":
        if args.host is None:
            parser.error("Expected --host, the folder of a ComfyUI.")
        outcomes = prompts(args.host, numbers, args.seed)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "seeds").mkdir()
            (Path(folder) / "case").mkdir()
            write_seeds(Path(folder) / "seeds")
            outcomes = run_in_processes(args.what, numbers, args.seed, Path(folder))
    print(f"{args.what}, {count} cases:")
    for name, cases in outcomes.most_common():
        print(f"{cases:6} {name}")
    raise SystemExit(1 if outcomes["FAILED"] else 0)


if __name__ == "__main__":
    main()
