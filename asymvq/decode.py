"""Decoding a latent together with its source picture and mask: plan, network, harmonise, compose.

Whole or in tiles, smaller ones where memory runs out, and in batches that fit. A host brings its own `Runtime`; all
else is the same for it and for a script.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

import torch
from torch import Tensor

from .compose import Keep, check_strength, compose
from .crop import Box
from .harmonise import Picture, check_frames, harmonise_each
from .masks import edited
from .network import Network
from .plan import Region, make_plan
from .runtime import Progress, Runtime
from .source import Source, fit_source
from .tiled import decode_network, groups, run_plan
from .tiles import Plan, smaller_tile
from .values import is_finite

__all__ = [
    "Keep", "Progress", "Region", "Source", "compose", "decode", "decode_network", "decode_source", "fit_source",
    "make_plan",
]  # fmt: skip

logger = logging.getLogger(__name__)


FIRST_TILE = 512
"""Pixels. Where a whole decode does not fit in memory."""
SMALLEST_TILE = 128
"""Pixels. What does not fit in memory in tiles of this size does not fit at all."""
HARMONISE_COST = 0.1
"""Of a picture, as progress counts it, in runs of the network."""
WITNESS_SHARE = 0.2
"""Of a tile's weight, which falls to its edges: pixels with less are too near to one to tell of drift."""


def decode(
    vae: Network,
    latent: Tensor,
    *,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    region: Region | str = Region.AUTO,
    tile: int | None = None,
    overlap: int | None = None,
    keep: Keep | str = Keep.EXACT,
    batch: int = 1,
    progress: Progress | None = None,
    harmonise: float = 0.0,
    noise_mask: bool = False,
    smaller_tiles: bool = True,
    frames: int = 1,
) -> Tensor:
    """A picture of the size of `image`, or of the latent times the factor where there is none.

    Args:
        vae: an autoencoder of ours, or any `asymvq.network.Network`. One without a condition decodes plainly, and is
            put into the source all the same.
        latent: (B, C, h, w), unscaled. Of latents, images and masks there may be fewer, by a whole factor, than of
            what there is most: they are taken in turn, a b a b.
        image: (B, 3, H, W) in [-1, 1], the source, or integers, which are scaled by their type. What is NaN under the
            mask does not matter. Its sides may exceed the latent's by less than the factor, where the encoder cropped
            it in the middle: edited pixels of that rim take the nearest decoded one. They may fall short by less than
            the factor, where it was padded at the right and the bottom.
        mask: (B, 1, H, W) in [0, 1], bool or integers, 1 = edited. What is at most `asymvq.masks.MASK_FLOOR` is kept;
            all above is shown to the network as edited, and softness is for the last blend (`asymvq.masks.alpha`).
        region: "full" decodes everything, "masked" only what the mask touches and its surroundings, "auto" what is
            less. The cost of "masked" follows the mask's area. Under keep="network" everything is decoded.
        tile: longest side of a tile in pixels; None sets no limit.
        overlap: what neighbouring tiles share, in pixels; a quarter of the tile by default.
        keep: "exact" or "network".
        batch: pictures, or tiles of one size, that go through the network at once.
        progress: called with (done, total) after each of them, with a fraction of `done` within each where the network
            can tell, and after each picture that is harmonised (`asymvq.runtime.Progress`). What it raises ends the
            decode.
        harmonise: 0 to 1, how far the edit's colours and light are made to continue the kept ones
            (`asymvq.harmonise`). With a condition everything is decoded a second time, without it, to see what drifts.
            Under keep="network" nothing is harmonised: that is the network's own picture.
        noise_mask: whether the latent was made with a noise mask, so that cells that the mask does not touch are the
            source's own; only harmonising asks (`asymvq.harmonise`).
        smaller_tiles: whether it is tried again where memory runs out: fewer at once, then in tiles of FIRST_TILE, then
            in halves of those down to SMALLEST_TILE. The log says so. False: the error is raised.
        frames: so many pictures in a row are frames of one video, harmonised steadily (`asymvq.harmonise`).

    Returns:
        (B, 3, H, W) float32 in about [-1, 1] (source pixels are returned as they came).

    Raises:
        ValueError: shapes or counts that do not fit, one of image and mask alone, an unknown `keep` or `region`, values
            out of range or not finite, or tensors that cannot be computed with (empty, sparse, without values, of an
            8-bit float type).
    """
    keep, region = _choice(Keep, keep, "keep"), _choice(Region, region, "region")
    source = fit_source(vae, latent, image=image, mask=mask)
    return decode_source(
        vae, latent, source,
        keep=keep, region=region, tile=tile, overlap=overlap, retry_tile=FIRST_TILE if smaller_tiles else None,
        batch=batch, harmonise=harmonise, noise_mask=noise_mask, frames=frames, runtime=Runtime(progress=progress),
    )  # fmt: skip


