"""`video-ssl sync`: when recordings of one scene began, from their sound or from what they show."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.explore.config import SyncConfig
from video_ssl.explore.offsets import (
    Offset,
    OffsetError,
    Times,
    find_offset,
    local_offsets,
    reconcile,
)
from video_ssl.explore.sync_tracks import (
    SOUND_RATE,
    By,
    SyncTrack,
    common_rate,
    info_of,
    on_grid,
    picture_track,
    sound_track,
)
from video_ssl.explore.sync_video import write_in_step
from video_ssl.explore.tracks import embed_video
from video_ssl.files import MADE_BY, claim_file, identity, made, write_json

__all__ = ["THRESHOLDS", "sync_recordings", "told", "trust_of"]

logger = logging.getLogger(__name__)

#: Trust that 95 % of recordings of different scenes do not reach (docs/frames.md says how it was measured).
THRESHOLDS: dict[By, float] = {
    "motion": 0.28,
    "hog": 0.022,
    "pixels": 0.06,
    "sound": 0.14,
    "encoder": 0.5,
}
#: Lags so near the best one are the same answer.
_SAME_SEC = 0.25
#: A pair that lies further off the reconciled times than this contradicts the others.
_AGREES_SEC = 0.1
#: What overlaps for less than this is never trusted: on two real takes of 1.7 s chance was more certain than truth.
_MIN_OVERLAP_SEC = 2.0
_MIN_FRAMES = 8  # of the grid: below, chance fits anything
_REACH_SEC = 1.0  # how far drift may take a section from the offset of the whole
_MIN_SECTIONS = 3
_ROUNDS = 20  # three do, unless clocks run at very different rates


@dataclass(frozen=True, kw_only=True)
class _Line:
    """The lag of b at time t of a, in seconds: start + gain * t; `gain` is what b's clock gains in a second of a's."""

    start: float
    gain: float


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """What was found of recordings a and b.

    Attributes:
        found: of the whole, in frames; where clocks drift it holds in the middle of the overlap.
        middle_sec: of the overlap, on a's clock.
        line: where drift was asked for, and there are sections enough to tell.
    """

    a: int
    b: int
    found: Offset
    trust: float
    middle_sec: float
    line: _Line | None

    def offset_sec(self, rate: float) -> float:
        """What a shows in the middle of the overlap, b shows so much later on its own clock."""
        if self.line is None:
            return self.found.subframe / rate
        return self.line.start + self.line.gain * self.middle_sec


def sync_recordings(
    recordings: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    video: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    config: SyncConfig | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Returns when every recording began, and what was found of all pairs; writes it where that is asked for.

    All pairs are compared (`find_offset`), the offsets that can be trusted are reconciled (`reconcile`, robust), and
    recordings that no trusted offset joins stay apart: nothing is guessed.

    Args:
        recordings: video files, or files of sound alone; each as long as it likes, of any frame rate, also varying.
        out: JSON to write: what is returned.
        video: mp4 to write: the recordings of the largest group side by side, in step.
        encoder: its frame features are compared, see `open_encoder`; instead of what `config.by` says.
        device: where the encoder computes.

    Returns:
        `complete`: one group holds all recordings; `by`, `rate` (frames a second), `threshold`; `recordings`: of each
        `start_sec` after the first one of its `group` began, by that one's clock, and `drift_ppm` of its own clock
        against that: what the first shows at s, it shows at (s - start_sec) * (1 + drift_ppm / 1e6);
        `pairs`: `offset_sec` (what `a` shows at t, `b` shows at t + offset_sec; where clocks drift, at t =
        `middle_sec`, the middle of the overlap), with drift `drift_ppm` of b against a and `offset_at_0_sec`, the
        offset at t = 0; `offset_frames` of the grid, `score`, `confidence`, `trust`, `trusted`, `residual_sec` against
        the reconciled times, `agrees`, `overlap_sec`; `video`, None where none was written; `notes`.

    Raises:
        OffsetError: fewer than two recordings, one without the sound or the pictures that are compared, too short,
            still or silent from beginning to end; or no overlap is possible with these settings.
        BadVideo, EncoderError, EmbeddingError: a file or an encoder that cannot be read.
        OutputError: `out` or `video` is a recording, or is there and was not made by sync, or cannot be written.
    """
    config = config or SyncConfig()
    paths = [os.fspath(path) for path in recordings]
    if len(paths) < 2:
        raise OffsetError(
            f"{len(paths)} recording was given: name two or more of one scene, video-ssl sync A.mp4 B.mp4."
        )
    if encoder is not None and config.by != "auto":
        raise OffsetError(
            f"--by {config.by} and --encoder {encoder} both say what is compared: give one of them."
        )
    targets = [
        None if place is None else claim_file(place, "sync", sources=paths, is_ours=ours)
        for place, ours in ((out, None), (video, _is_our_video))
    ]
    if out is not None and targets[0] == targets[1]:
        raise OffsetError(f"--out and --video are the same file, {targets[0]}: give two names.")
    infos = [info_of(path) for path in paths]
    by = _choice(infos, config, encoder)
    rate = _rate(by, infos, config)
    tracks = [_track(path, by, encoder, config, device) for path in paths]
    grids = [on_grid(track, rate) for track in tracks]
    _refuse_unfit(paths, grids, by, rate)
    pairs = [
        _compare(a, b, grids, rate, by, config)
        for a, b in itertools.combinations(range(len(paths)), 2)
    ]
    threshold = THRESHOLDS[by] if config.threshold is None else config.threshold
    found = _reconciled(pairs, paths, infos, rate, threshold)
    found["by"] = encoder if encoder is not None else by
    found["notes"] = _notes(paths, found, config)
    _write(targets, video, paths, infos, found, config)
    return found


