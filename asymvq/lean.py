"""The decoder at inference in little memory: the function of `Decoder.forward`, up to rounding.

A residual block as it is written needs four full activations at its worst moment. Here GroupNorm's statistics are taken
first; then normalising, SiLU and convolution go by stripes of rows, and the result is added to the block's own input in
place: two activations. Upsampling goes by stripes too, so that the enlarged features do not exist before their
convolution. The condition maps at full resolution, the largest of all, are computed where they are blended in and never
held.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AutoencoderConfig
from .decoder import ConditionEncoder, Decoder, blend, reduce_mask
from .layers import ResidualBlock, UpLevel

if TYPE_CHECKING:
    from .autoencoder import AsymmetricAutoencoder

_STRIPE_VALUES = {"cpu": 2**21, "cuda": 2**26}
"""Of one stripe: a CPU's should stay in its cache, a GPU wants work for all its cores."""
_OTHER_DEVICES = 2**24

MIXED_NORMALISATION = {"cpu", "cuda"}
"""Devices whose normalisation takes half-precision features with float32 statistics. Apple's ends the process."""

_Put = Callable[[int, int, Tensor], None]
"""Takes the rows from the first to before the last."""


def pays(vae: AsymmetricAutoencoder, latent: Tensor) -> bool:
    """Whether a picture of this latent is large enough that there are several stripes at the finest level."""
    return pays_for(vae.config, (latent.shape[-2], latent.shape[-1]), latent.device)


def pays_for(config: AutoencoderConfig, latent_size: tuple[int, int], device: torch.device) -> bool:
    """As `pays`, of a latent's height and width."""
    values = config.decoder_channels[0] * latent_size[0] * latent_size[1] * config.factor**2
    return values > 2 * stripe_values(device)


