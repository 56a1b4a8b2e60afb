"""Which videos an exploration shows: chosen from a feature file, or embedded for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.explore.exploration import Exploration
from video_ssl.explore.tracks import Track, record_of, rows_of
from video_ssl.files import claim_file
from video_ssl.recipes import nearest

logger = logging.getLogger(__name__)

#: What is looked at by default: generated videos with phases.
DEMO_TABLE = "demo:phases_val"


def explore(
    features: FeatureFile,
    *,
    videos: Sequence[str] | None = None,
    max_videos: int = 12,
    max_frames: int = 120,
    start_sec: float | None = None,
    end_sec: float | None = None,
) -> Exploration:
    """Returns some videos of a feature file, ready to be looked at.

    Args:
        features: with frame features.
        videos: their ids; by default `max_videos` in turn from every class, in the order of the file.
        max_frames: of a longer video every second, third, ... frame is taken, and that is noted.
        start_sec, end_sec: the stretch of each video that is looked at, all of it by default; a video without a frame
            in it is left out.

    Raises:
        FeatureError: no frame features, an unknown id (the nearest is named), or no usable frame.
    """
    if max_videos < 1 or max_frames < 2:
        raise FeatureError(
            f"max_videos={max_videos} and max_frames={max_frames} must be at least 1 and 2."
        )
    known = list(dict.fromkeys(features.ids.tolist()))
    name = str(features.path) if features.path else "the features"
    chosen = _chosen(features.ids, features.labels, videos, max_videos, name)
    rows = np.flatnonzero(np.isin(features.ids.astype(str), np.array(chosen, str)))
    own = FeatureFile(rows_of(features.table, rows), path=features.path)
    found = frame_sequences(own, labelled=False)
    notes = [f"{note}." for note in found.notes]
    if len(chosen) < len(known):
        notes.append(f"{len(chosen)} of {len(known)} videos are shown.")
    if features.skipped:
        notes.append(f"{len(features.skipped)} videos could not be read when they were embedded.")
    if len(found) == 1:
        notes.append("There is one video only: it is aligned with itself and has no neighbours.")
    order = sorted(range(len(found)), key=lambda v: chosen.index(found.ids[v]))
    tracks, long, kept = [], [], []
    for v in order:
        track = Track(
            id=found.ids[v],
            embs=found.embs[v],
            times=found.times[v],
            labels=found.labels[v],
            record=record_of(features, found.ids[v]),
        )
        part = _stretch(track, start_sec, end_sec)
        if part is None:
            continue
        kept.append(v)
        tracks.append(_thinned(part, max_frames))
        if len(part.embs) > max_frames:
            long.append(track.id)
    if len(kept) < len(order):
        notes.append(
            f"{len(order) - len(kept)} videos have no frame between {_named(start_sec, 'their start')} and "
            f"{_named(end_sec, 'their end')}."
        )
    if not tracks:
        raise FeatureError(
            f"{name}: none of the videos has a frame between {_named(start_sec, 'its start')} and "
            f"{_named(end_sec, 'its end')}, or their times are not known. Give other seconds."
        )
    if long:
        notes.append(
            f"{len(long)} videos are long ({long[0]}{', ...' if len(long) > 1 else ''}): of each, every second, "
            f"third, ... frame is shown, at most {max_frames}."
        )
    return Exploration(
        name=name,
        tracks=tracks,
        classes=found.classes[kept],
        class_names=features.metadata.get("class_names") or (),
        phase_names=_phase_names(features),
        notes=notes,
    )


def _chosen(
    ids: np.ndarray, labels: np.ndarray, videos: Sequence[str] | None, count: int, name: str
) -> list[str]:
    """The named videos, or `count` of them: one of every class after the other, in the order of the file."""
    label_of = dict(zip(ids[::-1].tolist(), labels[::-1].tolist(), strict=True))
    known = list(dict.fromkeys(ids.tolist()))
    for video in videos or ():
        if video not in label_of:
            raise FeatureError(
                f"{name} has no record {video!r} among {len(known)}.{nearest(video, known)}"
            )
    if videos:
        return list(dict.fromkeys(videos))
    seen: dict[int, int] = {}
    turns = []
    for place, video in enumerate(known):
        turn = seen.get(label_of[video], 0)
        seen[label_of[video]] = turn + 1
        turns.append((turn, place))
    return [known[place] for place in sorted(place for _, place in sorted(turns)[:count])]


def _stretch(track: Track, start_sec: float | None, end_sec: float | None) -> Track | None:
    """What lies between two times; None if nothing does."""
    if start_sec is None and end_sec is None:
        return track
    low, high = start_sec or 0.0, np.inf if end_sec is None else end_sec
    inside = (track.times >= low) & (track.times <= high)
    if not inside.any():
        return None
    parts = {name: getattr(track, name)[inside] for name in ("embs", "times", "labels")}
    return replace(track, **parts)


def _named(seconds: float | None, otherwise: str) -> str:
    return otherwise if seconds is None else f"{seconds:g} s"


def _thinned(track: Track, max_frames: int) -> Track:
    stride = -(-len(track.embs) // max_frames)
    if stride == 1:
        return track
    parts = {name: getattr(track, name)[::stride] for name in ("embs", "times", "labels")}
    return replace(track, **parts)


def _phase_names(features: FeatureFile) -> Sequence[str]:
    from video_ssl.datasets.table import Table, TableError

    noted = features.metadata.get("phase_names")
    if noted:  # the table at its place may be another one by now
        return tuple(noted)
    path = features.metadata.get("table", {}).get("path")
    try:
        return Table.open(path).phase_names if path and Path(path).is_file() else ()
    except TableError:
        return ()


def open_exploration(
    source: str | Path,
    *,
    table: str | None = None,
    keep: str | Path | None = None,
    root: str | Path | None = None,
    device: str = "auto",
    **choice: Any,
) -> Exploration:
    """Returns videos to look at, of a feature file or of an encoder.

    A run that was evaluated has feature files; the first with frame features is taken.  Otherwise, and
    where `table` is given, videos are embedded frame by frame: as many as are shown, in turn from every class.

    Args:
        source: a feature file, or what `open_encoder` takes (a run, an encoder folder, untrained:RUN, ...).
        table: the videos to embed; `DEMO_TABLE` by default.
        keep: where their features are kept; RUN/explore.features.arrow by default.
        root: the folder that the videos of a feature file lie in now, where they were moved.
        choice: see `explore`.

    Raises:
        FeatureError, EmbeddingError, TableError: see there.

    >>> frames = open_exploration("features.arrow")
    >>> [track.id for track in frames.tracks], frames.num_frames
    (['bow1.mp4', 'wave1.mp4', 'wave2.mp4'], 42)
    """
    path = Path(source)
    if path.is_file() or (path.suffix in (".arrow", ".npz", ".parquet") and not path.is_dir()):
        if table is not None:
            raise FeatureError(
                f"{path} is a feature file: a table (table={table}) goes with an encoder only."
            )
        return explore(open_features(path, root=root), **choice)
    features = None if table is not None else _evaluated(path)
    if features is not None and root is not None:
        features = open_features(features.path or path, root=root)
    if features is None:
        kept = Path(keep) if keep else path / "explore.features.arrow"
        features = _embedded(str(source), table or DEMO_TABLE, kept, device, choice)
    return explore(features, **choice)


def _evaluated(run: Path) -> FeatureFile | None:
    """The first feature file with frame features that an evaluation of a run has left."""
    from video_ssl.explore.run_data import RunNotFound, read_run

    try:
        data = read_run(run)
    except RunNotFound:
        return None
    for results in data.evaluations:
        encoder = next(iter(results["encoders"]))
        found = data.features(results, encoder, "test")
        if found is not None and found.has_frames:
            return found
    return None


def _embedded(
    encoder: str, spec: str, out: Path, device: str, choice: dict[str, Any]
) -> FeatureFile:
    """Embeds the videos that will be shown; the table of just these lies beside the features."""
    from video_ssl.datasets.table import Table
    from video_ssl.embed.embed_videos import embed_table, open_source
    from video_ssl.embed.embedding import EmbeddingError
    from video_ssl.embed.open_encoder import open_encoder
    from video_ssl.embed.partial import OtherJob

    chosen = out.with_name(f"{out.stem.removesuffix('.features')}.videos.arrow")
    claim_file(chosen, "explore")
    claim_file(out, "explore", is_ours=lambda file: _is_of(file, chosen))
    open_encoder(encoder, device)  # a wrong name is an error before any video is made
    table: Table = open_source(spec)
    ids = np.asarray(table.column("id"))
    labelled = "label" in table.column_names
    labels = np.asarray(table.column("label")) if labelled else np.full(len(ids), -1)
    videos = _chosen(ids, labels, choice.get("videos"), choice.get("max_videos", 12), spec)
    rows = [int(np.flatnonzero(ids == video)[0]) for video in videos]
    out.parent.mkdir(parents=True, exist_ok=True)
    table.select(rows).save(chosen, maker="explore")
    settings: dict[str, Any] = {"per_frame": True, "num_workers": 1, "device": device}
    try:
        return embed_table(encoder, str(chosen), out, **settings)
    except (
        EmbeddingError,
        OtherJob,
    ):  # made of other videos or by another encoder: it is ours to replace
        logger.info("%s is of something else and is written anew", out)
        return embed_table(encoder, str(chosen), out, restart=True, **settings)


def _is_of(features: Path, table: Path) -> bool:
    """Whether a file holds features of that table, which is ours."""
    try:
        made_of = open_features(features).metadata.get("table", {}).get("path", "")
    except FeatureError:
        return False
    return Path(made_of).name == table.name
