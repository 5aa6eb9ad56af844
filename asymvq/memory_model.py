"""How much memory a network needs at its peak, beside its weights: the tensors that are alive at each step are counted.

For hosts that make room before they run something. What is counted is tensors; what convolutions take besides is a
share of what they work on, from measured peaks (bench/memory.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch

from . import lean
from .config import Config
from .stripes import stripe_values

PLAIN_SHARE, STRIPED_SHARE, KEEPING_SHARE = 0.45, 0.3, 0.1
"""Above the tensors: what convolutions take for themselves, and what allocators cannot use again; the last one striped,
where the allocator's keeping is counted."""
KEEPING = {"cpu": 2**25}
"""Devices whose allocator keeps what it was given back, but for tensors of more bytes than this (glibc's malloc, which
also hands out what it keeps): small tensors go on taking memory while large ones are there later."""
STRIPES = 6
"""Of the size of one, that are there at once in a striped decode: features before and after, and the convolution's."""
RESIDENT = 48 * 2**20
"""What any run takes, however small: libraries' scratch memory, and allocators' rounding."""
ATTENDED = 9
"""Tensors of the features' size in the middle's attention: query, key, value, their sources and result."""
FITTING, FITTING_PLANES = 13 * 2**20, 24
"""Values that fitting errors to kept pixels (`asymvq.fitted`) holds of any picture, and of each pixel, as measured."""
FUSED_ATTENTION = {"cpu", "cuda"}
"""Devices on which the matrix of all positions by all positions is never held."""


def decode_bytes(
    config: Config,
    latent_size: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    conditioned: bool | None = None,
) -> int:
    """Bytes that `AsymmetricAutoencoder.decode` takes at its peak for one picture, without gradients.

    Args:
        latent_size: height and width of the latent.
        dtype: what is computed in.
        device: what is computed on.
        conditioned: whether image and mask are given; None: if the VAE can take them.
    """
    device = torch.device(device)
    conditioned = config.condition is not None if conditioned is None else conditioned
    cells = latent_size[0] * latent_size[1]
    pixels = cells * config.factor**2
    attention = _attention_values(config, config.decoder_channels[-1], cells * config.latent_packing**2, device)
    # the picture, and what is made of image and mask before the first convolution
    around = 2 * config.image_channels * pixels + (10 * pixels if conditioned else 0)
    if conditioned and config.condition is not None and config.condition.sees_errors:
        around += 3 * config.image_channels * pixels  # the plain decode, what is shown, and the detail taken
        if config.condition.errors_fade:
            around += (config.image_channels + 1) * pixels  # those that have faded, and how far
    least = 0
    if conditioned and config.condition is not None and config.condition.fits_errors:
        # float32 always, when the network's features are gone
        least = 4 * round(FITTING + FITTING_PLANES * pixels + around) + RESIDENT
    if lean.pays_for(config, latent_size, device):
        moments = [[attention / ATTENDED] * ATTENDED, *_striped_moments(config, pixels, conditioned)]
        row = 2 * latent_size[1] * config.factor * max(config.decoder_channels[:2])
        stripe = max(stripe_values(device), 4 * row)
        size = dtype.itemsize if device.type in lean.MIXED_NORMALISATION else 4
        held = _held(moments, dtype, device) + around * dtype.itemsize + STRIPES * stripe * size
        return max(least, round(held * (1 + (KEEPING_SHARE if device.type in KEEPING else STRIPED_SHARE))) + RESIDENT)
    steps = _plain_steps(config, pixels, conditioned, dtype)
    return max(least, round((max(attention, *steps) * (1 + PLAIN_SHARE) + around) * dtype.itemsize) + RESIDENT)


