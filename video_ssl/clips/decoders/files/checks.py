"""What can be found out about a video file without a decoder: that it is missing, empty, or shorter than it claims."""

from __future__ import annotations

import os

from video_ssl.clips.decoders.files.ends import why_unfinished
from video_ssl.clips.decoders.reader import BadVideo


def refuse_unreadable_file(
    path: str, *, byte_range: tuple[int, int] | None = None, name: str | None = None
) -> None:
    """Raises BadVideo if `path` is missing, not a regular file, empty, or does not end where it says.  URIs pass.

    Args:
        path: a local file.
        byte_range: (offset, size) of the video within the file; the whole of it if None.
        name: what errors call the video, `path` if None.
    """
    name = path if name is None else name
    if "://" in path:
        return
    if os.path.isdir(path):
        raise BadVideo(name, "is a folder, not a video file.")
    if not os.path.exists(path):
        raise BadVideo(name, "does not exist.")
    if not os.path.isfile(path):  # a pipe would block for ever
        raise BadVideo(name, "is not a regular file.")
    try:
        whole = os.path.getsize(path)
        offset, size = (0, whole) if byte_range is None else byte_range
        if offset < 0 or size < 0 or offset + size > whole:
            raise BadVideo(
                name, f"lies at bytes {offset}..{offset + size} of a file of {whole} bytes."
            )
        if size == 0:
            raise BadVideo(name, "is empty (0 bytes).")
        unfinished = why_unfinished(path, offset, size)
    except PermissionError as err:
        raise BadVideo(name, "may not be read (permission denied).") from err
    except OSError as err:
        raise BadVideo(name, f"cannot be read ({err.strerror}).") from err
    if unfinished is not None:
        raise BadVideo(name, unfinished)


def ffmpeg_address(path: str, byte_range: tuple[int, int] | None) -> str:
    """Returns what FFmpeg opens to read the whole file, or only `size` bytes of it from `offset` on.

    FFmpeg's own protocols seek without a call back into Python; an absolute path is never taken for a protocol.
    """
    if byte_range is None:
        return path if "://" in path else os.path.abspath(path)
    offset, size = byte_range
    return f"subfile,,start,{offset},end,{offset + size},,:{os.path.abspath(path)}"
