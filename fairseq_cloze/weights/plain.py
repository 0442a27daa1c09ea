"""Plain: the content of a pickle as plain data, without importing or calling anything that it names.

What is known becomes data; every other class or function becomes a :class:`Foreign`, which only remembers its name and
what it was given.  A file can so be looked at, and converted, whatever it holds.
"""

from __future__ import annotations

import math
import pickle
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from ..errors import printable


def show(value: Any, length: int = 60) -> str:
    """A value of a file in one line, for messages; of what is no text or number only the type."""
    if not isinstance(value, str | int | float | None):
        value = f"a {type(value).__name__}"
    elif isinstance(value, int) and abs(value) > 1 << 64:  # Python refuses to write numbers of thousands of digits
        value = f"a number of {value.bit_length():,} bits"
    return printable(str(value)[:length])


@dataclass(frozen=True)
class StorageRef:
    """Numbers that lie elsewhere in the file."""

    key: str
    dtype: torch.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class TensorRef:
    """A tensor over a storage."""

    storage: StorageRef
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or any(type(number) is not int or number < 0 for number in numbers):
            raise pickle.UnpicklingError(f"a tensor of size {self.size} and stride {self.stride}")
        room, numel = self.storage.nbytes // self.dtype.itemsize, math.prod(self.size)
        reach = self.offset + 1 + sum((size - 1) * stride for size, stride in zip(self.size, self.stride))
        if numel and (reach > room or numel > room):
            raise pickle.UnpicklingError(f"a tensor of size {self.size} over {room:,} numbers")

    def over(self, content: Tensor) -> Tensor:
        """The tensor, from the bytes of its storage, ``uint8 (nbytes,)``."""
        return content.view(self.dtype).as_strided(self.size, self.stride, self.offset)


class Foreign:
    """What a class or a function that is not known would have made; none of it was imported or called."""

    path: str  #: its name, with its module
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Foreign:  # noqa: D102
        self = super().__new__(cls)
        self.args, self.state = args, None
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Foreign:  # noqa: D102
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Content of a list or a set is forgotten."""

    extend = add = append


class Options:
    """An ``argparse.Namespace``."""

    state: Any = None


class Table(dict[Any, Any]):
    """``OrderedDict``, ``defaultdict`` or ``Counter``, without what else these may hold."""

    state: Any = None

    def __init__(self, content: Any = ()) -> None:
        pairs = list(content.items() if isinstance(content, dict) else content) if _is_container(content) else []
        _check_keys([key for key, _ in pairs])
        super().__init__(pairs)


def _is_container(value: Any) -> bool:
    return isinstance(value, dict | list | tuple)


@dataclass(frozen=True)
class _StorageType:
    dtype: torch.dtype


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *others: Any) -> TensorRef:
    dtype = next((other for other in others if isinstance(other, torch.dtype)), None)  # of torch's newer types
    return TensorRef(storage, offset, tuple(size), tuple(stride), dtype or storage.dtype)


def _first(value: Any, *others: Any) -> Any:
    return value


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":  # others are looked up among modules
        raise pickle.UnpicklingError(f"bytes as {show(encoding)}")
    return text.encode("latin1")


def _set(content: Any = ()) -> set[Any]:
    _check_keys(content)
    return set(content)


_BASIC = (str, bytes, int, float, bool, complex, type(None), torch.dtype, torch.device)


def _check_keys(keys: Any) -> None:
    """Make sure that keys are simple: to look up nested ones can take for ever."""
    for key in keys:
        if not all(isinstance(part, (*_BASIC, Foreign, type)) for part in (key if isinstance(key, tuple) else (key,))):
            raise pickle.UnpicklingError(f"a key of type {type(key).__name__}")


_STORAGES = {
    **dict(Double=torch.float64, Float=torch.float32, Half=torch.float16, BFloat16=torch.bfloat16, Long=torch.int64),
    **dict(Int=torch.int32, Short=torch.int16, Char=torch.int8, Byte=torch.uint8, Bool=torch.bool),
    **dict(ComplexDouble=torch.complex128, ComplexFloat=torch.complex64, Untyped=torch.uint8),
}

#: What pickles of plain checkpoints name, and what is taken for it.
_KNOWN: dict[str, Any] = {
    **{f"collections.{name}": Table for name in ("OrderedDict", "defaultdict", "Counter")},
    "argparse.Namespace": Options,
    **{f"torch._utils._rebuild_tensor{version}": _tensor for version in ("", "_v2", "_v3")},
    **{f"torch._utils._rebuild_parameter{kind}": _first for kind in ("", "_with_state")},
    **{f"torch.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    **{f"torch.cuda.{name}Storage": _StorageType(dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": _StorageType(torch.uint8),
    **{str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)},
    "torch.Size": tuple,
    "torch.device": torch.device,
    "_codecs.encode": _encode,
    "builtins.set": _set,
    "builtins.complex": complex,
}


_PythonUnpickler: Any = pickle._Unpickler  # C's takes as much memory as a file says

#: Codes of pickles that put keys, or members of sets, into place → where in the stack these are.
_KEYS = {
    pickle.SETITEM: slice(-2, -1),
    pickle.SETITEMS: slice(0, None, 2),
    pickle.DICT: slice(0, None, 2),
    pickle.ADDITEMS: slice(None),
    pickle.FROZENSET: slice(None),
}


def _with_keys(code: bytes, keys: slice) -> Callable[[Any], None]:
    plain = _PythonUnpickler.dispatch[code[0]]

    def load(unpickler: Any) -> None:
        _check_keys(unpickler.stack[keys])
        plain(unpickler)

    return load


def _build(unpickler: Any) -> None:
    state = unpickler.stack.pop()
    if not isinstance(unpickler.stack[-1], Foreign | Options | Table):
        raise pickle.UnpicklingError(f"a state for {type(unpickler.stack[-1]).__name__}")
    unpickler.stack[-1].state = state


class Unpickler(_PythonUnpickler):
    """Reads one pickle of a file; :attr:`storages` has what its tensors need."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **_PythonUnpickler.dispatch,
        **{code[0]: _with_keys(code, keys) for code, keys in _KEYS.items()},
        pickle.BUILD[0]: _build,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, StorageRef] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        path = f"{module.replace('__builtin__', 'builtins')}.{name}"
        return _KNOWN.get(path) or type("Foreign", (Foreign,), {"path": path})

    def persistent_load(self, pid: Any) -> Any:
        """A storage by key; all names of one have the same size."""
        kind, storage_type, key, _, numel, *view = pid
        ok = kind == "storage" and isinstance(storage_type, _StorageType) and type(numel) is int and numel >= 0
        if not ok or not isinstance(key, str) or any(view):
            raise pickle.UnpicklingError(f"tensors of another kind ({str(kind)[:40]})")
        found = StorageRef(key, storage_type.dtype, numel)
        if self.storages.setdefault(key, found).nbytes != found.nbytes:
            raise pickle.UnpicklingError(f"storage {key[:40]} in two sizes")
        return found


