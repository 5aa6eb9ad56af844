"""Decoders side by side: the same picture and mask, every way of decoding, every measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from .autoencoder import AsymmetricAutoencoder
from .colour import fit_colours, noise_masked
from .decode import Keep, compose, decode
from .harmonise import harmonise
from .masks import edited
from .metrics import (
    NothingToMeasureError,
    border_error,
    colour_error,
    drift,
    gradient_error,
    kept_error,
    masked_error,
    outside,
    psnr,
    seam_error,
    ssim,
)
from .source import Source


@dataclass(frozen=True)
class Measure:
    """A number that says how good a decode is."""

    key: str
    title: str
    form: str = ".2e"
    """How the number is printed."""

    def text(self, value: float) -> str:
        """`value` for people; "—" for what could not be measured."""
        return "—" if math.isnan(value) else "∞" if math.isinf(value) else format(value, self.form)


MEASURES: dict[Measure, Callable[[Tensor, Tensor, Tensor], float]] = {
    Measure("kept_error", "kept: squared error"): kept_error,
    Measure("kept_psnr", "kept: PSNR, dB", ".2f"): lambda output, source, mask: psnr(output, source, outside(mask)),
    Measure("kept_ssim", "kept: SSIM", ".4f"): lambda output, source, mask: ssim(output, source, outside(mask)),
    Measure("masked_error", "in the mask: squared error"): masked_error,
    Measure("masked_psnr", "in the mask: PSNR, dB", ".2f"): psnr,
    Measure("masked_ssim", "in the mask: SSIM", ".4f"): ssim,
    Measure("colour_error", "in the mask: mean colour, squared error"): colour_error,
    Measure("border_error", "border, 4 px of the mask: squared error"): border_error,
    Measure("seam_error", "seam, jump across it: squared error"): seam_error,
    Measure("gradient_error", "mask's edge: gradients, ASUKA's Grad", ".2f"): gradient_error,
}
"""Of output, source and mask, as in `asymvq.metrics`."""
LPIPS = Measure("lpips", "whole picture: LPIPS", ".4f")
DRIFT = Measure("drift", "whole picture, after the round trips: squared error")


def measure(output: Tensor, source: Tensor, mask: Tensor) -> dict[str, float]:
    """Each of `MEASURES` by its key; NaN where the mask leaves it nothing to measure."""
    values: dict[str, float] = {}
    for each, metric in MEASURES.items():
        try:
            values[each.key] = metric(output, source, mask)
        except NothingToMeasureError:
            values[each.key] = math.nan
    return values


def texts(values: Mapping[str, float]) -> dict[str, str]:
    """What `measure` gave, for people."""
    return {each.key: each.text(values[each.key]) for each in MEASURES}


class Way(str, Enum):
    """How a latent becomes a picture."""

    PLAIN = "plain"
    """From the latent alone."""
    PASTE = "plain + paste"
    """The source's kept pixels over the plain decode: what people do without an asymmetric decoder."""
    FITTED = "paste + global colour fit"
    """The same after a gain and an offset a channel, which fit the plain decode's kept pixels to the source's."""
    HARMONISED = "paste + harmonise"
    """The same after `asymvq.harmonise`."""
    NETWORK = "conditional"
    """With picture and mask; the network's own pixels everywhere, as in the paper."""
    EXACT = "conditional, exact"
    """With picture and mask; kept pixels are the source's. Decoded around the mask alone if that is less."""
    BOTH = "conditional + harmonise"
    """The same, harmonised."""


def pasted(
    way: Way, decoded: Tensor, image: Tensor, mask: Tensor, *, factor: int = 8, noise_mask: bool = False
) -> Tensor:
    """A decode put into its source by one of the ways that paste: `PASTE`, `FITTED` and `HARMONISED`.

    Args:
        decoded: (B, 3, H, W) in about [-1, 1]; a plain decode, or an edited picture.
        image: (B or 1, 3, H, W) in [-1, 1], the source.
        mask: (B or 1, 1, H, W) in [0, 1], 1 = edited.
        factor: pixels a latent cell, as `asymvq.harmonise` takes it; so is `noise_mask`.
    """
    if way is Way.FITTED:
        decoded = fit_colours(decoded, image=image, mask=mask)
    if way is Way.HARMONISED:
        decoded = harmonise(decoded, image=image, mask=edited(mask), factor=factor, noise_mask=noise_mask)
    return compose(decoded, Source(image, mask, (0, 0, image.shape[-2], image.shape[-1])), Keep.EXACT)


