"""What harmonising gives: errors on photos with seeded thick masks under imitated drifts, against plain decode + paste.

    python bench/harmonise_quality.py --images PHOTOS... [--vae FILE | --taef2 FOLDER] [--masks 6] [--seed 0]
        [--methods NAMES...] [--content] [--ablation] [--cache FOLDER] [--json FILE]

The latent is that of a copy whose colours drift, so that the true picture is known inside the mask too:

    own               the photo's own latent
    global            a shift of up to ±0.2 a channel
    varying           none in the middle of the picture, to each side linearly up to ±0.2 a channel, along both axes
    noise mask, …     the same, but latent cells that the mask does not touch hold the photo's own latent

`--content`: what is encoded has another photo's content under the mask, as an edit has; that is the truth there.

Ratios of mean squared errors, `asymvq.metrics`: in the mask / its outer 4 px / the seam / the mean colour. Intervals
are 95 % bootstrap over the photos. A red object that touches the kept region is drawn into each photo too, and the
squared error inside it compared. `--cache` keeps the decodes, in half precision.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import asymvq
from asymvq import drift as drift_module
from asymvq import observations
from asymvq.autoencoders import tiny
from asymvq.colour import ShiftKind, fit_colours, random_shift, touched_cells
from asymvq.intervals import interval
from asymvq.masks import random_thick_mask
from asymvq.metrics import NothingToMeasureError, border_error, colour_error, masked_error, seam_error
from asymvq.pictures import cover, read_picture

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
DRIFTS = ("own", "global", "varying", "noise mask, global", "noise mask, varying")
MEASURES = {"in mask": masked_error, "border": border_error, "seam": seam_error, "colour": colour_error}
SIZE = 256
SHIFT = 0.2
RED = torch.tensor([0.8, -0.8, -0.8])[:, None, None]

Method = Callable[[Tensor, Tensor, Tensor, int, bool], Tensor]
"""Of decoded, image and mask, (1, C, H, W), pixels a latent cell, and whether the latent had a noise mask."""
Replaced = tuple[ModuleType, dict[str, Any]]
"""A module that harmonising goes by, and what of it is replaced."""


@dataclass
class Case:
    """A photo with a mask, decoded under every drift. Tensors (1, C, H, W) in [-1, 1]."""

    photo: str
    image: Tensor
    truth: Tensor
    """What the mask covers as it should be; else the image."""
    mask: Tensor
    decoded: dict[str, Tensor]
    factor: int
    """Pixels a latent cell."""


def taef2(folder: Path) -> asymvq.AsymmetricAutoencoder:
    """The real TAEF2 of github.com/madebyollin/taesd, from its two files."""
    halves = [torch.load(folder / f"taef2_{part}.pth", weights_only=True) for part in ("encoder", "decoder")]
    config, state = tiny.read(tiny.together(*({k: v.float() for k, v in half.items()} for half in halves)), "TAESD")
    vae = asymvq.AsymmetricAutoencoder(config).eval().requires_grad_(False)
    vae.load_state_dict(state)
    return vae


@torch.inference_mode()
def make_cases(
    vae: asymvq.AsymmetricAutoencoder, path: Path, masks: int, seed: int, content: Path | None = None
) -> list[Case]:
    # by name, so that a photo's masks do not depend on the others
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    image = cover(read_picture(path), (SIZE, SIZE))
    own = vae.encode(image)
    other = image if content is None else cover(read_picture(content), (SIZE, SIZE))
    cases: list[Case] = []
    for _ in range(masks):
        mask = random_thick_mask(SIZE, SIZE, rng)[None]
        touched = touched_cells(mask, vae.factor)
        truth = torch.where(mask > 0, other, image)
        latents = {"own": vae.encode(truth)}
        for kind in (ShiftKind.GLOBAL, ShiftKind.VARYING):
            change = random_shift((SIZE, SIZE), SHIFT, rng, varies=kind.varies)
            latents[kind.value] = vae.encode((truth + change).clamp(-1, 1))
            latents[f"noise mask, {kind.value}"] = torch.where(touched, latents[kind.value], own)
        decoded = {name: asymvq.decode(vae, latents[name]).half() for name in DRIFTS}
        cases.append(Case(path.stem, image, truth, mask, decoded, vae.factor))
    return cases


@torch.inference_mode()
def make_red(vae: asymvq.AsymmetricAutoencoder, path: Path, seed: int) -> list[Case]:
    """A photo with a box to edit whose left half holds a red object that touches its left side; `image` as kept."""
    rng = np.random.default_rng([seed, 1, zlib.crc32(path.name.encode())])
    image = cover(read_picture(path), (SIZE, SIZE))
    mask, thing = torch.zeros(1, 1, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    top, left, height, width = (*rng.integers(40, 100, 2), *rng.integers(60, 120, 2))
    mask[..., top : top + height, left : left + width] = 1
    thing[..., top + height // 4 : top + 3 * height // 4, left : left + width // 2] = 1
    truth = torch.where(thing > 0, RED, image)
    shift = random_shift((SIZE, SIZE), SHIFT, rng)
    decoded = {
        name: asymvq.decode(vae, vae.encode((truth + s).clamp(-1, 1))).half()
        for name, s in (("own", 0 * shift), ("global", shift))
    }
    return [Case(path.stem, image, truth, torch.cat([mask, thing], dim=1), decoded, vae.factor)]


def cached(folder: Path | None, name: str, make: Callable[[], list[Case]]) -> list[Case]:
    if folder is None:
        return make()
    path = folder / f"{name}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([(c.photo, c.image, c.truth, c.mask, c.decoded, c.factor) for c in make()], path)
    return [Case(*values) for values in torch.load(path, weights_only=True)]


def fit(decoded: Tensor, image: Tensor, mask: Tensor, *_: int) -> Tensor:
    return fit_colours(decoded, image=image, mask=mask)


def poisson(decoded: Tensor, image: Tensor, mask: Tensor, *_: int) -> Tensor:
    """Laplace's equation inside the mask, the kept residual at its border, free at the frame."""
    return decoded + _laplace(image - decoded, mask)


