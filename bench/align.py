"""How exactly edited pictures are laid over their sources again.

    python bench/align.py --images PHOTOS [PHOTOS …] [--names FILE …] [--vae FILE] [--cases 40] [--seed 0] [--json FILE]

Each case is a photo in which a seeded thick mask of up to 40 % of the area shows another photo. Colours and light are
changed, the whole is moved (up to 12 px, 3 %, half a degree), in every fourth case drawn at another size, and goes
once through the VAE. The error is the mean, over all pixels of the source, of the distance in source pixels between
where its pixel was put in truth and where `asymvq.align` found it; untouched is that of scaling to the source's size
alone. The mask of the change that is found afterwards is measured by bench/change_mask.py.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
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


def photos(images: list[Path], names: list[str]) -> list[Path]:
    """Of files and folders, those of the names given, or of the names in files given; all of them without names."""
    paths = sorted(f for p in images for f in ([p] if p.is_file() else p.iterdir()))
    paths = [p for p in paths if p.suffix.lower() in (".png", ".jpg", ".jpeg")]
    wanted = {n for name in names for n in (Path(name).read_text().split() if Path(name).is_file() else [name])}
    return [p for p in paths if not wanted or p.name in wanted]


def two_of(paths: list[Path], case: int) -> tuple[Path, Path]:
    first, second = paths[case % len(paths)], paths[(case * 7 + 3) % len(paths)]
    return first, second if second != first else paths[(case * 7 + 4) % len(paths)]


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


@dataclass(frozen=True)
class Pair:
    """Two photos of one size, with margins; `inner` is the part without them, which the source shows."""

    large: Tensor
    other: Tensor
    margins: tuple[int, int]
    """Rows above and below, columns left and right."""

    @classmethod
    def read(cls, first: Path, second: Path, multiple: int) -> Pair:
        large, other = photo(first), photo(second)
        other = F.interpolate(other, large.shape[-2:], mode="bicubic", antialias=True).clamp(-1, 1)
        height, width = ((side - 2 * MARGIN) // multiple * multiple for side in large.shape[-2:])
        top, left = (large.shape[-2] - height) // 2, (large.shape[-1] - width) // 2
        large, other = (t[..., : height + 2 * top, : width + 2 * left] for t in (large, other))
        return cls(large, other, (top, left))

    @property
    def size(self) -> tuple[int, int]:
        top, left = self.margins
        return self.large.shape[-2] - 2 * top, self.large.shape[-1] - 2 * left

    def inner(self, picture: Tensor) -> Tensor:
        (top, left), (height, width) = self.margins, self.size
        return picture[..., top : top + height, left : left + width]

    def padded(self, mask: Tensor) -> Tensor:
        top, left = self.margins
        return F.pad(mask, (left, left, top, top))


@dataclass(frozen=True)
class Edit:
    """What an edit model does to the whole picture, as it is drawn for a case."""

    motion: dict[str, float]
    size: list[int]
    """Height and width of what it gives."""

    @classmethod
    def draw(cls, size: tuple[int, int], case: int, rng: np.random.Generator) -> Edit:
        angle, reach = rng.uniform(0, 2 * math.pi), rng.uniform(0, 12)
        motion = {
            "x": reach * math.cos(angle),
            "y": reach * math.sin(angle),
            "scale": rng.uniform(0.97, 1.03),
            "rotation": rng.uniform(-0.5, 0.5),
        }
        ratio = rng.uniform(0.8, 1.3) if case % 4 == 3 else 1
        return cls(motion, [round(side * ratio / 16) * 16 for side in size] if ratio != 1 else list(size))

    def apply(self, picture: Tensor, pair: Pair, vae: asymvq.AsymmetricAutoencoder, rng: np.random.Generator) -> Tensor:
        """A picture with margins, drifted, moved, cut to size and once through the VAE."""
        picture = moved(drifted(picture, rng), self.motion, *pair.size)
        if self.size != list(pair.size):
            picture = F.interpolate(picture, self.size, mode="bicubic", antialias=True).clamp(-1, 1)
        return asymvq.decode(vae, vae.encode(picture)).clamp(-1, 1)


@torch.inference_mode()
def run_case(vae: asymvq.AsymmetricAutoencoder, first: Path, second: Path, case: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng([seed, case])
    pair = Pair.read(first, second, vae.factor)
    mask = small_mask(*pair.size, rng)
    edit = Edit.draw(pair.size, case, rng)
    edited = edit.apply(torch.lerp(pair.large, pair.other, pair.padded(mask)), pair, vae, rng)
    start = time.perf_counter()
    found = asymvq.align(edited, pair.inner(pair.large))
    seconds = time.perf_counter() - start
    error, untouched = errors(edit.motion, found, *pair.size)
    return {
        "error": error,
        "untouched": untouched,
        "sure": float(found.sure[0]),
        "seconds": seconds,
        "edited share": float(mask.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="photos, or folders of them")
    parser.add_argument("--names", nargs="*", default=[], help="only these (a file of names, or names)")
    parser.add_argument("--vae", type=Path, default=DEMO)
    parser.add_argument("--cases", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    paths = photos(args.images, args.names)
    vae = asymvq.load(args.vae, dtype=torch.float32)
    rows = []
    for case in range(args.cases):
        first, second = two_of(paths, case)
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
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
