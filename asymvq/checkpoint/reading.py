"""From a file or folder to a `Checkpoint`, and from that to a model."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..autoencoder import AsymmetricAutoencoder
from ..autoencoders import FAMILIES
from ..config import Config
from ..layers import Ops
from ..precision import too_large_for
from .errors import CheckpointError, shown
from .folders import Place, find, read_config
from .layouts import Hints, Layout, recognise
from .native import CONFIG_KEY
from .safetensors_header import read_safetensors
from .source import LARGEST_JSON, Source
from .tensors import TensorFile, read_each
from .unpickle import read_pickle

logger = logging.getLogger(__name__)

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_VALUES = tuple(name for family in FAMILIES for name in family.VALUES)


@dataclass(frozen=True)
class Checkpoint:
    """A file's content, ready for a model."""

    layout: Layout
    config: Config
    state_dict: dict[str, Tensor]
    """Under the model's names, on the CPU, in memory of their own: the file may change or go."""
    metadata: dict[str, str]
    """As in the safetensors header; empty for pickles."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds every tensor without loss: the file's own, unless it mixes several."""
        return functools.reduce(torch.promote_types, (tensor.dtype for tensor in self.state_dict.values()))


def load(
    path: str | PathLike[str],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    ops: Ops | None = None,
    base: str | PathLike[str] | None = None,
) -> AsymmetricAutoencoder:
    """The model of a file or a diffusers folder, in eval mode, without gradients.

    Args:
        base: for a file that holds a decoder without an encoder: the VAE that it was made for, or its encoder's file.
        dtype: None: the file's own. Weights that it cannot hold make it float32, with a warning.
        ops: see `AsymmetricAutoencoder`.

    Raises:
        CheckpointError: as `read`.
    """
    checkpoint = read(path) if base is None else read_with_base(path, base)
    dtype = _precision(checkpoint, dtype)
    for name, tensor in checkpoint.state_dict.items():  # one by one, so that they are never all there twice
        checkpoint.state_dict[name] = tensor.to(device, dtype)
    return build(checkpoint, dtype=dtype, device=device, ops=ops)


def build(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
    ops: Ops | None = None,
) -> AsymmetricAutoencoder:
    """As `load`. Tensors that need no conversion are the checkpoint's own, not copies: build once before training."""
    with torch.device("meta"):
        vae = AsymmetricAutoencoder(checkpoint.config, ops=ops)
    dtype = _precision(checkpoint, dtype)
    state = {name: tensor.to(device, dtype) for name, tensor in checkpoint.state_dict.items()}
    vae.load_state_dict(state, strict=True, assign=True)
    return vae.eval().requires_grad_(False)


def read_with_base(path: str | PathLike[str], base: str | PathLike[str]) -> Checkpoint:
    """A decoder without an encoder, with that of `base`: the VAE that it was made for, or its encoder's file.

    Raises:
        CheckpointError: as `read`, of either file; a decoder that has an encoder; or two that do not fit each other.
    """
    decoder, donor = read(path), read(base, encoder_alone=True)
    try:
        return with_encoder(decoder, donor)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(f"{path} with {base}: {error}") from error


def _precision(checkpoint: Checkpoint, dtype: torch.dtype | None) -> torch.dtype:
    """What is asked for, or the file's own; float32 where weights would become infinite."""
    dtype = dtype or checkpoint.dtype
    name = too_large_for(dtype, checkpoint.state_dict)
    if name is None:
        return dtype
    logger.warning("Weights of %s are too large for %s: the VAE is computed in float32.", name, dtype)
    return torch.float32


