"""What can be said about a video file without a decoder: that it is missing, empty, or shorter than it claims."""

from __future__ import annotations

import os
import struct

from video_ssl.clips.reading import BadVideo


def refuse_unreadable_file(path: str) -> None:
    """Raises BadVideo if `path` is missing, not a regular file, empty, or a cut-off mp4, mov or AVI.  URIs pass."""
    if "://" in path:
        return
    if os.path.isdir(path):
        raise BadVideo(path, "is a folder, not a video file.")
    if not os.path.exists(path):
        raise BadVideo(path, "does not exist.")
    if not os.path.isfile(path):  # a pipe would block for ever
        raise BadVideo(path, "is not a regular file.")
    try:
        size = os.path.getsize(path)
        declared = _declared_size(path, size)
    except PermissionError as err:
        raise BadVideo(path, "may not be read (permission denied).") from err
    except OSError as err:
        raise BadVideo(path, f"cannot be read ({err.strerror}).") from err
    if size == 0:
        raise BadVideo(path, "is empty (0 bytes).")
    if declared > size:
        raise BadVideo(path, f"is cut off: {size} bytes of {declared}.")


def _declared_size(path: str, size: int) -> int:
    """The size that the outermost structure of an mp4, mov or AVI file claims; 0 for other formats."""
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return int(struct.unpack("<I", head[4:8])[0]) + 8
        if head[4:8] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return 0
        at = 0
        while at + 8 <= size:
            file.seek(at)
            box = file.read(16)
            length = int(struct.unpack(">I", box[:4])[0])
            if length == 1 and len(box) == 16:
                length = int(struct.unpack(">Q", box[8:16])[0])
            if length < 8 or not box[4:8].strip(b"\xa9").isalnum():  # runs to the end, or padding
                return 0
            at += length
        return at
