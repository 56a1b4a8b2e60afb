"""Arrow files are looked through before anything relies on them: a damaged or hostile one must not end the process.

Arrow trusts the lengths and offsets in a file.  A file whose offsets lead elsewhere is read without an error, and the
process ends with SIGSEGV, or shows what lies in memory beside it, once somebody asks for a value.  `checked_arrow`
therefore validates all of a file (`validate(full=True)`) when it is opened for the first time.

That finds no value that is wrong but possible: a flipped bit in a label.  Files of ours carry a digest of all of their
other bytes, in the metadata of their schema (`sealed`), which is compared, too.

Both read the whole file once.  What was found is kept in the cache by name, size and time of change, so that the next
opening is a matter of a millisecond.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import secrets
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.cache import cache_folder

#: Key of the schema's metadata under which the digest stands, as 64 hexadecimal digits.
DIGEST_KEY = b"video_ssl.sha256"
_LENGTH = 64
_SMALL_BYTES = 2**20
_CHUNK_BYTES = 2**24
_KEEP_SEC = 90 * 24 * 3600
# Compressed buffers: more than this, and more than so many times the file, is no table but a bomb.
_LARGE_BYTES = 2**32
_MOST_TIMES_LARGER = 100


class BrokenArrow(ValueError):
    """A file that is no Arrow file, or one that is damaged; the text goes on behind its name."""


def checked_arrow(path: Path) -> tuple[Any, pa.Table]:
    """Returns (the open reader, all rows) of an Arrow IPC file, memory-mapped, once all of it is known to be sound.

    Raises:
        BrokenArrow: not an Arrow file, damaged, or with bytes that have changed since we have written it.
        FileNotFoundError: no such file.
    """
    try:
        if os.path.isdir(path):
            raise BrokenArrow("is a folder, not an Arrow file.")
        before = _state(path)
        reader = pa.ipc.open_file(pa.memory_map(str(path), "r"))
        if _is_known(path, before, "arrow"):
            return reader, reader.read_all()
        table = _read_within_bounds(reader, os.path.getsize(path))
        table.validate(full=True)
        digest = (table.schema.metadata or {}).get(DIGEST_KEY, b"")
        if (digest or _is_ours(path)) and _digest(path, digest) != digest:
            raise BrokenArrow(
                "is damaged: its bytes are not those that were written. Copy or make the file again."
            )
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as err:
        reason = str(err).strip().rstrip(".").partition("\n")[0][:300]
        raise BrokenArrow(
            f"is not an Arrow IPC file, or not a complete Arrow file any more ({reason}). Copy or make it again."
        ) from err
    remember(path, "arrow", before)
    return reader, table


def sealed(schema: pa.Schema) -> pa.Schema:
    """Returns a schema with room for the digest, which `seal` puts there when the file is complete."""
    token = secrets.token_hex(_LENGTH // 2).encode()
    return schema.with_metadata({**(schema.metadata or {}), DIGEST_KEY: token})


def seal(path: Path, schema: pa.Schema) -> None:
    """Writes the digest into a complete file whose schema is `sealed`; the same contents give the same bytes."""
    token = schema.metadata[DIGEST_KEY]
    digest = _digest(path, token)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        for at in _places(content, token):
            content[at : at + _LENGTH] = digest
        content.flush()


def unsealed(table: pa.Table) -> pa.Table:
    """Returns the table without the digest, which does not hold for a table that is written elsewhere."""
    found = table.schema.metadata or {}
    if DIGEST_KEY not in found:
        return table
    return table.replace_schema_metadata({k: v for k, v in found.items() if k != DIGEST_KEY})


def is_known(path: Path, what: str) -> bool:
    """Returns whether `remember` was called with `what` for the file as it is now."""
    with contextlib.suppress(OSError):
        return _is_known(path, _state(path), what)
    return False


def remember(path: Path, what: str, state: tuple[Any, ...] | None = None) -> None:
    """Keeps in the cache that `what` has been found out about a large file; where that cannot be written, nowhere."""
    with contextlib.suppress(OSError):
        state = _state(path) if state is None else state
        if state[1] >= _SMALL_BYTES:
            mark = _mark(path, state, what)
            mark.parent.mkdir(parents=True, exist_ok=True)
            _forget_old(mark.parent)
            mark.touch()


def _forget_old(folder: Path) -> None:
    for entry in os.scandir(folder):
        if time.time() - entry.stat().st_mtime > _KEEP_SEC:
            os.unlink(entry.path)


def _is_known(path: Path, state: tuple[Any, ...], what: str) -> bool:
    return state[1] >= _SMALL_BYTES and _mark(path, state, what).exists()


def _mark(path: Path, state: tuple[Any, ...], what: str) -> Path:
    name = hashlib.sha256(repr((os.path.realpath(path), *state, what)).encode()).hexdigest()[:40]
    return cache_folder() / "sound" / name[:2] / name


def _state(path: Path) -> tuple[int, int, int, int]:
    """(inode, size, times of change): the last one changes whoever puts the others back."""
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read_within_bounds(reader: Any, size: int) -> pa.Table:
    """All rows; stops where compressed buffers become so large that they are meant to fill the memory."""
    batches = []
    total = 0
    for number in range(reader.num_record_batches):
        batches.append(reader.get_batch(number))
        total += batches[-1].nbytes
        if total > max(_LARGE_BYTES, _MOST_TIMES_LARGER * size):
            raise BrokenArrow(
                f"has {size} bytes that expand to more than {total}: that is no table. If it is one, write it "
                "without compression."
            )
    return pa.Table.from_batches(batches, schema=reader.schema)


def refuse_parquet_bomb(file: Any, size: int) -> None:
    """Raises BrokenArrow for a Parquet file that announces more rows or bytes than its size can mean.

    Args:
        file: an open `pyarrow.parquet.ParquetFile`.
        size: its bytes.
    """
    about = file.metadata
    expanded = sum(
        about.row_group(number).total_byte_size for number in range(about.num_row_groups)
    )
    if (
        about.num_rows > _MOST_TIMES_LARGER * size + _SMALL_BYTES
        or about.num_rows < 0
        or expanded > max(_LARGE_BYTES, _MOST_TIMES_LARGER * size)
    ):
        raise BrokenArrow(
            f"has {size} bytes that announce {about.num_rows} rows and expand to {expanded} bytes: that is no table"
        )


def _is_ours(path: Path) -> bool:
    """Whether the schema at the beginning names a digest; that of the footer, which Arrow reads, may have lost it."""
    with open(path, "rb") as file:
        return DIGEST_KEY in file.read(_CHUNK_BYTES)


def _digest(path: Path, token: bytes) -> bytes:
    """SHA-256 of a file in which zeros stand for the digest, as hexadecimal digits."""
    hash_ = hashlib.sha256()
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = 0
        for place in _places(content, token):
            _update(hash_, content, at, place)
            hash_.update(b"0" * _LENGTH)
            at = place + _LENGTH
        _update(hash_, content, at, len(content))
    return hash_.hexdigest().encode()


def _update(hash_: Any, content: Any, begin: int, end: int) -> None:
    for at in range(begin, end, _CHUNK_BYTES):
        hash_.update(content[at : min(at + _CHUNK_BYTES, end)])


def _places(content: Any, token: bytes) -> list[int]:
    """Where the digest stands: in the schema at the beginning, and in its copy in the footer."""
    if len(token) != _LENGTH:
        return []
    first, last = content.find(token), content.rfind(token)
    return sorted({place for place in (first, last) if place >= 0})
