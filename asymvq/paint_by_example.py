"""Paint by Example (arXiv 2211.13227): what its UNet is shown in place of a prompt.

The example picture goes through CLIP's vision tower; the conditioning head makes the UNet's context of it, one token
long. Beside the noise the UNet gets the picture's latent with the edited part greyed out, and a mask of what is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoint import CheckpointError
from .checkpoint.compare import differences, shapes
from .checkpoint.reading import open_tensors
from .checkpoint.tensors import read_each

LATENT_CHANNELS, FACTOR, LATENT_SCALE = 4, 8, 0.18215
"""Stable Diffusion 1's latents, and what they are multiplied by for the UNet."""
UNET_CHANNELS = 9
EXAMPLE_SIZE = 224
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""The colour that is zero to CLIP."""


MOST_BLOCKS = 64
"""Of a head. The published one has 5."""


class HeadOps(Protocol):
    """A namespace of layers: `torch.nn` or a host's own (off-loading)."""

    Linear: Any
    LayerNorm: Any


class Attention(nn.Module):
    """Self-attention of one token: the softmax over it is 1, so that only the values count."""

    def __init__(self, width: int, ops: HeadOps):
        super().__init__()
        self.c_qkv = ops.Linear(width, 3 * width)
        self.c_proj = ops.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        _, _, value = self.c_qkv(x).chunk(3, dim=-1)
        return self.c_proj(value)


class MLP(nn.Module):
    def __init__(self, width: int, ops: HeadOps):
        super().__init__()
        self.c_fc = ops.Linear(width, 4 * width)
        self.c_proj = ops.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width: int, ops: HeadOps):
        super().__init__()
        self.ln_1 = ops.LayerNorm(width)
        self.attn = Attention(width, ops)
        self.ln_2 = ops.LayerNorm(width)
        self.mlp = MLP(width, ops)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Mapper(nn.Module):
    def __init__(self, width: int, blocks: int, ops: HeadOps):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, ops) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class ConditioningHead(nn.Module):
    """From CLIP's pooled output to the UNet's context. Attribute names are those of the LDM checkpoint.

    Args:
        width: of CLIP's vision tower, 1024 in the published model.
        blocks: transformer blocks of the mapper, 5.
        context: width of the UNet's context, 768.
        ops: where layers come from.
    """

    def __init__(self, width: int = 1024, blocks: int = 5, context: int = 768, *, ops: HeadOps = nn):
        super().__init__()
        self.width = width
        self.mapper = Mapper(width, blocks, ops)
        self.final_ln = ops.LayerNorm(width)
        self.proj_out = ops.Linear(width, context)
        self.learnable_vector = nn.Parameter(torch.zeros(1, 1, context))
        """(1, 1, context): what stands for "no example" in classifier-free guidance. It bypasses all layers."""

    def forward(self, pooled: Tensor) -> Tensor:
        """(B, width), `post_layernorm` of the tower's class token, to (B, 1, context)."""
        return self.proj_out(self.final_ln(self.mapper(pooled[:, None])))


