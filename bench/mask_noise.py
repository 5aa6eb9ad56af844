"""What lossy files leave of a mask's black and white, which `asymvq.masks.MASK_FLOOR` is chosen by.

    python bench/mask_noise.py

Seeded thick masks, saved as JPEG and WebP of several qualities: the share of black pixels that come back above some
levels, and the largest level at some distances from the mask.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from asymvq.masks import MASK_FLOOR, random_thick_mask
from asymvq.pictures import open_picture

SIZE, MASKS = (384, 512), 7
LEVELS, DISTANCES = (0, 2, 4, 8, 16, 32), (0, 4, 8, 12, 16)


def main() -> None:
    rng = np.random.default_rng(0)
    masks = [(random_thick_mask(*SIZE, rng)[0] * 255).byte().numpy() for _ in range(MASKS)]
    print(f"the floor: {MASK_FLOOR * 255:g} of 255")
    print("| file | " + " | ".join(f"above {level}" for level in LEVELS), end=" | ")
    print(" | ".join(f"largest beyond {distance} px" for distance in DISTANCES) + " |")
    print("|---|" + "---|" * (len(LEVELS) + len(DISTANCES)))
    for kind in ("JPEG", "WEBP"):
        for quality in (90, 75, 50, 30, 10):
            shares, largest = zip(*(noise(mask, kind, quality) for mask in masks), strict=True)
            row = [f"{share:.2%}" for share in torch.tensor(shares).mean(0).tolist()]
            row += [str(int(level)) for level in torch.tensor(largest).amax(0)]
            print(f"| {kind} {quality} | " + " | ".join(row) + " |")


def noise(mask: np.ndarray, kind: str, quality: int) -> tuple[list[float], list[int]]:
    """Of the black pixels of (H, W) uint8: the shares above `LEVELS`, and the largest one beyond `DISTANCES`."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, kind, quality=quality)
    with open_picture(file) as picture:
        read = np.asarray(picture.convert("L"))
    far = distance_transform_edt(mask == 0)
    shares = [float((read[mask == 0] > level).mean()) for level in LEVELS]
    return shares, [int(read[far > distance].max(initial=0)) for distance in DISTANCES]


if __name__ == "__main__":
    main()
