"""Which decoder reads which file: a library is used on a file only where it returns the right frames.

PyAV is right on every file that it reads.  decord and torchcodec are right on clean ones; what they get wrong is listed
here by property (`wrong_on`), and in tests/clips/test_backends.py by file.  `video-ssl scan --exact` proves it per file
by decoding, and writes the proven ones into the column `exact`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os

from video_ssl.clips.decoders.files.facts import FileFacts, file_facts
from video_ssl.clips.decoders.libraries.library_reader import MissingBackend
from video_ssl.clips.decoders.reader import AUTO, READERS
from video_ssl.clips.decoders.sources import locate
from video_ssl.datasets.table import Record
from video_ssl.recipes import nearest

log = logging.getLogger(__name__)

OPTIONAL = ("decord", "torchcodec")
# Fastest first, for clips of 16 frames with one thread, by `video-ssl bench readers` (docs/decoding.md).  PyAV leads:
# its reader leaves out the pictures that nothing else refers to.  Where that changes, change this line.
BY_SPEED = ("pyav", "torchcodec", "decord")

_CONTAINERS = {"decord": ("mp4", "matroska"), "torchcodec": ("mp4", "matroska", "gif")}
_CODECS = {"decord": ("h264", "vp9"), "torchcodec": ("h264", "hevc", "av1", "vp9", "gif")}
_said: set[tuple[str, str]] = set()


def choose_backend(requested: str, record: Record, *, timeout_sec: float | None = None) -> str:
    """Returns the backend to read the record with: `requested` where it is exact on that file, else "pyav".

    Where the column `exact` is filled it decides.  Elsewhere "auto" is "pyav", and a backend named explicitly is
    refused if the file has a property on which it is known to be wrong; the file is demultiplexed to find out, unless
    a column says already.  Every reason for a refusal is logged once.

    Args:
        requested: a key of `READERS`, or "auto": the fastest one that is installed and proven exact.
        timeout_sec: longest time to fetch a file that must be looked at and lies elsewhere.

    Raises:
        ValueError: unknown backend.
        MissingBackend: a backend named explicitly that is not installed.
        BadVideo: a file that had to be looked at and is none.
    """
    if requested not in (AUTO, *READERS):
        known = [AUTO, *sorted(READERS)]
        raise ValueError(
            f"no decoder backend {requested!r}: choose one of {known}.{nearest(requested, known)}"
        )
    if requested == "pyav":
        return requested
    proven = None if record.exact is None else [name for name in record.exact.split(",") if name]
    if requested == AUTO:
        exact = ("pyav", *(proven or ()))
        return next(name for name in BY_SPEED if name in exact and missing(name) is None)
    problem = missing(requested)
    if problem is not None:
        raise MissingBackend(problem)
    if proven is not None:
        reason = None if requested in proven else "the scan has not proven it exact"
    else:
        reason = _wrong_by_columns(requested, record) or _wrong_by_file(
            requested, record, timeout_sec
        )
    if reason is None:
        return requested
    if (requested, reason) not in _said:
        _said.add((requested, reason))
        log.info("%s is read with pyav, not %s, like others: %s", record.source, requested, reason)
    return "pyav"


@functools.cache
def missing(backend: str) -> str | None:
    """Returns why the backend cannot be used here, with what to do, or None if it can."""
    if backend == "pyav":
        return None
    if importlib.util.find_spec(backend) is None:
        return f"the backend {backend} is not installed: pip install 'video_ssl[{backend}]'"
    module = {"torchcodec": "torchcodec.decoders"}.get(backend, backend)
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as err:
        hint = "apt install ffmpeg (versions 4 to 8)" if backend == "torchcodec" else "reinstall it"
        first = (str(err).strip().splitlines() or [type(err).__name__])[0]
        return f"the backend {backend} does not load ({first[:120]}): {hint}"
    return None


def wrong_on(backend: str, facts: FileFacts) -> str | None:
    """Returns why the backend may return wrong frames of a file with these facts, or None if it is right on such."""
    if backend == "pyav":
        return None
    if facts.container not in _CONTAINERS[backend]:
        return f"it is wrong on {facts.container}"
    if facts.codec not in _CODECS[backend]:
        return f"it is wrong on {facts.codec}"
    if facts.edit_list:
        return "it is wrong where an edit list hides frames"
    if not facts.starts_with_key:
        return "it is wrong where the first key frame is missing"
    if "422" in facts.pix_fmt and backend == "decord":
        return "its colors differ on 4:2:2 that is turned"
    if facts.open_gop and backend == "decord":
        return "it is wrong on open GOPs"
    if "10" in facts.pix_fmt or "12" in facts.pix_fmt:
        return f"its colors differ on {facts.pix_fmt}"
    if facts.odd_size and "444" not in facts.pix_fmt:
        return "its colors differ where width or height is odd"
    return None


def _wrong_by_columns(backend: str, record: Record) -> str | None:
    if record.container is not None and record.container not in _CONTAINERS[backend]:
        return f"it is wrong on {record.container}"
    if record.codec is not None and record.codec not in _CODECS[backend]:
        return f"it is wrong on {record.codec}"
    return "it is wrong where an edit list hides frames" if record.edit_list else None


def _wrong_by_file(backend: str, record: Record, timeout_sec: float | None) -> str | None:
    byte_range = None
    if record.byte_offset is not None and record.byte_size is not None:
        byte_range = (record.byte_offset, record.byte_size)
    place = locate(record.source, byte_range=byte_range, timeout_sec=timeout_sec)
    try:
        if place.is_frames:
            return None
        if place.byte_range is not None:
            return "it cannot read a part of a file"
        status = os.stat(place.path) if os.path.isfile(place.path) else None
        version = None if status is None else (status.st_size, status.st_mtime_ns)
        return wrong_on(backend, _facts_of(place.path, place.name, version))
    finally:
        place.release()


@functools.lru_cache(maxsize=4096)
def _facts_of(path: str, name: str, version: tuple[int, int] | None) -> FileFacts:
    """The facts of a file; looked up again when the file has changed."""
    from video_ssl.clips.decoders.files.checks import refuse_unreadable_file

    refuse_unreadable_file(path, name=name)
    return file_facts(path, name=name)
