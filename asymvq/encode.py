"""Encoding a picture: whole, or in tiles where memory runs out."""

from __future__ import annotations

import itertools
import logging

import torch
from torch import Tensor

from .autoencoder import AsymmetricAutoencoder
from .memory_model import encode_bytes
from .runtime import Progress, available_memory, free_caches, is_out_of_memory
from .tiles import feather, plan_tiles, smaller_tile
from .values import image_values

logger = logging.getLogger(__name__)

FIRST_TILE = 1024
"""Pixels. Where a whole encode does not fit in memory."""
SMALLEST_TILE = 256
"""Pixels. What does not fit in memory in tiles of this size does not fit at all."""
IN_TILES = "it is encoded in tiles of %d pixels, at whose edges the latent differs a little from a whole encode's."


@torch.no_grad()
def encode(
    vae: AsymmetricAutoencoder,
    image: Tensor,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    smaller_tiles: bool = True,
    progress: Progress | None = None,
) -> Tensor:
    """The latent of `image`, the posterior's mode, (B, C, h, w), unscaled, float32, where the image is.

    In tiles an encoder sees less of the picture at once: its norms and its attention answer a little differently in
    each, so that the latent is near a whole encode's, not equal to it. Neighbouring tiles are blended.

    Args:
        vae: with an encoder.
        image: (B, 3, H, W) in [-1, 1], or integers, which are scaled by their type; H and W multiples of the factor.
            It need not be on the VAE's device: tiles are moved there one by one.
        tile: longest side of a tile in pixels; None sets no limit.
        overlap: what neighbouring tiles share, in pixels; a quarter of the tile by default.
        smaller_tiles: whether it is tried again where memory runs out, or where encoding would take more than there
            is: one picture at a time, then in tiles of FIRST_TILE, then in halves of those down to SMALLEST_TILE. The
            log says so. False: the error is raised.
        progress: called after each tile.

    Raises:
        ValueError: as `AsymmetricAutoencoder.encode`, or a tile and an overlap that do not go together.
    """
    image = image_values(image)
    if image.ndim != 4 or 0 in image.shape:
        return vae.encode(image)  # says what is wrong
    at_once = image.shape[0]
    if smaller_tiles and tile is None:
        device, dtype = vae.place()
        needed = encode_bytes(vae.config, (image.shape[-2], image.shape[-1]), dtype=dtype, device=device)
        room = available_memory(device)
        if room is not None and needed * at_once > room:
            at_once = 1
        if room is not None and needed > room and (tile := _smaller(None, image)) is not None:
            logger.warning(
                "Encoding the whole picture would take %.1f GB, and %.1f GB are free: %s",
                needed / 1e9, room / 1e9, IN_TILES % tile,
            )  # fmt: skip
    while True:
        try:
            return _encoded(vae, image, tile, overlap, at_once, progress)
        except Exception as error:
            smaller = _smaller(tile, image)
            if not smaller_tiles or (at_once == 1 and smaller is None) or not is_out_of_memory(error):
                raise
        # out of the except block, so that nothing holds on to the failed try's tensors
        if at_once > 1:
            at_once = 1
            logger.warning("Out of memory while encoding %d at once: trying again one by one.", image.shape[0])
        else:
            tile = smaller
            assert tile is not None
            overlap = None if overlap is None else min(overlap, tile // 2)
            logger.warning("Out of memory while encoding: %s", IN_TILES % tile)
        free_caches()


def _smaller(tile: int | None, image: Tensor) -> int | None:
    side = max(image.shape[-2:]) if tile is None else tile
    return smaller_tile(tile, side, first=FIRST_TILE, smallest=SMALLEST_TILE)


def _encoded(
    vae: AsymmetricAutoencoder,
    image: Tensor,
    tile: int | None,
    overlap: int | None,
    at_once: int,
    progress: Progress | None,
) -> Tensor:
    place, factor = vae.place(), vae.factor
    sides = image.shape[-2:]
    if tile is None or any(side % factor for side in sides):
        parts: list[Tensor] = []
        for done, part in enumerate(image.split(at_once), 1):
            parts.append(vae.encode(part.to(*place)).to(image.device, torch.float32))
            if progress is not None:
                progress(done, -(-image.shape[0] // at_once))
        return torch.cat(parts)
    height, width = (side // factor for side in sides)
    cells, shared = tile // factor, (tile // 4 if overlap is None else overlap) // factor
    plan = plan_tiles(height, width, tile=cells, overlap=shared)
    latent = torch.zeros(image.shape[0], vae.latent_channels, height, width, device=image.device)
    weights = torch.zeros(height, width, device=image.device)
    for part in plan:
        weight = feather(part, height, width, overlap=shared, factor=1).to(image.device)
        part.of(weights).add_(weight)
    work = list(itertools.product(zip(image.split(at_once), latent.split(at_once), strict=True), plan))
    for done, ((pictures, latents), part) in enumerate(work, 1):
        of_part = vae.encode(part.of(pictures, factor).to(*place)).to(latent)
        part.of(latents).add_(of_part * feather(part, height, width, overlap=shared, factor=1).to(latent))
        if progress is not None:
            progress(done, len(work))
    return latent.div_(weights)
