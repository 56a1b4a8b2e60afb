"""Frame features of some videos, to be looked at: what the notebook and the page of `video-ssl explore` show.

Alignments are those of `video-ssl align` (dynamic time warping over squared distances of the features as they
are), nearest frames those of `video-ssl search` (cosine), the map is that of the two directions in which
frames differ most (principal components).
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_whole
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.neighbours import unit_rows
from video_ssl.explore.alignment import Alignment, align
from video_ssl.explore.alignment_video import frames_at
from video_ssl.explore.tracks import Track
from video_ssl.recipes import nearest

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
            self._pairs[place] = _align_all(a, b)
        return self._pairs[place]

    def agreement(self, query: str | int, key: str | int) -> Agreement:
        """Returns how often frames that belong together are in the same phase."""
        a, b = (self.tracks[self.index(v)] for v in (query, key))
        common = np.intersect1d(a.labels[a.labels >= 0], b.labels).size > 0
        shares = []
        for found in (self.pair(query, key), _align_all(a.embs, b.embs, method="linear")):
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


def _align_all(a: np.ndarray, b: np.ndarray, *, method: str = "dtw") -> Alignment:
    """The alignment of all frames: who shows it takes its path for indices of theirs, so none may be left out."""
    return align(a, b, method=method, max_cells=len(a) * len(b))


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


def frame_pictures(track: Track, *, height: int = 160) -> list[np.ndarray]:
    """Returns uint8 (H, W, 3) for every frame of a track; H is `height`, or that of a smaller video.

    Raises:
        FeatureError: it is not known where the video is, or when its frames are.
        BadVideo, OSError: the video cannot be read.
    """
    if track.record is None:
        raise FeatureError(
            f"the video {track.id} is not where it was when it was embedded, or that is not known. If it was moved, "
            "say whereto: --root FOLDER. A folder of frames may also lack its table, which says how fast they follow."
        )
    if not np.isfinite(track.times).all():
        raise FeatureError(f"when the frames of {track.id} are is not known.")
    with open_whole(track.record) as reader:
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
