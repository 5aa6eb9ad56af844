"""The memory that is announced to a host (asymvq.memory_model) beside what is measured.

    python bench/memory.py [--preset tiny base] [--sizes 512 1024] [--dtype fp32] [--device cpu] [--repeats 4]

Each run is a process of its own with random weights. On a CPU it is what its resident memory grows by at most (Linux),
on CUDA what the allocator reserves for tensors. What the C library's allocator can use again differs from process to
process, by half in small decodes: the most of --repeats processes is what has to be announced.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import torch
from decode import CONFIGS, TYPES, resident, trimmed

from asymvq import lean
from asymvq.autoencoder import AsymmetricAutoencoder
from asymvq.memory_model import decode_bytes, encode_bytes

RUNS = ("encode", "decode", "conditional decode")


@torch.inference_mode()
def measured(preset: str, size: int, run: str, dtype: torch.dtype, device: str) -> int:
    torch.manual_seed(0)
    vae = AsymmetricAutoencoder(CONFIGS[preset]).to(device, dtype).eval().requires_grad_(False)

    def once(side: int) -> None:
        image, mask = torch.rand(1, 3, side, side) * 2 - 1, torch.zeros(1, 1, side, side)
        mask[..., : side // 2] = 1
        latent = torch.randn(1, vae.latent_channels, side // vae.factor, side // vae.factor)
        latent, image, mask = (t.to(device, dtype) for t in (latent, image, mask))
        if run == "encode":
            vae.encode(image)
        elif run == "decode":
            vae.decode(latent)
        else:
            vae.decode(latent, image=image, mask=mask)

    once(64)  # what libraries load and keep
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        once(size)
        return torch.cuda.max_memory_allocated() - before
    before = trimmed()
    Path("/proc/self/clear_refs").write_text("5")  # the highest is counted from here on
    once(size)
    return resident("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=list(CONFIGS), default=["tiny", "base"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--dtype", choices=list(TYPES), default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=4, help="processes, of which the most counts")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    dtype, device = TYPES[args.dtype], args.device
    if args.alone:
        preset, size, run = args.alone
        print(measured(preset, int(size), run, dtype, device))
        return
    print(
        "| VAE, picture | run | announced MiB | measured MiB, least to most | announced ÷ most |\n|---|---|---|---|---|"
    )
    for preset, size, run in itertools.product(args.preset, args.sizes, RUNS):
        config = CONFIGS[preset]
        if config.condition is None and run == "conditional decode":
            continue
        cells = (size // config.factor, size // config.factor)
        striped = run != "encode" and lean.pays_for(config, cells, torch.device(device))
        if run == "encode":
            announced = encode_bytes(config, (size, size), dtype=dtype, device=device)
        else:
            announced = decode_bytes(config, cells, dtype=dtype, device=device, conditioned=run != "decode")
        command = [
            sys.executable,
            __file__,
            "--dtype",
            args.dtype,
            "--device",
            device,
            "--alone",
            preset,
            str(size),
            run,
        ]
        runs = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(args.repeats))
        taken = sorted(int(done.stdout.split()[-1]) for done in runs)
        name = f"{run}, striped" if striped else run
        measured_mib = " to ".join(f"{n / 2**20:.0f}" for n in sorted({taken[0], taken[-1]}))
        columns = [f"{preset}, {size}²", name, f"{announced / 2**20:.0f}", measured_mib, f"{announced / taken[-1]:.2f}"]
        print("| " + " | ".join(columns) + " |", flush=True)


if __name__ == "__main__":
    main()
