"""The one place where a network is run and its numbers are looked at: half precision that overflows is rescued here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from .values import is_finite

logger = logging.getLogger(__name__)

SMALL_VAE = 20_000_000
"""Parameters. Below, half precision saves nothing worth the colours that it costs."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""By the names that artists know."""

ResultT = TypeVar("ResultT", Tensor, tuple[Tensor, Tensor])


def suggested_dtype(weights: Mapping[str, Tensor], device: torch.device | str | None = None) -> torch.dtype | None:
    """What to compute in where nobody says, whatever the file has: float32 for a small VAE, and for any on a CPU, most
    of which emulate half precision; None: no suggestion."""
    small = sum(tensor.numel() for tensor in weights.values()) < SMALL_VAE
    emulated = device is not None and torch.device(device).type == "cpu"
    return torch.float32 if small or emulated else None


def why_slow(dtype: torch.dtype | None, device: torch.device | str) -> str | None:
    """What to say where somebody asked for a precision that the device emulates; None where it does not."""
    name = next((name for name in ("fp16", "bf16") if DTYPES[name] is dtype), None)
    if name is None or torch.device(device).type != "cpu":
        return None
    native = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)  # what torch's own compiler asks
    if native is None or native():
        return None
    return f"This CPU emulates {name}, which can take hundreds of times as long as fp32: choose fp32."


def run_finite(run: Callable[..., ResultT], network: nn.Module, doing: str, **tensors: Tensor | None) -> ResultT:
    """What `run` makes of `tensors`, without NaN and infinity.

    Half precision ends at 65 504, and what overflows there ends as a black picture. It is computed again in float32,
    with a warning: the layers take their input's precision where it is wider than their own. Where gradients are
    recorded, the result is the trainer's to judge and is left as it is.

    Args:
        run: takes the tensors by their names.
        network: whose weights `run` uses.
        doing: what the warning calls it: "encoding", "decoding".
        tensors: by the names that an error calls them.

    Returns:
        In the precision of the run that succeeded.

    Raises:
        ValueError: NaN or infinity in float32 too. Says whether they were in the tensors or in the weights.
    """
    result = run(**tensors)
    if _usable(result):
        return result
    computed = _parts(result)[0].dtype
    del result  # the second run takes twice the memory already
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if computed.itemsize < torch.float32.itemsize and all(map(is_finite, given.values())):
        logger.warning("NaN or infinity while %s in %s: %s again in float32.", doing, computed, doing)
        device = next(iter(given.values())).device.type
        with torch.autocast(device, enabled=False):
            result = run(**{name: None if t is None else t.float() for name, t in tensors.items()})
        if _usable(result):
            return result
    raise ValueError(_diagnosis(network, given))


def too_large_for(dtype: torch.dtype, state: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor whose values `dtype` cannot hold, so that infinity would become of them."""
    limit = torch.finfo(dtype).max
    for name, tensor in state.items():
        if tensor.numel() and torch.finfo(tensor.dtype).max > limit and max(-tensor.min(), tensor.max()) > limit:
            return name
    return None


def _parts(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _usable(result: Tensor | tuple[Tensor, ...]) -> bool:
    """Whether it is finite, has no values, or is a trainer's."""
    return all(part.requires_grad or part.is_meta or is_finite(part) for part in _parts(result))


def _diagnosis(network: nn.Module, given: dict[str, Tensor]) -> str:
    for name, tensor in given.items():
        if not is_finite(tensor):
            return f"Expected a finite {name}, but it holds NaN or infinity: the step before it went wrong."
    for name, weight in network.named_parameters():
        if not is_finite(weight):
            return (
                f"Expected finite weights, but {name} holds NaN or infinity. The file is damaged, or the training that "
                "made it diverged: use another file."
            )
    names = " and ".join(given)
    return (
        f"The VAE gave NaN or infinity in float32 too, of a finite {names} and with finite weights. Check that the "
        f"{next(iter(given))} is one that this VAE was made for."
    )