def _is_our_video(path: Path) -> bool:
    """A video of ours says so in its comment."""
    import av

    try:
        with av.open(str(path)) as container:
            return bool(container.metadata.get("comment") == made("sync"))
    except (OSError, ValueError):
        return False


def _choice(infos: Sequence[VideoInfo], config: SyncConfig, encoder: str | None) -> By:
    if encoder is not None:
        return "encoder"
    if config.by != "auto":
        return config.by
    alone = any(not info.width for info in infos)
    return "sound" if alone or all(info.has_audio for info in infos) else "motion"


def _rate(by: By, infos: Sequence[VideoInfo], config: SyncConfig) -> float:
    if by == "sound":
        return float(config.fps or SOUND_RATE)
    return common_rate(infos, config.fps)


def _track(path: str, by: By, encoder: str | None, config: SyncConfig, device: str) -> SyncTrack:
    if by == "sound":
        return sound_track(path)
    if encoder is None:
        return picture_track(path, by)
    info = info_of(path)
    if not info.width:
        raise OffsetError(f"{path} has sound alone, which {encoder} does not see: use --by sound.")
    stride: dict[str, Any] = (
        {} if config.frame_stride is None else {"frame_stride": config.frame_stride}
    )
    track = embed_video(path, encoder, device=device, **stride)
    return SyncTrack(times=track.times, values=track.embs, duration_sec=info.duration_sec)


def _refuse_unfit(paths: Sequence[str], grids: Sequence[np.ndarray], by: By, rate: float) -> None:
    for path, grid in zip(paths, grids, strict=True):
        if len(grid) < _MIN_FRAMES:
            raise OffsetError(
                f"{path} has {len(grid)} frames at {rate:g} a second, too few to be compared: at least {_MIN_FRAMES} "
                "are needed. Give a longer recording, or a higher --fps."
            )
        if not (np.ptp(grid, axis=0) > 1e-7).any():
            raise OffsetError(
                f"in {path} nothing ever changes (by {by}): leave it out, or compare something else (--by)."
            )


def _compare(
    a: int, b: int, grids: Sequence[np.ndarray], rate: float, by: By, config: SyncConfig
) -> _Pair:
    x, y = grids[a], grids[b]
    window = max(1, round(_SAME_SEC * rate))
    frames = {
        name: None if seconds is None else max(1, round(seconds * rate))
        for name, seconds in (
            ("max_lag", config.max_offset_sec),
            ("min_overlap", config.min_overlap_sec),
        )
    }
    found = find_offset(x, y, window=window, **frames)
    line = _drift(x, y, found, rate, window, config) if config.drift else None
    middle = (max(0, -found.lag) + min(len(x), len(y) - found.lag)) / 2 / rate
    trust = trust_of(found, by, rate)
    return _Pair(a=a, b=b, found=found, trust=trust, middle_sec=middle, line=line)


def trust_of(found: Offset, by: By, rate: float) -> float:
    """Returns how far an offset can be trusted, 0..1: confidence times score, of an encoder the confidence alone.

    Scores of hand-made features are of one scale, and tell recordings of different scenes apart better together with
    the confidence than either does alone; those of encoders are not.  0 where the overlap is shorter than 2 s.
    """
    if found.overlap < _MIN_OVERLAP_SEC * rate:
        return 0.0
    return found.confidence * (1.0 if by == "encoder" else max(found.score, 0.0))


