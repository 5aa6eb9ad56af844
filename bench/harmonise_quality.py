"""What harmonising gives: errors on photos with seeded thick masks under imitated drifts, against plain decode + paste.

    python bench/harmonise_quality.py --images PHOTOS... [--vae FILE | --taef2 FOLDER] [--masks 6] [--seed 0]
        [--ablation] [--cache FOLDER] [--json FILE]

The latent is that of a copy whose colours drift, so that the true picture is known inside the mask too:

    own               the photo's own latent
    global            a shift of up to ±0.2 a channel
    varying           none in the middle of the picture, to each side linearly up to ±0.2 a channel, along both axes
    noise mask, …     the same, but latent cells that the mask does not touch hold the photo's own latent

Ratios of mean squared errors, `asymvq.metrics`: in the mask / its outer 4 px / the seam / the mean colour. Intervals
are 95 % bootstrap over the photos. A red object that touches the kept region is drawn into each photo too, and the
squared error inside it compared. `--cache` keeps the decodes, in half precision.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import asymvq
from asymvq.masks import random_thick_mask
from asymvq.metrics import border_error, colour_error, masked_error, seam_error
from asymvq.pictures import cover, read_picture

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
DRIFTS = ("own", "global", "varying", "noise mask, global", "noise mask, varying")
MEASURES = {"in mask": masked_error, "border": border_error, "seam": seam_error, "colour": colour_error}
SIZE = 256
SHIFT = 0.2
RED = torch.tensor([0.8, -0.8, -0.8])[:, None, None]
MODULE = sys.modules["asymvq.harmonise"]  # the package's attribute of that name is the function

Method = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of decoded, image and mask, (1, C, H, W)."""


@dataclass
class Case:
    """A photo with a mask, decoded under every drift. Tensors (1, C, H, W) in [-1, 1]."""

    photo: str
    image: Tensor
    mask: Tensor
    decoded: dict[str, Tensor]


Codec = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], int]
"""Picture to latent, latent to picture (plain), pixels a cell."""


def bundled(path: Path) -> Codec:
    vae = asymvq.load(path, dtype=torch.float32)
    return vae.encode, lambda latent: asymvq.decode(vae, latent), vae.config.factor


def taef2(folder: Path) -> Codec:
    """The real TAEF2, as github.com/madebyollin/taesd lays it out."""
    encoder, decoder = (
        _tiny(torch.load(folder / f"taef2_{part}.pth", weights_only=True)) for part in ("encoder", "decoder")
    )

    def decode(latent: Tensor) -> Tensor:
        return decoder(torch.tanh(latent / 3) * 3) * 2 - 1

    return lambda image: encoder(image / 2 + 0.5), decode, 8


class _Block(nn.Module):
    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.weights = {key: value.float() for key, value in weights.items()}

    def forward(self, x: Tensor) -> Tensor:
        w = self.weights
        if "pool.0.weight" in w:
            pooled = F.group_norm(F.conv2d(x, w["pool.0.weight"]), 4, w["pool.1.weight"], w["pool.1.bias"]).relu()
            x = x + F.conv2d(pooled, w["pool.3.weight"])
        y = x
        for i in (0, 2, 4):
            y = F.conv2d(y, w[f"conv.{i}.weight"], w[f"conv.{i}.bias"], padding=1)
            y = y.relu() if i < 4 else y
        return (x + y).relu()


def _tiny(weights: dict[str, Tensor]) -> nn.Module:
    """Layers by their numbers in the file: blocks, convolutions; what has no weights is told from what surrounds it."""
    numbers = sorted({int(key.split(".")[0]) for key in weights})
    decoder = numbers[0] == 1
    layers: list[nn.Module] = []
    for n in numbers:
        own = {key.split(".", 1)[1]: value for key, value in weights.items() if int(key.split(".")[0]) == n}
        if "weight" not in own:
            layers.append(_Block(own))
            continue
        kernel = own["weight"].float()
        down = not decoder and "bias" not in own
        if decoder and "bias" not in own:
            layers.append(nn.Upsample(scale_factor=2))
        conv = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, padding=1, stride=2 if down else 1, bias="bias" in own)
        conv.load_state_dict({key: value.float() for key, value in own.items()})
        layers.append(conv)
        if decoder and n == 1:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers).requires_grad_(False)


