"""`video-ssl search`: where in an archive is something like this clip, or what these words or this sound say?

Of a clip two answers.  *Frames*: the nearest frames to each of some frames of the clip (cosine).  *Moments*: the
stretches of videos that go like the clip as a whole, at half to double speed: the videos whose frames come
nearest to all of it, and in them the best stretches (see `moments`).

Exact up to `ann_frames` frames in one pass over the file (see `archive`); above, an approximate index
finds the candidates, if usearch is installed, and the exact numbers are computed of those.

A text or a sound is compared with every clip of the archive in the space that they share (`asked.py`,
`clip_archive.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate.identity import Origins, canonical, record_keys
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.explore import search_index
from video_ssl.explore.archive import Archive, Found, nearest_frames
from video_ssl.explore.asked import Asked, ask
from video_ssl.explore.clip_archive import ClipArchive
from video_ssl.explore.config import SearchConfig
from video_ssl.explore.cutting import claim_new_folder, cut_moments
from video_ssl.explore.hits import FrameHit, Moment, Place
from video_ssl.explore.moments import best_stretches
from video_ssl.explore.pages.search_page import title_of, write_search_page
from video_ssl.explore.search_notes import dependence_note, few_moments_note
from video_ssl.explore.tracks import Track, find_track, path_in_id
from video_ssl.explore.whereabouts import whereabouts
from video_ssl.files import MADE_BY, claim_file, made, write_json
from video_ssl.progress import console_for_tables
from video_ssl.recipes import known_settings

logger = logging.getLogger(__name__)

_PIECE = 65536  # frames of a long video that are aligned at once
_LAP = 4096  # frames that neighbouring pieces share


def search_track(
    query: Track, archive: Archive, config: SearchConfig | None = None
) -> tuple[list[Moment], list[FrameHit]]:
    """Returns the moments, best first, and the frames: for each query frame, the nearest first.

    Frame numbers count the frame features of the video, in order of time.

    Raises:
        FeatureError: nothing is left to search, or the widths differ.
    """
    config = config or SearchConfig()
    rows = np.unique(
        np.linspace(0, len(query.embs) - 1, min(config.query_frames, len(query.embs))).round()
    ).astype(np.int64)
    queries = query.embs[rows]
    without = None if config.own_video else _own_video(query, archive)
    if without is not None and len(archive.ids) == 1:
        raise FeatureError(
            f"{query.id!r} is the only video of the archive, and is left out of its own search: use "
            "--own-video to keep it."
        )
    index = _index(archive, config)
    frames, scores = _frames_apart(query, rows, archive, index, without, config)
    return _moments(queries, query.times[rows], rows, archive, scores, config), frames


def _own_video(query: Track, archive: Archive) -> int | None:
    """The video of the query in the archive (its place), None where it is not in it."""
    if query.origins is None:
        return None
    asked, there = record_keys(query.origins, archive.origins)
    own = np.flatnonzero(there == asked[0])
    if len(own):
        return int(own[0])
    return _own_path(query.origins, archive)


def _own_path(asked: Origins, archive: Archive) -> int | None:
    """The same of a file, where the archive is of others, and its ids are the paths of whole videos."""
    if asked.sources[0] is None or asked.spans[0] is not None:
        return None
    for video, key in enumerate(archive.ids.tolist()):
        path = path_in_id(archive.features, key)
        if path is None or archive.origins.spans[video] is not None:
            continue
        found = whereabouts(path, root=archive.features.root)
        if found is not None and canonical(found) == asked.sources[0]:
            return video
    return None


def _index(archive: Archive, config: SearchConfig) -> Any:
    if config.method == "exact":
        return None
    if config.method == "auto":
        if archive.num_frames <= config.ann_frames:
            return None
        if not search_index.available():
            logger.warning(
                "%d frames are searched exactly; for an index: pip install 'video_ssl[search]'",
                archive.num_frames,
            )
            return None
    return search_index.open_index(archive)


def _nearest(
    queries: np.ndarray, archive: Archive, index: Any, k: int, without: int | None
) -> Found:
    if index is None:
        return nearest_frames(queries, archive, k, without=without)
    return search_index.probable_frames(queries, archive, index, k, without=without)


def _frames_apart(
    query: Track,
    rows: np.ndarray,
    archive: Archive,
    index: Any,
    without: int | None,
    config: SearchConfig,
) -> tuple[list[FrameHit], np.ndarray]:
    """The nearest frames, those of one video at least `apart_sec` apart; asks for more until enough.

    And the score of every video, see `Found`.
    """
    members: dict[int, np.ndarray] = {}
    count = min(archive.num_frames, 8 * config.k)
    while True:
        found = _nearest(query.embs[rows], archive, index, count, without)
        hits: list[FrameHit] = []
        enough = True
        for row, similar, frames in zip(rows, found.similar, found.frames, strict=True):
            kept = _apart(archive, frames[np.isfinite(similar)], config)
            enough = enough and len(kept) == config.k
            videos, times = archive.videos(frames[kept]), archive.times(frames[kept])
            for place, video, time in zip(kept, videos.tolist(), times.tolist(), strict=True):
                if video not in members:
                    members[video] = archive.frames_of(video)
                hits.append(
                    FrameHit(
                        query_sec=_seconds(query.times[row]),
                        id=archive.ids[video],
                        frame=int(np.flatnonzero(members[video] == frames[place])[0]),
                        time_sec=_seconds(time),
                        similarity=float(similar[place]),
                    )
                )
        if enough or count >= min(archive.num_frames, 4096):
            return hits, found.videos
        count = min(archive.num_frames, 4096, 4 * count)


def _apart(archive: Archive, frames: np.ndarray, config: SearchConfig) -> list[int]:
    videos, times = archive.videos(frames), archive.times(frames)
    kept: list[int] = []
    for place in range(len(frames)):
        same = [other for other in kept if videos[other] == videos[place]]
        if all(abs(times[other] - times[place]) >= config.apart_sec for other in same) and not (
            same and np.isnan(times[place])
        ):
            kept.append(place)
            if len(kept) == config.k:
                break
    return kept


def _moments(
    queries: np.ndarray,
    times: np.ndarray,
    rows: np.ndarray,
    archive: Archive,
    scores: np.ndarray,
    config: SearchConfig,
) -> list[Moment]:
    """The best stretches; keys are thinned out to the step in time of the query's frames."""
    order = np.argsort(-scores, kind="stable")[: config.candidates * config.k]
    asked = unit_rows(queries)
    found: list[Moment] = []
    for video in order[np.isfinite(scores[order])].tolist():
        frames = archive.frames_of(video)
        step = _step(archive.times(frames))
        ratio = _step(times) / step if step > 0 else float("nan")  # several crops of one moment
        stride = max(1, round(ratio if np.isfinite(ratio) else _step(rows, 1.0)))
        found += _moments_in(asked, frames[::stride], stride, archive, config.moments_per_video)
    return sorted(found, key=lambda moment: moment.cost)[: config.k]


