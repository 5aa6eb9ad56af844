"""A pickle's content, without running what it holds.

A pickle is a program: it names functions and calls them. Here its opcodes are read by the standard library's
`pickletools`, which runs nothing, and carried out on inert records. A name stays a name and is never looked up or
imported; calls of the functions that rebuild tensors make records of tensors, calls of classes make empty stand-ins,
and anything else is refused by name.

The cost is bounded by the bytes that are read: there are no more opcodes than the caller allows, each moves references
and copies nothing, nothing is hashed but short text, nothing printed, and no opcode takes more bytes than there are.
"""

from __future__ import annotations

import _compat_pickle  # the names that protocols below 3, which torch uses, write for Python 2
import pickletools
import sys
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple, NoReturn, cast

import torch

from .errors import CheckpointError

LONGEST_NAME, LONGEST_LINE = 500, 2**16
MOST_DIMENSIONS = 64
_INT64 = 2**63

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

_PATHS = "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath"
_INERT = {
    "_codecs": "encode",
    "argparse": "Namespace",
    "builtins": "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple",
    "collections": "Counter OrderedDict defaultdict deque",
    "copyreg": "_reconstructor",
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
"""Makers of plain values that training checkpoints carry beside their weights; stand-ins here, like all others."""


class Name(NamedTuple):
    """A function or a class that a pickle mentions."""

    module: str
    name: str


class StorageRecord(NamedTuple):
    key: str
    dtype: torch.dtype
    numel: int


class TensorRecord(NamedTuple):
    storage: StorageRecord
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Foreign:
    """Stands for an object of a class that is not loaded."""

    __slots__ = ("cls",)

    def __init__(self, cls: Name):
        self.cls = cls


class Items:
    """A dict, an OrderedDict or a defaultdict, as it was written: keys are not hashed, so that none can be costly."""

    __slots__ = ("_flat", "_initial")

    def __init__(self, initial: object = None):
        self._initial = initial
        self._flat: list[object] = []

    def add(self, flat: list[Any]) -> None:
        """Keys and values by turns."""
        if len(flat) % 2:
            raise ValueError("a key without a value")
        self._flat += flat

    def __len__(self) -> int:
        return len(self._flat) // 2 + (len(self._initial) if isinstance(self._initial, (list, Items)) else 0)

    def __iter__(self) -> Iterator[tuple[object, object]]:
        """Keys and values; a later one of the same key counts."""
        initial = self._initial
        if isinstance(initial, list):  # as Python 2 wrote an OrderedDict: pairs
            yield from ((pair[0], pair[1]) for pair in initial if type(pair) in (list, tuple) and len(pair) == 2)
        elif isinstance(initial, Items):
            yield from zip(initial._flat[::2], initial._flat[1::2], strict=True)
        yield from zip(self._flat[::2], self._flat[1::2], strict=True)


def refuse(module: str, name: str) -> NoReturn:
    raise CheckpointError(
        f"Expected a checkpoint with weights only, but this pickle uses {module}.{name}, which could run code. "
        "Nothing of it was run. Get the weights as safetensors, from a source that you trust."
    )


class _Bytes:
    """What `pickletools` reads from; it asks for whatever length an opcode names."""

    def __init__(self, file: IO[bytes], left: int):
        self._file, self._left = file, left

    def read(self, count: int) -> bytes:
        if count > self._left:
            raise ValueError(f"it ends within an opcode of {count} bytes")
        self._left -= count
        return self._file.read(count)

    def readline(self) -> bytes:
        line = self._file.readline(LONGEST_LINE)
        self._left -= len(line)
        if len(line) == LONGEST_LINE:
            raise ValueError("a line of text that is too long")
        return line


_MARK = object()
_VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
     "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE",
     "BINUNICODE", "BINUNICODE8")
)  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_DICTS = (Name("builtins", "dict"), Name("collections", "OrderedDict"), Name("collections", "defaultdict"))


