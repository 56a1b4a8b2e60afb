"""`video-ssl dedup`: copies among videos, and stretches of one that are in another, found by what they show.

Every video is looked at a few times a second (`video_ssl.clips.fingerprints`), in a process of its own; what was seen
is kept beside the result, so that another threshold, or more videos, costs no second look.  All pairs that may have
something in common are compared step by step (`video_ssl.clips.stretches`).
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from video_ssl.clips.decoders.reader import stream_frames
from video_ssl.clips.fingerprints import WORDS, fingerprint, tied
from video_ssl.clips.reading import open_record
from video_ssl.clips.stretches import PrintTracks, Stretch, Tracks, common_stretches, covered
from video_ssl.clips.upkeep.config import DedupConfig
from video_ssl.clips.upkeep.isolated_worker import beat
from video_ssl.clips.upkeep.journal import Journal
from video_ssl.clips.upkeep.looks import looks
from video_ssl.datasets.table import Record, Table

__all__ = ["Common", "Duplicates", "Pair", "compare", "look_at_all", "print_tracks"]

LOOK = "video_ssl.clips.upkeep.dedup:look_at"
SEEN = ".seen.jsonl"
#: A video is a copy, or a part, where so much of it lies in stretches.
_WHOLE = 0.9

Kind = Literal["copy", "part", "stretch"]


@dataclass(frozen=True, kw_only=True)
class Common:
    """A stretch that two videos have in common, in seconds of their sources; `distance` is the mean over pictures."""

    a_start_sec: float
    a_end_sec: float
    b_start_sec: float
    b_end_sec: float
    distance: float


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two videos with something in common.

    Attributes:
        a, b: places of the videos, a before b.
        kind: copy: each is the other; part: one lies in the other; stretch: they share a stretch.
        a_share, b_share: of each that lies in common stretches.
        stretches: the longest first.
    """

    a: int
    b: int
    kind: Kind
    a_share: float
    b_share: float
    stretches: Sequence[Common]


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """What V videos have in common.

    Attributes:
        pairs: with the longest common part first.
        copies: places of videos that are copies of each other, set by set.
        groups: places of videos that are tied by anything in common, through others too.
    """

    pairs: list[Pair] = field(default_factory=list)
    copies: list[list[int]] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)


def look_at(task: tuple[Record, float, float]) -> tuple[str, float]:
    """Returns fingerprints of a video, `fps` a second, as text, and its length in seconds; runs in its own process."""
    record, fps, timeout_sec = task
    with open_record(record, timeout_sec=timeout_sec) as reader:
        info = reader.info
        times = reader.times(np.arange(info.num_frames))
        wanted = np.arange(max(1, int(info.duration_sec * fps))) / fps
        shown = np.searchsorted(times, wanted + 5e-4, side="right") - 1
        indices, steps = np.unique(shown.clip(min=0), return_inverse=True)
        prints = np.empty((len(indices), WORDS), np.uint64)
        for place, (_, frame) in enumerate(stream_frames(reader, indices)):
            prints[place] = fingerprint(frame[None])[0]
            beat((place + 1) / len(indices), float(times[indices[place]]))
    return base64.b64encode(prints[steps].tobytes()).decode(), info.duration_sec


def look_at_all(
    table: Table, folder: Path, config: DedupConfig, *, progress: bool = True
) -> tuple[dict[int, np.ndarray], dict[int, float], dict[int, str]]:
    """Returns what was seen of every row that can be read: fingerprints and seconds; and why others cannot.

    Args:
        folder: where what was seen is kept.

    Raises:
        DiskFull: nothing is lost, run again.
    """
    prints: dict[int, np.ndarray] = {}
    seconds: dict[int, float] = {}
    unread: dict[int, str] = {}
    with Journal(folder / SEEN, {"look": 1, "fps": config.fps}) as journal:
        for row, entry in looks(
            LOOK,
            table,
            journal,
            lambda record: (record, config.fps, config.timeout_sec),
            num_workers=config.num_workers,
            timeout_sec=config.timeout_sec,
            progress=progress,
        ):
            if "reason" in entry:
                unread[row] = entry["reason"]
                continue
            raw = np.frombuffer(base64.b64decode(entry["prints"]), np.uint64)
            prints[row] = raw.reshape(-1, WORDS)
            seconds[row] = entry["seconds"]
    return prints, seconds, unread


def compare(
    tracks: Tracks, times: Sequence[np.ndarray], config: DedupConfig, *, threshold: float
) -> Duplicates:
    """Returns what the videos have in common.

    Args:
        times: for each video float64 (L + 1,): when each of its steps begins, and when the last one ends, in seconds.
        threshold: largest mean distance of a stretch.
    """
    # Half a step is lost at either end.
    least = max(2, round(config.min_sec * config.fps) - 1)
    pairs = []
    for a, b in tracks.candidates():
        # A video that is shorter than a stretch may be copied whole.
        short = min(least, tracks.length(a), tracks.length(b))
        found = common_stretches(tracks, a, b, threshold=threshold, least=max(2, short))
        if found:
            pairs.append(_pair(a, b, found, times))
    pairs.sort(key=lambda pair: (-_seconds(pair), pair.a, pair.b))
    count = len(tracks)
    return Duplicates(
        pairs=pairs,
        copies=_sets(count, [p for p in pairs if p.kind == "copy"]),
        groups=_sets(count, pairs),
    )


def _pair(a: int, b: int, found: Sequence[Stretch], times: Sequence[np.ndarray]) -> Pair:
    a_share = covered([(s.first, s.length) for s in found], len(times[a]) - 1)
    b_share = covered([(s.other, s.length) for s in found], len(times[b]) - 1)
    whole = sum(share >= _WHOLE for share in (a_share, b_share))
    kinds: tuple[Kind, ...] = ("stretch", "part", "copy")
    return Pair(
        a=a,
        b=b,
        kind=kinds[whole],
        a_share=round(a_share, 4),
        b_share=round(b_share, 4),
        stretches=[
            Common(
                a_start_sec=_at(times[a], s.first),
                a_end_sec=_at(times[a], s.first + s.length),
                b_start_sec=_at(times[b], s.other),
                b_end_sec=_at(times[b], s.other + s.length),
                distance=round(s.distance, 4),
            )
            for s in found
        ],
    )


def _at(times: np.ndarray, step: int) -> float:
    return round(float(times[step]), 3)


def _seconds(pair: Pair) -> float:
    return sum(s.a_end_sec - s.a_start_sec for s in pair.stretches)


def _sets(count: int, pairs: Sequence[Pair]) -> list[list[int]]:
    firsts = tied(count, np.array([(p.a, p.b) for p in pairs], np.int64).reshape(-1, 2))
    sizes = np.bincount(firsts, minlength=count)
    return [np.flatnonzero(firsts == first).tolist() for first in np.flatnonzero(sizes > 1)]


def print_tracks(
    prints: Sequence[np.ndarray], records: Sequence[Record], fps: float
) -> tuple[PrintTracks, list[np.ndarray]]:
    """Returns the videos to be compared, and the times of their steps as `compare` takes them, of the source."""
    begins = [record.start_sec or 0.0 for record in records]
    times = [b + np.arange(len(p) + 1) / fps for b, p in zip(begins, prints, strict=True)]
    return PrintTracks(prints), times