def _moments_in(
    asked: np.ndarray, frames: np.ndarray, stride: int, archive: Archive, count: int
) -> list[Moment]:
    """The best stretches of one video, piece by piece if it is long."""
    video = int(archive.videos(frames[:1])[0])
    inside: list[Moment] = []
    for begin in range(0, max(1, len(frames) - _LAP), _PIECE - _LAP):
        piece = frames[begin : begin + _PIECE]
        # A frame of zeros or with a number that is not finite has cosine 0 with everything.
        cost = 1 - asked @ unit_rows(archive.vectors(piece)).T
        for stretch in best_stretches(np.maximum(cost, 0), count):
            ends = archive.times(piece[[stretch.first, stretch.last]]).tolist()
            inside.append(
                Moment(
                    id=archive.ids[video],
                    start_sec=_seconds(ends[0]),
                    end_sec=_seconds(ends[1]),
                    first_frame=(begin + stretch.first) * stride,
                    last_frame=(begin + stretch.last) * stride,
                    cost=stretch.cost,
                )
            )
    return _disjoint(inside, count)


def _step(times: np.ndarray, otherwise: float = float("nan")) -> float:
    """The usual step from one frame to the next; `otherwise` of a single one."""
    return float(np.median(np.diff(times))) if len(times) > 1 else otherwise


def _disjoint(moments: list[Moment], count: int) -> list[Moment]:
    """The cheapest that do not overlap; neighbouring pieces of a video may find the same one."""
    kept: list[Moment] = []
    for moment in sorted(moments, key=lambda m: m.cost):
        if all(
            moment.last_frame < other.first_frame or moment.first_frame > other.last_frame
            for other in kept
        ):
            kept.append(moment)
    return kept[:count]


