"""`video-ssl dedup`: copies and copied stretches among videos or in a feature file, as JSON and as a page."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.fingerprints import COPY_DISTANCE
from video_ssl.clips.stretches import FeatureTracks
from video_ssl.clips.upkeep.config import DedupConfig
from video_ssl.clips.upkeep.dedup import (
    Duplicates,
    compare,
    look_at_all,
    print_tracks,
)
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.embed_videos import open_source
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.explore.pages.dedup_page import write_dedup_page
from video_ssl.explore.tracks import record_of, track_of
from video_ssl.files import MADE_BY, claim_folder, made, made_by, write_json

logger = logging.getLogger(__name__)

__all__ = ["dedup"]

FILES = ("copies.json", "copies.html")
#: Largest 1 - cosine of features that count as the same.
FEATURE_DISTANCE = 0.02
_PRINTED = 20


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """What was compared: ids of the videos, where they are, why others could not be read, and what was found."""

    ids: Sequence[str]
    records: Sequence[Record | None]
    unread: dict[str, str]
    found: Duplicates
    by: str
    threshold: float


def dedup(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: DedupConfig | None = None,
    *,
    root: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Returns what videos have in common, and writes OUT/copies.json and OUT/copies.html.

    Fingerprints of pictures are compared, which need no encoder; of a feature file, its features of frames.  Found are
    copies at the same speed, in any codec, size and quality; not mirrored, cropped or framed ones (features may find
    these).  Nothing is removed.

    Args:
        source: a folder, list, table or data set, a video, or a feature file with frame features.
        out: folder of the result, and of what was seen (`.seen.jsonl`), which a later call does not look at again.
        root: the folder that the videos of a feature file lie in now, where they were moved.

    Raises:
        TableError, FeatureError: see `open_table` and `open_features`.
        OutputError: the folder holds files of that name that dedup has not made, or cannot be written.
    """
    config = config or DedupConfig()
    folder = Path(out)
    folder = claim_folder(
        folder, "dedup", FILES, ours=made_by(folder / FILES[0]) == "dedup", sources=[source]
    )
    features = _features(source, root)
    folder.mkdir(parents=True, exist_ok=True)
    if features is None:
        compared = _by_pictures(open_source(str(source)), folder, config, progress=progress)
    else:
        compared = _by_features(features, config)
    content = _as_json(compared, str(source), config)
    write_json(folder / FILES[0], content, indent=1)
    write_dedup_page(
        folder / FILES[1],
        content,
        records=dict(zip(compared.ids, compared.records, strict=True)),
    )
    return content


def told(content: dict[str, Any], out: str | os.PathLike[str]) -> list[str]:
    """Returns what `dedup` has found, line by line."""
    lines = [
        f"{content['videos']} videos compared by {content['compared_by']}: {_sets(content['copies'], 'copies')}; "
        f"{len(content['pairs'])} pairs have something in common"
    ]
    for pair in content["pairs"][:_PRINTED]:
        longest = pair["stretches"][0]
        where = f"{pair['a']} from {longest['a_start_sec']:.2f} to {longest['a_end_sec']:.2f} s is "
        where += f"{pair['b']} from {longest['b_start_sec']:.2f} s"
        lines.append(f"  {pair['kind']}: {where}")
    if len(content["pairs"]) > _PRINTED:
        lines.append(f"  and {len(content['pairs']) - _PRINTED} more")
    if content["unread"]:
        name, reason = next(iter(content["unread"].items()))
        lines.append(
            f"{len(content['unread'])} videos could not be read and were not compared; the first: {name}: {reason}"
        )
    return [*lines, f"all of it: {Path(out) / FILES[0]}, to look at: {Path(out) / FILES[1]}"]


def _sets(sets: Sequence[Sequence[str]], what: str) -> str:
    """In words."""
    return f"{sum(map(len, sets))} {what} in {len(sets)} sets" if sets else f"no {what}"


def _features(source: str | os.PathLike[str], root: str | Path | None) -> FeatureFile | None:
    """The source as a feature file, if it is one with features of frames."""
    path = Path(source)
    if path.suffix not in (".arrow", ".npz", ".parquet") or not path.is_file():
        return None
    try:
        found = open_features(path, root=root)
    except FeatureError:
        if path.suffix == ".npz":
            raise
        return None  # a table
    if not found.has_frames:
        raise FeatureError(
            f"{path} has no frame features: embed again with --per-frame, or give the videos themselves, which are "
            "compared by fingerprints of their pictures."
        )
    return found


def _by_pictures(table: Table, folder: Path, config: DedupConfig, *, progress: bool) -> _Compared:
    table.refuse_doubled_ids()
    threshold = config.threshold or COPY_DISTANCE
    prints, _, unread = look_at_all(table, folder, config, progress=progress)
    rows = sorted(prints)
    records = [table.record(row) for row in rows]
    tracks, times = print_tracks([prints[row] for row in rows], records, config.fps)
    ids = table.column("id")
    return _Compared(
        ids=[str(ids[row]) for row in rows],
        records=records,
        unread={str(ids[row]): reason for row, reason in sorted(unread.items())},
        found=compare(tracks, times, config, threshold=threshold),
        by="fingerprints of their pictures",
        threshold=threshold,
    )


def _by_features(features: FeatureFile, config: DedupConfig) -> _Compared:
    threshold = config.threshold or FEATURE_DISTANCE
    ids = [str(key) for key in features.ids[features.records[0]]]
    embs, times, untimed = [], [], {}
    kept = []
    for key in ids:
        track = track_of(features, key)
        if not np.isfinite(track.times).all():
            untimed[key] = "when its frames are is not known"
            continue
        steps = _steps(track.times, config.fps)
        kept.append(key)
        embs.append(track.embs[_nearest(track.times, steps[:-1])])
        times.append(steps)
    return _Compared(
        ids=kept,
        records=[record_of(features, key) for key in kept],
        unread=untimed,
        found=compare(FeatureTracks(embs), times, config, threshold=threshold),
        by="features of their frames",
        threshold=threshold,
    )


def _steps(times: np.ndarray, fps: float) -> np.ndarray:
    """When the steps of a video begin, and when the last one ends: a grid from its first frame on."""
    count = max(1, int(np.floor((times[-1] - times[0]) * fps + 1e-6)) + 1)
    steps: np.ndarray = times[0] + np.arange(count + 1) / fps
    return steps


def _nearest(times: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Places of the frames nearest to some times; both increasing."""
    high = np.searchsorted(times, wanted).clip(1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(len(wanted), np.int64)
    return np.where(wanted - times[high - 1] <= times[high] - wanted, high - 1, high)


def _as_json(compared: _Compared, source: str, config: DedupConfig) -> dict[str, Any]:
    ids, found = compared.ids, compared.found
    return {
        MADE_BY: made("dedup"),
        "source": source,
        "compared_by": compared.by,
        "settings": asdict(replace(config, threshold=compared.threshold)),
        "videos": len(ids),
        "copies": [[ids[video] for video in group] for group in found.copies],
        "groups": [[ids[video] for video in group] for group in found.groups],
        "pairs": [{**asdict(pair), "a": ids[pair.a], "b": ids[pair.b]} for pair in found.pairs],
        "unread": compared.unread,
    }