def _drift(
    x: np.ndarray, y: np.ndarray, found: Offset, rate: float, window: int, config: SyncConfig
) -> _Line | None:
    """None where there are too few sections to tell."""
    middles, lags, trust = local_offsets(
        x,
        y,
        lag=found.lag,
        section=max(_MIN_FRAMES, round(config.section_sec * rate)),
        reach=round(_REACH_SEC * rate),
        window=window,
    )
    if (trust > 0).sum() < _MIN_SECTIONS:
        return None
    start, gain = _line(middles, lags, trust)
    return _Line(start=start / rate, gain=gain)


def _line(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Where the line through points, half of which may be wrong, is at x = 0, and its slope.

    The slope is the weighted median of those of all pairs, the line the weighted median of those through each point.
    """
    i, j = np.triu_indices(len(x), 1)
    slope = _median((y[j] - y[i]) / (x[j] - x[i]), weights[i] * weights[j])
    return _median(y - slope * x, weights), slope


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _reconciled(
    pairs: Sequence[_Pair],
    paths: Sequence[str],
    infos: Sequence[VideoInfo],
    rate: float,
    threshold: float,
) -> dict[str, Any]:
    trusted = [pair.trust >= threshold and pair.trust > 0 for pair in pairs]
    weights = [pair.trust if ok else 0.0 for pair, ok in zip(pairs, trusted, strict=True)]
    gains, placed = _gains(pairs, weights, num=len(paths))
    times = _started(pairs, weights, gains, rate)
    recordings = [
        {
            "path": path,
            "duration_sec": info.duration_sec,
            "group": int(times.groups[k]),
            # It shows 0 when times[k] has been made up for, by a clock that runs 1 + gain as fast.
            "start_sec": -float(times.times[k] / (1 + gains[k])) + 0.0,  # not -0.0
            "drift_ppm": float(gains[k] * 1e6) if placed[k] else None,
        }
        for k, (path, info) in enumerate(zip(paths, infos, strict=True))
    ]
    shown = [
        {
            "a": pair.a,
            "b": pair.b,
            "offset_sec": pair.offset_sec(rate),
            "middle_sec": pair.middle_sec,
            "offset_at_0_sec": None if pair.line is None else pair.line.start,
            "drift_ppm": None if pair.line is None else pair.line.gain * 1e6,
            "offset_frames": pair.found.subframe,
            "score": pair.found.score,
            "confidence": pair.found.confidence,
            "trust": pair.trust,
            "trusted": ok,
            "residual_sec": None if np.isnan(residual) else float(residual),
            "agrees": bool(not np.isnan(residual) and abs(residual) <= _AGREES_SEC),
            "overlap_sec": pair.found.overlap / rate,
        }
        for pair, ok, residual in zip(pairs, trusted, times.residuals, strict=True)
    ]
    return {
        MADE_BY: made("sync"),
        "complete": bool((times.groups == 0).all()),
        "rate": rate,
        "threshold": threshold,
        "recordings": recordings,
        "pairs": shown,
    }


def _gains(
    pairs: Sequence[_Pair], weights: Sequence[float], *, num: int
) -> tuple[np.ndarray, list[bool]]:
    """What each clock gains in a second of the first of its group, (N,), and whether that is known; else 0."""
    ends = [(pair.a, pair.b) for pair in pairs]
    groups = reconcile(ends, np.zeros(len(pairs)), weights, num=num).groups
    lines = [pair.line for pair in pairs]
    known = [w if line is not None else 0.0 for w, line in zip(weights, lines, strict=True)]
    # Logarithms add up where factors multiply.
    factors = [0.0 if line is None else np.log1p(line.gain) for line in lines]
    drifts = reconcile(ends, factors, known, num=num, robust=True)
    some = any(line is not None for line in lines)
    placed = [some and bool(a == b) for a, b in zip(drifts.groups, groups, strict=True)]
    return np.where(placed, np.expm1(drifts.times), 0.0), placed


def _started(
    pairs: Sequence[_Pair], weights: Sequence[float], gains: np.ndarray, rate: float
) -> Times:
    """What each recording shows when the first of its group shows 0, also where that lies before its beginning.

    What a pair says holds in the middle of its overlap; from there it goes on by the clocks of both.  How far that is
    depends on what is sought, so that it is found by rounds, each of which is closer by the difference of the clocks.
    """
    ends = [(pair.a, pair.b) for pair in pairs]
    times = np.zeros(len(gains))
    for _ in range(_ROUNDS):
        offsets = [
            pair.offset_sec(rate)
            - ((1 + gains[pair.b]) / (1 + gains[pair.a]) - 1) * (pair.middle_sec - times[pair.a])
            for pair in pairs
        ]
        found = reconcile(ends, offsets, weights, num=len(gains), robust=True)
        if np.allclose(found.times, times, rtol=0, atol=1e-6):
            break
        times = found.times
    return found


def _notes(paths: Sequence[str], found: dict[str, Any], config: SyncConfig) -> list[str]:
    notes = []
    names = [Path(path).name for path in paths]
    for a, b in itertools.combinations(range(len(paths)), 2):
        if identity(paths[a]) == identity(paths[b]):
            notes.append(f"recordings {a + 1} and {b + 1} are the same file, {names[a]}")
    groups: dict[int, list[str]] = {}
    for name, recording in zip(names, found["recordings"], strict=True):
        groups.setdefault(recording["group"], []).append(name)
    if len(groups) > 1:
        parts = "; ".join(", ".join(group) for group in groups.values())
        notes.append(
            "no offset between these can be trusted, they may not overlap at all: "
            f"{parts}. {_MIN_OVERLAP_SEC:g} s must overlap at least. Try another --by, an --encoder, or "
            f"--min-overlap-sec; --threshold {found['threshold']:g} is what an offset had to reach"
        )
    for pair in found["pairs"]:
        if pair["trusted"] and not pair["agrees"]:
            notes.append(
                f"{names[pair['a']]} and {names[pair['b']]} alone would be {abs(pair['residual_sec']):.2f} s off the "
                "times that fit all pairs best"
            )
    if config.drift and all(r["drift_ppm"] is None for r in found["recordings"]):
        notes.append(
            f"no drift: the overlaps have fewer than {_MIN_SECTIONS} sections of {config.section_sec:g} s that tell "
            "anything (--section-sec)"
        )
    return notes


def _write(
    targets: Sequence[Path | None],
    shown: str | os.PathLike[str] | None,
    paths: Sequence[str],
    infos: Sequence[VideoInfo],
    found: dict[str, Any],
    config: SyncConfig,
) -> None:
    """Writes the video, which `shown` is the name of as given, and then what was found, the video included."""
    out, video = targets
    try:
        if video is not None and shown is not None:
            found["video"] = None
            if _write_video(video, paths, infos, found, config):
                found["video"] = os.fspath(shown)
    finally:  # the times stay where the video fails: they are what took long
        if video is not None and found.get("video") is None:
            video.unlink(missing_ok=True)  # ours, of what was synchronised before
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_json(out, found)


def _write_video(
    path: Path,
    paths: Sequence[str],
    infos: Sequence[VideoInfo],
    found: dict[str, Any],
    config: SyncConfig,
) -> bool:
    """The recordings of the largest group that have pictures; False and a note where these are fewer than two."""
    groups = [r["group"] for r in found["recordings"]]
    largest = max(sorted(set(groups)), key=groups.count)
    shown = [k for k, group in enumerate(groups) if group == largest and infos[k].width]
    if len(shown) < 2:
        found["notes"].append(f"no video was written: {len(shown)} recording in step has pictures")
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    write_in_step(
        path,
        [paths[k] for k in shown],
        starts_sec=[found["recordings"][k]["start_sec"] for k in shown],
        gains=[(found["recordings"][k]["drift_ppm"] or 0.0) * 1e-6 for k in shown],
        height=config.height,
        comment=made("sync"),
    )
    return True


def told(found: dict[str, Any]) -> list[str]:
    """Returns what was found, line by line."""
    recordings = found["recordings"]
    names = [Path(r["path"]).name for r in recordings]
    width = max(9, *map(len, names))
    lines = [f"by {found['by']}, {found['rate']:g} frames a second"]
    lines.append(f"{'recording':<{width}}  {'began':>10}  {'clock':>9}  {'lasts':>9}")
    alone = [r["group"] for r in recordings]
    for name, r in zip(names, recordings, strict=True):
        placed = alone.count(r["group"]) > 1
        began = f"{r['start_sec']:+.3f} s" if placed else "unknown"
        clock = "" if r["drift_ppm"] is None else f"{r['drift_ppm']:+.0f} ppm"
        lines.append(f"{name:<{width}}  {began:>10}  {clock:>9}  {r['duration_sec']:>7.2f} s")
    lines.append(f"{'pair':<{2 * width + 3}}  {'offset':>10}  confidence  trust")
    for pair in found["pairs"]:
        both = f"{names[pair['a']]} - {names[pair['b']]}"
        offset = f"{pair['offset_sec']:+.3f} s" if pair["trusted"] else "none"
        verdict = "" if pair["trusted"] else f"  (below {found['threshold']:g})"
        verdict = "  contradicts the others" if pair["trusted"] and not pair["agrees"] else verdict
        lines.append(
            f"{both:<{2 * width + 3}}  {offset:>10}  {pair['confidence']:>10.2f}  {pair['trust']:>5.2f}{verdict}"
        )
    return [*lines, *(f"Note: {note}." for note in found["notes"])]
