"""Latents as models see them, which are those of the host's graphs too: packed, normalised or scaled.

A codec stands between the network's own latent z and the latent. `network_factor` is the ratio of sizes of picture and
z, `factor` that of picture and latent (`asymvq.config.Config`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-4
"""Of FLUX.2's normalisation (not batch norm's 1e-5); no file holds it."""


def pack(z: Tensor, side: int) -> Tensor:
    """(B, C, h, w) to (B, C·side², h/side, w/side): channel slowest, then row, then column in the square."""
    return z if side == 1 else torch.pixel_unshuffle(z, side)


def unpack(latent: Tensor, side: int) -> Tensor:
    """The inverse of `pack`."""
    return latent if side == 1 else torch.pixel_shuffle(latent, side)


class LatentCodec(nn.Module):
    """Packing alone; with a packing of 1 the latent is the network's own."""

    def __init__(self, packing: int = 1):
        super().__init__()
        self.packing = packing

    def encode(self, z: Tensor) -> Tensor:
        """(B, C, h, w) of the network to the latent as models see it."""
        return pack(z, self.packing)

    def decode(self, latent: Tensor) -> Tensor:
        """The inverse of `encode`."""
        return unpack(latent, self.packing)

    def deviation(self, sigma: Tensor) -> Tensor:
        """The latent's standard deviation for that of z."""
        return pack(sigma, self.packing)


class NormalisedLatent(LatentCodec):
    """FLUX.2: packed, then normalised channel by channel with statistics that the file holds."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, packing: int):
        super().__init__(packing)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (C, 1, 1) each, in x's type."""
        mean, variance = (t.to(x.device, torch.float32)[:, None, None] for t in (self.running_mean, self.running_var))
        return mean.to(x.dtype), torch.sqrt(variance + EPS).to(x.dtype)

    def encode(self, z: Tensor) -> Tensor:
        packed = pack(z, self.packing)
        mean, deviation = self._statistics(packed)
        return (packed - mean) / deviation

    def decode(self, latent: Tensor) -> Tensor:
        mean, deviation = self._statistics(latent)
        return unpack(latent * deviation + mean, self.packing)

    def deviation(self, sigma: Tensor) -> Tensor:
        packed = pack(sigma, self.packing)
        return packed / self._statistics(packed)[1]


class ScaledLatent(LatentCodec):
    """A network of the sampler's latents z = (latent - shift) · scale, as tiny autoencoders are, then packed."""

    def __init__(self, scale: float, shift: float, packing: int = 1):
        super().__init__(packing)
        self.scale, self.shift = scale, shift

    def encode(self, z: Tensor) -> Tensor:
        return pack(z / self.scale + self.shift, self.packing)

    def decode(self, latent: Tensor) -> Tensor:
        return (unpack(latent, self.packing) - self.shift) * self.scale

    def deviation(self, sigma: Tensor) -> Tensor:
        return pack(sigma / self.scale, self.packing)