class Program:
    """Reads one pickle after another from a file; they share the budget and the storages that they name."""

    def __init__(self, file: IO[bytes], size: int, most_opcodes: int):
        """
        Args:
            size: how many bytes there are from where the file stands.
            most_opcodes: in all pickles together.
        """
        self.storages: dict[str, StorageRecord] = {}
        self._bytes = _Bytes(file, size)
        self._left = most_opcodes
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> object:
        """What the next pickle holds: plain values, lists, tuples, and the records of this module.

        Raises:
            CheckpointError: it would run code, or takes too many steps.
            Exception: it is damaged, in any way that bytes can be.
        """
        self._stack, self._marks, self._memo = [], [], {}
        for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", self._bytes)):
            self._left -= 1
            if self._left < 0:
                raise CheckpointError(
                    "Expected a checkpoint that is mostly weights, but its pickle takes more steps than a file of this "
                    "size can need. Save the model's state_dict() alone."
                )
            name = opcode.name
            if name in _VALUES:
                self._stack.append(argument)
            elif name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name == "STOP":
                break
            elif name not in ("PROTO", "FRAME"):
                step = _STEPS.get(name)
                if step is None:
                    raise ValueError(f"the opcode {name}, which no checkpoint uses")
                step(self, argument)
        content = self._stack.pop()
        self._stack, self._memo = [], {}
        return content

    # The stack

    def _mark(self, _: object) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _pop(self, _: object) -> None:
        if self._stack:
            del self._stack[-1]
        else:
            self._to_mark()

    def _pop_mark(self, _: object) -> None:
        self._to_mark()

    def _dup(self, _: object) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, index: int) -> None:
        if not 0 <= index < 2**32:
            raise ValueError("an impossible memo index")
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: object) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    # Containers

    def _list(self, _: object) -> None:
        items = self._to_mark()
        self._stack.append(items)

    def _empty_list(self, _: object) -> None:
        self._stack.append([])

    def _tuple(self, _: object) -> None:
        items = tuple(self._to_mark())
        self._stack.append(items)

    def _tuple_of(self, count: int) -> None:
        if len(self._stack) < count:
            raise ValueError("a tuple of more than there is")
        self._stack[-count:] = [tuple(self._stack[-count:])]

    def _dict(self, _: object) -> None:
        flat, items = self._to_mark(), Items()
        items.add(flat)
        self._stack.append(items)

    def _empty_dict(self, _: object) -> None:
        self._stack.append(Items())

    def _set(self, _: object) -> None:
        self._stack.append(Foreign(Name("builtins", "set")))

    def _frozen_set(self, _: object) -> None:
        self._to_mark()
        self._set(None)

    def _add(self, kind: type, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Items) and kind is Items:
            target.add(items)
        elif isinstance(target, list) and kind is list:
            target += items
        elif not isinstance(target, Foreign):
            raise TypeError(f"items for a {type(target).__name__}")

    def _append(self, _: object) -> None:
        self._add(list, [self._stack.pop()])

    def _appends(self, _: object) -> None:
        self._add(list, self._to_mark())

    def _set_item(self, _: object) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._add(Items, [key, value])

    def _set_items(self, _: object) -> None:
        self._add(Items, self._to_mark())

    def _add_items(self, _: object) -> None:
        self._add(set, self._to_mark())

    # Names and calls

    def _name(self, module: object, name: object) -> Name:
        if type(module) is not str or type(name) is not str or len(module) + len(name) > LONGEST_NAME:
            raise ValueError("an impossible name of a class or a function")
        module, name = _compat_pickle.NAME_MAPPING.get(
            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
        )
        if module.partition(".")[0] in sys.stdlib_module_names and name not in _INERT.get(module, "").split():
            refuse(module, name)
        return Name(module, name)

    def _global(self, both: str) -> None:
        self._stack.append(self._name(*both.split(" ", 1)))

    def _stack_global(self, _: object) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(self._name(module, name))

    def _extension(self, code: int) -> NoReturn:
        refuse("copyreg", f"extension {code}")

    def _make(self, cls: object, initial: object = None) -> object:
        """An instance."""
        if not isinstance(cls, Name):
            raise TypeError("a call of what is no class")
        if cls in _DICTS:
            return Items(initial)
        last = cls.name.rpartition(".")[2]
        if not last.lstrip("_")[:1].isupper() and cls.name not in _INERT.get(cls.module, "").split():
            refuse(*cls)
        return Foreign(cls)

    def _call(self, function: object, arguments: object) -> object:
        if type(arguments) is not tuple:
            raise TypeError("a call without arguments")
        rebuild = _REBUILD.get(function) if isinstance(function, Name) else None
        if rebuild is None:
            return self._make(function, arguments[0] if arguments else None)
        if len(arguments) > MOST_DIMENSIONS:
            raise TypeError("a call with too many arguments")
        return rebuild(self, *arguments)

    def _reduce(self, _: object) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        self._stack.append(self._call(function, arguments))

    def _new(self, _: object) -> None:
        _arguments, cls = self._stack.pop(), self._stack.pop()
        self._stack.append(self._make(cls))

    def _new_with_keywords(self, _: object) -> None:
        self._stack.pop()
        self._new(None)

    def _instance(self, both: str) -> None:
        self._to_mark()
        self._stack.append(self._make(self._name(*both.split(" ", 1))))

    def _object(self, _: object) -> None:
        cls = self._to_mark()[0]
        self._stack.append(self._make(cls))

    def _build(self, _: object) -> None:
        """An object's attributes: dropped, so that nothing is ever written to."""
        self._stack.pop()
        if not isinstance(self._stack[-1], (Foreign, Items)):
            raise TypeError(f"attributes for a {type(self._stack[-1]).__name__}")

    # Tensors

    def _persistent(self, _: object) -> None:
        storage = self._stack.pop()
        if type(storage) is not tuple or not 5 <= len(storage) <= 6:
            raise ValueError("an unknown kind of storage")
        kind, cls, key, _location, numel, *view = storage
        if kind != "storage" or not isinstance(cls, Name) or cls.module not in ("torch", "torch.storage") or any(view):
            raise ValueError("an unknown kind of storage")
        if type(key) is not str or type(numel) is not int or not 0 <= numel < _INT64:
            raise ValueError("an impossible storage")
        record = StorageRecord(key, _STORAGE_DTYPES[cls.name], numel)
        self._stack.append(self.storages.setdefault(key, record))

    def _rebuild_tensor(
        self, storage: object, offset: Any, size: Any, stride: Any, _grad: object = None, _hooks: object = None,
        metadata: object = None, *, dtype: torch.dtype | None = None,
    ) -> TensorRecord:  # fmt: skip
        if not isinstance(storage, StorageRecord):
            raise TypeError("a tensor without a storage")
        if type(size) is not tuple or type(stride) is not tuple or not len(size) == len(stride) <= MOST_DIMENSIONS:
            raise ValueError("a tensor without a shape")
        if not all(type(n) is int and 0 <= n < _INT64 for n in (offset, *size, *stride)):
            raise ValueError("a tensor of an impossible size, stride or offset")
        flags = Items() if metadata is None else metadata
        if (
            not isinstance(flags, Items)
            or len(flags) > MOST_DIMENSIONS
            or any(value is not False for _, value in flags)
        ):
            raise CheckpointError(
                "Expected plain tensors, but one is stored as a negative or conjugate view. Save the file again, with "
                "tensor.resolve_neg().resolve_conj() of each."
            )
        return TensorRecord(storage, dtype or storage.dtype, offset, size, stride)

    def _rebuild_typed(self, *arguments: Any) -> TensorRecord:
        """With a dtype of its own, on a storage without one: float8 and other late ones."""
        storage, offset, size, stride, grad, hooks, name, *metadata = arguments
        dtype = getattr(torch, name.name, None) if isinstance(name, Name) and name.module == "torch" else None
        if not isinstance(dtype, torch.dtype):
            raise TypeError("a tensor without a type")
        return self._rebuild_tensor(storage, offset, size, stride, grad, hooks, *metadata, dtype=dtype)

    def _rebuild_parameter(self, data: object, *_: object) -> object:
        return data

    def _rebuild_from_type(self, function: object, _type: object, arguments: Any, _state: object) -> object:
        if function == Name("torch._tensor", "_rebuild_from_type_v2"):
            raise TypeError("a tensor that is rebuilt twice")
        return self._call(function, arguments)

    def _reconstruct(self, cls: object, *_: object) -> object:
        return self._make(cls)


