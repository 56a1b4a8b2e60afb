"""The page of `video-ssl search`: the clip, text or sound, and the moments like it, to be looked at and played.

Pictures are inside the file, a few small frames of every moment; the videos themselves are only linked, as files.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from video_ssl.datasets.table import Record
from video_ssl.explore.archive import Archive
from video_ssl.explore.asked import Asked
from video_ssl.explore.clip_archive import ClipArchive
from video_ssl.explore.hits import Place
from video_ssl.explore.pages.links import clock, file_link, moment_link, span
from video_ssl.explore.pages.pictures import MovingPicture, moving_picture
from video_ssl.explore.pages.rendering import write_page
from video_ssl.explore.tracks import Track, record_of

logger = logging.getLogger(__name__)

__all__ = ["title_of", "write_search_page"]

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
    query: Track | Asked,
    moments: Sequence[Place],
    archive: Archive | ClipArchive,
    *,
    files: Sequence[Path | None],
    notes: Sequence[str],
) -> Path:
    """Returns the HTML file `path` that was written.

    Args:
        query: the clip, the text or the sound.
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
        clip=_clip(query, path) if isinstance(query, Track) else _asked(query, path),
        title=title_of(query),
        sense="video" if isinstance(query, Track) else query.sense,
        moments=shown[:_WITH_PICTURES],
        further=shown[_WITH_PICTURES:],
        no_pictures=bool(shown) and all(moment.picture is None for moment in shown),
        notes=notes,
        subtitle=f"{len(moments)} moments in {len(archive.ids)} videos, {archive.counted}",
    )
    logger.info("%s: %.1f MB, pictures inside", path, size / 1e6)
    return path


def title_of(query: Track | Asked) -> str:
    """Returns what a query is called: the id of its video, the text in quotation marks, or the name of its file."""
    if isinstance(query, Track):
        return query.id
    return f"\u201c{query.title}\u201d" if query.sense == "text" else query.title


def _asked(query: Asked, page: Path) -> ShownMoment:
    found = moment_link(query.record.source, page, None, None) if query.record else ""
    return ShownMoment(title=query.title, when="", file=found)


def _clip(query: Track, page: Path) -> ShownMoment:
    known = bool(np.isfinite(query.times).all())
    start, end = (float(query.times[0]), float(query.times[-1])) if known else (None, None)
    return ShownMoment(
        title=query.id,
        when=span(start, end),
        picture=_picture(query.record, start, end),
        file=moment_link(query.record.source, page, start, end) if query.record else "",
        play_sec=_lasts(start, end),
    )


def _shown(
    moment: Place,
    archive: Archive | ClipArchive,
    file: Path | None,
    page: Path,
    *,
    with_picture: bool,
) -> ShownMoment:
    start, end = moment.start_sec, moment.end_sec
    record = record_of(archive.features, moment.id)
    extent = archive.extent(moment.id)
    left, width, length = None, 0.0, ""
    if start is not None and end is not None and extent is not None:
        first, whole = extent[0], max(extent[1] - extent[0], 1e-9)
        left, width = 100 * (start - first) / whole, 100 * (end - start) / whole
        length = f"of {clock(extent[1])}"
    return ShownMoment(
        title=moment.id,
        when=span(start, end),
        cosine=f"{1 - moment.cost:.3f}",
        picture=_picture(record, start, end) if with_picture else None,
        file=moment_link(record.source, page, start, end) if record else "",
        clip=file_link(file, page) if file else "",
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
