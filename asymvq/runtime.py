"""What a decode asks of the program around it (a script, a ComfyUI): devices, memory, progress."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .network import Network

Progress = Callable[[float, int], None]
"""Called with (done, total): how much of the work is done. `total` is the number of runs of the network, which are
tiles or pictures; `done` is a whole number after each, a fraction between two steps within one. Where pictures are
harmonised it is called after each of those too, and `done` is the share of all this work in `total`. Where memory runs
out it begins again, with another total. What it raises ends the decode."""


OUT_OF_MEMORY = ("out of memory", "allocate memory", "could not create a primitive")
"""In messages. The last is oneDNN's on the CPU, which has no other words for it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, on any device, had no memory left. On some it raises a RuntimeError without a class of its own."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in OUT_OF_MEMORY)


def free_caches() -> None:
    """Gives back what torch's allocators hold without using it."""
    gc.collect()
    for backend in (torch.cuda, torch.mps, torch.xpu):
        if backend.is_available():
            backend.empty_cache()


def available_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device, this machine's memory for the CPU; None where nothing tells."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        import psutil  # every ComfyUI has it; a bare installation of the library need not
    except ImportError:
        return None
    return psutil.virtual_memory().available


def _any_number(needed: int) -> int | None:
    return None


@dataclass(frozen=True)
class Runtime:
    """The defaults suit a script; a host brings its own."""

    device: torch.device | None = None
    """That the network computes on; None: its own."""
    dtype: torch.dtype | None = None
    """That it computes in; None: its own."""
    output_device: torch.device | None = None
    """Of the result; None: the latent's."""
    room_for: Callable[[int], int | None] = _any_number
    """Makes room for a run that takes so many bytes beside the weights, and says how many such runs fit at once; None:
    no telling."""
    is_out_of_memory: Callable[[BaseException], bool] = is_out_of_memory
    free: Callable[[], None] = free_caches
    """Called before the next try, after memory ran out."""
    progress: Progress | None = None

    def place(self, network: Network) -> tuple[torch.device, torch.dtype]:
        """What the network computes on, and in."""
        device, dtype = network.place()
        return self.device or device, self.dtype or dtype
