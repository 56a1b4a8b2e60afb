"""How well features follow a thing from frame to frame, as they are or with a trained head: one-pass evaluation.

Source: papers/const_cl.md section 6.2; the tracker is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from video_ssl.clips.box_transforms import has_area
from video_ssl.clips.decoders.reader import BadVideo, Reader, stream_frames
from video_ssl.datasets.table import Record
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.leftovers import forget_others, name_of_row
from video_ssl.evaluate.places.siam import Pair, SiamConfig, SiamHead, fit_head
from video_ssl.evaluate.places.track_metrics import track_scores
from video_ssl.evaluate.places.track_video import write_track_video
from video_ssl.evaluate.places.tracker import (
    CorrelationTracker,
    TrackerConfig,
    Windows,
    cut_window,
    samples,
)
from video_ssl.files import write_atomically
from video_ssl.models.preprocess_config import VideoPreprocess

_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Settings of tracking.

    Attributes:
        objects: what the boxes of a record are, in their order; further ones are not tracked.  Empty = every box of a
            record is a target, and all of them count alike.
        most_videos: of the table, evenly spread; null = all.
        tracker: see `TrackerConfig`.
        head: of training on the boxes of train, see `SiamConfig`; null = features are compared as they are.
        batch_size: videos that are tracked side by side, and windows for the head's training in one pass.
        videos: so many of the tracks are drawn, as mp4: the truth at the left, the track at the right.
    """

    objects: tuple[str, ...] = ()
    most_videos: int | None = None
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    head: SiamConfig | None = None
    batch_size: int = 16
    videos: int = 4

    def __post_init__(self) -> None:
        if len(set(self.objects)) != len(self.objects):
            raise ValueError(f"objects={self.objects} must be different names.")
        if self.batch_size < 1 or (self.most_videos is not None and self.most_videos < 1):
            raise ValueError(
                f"batch_size={self.batch_size} must be at least 1, and most_videos={self.most_videos} too, or null."
            )
        if self.videos < 0:
            raise ValueError(f"videos={self.videos} must not be negative.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """A thing to be followed through a video.

    Attributes:
        record: of the table.
        place: of its box among those of the record.
        first: frame whose box is given to the tracker.
        boxes: float32 (T, 4), from that frame on, as tables have them; NaN where it has none.
    """

    record: Record
    place: int
    first: int
    boxes: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """What became of a target: boxes as left, top, width, height in pixels, float64 (T, 4); truth has NaN."""

    target: Target
    truth: NDArray[np.float64]
    found: NDArray[np.float64]

    def judged(self, found: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns found and true boxes of the frames that have a true one."""
        there = np.isfinite(self.truth).all(1)
        return found[there], self.truth[there]


def targets_of(record: Record, most: int | None) -> list[Target]:
    """Returns the things of a record that can be followed: those that have a box in two frames or more.

    Raises:
        FeatureError: boxes of key frames only.
    """
    if record.boxes is None:
        return []
    if record.box_times_sec is not None:
        raise FeatureError(
            f"{record.id} has boxes of key frames only (box_times_sec): tracking is judged on boxes of every frame."
        )
    found = []
    for place in range(record.boxes.shape[1])[:most]:
        boxes = record.boxes[:, place]
        there = np.flatnonzero(np.isfinite(boxes).all(-1) & has_area(boxes))
        if len(there) > 1:
            own = np.where(has_area(boxes)[:, None], boxes, np.nan)
            part = own[there[0] : there[-1] + 1]
            found.append(Target(record=record, place=place, first=int(there[0]), boxes=part))
    return found


class Tracking:
    """The evaluator `tracking`."""

    Config = TrackingConfig
    title = "tracking"
    figures: ClassVar[dict[str, Figure]] = {
        "success": Figure(title="success"),
        "precision": Figure(title="at 20 px"),
        "success_rate": Figure(title="overlap > 0.5"),
    }

    def __init__(self, config: TrackingConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(labels=False, encoder=True, reader=True, maps=True, boxes=True)

    def evaluate(self, given: Context) -> Result:
        """Returns success, precision and success rate of all tracks, and of every named object.

        Videos that cannot be read are left out, named and counted.

        Raises:
            FeatureError: nothing to follow, boxes of key frames only, an encoder of something else than videos.
        """
        config, table = self.config, given.tables["test"]
        assert given.encoder is not None
        if not isinstance(given.encoder.preprocess, VideoPreprocess):
            raise FeatureError("tracking needs an encoder of videos.")
        count = min(config.most_videos or len(table), len(table))
        rows = ((np.arange(count) + 0.5) * len(table) / max(count, 1)).astype(int)
        targets = [
            target
            for row in rows
            for target in targets_of(table.record(int(row)), len(config.objects) or None)
        ]
        windows = Windows(given.encoder, config.tracker, layer=given.settings.layer)
        head: SiamHead | None = None
        notes: list[str] = []
        if config.head is not None:
            head, notes = self._trained(given, windows, config.head)
        # Those of like length together: the shorter ones wait for the longest.
        targets.sort(key=lambda target: len(target.boxes))
        tracks, lost = [], []
        for start in range(0, len(targets), config.batch_size):
            found, gone = self._follow(
                given, windows, head, targets[start : start + config.batch_size]
            )
            tracks += found
            lost += gone
        if not tracks:
            raise FeatureError(
                f"there is nothing to follow in {len(table)} videos of test ({len(lost)} could not be read): it takes "
                "boxes of every frame."
            )
        self._keep(given, tracks)
        return self._result(tracks, lost, notes)

    def _trained(
        self, given: Context, windows: Windows, config: SiamConfig
    ) -> tuple[SiamHead, list[str]]:
        """A head trained on the targets of the training videos, and what there is to say of it."""
        table = given.tables["train"]
        most = len(self.config.objects) or None
        targets = [t for row in range(len(table)) for t in targets_of(table.record(row), most)]
        rng = np.random.default_rng(given.seed)
        pairs: list[Pair] = []
        lost = 0
        each = -(-config.pairs // max(len(targets), 1))
        for place in rng.permutation(len(targets))[: config.pairs]:
            try:
                with given.open(targets[place].record) as reader:
                    pairs += draw_pairs(
                        targets[place],
                        reader,
                        windows,
                        config,
                        each,
                        rng,
                        batch_size=self.config.batch_size,
                    )
            except (BadVideo, OSError, IndexError):
                lost += 1
        if not pairs:
            raise FeatureError(
                f"no pair of frames for the head of tracking ({lost} of {len(targets)} targets of train could not be "
                "read): it takes boxes of every frame, or head=null."
            )
        notes = (
            [f"{lost} targets of train could not be read, and the head did without"] if lost else []
        )
        return fit_head(pairs, config, samples, given.seed), notes

    def _follow(
        self,
        given: Context,
        windows: Windows,
        head: SiamHead | None,
        targets: Sequence[Target],
    ) -> tuple[list[Track], list[str]]:
        """The tracks of some targets side by side, and what could not be read."""
        lost = []
        with ExitStack() as stack:
            open_ones: list[tuple[Target, Reader]] = []
            for target in targets:
                try:
                    reader = stack.enter_context(given.open(target.record))
                except (BadVideo, OSError) as err:
                    lost.append(str(err))
                    continue
                if reader.info.num_frames < target.first + len(target.boxes):
                    lost.append(
                        f"{target.record.id} has boxes up to frame {target.first + len(target.boxes) - 1}, but "
                        f"{reader.info.num_frames} frames"
                    )
                    continue
                open_ones.append((target, reader))
            if not open_ones:
                return [], lost
            truths = [
                in_pixels(target.boxes, reader.info.height, reader.info.width)
                for target, reader in open_ones
            ]
            streams = [_pictures(target, reader) for target, reader in open_ones]
            try:
                return self._run(windows, head, [t for t, _ in open_ones], truths, streams), lost
            except (BadVideo, OSError) as err:
                if len(open_ones) == 1:
                    return [], [*lost, str(err)]
        # One of them breaks in the middle: each on its own tells which.
        found = []
        for target, _ in open_ones:
            own, gone = self._follow(given, windows, head, [target])
            found += own
            lost += gone
        return found, lost

    def _run(
        self,
        windows: Windows,
        head: SiamHead | None,
        targets: Sequence[Target],
        truths: Sequence[NDArray[np.float64]],
        streams: Sequence[Iterator[NDArray[np.uint8]]],
    ) -> list[Track]:
        pictures = [next(stream) for stream in streams]
        given_boxes = np.stack([truth[0] for truth in truths])
        tracker = CorrelationTracker(windows, pictures, given_boxes, head)
        steps = [given_boxes]
        for _ in range(1, max(map(len, truths))):
            # A video that has ended shows its last frame again; what is found there is cut off below.
            pictures = [next(s, p) for s, p in zip(streams, pictures, strict=True)]
            steps.append(tracker.step(pictures))
        found = np.stack(steps, 1)
        return [
            Track(target=target, truth=truth, found=own[: len(truth)])
            for target, truth, own in zip(targets, truths, found, strict=True)
        ]

    def _keep(self, given: Context, tracks: Sequence[Track]) -> None:
        """Writes every track, and draws some; those of an earlier evaluation go."""
        if given.folder is None:
            return
        folder, written = given.folder / "tracks", []
        drawn = sorted(tracks, key=lambda track: (track.target.record.index, track.target.place))
        for number, track in enumerate(drawn):
            name = name_of_row(track.target.record, self._object(track.target))
            lines = [",".join(f"{value:.2f}" for value in box) for box in track.found]
            known = json.dumps(track.target.record.id)
            head = f"# {known}: from frame {track.target.first} on, left,top,width,height in pixels"
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / f"{name}.txt", "\n".join([head, *lines]) + "\n")
            written.append(folder / f"{name}.txt")
            if number < self.config.videos:
                written.append(folder / f"{name}.mp4")
                with given.open(track.target.record) as reader:
                    write_track_video(
                        folder / f"{name}.mp4",
                        _pictures(track.target, reader),
                        track.truth,
                        track.found,
                        reader.info.fps,
                    )
        forget_others(folder, written)

    def _object(self, target: Target) -> str:
        names = self.config.objects
        return names[target.place] if names else f"target_{target.place}"

    def _result(self, tracks: Sequence[Track], lost: Sequence[str], notes: list[str]) -> Result:
        metrics, alone, curves = {}, {}, {}
        groups: dict[str, list[Track]] = {"": list(tracks)}
        for name in self.config.objects:
            own = [track for track in tracks if self._object(track.target) == name]
            if own:
                groups[f"{name}_"] = own
        for prefix, own in groups.items():
            scores = track_scores(*zip(*(t.judged(t.found) for t in own), strict=True))
            still = track_scores(
                *zip(*(t.judged(np.repeat(t.found[:1], len(t.found), 0)) for t in own), strict=True)
            )
            for name in ("success", "precision", "success_rate"):
                metrics[prefix + name] = getattr(scores, name)
                alone[prefix + name] = getattr(still, name)
            curves[prefix or "all"] = {
                "success_curve": scores.success_curve.tolist(),
                "precision_curve": scores.precision_curve.tolist(),
            }
        written = [f"{100 * part['success']:.1f} %" for part in (metrics, alone)]
        if lost:
            named = f"{'; '.join(lost[:_NAMED])}{'; ...' if len(lost) > _NAMED else ''}"
            notes.append(f"{len(lost)} targets could not be followed and are left out: {named}")
        return Result(
            metrics=metrics,
            correct=0,
            total=len(tracks),
            chance=float("nan"),
            statement=f"follows {len(tracks)} targets with a success of {written[0]}",
            details={
                "headline": {
                    "metric": "success",
                    "found": written[0],
                    "position_only": written[1],
                },
                "position_only": alone,
                "num_classes": 1,
                "curves": curves,
                "targets": len(tracks),
            },
            notes=notes,
        )


def draw_pairs(
    target: Target,
    reader: Reader,
    windows: Windows,
    config: SiamConfig,
    count: int,
    rng: np.random.Generator,
    *,
    batch_size: int = 16,
) -> list[Pair]:
    """Returns pairs of frames of a target, encoded, `batch_size` windows in one pass."""
    truth = in_pixels(target.boxes, reader.info.height, reader.info.width)
    there = np.flatnonzero(np.isfinite(truth).all(1))
    one = rng.choice(there, count)
    other = [rng.choice(there[np.abs(there - i) <= config.max_gap]) for i in one]
    frames = target.first + np.stack([one, other], 1)
    sizes = [np.maximum(truth[rows][:, 2:], 1.0) for rows in (one, other)]
    centers = [truth[rows][:, :2] + truth[rows][:, 2:] / 2 for rows in (one, other)]
    spans = [windows.spans(size) for size in sizes]
    shift = rng.uniform(-config.shift, config.shift, (count, 2))
    middles = [centers[0], centers[1] + shift * spans[1][:, None]]
    cut = np.empty((2, count, windows.side, windows.side, 3), np.uint8)
    for index, picture in stream_frames(reader, np.unique(frames)):
        for pair, side in np.argwhere(frames == index):
            span = float(spans[side][pair])
            cut[side, pair] = cut_window(picture, middles[side][pair], span, windows.side)
    pieces = range(0, count, batch_size)
    maps = [torch.cat([windows.encoded(own[i : i + batch_size]) for i in pieces]) for own in cut]
    mean = maps[0].mean((1, 2), keepdim=True)
    own = windows.candidates(sizes[0], spans[0], np.zeros((1, 2)), np.ones(1))[:, 0]
    around = windows.candidates(sizes[1], spans[1], windows.offsets, np.ones(1))
    # In the second window the target lies where it was shifted away from.
    far = np.abs(windows.offsets[None] + shift[:, None]).sum(-1)
    near = far <= np.maximum(config.radius, far.min(1, keepdims=True))
    return [
        Pair(first=a, second=b, box=box, candidates=boxes, near=right)
        for a, b, box, boxes, right in zip(
            maps[0] - mean, maps[1] - mean, own, around, near, strict=True
        )
    ]


def in_pixels(boxes: NDArray[np.floating], height: int, width: int) -> NDArray[np.float64]:
    """Returns boxes of a table, (T, 4), as left, top, width, height in pixels.

    >>> in_pixels(np.array([[0.5, 0.0, 1.0, 0.5]]), 20, 40).tolist()
    [[20.0, 0.0, 20.0, 10.0]]
    """
    found = np.asarray(boxes, np.float64) * [width, height, width, height]
    return np.concatenate([found[:, :2], found[:, 2:] - found[:, :2]], 1)


def _pictures(target: Target, reader: Reader) -> Iterator[NDArray[np.uint8]]:
    indices = np.arange(target.first, target.first + len(target.boxes))
    for _, picture in stream_frames(reader, indices):
        yield picture
