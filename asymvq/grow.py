"""A decoder becomes a larger, conditional one without losing what it knows.

Width: every channel is repeated inside its GroupNorm group, so that the group's statistics stay what they were, and
what reads a repeated channel shares its weight among the repeats (Net2Net, arXiv 1511.05641), unevenly, so that repeats
can become different. Depth: residual blocks whose last convolution is zero. Where every channel is repeated equally
often the function is exactly the old one. Elsewhere the statistics shift, and `match_norms` corrects them on samples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .autoencoder import AsymmetricAutoencoder
from .config import AutoencoderConfig, ConditionConfig, Config, preset_name
from .layers import Attention, Level, ResidualBlock

UNEVENNESS = 0.5
"""Standard deviation of a repeat's share of a weight, relative to an even share."""

_FACTORS = {"base": (1.0, 0), "1.5x": (1.5, 1), "2x": (2.0, 3)}
"""Width factor and added blocks a level that make the paper's decoders of the stock one."""


def grown_config(config: Config, preset: str) -> AutoencoderConfig:
    """The shape that `preset` makes of a VAE's decoder. It always has a condition.

    Args:
        preset: "base", "1.5x" or "2x", the paper's steps from the stock decoder (a published decoder asked to become
            what it is stays as it is); or a width factor and added residual blocks a level, e.g. "1.25x+2".

    Raises:
        ValueError: another word, or widths that GroupNorm cannot divide.
    """
    config = _growable(config)
    if preset_name(config) == preset:
        return config
    if preset in _FACTORS:
        width, depth = _FACTORS[preset]
    elif match := re.fullmatch(r"(\d+(?:\.\d+)?)x\+(\d+)", preset):
        width, depth = float(match[1]), int(match[2])
    else:
        raise ValueError(
            f'Expected a preset ({", ".join(_FACTORS)}), or a width factor and added blocks like "1.5x+1", '
            f"but got {preset!r}."
        )
    channels = tuple(c * width for c in config.decoder_channels)
    if width < 1 or any(c != round(c) or round(c) % config.norm_groups for c in channels):
        raise ValueError(
            f"Expected a width factor of 1 or more that keeps {config.decoder_channels} multiples of "
            f"{config.norm_groups}, GroupNorm's groups, but got {width:g}. Try 1.5 or 2."
        )
    return dataclasses.replace(
        config,
        decoder_channels=tuple(round(c) for c in channels),
        decoder_blocks=config.decoder_blocks + depth,
        condition=config.condition or ConditionConfig(),
    )


