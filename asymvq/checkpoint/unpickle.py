"""The tensors of a torch checkpoint, without running the pickle in it: torch's zip format, and the one before it.

Tensors' data lie outside the pickle, so that it can be small, and uncompressed, so that nothing grows when it is read.
"""

from __future__ import annotations

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Callable

from .errors import CheckpointError, shown
from .program import Foreign, Items, Program, StorageRecord, TensorRecord
from .source import Source
from .tensors import MOST_TENSORS, Extent, StoredTensor

ExtentOf = Callable[[StorageRecord], Extent]

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the format that torch wrote before 1.6 starts with."""
LARGEST_PICKLE = 2**26
"""Bytes, of the program alone. Real ones stay below a few megabytes."""
LARGEST_DIRECTORY = 2**23
"""Bytes of a zip archive's directory: it has one entry a storage."""

MOST_NESTING, MOST_ENTRIES, LONGEST_KEY = 6, 200_000, 500
"""Of dicts in dicts, which a pickle can share and so multiply; keys in characters."""


def most_opcodes(size: int) -> int:
    """Of the pickles in a file of so many bytes. A tensor takes about thirty, and most have some kilobytes of data."""
    return min(400_000 + size // 64, 4_000_000)


def read_pickle(source: Source) -> dict[str, StoredTensor]:
    """Where the tensors of the file's state dict lie (under "state_dict", or the whole file); others are left out.

    Raises:
        CheckpointError: the file is damaged, is no torch checkpoint, holds no state dict, or would run code.
    """
    try:
        zipped = source.read_at(0, min(2, source.size)) == b"PK"
        content, extent_of = _open_zip(source) if zipped else _open_legacy(source)
        records = _state_dict(content)
        extents = {storage: extent_of(storage) for storage in {record.storage for record in records.values()}}
        return {
            name: StoredTensor(extents[record.storage], record.dtype, record.size, record.stride, record.offset)
            for name, record in records.items()
        }
    except CheckpointError:
        raise
    except Exception as error:  # the bytes are anyone's, so they can fail in any way
        raise CheckpointError(
            f"Expected a torch checkpoint, but it cannot be read: {type(error).__name__}: {shown(error, 200)}. It is "
            "damaged or cut short; download or save it again."
        ) from error


def _state_dict(content: object) -> dict[str, TensorRecord]:
    """All tensors of nested dicts under dotted names ("ema.decoder.…"); the names of "state_dict" are left as they are.

    What nests deeper, and what stands in lists (states of optimisers), is no model.
    """
    records: dict[str, TensorRecord] = {}
    left = MOST_ENTRIES
    level: list[tuple[str, object]] = [("", content)]
    for _ in range(MOST_NESTING):
        inner: list[tuple[str, object]] = []
        for prefix, entries in level:
            if not isinstance(entries, Items):
                continue
            left -= len(entries)
            if left < 0:
                raise CheckpointError(
                    f"Expected a state dict, but got more than {MOST_ENTRIES} entries of nested dicts."
                )
            for key, value in entries:
                if not isinstance(key, (str, int)):
                    continue
                if isinstance(key, str) and len(key) > LONGEST_KEY:
                    raise CheckpointError(f"Expected names of up to {LONGEST_KEY} characters, but got {shown(key)}.")
                if isinstance(value, TensorRecord):
                    if (name := f"{prefix}{key}") in records:
                        raise CheckpointError(f"Expected names of one tensor each, but {shown(name)} names several.")
                    records[name] = value
                elif isinstance(value, Items):
                    inner.append((prefix if key == "state_dict" else f"{prefix}{shown(key)}.", value))
        level = inner
    if records:
        return records
    raise CheckpointError(
        f"Expected a state dict (names and tensors), but the file holds {_describe(content)}. Save the model's "
        "state_dict() instead."
    )


def _describe(content: object) -> str:
    if isinstance(content, Items):
        names = [
            shown(name, 40) if type(name) is str else type(name).__name__ for name, _ in itertools.islice(content, 5)
        ]
        return f"a dict with the keys {names}"
    if isinstance(content, Foreign):
        return f"an object of class {content.cls.module}.{content.cls.name}"
    return f"an object of class {type(content).__name__}"


def _open_zip(source: Source) -> tuple[object, ExtentOf]:
    """The pickle's content, and where its storages lie."""
    allowed, source.allowance = source.allowance, LARGEST_DIRECTORY
    archive = zipfile.ZipFile(source)
    source.allowance = allowed
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise ValueError("two entries of one name")
    pickles = [name for name in entries if name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))]
    if len(pickles) != 1:
        raise CheckpointError(
            "Expected a torch checkpoint, but this zip archive is none. Unpack it and load the weights inside."
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in entries:
        raise CheckpointError(
            "Expected a state dict, but got a TorchScript program. Use the checkpoint that it was made from."
        )

    def extent(name: str) -> Extent:
        entry = entries[name]
        # what is compressed can be a thousand times larger than the file
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise CheckpointError(
                f"Expected uncompressed data, as torch saves them, but {shown(name)} is compressed or encrypted. "
                "Unpack the archive and pack it again with zip -0, or save it again with torch.save."
            )
        # The data follow the entry's own header, whose last two parts have lengths of their own.
        name_length, extra_length = struct.unpack("<HH", source.read_at(entry.header_offset + 26, 4))
        return Extent(entry.header_offset + 30 + name_length + extra_length, entry.file_size)

    def small(name: str, most: int) -> bytes:
        place = extent(name)
        if place.nbytes > most:
            raise CheckpointError(
                f"Expected {shown(name)} to be small, but it has {place.nbytes} bytes. Save the file again with "
                "torch.save."
            )
        data = source.read_at(*place)
        if zlib.crc32(data) != entries[name].CRC:
            raise ValueError(f"the checksum of {name} is another")
        return data

    if f"{root}byteorder" in entries and small(f"{root}byteorder", 16) != b"little":
        raise CheckpointError("Expected little-endian tensors, but got big-endian ones. Save as safetensors instead.")
    data = small(pickles[0], LARGEST_PICKLE)
    content = Program(io.BytesIO(data), len(data), most_opcodes(source.size)).load()

    def extent_of(storage: StorageRecord) -> Extent:
        place = extent(f"{root}data/{storage.key}")
        _check_size(storage, place.nbytes)
        return place

    return content, extent_of


def _open_legacy(source: Source) -> tuple[object, ExtentOf]:
    source.seek(0)
    file = io.BufferedReader(source)
    try:
        program = Program(file, source.size, most_opcodes(source.size))
        if program.load() != LEGACY_MAGIC or program.load() != LEGACY_PROTOCOL:
            raise CheckpointError("Expected a torch checkpoint, but got another pickle. Save it with torch.save.")
        program.load()  # facts about the machine that wrote it
        content = program.load()
        keys, at = program.load(), file.tell()
    finally:
        file.detach()  # or it would close the source
    if not isinstance(keys, list) or len(keys) > MOST_TENSORS or not all(type(key) is str for key in keys):
        raise ValueError("an impossible list of storages")
    extents: dict[str, Extent] = {}
    for key in keys:
        storage = program.storages[key]
        (numel,) = struct.unpack("<q", source.read_at(at, 8))
        extents[key] = Extent(at + 8, storage.numel * storage.dtype.itemsize)
        _check_size(storage, numel * storage.dtype.itemsize)
        at = sum(extents[key])
    return content, lambda storage: extents[storage.key]


def _check_size(storage: StorageRecord, nbytes: int) -> None:
    if nbytes != storage.numel * storage.dtype.itemsize:
        raise ValueError(f"storage {shown(storage.key)} of {storage.numel} elements has {nbytes} bytes")