class Refused(Exception):
    """Objects that are no plain data, by what they are and where they stand first."""

    def __init__(self, found: dict[str, str]) -> None:
        self.found = found
        super().__init__(", ".join(found))


class _Dropped:
    """In place of what has no plain form."""


DROPPED = _Dropped()

#: Plain data for something foreign at a place, or :data:`DROPPED`; the function converts what is inside.
Convert = Callable[[Any, str, Callable[[Any, str], Any]], Any]


def to_plain(graph: Any, tensor: Callable[[TensorRef, str], Tensor], convert: Convert | None = None) -> Any:
    """What an :class:`Unpickler` found, as dictionaries, lists, tuples, sets, numbers, text, tensors and namespaces.

    Args:
        tensor: makes a tensor that stands at a place, such as ``model.encoder.x``
        convert: what becomes of foreign objects

    Raises:
        Refused: there are some, and *convert* was not given
    """
    refused: dict[str, str] = {}
    memo: dict[int, Any] = {}

    def foreign(value: Any, place: str) -> Any:
        if convert is not None:
            return convert(value, place, walk)
        path = value.path if hasattr(value, "path") else f"{type(value).__name__}"
        refused.setdefault(path, place)
        return DROPPED

    def items(content: Any, place: str, out: dict[Any, Any]) -> dict[Any, Any]:
        for key, value in content.items():
            where = f"{place}.{key}" if place else str(key)
            name, entry = walk(key, where), walk(value, where)
            if name is not DROPPED and entry is not DROPPED:
                out[name] = entry
        return out

    def sequence(content: Any, place: str) -> list[Any]:
        entries = [walk(entry, f"{place}[{number}]") for number, entry in enumerate(content)]
        return [entry for entry in entries if entry is not DROPPED]

    def walk(value: Any, place: str) -> Any:
        if isinstance(value, _BASIC):
            return value
        if id(value) in memo:
            return memo[id(value)]
        if isinstance(value, TensorRef):
            out: Any = tensor(value, place)
        elif isinstance(value, dict):
            out = memo[id(value)] = {}
            items(value, place, out)
        elif isinstance(value, Options):
            if not isinstance(value.state or {}, dict):
                raise pickle.UnpicklingError(f"{place}: options that are no dictionary")
            out = memo[id(value)] = Namespace()
            items({str(key): entry for key, entry in (value.state or {}).items()}, place, vars(out))
        elif isinstance(value, list):
            out = memo[id(value)] = []
            out += sequence(value, place)
        elif isinstance(value, tuple | set | frozenset):
            out = type(value)(sequence(value, place))
        else:
            out = foreign(value, place)
        memo[id(value)] = out
        return out

    out = walk(graph, "")
    if refused:
        raise Refused(refused)
    return out
