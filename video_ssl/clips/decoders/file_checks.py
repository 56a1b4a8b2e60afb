"""What can be said about a video file without a decoder: that it is missing, empty, or shorter than it claims."""

from __future__ import annotations

import os
import struct

from video_ssl.clips.reading import BadVideo


def refuse_unreadable_file(
    path: str, *, byte_range: tuple[int, int] | None = None, name: str | None = None
) -> None:
    """Raises BadVideo if `path` is missing, not a regular file, empty, or a cut-off mp4, mov or AVI.  URIs pass.

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
        declared = _declared_size(path, offset, size)
    except PermissionError as err:
        raise BadVideo(name, "may not be read (permission denied).") from err
    except OSError as err:
        raise BadVideo(name, f"cannot be read ({err.strerror}).") from err
    if size == 0:
        raise BadVideo(name, "is empty (0 bytes).")
    if declared > size:
        raise BadVideo(name, f"is cut off: {size} bytes of {declared}.")


def _declared_size(path: str, offset: int, size: int) -> int:
    """The size that the outermost structure of an mp4, mov or AVI file claims; 0 for other formats."""
    with open(path, "rb") as file:
        file.seek(offset)
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return int(struct.unpack("<I", head[4:8])[0]) + 8
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        at = 0
        while at + 8 <= size:
            file.seek(offset + at)
            box = file.read(min(16, size - at))
            length = int(struct.unpack(">I", box[:4])[0])
            if length == 1 and len(box) == 16:
                length = int(struct.unpack(">Q", box[8:16])[0])
            if length < 8 or not box[4:8].strip(b"\xa9").isalnum():  # runs to the end, or padding
                return 0
            at += length
        return at


def ffmpeg_address(path: str, byte_range: tuple[int, int] | None) -> str:
    """Returns what FFmpeg opens to read the whole file, or only `size` bytes of it from `offset` on.

    FFmpeg's own protocols seek without a call back into Python; an absolute path is never taken for a protocol.
    """
    if byte_range is None:
        return path if "://" in path else os.path.abspath(path)
    offset, size = byte_range
    return f"subfile,,start,{offset},end,{offset + size},,:{os.path.abspath(path)}"