@torch.no_grad()
def decode(
    vae: AsymmetricAutoencoder, latent: Tensor, *, image: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """As `vae.decode`, without gradients, picture by picture.

    Args:
        latent: (B, C, h, w).
        image: (B, 3, H, W) in [-1, 1], H = h · factor; with `mask` or not at all.
        mask: (B, 1, H, W) in [0, 1], 1 = generated.

    Returns:
        (B, 3, H, W) in about [-1, 1].
    """
    if vae.post_quant_conv is not None:
        latent = vae.post_quant_conv(latent)
    pictures: list[Tensor] = []
    for i in range(latent.shape[0]):
        condition = None if image is None or mask is None else (image[i : i + 1], mask[i : i + 1])
        pictures.append(_decode_one(vae.decoder, latent[i : i + 1], condition))
    return torch.cat(pictures) if len(pictures) > 1 else pictures[0]


def _decode_one(decoder: Decoder, latent: Tensor, condition: tuple[Tensor, Tensor] | None) -> Tensor:
    h = decoder.mid(decoder.conv_in(latent))
    encoder, maps, fine = decoder.condition_encoder, list[Tensor](), None
    if condition is not None:
        assert encoder is not None
        image, mask = condition
        fine = _condition_input(encoder, image, mask)
        maps = _coarse_maps(encoder, fine)
    for i, level in reversed(list(enumerate(decoder.up))):
        assert isinstance(level, UpLevel)
        if condition is not None and fine is not None and encoder is not None:
            reduced = reduce_mask(condition[1], (h.shape[-2], h.shape[-1]), decoder.mask_reduction)
            if i == 0:
                _blend_in_place(h, encoder, fine, reduced, layers=2)
            else:
                h = blend(maps.pop(), h, reduced)
        h = _level(level, h)
    if condition is not None and fine is not None and encoder is not None:
        _blend_in_place(h, encoder, fine, condition[1], layers=1)
    result = h.new_empty(1, decoder.conv_out.out_channels, *h.shape[-2:])
    _norm_silu_conv(decoder.norm_out, decoder.conv_out, h, _into(result))
    return result


def _level(level: UpLevel, x: Tensor) -> Tensor:
    for block in level.block:
        assert isinstance(block, ResidualBlock)
        x = _residual(block, x)
    if level.upsample is None:
        return x
    conv, (height, width) = level.upsample.conv, x.shape[-2:]
    result = x.new_empty(1, conv.out_channels, 2 * height, 2 * width)
    for first, last in _stripes(height, 4 * width * conv.in_channels, x.device):
        top, bottom = max(0, first - 1), min(height, last + 1)
        rows = conv(F.interpolate(x[..., top:bottom, :], scale_factor=2.0, mode="nearest"))
        result[..., 2 * first : 2 * last, :] = rows[..., 2 * (first - top) : 2 * (last - top), :]
    return result


def _residual(block: ResidualBlock, x: Tensor) -> Tensor:
    """The block's output, in the memory of `x` where it fits there."""
    channels = block.conv1.out_channels
    h = x.new_empty(1, channels, *x.shape[-2:])
    _norm_silu_conv(block.norm1, block.conv1, x, _into(h))
    result = x[:, :channels] if channels <= x.shape[1] else torch.empty_like(h)

    def put(first: int, last: int, rows: Tensor) -> None:
        # each row of x is read here for the last time
        old = x[..., first:last, :]
        result[..., first:last, :] = rows + (old if block.nin_shortcut is None else block.nin_shortcut(old))

    _norm_silu_conv(block.norm2, block.conv2, h, put)
    return result


def _norm_silu_conv(norm: nn.GroupNorm, conv: nn.Conv2d, x: Tensor, put: _Put) -> None:
    """Gives `put` the rows of conv(silu(norm(x))), stripe by stripe. x (1, C, H, W); the convolution is 3×3."""
    height, width = x.shape[-2:]
    mean, variance = _channel_moments(norm, x)
    weight, bias = (p.to(mean) for p in (norm.weight, norm.bias))
    computed = x.dtype if x.device.type in MIXED_NORMALISATION else mean.dtype
    for first, last in _stripes(height, width * max(conv.in_channels, conv.out_channels), x.device):
        top, bottom = max(0, first - 1), min(height, last + 1)
        # with statistics given, batch norm is a scale and a shift in one pass
        rows = F.batch_norm(x[..., top:bottom, :].to(computed), mean, variance, weight, bias, eps=norm.eps)
        put(first, last, conv(F.silu(rows, inplace=True).to(x.dtype))[..., first - top : last - top, :])


def _channel_moments(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel's group in float32 or better, (C,) each; x (1, C, H, W)."""
    groups, shares, means, variances = norm.num_groups, list[float](), list[Tensor](), list[Tensor]()
    exact = torch.promote_types(x.dtype, torch.float32)
    for first, last in _stripes(x.shape[-2], x.shape[-1] * x.shape[1], x.device):
        values = x[0, :, first:last].to(exact).reshape(groups, -1)
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        shares.append((last - first) / x.shape[-2])
        means.append(mean)
        variances.append(variance)
    mean = torch.stack([share * part for share, part in zip(shares, means, strict=True)]).sum(dim=0)
    variance = torch.zeros_like(mean)
    for share, stripe_mean, stripe_variance in zip(shares, means, variances, strict=True):
        variance += share * (stripe_variance + (stripe_mean - mean).square())
    return mean.repeat_interleave(x.shape[1] // groups), variance.repeat_interleave(x.shape[1] // groups)


def _condition_input(encoder: ConditionEncoder, image: Tensor, mask: Tensor) -> Tensor:
    kept = image * (1 - mask)
    return torch.cat([kept, mask], dim=1) if encoder.sees_mask else kept


def _fine_rows(encoder: ConditionEncoder, x: Tensor, first: int, last: int, layers: int) -> Tensor:
    """Rows of the map that the first `layers` layers (1 or 2, 3×3 convolutions) make of x, before its ReLU."""
    top, bottom = max(0, first - layers), min(x.shape[-2], last + layers)
    rows = x[..., top:bottom, :]
    for i in range(layers):
        rows = encoder.layers[i](F.relu(rows) if i else rows)
    return rows[..., first - top : last - top, :]


def _blend_in_place(h: Tensor, encoder: ConditionEncoder, x: Tensor, mask: Tensor, *, layers: int) -> None:
    for first, last in _stripes(h.shape[-2], h.shape[-1] * h.shape[1], h.device):
        part = mask[..., first:last, :]
        rows = h[..., first:last, :]
        rows.copy_(blend(_fine_rows(encoder, x, first, last, layers), rows, part))


def _coarse_maps(encoder: ConditionEncoder, x: Tensor) -> list[Tensor]:
    """The maps below full resolution, fine to coarse."""
    if len(encoder.layers) < 3:
        return []
    half = encoder.layers[2]
    assert isinstance(half, nn.Conv2d)
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    first_map = x.new_empty(1, half.out_channels, height, width)
    for first, last in _stripes(height, 4 * width * half.in_channels, x.device):
        top, bottom = max(0, first - 1), min(height, last + 1)
        rows = half(F.relu(_fine_rows(encoder, x, 2 * top, 2 * bottom, 2)))
        first_map[..., first:last, :] = rows[..., first - top : last - top, :]
    maps = [first_map]
    for layer in list(encoder.layers)[3:]:
        maps.append(layer(F.relu(maps[-1])))
    return maps


def _into(target: Tensor) -> _Put:
    def put(first: int, last: int, rows: Tensor) -> None:
        target[..., first:last, :] = rows

    return put


def _stripes(height: int, row_values: int, device: torch.device) -> Iterator[tuple[int, int]]:
    """First row and the row after the last, of stripes of about one height."""
    count = max(1, min(height // 4, round(height * row_values / stripe_values(device))))
    edges = [round(height * i / count) for i in range(count + 1)]
    yield from itertools.pairwise(edges)


def stripe_values(device: torch.device) -> int:
    """Of one stripe, about."""
    return _STRIPE_VALUES.get(device.type, _OTHER_DEVICES)
