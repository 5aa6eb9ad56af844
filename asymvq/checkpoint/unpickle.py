"""The tensors of a torch pickle, without running what else it holds.

A pickle is a program: it names functions and calls them. Here every name it gives leads to something inert, looked up
in a table and never imported: the functions that rebuild tensors make records of them, value classes and the classes
of other projects (Lightning callbacks, omegaconf, argparse) become empty placeholders, anything else is refused by
name. Tensors are made from the records afterwards, out of the mapped file.
"""

from __future__ import annotations

import _compat_pickle  # the names that protocols below 3, which torch uses, write for Python 2
import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn, cast

import torch
from torch import Tensor

from .errors import CheckpointError, shown

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""What the format that torch wrote before 1.6 starts with."""
MAX_PICKLE_BYTES = 2**28
"""Of the program alone, without the tensors' data: real ones stay below a few megabytes."""
MAX_NESTING, MAX_ENTRIES, MAX_KEY = 6, 200_000, 500
"""Of dicts in dicts, which a pickle can share and so multiply; keys in characters."""

_STORAGE_DTYPES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
_UNTYPED_DTYPES = {
    name: dtype for name in dir(torch) if isinstance(dtype := getattr(torch, name), torch.dtype) and dtype.itemsize
}
"""Of tensors whose storage has no type of its own: fp8 and other late ones."""

_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_INERT = {
    "_codecs": "encode",
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter deque",
    "datetime": "date datetime time timedelta timezone",
    "decimal": "Decimal",
    "numpy": "dtype ndarray",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy.core.multiarray": "_reconstruct scalar",
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "torch": "Size device",
    "torch.serialization": "_get_layout",
    "types": "SimpleNamespace",
    "typing": "Any Optional Union",
    "uuid": "UUID",
}
"""Makers of plain values that training checkpoints carry beside their weights; placeholders here, like all others."""