def encode_bytes(
    config: Config,
    image_size: tuple[int, int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> int:
    """Bytes that `AsymmetricAutoencoder.encode` takes at its peak for one picture. Arguments as `decode_bytes`.

    Args:
        image_size: height and width of the picture.
    """
    channels = config.encoder_channels or config.decoder_channels
    pixels = image_size[0] * image_size[1]
    steps = [_attention_values(config, channels[-1], pixels / config.network_factor**2, torch.device(device))]
    before = channels[0]
    for level, width in enumerate(channels):
        steps.append(
            _block_values(config, before, width, config.encoder_block_counts[level], dtype) * pixels / 4**level
        )
        before = width
    around = 2 * config.image_channels * pixels
    return round((max(steps) * (1 + PLAIN_SHARE) + around) * dtype.itemsize) + RESIDENT


def _plain_steps(config: Config, pixels: float, conditioned: bool, dtype: torch.dtype) -> Iterator[float]:
    """Values alive at the worst moments of each level, as `Decoder.forward` runs it."""
    widths, entering = config.decoder_channels, config.entering_channels
    maps = _maps(config, pixels) if conditioned else []
    if maps:
        yield sum(maps) + max(maps)  # the last map's ReLU
    for level, width in reversed(list(enumerate(widths))):
        here, before = pixels / 4**level, entering[level]
        waiting = sum(maps[: level + 1])
        held = 0.0
        if maps:
            yield waiting + _applied(config, before) * here
            held = _inside(config) * here
            # in a block: scale and shift together, and what they make of the features, beside the map
            waiting += held + (3 * max(before, width) * here if held else 0)
        yield waiting + _block_values(config, before, width, config.decoder_block_counts[level], dtype) * here
        waiting = sum(maps[: level + 1]) + held
        if level:  # enlarged features, before and after their convolution
            yield waiting + (5 * width + 4 * entering[level - 1]) * here


def _held(moments: Iterable[Sequence[float]], dtype: torch.dtype, device: torch.device) -> float:
    """Bytes at the worst of moments, each of which is the number of values of every tensor that is alive. Where small
    tensors' memory is kept, their worst moment and the large ones' are another's."""
    limit = KEEPING.get(device.type)
    sizes = [[values * dtype.itemsize for values in moment] for moment in moments]
    if limit is None:
        return max(map(sum, sizes))
    small = max(sum(size for size in moment if size <= limit) for moment in sizes)
    return small + max(sum(size for size in moment if size > limit) for moment in sizes)


def _striped_moments(config: Config, pixels: float, conditioned: bool) -> Iterator[list[float]]:
    """The tensors at the same moments as `asymvq.lean` runs it, without the stripes themselves."""
    widths, entering = config.decoder_channels, config.entering_channels
    maps = [0.0, 0.0, *_maps(config, pixels)[2:]] if conditioned else []
    if maps:
        yield maps
    for level, width in reversed(list(enumerate(widths))):
        here, before = pixels / 4**level, entering[level]
        waiting = maps[: level + 1]
        if len(maps) > level + 1:
            own, held = _own_maps(config), _inside(config) * here
            if level:
                yield [*waiting, *([before * here, own * here] if own else [before * here] * 3)]
            waiting = [*waiting, held]
        # a block's result takes its input's memory where it fits there
        grown = width if width > before else 0
        yield [*waiting, before * here, width * here, grown * here]
        if level:
            yield [*waiting, max(before, width) * here, 4 * entering[level - 1] * here]


def _block_values(config: Config, before: int, width: int, blocks: int, dtype: torch.dtype) -> float:
    """A pixel, of a level's blocks: its input is held, beside a later block's own input and what it makes of it."""
    widened = width if config.float32_norms and dtype.itemsize < torch.float32.itemsize else 0
    return before + (3 + (blocks > 1)) * width + widened


def _maps(config: Config, pixels: float) -> list[float]:
    """Values of each condition map, fine to coarse."""
    own = _own_maps(config)
    return [(own or width) * pixels / 4 ** max(0, i - 1) for i, width in enumerate(config.condition_channels)]


def _own_maps(config: Config) -> int | None:
    """The width of a condition's maps, where it is not that of the features. Such maps are applied in stripes."""
    return None if config.condition is None else config.condition.channels


def _inside(config: Config) -> int:
    """Values a pixel of the map that is held while a level's blocks run."""
    return 0 if config.condition is None or not config.condition.in_blocks else _own_maps(config) or 0


def _applied(config: Config, features: int) -> int:
    """Values a pixel at a condition point, for features of so many channels."""
    own = _own_maps(config)
    # features, scale, shift and result, beside what the map's ReLU takes; or map, features and result
    return 3 * features if own is None else 4 * features + own


def _attention_values(config: Config, width: int, cells: float, device: torch.device) -> float:
    """Of the middle's attention, with the matrix where it is held."""
    if not config.attention:
        return 0
    return ATTENDED * width * cells + (0 if device.type in FUSED_ATTENTION else 2 * cells**2)
