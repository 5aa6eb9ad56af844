"""The header of a safetensors file.

The format's own library maps the file and leaves it mapped; this reads the header alone, and as strictly.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from .errors import CheckpointError, shown
from .source import Source, parse_json
from .tensors import MOST_TENSORS, Extent, StoredTensor

LARGEST_HEADER = 2**23
"""Bytes. Of most models less than one megabyte; notes on their training may be some more."""
METADATA = "__metadata__"

_DTYPES: dict[str, torch.dtype] = {
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
    "C64": torch.complex64,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "I8": torch.int8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "U8": torch.uint8,
}


def read_safetensors(source: Source) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Where a safetensors file's tensors lie, and its metadata.

    Raises:
        CheckpointError: it is damaged, cut short, or holds types that torch lacks.
    """
    try:
        return _parse(source)
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"Expected a safetensors file, but it cannot be read: {shown(error, 200)}. It is damaged or cut short; "
            "download it again."
        ) from error


def _parse(source: Source) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    if source.size < 8:
        raise ValueError("it has no header")
    length = int.from_bytes(source.read_at(0, 8), "little")
    if length > min(source.size - 8, LARGEST_HEADER):
        raise ValueError(f"a header of {length} bytes, in a file of {source.size}")
    text = source.read_at(8, length)
    if text.count(b"{") + text.count(b"[") > 4 * MOST_TENSORS:
        raise ValueError(f"more than {MOST_TENSORS} tensors")
    header = parse_json(text)
    metadata = header.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or any(type(value) is not str for value in metadata.values()):
        raise ValueError("metadata that is no text")
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for start, nbytes in sorted(tensor.extent for tensor in tensors.values()):
        if start != end:
            raise ValueError("tensors that overlap, or bytes between them")
        end = start + nbytes
    if end != source.size:
        raise ValueError(f"tensors up to byte {end}, in a file of {source.size}")
    return tensors, metadata


def _tensor(name: str, entry: dict[str, Any], data: int) -> StoredTensor:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if type(shape) is not list or not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, end)):
        raise ValueError(f"an impossible shape or place of {shown(name)}")
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(
            f"Expected weights in float32, float16 or bfloat16, but {shown(name)} is {shown(entry['dtype'])}. Get an "
            "unquantised file."
        )
    if len(shape) > 64 or math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"{end - start} bytes for the shape of {shown(name)}")
    stride, step = [], 1
    for n in reversed(shape):
        stride.append(step)
        step *= max(n, 1)
    return StoredTensor(Extent(data + start, end - start), dtype, tuple(shape), tuple(reversed(stride)))