_LDM_ROOTS = ("cond_stage_model.mapper.", "cond_stage_model.final_ln.", "proj_out.", "learnable_vector")
_DIFFUSERS_ROOTS = ("mapper.", "final_layer_norm.", "proj_out.", "uncond_vector")
_LDM_TO_DIFFUSERS = (
    ("mapper.resblocks.", "mapper.blocks."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm3."),
    (".attn.c_proj.", ".attn1.to_out.0."),
    (".mlp.c_fc.", ".ff.net.0.proj."),
    (".mlp.c_proj.", ".ff.net.2."),
    ("final_ln.", "final_layer_norm."),
    ("learnable_vector", "uncond_vector"),
)


def load_head(path: str | PathLike[str], *, ops: HeadOps = nn) -> ConditioningHead:
    """The head in a file: a whole LDM checkpoint, or diffusers' `image_encoder`. Pickles are read without running them.

    Raises:
        CheckpointError: the file is damaged, or there is no complete head in it.
        OSError: it cannot be opened.
    """
    try:
        with open_tensors(Path(path)) as file:
            roots = _head_roots(file.tensors)
            head = {name: tensor for name, tensor in file.tensors.items() if name.startswith(roots)}
            build_head(head, ops=ops)  # by the shapes alone, before anything is read for it
            return build_head(dict(read_each(head, [file])), ops=ops)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def build_head(tensors: Mapping[str, Tensor], *, ops: HeadOps = nn) -> ConditioningHead:
    """The head among a file's tensors, of either layout; its size is read from their shapes.

    Raises:
        CheckpointError: there is no head, or not all and only the tensors of one.
    """
    roots = _head_roots(tensors)
    diffusers = roots is _DIFFUSERS_ROOTS
    got = {name: tensor for name, tensor in tensors.items() if name.startswith(roots)}
    with torch.device("meta"):
        head = ConditioningHead(*_size_from_shapes(got), ops=ops)
    parts = {name: _names_in_file(name, diffusers) for name in head.state_dict()}
    expected = {
        part: (tensor.shape[0] // len(parts[name]), *tensor.shape[1:])
        for name, tensor in head.state_dict().items()
        for part in parts[name]
    }
    if found := differences(expected, shapes(got)):
        raise CheckpointError(
            f"Expected the {len(expected)} tensors of Paint by Example's conditioning head, but got a file with "
            f"tensors {found}. It is incomplete or of another architecture; download it again."
        )
    state = {
        name: got[names[0]] if len(names) == 1 else torch.cat([got[part] for part in names])
        for name, names in parts.items()
    }
    head.load_state_dict(state, strict=True, assign=True)
    return head.eval().requires_grad_(False)


def _head_roots(tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """What the head's tensors start with: of diffusers' layout or LDM's."""
    if any(name.startswith("mapper.blocks.") for name in tensors):
        return _DIFFUSERS_ROOTS
    if any(name.startswith("cond_stage_model.mapper.") for name in tensors):
        return _LDM_ROOTS
    raise CheckpointError(
        "Expected the conditioning head of Paint by Example (mapper, final norm, projection, unconditional vector), "
        f"but got {_what_else(tensors)}"
    )


def _names_in_file(name: str, diffusers: bool) -> list[str]:
    """Where the model's tensor is in a file; diffusers keeps query, key and value apart."""
    if not diffusers:
        return [name if name.startswith(_LDM_ROOTS) else f"cond_stage_model.{name}"]
    for old, new in _LDM_TO_DIFFUSERS:
        name = name.replace(old, new)
    return [name.replace(".attn.c_qkv.", f".attn1.to_{part}.") for part in "qkv"] if "c_qkv" in name else [name]


def _size_from_shapes(tensors: Mapping[str, Tensor]) -> tuple[int, int, int]:
    """Width, blocks and context, as `ConditioningHead` takes them."""
    projection = tensors.get("proj_out.weight")
    if projection is None or projection.ndim != 2:
        raise CheckpointError(
            "Expected Paint by Example's conditioning head with a matrix proj_out.weight, but it is missing or no "
            "matrix. The file is incomplete; download it again."
        )
    blocks = len({match[1] for name in tensors if (match := re.search(r"mapper\.\w*blocks\.(\d+)\.", name))})
    if blocks > MOST_BLOCKS:
        raise CheckpointError(
            f"Expected Paint by Example's conditioning head of 5 blocks (up to {MOST_BLOCKS} are read), but got "
            f"{blocks}. It is another model's; choose a Paint by Example file."
        )
    return projection.shape[1], blocks, projection.shape[0]


def _what_else(tensors: Mapping[str, Tensor]) -> str:
    """What a file without a head is, and what to do with it."""
    names = list(tensors)
    prefix = "model.diffusion_model." if any(name.startswith("model.diffusion_model.") for name in names) else ""
    first = tensors.get(f"{prefix}input_blocks.0.0.weight", tensors.get("conv_in.weight"))
    inpainting = first is not None and first.ndim == 4 and first.shape[1] == UNET_CHANNELS
    if prefix:
        kind = "text-inpainting" if inpainting else "text-to-image"
        return (
            f"a {kind} checkpoint: its UNet was trained on prompts, not on example pictures. Load it with Load "
            "Checkpoint, or choose a Paint by Example file."
        )
    if first is not None:
        kind = "of a text-inpainting model or of Paint by Example" if inpainting else "for prompts"
        return f"a UNet alone, {kind}. Load it with Load Diffusion Model; the head is in diffusers' image_encoder."
    if any("vision_model." in name or name.startswith("visual.") for name in names):
        return (
            "a CLIP vision tower alone. Load it with Load CLIP Vision; the head is in diffusers' image_encoder, or in "
            "the whole checkpoint."
        )
    return f"{len(names)} tensors, the first of them {names[:3]}. Choose a Paint by Example file."


class ExampleFit(str, Enum):
    """How an example picture that is no square becomes one."""

    STRETCH = "stretch"
    """As the model was trained and published."""
    CENTER_CROP = "center crop"
    PAD = "pad"
    """With the colour that is zero to CLIP."""


def fit_example(example: Tensor, fit: ExampleFit = ExampleFit.STRETCH) -> Tensor:
    """(B, 3, H, W) in [0, 1] to the (B, 3, 224, 224) in [0, 1] that CLIP's vision tower sees: Pillow's bicubic."""
    height, width = example.shape[-2:]
    if fit is ExampleFit.CENTER_CROP:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        example = example[..., top : top + side, left : left + side]
    elif fit is ExampleFit.PAD:
        side = max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        square = torch.tensor(CLIP_MEAN).to(example).view(1, 3, 1, 1).repeat(example.shape[0], 1, side, side)
        square[..., top : top + height, left : left + width] = example
        example = square
    # as Pillow does: columns first, and eight bits after each pass, which cuts off what overshoots at hard edges
    example = example.float()
    for size in ((example.shape[-2], EXAMPLE_SIZE), (EXAMPLE_SIZE, EXAMPLE_SIZE)):
        resized = F.interpolate(example, size, mode="bicubic", antialias=True)
        example = (resized * 255).round().clamp(0, 255) / 255
    return example


def kept(mask: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1], 1 = edited, as the original's mask: float, 1 = kept, nothing in between."""
    return (mask <= 0.5).float()


def concat_channels(latent: Tensor, keep: Tensor) -> Tensor:
    """What the UNet gets beside the noise.

    Args:
        latent: (B, 4, h, w), unscaled, of the picture whose edited part is mid-grey.
        keep: (B, 1, 8·h, 8·w) from `kept`.

    Returns:
        (B, 5, h, w): the scaled latent and the mask, in this order. The mask is resized as in the original: bilinear,
        and not rounded.
    """
    small = F.interpolate(keep.to(latent), latent.shape[-2:], mode="bilinear")
    return torch.cat([LATENT_SCALE * latent, small.expand(latent.shape[0], -1, -1, -1)], dim=1)
