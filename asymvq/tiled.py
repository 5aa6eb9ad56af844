"""Decodes the tiles of a plan, and blends them where they overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .masks import edited
from .network import Network
from .runtime import Progress, Runtime
from .source import Source
from .tiles import Plan, Tile, feather

Group = list[tuple[int, Tile]]
"""Tiles of one size that go through the network together, each with its picture's number."""


def groups(plan: Plan, pictures: tuple[int, int], batch: int) -> Iterator[Group]:
    """The plan's tiles for pictures from the first to before the last, up to `batch` of one size at once."""
    sizes: dict[tuple[int, int], Group] = {}
    for picture in range(*pictures):
        for tile in plan.of(picture):
            sizes.setdefault((tile.height, tile.width), []).append((picture, tile))
    for group in sizes.values():
        yield from (group[i : i + batch] for i in range(0, len(group), batch))


@torch.no_grad()
def decode_network(
    network: Network,
    latent: Tensor,
    source: Source | None,
    plan: Plan,
    *,
    batch: int = 1,
    runtime: Runtime | None = None,
) -> Tensor:
    """The network's own output for the window that the latent covers, (B, 3, h·factor, w·factor) float32.

    `source.image` is in [-1, 1]; what the plan leaves out is taken from it. Latents stay where they are until their
    turn; the result is on the latent's device.
    """
    conditioned = source is not None and network.takes_condition
    runtime = runtime or Runtime()
    return run_plan(network, latent, source, plan, batch=batch, conditioned=conditioned, runtime=runtime)[0]


def run_plan(
    network: Network, latent: Tensor, source: Source | None, plan: Plan,
    *, batch: int, conditioned: bool, runtime: Runtime,
    shown: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `decode_network`, with the weight that was decoded at each pixel, (B or 1, 1, H, W).

    `shown`, each (B, 3, H, W) of the window, is what a network that sees errors is given besides.
    """
    factor, place = network.factor, runtime.place(network)
    count, _, h, w = latent.shape
    whole = Tile(0, 0, h, w)
    output = torch.zeros(count, network.image_channels, h * factor, w * factor, device=latent.device)
    plans = len(plan.pictures)
    weights = torch.zeros(plans, 1, *output.shape[-2:], device=latent.device)
    work = list(groups(plan, (0, count), batch))
    progress = runtime.progress
    for done, group in enumerate(work, 1):
        z = torch.cat([tile.of(latent[i : i + 1]) for i, tile in group])
        image = mask = None
        if source is not None and conditioned:
            parts = [(source.slice(i, i + 1), tile) for i, tile in group]
            image = torch.cat([part.crop(part.image, tile, factor) for part, tile in parts])
            mask = edited(torch.cat([part.crop(part.mask, tile, factor) for part, tile in parts]))
            image = image.masked_fill(mask, 0.0)  # what it holds there, NaN too, does not matter
            image, mask = image.to(*place), mask.to(*place)
        given: dict[str, Any] = {
            name: torch.cat([tile.of(picture[i : i + 1], factor) for i, tile in group]).to(*place)
            for name, picture in (shown or {}).items()
        }
        if progress is not None and getattr(network, "reports", False):
            given["report"] = partial(_report, progress, done - 1, len(work))
        decoded = network.decode(z.to(*place), image=image, mask=mask, **given).to(output)
        for (i, tile), pixels in zip(group, decoded, strict=True):
            if tile == whole:
                output[i] = pixels
                weights[i % plans] = 1.0
                continue
            share = feather(tile, h, w, overlap=plan.overlap, factor=factor).to(output)
            tile.of(output[i], factor).add_(pixels * share)
            if i < plans:
                tile.of(weights[i], factor).add_(share)
        if progress is not None:
            progress(done, len(work))
    for i in range(count):
        _finish(output[i], weights[i % plans], None if source is None else source.slice(i, i + 1))
    return output, weights


def _report(progress: Progress, before: int, total: int, share: float) -> None:
    progress(before + share, total)


def _finish(output: Tensor, weights: Tensor, source: Source | None) -> None:
    """Turns sums into means, in place, and puts the source where nothing was decoded."""
    if (weights == 1).all():
        return
    output.div_(weights.clamp(min=torch.finfo(weights.dtype).tiny))
    if source is not None:
        # not by a boolean index, whose positions take several times the picture's memory
        torch.where(weights == 0, source.crop(source.image)[0].to(output), output, out=output)
