"""How well `asymvq.change_mask` finds what was meant to change, in edits laid over their sources again.

    python bench/change_mask.py --images PHOTOS [PHOTOS …] [--names FILE …] [--vae FILE] [--cases 40] [--seed 0]

Each case twice: told the two pictures alone, and the VAE too.

Drift, motion and VAE of each case are those of bench/align.py. In turn the edit is: another photo's content in a
seeded thick mask of up to 40 % of the area; the same, its edge soft; an object added; colours changed; an object
removed and painted over by OpenCV (Telea). Intersection over union with the true mask, at one half, grow and feather
0. "missed": the share of the true mask that is left out even when grown as by default. "nothing changed": the share
that is found where only drift, motion and VAE were. Intervals of 95 % are over the photos. `--panel` draws the cases:
source, edited, true mask, found masks.

    python bench/change_mask.py --fit --images TRAINING_PHOTOS --cases 26 --seed 1

fits asymvq.change's weights to such cases: logistic regression, each case counted alike, what is changed in truth and
its surroundings left out of what drift and noise are learnt from.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import align as aligning
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

import asymvq
from asymvq.align import blur
from asymvq.change import CELL, GROW, border_evidence, detail_powers, evidence
from asymvq.intervals import interval
from asymvq.masks import grow_mask

BULGE, THINNED = 4, 3
"""Pixels by which a mask that is first found is too large; and every so many, in rows and columns, are fitted to."""
KINDS = ("other content", "soft edge", "object added", "colours changed", "object removed")
PICTURES, VAE = "the pictures", "the VAE too"


def blob(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """(1, 1, H, W) of 0 and 1: a round shape with lobes, 2 to 15 % of the area."""
    angles = np.linspace(0, 2 * math.pi, 180, endpoint=False)
    lobes = sum(rng.uniform(0, 0.35 / k) * np.cos(k * angles + rng.uniform(0, 2 * math.pi)) for k in (2, 3, 5))
    radius = math.sqrt(rng.uniform(0.02, 0.15) * height * width / math.pi) * (1 + lobes)
    stretch = rng.uniform(0.7, 1.4)
    x = rng.uniform(0.2, 0.8) * width + radius * np.cos(angles) * stretch
    y = rng.uniform(0.2, 0.8) * height + radius * np.sin(angles) / stretch
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255)
    return torch.from_numpy(np.array(canvas)).float()[None, None] / 255


def recoloured(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Light and texture as they were; hue turned, saturation changed and a tint laid over."""
    luma = (picture * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(dim=1, keepdim=True)
    order = [[1, 2, 0], [2, 0, 1], [2, 1, 0]][rng.integers(3)]
    tint = torch.from_numpy(rng.uniform(-1, 1, 3)).float()
    tint = (tint - tint.mean()) * rng.uniform(0.2, 0.4) / (tint - tint.mean()).norm()
    return (luma + (picture - luma)[:, order] * rng.uniform(0.6, 1.4) + tint[:, None, None]).clamp(-1, 1)


def painted_over(picture: Tensor, mask: Tensor) -> Tensor:
    levels = picture[0].permute(1, 2, 0).add(1).mul(127.5).round().byte().numpy()
    filled = cv2.inpaint(levels, mask[0, 0].mul(255).byte().numpy(), 5, cv2.INPAINT_TELEA)
    return torch.from_numpy(filled).float().permute(2, 0, 1)[None] / 127.5 - 1


def changed(kind: str, pair: aligning.Pair, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """The picture and its edit, both with margins, and the true mask without, soft where the edit is."""
    large, other = pair.large, pair.other
    mask = blob(*pair.size, rng) if kind.startswith("object") else aligning.small_mask(*pair.size, rng)
    if kind == "soft edge":
        mask = blur(mask[0], rng.uniform(3, 10))[None]
    whole = pair.padded(mask)
    if kind == "colours changed":
        return large, torch.lerp(large, recoloured(large, rng), whole), mask
    if kind == "object removed":
        before = torch.lerp(large, other, whole)
        return before, painted_over(before, whole), mask
    return large, torch.lerp(large, other, whole), mask


def make_case(
    vae: asymvq.AsymmetricAutoencoder, first: Path, second: Path, case: int, seed: int
) -> tuple[str, Tensor, Tensor, Tensor, Tensor]:
    """Kind, source, edited and its true mask; and what comes back where nothing was asked for."""
    rng = np.random.default_rng([seed, case])
    kind, pair = KINDS[case % len(KINDS)], aligning.Pair.read(first, second, vae.factor)
    before, after, mask = changed(kind, pair, rng)
    edit = aligning.Edit.draw(pair.size, case, rng)
    same = edit.apply(before, pair, vae, rng)
    return kind, pair.inner(before), edit.apply(after, pair, vae, rng), mask, same


def overlap(found: Tensor, true: Tensor) -> float:
    a, b = found > 0.5, true > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


@torch.inference_mode()
def fit_case(vae: asymvq.AsymmetricAutoencoder, first: Path, second: Path, case: int, seed: int) -> list[Tensor]:
    """(n, 5) each, of pixels of the whole picture and of those near the edit's border: evidence, 1, and the truth.

    A border has no third evidence; it is 0 there.
    """
    rng = np.random.default_rng([seed, case])
    pair = aligning.Pair.read(first, second, vae.factor)
    before, after, mask = changed(KINDS[case % len(KINDS)], pair, rng)
    edit = aligning.Edit.draw(pair.size, case, rng)
    source = pair.inner(before)
    edited = asymvq.align(edit.apply(after, pair, vae, rng), source).picture[0]
    unchanged = 1 - (grow_mask(mask, CELL)[0, 0] > 0.01).float()
    source, same = source[0], (edited == source[0]).all(dim=0)
    ratios, difference = evidence(edited, source, same, detail_powers(source), unchanged)
    likeness, near = border_evidence(difference, grow_mask((mask > 0.5).float(), BULGE)[0, 0] > 0.5)
    certain, of_all = (mask[0, 0] < 0.02) | (mask[0, 0] > 0.98), torch.ones_like(ratios[0])
    zero, true = torch.zeros_like(of_all), (mask[0, 0] > 0.5).float()
    samples = []
    for parts, where in (((*ratios, of_all), certain), ((ratios[0], likeness, zero, of_all), certain & near)):
        thin = (slice(None, None, THINNED), slice(None, None, THINNED))
        samples.append(torch.stack([*parts, true], dim=-1)[thin][where[thin]].double())
    return samples


def fitted(cases: Sequence[Tensor]) -> list[float]:
    """The weights of logistic regression by Newton's method, of (n, 5) as of `fit_case`."""
    values, true = torch.cat(list(cases)).split([4, 1], dim=1)
    share = torch.cat([torch.full((len(part), 1), 1 / len(part) / len(cases)) for part in cases]).double()
    weights = torch.zeros(4, 1, dtype=torch.float64)
    for _ in range(30):
        chance = torch.sigmoid(values @ weights)
        curvature = (values * (share * chance * (1 - chance))).T @ values + 1e-9 * torch.eye(4)
        weights = weights - torch.linalg.solve(curvature, values.T @ (share * (chance - true)))
    return [round(float(weight), 2) for weight in weights]


@torch.inference_mode()
def run_case(
    vae: asymvq.AsymmetricAutoencoder, first: Path, second: Path, case: int, seed: int, panel: Path | None
) -> list[dict[str, str | float]]:
    """Told the pictures alone, and the VAE too."""
    kind, source, edited, mask, same = make_case(vae, first, second, case, seed)
    edited, same = (asymvq.align(picture, source).picture for picture in (edited, same))
    rows, drawn = [], [source, edited, mask * 2 - 1]
    for told, round_trip in ((PICTURES, None), (VAE, lambda picture: asymvq.decode(vae, vae.encode(picture)))):
        start = time.perf_counter()
        bare = asymvq.change_mask(edited, source, grow=0, feather=0, round_trip=round_trip)
        seconds = time.perf_counter() - start
        nothing = asymvq.change_mask(same, source, grow=0, feather=0, round_trip=round_trip)
        drawn.append(bare * 2 - 1)
        rows.append({
            "photo": first.name,
            "kind": kind,
            "told": told,
            "IoU": overlap(bare, mask),
            "missed": float(((mask > 0.5) & (grow_mask(bare, GROW) == 0)).sum() / (mask > 0.5).sum()),
            "true share": float((mask > 0.5).float().mean()),
            "found share": float(bare.mean()),
            "nothing changed": float((nothing > 0).float().mean()),
            "seconds": seconds,
        })  # fmt: skip
    if panel is not None:
        draw(panel / f"{case:02d}_{kind.replace(' ', '_')}.jpg", drawn)
    return rows


def draw(path: Path, pictures: Sequence[Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = torch.cat([p[0].expand(3, -1, -1) for p in pictures], dim=-1)
    row = F.interpolate(row[None], scale_factor=0.5, mode="bilinear", antialias=True)[0]
    levels = row.add(1).mul(127.5).round().clamp(0, 255).byte()
    Image.fromarray(levels.permute(1, 2, 0).numpy()).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="photos, or folders of them")
    parser.add_argument("--names", nargs="*", default=[], help="only these (a file of names, or names)")
    parser.add_argument("--vae", type=Path, default=aligning.DEMO)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true", help="print asymvq.change's weights, fitted to the cases")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--panel", type=Path, help="folder for pictures of the cases")
    args = parser.parse_args()
    paths = aligning.photos(args.images, args.names)
    vae = asymvq.load(args.vae, dtype=torch.float32)
    if args.fit:
        cases = [fit_case(vae, *aligning.two_of(paths, case), case, args.seed) for case in range(args.cases)]
        whole, border = (fitted([part for part in parts if len(part)]) for parts in zip(*cases, strict=True))
        print(f"WEIGHTS, BIAS = {tuple(whole[:3])}, {whole[3]}")
        print(f"BORDER_WEIGHTS, BORDER_BIAS = {tuple(border[:2])}, {border[3]}")
        return
    rows = []
    for case in range(args.cases):
        new = run_case(vae, *aligning.two_of(paths, case), case, args.seed, args.panel)
        for row in new:
            print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
        rows.extend(new)
    for told in (PICTURES, VAE):
        print(f"\nTold {told}:")
        print_table([row for row in rows if row["told"] == told])
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


def print_table(rows: Sequence[dict[str, str | float]]) -> None:
    print("\n| edit | IoU | worst | missed |\n|---|---|---|---|")
    for kind in (*KINDS, "all"):
        of = [row for row in rows if kind in ("all", row["kind"])]
        if len({row["photo"] for row in of}) < 2:
            continue
        worst = min(row["IoU"] for row in of)
        means = [mean(of, key) for key in ("IoU", "missed")]
        print(f"| {kind} ({len(of)}) | {means[0]} | {worst:.3f} | {means[1]} |")
    empty = [row["nothing changed"] for row in rows]
    print(f"\nNothing changed: {sum(share == 0 for share in empty)} of {len(rows)} empty, at most {max(empty):.4f}.")
    print(f"{np.mean([float(row['seconds']) for row in rows]):.2f} s a picture.")


def mean(rows: Sequence[dict[str, str | float]], key: str) -> str:
    values = [float(row[key]) for row in rows]
    low, high = interval(values, [1.0] * len(values), [str(row["photo"]) for row in rows])
    return f"{np.mean(values):.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
