"""A file that somebody else wrote: what it can make us read is bounded by what it holds.

Files are read, never mapped: whoever truncates or overwrites a mapped file kills the process that uses it.
"""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import CheckpointError

LARGEST_JSON = 2**20
"""Bytes. Real ones are a few kilobytes."""
_SPARSE = 2**26
"""Bytes. Only above it are holes worth looking for."""


class Source(io.RawIOBase):
    """A regular file, opened for reading.

    Nothing is read behind its end, no more than `allowance` bytes in all, and a file that gets shorter meanwhile is an
    error. `allowance` starts as twice the file's size; set it before a step that may take less.

    Raises:
        CheckpointError: no regular file, or almost all of it are holes; on reading: see above.
        OSError: it cannot be opened or read.
    """

    def __init__(self, path: Path):
        super().__init__()
        if not stat.S_ISREG(path.stat().st_mode):  # before opening: a pipe would wait for its other end
            raise CheckpointError("Expected a file, but got a device, a pipe or a folder. Choose a checkpoint.")
        self._file = path.open("rb", buffering=0)
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.allowance = 2 * self.size + 2**17
            self._refuse_holes()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()
        super().close()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        self._spend(min(len(view), max(self.size - self.tell(), 0)))
        return self._file.readinto(view) or 0

    def read(self, size: int = -1, /) -> bytes:
        at = self.tell()
        left = max(self.size - at, 0)
        return self.read_at(at, left if size < 0 else min(size, left))

    def read_at(self, start: int, nbytes: int) -> bytes:
        """Exactly these bytes."""
        return self.tensor_at(start, nbytes).numpy().tobytes()

    def tensor_at(self, start: int, nbytes: int) -> Tensor:
        """Exactly these bytes as (nbytes,) uint8, in memory of its own."""
        if start < 0 or nbytes < 0 or start + nbytes > self.size:
            raise CheckpointError(
                f"Expected a whole file, but it says that it has {start + nbytes} bytes or more, and has {self.size}. "
                "It is damaged or cut short; download it again."
            )
        self._spend(nbytes)
        try:
            tensor = torch.empty(nbytes, dtype=torch.uint8)
        except RuntimeError as error:
            raise CheckpointError(
                f"Expected a file that fits into memory, but there is no room for {nbytes} bytes. Close other programs."
            ) from error
        self._file.seek(start)
        data: Any = tensor.numpy()
        view, done = memoryview(data), 0
        while done < nbytes:
            count = self._file.readinto(view[done:])
            if not count:
                raise CheckpointError("Expected a whole file, but it got shorter while it was read. Load it again.")
            done += count
        return tensor

    def _spend(self, nbytes: int) -> None:
        self.allowance -= nbytes
        if self.allowance < 0:
            raise CheckpointError(
                "Expected a file that is read once, but reading this one would take many times its size. It is "
                "damaged, or made to be slow; use another."
            )

    def _refuse_holes(self) -> None:
        """A terabyte that takes no room on the disk is not what anybody saved."""
        if self.size < _SPARSE or not hasattr(os, "SEEK_DATA"):
            return
        at = held = 0
        try:
            while at < self.size:
                start = os.lseek(self._file.fileno(), at, os.SEEK_DATA)
                at = os.lseek(self._file.fileno(), start, os.SEEK_HOLE)
                held += at - start
        except OSError:  # ENXIO: a hole up to the end; EINVAL: a file system that does not tell
            held = held if at else self.size
        self._file.seek(0)
        if held < self.size // 16:
            raise CheckpointError(
                f"Expected a whole file, but of its {self.size} bytes only {held} were ever written: a download that "
                "has not finished? Download it again."
            )


def parse_json(data: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: anything else.
    """
    try:
        content = json.loads(data)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"JSON, but not an object: {type(content).__name__}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A small file that holds a JSON object.

    Raises:
        ValueError: it holds anything else, or more than a megabyte; CheckpointError is one.
        OSError: it cannot be read.
    """
    with Source(path) as source:
        if source.size > LARGEST_JSON:
            raise ValueError(f"{source.size} bytes, where {LARGEST_JSON} are plenty")
        return parse_json(source.read_at(0, source.size))
