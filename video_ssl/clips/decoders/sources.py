"""Where the bytes of a source lie: files, members of tars, records, folders of frames, and URIs through the cache.

`locate` turns `Record.source` into a local path, with a range of bytes where the video lies inside of a tar.  Nothing
here decodes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, cast

from video_ssl.clips.decoders.reader import BadVideo, Reader, SlowVideo
from video_ssl.datasets.archives.array_records import (
    HeldBytes,
    RecordProblem,
    divide_record,
    read_video,
)
from video_ssl.datasets.archives.tars import TarProblem, divide_member, find_member
from video_ssl.datasets.cache import CachedFile
from video_ssl.datasets.parts import SIGN
from video_ssl.datasets.paths import PICTURE_SUFFIXES, SOUND_SUFFIXES, local_path
from video_ssl.datasets.remote.errors import FetchError, SlowFetch
from video_ssl.datasets.remote.fetching import fetch, is_remote
from video_ssl.datasets.table import Record

# Clocks of file systems are no finer than this, and a float64 of seconds since 1970 is exact to 0.2 microseconds.
_MTIME_TOLERANCE_SEC = 0.002


@dataclass(frozen=True, kw_only=True)
class LocalVideo:
    """A video on the local disk.

    Attributes:
        path: a file, or a folder of frames.
        byte_range: (offset, size) within the file; the whole of it if None.
        name: the source as the user wrote it; what errors call the video.
        is_frames: a folder of frames, or one picture.
        is_sound: a file of sound alone, by its name.
    """

    path: str
    byte_range: tuple[int, int] | None
    name: str
    is_frames: bool
    is_sound: bool = False
    _cached: CachedFile | HeldBytes | None = field(default=None, repr=False)

    def release(self) -> None:
        """Gives a fetched file back to the cache, which may then delete it."""
        if self._cached is not None:
            self._cached.release()

    def keep_until_closed(self, reader: Reader) -> Reader:
        """Returns the reader, or one that releases the fetched file when it is closed."""
        return reader if self._cached is None else cast(Reader, _Releasing(reader, self._cached))


class _Releasing:
    """A reader that gives its file back to the cache after closing."""

    def __init__(self, reader: Reader, cached: CachedFile | HeldBytes) -> None:
        self._reader = reader
        self._cached = cached

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_reader":
            raise AttributeError(name)
        return getattr(self._reader, name)

    def close(self) -> None:
        self._reader.close()
        self._cached.release()

    def __enter__(self) -> _Releasing:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def locate(
    source: str, *, byte_range: tuple[int, int] | None = None, timeout_sec: float | None = None
) -> LocalVideo:
    """Returns where the video is on the local disk, fetched first if `source` is a URI.

    Args:
        source: see `video_ssl.clips.reading.open_video`.
        byte_range: (offset, size) of the video in its file, if known; of a remote tar only these bytes are fetched.
        timeout_sec: longest time to fetch; None gives up only when nothing comes for a minute.

    Raises:
        BadVideo: no such file, URI or member, or one that takes too long.
        Unreachable: a network or server that is down: nothing is known about the video.
    """
    shard, index = divide_record(source)
    if index is not None:
        return _locate_record(source, shard, index, timeout_sec)
    holder, member = divide_member(source)
    inner = source if member is None else member
    is_picture = inner.lower().endswith(PICTURE_SUFFIXES)
    cached = None
    try:
        if is_remote(holder):
            cached = fetch(holder, byte_range=byte_range, timeout_sec=timeout_sec)
            path, within = cached.path, None
        else:
            path, within = local_path(holder), byte_range
        if member is not None and byte_range is None:
            within = find_member(path, member)
    except FetchError as err:
        raise _not_fetched(source, err) from err
    except TarProblem as err:
        if cached is not None:
            cached.release()
        raise BadVideo(source, str(err)) from err
    is_frames = is_picture or (member is None and os.path.isdir(path))
    return LocalVideo(
        path=path,
        byte_range=within,
        name=source,
        is_frames=is_frames,
        is_sound=inner.lower().endswith(SOUND_SUFFIXES),
        _cached=cached,
    )


def _not_fetched(source: str, err: FetchError) -> BadVideo:
    kind = SlowVideo if isinstance(err, SlowFetch) else BadVideo
    return kind(source, err.reason)


def _locate_record(source: str, shard: str, index: int, timeout_sec: float | None) -> LocalVideo:
    """The video of a record, taken out of its shard; a shard that lies elsewhere is fetched whole."""
    cached = None
    try:
        if is_remote(shard):
            cached = fetch(shard, timeout_sec=timeout_sec)
        content = read_video(local_path(shard) if cached is None else cached.path, index)
    except FetchError as err:
        raise _not_fetched(source, err) from err
    except RecordProblem as err:
        raise BadVideo(source, str(err)) from err
    finally:
        if cached is not None:
            cached.release()
    held = HeldBytes(content)
    return LocalVideo(
        path=held.path,
        byte_range=(0, len(content)),  # the optional backends read files with a name only
        name=source,
        is_frames=source.lower().endswith(PICTURE_SUFFIXES),
        is_sound=source.lower().endswith(SOUND_SUFFIXES),
        _cached=held,
    )


def refuse_changed_file(record: Record) -> None:
    """Raises BadVideo if size or time of the record's file differ from the columns that a scan has written.

    Folders of frames and URIs are not compared; of several files, the reader compares the frames of those it opens.
    """
    if (record.file_size is None and record.file_mtime is None) or SIGN in record.source:
        return
    holder, _ = divide_member(record.source)
    if is_remote(holder):
        return
    try:
        now = os.stat(local_path(holder))
    except OSError:
        return  # the reader says it better
    if os.path.isdir(local_path(holder)):
        return
    changes = []
    if record.file_size is not None and now.st_size != record.file_size:
        changes.append(f"{record.file_size} bytes then, {now.st_size} now")
    if (
        record.file_mtime is not None
        and abs(now.st_mtime - record.file_mtime) > _MTIME_TOLERANCE_SEC
    ):
        changes.append(f"written {now.st_mtime - record.file_mtime:+.3f} s from then")
    if changes:
        raise BadVideo(
            record.source,
            f"has changed since its table was made ({', '.join(changes)}): scan the table again.",
        )
