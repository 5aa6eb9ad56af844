"""`demo`: an edit as a diffusion model would make it, decoded without and with the kept pixels."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .. import __version__
from ..autoencoder import AsymmetricAutoencoder
from ..checkpoint import load
from ..crop import centre_crop
from ..decode import decode
from ..masks import edited, random_thick_mask
from ..metrics import kept_error
from ..outputs import check_output, replacing
from ..panel import Decoded, draw_panel
from ..pictures import cover, read_mask, read_picture

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Result:
    """One decode of the edited latent."""

    name: str
    picture: Tensor
    """(1, 3, H, W) in about [-1, 1]."""
    kept_error: float
    seconds: float


def run(args: argparse.Namespace) -> None:
    vae_path: Path = args.vae or ASSETS / "demo.safetensors"
    panel_path, report_path = _outputs(args)
    full_image = read_picture(args.image or ASSETS / "picture.png")
    example = read_picture(args.example or ASSETS / "example.png")
    # channels last: a third faster on a CPU
    vae = load(vae_path, dtype=torch.float32).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    image = centre_crop(full_image, vae.config.factor)
    mask = _mask(args, full_image, vae.config.factor)
    with torch.inference_mode():
        latent = edit(vae, image, cover(example, (image.shape[-2], image.shape[-1])), mask)
        results = compare(vae, latent, image, mask)

    plain, _, exact = results
    panel = draw_panel(image[0], mask[0], [
        Decoded("Plain decode", plain.picture[0], f"error of the kept pixels: {plain.kept_error:.1e}",
                "made from the edited latent alone"),
        Decoded("Conditional decode", exact.picture[0],
                f"error of the kept pixels: {exact.kept_error:.1g}", "with the source's own kept pixels"),
    ])  # fmt: skip
    with replacing(panel_path, overwrite=args.overwrite) as temporary:
        panel.save(temporary, format="PNG")
    with replacing(report_path, overwrite=args.overwrite) as temporary:
        temporary.write_text(json.dumps(_report(args, vae_path, image, mask, latent, results), indent=2) + "\n")
    _print_table(results)
    print(f"\nWrote {panel_path} and {report_path}")


def edit(vae: AsymmetricAutoencoder, image: Tensor, example: Tensor, mask: Tensor) -> Tensor:
    """The latent of `image` with that of `example` wherever the mask touches it, (1, C, h, w).

    Images are (1, 3, H, W) in [-1, 1], the mask is (1, 1, H, W). As after a diffusion model, no edited pixel depends on
    the source's latent.
    """
    touched = F.max_pool2d(edited(mask).float(), kernel_size=vae.config.factor)
    return torch.lerp(vae.encode(image), vae.encode(example), touched)


def compare(vae: AsymmetricAutoencoder, latent: Tensor, image: Tensor, mask: Tensor) -> list[Result]:
    """The plain decode, the network's conditional decode, and the one with the source's kept pixels, not harmonised."""
    ways: dict[str, Callable[[], Tensor]] = {
        "plain": lambda: decode(vae, latent),
        "conditional, network": lambda: decode(vae, latent, image=image, mask=mask, keep="network"),
        "conditional, exact": lambda: decode(vae, latent, image=image, mask=mask, keep="exact"),
    }
    results: list[Result] = []
    for name, way in tqdm(ways.items(), unit="decode", leave=False, disable=None):
        started = time.perf_counter()
        picture = way()
        seconds = time.perf_counter() - started
        results.append(Result(name, picture, kept_error(picture, image, mask), seconds))
    return results


def _mask(args: argparse.Namespace, image: Tensor, factor: int) -> Tensor:
    """(1, 1, H, W), cropped: the one that was asked for, the bundled one for the bundled picture, else a random one."""
    if args.mask is None and args.image is not None:
        height, width = centre_crop(image, factor).shape[-2:]
        return random_thick_mask(height, width, np.random.default_rng(args.seed))[None]
    mask = read_mask(args.mask or ASSETS / "mask.png")
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(
            f"Expected a mask of the picture's size, {image.shape[-1]}×{image.shape[-2]}, but got "
            f"{mask.shape[-1]}×{mask.shape[-2]}."
        )
    return centre_crop(mask, factor)


def _outputs(args: argparse.Namespace) -> tuple[Path, Path]:
    """demo.png and demo.json; where one of them exists and may not be replaced, both with the first free number."""
    number, paths = 1, (args.out / "demo.png", args.out / "demo.json")
    while not args.overwrite and any(path.exists() for path in paths):
        number += 1
        paths = (args.out / f"demo_{number:05}.png", args.out / f"demo_{number:05}.json")
    for path in paths:
        check_output(path, overwrite=args.overwrite, inputs=(args.image, args.example, args.mask, args.vae))
    return paths


def _report(
    args: argparse.Namespace, vae_path: Path, image: Tensor, mask: Tensor, latent: Tensor, results: list[Result]
) -> dict[str, Any]:
    return {
        "vae": str(vae_path),
        "image": str(args.image or "bundled"),
        "example": str(args.example or "bundled"),
        "mask": str(args.mask or ("random" if args.image else "bundled")),
        "seed": args.seed,
        "width": image.shape[-1],
        "height": image.shape[-2],
        "latent_shape": list(latent.shape),
        "edited_share": edited(mask).float().mean().item(),
        "decodes": [{"name": r.name, "kept_error": r.kept_error, "seconds": r.seconds} for r in results],
        "versions": {"asymvq": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "cpu_threads": torch.get_num_threads(),
    }


def _print_table(results: list[Result]) -> None:
    print(f"{'decode':<22}{'kept-pixel error':>18}{'seconds':>10}")
    for result in results:
        print(f"{result.name:<22}{result.kept_error:>18.2e}{result.seconds:>10.2f}")
