"""Lists of items in pickles of strangers: numbers, texts, containers, numpy arrays and torch tensors, and nothing else.

A pickle is a program that names functions and calls them.  Here every name on a short list means a stand-in of ours,
which only puts arrays together; any other name refuses the file.  Neither torch nor any class of the file is imported,
and numpy's own unpickling is not used either.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from video_ssl.datasets.table import TableError
from video_ssl.pickled_names import StandIn

_STORAGES = {
    "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "i2", "IntStorage": "i4", "LongStorage": "i8",
    "HalfStorage": "f2", "FloatStorage": "f4", "DoubleStorage": "f8", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # what torch.save wrote before its files were zip archives
_BROKEN = (
    pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError,
    AssertionError, RecursionError, MemoryError, OverflowError, struct.error,
)  # fmt: skip


class StoredArray:
    """A numpy array of a pickle, as far as it has been read; `values` is the array."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        flat = np.frombuffer(_bytes(content), dtype.numpy())
        self.values = flat.reshape(shape, order="F" if is_fortran else "C")


class _DType:
    """The kind of number of an array."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "<"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("a type of several fields")
        self.order = state[1]

    def numpy(self) -> np.dtype:
        code = str(self.code)
        if code[:1] not in ("i", "u", "f", "b", "?"):
            raise pickle.UnpicklingError(f"numbers of the type {code!r}")
        return np.dtype(self.order.replace("|", "=") + code if self.order in "<>|=" else code)


def read_items(path: Path) -> Any:
    """Returns what a pickle holds: numpy arrays as `StoredArray`, torch tensors as numpy arrays, the rest as it is.

    Raises:
        TableError: a damaged file, or one that names anything else; nothing of it has been run.
    """
    content = path.read_bytes()
    if content[:1] != b"\x80":
        what = {
            b"PK": "is a zip archive",
            b"": "is empty",
            b"<!": "is a web page",
            b"<h": "is a web page",
        }
        problem = what.get(content[:2], f"begins with {content[:8]!r}")
        raise TableError(
            f"{path} {problem}, where a pickle was expected: download or copy it again."
        )
    try:
        return _Reader(io.BytesIO(content), str(path)).load()
    except _BROKEN as err:
        if isinstance(err, TableError):
            raise
        raise TableError(f"{path} is a damaged pickle, or not of plain items: {err}.") from err


def array_of(value: Any) -> np.ndarray:
    """Returns the numbers of an entry of an item (array, tensor, list or tuple) as an array.

    Raises:
        TypeError: something else.
    """
    if isinstance(value, StoredArray):
        return value.values
    if isinstance(value, np.ndarray | list | tuple):
        return np.asarray(value)
    raise TypeError(f"{type(value).__name__} instead of an array")


class _Reader(pickle.Unpickler):
    """Reads a pickle of items."""

    def __init__(self, file: io.BytesIO, name: str) -> None:
        super().__init__(file)
        self._name = name

    def find_class(self, module: str, name: str) -> Any:
        found = _ALLOWED.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise TableError(
                f"{self._name} names {module}.{name}, which only code could turn into an object: it is refused, "
                "nothing of it was run. Items hold numbers, texts, lists, numpy arrays and torch tensors. If you "
                "trust its origin, load it there and save the items as such."
            )
        return found


class _StorageReader(pickle.Unpickler):
    """Reads a part of a storage as torch.save wrote it; the numbers themselves follow the pickles."""

    def find_class(self, module: str, name: str) -> Any:
        if module != "torch" or name not in _STORAGES:
            raise pickle.UnpicklingError(f"a storage that names {module}.{name}")
        return StandIn(lambda: np.dtype(_STORAGES[name]).newbyteorder("<"))

    def persistent_load(self, pid: Any) -> Any:
        _, kind, _, _, count, *_ = pid
        return kind(), int(count)


def _storage(content: bytes) -> np.ndarray:
    """The numbers of a storage, 1-D."""
    file = io.BytesIO(_bytes(content))
    if _StorageReader(file).load() != _LEGACY_MAGIC:
        raise pickle.UnpicklingError("a storage of another format")
    _StorageReader(file).load()  # version of the protocol
    machine = _StorageReader(file).load()
    if not machine["little_endian"]:
        raise pickle.UnpicklingError("a storage of a big-endian machine")
    dtype, count = _StorageReader(file).load()
    _StorageReader(file).load()  # names of the storages: one
    (stored,) = struct.unpack("<q", file.read(8))
    if stored != count:
        raise pickle.UnpicklingError(f"a storage of {stored} numbers where {count} were announced")
    return np.frombuffer(file.read(count * dtype.itemsize), dtype, count)


def _tensor(storage: np.ndarray, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if (
        min((offset, *size, *stride)) < 0
        or count > len(storage)
        or (count and last >= len(storage))
    ):
        raise pickle.UnpicklingError(f"a tensor of {tuple(size)} in {len(storage)} numbers")
    steps = tuple(step * storage.itemsize for step in stride)
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], tuple(size), steps))


def _scalar(dtype: _DType, content: Any) -> Any:
    return np.frombuffer(_bytes(content), dtype.numpy(), 1)[0].item()


def _from_buffer(content: Any, dtype: _DType, shape: Any, order: str) -> StoredArray:
    array = StoredArray()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array


def _encode(text: str, encoding: str) -> bytes:
    """How Python 2's protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in {encoding!r}")
    return text.encode("latin1")


def _bytes(content: Any) -> bytes:
    if isinstance(content, bytes | bytearray):
        return bytes(content)
    raise pickle.UnpicklingError(f"an array made of {type(content).__name__}")


def _never(*_: Any) -> NoReturn:
    raise pickle.UnpicklingError("calls a type")


_ALLOWED: Mapping[tuple[str, str], StandIn] = {
    ("collections", "OrderedDict"): StandIn(lambda *items: dict(*items)),
    ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
    ("torch._utils", "_rebuild_tensor"): StandIn(_tensor),
    ("torch.storage", "_load_from_bytes"): StandIn(_storage),
    ("numpy.core.multiarray", "_reconstruct"): StandIn(lambda *_: StoredArray()),
    ("numpy.core.multiarray", "scalar"): StandIn(_scalar),
    ("numpy.core.numeric", "_frombuffer"): StandIn(_from_buffer),
    ("numpy", "dtype"): StandIn(lambda code, *_: _DType(code)),
    ("numpy", "ndarray"): StandIn(_never),
    ("_codecs", "encode"): StandIn(_encode),
    ("builtins", "bytearray"): StandIn(lambda content=b"": _bytes(content)),
}  # fmt: skip
