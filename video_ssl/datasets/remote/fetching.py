"""Files that lie elsewhere: fetched with fsspec into the local cache, whole or a range of bytes, within a time limit.

A URI is taken to name the same bytes for ever: what is in the cache is not compared with its source again.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import logging
import os
import queue
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from video_ssl.datasets import cache
from video_ssl.datasets.cache import CachedFile, CacheError, cache_folder, cache_limit_bytes
from video_ssl.datasets.remote.errors import (
    URI,
    FetchError,
    MissingPackage,
    SlowFetch,
    Unreachable,
    explained,
    redacted,
)

log = logging.getLogger(__name__)

_CHUNK_BYTES = 2**20
_BLOCK_BYTES = 16 * 2**20
# Without a limit for the whole, a connection that brings nothing for so long is given up.
_STALL_SEC = 60.0
# Waits before a connection that broke, or a server that is down, is tried again; a server may ask for longer.
_WAITS_SEC = (0.5, 1.0, 2.0, 4.0)
_LONGEST_WAIT_SEC = 60.0
_PROBE_SEC = 3.0


def is_remote(source: str) -> bool:
    """Returns whether the source is a URI other than `file://`."""
    return URI.match(source) is not None and not source.startswith("file://")


def fetch(
    uri: str, *, byte_range: tuple[int, int] | None = None, timeout_sec: float | None = None
) -> CachedFile:
    """Returns the local copy of a URI, made if it is not in the cache yet; release it after use.

    Several processes may ask for the same URI at once: one of them fetches it.

    Args:
        uri: s3://, gs://, http(s)://, memory:// and whatever else fsspec knows.
        byte_range: (offset, size) to fetch; the copy then holds these bytes only.
        timeout_sec: longest time; None gives up only when nothing comes for a minute.

    Raises:
        FetchError: not there, not readable, incomplete, larger than the cache, or too slow.
        Unreachable: the network or the server is down, after some tries; the file may be fine.
        MissingPackage: fsspec, or its package for this kind of URI, is not installed.
        CacheError: the cache folder cannot be written.
        ValueError: $VIDEO_SSL_CACHE_GIB is no positive number.
    """
    folder, limit = cache_folder() / "fetched", cache_limit_bytes()
    key = hashlib.sha256(f"{uri}\n{byte_range}".encode()).hexdigest()[:40]
    suffix = os.path.splitext(re.sub(r"[?#].*", "", uri))[1]
    path = folder / (key + (suffix if re.fullmatch(r"\.\w{1,8}", suffix) else ""))
    clock = _Clock(uri, timeout_sec)
    while True:
        found = cache.take(path)
        if found is not None:
            return found
        try:
            file = cache.claim(path, clock.deadline)
        except TimeoutError as err:
            raise Unreachable(
                uri, f"another process is fetching it for {clock.limit_sec:g} s."
            ) from err
        if file is None:
            continue
        try:
            _fill(file, uri, byte_range, clock, folder, limit)
            cache.publish(file, path)
        except OSError as err:
            cache.abandon(file, path)
            if isinstance(err, (CacheError, Unreachable)):
                raise
            raise CacheError(folder, err) from err
        except BaseException:
            cache.abandon(file, path)
            raise


def open_uri(uri: str) -> IO[bytes]:
    """Returns a file that reads from the URI at the requested positions, without a copy on the disk.

    Raises:
        FetchError, MissingPackage: see `fetch`.
    """
    with _reasons(uri):
        filesystem, path = _filesystem(uri)
        opened: IO[bytes] = filesystem.open(path, "rb")
        return opened


def list_uris(pattern: str) -> list[str]:
    """Returns the URIs that a glob pattern matches, sorted.

    Raises:
        FetchError, MissingPackage: see `fetch`.
    """
    with _reasons(pattern):
        filesystem, path = _filesystem(pattern)
        return sorted(str(filesystem.unstrip_protocol(found)) for found in filesystem.glob(path))


@dataclass(kw_only=True)
class _Clock:
    """How long a fetch may still take, and when something has come last."""

    uri: str
    timeout_sec: float | None
    deadline: float = field(init=False)

    def __init__(self, uri: str, timeout_sec: float | None) -> None:
        self.uri, self.timeout_sec = uri, timeout_sec
        self._begun = self._came = time.monotonic()
        self.deadline = self._begun + (float("inf") if timeout_sec is None else timeout_sec)

    @property
    def limit_sec(self) -> float:
        return _STALL_SEC if self.timeout_sec is None else self.timeout_sec

    def patience_sec(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise self.too_slow()
        return min(left, _STALL_SEC)

    def something_came(self) -> None:
        self._came = time.monotonic()

    def too_slow(self) -> FetchError | Unreachable:
        """The fault of the file if something came, or if the server answers to other questions."""
        reason = f"takes longer than {self.limit_sec:g} s to fetch"
        silent = time.monotonic() - self._came
        if silent < self.limit_sec / 2 or _answers(self.uri, min(_PROBE_SEC, self.limit_sec / 2)):
            return SlowFetch(self.uri, f"{reason}.")
        return Unreachable(self.uri, f"it {reason}, and nothing came for {silent:.0f} s.")

    def allows(self, wait_sec: float) -> bool:
        return time.monotonic() + wait_sec < self.deadline


def _fill(
    file: IO[bytes],
    uri: str,
    byte_range: tuple[int, int] | None,
    clock: _Clock,
    folder: Path,
    limit: int,
) -> None:
    """Writes the bytes of the URI, after making room for them; tries again where it cannot be reached now."""
    for attempt in itertools.count():
        file.seek(0)
        file.truncate()
        stream = _Stream(uri, byte_range)
        try:
            _copy(stream, file, clock, folder, limit)
            return
        except (FetchError, Unreachable) as err:
            wait = _wait_before(attempt, err, may_recover=stream.may_recover)
            if wait is None or not clock.allows(wait):
                raise
            log.warning("%s: %s (trying again in %g s)", redacted(uri), err.reason, wait)
            time.sleep(wait)
        finally:
            stream.stop()


def _wait_before(attempt: int, err: FetchError | Unreachable, *, may_recover: bool) -> float | None:
    """Seconds to wait before the next try, or None if there is none."""
    if attempt >= len(_WAITS_SEC) or not (may_recover or isinstance(err, Unreachable)):
        return None
    asked = getattr(err, "retry_after_sec", None) or 0.0
    return None if asked > _LONGEST_WAIT_SEC else max(_WAITS_SEC[attempt], asked)


def _copy(stream: _Stream, file: IO[bytes], clock: _Clock, folder: Path, limit: int) -> None:
    written, expected = 0, stream.next_item(clock)
    if expected is not None and expected > limit:
        raise FetchError(stream.uri, _too_large(expected, limit))
    cache.make_room(folder, expected or 0, limit)
    while chunk := stream.next_item(clock):
        clock.something_came()
        if expected is None and written // _BLOCK_BYTES != (written + len(chunk)) // _BLOCK_BYTES:
            cache.make_room(folder, _BLOCK_BYTES, limit)
        written += len(chunk)
        if written > limit:
            raise FetchError(stream.uri, _too_large(written, limit))
        file.write(chunk)
    file.flush()
    if expected is None:
        cache.make_room(folder, 0, limit)
    elif written != expected:
        stream.may_recover = True
        raise FetchError(stream.uri, f"came incomplete: {written} bytes of {expected}.")


def _answers(uri: str, limit_sec: float) -> bool:
    """Whether the server of a URI says anything at all; False where this cannot be asked."""
    if not uri.startswith(("http://", "https://")):
        return False
    place = urllib.parse.urlsplit(uri)
    host = place.netloc.rpartition("@")[2]
    question = urllib.request.Request(f"{place.scheme}://{host}/", method="HEAD")
    try:
        with urllib.request.urlopen(question, timeout=limit_sec):
            return True
    except urllib.error.HTTPError as err:
        err.close()
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _too_large(size: int, limit: int) -> str:
    return (
        f"has {size} bytes or more, but the whole cache may hold {limit} (${cache.LIMIT_ENVIRONMENT}): "
        "raise the limit."
    )


class _Stream:
    """Reads a URI in a thread of its own, since no library promises to come back from a connection that stalls.

    First comes the size (None if unknown), then the chunks, then b"".
    """

    def __init__(self, uri: str, byte_range: tuple[int, int] | None) -> None:
        self.uri = uri
        self.may_recover = False
        self._byte_range = byte_range
        self._items: queue.Queue[Any] = queue.Queue(maxsize=4)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="video-ssl-fetch").start()

    def next_item(self, clock: _Clock) -> Any:
        try:
            item = self._items.get(timeout=clock.patience_sec())
        except queue.Empty:
            raise clock.too_slow() from None
        if isinstance(item, BaseException):
            self.may_recover = _may_recover(item)
            raise explained(self.uri, item) from item
        return item

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        try:
            for item in self._read():
                if not self._put(item):
                    return
        except BaseException as err:
            self._put(err)

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self._items.put(item, timeout=0.2)
                return True
        return False

    def _read(self) -> Iterator[Any]:
        filesystem, path = _filesystem(self.uri)
        if self._byte_range is not None:
            offset, size = self._byte_range
            content = filesystem.cat_file(path, start=offset, end=offset + size)
            if len(content) > size:  # a server that does not know ranges sends everything
                content = content[offset : offset + size]
            yield size
            yield from (content, b"") if content else (b"",)
            return
        # Over HTTP block_size=0 streams; elsewhere large blocks keep the number of requests small.
        block = 0 if self.uri.startswith(("http://", "https://")) else _BLOCK_BYTES
        with filesystem.open(path, "rb", block_size=block) as file:
            yield getattr(file, "size", None)
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
            yield b""


def _filesystem(uri: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError as err:
        raise MissingPackage(
            f"to read {redacted(uri)} the package fsspec is needed: pip install 'video_ssl[remote]'"
        ) from err
    scheme = uri.partition("://")[0]
    try:
        filesystem, path = url_to_fs(uri)
    except ImportError as err:
        package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "")
        hint = f"pip install {package}" if package else f"pip install 'video_ssl[remote]' ({err})"
        raise MissingPackage(f"to read {scheme}:// another package is needed: {hint}") from err
    return filesystem, path


@contextlib.contextmanager
def _reasons(uri: str) -> Iterator[None]:
    """Turns whatever a file system raises into what it means; see `remote.errors.explained`."""
    try:
        yield
    except (FetchError, Unreachable, MissingPackage):
        raise
    except Exception as err:
        raise explained(uri, err) from err


def _may_recover(err: BaseException) -> bool:
    return not isinstance(err, (FileNotFoundError, PermissionError, MissingPackage, ValueError))