def membrane(decoded: Tensor, image: Tensor, mask: Tensor, *_: int) -> Tensor:
    """The same of the residual blurred over kept pixels (sigma 4)."""
    kept = (mask <= 0).float()
    blurred = _blur((image - decoded) * kept, 4) / _blur(kept, 4).clamp(min=1e-4)
    return decoded + _laplace(blurred, mask)


def _blur(picture: Tensor, sigma: int) -> Tensor:
    steps = torch.arange(-3 * sigma, 3 * sigma + 1)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = (weights / weights.sum()).expand(picture.shape[1], 1, 1, -1)
    rows = F.conv2d(picture, weights, padding=(0, 3 * sigma), groups=picture.shape[1])
    return F.conv2d(rows, weights.mT, padding=(3 * sigma, 0), groups=picture.shape[1])


def _laplace(residual: Tensor, mask: Tensor) -> Tensor:
    """Coarse to fine, relaxed at each level. SIZE is a power of two."""
    kept = (mask <= 0).float()
    levels = [(residual * kept, kept)]
    while levels[-1][0].shape[-1] > 1:
        levels.append((F.avg_pool2d(levels[-1][0], 2), F.avg_pool2d(levels[-1][1], 2)))
    x = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for total, share in reversed(levels[:-1]):
        known, values = share > 0, total / share.clamp(min=1e-6)
        x = F.interpolate(x, size=total.shape[-2:], mode="bilinear")
        for _ in range(60):
            p = F.pad(torch.where(known, values, x), (1, 1, 1, 1), mode="replicate")
            x = (p[..., 1:-1, 2:] + p[..., 1:-1, :-2] + p[..., 2:, 1:-1] + p[..., :-2, 1:-1]) / 4
        x = torch.where(known, values, x)
    return x


def harmonise(decoded: Tensor, image: Tensor, mask: Tensor, factor: int, noise_mask: bool) -> Tensor:
    return asymvq.harmonise(decoded, image=image, mask=mask, factor=factor, noise_mask=noise_mask)


METHODS: dict[str, Method] = {
    "gain + offset": fit,
    "Poisson": poisson,
    "smooth membrane": membrane,
    "harmonise": harmonise,
}


def without_features(*groups: int) -> Replaced:
    """The features of `groups` are nothing."""
    whole = drift_module.features_at

    def features_at(*args: Any) -> tuple[Tensor, Tensor]:
        values, numbers = whole(*args)
        return values * torch.isin(numbers, torch.tensor(groups), invert=True), numbers

    return drift_module, {"features_at": features_at}


ABLATIONS: dict[str, Replaced] = {
    "without the colour map": without_features(drift_module.COLOUR_GROUP),
    "colour map for all colours": (observations, {"COLOUR_REACH": 1e6}),
    "without the ring": without_features(4, 5),
    "without linear and quadratic": without_features(1, 2),
    "without the kernel (its noise stays)": (drift_module, {"kernel": lambda a, b: 1e-6 * (torch.cdist(a, b) == 0)}),
    "without weights against mixing": (observations, {"MIXED": 1e6}),
    "without weights against outliers": (observations, {"OUTLIER": 1e6}),
    "noise masks not known of": (drift_module, {"CONTINUED": 1e-6}),
    "undamped (no evidence)": (
        drift_module,
        {"evidence": lambda z, x, gram, moment, groups: torch.full_like(gram[0], 1e-3)},
    ),
}


@contextmanager
def ablated(name: str) -> Iterator[None]:
    module, replaced = ABLATIONS[name]
    with mock.patch.multiple(module, **replaced):  # an error where it has nothing of that name
        yield


