"""What each form of a condition costs: full decodes of one decoder with and without it, in one run.

    python bench/conditions.py [--preset tiny base] [--sizes 512] [--repeats 2] [--device cpu] [--dtype fp32]

Random weights, a mask of a quarter of the picture in its middle. An affine condition that sees errors decodes plainly
first, which is counted; "harmonised" has `harmonise=1`, which every condition decodes plainly for. Times are the
shortest of calls that take turns, of the processor on a CPU; memory is what a decode adds at its peak, in a process of
its own on a CPU. Ratios are to the plain decode.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import decode as decoding
import torch
from torch import Tensor

import asymvq
from asymvq.config import ConditionConfig

WIDTHS = {"tiny": 96, "base": 64}
"""Of an affine condition's maps: the bundled VAE's, and what is new by default."""


def forms(preset: str) -> dict[str, tuple[ConditionConfig | None, dict[str, Any]]]:
    """Conditions and settings of the decode."""
    affine = partial(ConditionConfig.affine, WIDTHS[preset])
    best = affine()
    return {
        "plain": (None, {}),
        "blend, the paper's": (ConditionConfig(), {}),
        "affine": (affine(sees_errors=False, in_blocks=False), {}),
        "affine, inside the blocks": (affine(sees_errors=False), {}),
        "affine, sees errors": (affine(in_blocks=False), {}),
        "affine, both": (best, {}),
        "affine, both, errors fitted": (affine(fits_errors=True), {}),
        "plain, harmonised": (None, {"harmonise": 1.0}),
        "affine, both, harmonised": (best, {"harmonise": 1.0}),
    }


def decoder(args: argparse.Namespace, preset: str, size: int, form: str) -> Callable[[], Tensor]:
    condition, settings = forms(preset)[form]
    torch.manual_seed(0)
    dtype, side = decoding.TYPES[args.dtype], size // 2
    config = decoding.CONFIGS[preset].replaced(condition=condition)
    vae = asymvq.AsymmetricAutoencoder(config).eval().requires_grad_(False).to(args.device, dtype)
    latent = torch.randn(1, config.latent_channels, size // config.factor, size // config.factor)
    image, mask = torch.rand(1, 3, size, size) * 2 - 1, torch.zeros(1, 1, size, size)
    mask[..., size // 4 : size // 4 + side, size // 4 : size // 4 + side] = 1
    latent, image, mask = (tensor.to(args.device, dtype) for tensor in (latent, image, mask))
    given = {} if condition is None and not settings else {"image": image, "mask": mask, "region": "full"}
    return lambda: asymvq.decode(vae, latent, **given, **settings)


def memory(args: argparse.Namespace, preset: str, size: int, form: str) -> int:
    """Bytes."""
    if args.device != "cpu":
        return decoding.peak_memory(decoder(args, preset, size, form), args.device)
    alone = ["--dtype", args.dtype, "--device", args.device, "--alone", preset, str(size), form]
    done = subprocess.run([sys.executable, __file__, *alone], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=list(WIDTHS), default=list(WIDTHS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[512], help="multiples of 8, pixels")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=list(decoding.TYPES), default="fp32")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        preset, size, form = args.alone
        print(decoding.peak_memory(decoder(args, preset, int(size), form), args.device))
        return
    print(f"{args.device}, {args.dtype}, {torch.get_num_threads()} threads\n")
    print("| decoder, picture | condition | seconds | ÷ plain | peak MiB | ÷ plain |\n|---|---|---|---|---|---|")
    for preset in args.preset:
        for size in args.sizes:
            names = list(forms(preset))
            peaks = {form: memory(args, preset, size, form) for form in names}
            decodes = {form: decoder(args, preset, size, form) for form in names}
            times = decoding.seconds(dict(decodes), args.repeats, args.device)
            taken = {form: both[args.device == "cpu"] for form, both in times.items()}
            for form in names:
                ratios = taken[form] / taken["plain"], peaks[form] / peaks["plain"]
                cells = [f"{preset}, {size}²", form, f"{taken[form]:.3g}", f"{ratios[0]:.2f}"]
                cells += [f"{peaks[form] / 2**20:.0f}", f"{ratios[1]:.2f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
