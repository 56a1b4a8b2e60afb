"""Links of a page to video files, and times as people write them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from video_ssl.datasets.parts import SIGN
from video_ssl.datasets.paths import local_path

__all__ = ["clock", "file_link", "moment_link", "span"]


def clock(seconds: float) -> str:
    """Returns a time as people write it, to the hundredth.

    >>> clock(3.456), clock(75), clock(3725.5)
    ('3.46 s', '1:15.00', '1:02:05.50')
    """
    if seconds < 59.995:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"


def span(start: float | None, end: float | None) -> str:
    """Returns two times in words; `time unknown` where one is None."""
    return "time unknown" if start is None or end is None else f"{clock(start)} to {clock(end)}"


def moment_link(source: str, page: Path, start: float | None, end: float | None) -> str:
    """Returns the address of a video file, at a moment (a media fragment); empty where it is no file of its own."""
    path = local_path(source)
    if SIGN in source or not os.path.isfile(path):
        return ""
    at = "" if start is None or end is None else f"#t={start:.2f},{end:.2f}"
    return file_link(Path(path), page) + at


def file_link(file: Path, page: Path) -> str:
    """Returns the address of a file: relative where it lies beside or below the page, so that both can be moved."""
    place, folder = os.path.realpath(file), os.path.realpath(page.parent)
    if os.path.commonpath([place, folder]) == folder:
        return quote(os.fsencode(os.path.relpath(place, folder)))
    return Path(place).as_uri()
