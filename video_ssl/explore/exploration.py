"""Frame features of some videos, to be looked at: what the notebook and the page of `video-ssl explore` show.

Alignments are those of `video-ssl align` (dynamic time warping over squared distances of the features as they
are), nearest frames those of `video-ssl search` (cosine), the map is that of the two directions in which
frames differ most (principal components).
"""

from __future__ import annotations

import colorsys
import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_video
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.explore.alignment import Alignment, align
from video_ssl.explore.alignment_video import frames_at
from video_ssl.explore.tracks import Track, record_of, rows_of
from video_ssl.files import claim_file
from video_ssl.recipes import nearest

logger = logging.getLogger(__name__)

#: What is looked at by default: generated videos with phases.
DEMO_TABLE = "demo:phases_val"
NO_PHASE = "#b4bdca"
COLORS = (
    "#2a6fdb", "#e07b39", "#2f9e6e", "#a155b9", "#c2405b", "#17a2b8", "#c9a227", "#6d4c41", "#7cb342", "#ec6fa9",
    "#3f51b5", "#00695c",
)  # fmt: skip
_PIECE = 32  # frames of a video in memory


class Near(NamedTuple):
    """The frame of another video that is most like a given one."""

    video: int
    frame: int
    cosine: float


class Agreement(NamedTuple):
    """Share of matched frames that are in the same phase: aligned, and with the key only stretched.

    NaN where the videos have no phase in common, or no two matched frames have one.
    """

    aligned: float
    stretched: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Exploration:
    """V videos and what can be asked about their frames; see `explore`.

    Attributes:
        name: where the features come from.
        tracks: their frames, thinned out where a video is long.
        classes: int64 (V,), -1 where unknown.
        class_names, phase_names: empty where unknown.
        notes: what is missing or was left out, in sentences.
    """

    name: str
    tracks: list[Track]
    classes: NDArray[np.int64]
    class_names: Sequence[str] = ()
    phase_names: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    _pairs: dict[tuple[int, int], Alignment] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tracks)

    @property
    def num_frames(self) -> int:
        return sum(len(track.embs) for track in self.tracks)

    def index(self, video: str | int) -> int:
        """Returns the place of a video, given by id or by place.

        Raises:
            FeatureError: there is no such video; the nearest id is named.
        """
        ids = [track.id for track in self.tracks]
        if isinstance(video, str) and video in ids:
            return ids.index(video)
        if isinstance(video, int) and 0 <= video < len(ids):
            return video
        hint = nearest(video, ids) if isinstance(video, str) else ""
        raise FeatureError(f"no video {video!r} among the {len(ids)} that are shown.{hint}")

    def pair(self, query: str | int, key: str | int) -> Alignment:
        """Returns the alignment of two of the videos."""
        place = self.index(query), self.index(key)
        if place not in self._pairs:
            a, b = (self.tracks[v].embs for v in place)
            self._pairs[place] = align(a, b)
        return self._pairs[place]

    def agreement(self, query: str | int, key: str | int) -> Agreement:
        """Returns how often frames that belong together are in the same phase."""
        a, b = (self.tracks[self.index(v)] for v in (query, key))
        common = np.intersect1d(a.labels[a.labels >= 0], b.labels).size > 0
        shares = []
        for found in (self.pair(query, key), align(a.embs, b.embs, method="linear")):
            here, there = a.labels[found.path_i], b.labels[found.path_j]
            known = (here >= 0) & (there >= 0) & common
            shares.append(float((here == there)[known].mean()) if known.any() else float("nan"))
        return Agreement(*shares)

    def like(self, query: str | int, key: str | int) -> tuple[np.ndarray, np.ndarray]:
        """Returns for every frame of `query` the most similar one of `key`, int64 (n,), and its cosine (n,)."""
        a, b = (self._units[self.index(v)] for v in (query, key))
        similar = a @ b.T
        best = similar.argmax(axis=1)
        return best, similar[np.arange(len(best)), best]

    def nearest(self, video: str | int, frame: int, *, count: int = 6) -> list[Near]:
        """Returns the most similar frame of each of the other videos, the nearest video first."""
        own = self.index(video)
        asked = self._units[own][frame]
        found = []
        for other, frames in enumerate(self._units):
            if other != own:
                similar = frames @ asked
                best = int(similar.argmax())
                found.append(Near(other, best, float(similar[best])))
        return sorted(found, key=lambda near: -near.cosine)[:count]

    def map(self, videos: Sequence[int] | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """Returns a float64 (L, 2) array for each of the videos (all if None), and what `frame_map` says."""
        chosen = range(len(self)) if videos is None else videos
        return frame_map([self.tracks[v].embs for v in chosen])

    def same_class(self, video: str | int) -> list[int]:
        """Returns the videos of the class of a video, itself among them; all where it has none."""
        own = self.classes[self.index(video)]
        return [v for v in range(len(self)) if own < 0 or self.classes[v] == own]

    def start(self) -> tuple[int, int]:
        """Returns two videos to begin with: the first two of one class, else the first two, else one twice."""
        for video in range(len(self)):
            others = [v for v in self.same_class(video) if v > video]
            if others and self.classes[video] >= 0:
                return video, others[0]
        return 0, min(1, len(self) - 1)

    def class_name(self, video: int) -> str:
        """Returns the name of the class of a video; a number where it has no name, empty where unknown."""
        label = int(self.classes[video])
        if label < 0:
            return ""
        return self.class_names[label] if label < len(self.class_names) else f"class {label}"

    def phase_name(self, label: int) -> str:
        """Returns the name of a phase label, without the class that some tables put before it."""
        if label < 0:
            return "no phase"
        if label >= len(self.phase_names):
            return f"phase {label}"
        name = self.phase_names[label]
        head, _, tail = name.partition("/")
        return tail if tail and head in self.class_names else name

    @functools.cached_property
    def phase_colors(self) -> dict[int, str]:
        """label -> color.  With more labels than colors, each class begins again with the first color."""
        labels = np.unique(np.concatenate([track.labels for track in self.tracks]))
        known = labels[labels >= 0].tolist()
        if len(known) <= len(COLORS):
            return {label: COLORS[rank] for rank, label in enumerate(known)}
        colors: dict[int, str] = {}
        for kind in np.unique(self.classes):
            own = [t.labels for t, c in zip(self.tracks, self.classes, strict=True) if c == kind]
            found = np.unique(np.concatenate(own))
            for rank, label in enumerate(found[found >= 0].tolist()):
                colors.setdefault(label, color(rank))
        return colors

    @functools.cached_property
    def _units(self) -> list[np.ndarray]:
        return [unit_rows(track.embs) for track in self.tracks]


def color(rank: int) -> str:
    """Returns the color of the `rank`-th of many things; more of them than in `COLORS` get ever new hues.

    >>> color(0), color(12)
    ('#2a6fdb', '#248f59')
    """
    if rank < len(COLORS):
        return COLORS[rank]
    parts = colorsys.hls_to_rgb(rank * 0.6180339887 % 1, 0.35 + 0.1 * (rank % 3), 0.6)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def frame_map(embs: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """Returns the first two principal components of all frames, and their shares of the variance (2,).

    Signs are chosen such that the largest weight of a component is positive.  Features of width 1 have
    zeros for the second; frames that are all the same are all at (0, 0), with shares 0.

    Args:
        embs: (L_i, D) for each video.

    Returns:
        float64 (L_i, 2) for each video.
    """
    x = np.concatenate([np.asarray(e, np.float64) for e in embs])
    x = x - x.mean(axis=0)
    # The covariance is small where the frames are many; its eigenvectors are the directions.
    values, vectors = np.linalg.eigh(x.T @ x) if x.shape[1] <= len(x) else _wide(x)
    order = np.argsort(values)[::-1][:2]
    values, directions = np.maximum(values[order], 0), vectors[:, order]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(len(order))])
    places = np.zeros((len(x), 2))
    places[:, : len(order)] = x @ (directions * np.where(signs == 0, 1, signs))
    total = float((x**2).sum())
    shares = np.zeros(2)
    shares[: len(order)] = values / total if total > 0 else 0
    return np.split(places, np.cumsum([len(e) for e in embs])[:-1]), shares


