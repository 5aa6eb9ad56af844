"""A start for small decoders trained from scratch: the copy of the kept pixels is there from the first step.

The finest condition map is a linear function of the picture, and GroupNorm, SiLU and `conv_out` follow it. A colour x
is carried by four channels of one group,

    (b + x, -b + x, b - x, -b - x)

whose mean is 0 and whose variance b² + E[x²] hardly depends on x when b is large. Because silu(t) - silu(-t) = t,
`conv_out` reads x back with the weights ½·(+, +, -, -)·b. Generated pixels are carried in the same code, written by
the finest level's residual blocks. Kept and generated pixels share GroupNorm's statistics, so that the copy stays exact
only while generated ones stay in the code: `hold_to_code` after every step sees to it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..autoencoder import AsymmetricAutoencoder
from ..conditions import Affine
from ..layers import ResidualBlock

OFFSET_SIGNS = (1.0, -1.0, 1.0, -1.0)
COLOUR_SIGNS = (1.0, 1.0, -1.0, -1.0)


@torch.no_grad()
def start_with_copying(vae: AsymmetricAutoencoder, *, offset: float = 10.0) -> None:
    """Writes the code into the decoder's finest level, and into the condition encoder where there is one.

    Args:
        vae: changed in place. Its finest level needs 4 channels a group and one group a colour.
        offset: b. The larger, the better the copy at the start and the more exact the weights have to be.

    Raises:
        ValueError: the decoder has no room for the code.
    """
    norm = _group_norm(vae)
    if norm.num_channels // norm.num_groups != 4 or norm.num_groups < vae.config.image_channels:
        raise ValueError(
            f"Expected 4 channels a group at the finest level, but got {norm.num_channels} channels in "
            f"{norm.num_groups} groups."
        )
    with vae.decoder.conv_out.weight.device:
        _write_code(vae, offset)


def _group_norm(vae: AsymmetricAutoencoder) -> nn.GroupNorm:
    """The decoder's last.

    Raises:
        ValueError: another family's.
    """
    if not isinstance(vae.decoder.norm_out, nn.GroupNorm):
        raise ValueError(
            f"Expected a decoder with GroupNorm, whose statistics copying is made for, but got one of the "
            f"{vae.config.family} family. Train without copying."
        )
    if isinstance(vae.decoder.condition_encoder, Affine):
        raise ValueError(
            "Expected a condition that blends kept pixels in to copy them, but got an affine one. Train without "
            "copying, or with condition blend."
        )
    return vae.decoder.norm_out


def _write_code(vae: AsymmetricAutoencoder, offset: float) -> None:
    config, decoder = vae.config, vae.decoder
    count = 4 * config.image_channels
    offsets = offset * torch.tensor(OFFSET_SIGNS).repeat(config.image_channels)
    _write_generated_code(_finest_blocks(vae), count, offsets)

    decoder.conv_out.weight.zero_()
    assert decoder.conv_out.bias is not None
    decoder.conv_out.bias.zero_()
    assert isinstance(decoder.norm_out, nn.GroupNorm)
    decoder.norm_out.weight.fill_(1.0)
    decoder.norm_out.bias.zero_()
    # E[x²] of natural pictures in [-1, 1] is about a quarter
    readout = 0.5 * torch.tensor(COLOUR_SIGNS) * (offset**2 + 0.25) ** 0.5
    for colour in range(config.image_channels):
        decoder.conv_out.weight[colour, 4 * colour : 4 * colour + 4, 1, 1] = readout

    if decoder.condition_encoder is not None:
        first, second = list(decoder.condition_encoder.layers)[:2]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        _write_kept_code(first, second, config.image_channels, offsets)


def copied_modules(vae: AsymmetricAutoencoder) -> list[nn.Module]:
    """What writes and reads the code of kept pixels: frozen while the rest is trained."""
    assert vae.decoder.norm_out is not None
    modules: list[nn.Module] = [vae.decoder.norm_out, vae.decoder.conv_out]
    if vae.decoder.condition_encoder is not None:
        modules.append(vae.decoder.condition_encoder.layers[0])
    return modules


@torch.no_grad()
def check_copying(vae: AsymmetricAutoencoder, *, tolerance: float = 1e-4) -> None:
    """
    Raises:
        ValueError: kept pixels do not pass the decoder unchanged, so that there is no code to hold it to.
    """
    _group_norm(vae)
    generator = torch.Generator().manual_seed(0)
    side = 4 * vae.config.factor
    image = torch.rand(1, vae.config.image_channels, side, side, generator=generator) * 2 - 1
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 2] = 1
    latent = torch.randn(1, vae.config.latent_channels, 4, 4, generator=generator)
    output = vae.decode(latent, image=image, mask=mask)
    error = ((output - image) * (1 - mask)).square().mean().item()
    if not error < tolerance:
        raise ValueError(
            f"Expected a decoder that copies kept pixels (squared error below {tolerance}), but this one's error is "
            f"{error:.2g}. Train without copying, or start from scratch with it."
        )


@torch.no_grad()
def hold_to_code(vae: AsymmetricAutoencoder, *, offset: float = 10.0) -> None:
    """Projects what the finest level writes onto the code, in place: training may choose x, and nothing else."""
    with vae.decoder.conv_out.weight.device:  # whose all new tensors are
        _project_on_code(vae, offset)


def _project_on_code(vae: AsymmetricAutoencoder, offset: float) -> None:
    count = 4 * vae.config.image_channels
    offsets = offset * torch.tensor(OFFSET_SIGNS).repeat(vae.config.image_channels)
    blocks = _finest_blocks(vae)
    writers = [block.conv2 for block in blocks]
    if blocks[0].nin_shortcut is not None:
        writers.append(blocks[0].nin_shortcut)
    for conv in writers:
        assert conv.bias is not None
        base = offsets if conv is blocks[0].nin_shortcut else torch.zeros(count)
        _write_rows(conv, count, _projected(conv.weight[:count]), base + _projected(conv.bias[:count]))


def _projected(rows: Tensor) -> Tensor:
    """(4·colours, …) onto the colour signs."""
    signs = torch.tensor(COLOUR_SIGNS).view(1, 4, *[1] * (rows.ndim - 1))
    by_colour = rows.unflatten(0, (-1, 4))
    return ((by_colour * signs).mean(dim=1, keepdim=True) * signs).flatten(0, 1)


def _finest_blocks(vae: AsymmetricAutoencoder) -> list[ResidualBlock]:
    return [module for module in vae.decoder.up[0].modules() if isinstance(module, ResidualBlock)]


def _colour_rows(tensor: Tensor, colours: int) -> Tensor:
    """One row a colour, repeated with the code's signs: (colours, …) to (4·colours, …)."""
    signs = torch.tensor(COLOUR_SIGNS).repeat(colours)
    return tensor.repeat_interleave(4, dim=0) * signs.view(-1, *[1] * (tensor.ndim - 1))


