"""Checksums of what we write, so that damage is found before it is used.

CRC-32: it finds every flipped bit and every burst of up to 32 bits, and misses one damage in four billion; it takes
half a second a GiB.  It is no protection against somebody who means harm: who changes a file can change its checksum.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

SEAL = "checksum"
_CHUNK = 2**22
_THREADS = 4


class SummedFile:
    """A file open for writing whose checksum is taken on the way; offers `write` and `flush` alone."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sum = 0

    def write(self, data: Any) -> int:
        self._sum = zlib.crc32(data, self._sum)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def checksum(self) -> str:
        return f"{self._sum:08x}"


def file_checksum(path: Path) -> str:
    """Returns the checksum of a file, 8 hexadecimal digits."""
    total, room = 0, bytearray(_CHUNK)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(room):
            total = zlib.crc32(memoryview(room)[:count], total)
    return f"{total:08x}"


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Returns name -> checksum of files below a folder, read by a few threads."""
    listed = list(names)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        sums = pool.map(file_checksum, [folder / name for name in listed])
        return dict(zip(listed, sums, strict=True))


def file_sizes(folder: Path) -> dict[str, int]:
    """Returns name -> bytes of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def damage(folder: Path, sums: Mapping[str, str]) -> str:
    """Returns which files below a folder are not what was written, in words; "" if all are."""
    try:
        found = checksums(folder, sums)
    except OSError as err:
        return f"{err.filename}: {os.strerror(err.errno or 0)}"
    wrong = [name for name, value in found.items() if value != sums[name]]
    if not wrong:
        return ""
    more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return f"{wrong[0]}{more} is not what was written: its checksum is {found[wrong[0]]}, not {sums[wrong[0]]}"


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a JSON file with a checksum of itself; first, so that its line can be taken out."""
    return {SEAL: _seal(content), **content}


def seal_is_broken(content: Mapping[str, Any]) -> bool:
    """Returns whether the content of a JSON file is not what was sealed; what was never sealed is not broken."""
    return SEAL in content and content[SEAL] != _seal(content)


def _seal(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != SEAL}
    return f"{zlib.crc32(json.dumps(rest, sort_keys=True).encode()):08x}"
