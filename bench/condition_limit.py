"""How much do kept pixels tell about edited ones beside them? A linear predictor as the measure for a condition.

    python bench/condition_limit.py --train PHOTOS --test PHOTOS [--vae FILE] [--size 256] [--rows 120]

One side of each photo is edited, up to a straight border, all four ways round. For every edited pixel up to 8 px from
the border, ridge regression predicts what the harmonised plain decode gets wrong there: from what the plain decode gets
wrong on 9 × 8 kept pixels beside it, and from what harmonising changes in the edited pixels of its row and the four on
either side. It is fitted on photos of --train. Table: the harmonised plain decode's squared error that is left, by
distance, on --test. "detail": of the predicted error, what a condition that sees errors may change (`asymvq.detail`).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import harmonise_quality as quality
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

import asymvq
from asymvq.detail import DETAIL, low_pass
from asymvq.pictures import cover, read_picture

KEPT, FAR, BESIDE = 8, 8, 4
"""Columns of kept pixels that are seen, columns of edited ones that are predicted, rows seen on either side."""
MARGIN = 40
"""Pixels between the border and the picture's rim at least."""
RIDGE = 0.01
"""Of the mean square of what is seen."""

Values = NDArray[np.float32]


def sides(image: Tensor) -> Iterator[Tensor]:
    """The picture with each of its four sides at the left."""
    for upright in (image, image.transpose(-2, -1)):
        yield from (upright, upright.flip(-1))


def rows_of(
    vae: asymvq.AsymmetricAutoencoder, image: Tensor, *, rows: int, conditional: bool, rng: np.random.Generator
) -> dict[str, Values]:
    """Of a picture (1, 3, H, W) that is kept on the left: what is seen beside each of so many rows, flattened; and
    (rows, 3, 8) what is wrong there."""
    height, width = image.shape[-2:]
    first = int(rng.integers(MARGIN, width - MARGIN))
    mask = torch.zeros(1, 1, height, width)
    mask[..., first:] = 1
    latent = vae.encode(image)
    plain = asymvq.decode(vae, latent)
    harmonised = asymvq.harmonise(plain, image=image, mask=mask, factor=vae.factor)
    errors, changes, wrong = (pair[0].numpy() for pair in (image - plain, harmonised - plain, image - harmonised))
    smooth = low_pass((image - harmonised)[0], mask[0, 0] > 0, vae.factor * DETAIL).numpy()
    columns = slice(first, first + FAR)
    chosen = rng.choice(np.arange(BESIDE, height - BESIDE), rows, replace=False)
    beside = [slice(y - BESIDE, y + BESIDE + 1) for y in chosen]
    found = {
        "seen": np.stack([
            np.concatenate([errors[:, b, first - KEPT : first].ravel(), changes[:, b, columns].ravel()]) for b in beside
        ]),
        "plain": np.stack([wrong[:, y, columns] for y in chosen]),
        "detail": np.stack([(wrong - smooth)[:, y, columns] for y in chosen]),
    }  # fmt: skip
    if conditional:
        result = asymvq.decode(vae, latent, image=image, mask=mask, region="full", harmonise=1.0)
        found["conditional"] = np.stack([(image - result)[0].numpy()[:, y, columns] for y in chosen])
    return found


@torch.inference_mode()
def collected(
    vae: asymvq.AsymmetricAutoencoder, paths: Sequence[Path], *, size: int, rows: int, conditional: bool
) -> dict[str, Values]:
    rng = np.random.default_rng(0)
    parts = [
        rows_of(vae, side, rows=rows, conditional=conditional, rng=rng)
        for path in tqdm(paths, unit="photo")
        for side in sides(cover(read_picture(path), (size, size)))
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--vae", type=Path, default=quality.DEMO)
    parser.add_argument("--size", type=int, default=quality.SIZE)
    parser.add_argument("--rows", type=int, default=120, help="of a photo and side")
    args = parser.parse_args()
    vae = asymvq.load(args.vae, dtype=torch.float32).eval()

    train = collected(vae, args.train, size=args.size, rows=args.rows, conditional=False)
    test = collected(vae, args.test, size=args.size, rows=args.rows, conditional=True)
    seen = train["seen"].astype(np.float64)
    squares = seen.T @ seen
    squares += RIDGE * np.trace(squares) / len(squares) * np.eye(len(squares))
    left = {"conditional": test["conditional"]}
    for name, target in (("linear", train["plain"]), ("linear, detail", train["detail"])):
        weights = np.linalg.solve(squares, seen.T @ target.reshape(len(target), -1))
        left[name] = test["plain"] - (test["seen"] @ weights).reshape(test["plain"].shape)
    print(f"| px from kept ones | {' | '.join(str(i + 1) for i in range(FAR))} |\n|{'---|' * (1 + FAR)}")
    for name, errors in left.items():
        shares = np.square(errors).mean(axis=(0, 1)) / np.square(test["plain"]).mean(axis=(0, 1))
        print(f"| {name} | {' | '.join(f'{share:.2f}' for share in shares)} |")


if __name__ == "__main__":
    main()