@torch.inference_mode()
def measured(output: Tensor, image: Tensor, mask: Tensor) -> list[float]:
    """0 where there is nothing to measure, as no border: the same for all."""
    values: list[float] = []
    for measure in MEASURES.values():
        try:
            values.append(measure(output, image, mask))
        except NothingToMeasureError:
            values.append(0.0)
    return values


def errors(method: Method | None, cases: list[Case], drift: str) -> np.ndarray:
    """(cases, measures); of pasting without a method. 0 where the mask has no border."""
    rows: list[list[float]] = []
    for case in cases:
        decoded = case.decoded[drift].float()
        out = decoded
        if method is not None:
            out = method(decoded, case.image, case.mask, case.factor, drift.startswith("noise mask"))
        pasted = torch.where(case.mask > 0, out, case.image)
        rows.append(measured(pasted, case.truth, case.mask))
    return np.array(rows)


@torch.inference_mode()
def red_errors(method: Method | None, cases: list[Case], drift: str) -> np.ndarray:
    """(cases, 1): squared error inside the red object."""
    rows: list[list[float]] = []
    for case in cases:
        mask, thing = case.mask[:, :1], case.mask[:, 1:]
        decoded = case.decoded[drift].float()
        out = decoded if method is None else method(decoded, case.image, mask, case.factor, False)
        rows.append([(out - RED).masked_select(thing > 0).square().mean().item()])
    return np.array(rows)


def ratios(method: np.ndarray, paste: np.ndarray, photos: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios of the sums, (measures,), and the ends of their intervals."""
    ends = np.array([interval(a, b, photos) for a, b in zip(method.T, paste.T, strict=True)])
    return method.sum(axis=0) / paste.sum(axis=0), ends[:, 0], ends[:, 1]


def worst(method: np.ndarray, paste: np.ndarray, photos: list[str]) -> tuple[float, str]:
    """The highest ratio in the mask of any photo."""
    of = {n: [p == n for p in photos] for n in photos}
    return max((method[at, 0].sum() / paste[at, 0].sum(), n) for n, at in of.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--taef2", type=Path, help="folder of the real TAEF2's two files, instead of --vae")
    parser.add_argument("--masks", type=int, default=6, help="a photo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--content", action="store_true", help="of the next photo, under the mask")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--ablation", action="store_true", help="what each part brings, instead of other methods")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    vae = asymvq.load(args.vae, dtype=torch.float32) if args.taef2 is None else taef2(args.taef2)
    vae_name = args.vae.stem if args.taef2 is None else "taef2"
    cases: list[Case] = []
    red: list[Case] = []
    for i, path in enumerate(tqdm(args.images, unit="photo", disable=None)):
        name = f"{vae_name}-{path.stem}-{args.seed}"
        other = args.images[(i + 1) % len(args.images)] if args.content else None
        cases += cached(
            args.cache,
            f"{name}-{args.masks}-{other.stem if other else 'own'}",
            lambda p=path, o=other: make_cases(vae, p, args.masks, args.seed, o),
        )
        red += cached(args.cache, f"{name}-red", lambda p=path: make_red(vae, p, args.seed))
    photos, red_photos = [c.photo for c in cases], [c.photo for c in red]
    columns = [*DRIFTS, "red", "red, global"]

    def all_errors(method: Method | None) -> dict[str, np.ndarray]:
        found = {drift: errors(method, cases, drift) for drift in DRIFTS}
        return found | {"red": red_errors(method, red, "own"), "red, global": red_errors(method, red, "global")}

    paste = all_errors(None)
    report: dict[str, dict[str, list[list[float]]]] = {}
    what = ", another photo's content" if args.content else ""
    print(f"{vae_name}: {len(args.images)} photos, {args.masks} masks each{what}, seed {args.seed}\n")
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    rows = args.methods if not args.ablation else ["harmonise", *ABLATIONS]
    for row in rows:
        if row in METHODS:
            found = all_errors(METHODS[row])
        else:
            with ablated(row):
                found = all_errors(harmonise)
        values = {c: ratios(found[c], paste[c], red_photos if c.startswith("red") else photos) for c in columns}
        print(f"| {row} | {' | '.join('/'.join(f'{v:.2f}' for v in values[c][0]) for c in columns)} |", flush=True)
        if row == "harmonise":
            spans = ["/".join(f"{a:.2f}–{b:.2f}" for a, b in zip(*values[c][1:], strict=True)) for c in columns]
            print(f"| 95 % | {' | '.join(spans)} |")
            highest = [worst(found[c], paste[c], red_photos if c.startswith("red") else photos) for c in columns]
            print(f"| worst photo, in mask | {' | '.join(f'{v:.2f} ({n})' for v, n in highest)} |", flush=True)
        report[row] = {c: [v.tolist() for v in values[c]] for c in columns}
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
