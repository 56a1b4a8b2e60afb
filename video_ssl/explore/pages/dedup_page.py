"""The page of `video-ssl dedup`: pairs of videos side by side at what they have in common."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from video_ssl.datasets.table import Record
from video_ssl.explore.pages.links import clock, moment_link
from video_ssl.explore.pages.pictures import MovingPicture, moving_picture
from video_ssl.explore.pages.rendering import write_page

logger = logging.getLogger(__name__)

__all__ = ["write_dedup_page"]

#: Pairs with pictures, some 50 kB each; further ones are lines.
_WITH_PICTURES = 50
_KINDS = {
    "copy": "the same video",
    "part": "one lies in the other",
    "stretch": "a stretch in common",
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """One video of a pair at the longest stretch.

    Attributes:
        title: its id; `file`: a link to it, at the stretch.
        when: the stretch in words; `play_sec`: how long it lasts.
        share: of the video that is in the other one, in percent.
        picture: None where the video cannot be read.
    """

    title: str
    when: str
    share: str
    play_sec: float
    picture: MovingPicture | None = None
    file: str = ""


@dataclass(frozen=True, kw_only=True)
class ShownPair:
    """A pair: what it is in words, both sides, and its further stretches in words."""

    kind: str
    words: str
    sides: Sequence[Side]
    distance: str
    further: Sequence[str]


def write_dedup_page(
    path: Path, content: Mapping[str, Any], *, records: Mapping[str, Record | None]
) -> Path:
    """Returns the HTML file `path` that was written.

    Args:
        content: as `copies.json` holds it.
        records: where the videos are, by id.
    """
    shown = [
        _shown(pair, records, path, with_pictures=rank < _WITH_PICTURES)
        for rank, pair in enumerate(content["pairs"])
    ]
    settings = content["settings"]
    size = write_page(
        path,
        "dedup.html.j2",
        verb="dedup",
        origin=content["source"],
        name=content["source"],
        subtitle=f"{content['videos']} videos, compared by {content['compared_by']}",
        tiles=[
            (len(content["copies"]), "sets of copies"),
            *(
                (sum(p["kind"] == kind for p in content["pairs"]), words)
                for kind, words in _KINDS.items()
            ),
            (len(content["unread"]), "not readable"),
        ],
        copies=content["copies"],
        pairs=shown[:_WITH_PICTURES],
        further=shown[_WITH_PICTURES:],
        unread=content["unread"],
        settings=settings,
    )
    logger.info("%s: %.1f MB, pictures inside", path, size / 1e6)
    return path


def _shown(
    pair: Mapping[str, Any],
    records: Mapping[str, Record | None],
    page: Path,
    *,
    with_pictures: bool,
) -> ShownPair:
    longest, *others = pair["stretches"]
    return ShownPair(
        kind=pair["kind"],
        words=_KINDS[pair["kind"]],
        sides=[_side(pair, which, longest, records, page, with_pictures) for which in "ab"],
        distance=f"{longest['distance']:.3f}",
        further=[
            f"{clock(s['a_start_sec'])} to {clock(s['a_end_sec'])} of A is {clock(s['b_start_sec'])} to "
            f"{clock(s['b_end_sec'])} of B"
            for s in others
        ],
    )


def _side(
    pair: Mapping[str, Any],
    which: str,
    stretch: Mapping[str, Any],
    records: Mapping[str, Record | None],
    page: Path,
    with_picture: bool,
) -> Side:
    record = records.get(pair[which])
    start, end = stretch[f"{which}_start_sec"], stretch[f"{which}_end_sec"]
    picture = None
    if record is not None and with_picture:
        picture = moving_picture(record, start, end)
    return Side(
        title=pair[which],
        when=f"{clock(start)} to {clock(end)}",
        share=f"{100 * pair[f'{which}_share']:.0f} %",
        play_sec=max(round(end - start, 2), 0.2),
        picture=picture,
        file=moment_link(record.source, page, start, end) if record else "",
    )
