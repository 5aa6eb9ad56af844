"""How exactly edited pictures are laid over their sources again, and how well the mask of the change is found.

    python bench/align.py --images PHOTOS [PHOTOS …] [--names FILE …] [--vae FILE] [--cases 40] [--seed 0] [--json FILE]

Each case is a photo in which a seeded thick mask of up to 40 % of the area shows another photo. Colours and light are
changed, the whole is moved (up to 12 px, 3 %, half a degree), in every fourth case drawn at another size, and goes
once through the VAE. The error is the mean, over all pixels of the source, of the distance in source pixels between
where its pixel was put in truth and where `asymvq.align` found it; untouched is that of scaling to the source's size
alone. The change mask is compared with the true one by its intersection over union: as found (grow and feather 0), and
as set by default; "nothing changed" is the share of a picture that is found where only drift and VAE were.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import asymvq
from asymvq.masks import random_thick_mask
from asymvq.pictures import read_picture

DEMO = Path(asymvq.__file__).parent / "assets" / "demo.safetensors"
MARGIN = 40
LONG_SIDE = 768


def photo(path: Path) -> Tensor:
    """(1, 3, H, W) in [-1, 1], of 768 and a margin on each side."""
    picture = read_picture(path).float()
    if picture.ndim == 3:
        picture = picture[None]
    ratio = (LONG_SIDE + 2 * MARGIN) / max(picture.shape[-2:])
    return F.interpolate(picture, scale_factor=ratio, mode="bicubic", antialias=True).clamp(-1, 1)


def small_mask(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """(1, 1, H, W) with 3 to 40 % of the area."""
    while True:
        mask = random_thick_mask(height, width, rng)[None]
        if 0.03 <= mask.mean() <= 0.4:
            return mask


def drifted(picture: Tensor, rng: np.random.Generator) -> Tensor:
    """Contrast, brightness and tint changed, and brightness once more from one side to the other."""
    gain = torch.from_numpy(rng.uniform(0.88, 1.12, (1, 3, 1, 1))).float()
    offset = torch.from_numpy(rng.uniform(-0.1, 0.1, (1, 3, 1, 1))).float()
    tilt = torch.linspace(-1, 1, picture.shape[-1]) * rng.uniform(-0.06, 0.06)
    return (picture * gain + offset + tilt).clamp(-1, 1)


def truth(points: Tensor, motion: dict[str, float]) -> Tensor:
    """Where source points (…, 2), from the middle, lie in the edited picture, in source pixels from its middle."""
    turn, scale = math.radians(motion["rotation"]), motion["scale"]
    x, y = points.unbind(-1)
    return torch.stack(
        [
            scale * (math.cos(turn) * x - math.sin(turn) * y) + motion["x"],
            scale * (math.sin(turn) * x + math.cos(turn) * y) + motion["y"],
        ],
        dim=-1,
    )


def moved(picture: Tensor, motion: dict[str, float], height: int, width: int) -> Tensor:
    """The part of (height, width) in the middle of a larger picture, as it looks after the motion."""
    rows, columns = torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2
    places = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1).double()
    turn, scale = math.radians(motion["rotation"]), motion["scale"]
    places = places - torch.tensor([motion["x"], motion["y"]])
    x, y = places.unbind(-1)
    points = (
        torch.stack([math.cos(turn) * x + math.sin(turn) * y, -math.sin(turn) * x + math.cos(turn) * y], -1) / scale
    )
    grid = points * 2 / torch.tensor([picture.shape[-1], picture.shape[-2]])
    return F.grid_sample(picture, grid[None].float(), "bicubic", "border", align_corners=False).clamp(-1, 1)


def errors(motion: dict[str, float], found: asymvq.Aligned, height: int, width: int) -> tuple[float, float]:
    """Mean displacement errors, source pixels: of what was found, and of leaving all as it was."""
    rows, columns = torch.arange(height) + 0.5 - height / 2, torch.arange(width) + 0.5 - width / 2
    points = torch.stack([columns.expand(height, -1), rows[:, None].expand(-1, width)], dim=-1).double()
    guess = {
        "x": float(found.shift[0, 0]),
        "y": float(found.shift[0, 1]),
        "scale": float(found.scale[0]),
        "rotation": float(found.rotation[0]),
    }
    true = truth(points, motion)
    return float((truth(points, guess) - true).norm(dim=-1).mean()), float((points - true).norm(dim=-1).mean())


def overlap(found: Tensor, true: Tensor) -> float:
    a, b = found > 0.5, true > 0.5
    return float((a & b).sum() / (a | b).sum().clamp(min=1))


@torch.inference_mode()
def run_case(vae: asymvq.AsymmetricAutoencoder, first: Path, second: Path, case: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, case])
    large, other = photo(first), photo(second)
    other = F.interpolate(other, large.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
    height, width = ((side - 2 * MARGIN) // 8 * 8 for side in large.shape[-2:])
    top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
    large, other = (t[..., : height + 2 * top, : width + 2 * left] for t in (large, other))
    source = large[..., top : top + height, left : left + width]
    mask = small_mask(height, width, rng)
    whole_mask = F.pad(mask, (left, left, top, top))
    angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0, 12)
    motion = {
        "x": reach * math.cos(angle),
        "y": reach * math.sin(angle),
        "scale": rng.uniform(0.97, 1.03),
        "rotation": rng.uniform(-0.5, 0.5),
    }
    size = [height, width]
    if case % 4 == 3:
        ratio = rng.uniform(0.8, 1.3)
        size = [round(side * ratio / 16) * 16 for side in size]

    def as_edited(picture: Tensor, motion: dict[str, float]) -> Tensor:
        picture = moved(drifted(picture, rng), motion, height, width)
        if size != [height, width]:
            picture = F.interpolate(picture, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return asymvq.decode(vae, vae.encode(picture)).clamp(-1, 1)

    edited = as_edited(torch.lerp(large, other, whole_mask), motion)
    start = time.perf_counter()
    found = asymvq.align(edited, source)
    seconds = time.perf_counter() - start
    error, untouched = errors(motion, found, height, width)
    result = {"error": error, "untouched": untouched, "sure": float(found.sure[0]), "seconds": seconds}
    result |= {"edited share": float(mask.mean())}
    if hasattr(asymvq, "change_mask"):
        start = time.perf_counter()
        bare = asymvq.change_mask(found.picture, source, grow=0, feather=0)
        result["mask seconds"] = time.perf_counter() - start
        result["IoU"] = overlap(bare, mask)
        result["IoU, defaults"] = overlap(asymvq.change_mask(found.picture, source), mask)
        same = asymvq.align(as_edited(large, motion), source)
        result["nothing changed"] = float(asymvq.change_mask(same.picture, source).mean())
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="photos, or folders of them")
    parser.add_argument("--names", nargs="*", default=[], help="only these (a file of names, or names)")
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = sorted(f for p in args.images for f in ([p] if p.is_file() else p.iterdir()))
    paths = [p for p in paths if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    names = {n for name in args.names for n in (Path(name).read_text().split() if Path(name).is_file() else [name])}
    paths = [p for p in paths if not names or p.name in names]
    vae = asymvq.load(args.vae, dtype=torch.float32)
    rows = []
    for case in range(args.cases):
        first, second = paths[case % len(paths)], paths[(case * 7 + 3) % len(paths)]
        if second == first:
            second = paths[(case * 7 + 4) % len(paths)]
        rows.append({"photo": first.name} | run_case(vae, first, second, case, args.seed))
        print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else str(v) for k, v in rows[-1].items()), flush=True)
    found = {key: np.array([row[key] for row in rows]) for key in rows[0] if key != "photo"}
    error = found["error"]
    print("\n| | |\n|---|---|")
    print(f"| error ≤ 0.15 px | {100 * (error <= 0.15).mean():.1f} % of {len(rows)} |")
    spread = f"{np.median(error):.3f}, {np.quantile(error, 0.95):.3f}, {error.max():.3f}"
    print(f"| error: median, 95th percentile, worst | {spread} px |")
    print(f"| untouched: median, worst | {np.median(found['untouched']):.2f}, {found['untouched'].max():.2f} px |")
    print(f"| worse than untouched | {int((error > found['untouched'] + 1e-6).sum())} |")
    print(f"| unsure | {int((found['sure'] == 0).sum())} |")
    print(f"| time | {found['seconds'].mean():.2f} s a picture |")
    if "IoU" in found:
        print(f"| change mask, IoU: mean, worst | {found['IoU'].mean():.3f}, {found['IoU'].min():.3f} |")
        print(f"| with its defaults (grown, soft) | {found['IoU, defaults'].mean():.3f} |")
        empty = found["nothing changed"]
        print(f"| nothing changed: empty masks, largest share | {int((empty == 0).sum())}, {empty.max():.4f} |")
        print(f"| time | {found['mask seconds'].mean():.2f} s a picture |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
