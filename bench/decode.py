"""Decoding against diffusers' class of the same model: time and peak memory, same weights, type, device, in one run.

    python bench/decode.py [--preset tiny base] [--sizes 512 1024] [--masks 0.1 256px] [--repeats 3] [--json FILE]
    python bench/decode.py --preset flux2 wan taesd taef2
    python bench/decode.py --against CHECKOUT    also the time of another version's decodes, of presets with a condition

Full decodes of either, then mask-local ones of ours, with random weights. What has no condition is decoded plainly, and
mask-locally pasted into the source. Diffusers has no TAEF2. Times are the shortest of calls that take turns, in seconds
of the clock and of the processor: the latter is to be gone by where a machine has other work too.
Memory is what a decode adds at its peak: on a CPU the resident memory of a process of its own, on CUDA the allocator's.
The share of peak is that of the device's speed at a product of 4096² matrices in the same type.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import asymvq
from asymvq.autoencoders import LATENT_SPACES, PRESETS, AutoencoderConfig, tiny, wan
from asymvq.config import Config, LatentSpace

CONFIGS: dict[str, Config] = {
    # the bundled VAE's widths
    "tiny": AutoencoderConfig(
        decoder_channels=(24, 48, 96, 96), encoder_channels=(24, 48, 96, 96), encoder_blocks=1, norm_groups=6
    ),
    **PRESETS,
    "flux2": AutoencoderConfig(latent_channels=128, latent_packing=2, condition=None),
    "wan": wan.Config(),
    "taesd": tiny.Config(latent_scale=LATENT_SPACES["sd"].scaling_factor),
    "taef2": tiny.Config(latent_channels=128, latent_packing=2, pooled=True),
}
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX = 4096


WORKER = """
import sys, time
import torch
import asymvq
case = torch.load(sys.argv[1], weights_only=True)
vae = asymvq.load(sys.argv[2], dtype=case["latent"].dtype, device=case["latent"].device)
given = {"image": case["image"], "mask": case["mask"], "region": sys.argv[3], "keep": "network"}
with torch.inference_mode():
    for line in sys.stdin:
        start = time.perf_counter(), time.process_time()
        asymvq.decode(vae, case["latent"], **given)
        if case["latent"].device.type == "cuda":
            torch.cuda.synchronize()
        print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
"""
"""Another version of this package, which answers each line with a decode's seconds, as `Times`."""
Times = tuple[float, float]
"""Seconds by the clock, and the processor's."""


def random_vae(preset: str, folder: Path) -> None:
    """Saves it as diffusers' class of the model, or in our own format where there is none."""
    torch.manual_seed(0)
    config = CONFIGS[preset]
    vae = asymvq.AsymmetricAutoencoder(config)
    if _has_peer(config):
        space = LATENT_SPACES["sd"] if config.latent_channels == 4 else LatentSpace(1.0)
        asymvq.save(vae, folder / "vae", layout="diffusers", latents=space)
    else:
        (folder / "vae").mkdir()
        asymvq.save(vae, folder / "vae" / "vae.safetensors")


def _has_peer(config: Config) -> bool:
    return not getattr(config, "pooled", False)


def peer(folder: Path, latent: Tensor, given: dict[str, Tensor], config: Config) -> Callable[[], Tensor]:
    """The decode of diffusers' own class."""
    import diffusers

    name = json.loads((folder / "config.json").read_text())["_class_name"]
    model: Any = getattr(diffusers, name).from_pretrained(folder, torch_dtype=latent.dtype).to(latent.device).eval()
    if name == "AutoencoderKLFlux2":
        from diffusers.pipelines.flux2.pipeline_flux2 import Flux2Pipeline

        mean = model.bn.running_mean.view(1, -1, 1, 1).to(latent)
        deviation = (model.bn.running_var.view(1, -1, 1, 1) + model.config.batch_norm_eps).sqrt().to(latent)
        return lambda: model.decode(Flux2Pipeline._unpatchify_latents(latent * deviation + mean)).sample
    if name == "AutoencoderKLWan":
        return lambda: model.decode(latent[:, :, None]).sample[:, :, 0]
    if name == "AutoencoderTiny":
        scale = getattr(config, "latent_scale", 1.0)
        return lambda: model.decode(latent * scale).sample
    return lambda: model.decode(latent, **given).sample