def with_encoder(decoder: Checkpoint, donor: Checkpoint) -> Checkpoint:
    """`decoder`, which holds no encoder, with that of `donor`: the VAE that it was made for, or its encoder alone.

    quant_conv belongs to the encoder and comes from the donor. post_quant_conv and the latent's statistics belong to
    the latent space: a decoder that was saved without them takes the donor's, if the donor has them.

    Raises:
        ValueError: nothing to take, nothing to add, or the two do not share a latent space.
    """
    if decoder.config.encoder_channels is not None:
        raise ValueError("Expected a decoder without an encoder, but it has one. Use it as it is.")
    if donor.config.encoder_channels is None:
        raise ValueError("Expected a VAE with an encoder to take it from, but it has none. Choose a complete VAE.")
    for field in ("family", "network_latent_channels", "network_factor", "image_channels", "norm_groups", "pooled"):
        expected, got = (getattr(checkpoint.config, field, None) for checkpoint in (decoder, donor))
        if expected != got:
            raise ValueError(
                f"Expected a VAE with {field.replace('_', ' ')} {expected}, as the decoder's, but got {got}. Choose "
                "the VAE that the decoder was made for (FLUX's for ASUKA, Stable Diffusion's for the paper's)."
            )
    _require_one_latent_space(decoder, donor)
    roots = ["encoder.", "quant_conv."]
    changed = ["encoder_channels", "encoder_blocks", "quant_conv"]
    if not decoder.config.post_quant_conv:
        roots.append("post_quant_conv.")
        changed.append("post_quant_conv")
    if not any(name.startswith("codec.") for name in decoder.state_dict):
        roots.append("codec.")
        changed += ["latent_channels", "latent_packing"]
    taken = {
        name: tensor.to(decoder.dtype) for name, tensor in donor.state_dict.items() if name.startswith(tuple(roots))
    }
    kept = {name: tensor for name, tensor in decoder.state_dict.items() if not name.startswith("quant_conv.")}
    fields = vars(decoder.config)  # what is the same for a whole family is no field
    changes = {name: getattr(donor.config, name) for name in changed if name in fields}
    config = decoder.config.replaced(**changes, latents=decoder.config.latents or donor.config.latents)
    return dataclasses.replace(decoder, config=config, state_dict={**taken, **kept})


def _require_one_latent_space(decoder: Checkpoint, donor: Checkpoint) -> None:
    ours, theirs = decoder.config.latents, donor.config.latents
    if (
        ours
        and theirs
        and (ours.scaling_factor, ours.shift_factor or 0)
        != (
            theirs.scaling_factor,
            theirs.shift_factor or 0,
        )
    ):
        raise ValueError(
            f"Expected a VAE of the decoder's latents (scaling factor {ours.scaling_factor:g}), but got one with "
            f"{theirs.scaling_factor:g}. Choose the VAE that the decoder was made for."
        )
    for name, tensor in decoder.state_dict.items():
        other = donor.state_dict.get(name, tensor)
        if name.startswith("codec.") and not torch.allclose(tensor.float(), other.float(), rtol=0.01, atol=0.01):
            raise ValueError(
                "Expected a VAE whose latents have the decoder's statistics, but got others: they are normalised "
                "otherwise. Choose the VAE that the decoder was made for."
            )


