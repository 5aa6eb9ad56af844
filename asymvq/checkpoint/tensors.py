"""A file's tensors: names and shapes at once, data when asked for.

Recognising a file needs shapes alone, so that is all it gets: tensors on torch's meta device. Renamed, reshaped, sliced
or left out, each of them still knows where in the file its data lies, and what remains is read in the end, each tensor
into memory of its own. So nothing is read for tensors that nobody takes, nothing is shared, and nothing stays mapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import CheckpointError, shown
from .source import Source

MOST_TENSORS = 2**16
"""In one file. The largest models have a few thousand."""
_MOST_SHARING = 4
"""How often one byte of a file may be read: tied weights are saved once and read twice."""


class Extent(NamedTuple):
    """Bytes of a file."""

    start: int
    nbytes: int


class StoredTensor(NamedTuple):
    """Where a tensor's data lies; offset and strides count elements of the extent, as in torch's storages."""

    extent: Extent
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0


class TensorFile:
    """The tensors of an open file.

    Raises:
        CheckpointError: tensors that the file cannot hold.
    """

    def __init__(self, source: Source, stored: Mapping[str, StoredTensor], metadata: Mapping[str, str]):
        if len(stored) > MOST_TENSORS:
            raise CheckpointError(f"Expected a model, but got a file with {len(stored)} tensors. Use another.")
        check_extents({tensor.extent for tensor in stored.values()}, source.size)
        self.metadata = dict(metadata)
        self._source = source
        self._extents: dict[int, Extent] = {}
        self._storages: dict[Extent, torch.UntypedStorage] = {}
        self.tensors = {name: self._without_data(name, tensor) for name, tensor in stored.items()}
        """By the names of the file, on the meta device."""

    def _without_data(self, name: str, stored: StoredTensor) -> Tensor:
        numel = math.prod(stored.size)
        reach = stored.offset + _span(stored.size, stored.stride)
        if math.prod(max(n, 1) for n in stored.size) >= 2**60 or (
            numel and reach * stored.dtype.itemsize > stored.extent.nbytes
        ):
            raise CheckpointError(
                f"Expected tensors within the file, but {shown(name)} cannot be read: it reaches behind its data. The "
                "file is damaged or cut short; download it again."
            )
        if stored.extent not in self._storages:
            storage = torch.UntypedStorage(stored.extent.nbytes, device="meta")
            self._storages[stored.extent] = storage
            self._extents[storage._cdata] = stored.extent
        empty = torch.empty(0, dtype=stored.dtype, device="meta")
        if not numel:
            return empty.new_empty(stored.size)
        source: Any = self._storages[stored.extent]
        return empty.set_(source, stored.offset, stored.size, stored.stride)

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.is_meta and tensor.untyped_storage()._cdata in self._extents

    def read(self, tensor: Tensor) -> Tensor:
        """The data of one of `tensors`, or of a view of one, on the CPU: only what it covers, with its strides."""
        extent = self._extents[tensor.untyped_storage()._cdata]
        span = _span(tensor.shape, tensor.stride())
        size = tensor.dtype.itemsize
        data = self._source.tensor_at(extent.start + int(tensor.storage_offset()) * size, span * size)
        return torch.empty(0, dtype=tensor.dtype).set_(data.untyped_storage(), 0, tensor.shape, tensor.stride())

    def allow(self, tensors: Sequence[Tensor], *, expanded: bool) -> None:
        """Raises CheckpointError where `tensors`, or views of them, are many times what the file holds of them."""
        extents = {self._extents[tensor.untyped_storage()._cdata] for tensor in tensors}
        held = sum(extent.nbytes for extent in extents)
        spans = sum(_span(tensor.shape, tensor.stride()) * tensor.dtype.itemsize for tensor in tensors)
        needed = spans if expanded else max(spans, sum(tensor.nbytes for tensor in tensors))
        if needed > _MOST_SHARING * held:
            raise CheckpointError(
                f"Expected tensors that the file holds, but they would take {needed} bytes, made of {held} bytes that "
                "many of them share. Save the file again, with tensor.contiguous().clone() of each."
            )
        self._source.allowance += spans


def read_each(
    tensors: Mapping[str, Tensor], files: Sequence[TensorFile], *, expanded: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """`tensors` with their data, one after another; those that are views of none of the files' as they are.

    Args:
        expanded: leave it to the caller to bound tensors whose elements share memory; else they are a copy without.

    Raises:
        CheckpointError: they would need many times what the files hold of them.
        OSError: a file cannot be read.
    """
    for file in files:
        file.allow([t for t in tensors.values() if t in file and t.numel()], expanded=expanded)
    for name, tensor in tensors.items():
        file = next((file for file in files if tensor in file), None)
        if tensor.is_meta and not tensor.numel():
            tensor = torch.empty(tensor.shape, dtype=tensor.dtype)
        elif file is not None:
            tensor = file.read(tensor)
            if not expanded and tensor.untyped_storage().nbytes() != tensor.nbytes:
                tensor = tensor.clone(memory_format=torch.contiguous_format)
        assert not tensor.is_meta, f"{name} is no view of a file's tensor"
        yield name, tensor


def check_extents(extents: set[Extent], size: int) -> None:
    """Raises CheckpointError where they overlap or leave the file: together they are no more than its size."""
    end = 0
    for start, nbytes in sorted(extent for extent in extents if extent.nbytes):
        if start < end:
            raise CheckpointError(
                "Expected tensors beside each other, but two lie on the same bytes of the file. It is damaged; "
                "download it again."
            )
        end = start + nbytes
    if end > size:
        raise CheckpointError(
            f"Expected a whole file, but it cannot be read: its tensors end at byte {end}, and it has {size}. It is "
            "damaged or cut short; download it again."
        )


def _span(size: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from a tensor's first to its last."""
    return sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if math.prod(size) else 0
