"""The page of `video-ssl search`: the clip, and the moments that are like it, to be looked at and played.

Pictures are inside the file, a few small frames of every moment; the videos themselves are only linked, as files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

from video_ssl.datasets.parts import SIGN
from video_ssl.datasets.paths import local_path
from video_ssl.datasets.table import Record
from video_ssl.explore.archive import Archive
from video_ssl.explore.hits import Moment
from video_ssl.explore.pages.pictures import MovingPicture, moving_picture
from video_ssl.explore.pages.rendering import write_page
from video_ssl.explore.tracks import Track, record_of

logger = logging.getLogger(__name__)

__all__ = ["write_search_page"]

#: Moments with pictures, some 30 kB each; further ones are lines.
_WITH_PICTURES = 60


@dataclass(frozen=True, kw_only=True)
class ShownMoment:
    """A moment on the page.

    Attributes:
        title: id of its video; `file` and `clip`: links to the video, at the moment, and to the clip that was cut.
        when: its times in words.
        cosine: the mean over the frames of the clip.
        picture: None where the video cannot be read.
        left, width: where it lies in its video, in percent; None where times are unknown.
        length: of the video, in words.
        play_sec: how long it lasts.
    """

    title: str
    when: str
    cosine: str = ""
    picture: MovingPicture | None = None
    file: str = ""
    clip: str = ""
    left: float | None = None
    width: float = 0.0
    length: str = ""
    play_sec: float = 1.0


def write_search_page(
    path: Path,
    query: Track,
    moments: Sequence[Moment],
    archive: Archive,
    *,
    files: Sequence[Path | None],
    notes: Sequence[str],
) -> Path:
    """Returns the HTML file `path` that was written.

    Args:
        query: the clip.
        moments: what was found, best first.
        files: the clips that were cut of them, None for those that were not.
        notes: in sentences without a full stop.
    """
    shown = [
        _shown(moment, archive, file, path, with_picture=rank < _WITH_PICTURES)
        for rank, (moment, file) in enumerate(zip(moments, files, strict=True))
    ]
    size = write_page(
        path,
        "search.html.j2",
        verb="search",
        origin=archive.path or "features in memory",
        clip=_clip(query, path),
        moments=shown[:_WITH_PICTURES],
        further=shown[_WITH_PICTURES:],
        no_pictures=bool(shown) and all(moment.picture is None for moment in shown),
        notes=notes,
        subtitle=f"{len(moments)} moments in {len(archive.ids)} videos, {archive.num_frames} frames",
    )
    logger.info("%s: %.1f MB, pictures inside", path, size / 1e6)
    return path


def _clip(query: Track, page: Path) -> ShownMoment:
    known = bool(np.isfinite(query.times).all())
    start, end = (float(query.times[0]), float(query.times[-1])) if known else (None, None)
    return ShownMoment(
        title=query.id,
        when=_when(start, end),
        picture=_picture(query.record, start, end),
        file=_link(query.record.source, page, start, end) if query.record else "",
        play_sec=_lasts(start, end),
    )


def _shown(
    moment: Moment, archive: Archive, file: Path | None, page: Path, *, with_picture: bool
) -> ShownMoment:
    start, end = moment.start_sec, moment.end_sec
    record = record_of(archive.features, moment.id)
    video = int(np.flatnonzero(archive.ids == moment.id)[0])
    times = archive.times(archive.frames_of(video))
    left, width, length = None, 0.0, ""
    if start is not None and end is not None and np.isfinite(times).all():
        first, whole = float(times[0]), max(float(times[-1] - times[0]), 1e-9)
        left, width = 100 * (start - first) / whole, 100 * (end - start) / whole
        length = f"of {clock(float(times[-1]))}"
    return ShownMoment(
        title=moment.id,
        when=_when(start, end),
        cosine=f"{1 - moment.cost:.3f}",
        picture=_picture(record, start, end) if with_picture else None,
        file=_link(record.source, page, start, end) if record else "",
        clip=_relative(file, page) if file else "",
        left=left,
        width=width,
        length=length,
        play_sec=_lasts(start, end),
    )


def _picture(record: Record | None, start: float | None, end: float | None) -> MovingPicture | None:
    if record is None or start is None or end is None:
        return None
    return moving_picture(record, start, end)


def _lasts(start: float | None, end: float | None) -> float:
    return 1.0 if start is None or end is None else max(round(end - start, 2), 0.2)


def _when(start: float | None, end: float | None) -> str:
    return "time unknown" if start is None or end is None else f"{clock(start)} to {clock(end)}"


def clock(seconds: float) -> str:
    """Returns a time as people write it, to the hundredth.

    >>> clock(3.456), clock(75), clock(3725.5)
    ('3.46 s', '1:15.00', '1:02:05.50')
    """
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds, 2), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:05.2f}" if hours else f"{minutes}:{rest:05.2f}"


def _link(source: str, page: Path, start: float | None, end: float | None) -> str:
    """The address of a video file, at the moment (a media fragment); empty where it is no file of its own."""
    path = local_path(source)
    if SIGN in source or not os.path.isfile(path):
        return ""
    at = "" if start is None or end is None else f"#t={start:.2f},{end:.2f}"
    return _relative(Path(path), page) + at


def _relative(file: Path, page: Path) -> str:
    """Relative where both lie in one folder, so that they can be moved together."""
    place, folder = os.path.realpath(file), os.path.realpath(page.parent)
    if os.path.commonpath([place, folder]) == folder:
        return quote(os.fsencode(os.path.relpath(place, folder)))
    return Path(place).as_uri()