def _wide(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _, singular, rows = np.linalg.svd(x, full_matrices=False)
    return singular**2, rows.T


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
    except EmbeddingError:  # made of other videos or by another encoder: it is ours to replace
        logger.info("%s is of something else and is written anew", out)
        return embed_table(encoder, str(chosen), out, restart=True, **settings)


def _is_of(features: Path, table: Path) -> bool:
    """Whether a file holds features of that table, which is ours."""
    try:
        made_of = open_features(features).metadata.get("table", {}).get("path", "")
    except FeatureError:
        return False
    return Path(made_of).name == table.name


def frame_pictures(track: Track, *, height: int = 160) -> list[np.ndarray]:
    """Returns uint8 (H, W, 3) for every frame of a track; H is `height`, or that of a smaller video.

    Raises:
        FeatureError: it is not known where the video is, or when its frames are.
        BadVideo, OSError: the video cannot be read.
    """
    if track.record is None:
        raise FeatureError(
            f"the video {track.id} is not where it was when it was embedded, or that is not known. If it was moved, "
            "say whereto: --root FOLDER."
        )
    if not np.isfinite(track.times).all():
        raise FeatureError(f"when the frames of {track.id} are is not known.")
    with open_video(track.record.source) as reader:
        at = frames_at(reader, track.times)
        info = reader.info
        high = min(height, info.height)
        size = (high, max(1, round(info.width * high / info.height)))
        pieces = [at[begin : begin + _PIECE] for begin in range(0, len(at), _PIECE)]
        return [frame for piece in pieces for frame in reader.frames(piece, size)]


def try_pictures(track: Track, *, height: int = 160) -> tuple[list[np.ndarray] | None, str]:
    """As `frame_pictures`; None and the reason where there are none."""
    try:
        return frame_pictures(track, height=height), ""
    except (BadVideo, FeatureError, OSError) as err:
        return None, str(err)
