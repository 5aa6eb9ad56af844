"""Decoding against diffusers' AsymmetricAutoencoderKL: time and peak memory, same weights, type and device, in one run.

    python bench/decode.py [--preset tiny base] [--sizes 512 1024] [--masks 0.1 256px] [--repeats 3] [--json FILE]

Full decodes of either, then mask-local ones of ours, with random weights. Times are medians of calls that take turns.
Memory is what a decode adds at its peak: on a CPU the resident memory of a process of its own, on CUDA the allocator's.
The share of peak is that of the device's speed at a product of 4096² matrices in the same type.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import asymvq
from asymvq.autoencoders import PRESETS, AutoencoderConfig

CONFIGS = {
    # the bundled VAE's widths
    "tiny": AutoencoderConfig(
        decoder_channels=(24, 48, 96, 96), encoder_channels=(24, 48, 96, 96), encoder_blocks=1, norm_groups=6
    ),
    **PRESETS,
}
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MATRIX = 4096


class Case:
    """A picture with a square mask in its middle."""

    def __init__(self, args: argparse.Namespace, preset: str, size: int, mask: str | None):
        self.config, self.size, self.name = CONFIGS[preset], size, f"{preset} {size}²"
        share = 0.1 if mask is None else (int(mask[:-2]) / size) ** 2 if mask.endswith("px") else float(mask)
        side = min(size, round(size * share**0.5))
        start = (size - side) // 2
        generator = torch.Generator().manual_seed(0)
        dtype, device = TYPES[args.dtype], args.device
        self.latent = torch.randn(1, 4, size // 8, size // 8, generator=generator).to(device, dtype)
        self.image = (torch.rand(1, 3, size, size, generator=generator) * 2 - 1).to(device, dtype)
        self.mask = torch.zeros(1, 1, size, size, device=device, dtype=dtype)
        self.mask[..., start : start + side, start : start + side] = 1

    def decoder(self, who: str, folder: Path) -> Callable[[], Tensor]:
        """`who`: "diffusers", "ours" (a full decode) or "local"."""
        dtype, device = self.latent.dtype, self.latent.device
        if who == "diffusers":
            from diffusers import AsymmetricAutoencoderKL

            model = AsymmetricAutoencoderKL.from_pretrained(folder, torch_dtype=dtype).to(device).eval()  # pyright: ignore
            return lambda: model.decode(self.latent, image=self.image, mask=self.mask).sample
        vae = asymvq.load(folder, device=device, dtype=dtype)
        region = "masked" if who == "local" else "full"
        return lambda: asymvq.decode(vae, self.latent, image=self.image, mask=self.mask, region=region, keep="network")


def resident(name: str) -> int:
    """Bytes; VmRSS: now, VmHWM: at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"Expected {name} in /proc/self/status: memory on a CPU is measured on Linux alone.")


@torch.inference_mode()
def peak_memory(decode: Callable[[], Tensor], device: str) -> int:
    if device.startswith("cuda"):
        decode()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        decode()
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
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
def seconds(decodes: dict[str, Callable[[], Tensor]], repeats: int, device: str) -> dict[str, float]:
    """Medians of calls that take turns, after one that does not count."""
    taken: dict[str, list[float]] = {who: [] for who in decodes}
    for turn in range(repeats + 1):
        for who, decode in decodes.items():
            start = time.perf_counter()
            decode()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if turn or repeats == 0:
                taken[who].append(time.perf_counter() - start)
    return {who: statistics.median(times) for who, times in taken.items()}


def flops(decode: Callable[[], Tensor]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        decode()
    return counter.get_total_flops()


def peak_speed(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a matrix product, the best of five."""
    a = torch.randn(MATRIX, MATRIX, device=device).to(dtype)
    best = min(seconds({"product": lambda: a @ a}, 1, device)["product"] for _ in range(5))
    return 2 * MATRIX**3 / best


def measure(args: argparse.Namespace, preset: str, size: int, folder: Path, peak: float) -> list[dict[str, Any]]:
    """Rows: diffusers, ours, and ours mask by mask; a decode that does not fit is a row with an error."""
    rows: list[dict[str, Any]] = []
    masks = [m for m in args.masks if not m.endswith("px") or int(m[:-2]) < size]
    whos: list[tuple[str, str | None]] = [("diffusers", None), ("ours", None), *(("local", mask) for mask in masks)]
    decodes: dict[str, Callable[[], Tensor]] = {}
    for who, mask in whos:
        row: dict[str, Any] = {"preset": preset, "size": size, "who": who, "mask": mask}
        rows.append(row)
        try:
            row["memory"] = memory_alone(args, preset, size, mask, who, folder)
            decodes[f"{who} {mask}"] = Case(args, preset, size, mask).decoder(who, folder)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            row["error"] = str(error)[:100]
    taken = seconds(decodes, args.repeats, args.device)
    for row in rows:
        key = f"{row['who']} {row['mask']}"
        if key in taken:
            row["seconds"] = taken[key]
            row["flops"] = flops(decodes[key])
            row["share_of_peak"] = row["flops"] / taken[key] / peak
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| decoder, picture | decode | seconds | ÷ diffusers | peak MiB | ÷ diffusers | TFLOP | share of peak |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reference: dict[str, Any] = {}
    for row in rows:
        if row["who"] == "diffusers":
            reference = row
        name = {"local": f"ours, mask {row['mask']}", "ours": "ours, full"}.get(row["who"], "diffusers")
        cells = [f"{row['preset']}, {row['size']}²", name]
        if "seconds" not in row:
            cells += [row.get("error", "")] + [""] * 5
        else:
            ratios = [f"{row[key] / reference[key]:.3g}" if key in reference else "" for key in ("seconds", "memory")]
            cells += [f"{row['seconds']:.3g}", ratios[0], f"{row['memory'] / 2**20:.0f}", ratios[1]]
            cells += [f"{row['flops'] / 1e12:.3g}", f"{row['share_of_peak']:.0%}"]
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
            torch.manual_seed(0)
            asymvq.save(
                asymvq.AsymmetricAutoencoder(CONFIGS[preset]), Path(folder) / "vae", layout="diffusers", latents="sd"
            )
            for size in args.sizes:
                rows += measure(args, preset, size, Path(folder) / "vae", peak)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps({"peak_flops": peak, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
