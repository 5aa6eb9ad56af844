"""The decoder at inference in little memory: the function of `Decoder.forward`, up to rounding.

A residual block as it is written needs four full activations at its worst moment. Here GroupNorm's statistics are taken
first; then normalising, activation and convolution go by stripes of rows, and the result is added to the block's own
input in place: two activations. Upsampling goes by stripes too, so that the enlarged features do not exist before their
convolution, and so do the condition's maps at full resolution, but for the one that a condition inside the blocks
needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Config
from .decoder import Decoder
from .layers import Residual, Stage, Upsample
from .stripes import stripe_values, stripes
from .walk import Change, Report, Run

if TYPE_CHECKING:
    from .autoencoder import AsymmetricAutoencoder

MIXED_NORMALISATION = {"cpu", "cuda"}
"""Devices whose normalisation takes half-precision features with float32 statistics. Apple's ends the process."""

_Put = Callable[[int, int, Tensor], None]
"""Takes the rows from the first to before the last."""


def pays(vae: AsymmetricAutoencoder, latent: Tensor) -> bool:
    """Whether a picture of this latent is large enough that there are several stripes at the finest level."""
    return pays_for(vae.config, (latent.shape[-2], latent.shape[-1]), latent.device)


def pays_for(config: Config, latent_size: tuple[int, int], device: torch.device) -> bool:
    """As `pays`, of a latent's height and width."""
    values = config.decoder_channels[0] * latent_size[0] * latent_size[1] * config.factor**2
    return values > 2 * stripe_values(device)


@torch.no_grad()
def decode(
    vae: AsymmetricAutoencoder,
    latent: Tensor,
    *,
    image: Tensor | None = None,
    mask: Tensor | None = None,
    errors: Tensor | None = None,
    report: Report | None = None,
) -> Tensor:
    """As `vae.decode`, without gradients, picture by picture.

    Args:
        latent: (B, C, h, w).
        image: (B, 3, H, W) in [-1, 1], H = h · factor; with `mask` or not at all.
        mask: (B, 1, H, W) in [0, 1], 1 = edited.
        errors: (B, 3, H, W), where the decoder `sees_errors`.
        report: called after each step.

    Returns:
        (B, 3, H, W) in about [-1, 1].
    """
    z = vae.network_latent(latent)
    pictures: list[Tensor] = []
    for i in range(z.shape[0]):
        given = {"image": image, "mask": mask, "errors": errors}
        given = {name: tensor[i : i + 1] for name, tensor in given.items() if tensor is not None}
        of_one = None if report is None else partial(_of_batch, report, i, z.shape[0])
        pictures.append(_decode_one(vae.decoder, z[i : i + 1], given, of_one))
    return torch.cat(pictures) if len(pictures) > 1 else pictures[0]


def _of_batch(report: Report, before: int, count: int, share: float) -> None:
    report((before + share) / count)


def _decode_one(decoder: Decoder, latent: Tensor, given: dict[str, Tensor], report: Report | None) -> Tensor:
    condition, h = None, latent
    for step in decoder.reported_walk(latent, report, conditioned=bool(given)):
        if isinstance(step, Run):
            changes = () if condition is None or step.place is None else condition.inside(*step.place)
            h = _striped(step.part, h, changes)
        elif given:
            if condition is None:  # not earlier: the middle's attention takes memory too
                assert decoder.condition_encoder is not None
                condition = decoder.condition_encoder.prepare(**given, striped=True)
            h = condition.apply(step.level, h)
    return h


def _striped(part: Callable[..., Tensor], x: Tensor, changes: Sequence[Change]) -> Tensor:
    """What `part` makes of x, which is not used again; in stripes where its kind is known.

    Args:
        changes: of a residual block, as `Run` takes them.
    """
    if isinstance(part, Residual):
        return _residual(part, x, changes) if part.local else part(x, changes)
    if isinstance(part, Upsample):
        return _upsample(part.conv, x)
    if isinstance(part, Stage):
        result = x.new_empty(1, part.conv.out_channels, *x.shape[-2:])
        _stage(part, x, _into(result))
        return result
    return part(x)