class Case:
    """A picture with a square mask in its middle."""

    def __init__(self, args: argparse.Namespace, preset: str, size: int, mask: str | None):
        self.config, self.size, self.name = CONFIGS[preset], size, f"{preset} {size}²"
        share = 0.1 if mask is None else (int(mask[:-2]) / size) ** 2 if mask.endswith("px") else float(mask)
        side = min(size, round(size * share**0.5))
        start = (size - side) // 2
        generator = torch.Generator().manual_seed(0)
        dtype, device = TYPES[args.dtype], args.device
        cells = size // self.config.factor
        self.latent = torch.randn(1, self.config.latent_channels, cells, cells, generator=generator).to(device, dtype)
        self.image = (torch.rand(1, 3, size, size, generator=generator) * 2 - 1).to(device, dtype)
        self.mask = torch.zeros(1, 1, size, size, device=device, dtype=dtype)
        self.mask[..., start : start + side, start : start + side] = 1

    def decoder(self, who: str, folder: Path) -> Callable[[], Tensor]:
        """`who`: "diffusers", "ours" (a full decode) or "local"."""
        dtype, device = self.latent.dtype, self.latent.device
        given = {"image": self.image, "mask": self.mask}
        if who == "diffusers":
            return peer(folder, self.latent, given, self.config)
        where = folder if _has_peer(self.config) else folder / "vae.safetensors"
        vae = asymvq.load(where, device=device, dtype=dtype)
        if self.config.condition is None and who == "ours":
            return lambda: asymvq.decode(vae, self.latent)
        region = "masked" if who == "local" else "full"
        # the network's own picture, which is always a full decode, or what is kept exactly, which may be mask-local
        keep = "network" if self.config.condition is not None and who == "ours" else "exact"
        return lambda: asymvq.decode(vae, self.latent, **given, region=region, keep=keep)

    @contextlib.contextmanager
    def elsewhere(self, checkout: Path, folder: Path) -> Iterator[Callable[[], Times]]:
        """The seconds of a full decode by the package in `checkout`, in a process of its own."""
        file = folder.parent / "case.pt"
        torch.save({"latent": self.latent, "image": self.image, "mask": self.mask}, file)
        command = [sys.executable, "-c", WORKER, str(file), str(folder), "full"]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def once() -> Times:
            print(file=process.stdin, flush=True)
            assert process.stdout is not None
            by_clock, processors = process.stdout.readline().split()
            return float(by_clock), float(processors)

        try:
            yield once
        finally:
            process.stdin.close()
            process.wait()


def resident(name: str) -> int:
    """Bytes; VmRSS: now, VmHWM: at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"Expected {name} in /proc/self/status: memory on a CPU is measured on Linux alone.")


def trimmed() -> int:
    """Bytes that are resident, after free memory that the process still held, and would use first, was given back."""
    ctypes.CDLL(None).malloc_trim(0)
    return resident("VmRSS")


@torch.inference_mode()
def peak_memory(decode: Callable[[], Tensor], device: str) -> int:
    if device.startswith("cuda"):
        decode()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        decode()
        return torch.cuda.max_memory_allocated() - before
    before = trimmed()
    decode()
    return resident("VmHWM") - before


def memory_alone(args: argparse.Namespace, preset: str, size: int, mask: str | None, who: str, folder: Path) -> int:
    """In a process of its own."""
    alone = ["--alone", preset, str(size), mask or "", who, str(folder)]
    command = [sys.executable, __file__, "--device", args.device, "--dtype", args.dtype, *alone]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return int(done.stdout.split()[-1])


@torch.inference_mode()
def seconds(decodes: dict[str, Callable[[], Tensor | Times]], repeats: int, device: str) -> dict[str, Times]:
    """The least of calls that take turns, after one that does not count. What gives times has taken its own."""
    taken: dict[str, list[Times]] = {who: [] for who in decodes}
    for turn in range(repeats + 1):
        for who, decode in decodes.items():
            start = time.perf_counter(), time.process_time()
            result = decode()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            times = time.perf_counter() - start[0], time.process_time() - start[1]
            if turn or repeats == 0:
                taken[who].append(result if isinstance(result, tuple) else times)
    return {who: (min(t[0] for t in times), min(t[1] for t in times)) for who, times in taken.items()}


def flops(decode: Callable[[], Tensor | Times]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        decode()
    return counter.get_total_flops()


def peak_speed(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product, the best of five: on a CPU, of the processor's time."""
    a = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    return 2 * MATRIX**3 / _computing(seconds({"product": lambda: a @ a}, 5, device)["product"], device)