@torch.no_grad()
def grow(vae: AsymmetricAutoencoder, config: Config, *, seed: int = 0) -> AsymmetricAutoencoder:
    """A VAE of shape `config` with the function of `vae`, on the CPU in float32. `vae` itself is left alone.

    A condition encoder that `vae` does not have gets fresh weights.

    Args:
        config: from `grown_config`, or any that differs in the decoder's widths (wider), blocks (more) and condition.
        seed: of the uneven shares and the fresh weights.

    Raises:
        ValueError: `config` is smaller, or differs in anything else.
    """
    old, config = _growable(vae.config), _growable(config)
    _check_growth(old, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = AsymmetricAutoencoder(config).float()
        source = {name: tensor.float().cpu() for name, tensor in vae.state_dict().items()}
        target = grown.state_dict()
        groups = config.norm_groups
        for name, tensor in target.items():
            if name in source:
                tensor.copy_(_grown(source[name], tuple(tensor.shape), groups))
        for level in grown.decoder.up:
            assert isinstance(level, Level)
            for block in list(level.block)[old.decoder_blocks :]:
                assert isinstance(block, ResidualBlock)
                for parameter in block.conv2.parameters():
                    parameter.zero_()
        _keep_attention_scale(_attention(vae), _attention(grown), groups)
    return grown.eval().requires_grad_(False)


@torch.no_grad()
def match_norms(grown: AsymmetricAutoencoder, vae: AsymmetricAutoencoder, latent: Tensor) -> None:
    """Sets the grown decoder's norms so that their outputs have the means and deviations of the old decoder's.

    Only needed after growth by a factor that is no integer.

    Args:
        latent: (B, C, h, w) of some pictures. The more they are like those to come, the closer the match.
    """
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    groups = _growable(grown.config).norm_groups
    old, new = dict(_norms(vae)), dict(_norms(grown))

    def observe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            source = _repeats(output.shape[1], new[name].num_channels, groups)
            mean, deviation = _moments(output)
            expected[name] = mean[source], deviation[source]

        return hook

    def correct(name: str) -> Callable[..., Tensor]:
        def hook(module: nn.GroupNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            (mean, deviation), (got_mean, got_deviation) = expected[name], _moments(output)
            scale = deviation / got_deviation.clamp(min=1e-6)
            shift = mean - scale * got_mean
            module.weight.mul_(scale)
            module.bias.mul_(scale).add_(shift)
            return output * scale[:, None, None] + shift[:, None, None]

        return hook

    handles = [old[name].register_forward_hook(observe(name)) for name in old]
    try:
        vae.decode(latent, striped=False)
        handles += [new[name].register_forward_hook(correct(name)) for name in old]
        grown.decode(latent, striped=False)
    finally:
        for handle in handles:
            handle.remove()


def _norms(vae: AsymmetricAutoencoder) -> list[tuple[str, nn.GroupNorm]]:
    return [(name, module) for name, module in vae.decoder.named_modules() if isinstance(module, nn.GroupNorm)]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, channel by channel."""
    return x.mean(dim=(0, 2, 3)), x.std(dim=(0, 2, 3))


def _growable(config: Config) -> AutoencoderConfig:
    if not isinstance(config, AutoencoderConfig):
        raise ValueError(
            f"Expected a VAE with GroupNorm, as Stable Diffusion's and FLUX's, but got one of the {config.family} "
            "family, whose decoders cannot be grown yet."
        )
    return config


def _attention(vae: AsymmetricAutoencoder) -> Attention:
    assert vae.decoder.mid is not None
    assert isinstance(vae.decoder.mid.attn_1, Attention)
    return vae.decoder.mid.attn_1


def _check_growth(old: AutoencoderConfig, new: AutoencoderConfig) -> None:
    same = dataclasses.replace(
        new, decoder_channels=old.decoder_channels, decoder_blocks=old.decoder_blocks, condition=old.condition
    )
    larger = len(old.decoder_channels) == len(new.decoder_channels) and all(
        a <= b
        for a, b in zip(
            (*old.decoder_channels, old.decoder_blocks), (*new.decoder_channels, new.decoder_blocks), strict=True
        )
    )
    if same != old or not larger or (old.condition is not None and new.condition != old.condition):
        raise ValueError(f"Expected a shape that {old} can grow into, but got {new}. Only its decoder may be larger.")


def _repeats(old: int, new: int, groups: int) -> Tensor:
    """(new,) the old channel that each new one repeats; repeats stay inside their GroupNorm group."""
    inside = torch.arange(new // groups) * (old // groups) // (new // groups)
    return (torch.arange(groups)[:, None] * (old // groups) + inside).flatten()


def _grown(tensor: Tensor, shape: tuple[int, ...], groups: int) -> Tensor:
    if tensor.shape[0] != shape[0]:
        tensor = tensor[_repeats(tensor.shape[0], shape[0], groups)]
    if tensor.ndim > 1 and tensor.shape[1] != shape[1]:
        source = _repeats(tensor.shape[1], shape[1], groups)
        tensor = tensor[:, source] * _shares(source, tensor.shape[0])[:, :, None, None]
    return tensor


def _shares(source: Tensor, rows: int) -> Tensor:
    """(rows, channels) random shares; those of one source sum to 1."""
    index = source.expand(rows, -1)
    counts = torch.bincount(source).float()[source]
    uneven = UNEVENNESS * torch.randn(rows, len(source), dtype=torch.float64)
    means = torch.zeros(rows, int(source.max()) + 1, dtype=torch.float64).scatter_add_(1, index, uneven)
    return ((1 + uneven - means.gather(1, index) / counts) / counts).float()


def _keep_attention_scale(old: Attention, new: Attention, groups: int) -> None:
    """Attention divides by the root of its width, and each repeat adds its product once more."""
    channels, width = old.q.weight.shape[0], new.q.weight.shape[0]
    source = _repeats(channels, width, groups)
    counts = torch.bincount(source).float()[source]
    scale = (width / channels) ** 0.5 / counts
    new.q.weight.mul_(scale[:, None, None, None])
    new.q.bias.mul_(scale)