def _upsample(conv: nn.Conv2d, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    result = x.new_empty(1, conv.out_channels, 2 * height, 2 * width)
    for first, last in stripes(height, 4 * width * conv.in_channels, x.device):
        top, bottom = max(0, first - 1), min(height, last + 1)
        rows = conv(F.interpolate(x[..., top:bottom, :], scale_factor=2.0, mode="nearest"))
        result[..., 2 * first : 2 * last, :] = rows[..., 2 * (first - top) : 2 * (last - top), :]
    return result


def _residual(block: Residual, x: Tensor, changes: Sequence[Change]) -> Tensor:
    """The block's output, in the memory of `x` where it fits there."""
    *before, final = block.stages
    h, by_stage = x, iter(changes)
    for stage in before:
        # the block's input stays; what comes between is overwritten where it can be
        channels = stage.conv.out_channels
        target = h if h is not x and h.shape[1] == channels else h.new_empty(1, channels, *h.shape[-2:])
        _stage(stage, h, _into(target), next(by_stage, None), in_place=target is h)
        h = target
    channels, shortcut, after = final.conv.out_channels, block.shortcut, block.after
    result = x[:, :channels] if channels <= x.shape[1] else x.new_empty(1, channels, *x.shape[-2:])

    def put(first: int, last: int, rows: Tensor) -> None:
        # each row of x is read here for the last time
        old = x[..., first:last, :]
        total = rows + (old if shortcut is None else shortcut(old))
        result[..., first:last, :] = total if after is None else after(total, inplace=True)

    _stage(final, h, put, next(by_stage, None))
    return result


def _stage(stage: Stage, x: Tensor, put: _Put, change: Change | None = None, *, in_place: bool = False) -> None:
    """Gives `put` the stage's rows of x (1, C, H, W), stripe by stripe. The convolution is 3×3.

    Args:
        change: what a condition does to what the stage activates.
        in_place: `put` writes the rows into x.
    """
    height, width = x.shape[-2:]
    conv, normalise = stage.conv, _normaliser(stage.norm, x)
    above: Tensor | None = None
    for first, last in stripes(height, width * max(conv.in_channels, conv.out_channels), x.device):
        top, bottom = max(0, first - 1), min(height, last + 1)
        rows = x[..., top:bottom, :]
        if in_place:
            if above is not None:
                rows = torch.cat([above, x[..., first:bottom, :]], dim=-2)
            above = x[..., last - 1 : last, :].clone()
        normed = normalise(rows)
        rows = stage.activated(rows, normed if change is None else change(normed, top, bottom)).to(x.dtype)
        put(first, last, conv(rows)[..., first - top : last - top, :])


def _normaliser(norm: nn.Module | None, x: Tensor) -> Callable[[Tensor], Tensor]:
    """What normalises rows of x as the norm does the whole of it."""
    if norm is None:
        return lambda rows: rows
    if not isinstance(norm, nn.GroupNorm):
        return norm  # of each pixel alone
    mean, variance = _channel_moments(norm, x)
    weight, bias = (p.to(mean) for p in (norm.weight, norm.bias))
    computed = x.dtype if x.device.type in MIXED_NORMALISATION else mean.dtype
    if x.device.type == "cpu" and computed == mean.dtype:  # batch norm is slow there with rows that lie apart
        scale = weight * (variance + norm.eps).rsqrt()
        scale, shift = (t[:, None, None] for t in (scale, bias - mean * scale))
        return lambda rows: (rows.to(computed) * scale).add_(shift)
    # with statistics given, batch norm is a scale and a shift in one pass
    return lambda rows: F.batch_norm(rows.to(computed), mean, variance, weight, bias, eps=norm.eps)


def _channel_moments(norm: nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel's group in float32 or better, (C,) each; x (1, C, H, W)."""
    groups, shares, means, variances = norm.num_groups, list[float](), list[Tensor](), list[Tensor]()
    exact = torch.promote_types(x.dtype, torch.float32)
    for first, last in stripes(x.shape[-2], x.shape[-1] * x.shape[1], x.device):
        variance, mean = _moments(x[0, :, first:last].to(exact).unflatten(0, (groups, -1)))
        shares.append((last - first) / x.shape[-2])
        means.append(mean)
        variances.append(variance)
    mean = torch.stack([share * part for share, part in zip(shares, means, strict=True)]).sum(dim=0)
    variance = torch.zeros_like(mean)
    for share, stripe_mean, stripe_variance in zip(shares, means, variances, strict=True):
        variance += share * (stripe_variance + (stripe_mean - mean).square())
    return mean.repeat_interleave(x.shape[1] // groups), variance.repeat_interleave(x.shape[1] // groups)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each group, (G,) each, of values (G, C, H, W)."""
    dims = (1, 2, 3)
    if values.device.type != "cpu":
        return torch.var_mean(values, dims, correction=0)
    # two passes there: torch 2.11's var_mean takes five times as long
    mean = values.mean(dims, keepdim=True)
    return (values - mean).square_().mean(dims), mean.flatten()


def _into(target: Tensor) -> _Put:
    def put(first: int, last: int, rows: Tensor) -> None:
        target[..., first:last, :] = rows

    return put
