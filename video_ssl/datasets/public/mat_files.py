"""Arrays of numbers in MATLAB files of version 5, as data sets publish them; nothing else of the format.

A file is a header of 128 bytes and elements, each a tag (type, bytes) and its content, padded to 8 bytes; content of
up to 4 bytes may stand in the tag.  An element may be compressed by zlib.  A matrix holds flags, dimensions, name and
numbers, column by column.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from video_ssl.datasets.errors import TableError

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
#: Type of an element -> dtype.
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
#: Classes of a matrix that are plain numbers (double .. uint64).
_PLAIN = range(6, 16)
_COMPLEX = 0x800
_MOST = 2**28


def read_mat_arrays(file: Path) -> dict[str, NDArray[np.generic]]:
    """Returns the arrays of real numbers in a file by name; structures, texts and others are passed over.

    Raises:
        TableError: no such file, of another version (7.3 is HDF5), damaged, or larger than 256 MiB when unpacked.
    """
    try:
        content = file.read_bytes()
    except OSError as err:
        raise TableError(f"{file} cannot be read: {err.strerror or err}.") from err
    if len(content) < _HEADER or content[124:128] != b"\x00\x01IM":
        raise TableError(
            f"{file} is no MATLAB file of version 5 (little-endian): copy it again, or save it with -v6."
        )
    try:
        found = {}
        for kind, body in _elements(content[_HEADER:]):
            if kind == _COMPRESSED:
                ((kind, body),) = _elements(_unpacked(body))
            matrix = _matrix(body) if kind == _MATRIX else None
            if matrix is not None:
                found[matrix[0]] = matrix[1]
    except (struct.error, ValueError, IndexError, zlib.error) as err:
        raise TableError(f"{file} is damaged ({err}): copy it again.") from err
    return found


def _unpacked(body: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(body, _MOST)
    if stream.unconsumed_tail:
        raise ValueError("more than 256 MiB when unpacked")
    return content


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the type and the content of every element."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from("<II", content, at)
        if kind >> 16:  # a small one: the upper half is its size
            yield kind & 0xFFFF, content[at + 4 : at + 4 + (kind >> 16)]
            at += 8
            continue
        if at + 8 + size > len(content):
            raise ValueError("it ends early")
        yield kind, content[at + 8 : at + 8 + size]
        at += 8 + size
        if kind != _COMPRESSED:
            at += -size % 8


def _matrix(body: bytes) -> tuple[str, NDArray[np.generic]] | None:
    """Name and numbers of a matrix; None where it is no plain one."""
    parts = list(_elements(body))
    flags = struct.unpack_from("<I", parts[0][1])[0]
    if (flags & 0xFF) not in _PLAIN or flags & _COMPLEX:
        return None
    shape = np.frombuffer(parts[1][1], "<i4")
    if (shape < 0).any():
        raise ValueError(f"an array of the shape {shape.tolist()}")
    name = parts[2][1].decode("ascii", "replace")
    kind, data = parts[3]
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of the unknown type {kind}")
    return name, np.frombuffer(data, "<" + _NUMBERS[kind]).reshape(tuple(shape), order="F")