def _write_generated_code(blocks: list[ResidualBlock], count: int, offsets: Tensor) -> None:
    shortcut, last = blocks[0].nin_shortcut, blocks[-1].conv2
    if shortcut is None:
        raise ValueError("Expected a finest level that is narrower than the one before it.")
    _write_rows(shortcut, count, torch.zeros(count, *shortcut.weight.shape[1:]), offsets)
    for block in blocks:
        rows = torch.zeros(count, *block.conv2.weight.shape[1:])
        _write_rows(block.conv2, count, rows, torch.zeros(count))
    colours = count // 4
    rows = torch.randn(colours, *last.weight.shape[1:]) / (last.weight[0].numel() ** 0.5)
    _write_rows(last, count, _colour_rows(0.1 * rows, colours), torch.zeros(count))


def _write_kept_code(first: nn.Conv2d, second: nn.Conv2d, colours: int, offsets: Tensor) -> None:
    count = 4 * colours
    rows = torch.zeros(count, *first.weight.shape[1:])
    rows[:, :colours, 1, 1] = _colour_rows(torch.eye(colours), colours)
    _write_rows(first, count, rows, offsets)
    # the second layer reads the map after a ReLU: take out the constant that the offsets would add
    constant = torch.relu(offsets).view(1, -1, 1, 1)
    assert second.bias is not None
    second.bias -= (second.weight[:, :count] * constant).sum(dim=(1, 2, 3))


def _write_rows(conv: nn.Conv2d, count: int, weight: Tensor, bias: Tensor) -> None:
    """The first `count` output channels of a convolution."""
    assert conv.bias is not None
    conv.weight[:count] = weight
    conv.bias[:count] = bias
