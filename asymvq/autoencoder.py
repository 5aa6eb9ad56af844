"""Encoder, quantisation convolutions and decoder as one module."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from . import lean
from .autoencoders import build
from .config import Config
from .detail import errors_of, with_detail_of
from .fitted import fitted_errors
from .layers import CastingOps, Ops
from .memory_model import decode_bytes
from .network import Grid
from .precision import run_finite
from .values import image_values
from .walk import Report


class AsymmetricAutoencoder(nn.Module):
    """An autoencoder whose decoder may also be shown the pixels that are to be kept.

    Args:
        config: its shape, of any family, kept as `.config`.
        ops: where layers come from: `CastingOps` by default, or a host's drop-in with the same names.
    """

    def __init__(self, config: Config, *, ops: Ops | None = None):
        super().__init__()
        self.config = config
        parts = build(config, ops or CastingOps())
        self.encoder, self.decoder = parts.encoder, parts.decoder
        self.quant_conv, self.post_quant_conv = parts.quant_conv, parts.post_quant_conv
        self.codec = parts.codec

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def image_channels(self) -> int:
        return self.config.image_channels

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of the latent."""
        return self.config.factor

    @property
    def context(self) -> int | None:
        """See `asymvq.network.Grid`."""
        return self.config.context

    @property
    def takes_condition(self) -> bool:
        """Whether it can be shown an image and a mask; a stock VAE cannot."""
        return self.config.condition is not None

    reports = True
    """See `asymvq.network.Network`."""

    @property
    def sees_errors(self) -> bool:
        """Whether `decode` can be given `plain` and `harmonised`."""
        return self.decoder.sees_errors

    def place(self) -> tuple[torch.device, torch.dtype]:
        """What it computes on, and in; where an argument of a host's does not say otherwise."""
        weight = self.decoder.conv_in.weight
        return weight.device, weight.dtype

    def decode_bytes(
        self, latent_size: tuple[int, int], *, dtype: torch.dtype, device: torch.device, conditioned: bool
    ) -> int:
        """What `decode` takes at its peak for one picture, beside the weights: `asymvq.memory_model`."""
        return decode_bytes(self.config, latent_size, dtype=dtype, device=device, conditioned=conditioned)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the latent of `image` (B, 3, H, W) in [-1, 1], each (B, C, h, w).

        Of the image's type, but float32 where half precision overflowed. The deviation is 0 in a family without a
        posterior.

        Raises:
            ValueError: the file this model came from holds no encoder, the picture does not fit it, or picture or
                weights are not finite.
        """
        if self.encoder is None:
            raise ValueError(
                "Expected a VAE with an encoder, but this file holds only a decoder. Encode with the VAE that the "
                "decoder was made for, or load the decoder together with it (base_vae)."
            )
        factor = self.config.factor
        height, width = image.shape[-2:]
        if image.ndim != 4 or image.shape[1] != self.config.image_channels or height % factor or width % factor:
            raise ValueError(
                f"Expected a picture of shape (B, {self.config.image_channels}, H, W) with H and W multiples of "
                f"{factor}, but got {tuple(image.shape)}. Crop or resize it first."
            )
        return run_finite(self._moments, self, "encoding", image=image)

    def _moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        assert self.encoder is not None
        moments = self.encoder(image)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        if moments.shape[1] == self.config.network_latent_channels:  # a family without a posterior
            mean, deviation = moments, torch.zeros_like(moments)
        else:
            mean, log_variance = moments.chunk(2, dim=1)
            deviation = torch.exp(0.5 * log_variance.clamp(-30, 20))
        return self.codec.encode(mean), self.codec.deviation(deviation)

    def encode(self, image: Tensor) -> Tensor:
        """The latent of `image`: the posterior's mode, (B, C, h, w), unscaled.

        Args:
            image: as for `posterior`, or integers, which are scaled by their type.

        Raises:
            ValueError: as `posterior`; values out of range, or a tensor that cannot be computed with.
        """
        weight: Tensor = self.decoder.conv_in.weight
        if not weight.is_meta:
            given, image = image, image_values(image)
            image = image if given.is_floating_point() else image.to(weight.dtype)
        return self.posterior(image)[0]

    def decode(
        self,
        latent: Tensor,
        *,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        plain: Tensor | None = None,
        harmonised: Tensor | None = None,
        striped: bool | None = None,
        report: Report | None = None,
    ) -> Tensor:
        """The network's picture, (B, 3, H, W) in about [-1, 1], of the latent's type; float32 where half overflowed.

        Args:
            latent: (B, C, h, w), unscaled.
            image: (B, 3, H, W) in [-1, 1]: where the kept pixels come from.
            mask: (B, 1, H, W) in [0, 1], 1 = edited. Given with `image`, or not at all.
            plain: (B, 3, H, W), for one that `sees_errors`: the latent's decode without image and mask. None: it is
                decoded here.
            harmonised: (B, 3, H, W), likewise: what harmonising makes of `plain`, which edited pixels then have their
                colours and light of. None: of `plain` itself.
            striped: whether to compute in stripes, which takes less memory and records no gradients; None: where it
                pays and no gradients are recorded.
            report: called between two steps with the share of the work that is done; what it raises ends the decode.
                Where half precision overflowed, it begins again.

        Raises:
            ValueError: shapes that do not fit, one of `image` and `mask` alone, a VAE without a condition, or numbers
                that are not finite.
        """
        check_decode_arguments(self.config, latent, image=image, mask=mask, plain=plain, harmonised=harmonised)
        if striped is None:
            striped = lean.pays(self, latent) and not _records_gradients(latent, image, mask, *self.parameters())
        run = lean.decode if striped else AsymmetricAutoencoder._pixels
        if image is None or mask is None or not self.sees_errors:
            return run_finite(
                partial(run, self, report=report), self, "decoding", latent=latent, image=image, mask=mask
            )
        if plain is None:
            # two decodes, each half of the work
            first, report = (None, None) if report is None else (partial(_half, report, 0), partial(_half, report, 1))
            with torch.no_grad():
                plain = run_finite(partial(run, self, report=first), self, "decoding", latent=latent)
        plain, harmonised = plain.to(image.dtype), None if harmonised is None else harmonised.to(image.dtype)
        errors = errors_of(plain, image=image, mask=mask, harmonised=harmonised)
        decoded = run_finite(
            partial(run, self, report=report), self, "decoding", latent=latent, image=image, mask=mask, errors=errors
        )
        result = with_detail_of(
            decoded, plain, mask=mask, factor=self.factor, harmonised=harmonised, fitted=self.fitted(plain, image, mask)
        )
        return result.to(decoded.dtype)

    def fitted(self, plain: Tensor, image: Tensor, mask: Tensor) -> Tensor | None:
        """What is added for `fits_errors` (`asymvq.fitted.fitted_errors`), without gradients; None where nothing is."""
        if self.config.condition is None or not self.config.condition.fits_errors:
            return None
        with torch.no_grad():
            return fitted_errors(plain, image=image, mask=mask, factor=self.factor)

    def _pixels(
        self,
        latent: Tensor,
        *,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        errors: Tensor | None = None,
        report: Report | None = None,
    ) -> Tensor:
        return self.decoder(self.network_latent(latent), image=image, mask=mask, errors=errors, report=report)

    def network_latent(self, latent: Tensor) -> Tensor:
        """What the decoder takes for a latent: unpacked, in the network's own scale, after `post_quant_conv`."""
        z = self.codec.decode(latent)
        return z if self.post_quant_conv is None else self.post_quant_conv(z)