def _seconds(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answer:
    """What was asked, and what was found where."""

    query: Track | Asked
    archive: Archive | ClipArchive
    moments: Sequence[Place]
    frames: Sequence[FrameHit]
    notes: Sequence[str]

    @property
    def title(self) -> str:
        return title_of(self.query)


def search(
    clip: str | None,
    features: str | Path,
    *,
    text: str | None = None,
    sound: str | Path | None = None,
    vectors: str | Path | None = None,
    encoder: str | None = None,
    start_sec: float | None = None,
    end_sec: float | None = None,
    config: SearchConfig | None = None,
    out: str | Path | None = None,
    page: str | Path | None = None,
    cut: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Returns moments and frames like `clip`, or moments that answer a text or a sound.

    They are printed, and written to `out` as JSON.

    Args:
        clip: a video file, or the id of a record of the archive; None where a text or a sound is given.
        features: the archive: a feature file.
        text, sound: in place of a clip: words, or a file with sound.  The archive needs vectors in a space shared with
            it, which encoders give that were trained so.
        vectors: for features of others: a feature file with vectors of texts by their model, whose ids are the texts.
        encoder: that made it; embeds a video file, and leads to the encoders of text and sound beside it.
        start_sec, end_sec: part of the clip that is asked about.
        page: HTML file to write, with the moments to be looked at and played.
        cut: new folder for the moments as mp4 files.
        root: the folder that the videos of the archive lie in now, where they were moved.
        settings: fields of `SearchConfig`, the flags of `video-ssl search`: k=5, ...; in place of `config`.

    Raises:
        FeatureError: none or several of clip, text and sound; see `find_track`, `search_track` and `ask`; or no frame
            between start and end.
        OutputError: a file to be written is somebody else's, or `cut` holds something already.

    >>> found = search("wave1.mp4", "features.arrow", k=2, quiet=True)
    >>> [moment["id"] for moment in found["moments"]]
    ['wave2.mp4', 'bow1.mp4']
    """
    config = config or SearchConfig(**known_settings(SearchConfig, settings, "search"))
    _refuse_other_questions(clip, text, sound, start_sec, end_sec)
    sources = [given for given in (features, clip, sound, vectors) if given is not None]
    out, page = (
        None if file is None else claim_file(file, "search", sources=sources)
        for file in (out, page)
    )
    folder = None if cut is None else claim_new_folder(cut)
    opened = open_features(features, root=root)
    if clip is not None:
        answer = _like(clip, opened, encoder, (start_sec, end_sec), config, device)
    else:
        asked, archive = ask(
            opened,
            text=text,
            sound=None if sound is None else str(sound),
            vectors=vectors,
            encoder=encoder,
            device=device,
        )
        answer = _nearest_clips(asked, archive, config)
    return _told(answer, features, config, out=out, page=page, folder=folder, quiet=quiet)


def _refuse_other_questions(
    clip: str | None,
    text: str | None,
    sound: str | Path | None,
    start_sec: float | None,
    end_sec: float | None,
) -> None:
    given = [
        name
        for name, value in (("a clip", clip), ("--text", text), ("--sound", sound))
        if value is not None
    ]
    if len(given) != 1:
        raise FeatureError(
            f"{' and '.join(given) or 'nothing'} given: search for one of a clip, --text WORDS and --sound FILE."
        )
    if clip is None and (start_sec, end_sec) != (None, None):
        raise FeatureError(
            f"a part (--start-sec, --end-sec) goes with a clip, not with {given[0]}."
        )


def _like(
    clip: str,
    features: FeatureFile,
    encoder: str | None,
    part: tuple[float | None, float | None],
    config: SearchConfig,
    device: str,
) -> _Answer:
    """What goes like a clip."""
    archive = Archive(features)
    if config.method == "ann":
        search_index.require_usearch()
    whole = find_track(clip, features=features, encoder=encoder, device=device)
    query = _part(whole, *part)
    moments, frames = search_track(query, archive, config)
    notes = _notes(query, whole, moments, archive, config)
    return _Answer(query=query, archive=archive, moments=moments, frames=frames, notes=notes)


def _nearest_clips(asked: Asked, archive: ClipArchive, config: SearchConfig) -> _Answer:
    """What answers a text or a sound."""
    moments = archive.nearest(asked.vector, k=config.k, per_video=config.moments_per_video)
    notes = [*asked.notes]
    if len(moments) < config.k:
        notes.append(
            f"{len(moments)} moments instead of {config.k}: the archive has {len(archive)} clips of "
            f"{len(archive.ids)} videos, and of each video at most {config.moments_per_video} that do not overlap are "
            "taken (--moments-per-video)"
        )
    return _Answer(query=asked, archive=archive, moments=moments, frames=[], notes=notes)


def _told(
    answer: _Answer,
    features: str | Path,
    config: SearchConfig,
    *,
    out: Path | None,
    page: Path | None,
    folder: Path | None,
    quiet: bool,
) -> dict[str, Any]:
    """What was found as JSON, written, shown and printed."""
    archive, moments, notes = answer.archive, answer.moments, list(answer.notes)
    files: list[Path | None] = [None] * len(moments)
    if folder is not None:
        files, lost = cut_moments(moments, archive.features, folder)
        notes += lost
    found = {
        MADE_BY: made("search"),
        "query": answer.title,
        "features": str(features),
        "archive": {
            "videos": len(archive.ids),
            "clips" if isinstance(archive, ClipArchive) else "frames": len(archive),
        },
        "settings": asdict(config),
        "notes": notes,
        "moments": [
            asdict(moment) | ({} if folder is None else {"file": file and str(file)})
            for moment, file in zip(moments, files, strict=True)
        ],
        "frames": [asdict(hit) for hit in answer.frames],
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, found, indent=1)
    if page is not None:
        write_search_page(page, answer.query, moments, archive, files=files, notes=notes)
    if not quiet:
        _print(found, answer, out=out, page=page, folder=folder)
    return found


def _notes(
    query: Track, whole: Track, moments: list[Moment], archive: Archive, config: SearchConfig
) -> list[str]:
    """Whether the features serve for this, and why there are not more moments."""
    own = _own_video(whole, archive)
    # A whole video of the archive is compared as it was embedded; anything else may have been cut out of one.
    is_part = own is None or query is not whole
    notes = [
        dependence_note(archive.features.metadata, len(query.embs)) if is_part else None,
        few_moments_note(
            moments,
            config,
            num_videos=len(archive.ids),
            left_out=own is not None and not config.own_video,
        ),
    ]
    return [note for note in notes if note is not None]


def _print(
    found: dict[str, Any],
    answer: _Answer,
    *,
    out: Path | None,
    page: Path | None,
    folder: Path | None,
) -> None:
    console = console_for_tables()
    console.print(moments_table(answer.title, answer.moments))
    for note in found["notes"]:
        console.print(f"Note: {note}.", soft_wrap=True, markup=False)
    if out is not None:
        what = f"Moments and {len(answer.frames)} frames" if answer.frames else "Moments"
        console.print(f"{what}: {out}", soft_wrap=True, markup=False)
    for name, place in (("Page", page), ("Clips", folder)):
        if place is not None:
            console.print(f"{name}: {place}", soft_wrap=True, markup=False)


def _part(track: Track, start_sec: float | None, end_sec: float | None) -> Track:
    if start_sec is None and end_sec is None:
        return track
    low = -np.inf if start_sec is None else start_sec
    high = np.inf if end_sec is None else end_sec
    inside = (track.times >= low) & (track.times <= high)
    if not inside.any():
        asked = "".join(
            f" {word} {sec:g} s"
            for word, sec in (("from", start_sec), ("to", end_sec))
            if sec is not None
        )
        raise FeatureError(
            f"{track.id!r} has no frame{asked}: its frames lie between "
            f"{track.times.min():.2f} and {track.times.max():.2f} s."
        )
    parts = {name: getattr(track, name)[inside] for name in ("embs", "times", "labels")}
    return replace(track, **parts)


def moments_table(query: str, moments: Sequence[Place]) -> Table:
    """Returns the moments as a table, best first."""
    table = Table(title=Text(f"moments like {query}"), box=SIMPLE_HEAD)
    for head, justify in (("video", "left"), ("from s", "right"), ("to s", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    table.add_column("cosine", justify="right")
    for moment in moments:
        ends = ("-" if t is None else f"{t:.2f}" for t in (moment.start_sec, moment.end_sec))
        table.add_row(Text(moment.id), *ends, f"{1 - moment.cost:.3f}")
    return table
