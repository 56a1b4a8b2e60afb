"""Reading TensorFlow's checkpoints (tensor bundles) without TensorFlow: numpy and nothing else.

`PREFIX.index` is a LevelDB table of names -> (dtype, shape, place), `PREFIX.data-0000i-of-0000n` hold the raw
little-endian values.  Nothing in them is code.  Source: papers/vatt.md section 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
#: enum DataType of TensorFlow -> numpy
DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "<u1",
    5: "<i2",
    6: "<i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
BFLOAT16 = 14
#: In the names of what optimizers and TensorFlow itself keep in a checkpoint.
_BOOKKEEPING = (".OPTIMIZER_SLOT", "optimizer/", "save_counter", "_CHECKPOINTABLE", "global_step")
#: Bytes of the largest tensor whose checksum is computed (in Python, slowly): enough to tell checkpoints apart.
CHECKED = 4096


class TFCheckpointError(ValueError):
    """A checkpoint that is not there, cut, or not of this kind; the text says which."""


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies.

    Attributes:
        dtype: number of TensorFlow's DataType.
        shape: of the tensor.
        shard: number of the data file.
        offset, size: in bytes.
        checksum: masked CRC-32C of the bytes; 0 = not told.
    """

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int = 0


def checkpoint_prefix(path: str | Path) -> Path:
    """Returns the prefix of a checkpoint.

    Args:
        path: the prefix, its `.index` file, one of its data files, or a folder with exactly one checkpoint.

    Raises:
        TFCheckpointError: none, or several.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "none"
            raise TFCheckpointError(
                f"{path} holds {len(found)} TensorFlow checkpoints ({names}): name one by its prefix."
            )
        path = found[0]
    name = re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name)
    prefix = path.with_name(name)
    if not prefix.with_name(name + ".index").is_file():
        raise TFCheckpointError(
            f"no TensorFlow checkpoint {prefix}: there is no {name}.index beside it."
        )
    return prefix


def read_tf_checkpoint(
    path: str | Path, *, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, NDArray[Any]]:
    """Returns the tensors of a checkpoint by name, numbers only; strings and the object graph are left out.

    Args:
        path: see `checkpoint_prefix`.
        wanted: says for a name whether it is read.

    Raises:
        TFCheckpointError: not there, cut, damaged, or with a dtype that is not known.
    """
    prefix = checkpoint_prefix(path)
    file = prefix.with_name(prefix.name + ".index")
    entries, num_shards = read_index(file)
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in entries.items():
        if entry.dtype == 7 or not wanted(name):  # 7: strings
            continue
        shard = prefix.with_name(f"{prefix.name}.data-{entry.shard:05d}-of-{num_shards:05d}")
        arrays[name] = _read_tensor(shard, name, entry)
    return arrays


def is_bookkeeping(name: str) -> bool:
    """Returns whether a tensor of that name belongs to an optimizer or to TensorFlow itself, and to no network.

    >>> is_bookkeeping("save_counter/.ATTRIBUTES/VARIABLE_VALUE"), is_bookkeeping("model/_stem_conv/kernel")
    (True, False)
    """
    return any(part in name for part in _BOOKKEEPING)


def read_index(file: Path) -> tuple[dict[str, Entry], int]:
    """Returns the entries of an `.index` file by name, and the number of data files."""
    data = file.read_bytes()
    if len(data) < FOOTER or data[-8:] != MAGIC:
        raise TFCheckpointError(
            f"{file} ({len(data):,} bytes) is no index of a TensorFlow checkpoint, or is cut: its end is not that of a "
            "table."
        )
    try:
        place = len(data) - FOOTER
        _, place = _handle(data, place)
        index_handle, _ = _handle(data, place)
        items = [
            item
            for _, handle in _block(data, index_handle)
            for item in _block(data, _handle(handle, 0)[0])
        ]
        header = dict(_fields(next(value for key, value in items if key == b"")))
        if header.get(2, 0) != 0:
            raise TFCheckpointError(
                f"{file} says its numbers are big-endian: such checkpoints are not read."
            )
        entries = {key.decode(): _entry(value) for key, value in items if key}
    except TFCheckpointError:
        raise
    except (IndexError, StopIteration, UnicodeDecodeError, TypeError, ValueError) as err:
        raise TFCheckpointError(f"{file} is damaged: {err!r}.") from err
    return entries, int(header.get(1, 1))


def _read_tensor(shard: Path, name: str, entry: Entry) -> NDArray[Any]:
    if entry.dtype == BFLOAT16:
        dtype = np.dtype("<u2")
    elif entry.dtype in DTYPES:
        dtype = np.dtype(DTYPES[entry.dtype])
    else:
        raise TFCheckpointError(
            f"{name} has TensorFlow's dtype number {entry.dtype}, which is not read."
        )
    if entry.size != math.prod(entry.shape) * dtype.itemsize:
        raise TFCheckpointError(
            f"{name} {entry.shape} takes {entry.size} bytes in the index, expected "
            f"{math.prod(entry.shape) * dtype.itemsize}: the index is damaged."
        )
    if not shard.is_file():
        raise TFCheckpointError(
            f"the data file {shard} is missing: download all files of the checkpoint."
        )
    with shard.open("rb") as handle:
        handle.seek(entry.offset)
        raw = handle.read(entry.size)
    if len(raw) != entry.size:
        raise TFCheckpointError(
            f"{shard} is cut: {name} ends at byte {entry.offset + entry.size:,}, the file has {shard.stat().st_size:,}."
        )
    if entry.checksum and entry.size <= CHECKED and masked_crc32c(raw) != entry.checksum:
        raise TFCheckpointError(
            f"{shard} is damaged, or belongs to another checkpoint than the index beside it: {name} has other bytes "
            "than the index says. Download both files of one checkpoint again."
        )
    array = np.frombuffer(raw, dtype).reshape(entry.shape)
    if entry.dtype == BFLOAT16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.copy()


# LevelDB's table and protocol buffers, as far as needed -------------------------------------------


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if not byte & 0x80:
            return value, place


def _handle(data: bytes, place: int) -> tuple[tuple[int, int], int]:
    """A block handle: offset and size."""
    offset, place = _varint(data, place)
    size, place = _varint(data, place)
    return (offset, size), place


def _block(data: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Key and value of the entries of a block; a key shares its start with the one before."""
    offset, size = handle
    if offset + size + 5 > len(data):
        raise TFCheckpointError("the index is cut: a block reaches beyond its end.")
    if data[offset + size] != 0:
        raise TFCheckpointError("the index is compressed, which TensorFlow does not do: not read.")
    block = data[offset : offset + size]
    end = size - 4 - 4 * int.from_bytes(block[-4:], "little")
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        fresh, place = _varint(block, place)
        length, place = _varint(block, place)
        key = key[:shared] + block[place : place + fresh]
        place += fresh
        yield key, block[place : place + length]
        place += length


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of the fields of a message: int, or bytes."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
            yield number, value
        elif kind == 2:
            length, place = _varint(message, place)
            yield number, message[place : place + length]
            place += length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            yield number, message[place : place + length]
            place += length
        else:
            raise TFCheckpointError(
                f"the index has a field of kind {kind}, which no checkpoint has: it is damaged."
            )


def _entry(message: bytes) -> Entry:
    """A BundleEntryProto."""
    fields: dict[int, Any] = {1: 0, 2: b"", 3: 0, 4: 0, 5: 0}
    for number, value in _fields(message):
        if number == 7:
            raise TFCheckpointError("the checkpoint stores a tensor in slices, which is not read.")
        fields[number] = value
    shape = tuple(
        int(dict(_fields(dim)).get(1, 0)) for number, dim in _fields(fields[2]) if number == 2
    )
    return Entry(
        dtype=fields[1],
        shape=shape,
        shard=fields[3],
        offset=fields[4],
        size=fields[5],
        checksum=int.from_bytes(fields.get(6, b""), "little"),
    )


def masked_crc32c(data: bytes) -> int:
    """Returns the checksum that TensorFlow keeps of bytes: CRC-32C, turned and shifted.

    >>> hex(masked_crc32c(b"123456789"))
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC32C[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _crc_table() -> tuple[int, ...]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC32C = _crc_table()