_STEPS: dict[str, Callable[[Program, Any], None]] = {
    "MARK": Program._mark,
    "POP": Program._pop,
    "POP_MARK": Program._pop_mark,
    "DUP": Program._dup,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Program._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), Program._get),
    "MEMOIZE": Program._memoize,
    "LIST": Program._list,
    "EMPTY_LIST": Program._empty_list,
    "TUPLE": Program._tuple,
    "TUPLE1": lambda program, _: program._tuple_of(1),
    "TUPLE2": lambda program, _: program._tuple_of(2),
    "TUPLE3": lambda program, _: program._tuple_of(3),
    "DICT": Program._dict,
    "EMPTY_DICT": Program._empty_dict,
    "EMPTY_SET": Program._set,
    "FROZENSET": Program._frozen_set,
    "APPEND": Program._append,
    "APPENDS": Program._appends,
    "SETITEM": Program._set_item,
    "SETITEMS": Program._set_items,
    "ADDITEMS": Program._add_items,
    "GLOBAL": Program._global,
    "STACK_GLOBAL": Program._stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), Program._extension),
    "REDUCE": Program._reduce,
    "NEWOBJ": Program._new,
    "NEWOBJ_EX": Program._new_with_keywords,
    "INST": Program._instance,
    "OBJ": Program._object,
    "BUILD": Program._build,
    "BINPERSID": Program._persistent,
}
_REBUILD: dict[Name, Callable[..., object]] = {
    Name("copyreg", "_reconstructor"): Program._reconstruct,
    Name("torch._tensor", "_rebuild_from_type_v2"): Program._rebuild_from_type,
    Name("torch._utils", "_rebuild_parameter"): Program._rebuild_parameter,
    Name("torch._utils", "_rebuild_parameter_with_state"): Program._rebuild_parameter,
    Name("torch._utils", "_rebuild_tensor"): Program._rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): Program._rebuild_tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): Program._rebuild_typed,
}