class StorageRecord(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int


class TensorRecord(NamedTuple):
    # A tuple, so that the pickle cannot alter it afterwards.
    storage: StorageRecord
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype


ReadStorage = Callable[[StorageRecord], torch.UntypedStorage]


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The file's state dict (under "state_dict", or the whole file), CPU tensors; what is no tensor is left out.

    Raises:
        CheckpointError: the file is damaged, is no torch checkpoint, holds no state dict, or would run code.
    """
    with path.open("rb") as file:
        try:
            content, read_storage = _open_zip(file, path) if zipfile.is_zipfile(file) else _open_legacy(file)
            tensors = _state_dict(content)
            return {name: _make_tensor(record, read_storage(record.storage)) for name, record in tensors.items()}
        except CheckpointError:
            raise
        except Exception as error:  # the bytes are anyone's, so they can fail in any way
            raise CheckpointError(
                f"Expected a torch checkpoint, but it cannot be read: {type(error).__name__}: {error}. It is damaged "
                "or cut short; download or save it again."
            ) from error


def _state_dict(content: object) -> dict[str, TensorRecord]:
    """All tensors of nested dicts under dotted names ("ema.decoder.…"); the names of "state_dict" are left as they are.

    What nests deeper, and what stands in lists (states of optimisers), is no model.
    """
    records: dict[str, TensorRecord] = {}
    left = MAX_ENTRIES
    level: list[tuple[str, object]] = [("", content)]
    for _ in range(MAX_NESTING):
        inner: list[tuple[str, object]] = []
        for prefix, entries in level:
            if not isinstance(entries, dict):
                continue
            left -= len(entries)
            if left < 0:
                raise CheckpointError(
                    f"Expected a state dict, but got more than {MAX_ENTRIES} entries of nested dicts."
                )
            for key, value in entries.items():
                if not isinstance(key, (str, int)):
                    continue
                if isinstance(key, str) and len(key) > MAX_KEY:
                    raise CheckpointError(f"Expected names of up to {MAX_KEY} characters, but got {shown(key)}.")
                if isinstance(value, TensorRecord):
                    if (name := f"{prefix}{key}") in records:
                        raise CheckpointError(f"Expected names of one tensor each, but {shown(name)} names several.")
                    records[name] = value
                elif isinstance(value, dict):
                    inner.append((prefix if key == "state_dict" else f"{prefix}{shown(key)}.", value))
        level = inner
    if records:
        return records
    raise CheckpointError(
        f"Expected a state dict (names and tensors), but the file holds {_describe(content)}. Save the model's "
        "state_dict() instead."
    )


def _describe(content: object) -> str:
    if isinstance(content, dict):
        return f"a dict with the keys {[str(key) for key in list(content)[:5]]}"
    return f"an object of class {type(content).__module__}.{type(content).__name__}"


def _open_zip(file: IO[bytes], path: Path) -> tuple[object, ReadStorage]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))]
    if len(pickles) != 1:
        raise CheckpointError(
            "Expected a torch checkpoint, but this zip archive is none. Unpack it and load the weights inside."
        )
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in names:
        raise CheckpointError(
            "Expected a state dict, but got a TorchScript program. Use the checkpoint that it was made from."
        )
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise CheckpointError("Expected little-endian tensors, but got big-endian ones. Save as safetensors instead.")
    program = archive.getinfo(pickles[0])
    if program.compress_type != zipfile.ZIP_STORED or program.file_size > MAX_PICKLE_BYTES:
        raise CheckpointError("Expected a small, uncompressed pickle, but got another. Save it again with torch.save.")
    content = _RestrictedUnpickler(io.BytesIO(archive.read(program))).load()
    # Private: writing to a tensor never reaches the file, and pages that nobody touches are never read.
    mapped: Any = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)

    def read_storage(storage: StorageRecord) -> torch.UntypedStorage:
        record = archive.getinfo(f"{root}data/{storage.key}")
        nbytes = storage.numel * storage.dtype.itemsize
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != nbytes:
            raise ValueError(f"storage {storage.key} has {record.file_size} bytes instead of {nbytes}")
        # The data follows the entry's own header, whose last two parts have lengths of their own.
        file.seek(record.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        start = record.header_offset + 30 + name_length + extra_length
        if start + nbytes > len(mapped):
            raise ValueError(f"storage {storage.key} ends behind the end of the file")
        return mapped[start : start + nbytes]

    return content, read_storage


def _open_legacy(file: IO[bytes]) -> tuple[object, ReadStorage]:
    file.seek(0)
    if _RestrictedUnpickler(file).load() != LEGACY_MAGIC or _RestrictedUnpickler(file).load() != LEGACY_PROTOCOL:
        raise CheckpointError("Expected a torch checkpoint, but got another pickle. Save it with torch.save.")
    _RestrictedUnpickler(file).load()  # facts about the machine that wrote it
    unpickler = _RestrictedUnpickler(file)
    content = unpickler.load()
    starts: dict[str, int] = {}
    for key in _RestrictedUnpickler(file).load():
        storage = unpickler.storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel:
            raise ValueError(f"storage {key} has {numel} elements instead of {storage.numel}")
        starts[key] = file.tell()
        file.seek(numel * storage.dtype.itemsize, io.SEEK_CUR)

    def read_storage(storage: StorageRecord) -> torch.UntypedStorage:
        # Copied, not mapped: this format does not align its data.
        file.seek(starts[storage.key])
        data = bytearray(file.read(storage.numel * storage.dtype.itemsize))
        return torch.frombuffer(data, dtype=torch.uint8).untyped_storage() if data else torch.UntypedStorage(0)

    return content, read_storage


def _make_tensor(record: TensorRecord, storage: torch.UntypedStorage) -> Tensor:
    # Shape and strides come from the pickle: outside the storage they would read foreign memory.
    numbers = (record.offset, *record.size, *record.stride)
    if len(record.size) != len(record.stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"a tensor of size {record.size} and stride {record.stride}")
    end = record.offset + sum((n - 1) * stride for n, stride in zip(record.size, record.stride, strict=True)) + 1
    if math.prod(record.size) and end * record.dtype.itemsize > storage.nbytes():
        raise ValueError(f"a tensor of size {record.size} reaches behind its storage")
    return torch.empty(0, dtype=record.dtype).set_(storage, record.offset, record.size, record.stride)


class _Placeholder:
    """Stands for an object of a class that is not loaded; takes whatever a pickle gives to objects."""

    def __new__(cls, *_: object, **__: object) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def add(self, value: object) -> None: ...


class _Refused(_Placeholder):
    """Stands for a function: may be mentioned, not called."""

    def __new__(cls, *_: object, **__: object) -> NoReturn:
        _refuse(cls.__module__, cls.__name__)


class _Dict(dict[Any, Any]):
    """An OrderedDict or a defaultdict, without its attributes and its factory."""

    def __init__(self, content: object = ()) -> None:
        super().__init__(content if isinstance(content, (list, dict)) else ())

    def __setstate__(self, state: object) -> None: ...


def _refuse(module: str, name: str) -> NoReturn:
    raise CheckpointError(
        f"Expected a checkpoint with weights only, but this pickle uses {module}.{name}, which could run code. "
        "Nothing of it was run. Get the weights as safetensors, from a source that you trust."
    )


def _is_class_name(name: str) -> bool:
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


class _RestrictedUnpickler(pickle._Unpickler):
    # The Python one: the C one clears memory for any memo index up to 2^32 that a pickle names.

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages: dict[str, StorageRecord] = {}
        self._placeholders: dict[tuple[str, str], type[_Placeholder]] = {}
        self._rebuilders: dict[tuple[str, str], object] = {
            ("collections", "OrderedDict"): _Dict,
            ("collections", "defaultdict"): _Dict,
            ("copyreg", "_reconstructor"): self._reconstruct_object,
            ("torch._tensor", "_rebuild_from_type_v2"): self._rebuild_from_type,
            ("torch._utils", "_rebuild_parameter"): self._rebuild_parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): self._rebuild_parameter,
            ("torch._utils", "_rebuild_tensor"): self._rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild_tensor,
            ("torch._utils", "_rebuild_tensor_v3"): self._rebuild_untyped_tensor,
        }

    def find_class(self, module: str, name: str) -> Any:
        module, name = _compat_pickle.NAME_MAPPING.get(
            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
        )
        if (module, name) in self._rebuilders:
            return self._rebuilders[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if module == "torch" and name in _UNTYPED_DTYPES:
            return _UNTYPED_DTYPES[name]
        inert = name in _INERT.get(module, "").split()
        if not inert and module.partition(".")[0] in sys.stdlib_module_names:
            _refuse(module, name)
        if (module, name) not in self._placeholders:
            base = _Placeholder if inert or _is_class_name(name) else _Refused
            self._placeholders[module, name] = cast("type[_Placeholder]", type(name, (base,), {"__module__": module}))
        return self._placeholders[module, name]

    def get_extension(self, code: int) -> NoReturn:
        _refuse("copyreg", f"extension {code}")

    def persistent_load(self, pid: Any) -> StorageRecord:
        kind, dtype, key, _location, numel, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(view):
            raise ValueError(f"an unknown kind of storage: {pid!r}")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise ValueError(f"an impossible storage: {pid!r}")
        return self.storages.setdefault(key, StorageRecord(key, dtype, numel))

    # Methods, not functions: a pickle that sets attributes on what it was given cannot alter them.

    def _rebuild_tensor(self, storage: StorageRecord, offset: int, size: Any, stride: Any, *_: object) -> TensorRecord:
        if not isinstance(storage, StorageRecord):
            raise TypeError("a tensor without a storage")
        return TensorRecord(storage, offset, tuple(size), tuple(stride), storage.dtype)

    def _rebuild_untyped_tensor(
        self, storage: StorageRecord, offset: int, size: Any, stride: Any, _grad: object, _hooks: object, dtype: Any,
        *_: object,
    ) -> TensorRecord:  # fmt: skip
        if not isinstance(dtype, torch.dtype):
            raise TypeError("a tensor without a type")
        return self._rebuild_tensor(storage, offset, size, stride)._replace(dtype=dtype)

    def _rebuild_parameter(self, data: object, *_: object) -> object:
        return data

    def _rebuild_from_type(self, rebuild: Callable[..., object], _type: object, args: Any, _state: object) -> object:
        return rebuild(*args)

    def _reconstruct_object(self, cls: Callable[[], object], *_: object) -> object:
        return cls()