@dataclass(frozen=True)
class Contestant:
    """A VAE, and one way of decoding with it."""

    vae: AsymmetricAutoencoder
    name: str
    """The VAE's."""
    way: Way
    encoder: AsymmetricAutoencoder
    """Where latents come from: the VAE itself, or another one of its kind if it is a decoder alone."""

    @property
    def title(self) -> str:
        return f"{self.name}: {self.way.value}"

    def encode(self, image: Tensor) -> Tensor:
        """(1, 3, H, W) in [-1, 1] to the latent, float32, on the picture's device."""
        return self.encoder.encode(image.to(self.encoder.decoder.conv_in.weight)).to(image)

    def decode(self, latent: Tensor, image: Tensor, mask: Tensor, *, noise_mask: bool = False) -> Tensor:
        """(1, 3, H, W) in about [-1, 1], of the size of `image`. Arguments as `asymvq.decode`."""
        if self.way in (Way.NETWORK, Way.EXACT, Way.BOTH):
            keep = Keep.NETWORK if self.way is Way.NETWORK else Keep.EXACT
            strength = float(self.way is Way.BOTH)
            return decode(
                self.vae, latent, image=image, mask=mask, keep=keep, harmonise=strength, noise_mask=noise_mask
            )
        decoded = decode(self.vae, latent)
        if self.way is Way.PLAIN:
            return decoded
        return pasted(self.way, decoded, image, mask, factor=self.vae.factor, noise_mask=noise_mask)

    def round_trip(self, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """Takes a picture to what is left of it after encoding and decoding, cut to the range of a file."""

        def trip(picture: Tensor) -> Tensor:
            return self.decode(self.encode(picture), picture, mask).clamp(-1, 1)

        return trip


def contestants(vaes: Mapping[str, AsymmetricAutoencoder]) -> list[Contestant]:
    """Every way of decoding that is worth a column, the baseline first: a plain decode with the source pasted back.

    The baseline is the first stock VAE's; where there is none, that of the first VAE, decoded without its condition.

    Raises:
        ValueError: no VAE, or a decoder alone without a VAE of its kind that could encode for it.
    """
    if not vaes:
        raise ValueError("Expected at least one VAE to evaluate, but got none.")
    stock = [name for name, vae in vaes.items() if vae.config.condition is None]
    plain = stock or [next(iter(vaes))]
    ways = [(name, way) for name in plain for way in (Way.PASTE, Way.PLAIN, Way.FITTED, Way.HARMONISED)]
    ways += [(name, way) for name in vaes if name not in stock for way in (Way.NETWORK, Way.EXACT, Way.BOTH)]
    return [Contestant(vaes[name], name, way, _encoder_for(name, vaes)) for name, way in ways]


def _encoder_for(name: str, vaes: Mapping[str, AsymmetricAutoencoder]) -> AsymmetricAutoencoder:
    """The VAE itself, or the first one whose latents have as many channels and the same scale."""
    config = vaes[name].config
    for vae in (vaes[name], *vaes.values()):
        kind = (vae.config.latent_channels, vae.config.factor)
        if vae.encoder is not None and kind == (config.latent_channels, config.factor):
            return vae
    raise ValueError(
        f"Expected a VAE that can encode for {name}, which is a decoder alone, but got none with "
        f"{config.latent_channels} latent channels. Give the VAE that it was made for too."
    )


@dataclass(frozen=True)
class Result:
    """One decode of one picture."""

    contestant: Contestant
    picture: Tensor
    """(1, 3, H, W) in about [-1, 1]."""
    measures: dict[str, float]
    """By the keys of `MEASURES`, and of `LPIPS` and `DRIFT` if they were asked for."""
    seconds: float
    """That the decode took."""


@torch.inference_mode()
def evaluate(
    entrants: Sequence[Contestant],
    image: Tensor,
    mask: Tensor,
    *,
    encoded: Tensor | None = None,
    latent: Tensor | None = None,
    noise_mask: bool = False,
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    round_trips: int = 0,
) -> Iterator[Result]:
    """Decodes one picture with every contestant, and compares with the picture itself.

    Args:
        entrants: as `contestants` gives them.
        image: (1, 3, H, W) in [-1, 1], the source of kept pixels and the truth. H and W fit every VAE.
        mask: (1, 1, H, W) in [0, 1], 1 = edited.
        encoded: the picture that is encoded, `image` by default: one with other colours shows what a decoder makes of
            the shift that diffusion models bring.
        latent: decoded instead of an encoded picture; unscaled.
        noise_mask: whether only the latent's cells that the mask touches are those of `encoded`, the others the
            picture's own, as inpainting with a noise mask leaves them. Of a given `latent`: whether it is so.
        lpips: from `asymvq.perceptual.load_lpips`.
        round_trips: how often the picture is encoded and decoded again, for the error that piles up.
    """
    latents: dict[AsymmetricAutoencoder, Tensor] = {}
    for entrant in entrants:
        if latent is not None:
            z = latent
        else:
            if entrant.encoder not in latents:
                shown = image if encoded is None else encoded
                latents[entrant.encoder] = (
                    noise_masked(entrant.encode, image, shown, mask, entrant.vae.factor)
                    if noise_mask
                    else entrant.encode(shown)
                )
            z = latents[entrant.encoder]
        started = time.perf_counter()
        picture = entrant.decode(z, image, mask, noise_mask=noise_mask)
        seconds = time.perf_counter() - started
        measures = measure(picture, image, mask)
        if lpips is not None:
            measures[LPIPS.key] = lpips(picture.clamp(-1, 1), image).item()
        if round_trips:
            measures[DRIFT.key] = drift(entrant.round_trip(mask), image, trips=round_trips)[-1]
        yield Result(entrant, picture, measures, seconds)
