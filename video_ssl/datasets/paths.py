"""Names of files as tables hold them: suffixes, natural order, and paths that are not UTF-8."""

from __future__ import annotations

import os
import re
from urllib.parse import quote, unquote_to_bytes

from video_ssl.datasets.parts import SIGN

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".divx", ".mpg", ".mpeg", ".mpe", ".m1v", ".m2v", ".vob",
    ".ts", ".mts", ".m2ts", ".m2t", ".tod", ".wmv", ".asf", ".flv", ".f4v", ".3gp", ".3g2", ".gif", ".ogv", ".ogm",
    ".rm", ".rmvb", ".mxf", ".dv", ".wtv", ".nut",
)  # fmt: skip
#: Files of sound alone.
SOUND_SUFFIXES = (
    ".wav",
    ".flac",
    ".mp3",
    ".m4a",
    ".aac",
    ".ogg",
    ".oga",
    ".opus",
    ".aif",
    ".aiff",
    ".wma",
    ".mka",
)
# What network storage, archives and file browsers put beside the files of people.
#: What `video-ssl transcode` notes its work in; a folder that holds it is a copy of videos.
TRANSCODE_JOURNAL = ".transcode.jsonl"
_LEFT_BEHIND = {
    "@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "__macosx", "lost+found", "thumbs.db", "ehthumbs.db",
    "desktop.ini", "system volume information",
}  # fmt: skip


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is no data: hidden, or left behind by a system."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Returns a sort key under which `img_2` comes before `img_10`."""
    parts = re.split(r"(\d+)", name)
    return [(1, int(p), p) if p.isdecimal() else (0, 0, p) for p in parts]


def source_of_path(path: str) -> str:
    """Returns the path as a table can hold it.

    Arrow and JSON hold UTF-8 only.  A path that is not (Python gives such bytes as lone surrogates) becomes an absolute
    `file://` URI with %XX escapes, from which `local_path` restores every byte; so does one with the sign that stands
    between several files (`parts.SIGN`).  Other paths are returned as they are.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        pass
    else:
        if SIGN not in path:
            return path
    return "file://" + quote(os.fsencode(os.path.abspath(path)))


def local_path(source: str) -> str:
    """Returns the path of a local source: `file://` URIs decoded, everything else as it is."""
    if source.startswith("file://"):
        return os.fsdecode(unquote_to_bytes(source.removeprefix("file://")))
    return source


def printable(text: str) -> str:
    """Returns the text with bytes that are not UTF-8 as \\\\xNN, for ids."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def at_home(path: str) -> str:
    """Returns the path with a leading `~` or `~user` as the folder that a shell means by it; others as they are.

    A file of that very name that is there keeps it.
    """
    return os.path.expanduser(path) if path.startswith("~") and not os.path.lexists(path) else path
