"""A decoder becomes a larger, conditional one without losing what it knows.

Width: channels are repeated, and what reads them shares its weights (`asymvq.widening`). Depth: residual blocks that
add nothing yet. The function is exactly the old one, but for a GroupNorm whose channels are not all repeated equally
often: its statistics shift, and `match_norms` corrects them on samples.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .autoencoder import AsymmetricAutoencoder
from .autoencoders import family_of, preset_name
from .config import AFFINE_FLAGS, ConditionConfig, Config
from .widening import repeated

_FACTORS = {"base": (1.0, 0), "1.5x": (1.5, 1), "2x": (2.0, 3)}
"""Width factor and added blocks a level that make the paper's decoders of the stock one."""


def grown_config(config: Config, preset: str, *, condition: ConditionConfig | None = None) -> Config:
    """The shape that `preset` makes of a VAE's decoder. It always has a condition.

    Args:
        preset: "base", "1.5x" or "2x", the paper's steps from the stock decoder (a published decoder asked to become
            what it is stays as it is); or a width factor and added residual blocks a level, e.g. "1.25x+2".
        condition: what it gets; None: its own, or the paper's where it has none.

    Raises:
        ValueError: another word, or widths that the network cannot have.
    """
    config = config.replaced(condition=condition or config.condition or ConditionConfig())
    if preset_name(config) == preset:
        return config
    if preset in _FACTORS:
        return config.grown(*_FACTORS[preset])
    if match := re.fullmatch(r"(\d+(?:\.\d+)?)x\+(\d+)", preset):
        return config.grown(float(match[1]), int(match[2]))
    raise ValueError(
        f'Expected a preset ({", ".join(_FACTORS)}), or a width factor and added blocks like "1.5x+1", but got '
        f"{preset!r}."
    )


@torch.no_grad()
def grow(vae: AsymmetricAutoencoder, config: Config, *, seed: int = 0) -> AsymmetricAutoencoder:
    """A VAE of shape `config` with the function of `vae`, on the CPU in float32. `vae` itself is left alone.

    A condition that `vae` does not have, or has of another kind, gets fresh weights.

    Args:
        config: from `grown_config`, or any that differs in the decoder's widths (wider), blocks (more) and condition.
        seed: of the uneven shares and the fresh weights.

    Raises:
        ValueError: `config` is smaller, or differs in anything else.
    """
    _check_growth(vae.config, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = AsymmetricAutoencoder(config).float()
        others = {name: tensor for name, tensor in vae.state_dict().items() if not name.startswith("decoder.")}
        grown.load_state_dict(others, strict=False)
        grown.decoder.grow_from(vae.decoder, family_of(config).WIDENING)
    return grown.eval().requires_grad_(False)


def shifts_norms(vae: AsymmetricAutoencoder, config: Config) -> bool:
    """Whether growth to this shape needs `match_norms`."""
    widths = zip(config.decoder_channels, vae.config.decoder_channels, strict=True)
    return any(new % old for new, old in widths) and bool(_norms(vae))


@torch.no_grad()
def match_norms(grown: AsymmetricAutoencoder, vae: AsymmetricAutoencoder, latent: Tensor) -> None:
    """Sets the grown decoder's GroupNorms so that their outputs have the means and deviations of the old decoder's.

    Only needed after growth by a factor that is no integer.

    Args:
        latent: (B, C, h, w) of some pictures. The more they are like those to come, the closer the match.
    """
    expected: dict[str, tuple[Tensor, Tensor]] = {}
    old, new = dict(_norms(vae)), dict(_norms(grown))

    def observe(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            source = repeated(output.shape[1], new[name].num_channels)
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


def _check_growth(old: Config, new: Config) -> None:
    comparable = old.family == new.family and len(old.decoder_channels) == len(new.decoder_channels)
    fits = (
        comparable
        and old == new.replaced(
            decoder_channels=old.decoder_channels, decoder_blocks=old.decoder_blocks, condition=old.condition
        )
        and all(a <= b for a, b in zip(_sizes(old), _sizes(new), strict=True))
        # a convolution that changes a level's width is not left without a place
        and all(a or not b for a, b in zip(_keeps_width(old), _keeps_width(new), strict=True))
        and _condition_fits(old.condition, new.condition)
    )  # fmt: skip
    if not fits:
        raise ValueError(f"Expected a shape that {old} can grow into, but got {new}. Only its decoder may be larger.")


def _condition_fits(old: ConditionConfig | None, new: ConditionConfig | None) -> bool:
    """Of one kind, it stays as it is; or it is wider, or has flags that it had not before."""
    if old is None or new is None or old.kind is not new.kind:
        return True
    if old.channels is None or new.channels is None:
        return old == new
    more = {name: getattr(new, name) or getattr(old, name) for name in AFFINE_FLAGS}
    return new == dataclasses.replace(old, channels=new.channels, **more) and new.channels >= old.channels


def _sizes(config: Config) -> tuple[int, ...]:
    return *config.decoder_channels, *config.decoder_block_counts


def _keeps_width(config: Config) -> list[bool]:
    """Whether features leave each level as wide as they entered it."""
    return [a == b for a, b in zip(config.entering_channels, config.decoder_channels, strict=True)]
