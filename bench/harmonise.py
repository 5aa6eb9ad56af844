"""Time and memory of `asymvq.harmonise` over picture and mask size, beside seamlessClone and an SD-sized decode.

    python bench/harmonise.py [--sizes 512 1024 2048] [--masks 128 256 512 1024] [--repeats 3] [--threads N]
        [--device cpu] [--decoder]

OpenCV's seamlessClone is timed where opencv-python(-headless) is installed; it takes 8-bit pictures. `--decoder` times
a decoder of Stable Diffusion's size (128/256/512/512) with random weights at 1024² too, mask-local as `asymvq.decode`
does it and in full. Memory is what a fresh process's resident peak rises by (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import asymvq

try:
    import cv2
except ImportError:
    cv2 = None


def scene(size: int, mask_size: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """A picture, a decode that drifts, and a round mask in its middle."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 16, 16, generator=generator) * 1.6 - 0.8
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(-1, 1)
    decoded = image + 0.05 * torch.randn(image.shape, generator=generator) + torch.linspace(-0.2, 0.2, size)
    at = torch.arange(size) + 0.5 - size / 2
    mask = (at.square() + at[:, None].square() < (mask_size / 2) ** 2).float()[None, None]
    return image.to(device), decoded.clamp(-1, 1).to(device), mask.to(device)


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Median, after a first run; with one thread of a CPU, of its own seconds, whatever else runs there."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[float] = []
    for _ in range(repeats + 1):
        started = clock()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(clock() - started)
    return statistics.median(times[1:])


def peak(size: int, mask_size: int, threads: int) -> float:
    """MiB that a process's peak rises by in one call."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (size, mask_size, threads))


def _peak(size: int, mask_size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    small = scene(128, 32, "cpu")
    asymvq.harmonise(small[1], image=small[0], mask=small[2])  # what libraries take on their first call
    image, decoded, mask = scene(size, mask_size, "cpu")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    asymvq.harmonise(decoded, image=image, mask=mask)
    return (_resident("VmHWM") - before) / 1024


def _resident(key: str) -> int:
    """KiB."""
    return int(Path("/proc/self/status").read_text().split(f"{key}:")[1].split()[0])


def seamless_clone(image: Tensor, decoded: Tensor, mask: Tensor) -> Callable[[], object]:
    assert cv2 is not None
    source, target = (
        x[0].add(1).mul(127.5).byte().permute(1, 2, 0).contiguous().cpu().numpy() for x in (decoded, image)
    )
    inside = mask[0, 0].mul(255).byte().cpu().numpy()
    middle = (source.shape[1] // 2, source.shape[0] // 2)
    return lambda: cv2.seamlessClone(source, target, inside, middle, cv2.NORMAL_CLONE)


def decoder_seconds(image: Tensor, mask: Tensor, region: str) -> float:
    """One decode by a decoder of Stable Diffusion's size."""
    config = asymvq.AutoencoderConfig(
        latent_channels=4, decoder_channels=(128, 256, 512, 512), decoder_blocks=3, condition=None
    )
    vae = asymvq.AsymmetricAutoencoder(config).eval().requires_grad_(False)
    latent = torch.randn(1, 4, image.shape[-2] // 8, image.shape[-1] // 8)
    if region == "masked":  # what the mask and its context cover, as a stock VAE has no mask
        side = int(mask[0, 0].any(dim=0).sum()) // 8 + 2 * 6
        latent = latent[..., :side, :side].contiguous()
    started = time.perf_counter()
    asymvq.decode(vae, latent)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--masks", type=int, nargs="+", default=[128, 256, 512, 1024], help="diameters")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--decoder", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if cv2 is not None:
        cv2.setNumThreads(args.threads)

    print(f"torch {torch.__version__}, {args.device}, {args.threads} threads\n")
    print("| picture | mask | harmonise, s | seamlessClone, s | memory, MiB | in pictures (float32) |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        for mask_size in (m for m in args.masks if m < size):
            image, decoded, mask = scene(size, mask_size, args.device)
            ours = seconds(
                lambda d=decoded, i=image, m=mask: asymvq.harmonise(d, image=i, mask=m), args.repeats, args.device
            )
            clone = "—" if cv2 is None else f"{seconds(seamless_clone(image, decoded, mask), args.repeats, 'cpu'):.3f}"
            memory = peak(size, mask_size, args.threads) if args.device == "cpu" else float("nan")
            pictures = memory / (size * size * 12 / 2**20)
            print(f"| {size}² | {mask_size} | {ours:.3f} | {clone} | {memory:.0f} | {pictures:.1f} |", flush=True)
    if args.decoder:
        image, decoded, mask = scene(1024, 512, "cpu")
        ours = seconds(lambda: asymvq.harmonise(decoded, image=image, mask=mask), args.repeats, "cpu")
        for region in ("masked", "full"):
            whole = decoder_seconds(image, mask, region)
            print(
                f"\n1024², mask 512, decoder {region}: {whole:.1f} s; harmonise {ours:.3f} s, {ours / whole:.1%} of it"
            )


if __name__ == "__main__":
    main()