def read(path: str | PathLike[str], *, encoder_alone: bool = False) -> Checkpoint:
    """Recognises a file by its content, or a diffusers folder. Pickles are read without running anything.

    Args:
        encoder_alone: whether a file without a decoder will do, to take the encoder from (`with_encoder`).

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or no autoencoder; the message names it.
    """
    try:
        place = find(Path(path))
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open_tensors(file)) for file in place.files]
            metadata = files[0].metadata
            hints = Hints(_name(place.files[0]), read_config(place.config), metadata)
            layout, config, state = recognise(_together(place, files), hints, encoder_alone=encoder_alone)
            return Checkpoint(layout, config, _checked_values(read_each(state, files)), metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: Expected a readable file, but got: {error}. Check its permissions.") from error


def from_tensors(tensors: Mapping[str, Tensor], *, norm_groups: int | None = None, name: str = "") -> Checkpoint:
    """As `read`, of tensors that are in memory already, under the names of any layout.

    Args:
        norm_groups: of a network whose GroupNorms have another number of groups than 32; no shape tells it.
        name: of a file, for what only names tell: whose latents a tiny autoencoder is for.
    """
    config_json = {} if norm_groups is None else {"norm_num_groups": norm_groups}
    layout, config, state = recognise(tensors, Hints(name, config_json))
    return Checkpoint(layout, config, _checked_values(state.items()), {})


def _name(path: Path) -> str:
    """With the folders that it lies in: what is published as a folder has its name there."""
    path = path.absolute()
    return "/".join([*path.parts[-5:-1], path.stem])


def _together(place: Place, files: list[TensorFile]) -> dict[str, Tensor]:
    """The tensors of all shards."""
    tensors: dict[str, Tensor] = {}
    for path, file in zip(place.files, files, strict=True):
        if twice := next((name for name in file.tensors if name in tensors), None):
            raise CheckpointError(f"Expected each tensor in one shard, but {shown(twice)} is in several.")
        tensors |= file.tensors
        missing = (name for name, held in (place.index or {}).items() if held == path.name and name not in file.tensors)
        if name := next(missing, None):
            raise CheckpointError(f"Expected {shown(name)} in {path.name}, as the index says, but it is not there.")
    return tensors


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All of a file's tensors as they are named in it, and its metadata. Pickles are read without running anything.

    Each has memory of its own. Expanded ones (strides of 0) stay so: what they say they hold can be far more than the
    file does.

    Raises:
        CheckpointError: the file is damaged, unsafe, or no checkpoint.
        OSError: it cannot be opened.
    """
    with open_tensors(path) as file:
        return dict(read_each(file.tensors, [file], expanded=True)), file.metadata


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """As `read_tensors`, but without data: that is read by `read_each`, of the tensors that are taken.

    The config of our own files is an exception, and so are single numbers that a family's shape consists of:
    recognising needs them.
    """
    with Source(path) as source:
        head = source.read_at(0, min(512, source.size))
        if not head:
            raise CheckpointError("Expected a checkpoint, but the file is empty. Download it again.")
        if head[8:9] == b"{":
            file = TensorFile(source, *read_safetensors(source))
        elif head.startswith((b"PK\x03\x04", b"\x80")):
            file = TensorFile(source, read_pickle(source), {})
        else:
            raise CheckpointError(_what_instead(head))
        configs = {
            name: tensor
            for name, tensor in file.tensors.items()
            if (name.endswith(CONFIG_KEY) and tensor.nbytes <= LARGEST_JSON)
            or (tensor.numel() == 1 and name.endswith(_VALUES))
        }
        file.tensors.update(read_each(configs, [file]))
        yield file


_MAGICS = (
    (b"GGUF", "GGUF weights, which are quantised for other programs. Get the VAE as safetensors, unquantised"),
    (b"\x89PNG", "a picture (PNG). Choose the weights"),
    (b"\xff\xd8\xff", "a picture (JPEG). Choose the weights"),
    (b"\x89HDF", "a Keras or TensorFlow file. Get the weights for torch"),
    (b"\x1f\x8b", "an archive (gzip). Unpack it first"),
    (b"7z\xbc\xaf", "an archive (7z). Unpack it first"),
    (b"Rar!", "an archive (RAR). Unpack it first"),
)


def _what_instead(head: bytes) -> str:
    """What a file is that is no checkpoint, by its first bytes."""
    expected = "Expected a safetensors file or a torch checkpoint, but got"
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return f"{expected} {what}."
    if b"\0" in head:
        return f"{expected} neither. Download it again."
    start = shown(repr(head[:40].decode(errors="replace")), 60)
    if head.lstrip().startswith(b"{"):
        return f"{expected} JSON that starts with {start}: settings of a model. Choose the weights beside it."
    return (
        f"Expected a checkpoint, but got text that starts with {start}: a web page or a Git LFS pointer, saved in "
        "place of the weights. Download the file itself."
    )


def _checked_values(state: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    checked: dict[str, Tensor] = {}
    for name, tensor in state:
        if tensor.dtype == torch.float64:
            tensor = tensor.float()
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(
                f"Expected weights in float32, float16 or bfloat16, but {shown(name)} is {tensor.dtype}. Get an "
                "unquantised file."
            )
        # The sum needs no temporary; it can only overflow where the exact test is needed anyway.
        if not tensor.sum(dtype=torch.float32).isfinite() and not tensor.isfinite().all():
            raise CheckpointError(
                f"Expected finite weights, but {shown(name)} holds NaN or infinity. The file is damaged, or its "
                "training diverged; use another."
            )
        checked[name] = tensor
    return checked
