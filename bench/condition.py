"""What a decoder's condition wins on top of harmonising: its conditional decode against a plain one, both harmonised.

    python bench/condition.py --images PHOTOS... [--vae FILE] [--base FILE] [--masks 6] [--size 256] [--fine 1.5]
        [--json FILE]

Drifts and masks as in bench/harmonise_quality.py. Ratios of mean squared errors, `asymvq.metrics`: in the mask / its
outer 4 px / the seam / the mean colour, with 95 % bootstrap intervals over the photos, against the same VAE's plain
decode, and against that of `--base`, which has the same encoder: what training alone brings is in the second only.
"detail": energy of what is finer than a Gaussian of `--fine` px inside the mask, over that of the truth, conditional
and plain. All decodes are full. A second table has this by the distance to the nearest kept pixel: the share of the
plain decode's error there, what is left of it, and the energy of detail. `--json` keeps the mean errors themselves too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import harmonise_quality as quality
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import asymvq
from asymvq.colour import random_shift, touched_cells
from asymvq.masks import random_thick_mask
from asymvq.pictures import cover, read_picture

FINE = 1.5
"""Pixels: the deviation of the Gaussian that detail is finer than."""
EDGES = (0.5, 2.5, 4.5, 8.5, 16.5, 32.5, 1e9)
"""Of the bands of pixels that lie so far from kept ones."""


def latents(
    vae: asymvq.AsymmetricAutoencoder, image: Tensor, mask: Tensor, rng: np.random.Generator
) -> dict[str, Tensor]:
    """By the names of `harmonise_quality.DRIFTS`."""
    size, touched = (image.shape[-2], image.shape[-1]), touched_cells(mask, vae.factor)
    found = {"own": vae.encode(image)}
    for name, varies in (("global", False), ("varying", True)):
        change = random_shift(size, quality.SHIFT, rng, varies=varies)
        found[name] = vae.encode((image + change).clamp(-1, 1))
        found[f"noise mask, {name}"] = torch.where(touched, found[name], found["own"])
    return found


def detail(picture: Tensor, mask: Tensor, fine: float = FINE) -> float:
    return (fine_detail(picture, fine) * mask).sum().item()


def fine_detail(picture: Tensor, fine: float = FINE) -> Tensor:
    """(B, C, H, W) energies."""
    taps = torch.arange(-6.0, 7.0)
    kernel = torch.exp(-0.5 * (taps / fine) ** 2)
    kernel = (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None]
    smooth = F.conv2d(F.pad(picture.movedim(1, 0), (6,) * 4, mode="replicate"), kernel).movedim(0, 1)
    return (picture - smooth).square()


@dataclass(frozen=True)
class Case:
    """A photo with a mask, and a latent of it. Tensors (1, C, H, W)."""

    photo: str
    drift: str
    """One of `harmonise_quality.DRIFTS`."""
    image: Tensor
    mask: Tensor
    latent: Tensor
    noise_mask: bool
    fine: float = FINE

    def harmonised(self, vae: asymvq.AsymmetricAutoencoder) -> Tensor:
        """The plain decode."""
        return asymvq.harmonise(
            asymvq.decode(vae, self.latent),
            image=self.image, mask=self.mask, factor=vae.factor, noise_mask=self.noise_mask,
        )  # fmt: skip

    def conditional(self, vae: asymvq.AsymmetricAutoencoder) -> Tensor:
        """Harmonised too."""
        return asymvq.decode(
            vae, self.latent,
            image=self.image, mask=self.mask, region="full", harmonise=1.0, noise_mask=self.noise_mask,
        )  # fmt: skip

    def measured(self, output: Tensor) -> list[float]:
        """As `harmonise_quality.measured`, and the energy of fine detail in the mask."""
        pasted = torch.where(self.mask > 0, output, self.image)
        return [*quality.measured(pasted, self.image, self.mask), detail(pasted, self.mask, self.fine)]

    def by_distance(self, output: Tensor) -> NDArray[np.float64]:
        """(2, bands) sums of squared errors and of the energy of detail."""
        distance = cv2.distanceTransform((self.mask[0, 0] > 0).numpy().astype(np.uint8), cv2.DIST_L2, 5)
        pasted = torch.where(self.mask > 0, output, self.image)
        maps = ((pasted - self.image).square(), fine_detail(pasted, self.fine))
        sums = [np.histogram(distance, EDGES, weights=each[0].sum(dim=0).numpy())[0] for each in maps]
        return np.array(sums)


def cases(
    vae: asymvq.AsymmetricAutoencoder, paths: Sequence[Path], *, masks: int, size: int, seed: int, fine: float = FINE
) -> Iterator[Case]:
    """Of each photo, mask and drift, encoded by `vae`."""
    for path in tqdm(paths, unit="photo"):
        rng = np.random.default_rng([seed, zlib.crc32(path.name.encode())])
        image = cover(read_picture(path), (size, size))
        for _ in range(masks):
            mask = random_thick_mask(size, size, rng)[None]
            for drift, latent in latents(vae, image, mask, rng).items():
                yield Case(path.stem, drift, image, mask, latent, drift.startswith("noise mask"), fine)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=quality.DEMO)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--masks", type=int, default=6, help="a photo")
    parser.add_argument("--size", type=int, default=quality.SIZE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fine", type=float, default=FINE, help="pixels, up to 1.5: what counts as detail")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    vae = asymvq.load(args.vae, dtype=torch.float32).eval()
    base = None if args.base is None else asymvq.load(args.base, dtype=torch.float32).eval()

    rows: dict[tuple[str, str], list[list[float]]] = {}
    sums: dict[tuple[str, str], NDArray[np.float64]] = {}
    photos: dict[str, list[str]] = {}
    for case in cases(vae, args.images, masks=args.masks, size=args.size, seed=args.seed, fine=args.fine):
        photos.setdefault(case.drift, []).append(case.photo)
        ways = {"plain": case.harmonised(vae), "conditional": case.conditional(vae), "truth": case.image}
        if base is not None:
            ways["base"] = case.harmonised(base)
        for way, output in ways.items():
            rows.setdefault((way, case.drift), []).append(case.measured(output))
            sums[way, case.drift] = sums.get((way, case.drift), 0) + case.by_distance(output)

    table = {key: np.array(values) for key, values in rows.items()}
    against = ["plain"] if base is None else ["plain", "base"]
    print(f"| | {' | '.join(f'against {way}' for way in against)} | detail |\n|---|{'---|' * (len(against) + 1)}")
    result: dict[str, dict[str, list[list[float]]]] = {}
    for drift in quality.DRIFTS:
        cells: list[str] = []
        for way in against:
            found = quality.ratios(table["conditional", drift][:, :4], table[way, drift][:, :4], photos[drift])
            result.setdefault(drift, {})[f"against {way}"] = [part.tolist() for part in found]
            value, low, high = ("/".join(f"{x:.3f}" for x in part) for part in found)
            cells.append(f"{value} ({low} to {high})")
        for way in ("conditional", *against, "truth"):
            result[drift][way] = [table[way, drift].mean(axis=0).tolist()]
        energies = [table[way, drift][:, 4].sum() for way in ("conditional", "plain", "truth")]
        shares = "/".join(f"{energy / energies[-1]:.3f}" for energy in energies[:-1])
        print(f"| {drift} | {' | '.join(cells)} | {shares} |")
    bands = [f"{a + 0.5:.0f} to {b - 0.5:.0f}" for a, b in itertools.pairwise(EDGES[:-1])] + [
        f"{EDGES[-2] + 0.5:.0f} on"
    ]
    print(f"\n| pixels from kept ones | {' | '.join(bands)} |\n|{'---|' * (len(bands) + 1)}")
    for drift in quality.DRIFTS:
        plain, found, truth = (sums[way, drift] for way in ("plain", "conditional", "truth"))
        each = zip(
            plain[0] / plain[0].sum(), found[0] / plain[0], found[1] / truth[1], plain[1] / truth[1], strict=True
        )
        cells = [f"{share:.0%}: {left:.3f}, {mine:.3f}/{theirs:.3f}" for share, left, mine, theirs in each]
        print(f"| {drift} | {' | '.join(cells)} |")
        result[drift]["by distance"] = [*plain.tolist(), *found.tolist(), *truth.tolist()]
    if args.json is not None:
        args.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
