"""How the cost of a decode grows: with the picture, with the mask, with the number of frames; and a very large picture.

    python bench/growth.py size [--diffusers] [--plot FILE]
                                                  time over the picture's side at a mask of 256²; --diffusers: also that
                                                  of diffusers' AsymmetricAutoencoderKL with the same weights
    python bench/growth.py mask [--plot FILE]     time over the mask's share of a picture of 1024²
    python bench/growth.py huge                   8192² with a mask of 512²: time and peak memory
    python bench/growth.py frames                 1, 8 and 64 frames of 512², decoded in full: peak memory; with
                                                  --harmonise 1 harmonised too, as one video

Random latents and pictures, a square mask in the middle, the bundled VAE or another. Pictures stay in main memory; the
network is on --device. Times are medians of calls that take turns, after one that does not count. Memory is what a
decode adds to its process at the peak: on a CPU resident memory, on CUDA the allocator's; each in a process of its own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from chart import draw_chart
from torch import Tensor

import asymvq

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
SIZES = (512, 768, 1024, 1536, 2048)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
FRAMES = (1, 8, 64)
HUGE, HUGE_MASK = 8192, 512
MIB = 2**20


def inputs(vae: asymvq.AsymmetricAutoencoder, size: int, side: int, frames: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Latents and pictures of size², one mask of side²."""
    factor = vae.config.factor
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(frames, vae.config.latent_channels, size // factor, size // factor, generator=generator)
    image = torch.rand(frames, 3, size, size, generator=generator).mul_(2).sub_(1)
    mask = torch.zeros(1, 1, size, size)
    start = (size - side) // 2
    mask[..., start : start + side, start : start + side] = 1
    return latent, image, mask


def decoder(
    vae: asymvq.AsymmetricAutoencoder, size: int, side: int, region: str, frames: int = 1, harmonise: float = 0.0
) -> Callable[[], Tensor]:
    """A decode of one video of `frames` pictures of size² with one mask of side²."""
    latent, image, mask = inputs(vae, size, side, frames)
    return lambda: asymvq.decode(vae, latent, image=image, mask=mask, region=region, harmonise=harmonise, frames=frames)


def diffusers_decoder(vae: asymvq.AsymmetricAutoencoder, size: int, side: int) -> Callable[[], Tensor]:
    """As `decoder`, full, by diffusers with the same weights and kept pixels as its network gives them."""
    from diffusers import AsymmetricAutoencoderKL

    with tempfile.TemporaryDirectory() as folder:
        asymvq.save(vae, Path(folder) / "vae", layout="diffusers", latents="sd")
        model: Any = AsymmetricAutoencoderKL.from_pretrained(Path(folder) / "vae")
    device = next(vae.parameters()).device
    latent, image, mask = (x.to(device) for x in inputs(vae, size, side))
    model = model.to(device).eval()
    return lambda: model.decode(latent, image=image, mask=mask).sample.cpu()


@torch.inference_mode()
def seconds(decodes: Mapping[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in decodes}
    for turn in range(repeats + 1):
        for name, decode in decodes.items():
            start = time.perf_counter()
            decode()  # its result is in main memory: nothing is left to wait for
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def resident(name: str) -> int:
    """Bytes; VmRSS: now, VmHWM: at the highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"Expected {name} in /proc/self/status: memory on a CPU is measured on Linux alone.")


@torch.inference_mode()
def alone(
    vae: asymvq.AsymmetricAutoencoder, size: int, side: int, region: str, frames: int, device: str, harmonise: float
) -> None:
    """Prints the seconds and the bytes that one decode takes."""
    decode = decoder(vae, size, side, region, frames, harmonise)
    cuda = device.startswith("cuda")
    before = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    start = time.perf_counter()
    decode()
    taken = time.perf_counter() - start
    print(taken, (torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before)


def in_own_process(args: argparse.Namespace, *case: object) -> tuple[float, int]:
    """Seconds and bytes of `alone`."""
    command = [sys.executable, __file__, "alone", "--vae", str(args.vae), "--device", args.device]
    command += ["--harmonise", str(args.harmonise)]
    done = subprocess.run([*command, "--case", *map(str, case)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"A decode of its own process failed:\n{done.stderr.strip()}")
    taken, peak = done.stdout.split()[-2:]
    return float(taken), int(peak)


def grow(args: argparse.Namespace, vae: asymvq.AsymmetricAutoencoder) -> None:
    """Times over sizes or over shares, as a table and a plot."""
    by_size = args.what == "size"
    label = "side of the picture, pixels" if by_size else "mask, % of the picture"
    names = ["mask-local", "full", *(["diffusers"] if args.diffusers else [])]
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    print(f"| {label} | {' | '.join(f'{name}, s' for name in names)} | mask-local ÷ full |")
    print("|---" * (len(names) + 2) + "|")
    for value in args.sizes if by_size else SHARES:
        size = int(value) if by_size else 1024
        side = 256 if by_size else round(size * value**0.5)
        decodes = {"mask-local": decoder(vae, size, side, "masked"), "full": decoder(vae, size, side, "full")}
        if args.diffusers:
            decodes["diffusers"] = diffusers_decoder(vae, size, side)
        taken = seconds(decodes, args.repeats)
        x = value if by_size else 100 * value
        for name, points in curves.items():
            points.append((x, taken[name]))
        times = " | ".join(f"{taken[name]:.3g}" for name in names)
        print(f"| {x:.4g} | {times} | {taken['mask-local'] / taken['full']:.3g} |", flush=True)
    if args.plot:
        chart = draw_chart(
            curves,
            title="A mask of 256 by 256 in larger and larger pictures"
            if by_size
            else "Larger and larger masks in 1024 by 1024",
            x_label=label,
            y_label="seconds a decode",
            log_x=by_size,
            log_y=by_size,
            x_ticks=[x for x, _ in curves["full"]],
        )
        chart.save(args.plot, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["size", "mask", "huge", "frames", "alone"])
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides in pixels, of at least 256")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--diffusers", action="store_true", help="also diffusers' decoder, in full")
    parser.add_argument("--harmonise", type=float, default=0.0, help="of huge and frames: how far")
    parser.add_argument("--plot", type=Path, help="PNG of the curves")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()

    if args.what == "huge":
        taken, peak = in_own_process(args, HUGE, HUGE_MASK, "masked", 1)
        print(f"{HUGE}², mask {HUGE_MASK}²: {taken:.3g} s, {peak / MIB:.0f} MiB at the peak above its inputs,")
        print(f"of which the result is {12 * HUGE**2 / MIB:.0f} MiB on a CPU.")
        return
    if args.what == "frames":
        print("| frames of 512² | seconds a frame | peak, MiB | without the result's, MiB |\n|---|---|---|---|")
        for frames in FRAMES:
            taken, peak = in_own_process(args, 512, 256, "full", frames)
            result = 0 if args.device.startswith("cuda") else 12 * 512**2 * frames
            print(f"| {frames} | {taken / frames:.3g} | {peak / MIB:.0f} | {(peak - result) / MIB:.0f} |", flush=True)
        return
    vae = asymvq.load(args.vae, device=args.device, dtype=torch.float32)
    if args.what == "alone":
        size, side, region, frames = args.case
        alone(vae, int(size), int(side), region, int(frames), args.device, args.harmonise)
        return
    grow(args, vae)


if __name__ == "__main__":
    main()