def _computing(times: Times, device: str) -> float:
    """Seconds of all cores together; of a GPU, whose processor only waits, by the clock."""
    return times[1] / torch.get_num_threads() if device == "cpu" else times[0]


def measure(args: argparse.Namespace, preset: str, size: int, folder: Path, peak: float) -> list[dict[str, Any]]:
    """Rows: diffusers, ours, and ours mask by mask; a decode that does not fit is a row with an error."""
    rows: list[dict[str, Any]] = []
    masks = [m for m in args.masks if not m.endswith("px") or int(m[:-2]) < size]
    whos: list[tuple[str, str | None]] = [("ours", None), *(("local", mask) for mask in masks)]
    if _has_peer(CONFIGS[preset]):
        whos.insert(0, ("diffusers", None))
    decodes: dict[str, Callable[[], Tensor | Times]] = {}
    for who, mask in whos:
        row: dict[str, Any] = {"preset": preset, "size": size, "who": who, "mask": mask}
        rows.append(row)
        try:
            row["memory"] = memory_alone(args, preset, size, mask, who, folder)
            decodes[f"{who} {mask}"] = Case(args, preset, size, mask).decoder(who, folder)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            row["error"] = str(error)[:100]
    with contextlib.ExitStack() as stack:
        timed = dict(decodes)
        if args.against:
            row = {"preset": preset, "size": size, "who": "against", "mask": None}
            rows.append(row)
            once = Case(args, preset, size, None).elsewhere(args.against.resolve(), folder)
            timed["against None"] = stack.enter_context(once)
        taken = seconds(timed, args.repeats, args.device)
    for row in rows:
        key = f"{row['who']} {row['mask']}"
        if key in taken:
            row["seconds"], row["processor"] = taken[key]
        if key in decodes:
            row["flops"] = flops(decodes[key])
            row["share_of_peak"] = row["flops"] / _computing(taken[key], args.device) / peak
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| decoder, picture | decode | seconds | ÷ diffusers | processor s | ÷ diffusers | peak MiB | ÷ diffusers "
        "| TFLOP | share of peak |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = {"ours": "ours, full", "diffusers": "diffusers", "against": "ours, the other version, full"}
    for row in rows:
        beside = (other for other in rows if (other["preset"], other["size"]) == (row["preset"], row["size"]))
        reference = next((other for other in beside if other["who"] == "diffusers"), {})
        name = names.get(row["who"], f"ours, mask {row['mask']}")
        cells = [f"{row['preset']}, {row['size']}²", name]
        if "seconds" not in row:
            cells += [row.get("error", "")] + [""] * 7
        else:
            for key, unit, form in (("seconds", 1, ".3g"), ("processor", 1, ".3g"), ("memory", 2**20, ".0f")):
                ratio = f"{row[key] / reference[key]:.3g}" if key in reference and key in row else ""
                cells += [f"{row[key] / unit:{form}}" if key in row else "", ratio]
            cells += [f"{row['flops'] / 1e12:.3g}", f"{row['share_of_peak']:.0%}"] if "flops" in row else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=list(CONFIGS), default=["tiny"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024], help="multiples of 8, pixels")
    parser.add_argument(
        "--masks", nargs="*", default=["0.1", "256px"], help="shares of the picture, or sides in pixels"
    )
    parser.add_argument("--repeats", type=int, default=3, help="0: one call, without a warm-up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32")
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="of another version, whose time to measure too"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--alone", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        preset, size, mask, who, folder = args.alone
        case = Case(args, preset, int(size), mask or None)
        print(peak_memory(case.decoder(who, Path(folder)), args.device))
        return

    peak = peak_speed(args.device, TYPES[args.dtype])
    print(f"{args.device}, {args.dtype}, {torch.get_num_threads()} threads, {peak / 1e12:.3g} TFLOP/s at best\n")
    rows: list[dict[str, Any]] = []
    for preset in args.preset:
        with tempfile.TemporaryDirectory() as folder:
            random_vae(preset, Path(folder))
            for size in args.sizes:
                rows += measure(args, preset, size, Path(folder) / "vae", peak)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"peak_flops": peak, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