def _half(report: Report, done: int, share: float) -> None:
    report((done + share) / 2)


def _records_gradients(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def check_decode_arguments(
    config: Config, latent: Tensor, *, image: Tensor | None, mask: Tensor | None, **decoded: Tensor | None
) -> None:
    """Raises ValueError with what was expected, what came and what to do."""
    check_latent(config, latent)
    check_condition(config, image=image, mask=mask)
    given = {name: tensor for name, tensor in decoded.items() if tensor is not None}
    if given and (image is None or config.condition is None or not config.condition.sees_errors):
        raise ValueError(
            f"Expected {' and '.join(given)} only with image and mask, and for a VAE whose condition sees errors. "
            "Leave it out."
        )
    if image is None or mask is None:
        return
    batch, _, h, w = latent.shape
    size = (h * config.factor, w * config.factor)
    expected = {"image": (image, config.image_channels), "mask": (mask, 1)}
    expected |= {name: (tensor, config.image_channels) for name, tensor in given.items()}
    for name, (tensor, channels) in expected.items():
        if tensor.shape != (batch, channels, *size):
            raise ValueError(
                f"Expected {name} of shape {(batch, channels, *size)} for a latent of {tuple(latent.shape)}, "
                f"but got {tuple(tensor.shape)}."
            )


def check_latent(config: Grid, latent: Tensor) -> None:
    """Raises ValueError where it is none of this kind of VAE."""
    if latent.ndim != 4:
        raise ValueError(
            f"Expected a latent of shape (B, {config.latent_channels}, h, w), but got {tuple(latent.shape)}. "
            "Video latents (5-D) belong to another kind of VAE; give the frames as a batch."
        )
    if latent.shape[1] != config.latent_channels:
        packed = latent.shape[1] == 4 * config.latent_channels and getattr(config, "encoder_channels", ()) is None
        hint = " A decoder alone that lacks the statistics of packed latents needs its VAE too (base_vae)."
        raise ValueError(
            f"Expected a latent with {config.latent_channels} channels, but got {latent.shape[1]}. It was made by "
            f"another kind of VAE: use the asymmetric decoder that belongs to that VAE.{hint if packed else ''}"
        )


def check_condition(config: Config, *, image: Tensor | None, mask: Tensor | None) -> None:
    """Raises ValueError where only one of the two is given, or a VAE cannot take them."""
    check_together(image=image, mask=mask)
    if image is not None and config.condition is None:
        raise ValueError(
            "Expected an asymmetric VAE, but this one is a stock VAE: its decoder cannot take an image and a mask. "
            "Load an asymmetric VAE, train a decoder for this one (python -m asymvq train), decode without image and "
            "mask, or use asymvq.decode, which puts the plain decode into the image and harmonises it."
        )


def check_together(*, image: Tensor | None, mask: Tensor | None) -> None:
    """Raises ValueError where only one of the two is given."""
    if (image is None) != (mask is None):
        missing, given = ("image", "mask") if image is None else ("mask", "image")
        raise ValueError(
            f"Expected image and mask together, but got only the {given}. Give the {missing} too, or neither for a "
            "decode without condition."
        )