@torch.inference_mode()
def make_cases(codec: Codec, path: Path, masks: int, seed: int) -> list[Case]:
    encode, decode, factor = codec
    # by name, so that a photo's masks do not depend on the others
    rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
    image = cover(read_picture(path), (SIZE, SIZE))
    latent = encode(image)
    own = decode(latent)
    line = torch.linspace(-1, 1, SIZE)
    cases: list[Case] = []
    for _ in range(masks):
        mask = random_thick_mask(SIZE, SIZE, rng)[None]
        shift, across, down = torch.from_numpy(rng.uniform(-SHIFT, SHIFT, (3, 1, 3, 1, 1))).float()
        changes = {"global": shift, "varying": across * line + down * line[:, None]}
        touched = F.max_pool2d(mask, factor) > 0
        decoded = {"own": own}
        for name, change in changes.items():
            drifted = encode((image + change).clamp(-1, 1))
            decoded[name] = decode(drifted)
            decoded[f"noise mask, {name}"] = decode(torch.where(touched, drifted, latent))
        cases.append(Case(path.stem, image, mask, {name: decoded[name].half() for name in DRIFTS}))
    return cases


@torch.inference_mode()
def make_red(codec: Codec, path: Path, seed: int) -> list[Case]:
    """A photo with a box to edit whose left half holds a red object that touches its left side; `image` as kept."""
    encode, decode, _ = codec
    rng = np.random.default_rng([seed, 1, zlib.crc32(path.name.encode())])
    image = cover(read_picture(path), (SIZE, SIZE))
    mask, thing = torch.zeros(1, 1, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE)
    top, left, height, width = (*rng.integers(40, 100, 2), *rng.integers(60, 120, 2))
    mask[..., top : top + height, left : left + width] = 1
    thing[..., top + height // 4 : top + 3 * height // 4, left : left + width // 2] = 1
    truth = torch.where(thing > 0, RED, image)
    shift = torch.from_numpy(rng.uniform(-SHIFT, SHIFT, (1, 3, 1, 1))).float()
    decoded = {
        name: decode(encode((truth + s).clamp(-1, 1))).half() for name, s in (("own", 0 * shift), ("global", shift))
    }
    return [Case(path.stem, image, torch.cat([mask, thing], dim=1), decoded)]


def cached(folder: Path | None, name: str, make: Callable[[], list[Case]]) -> list[Case]:
    if folder is None:
        return make()
    path = folder / f"{name}.pt"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        torch.save([(c.photo, c.image, c.mask, c.decoded) for c in make()], path)
    return [Case(*values) for values in torch.load(path, weights_only=True)]


def fit(decoded: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Gain and offset a channel, least squares on kept pixels."""
    kept = mask[0, 0] <= 0
    x, y = decoded[..., kept], image[..., kept]
    mean_x, mean_y = x.mean(dim=-1, keepdim=True), y.mean(dim=-1, keepdim=True)
    gain = ((x - mean_x) * (y - mean_y)).sum(dim=-1, keepdim=True) / (x - mean_x).square().sum(dim=-1, keepdim=True)
    return ((decoded.flatten(2) - mean_x) * gain + mean_y).reshape(decoded.shape)


def poisson(decoded: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Laplace's equation inside the mask, the kept residual at its border, free at the frame."""
    return decoded + _laplace(image - decoded, mask)


def membrane(decoded: Tensor, image: Tensor, mask: Tensor) -> Tensor:
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


def harmonise(decoded: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    return asymvq.harmonise(decoded, image=image, mask=mask)


METHODS: dict[str, Method] = {
    "gain + offset": fit,
    "Poisson": poisson,
    "smooth membrane": membrane,
    "harmonise": harmonise,
}


def without_features(*groups: int) -> dict[str, Any]:
    """The features of `groups` are nothing."""
    whole = MODULE._features

    def features(*args: Any) -> tuple[Tensor, Tensor]:
        values, numbers = whole(*args)
        return values * torch.isin(numbers, torch.tensor(groups), invert=True), numbers

    return {"_features": features}


ABLATIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "without the colour map": lambda: without_features(3),
    "colour map without a bound": lambda: {"COLOUR_REACH": 1e6},
    "without the ring": lambda: without_features(4, 5),
    "without linear and quadratic": lambda: without_features(1, 2),
    "without the kernel (its noise stays)": lambda: {"_kernel": lambda a, b: 1e-6 * (torch.cdist(a, b) == 0)},
    "without weights against mixing": lambda: {"MIXED": 1e6},
    "without weights against outliers": lambda: {"OUTLIER": 1e6},
    "undamped (no evidence)": lambda: {"_evidence": lambda z, x, gram, moment, groups: torch.full_like(gram[0], 1e-3)},
}
"""What of `asymvq.harmonise`'s module to replace."""


@contextmanager
def ablated(name: str) -> Iterator[None]:
    with mock.patch.multiple(MODULE, **ABLATIONS[name]()):
        yield


@torch.inference_mode()
def errors(method: Method | None, cases: list[Case], drift: str) -> np.ndarray:
    """(cases, measures); of pasting without a method. 0 where the mask has no border."""
    rows: list[list[float]] = []
    for case in cases:
        decoded = case.decoded[drift].float()
        out = decoded if method is None else method(decoded, case.image, case.mask)
        pasted = torch.where(case.mask > 0, out, case.image)
        rows.append([measure(pasted, case.image, case.mask) for measure in MEASURES.values()])
    return np.array(rows)


@torch.inference_mode()
def red_errors(method: Method | None, cases: list[Case], drift: str) -> np.ndarray:
    """(cases, 1): squared error inside the red object."""
    rows: list[list[float]] = []
    for case in cases:
        mask, thing = case.mask[:, :1], case.mask[:, 1:]
        decoded = case.decoded[drift].float()
        out = decoded if method is None else method(decoded, case.image, mask)
        rows.append([(out - RED).masked_select(thing > 0).square().mean().item()])
    return np.array(rows)


def ratios(method: np.ndarray, paste: np.ndarray, photos: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratios of the sums, (measures,), and the ends of their intervals."""
    names = sorted(set(photos))
    a, b = (np.stack([e[[p == n for p in photos]].sum(axis=0) for n in names]) for e in (method, paste))
    draws = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    spread = np.percentile(a[draws].sum(axis=1) / b[draws].sum(axis=1), [2.5, 97.5], axis=0)
    return a.sum(axis=0) / b.sum(axis=0), spread[0], spread[1]


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
    parser.add_argument("--ablation", action="store_true", help="what each part brings, instead of other methods")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    codec = bundled(args.vae) if args.taef2 is None else taef2(args.taef2)
    vae = args.vae.stem if args.taef2 is None else "taef2"
    cases: list[Case] = []
    red: list[Case] = []
    for path in tqdm(args.images, unit="photo", disable=None):
        name = f"{vae}-{path.stem}-{args.seed}"
        cases += cached(args.cache, f"{name}-{args.masks}", lambda p=path: make_cases(codec, p, args.masks, args.seed))
        red += cached(args.cache, f"{name}-red", lambda p=path: make_red(codec, p, args.seed))
    photos, red_photos = [c.photo for c in cases], [c.photo for c in red]
    columns = [*DRIFTS, "red", "red, global"]

    def all_errors(method: Method | None) -> dict[str, np.ndarray]:
        found = {drift: errors(method, cases, drift) for drift in DRIFTS}
        return found | {"red": red_errors(method, red, "own"), "red, global": red_errors(method, red, "global")}

    paste = all_errors(None)
    report: dict[str, dict[str, list[list[float]]]] = {}
    print(f"{vae}: {len(args.images)} photos, {args.masks} masks each, seed {args.seed}\n")
    print(f"| | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    rows = [*METHODS] if not args.ablation else ["harmonise", *ABLATIONS]
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
