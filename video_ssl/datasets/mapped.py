"""Tables and selections that were made in memory, kept as files so that worker processes map them and copy nothing."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from video_ssl.datasets.arrow.checks import remember
from video_ssl.datasets.arrow.files import write_arrow
from video_ssl.datasets.arrow.mapped_rows import digest_of, mark_used, tables_folder
from video_ssl.datasets.table import Table, TableError

log = logging.getLogger(__name__)

_FORMAT = 4  # older ones merged members of tars whose names hold dots, or passed over subtitles
_SMALL_BYTES = 2**20
_KEEP_SEC = 30 * 24 * 3600


def open_mapped(file: Path, make: Callable[[], Table], *, root: Path, what: str = "") -> Table:
    """Returns `make()`, kept as an Arrow file in the cache as long as `file` does not change.

    Small files are read anew every time.  Where the cache cannot be written the table stays in memory.

    Args:
        file: what the table is made from.
        make: reads it; sources must be relative to `root`.
        root: the folder that relative sources are relative to.
        what: whatever else the result depends on.
    """
    state = file.stat()
    if state.st_size < _SMALL_BYTES:
        return make()
    key = [os.path.abspath(file), state.st_size, state.st_mtime_ns, str(root), what]
    return kept(key, make, root=root)


def kept(key: list[Any], make: Callable[[], Table], *, root: Path) -> Table:
    """Returns the table that the cache holds under `key`, or `make()`, which it holds from then on."""
    path = tables_folder() / f"{digest_of(repr([_FORMAT, key]).encode())}.arrow"
    if path.is_file():
        try:
            table = Table.open(path, root=root)
            mark_used(path)
            return table
        except TableError as err:
            log.warning("%s: it is made again", err)
            with contextlib.suppress(OSError):
                path.unlink()
    return _keep(make(), path)


def mapped(table: Table) -> Table:
    """Returns a large table in memory as one that is mapped from a file in the cache; others unchanged."""
    if table.path is not None or table.arrow.nbytes < _SMALL_BYTES:
        return table
    hash_ = hashlib.sha256(str(table.arrow.schema.metadata).encode())
    for name in table.column_names:
        hash_.update(name.encode())
        for chunk in table.arrow[name].chunks:
            _hash_array(chunk, hash_)
    return _keep(table, tables_folder() / f"{hash_.hexdigest()[:40]}.arrow")


def _keep(table: Table, path: Path) -> Table:
    try:
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            _forget_old(path.parent)
            write_arrow(table.arrow, path)
            remember(path, "table")
        mark_used(path)
    except OSError as err:
        log.warning("the table is copied to every worker: %s cannot be written (%s)", path, err)
        return table
    return Table.open(path, root=table.root)


def _forget_old(folder: Path) -> None:
    """Deletes files that nobody has opened for a month."""
    for entry in os.scandir(folder):
        with contextlib.suppress(OSError):
            if entry.is_file() and time.time() - entry.stat().st_mtime > _KEEP_SEC:
                os.unlink(entry.path)


def _hash_array(array: Any, hash_: Any) -> None:
    hash_.update(f"{array.type} {len(array)} {array.offset}".encode())
    for buffer in array.buffers():
        if buffer is not None:
            hash_.update(buffer)
