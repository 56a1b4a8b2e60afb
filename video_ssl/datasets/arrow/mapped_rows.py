"""Row numbers of a selection, kept as a file of the cache so that worker processes map them and copy nothing."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.datasets.arrow.checks import is_known, remember
from video_ssl.datasets.cache import cache_folder
from video_ssl.files import written_aside

log = logging.getLogger(__name__)

_MARK_SEC = 24 * 3600


def map_rows(rows: np.ndarray) -> Path | np.ndarray:
    """Returns the file of the cache that holds the row numbers, or the rows themselves where it cannot be written."""
    path = tables_folder() / f"rows-{digest_of(np.ascontiguousarray(rows).data)}.npy"
    try:
        if path.is_file():
            mark_used(path)
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside, open(aside, "wb") as file:
            np.save(file, rows)
    except OSError as err:
        log.warning("a selection is copied to every worker: %s cannot be written (%s)", path, err)
        return rows
    return path


def tables_folder() -> Path:
    """Returns where the cache keeps tables and selections."""
    return cache_folder() / "tables"


def mark_used(path: Path) -> None:
    """Puts the time of a file to now, once a day: what is known about it goes by its times."""
    with contextlib.suppress(OSError):
        if time.time() - path.stat().st_mtime > _MARK_SEC:
            known = [what for what in ("arrow", "table") if is_known(path, what)]
            os.utime(path)
            for what in known:
                remember(path, what)


def digest_of(content: Any) -> str:
    """Returns 40 hexadecimal digits that name some bytes."""
    return hashlib.sha256(content).hexdigest()[:40]
