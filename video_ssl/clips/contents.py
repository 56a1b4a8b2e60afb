"""What bytes a video is made of, identified cheaply (size, beginning and end) or in full.

The cheap key finds copies of a video under other names, and nearly every change; only the full digest finds all.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.decoders.sources import LocalVideo, locate
from video_ssl.datasets.parts import divide_parts
from video_ssl.datasets.paths import PICTURE_SUFFIXES, natural_key
from video_ssl.datasets.table import Record

_EDGE_BYTES = 64 * 2**10
_CHUNK_BYTES = 2**20
#: (path, offset, bytes)
_Part = tuple[str, int, int]


def content_key(record: Record) -> str | None:
    """Returns `SIZE:DIGEST` of the beginning and end of a video, equal for copies; None where it cannot be read.

    Of a folder of frames: of the sizes of all frames in order, and the first and the last one.
    """
    return _of_record(record, whole=False)


def content_digest(record: Record) -> str | None:
    """Returns `SIZE:DIGEST` of all bytes of a video, or of all frames of a folder; None where it cannot be read."""
    return _of_record(record, whole=True)


def _of_record(record: Record, *, whole: bool) -> str | None:
    span = None
    if record.byte_offset is not None and record.byte_size is not None:
        span = (record.byte_offset, record.byte_size)
    try:
        with contextlib.ExitStack() as stack:
            parts: tuple[_Part, ...] = ()
            for source in divide_parts(record.source):
                place = locate(source, byte_range=span)
                stack.callback(place.release)
                parts += tuple(_pieces(place))
            if not whole:
                return _digest(parts, whole=False)
            # Nobody can put the time of the last change of state back.
            times = tuple(os.stat(path).st_ctime_ns for path, _, _ in parts)
            return _kept_digest(record.source, parts, times)
    except (BadVideo, OSError):
        return None


def _pieces(place: LocalVideo) -> Iterator[_Part]:
    if os.path.isdir(place.path):
        names = [n for n in os.listdir(place.path) if n.lower().endswith(PICTURE_SUFFIXES)]
        for name in sorted(names, key=natural_key):
            path = os.path.join(place.path, name)
            yield path, 0, os.path.getsize(path)
    elif place.byte_range is None:
        yield place.path, 0, os.path.getsize(place.path)
    else:
        yield place.path, *place.byte_range


@functools.lru_cache(maxsize=4)
def _kept_digest(source: str, parts: tuple[_Part, ...], times: tuple[int, ...]) -> str:
    """The full digest; stretches of one long file, one after the other, read it once."""
    return _digest(parts, whole=True)


def _digest(parts: tuple[_Part, ...], whole: bool) -> str:
    found = hashlib.blake2b(digest_size=16)
    found.update(repr([size for _, _, size in parts]).encode())
    for number, (path, offset, size) in enumerate(parts):
        if whole:
            _feed(found, path, offset, size)
        elif number in (0, len(parts) - 1):
            _feed(found, path, offset, min(size, _EDGE_BYTES))
            _feed(found, path, offset + max(0, size - _EDGE_BYTES), min(size, _EDGE_BYTES))
    return f"{sum(size for _, _, size in parts)}:{found.hexdigest()}"


def _feed(found: hashlib.blake2b, path: str, offset: int, size: int) -> None:
    with open(path, "rb") as file:
        file.seek(offset)
        while size > 0 and (chunk := file.read(min(size, _CHUNK_BYTES))):
            found.update(chunk)
            size -= len(chunk)