ChoiceT = TypeVar("ChoiceT", bound=Enum)


def _choice(kind: type[ChoiceT], value: ChoiceT | str, name: str) -> ChoiceT:
    try:
        return kind(value)
    except ValueError:
        options = " or ".join(repr(option.value) for option in kind)
        raise ValueError(f"Expected {name} to be {options}, but got {value!r}.") from None


@torch.no_grad()
def decode_source(
    network: Network,
    latent: Tensor,
    source: Source | None,
    *,
    keep: Keep = Keep.EXACT,
    region: Region = Region.AUTO,
    tile: int | None = None,
    overlap: int | None = None,
    retry_tile: int | None = FIRST_TILE,
    batch: int | None = 1,
    harmonise: float = 0.0,
    noise_mask: bool = False,
    frames: int = 1,
    image_range: tuple[float, float] = (-1.0, 1.0),
    dtype: torch.dtype = torch.float32,
    runtime: Runtime | None = None,
) -> Tensor:
    """`decode` of what `fit_source` matched, for hosts.

    Args:
        source: its image in `image_range`; None for a plain decode.
        retry_tile: side of the tiles that a decode without a limit goes over to where memory runs out, pixels; None: it
            fails, and so does a tiled one.
        batch: None: as many as the runtime has room for.
        image_range: of the result too. Where it is not [-1, 1] what lies outside is cut off.
        dtype: of the result. Where it differs from the source's, kept pixels are rounded.
        runtime: where it runs.

    Returns:
        (B, 3, H, W), of the source's full size.
    """
    check_strength(harmonise)
    runtime = runtime or Runtime()
    if source is not None:
        latent = source.cycled(latent)
    check_frames(frames, latent.shape[0])
    if source is not None and keep is Keep.EXACT and source.unedited():
        whole = source.slice(0, latent.shape[0]).image.to(runtime.output_device or latent.device, dtype)
        return whole.expand(latent.shape[0], -1, -1, -1).clone()
    if not is_finite(latent):
        raise ValueError("Expected a finite latent, but it holds NaN or infinity: the step before it went wrong.")
    limit = latent.shape[0] if batch is None else batch
    while True:
        plan = make_plan(network, latent, source, keep=keep, region=region, tile=tile, overlap=overlap)
        side, at_once = network.factor * max(plan.largest), 1
        work = _Work(network, latent, source, plan, keep, harmonise, noise_mask, frames, image_range, dtype, runtime)
        try:
            at_once = work.at_once(limit)
            return work.done(at_once)
        except Exception as error:
            smaller = smaller_tile(tile, side, first=retry_tile or FIRST_TILE, smallest=SMALLEST_TILE)
            if not runtime.is_out_of_memory(error) or retry_tile is None or (at_once == 1 and smaller is None):
                raise
        # out of the except block, so that nothing holds on to the failed try's tensors
        if at_once > 1:
            limit = 1
            logger.warning("Out of memory while decoding %d at once: trying again one by one.", at_once)
        else:
            tile = smaller
            assert tile is not None
            overlap = None if overlap is None else min(overlap, tile // 2)
            logger.warning("Out of memory while decoding: trying again in tiles of %d pixels.", tile)
        runtime.free()


@dataclass(frozen=True)
class _Part:
    """Some of the pictures, as far as they are decoded."""

    latent: Tensor
    plan: Plan
    source: Source | None
    signed: Source | None
    """The same with its image in [-1, 1]."""
    decoded: Tensor
    witness: Tensor
    """(B or 1, 1, H, W) bool: what of them is decoded."""
    plain: list[Tensor] | None = None
    """That of each picture without a condition, where `decoded` had one."""
    whole: Tensor | None = None
    """As `decoded` was before it is harmonised, where a condition is to see that."""


@dataclass(frozen=True)
class _Work:
    """One try at decoding everything with one plan. Arguments as `decode_source`."""

    network: Network
    latent: Tensor
    source: Source | None
    plan: Plan
    keep: Keep
    harmonise: float
    noise_mask: bool
    frames: int
    image_range: tuple[float, float]
    dtype: torch.dtype
    runtime: Runtime

    @property
    def conditioned(self) -> bool:
        return self.source is not None and self.network.takes_condition

    @property
    def harmonises(self) -> bool:
        return self.source is not None and self.keep is Keep.EXACT and self.harmonise > 0

    @property
    def refines(self) -> bool:
        """Whether the condition is shown a plain decode, harmonised."""
        return self.conditioned and getattr(self.network, "sees_errors", False)

    @property
    def _middle_and_half(self) -> tuple[float, float]:
        low, high = self.image_range
        return (low + high) / 2, (high - low) / 2

    def at_once(self, limit: int) -> int:
        """How many of `limit` the runtime has room for."""
        device, dtype = self.runtime.place(self.network)
        needed = self.network.decode_bytes(self.plan.largest, dtype=dtype, device=device, conditioned=self.conditioned)
        room = self.runtime.room_for(needed)
        return max(1, limit if room is None else min(limit, room))

    def done(self, batch: int) -> Tensor:
        count = self.latent.shape[0]
        parts = [(start, min(start + batch, count)) for start in range(0, count, batch)]
        runs = sum(len(list(groups(self.plan, part, batch))) for part in parts)
        twice = self.refines or (self.conditioned and self.harmonises)
        counted = _Counter(self.runtime.progress, runs * (2 if twice else 1), count if self.harmonises else 0)
        device = self.runtime.output_device or self.latent.device
        begun: deque[_Part] = deque()

        def pictures() -> Iterator[Picture]:
            for start, stop in parts:
                begun.append(self._begun(start, stop, batch, counted))
                if self.harmonises:
                    yield from self._pictures(begun[-1])

        # of a video, parts are begun as far ahead as harmonising looks
        harmonised = harmonise_each(
            pictures(), strength=self.harmonise, factor=self.network.factor, noise_mask=self.noise_mask,
            frames=self.frames,
        )  # fmt: skip
        result: Tensor | None = None
        # part by part, so that a long batch takes little more than its result
        for start, stop in parts:
            if self.harmonises:
                for _ in range(stop - start):
                    next(harmonised)
                    counted.one_harmonised()
            else:
                begun.append(self._begun(start, stop, batch, counted))
            piece = self._finished(begun.popleft(), batch, counted).to(device, self.dtype)
            if len(parts) == 1:
                return piece
            if result is None:
                result = torch.empty(count, *piece.shape[1:], device=device, dtype=self.dtype)
            result[start:stop] = piece
        assert result is not None
        return result

    def _begun(self, start: int, stop: int, batch: int, counted: _Counter) -> _Part:
        """Some pictures as they are harmonised: before a condition that sees errors, after any other."""
        source = None if self.source is None else self.source.slice(start, stop)
        middle, half = self._middle_and_half
        signed = source
        if source is not None and self.image_range != (-1.0, 1.0):
            signed = replace(source, image=(source.image - middle) / half)
        latent, plan = self.latent[start:stop], self.plan.slice(start, stop)
        if self.refines:
            whole, witness = self._decoded(latent, signed, plan, batch, counted, conditioned=False)
            decoded = whole.clone() if self.harmonises else whole
            return _Part(latent, plan, source, signed, decoded, witness, whole=whole)
        plain: list[Tensor] | None = None
        if self.harmonises and self.conditioned:
            whole, witness = self._decoded(latent, signed, plan, batch, counted, conditioned=False)
            # of a picture of which a part is decoded, no more is held than that
            plain = [Box.around(w).of(p).clone() for p, w in zip(whole, _turns(witness, len(whole)), strict=True)]
            del whole
        decoded, witness = self._decoded(latent, signed, plan, batch, counted, conditioned=self.conditioned)
        return _Part(latent, plan, source, signed, decoded, witness, plain)

    def _pictures(self, part: _Part) -> Iterator[Picture]:
        """What of each picture was decoded, to be harmonised in place."""
        assert part.signed is not None
        for i, seen in enumerate(_turns(part.witness, len(part.decoded))):
            box, source = Box.around(seen), part.signed.slice(i, i + 1)
            image, mask = (box.of(source.crop(t)[0]) for t in (source.image, source.mask))
            yield Picture(
                box.of(part.decoded[i]), image.to(part.decoded), edited(mask),
                plain=None if part.plain is None else part.plain[i], witness=box.of(seen), at=(box.top, box.left),
            )  # fmt: skip

    def _finished(self, part: _Part, batch: int, counted: _Counter) -> Tensor:
        """The harmonised pictures, after a condition that sees errors, in their source."""
        decoded, (middle, half) = part.decoded, self._middle_and_half
        if part.whole is not None:
            decoded = self._refined(part, batch, counted)
        if self.image_range != (-1.0, 1.0):
            decoded = (decoded * half + middle).clamp_(*self.image_range)
        return decoded if part.source is None else compose(decoded, part.source, self.keep, in_place=True)

    def _refined(self, part: _Part, batch: int, counted: _Counter) -> Tensor:
        """A conditional decode that is shown the plain one and the harmonised one."""
        assert part.signed is not None
        assert part.whole is not None
        shown = {"plain": part.whole}
        if self.harmonises:
            shown["harmonised"] = part.decoded
        for i, seen in enumerate(_turns(part.witness, len(part.decoded))):
            # too near a tile's edge for an error to tell anything
            source = part.signed.slice(i, i + 1)
            image = source.crop(source.image)[0].to(part.decoded)
            for picture in shown.values():
                torch.where(seen, picture[i], image.nan_to_num(0, 0, 0), out=picture[i])
        return self._decoded(part.latent, part.signed, part.plan, batch, counted, conditioned=True, shown=shown)[0]

    def _decoded(
        self,
        latent: Tensor,
        source: Source | None,
        plan: Plan,
        batch: int,
        counted: _Counter,
        *,
        conditioned: bool,
        shown: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        output, weights = run_plan(
            self.network, latent, source, plan,
            batch=batch, conditioned=conditioned, runtime=replace(self.runtime, progress=counted), shown=shown,
        )  # fmt: skip
        return output, weights >= WITNESS_SHARE


def _turns(witness: Tensor, count: int) -> list[Tensor]:
    """(1, H, W) of each of `count` pictures, which take those of (B or 1, 1, H, W) in turn."""
    return [witness[i % len(witness)] for i in range(count)]


class _Counter:
    """Progress over all runs of the network, of which each part reports only its own, and over what is harmonised."""

    def __init__(self, progress: Progress | None, runs: int, pictures: int) -> None:
        self.progress, self.runs, self.pictures = progress, runs, pictures
        self.before = self.harmonised = 0

    def __call__(self, done: float, of_part: int) -> None:
        self._tell(done)
        if done == of_part:
            self.before += of_part

    def one_harmonised(self) -> None:
        self.harmonised += 1
        self._tell(0)

    def _tell(self, more: float) -> None:
        if self.progress is not None:
            done = self.before + more + HARMONISE_COST * self.harmonised
            share = done / (self.runs + HARMONISE_COST * self.pictures)
            self.progress(share * self.runs, self.runs)
