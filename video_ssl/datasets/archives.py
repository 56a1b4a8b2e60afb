"""Archives of arrays (.npz) of strangers: how large they become is looked at before anything is read."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

# A zip of zeros is a thousandth of what it holds; numbers that mean something are seldom a hundredth.
_LARGE_BYTES = 2**30
_MOST_TIMES_LARGER = 200
_MOST_MEMBERS = 10_000


class BrokenArchive(ValueError):
    """An archive that is damaged, or not what it says; the text goes on behind its name."""


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns name -> array of a .npz file.

    Arrays of objects are refused, because reading them runs code of the file; so are archives that expand beyond
    measure, and arrays that announce more than the archive holds of them.

    Raises:
        BrokenArchive: see above, or no such archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(path, archive)
        with np.load(path, allow_pickle=False) as content:
            arrays = {key: content[key] for key in content.files}
    except (
        ValueError, OSError, zipfile.BadZipFile, EOFError, struct.error, NotImplementedError, RuntimeError, SyntaxError,
        KeyError, TypeError, MemoryError, OverflowError, zlib.error,
    ) as err:  # fmt: skip
        if isinstance(err, BrokenArchive):
            raise
        told = str(err).strip().rstrip(".").partition("\n")[0][:200] or type(err).__name__
        raise BrokenArchive(
            f"is not readable: {told}. Arrays of objects are refused, because reading them runs code of the file; "
            "store numbers and strings."
        ) from err
    named = {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
    if len(named) < len(arrays):
        other = next(key for key in arrays if key not in named)
        raise BrokenArchive(f"is not readable: {other!r} in it is no array.")
    return named


def _refuse_bombs(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    total = sum(member.file_size for member in members)
    size = path.stat().st_size
    if len(members) > _MOST_MEMBERS or total > max(_LARGE_BYTES, _MOST_TIMES_LARGER * size):
        raise BrokenArchive(
            f"is not readable: {size} bytes expand to {total} in {len(members)} arrays: that is no file of features. "
            "If it is one, write it with numpy.savez, which does not compress."
        )
    for member in members:
        if member.filename.endswith(".npy"):
            with archive.open(member) as file:
                _refuse_short(member, file)


def _refuse_short(member: zipfile.ZipInfo, file: IO[bytes]) -> None:
    """Raises BrokenArchive for an array whose header announces more than its member holds: numpy reserves it all."""
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        return  # of an array whose names of fields need Unicode; numpy says no to what it does not know
    shape, _, dtype = read[version](file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > member.file_size:
        raise BrokenArchive(
            f"is not readable: {member.filename} announces an array {shape} of {dtype}, but has "
            f"{member.file_size} bytes."
        )
