"""How far what a frozen encoder says about places carries the joints of a first frame through its video.

The true joints are those of files (JHMDB), or of the generated videos; see `true_joints`.

Source: papers/frozen_protocols.md section 3 (JHMDB; the notebook of RVM and 4DS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo, stream_frames
from video_ssl.datasets.table import Record, TableError
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.dense import poses
from video_ssl.evaluate.dense.carried_video import write_joints_video
from video_ssl.evaluate.dense.frame_maps import FrameMaps
from video_ssl.evaluate.dense.propagation import PRESETS, PropagationConfig, propagate
from video_ssl.evaluate.dense.true_joints import Joints, JointSource, joint_source
from video_ssl.evaluate.leftovers import forget_others, name_of_row

_NAMED = 3
#: PCK@0.1 of the true joints on a grid that needs no warning.
_FINE_GRID = 0.9
#: Of each video, for each joint.
Distances = Sequence[Sequence[NDArray[np.float64]]]
#: Places (T, J, 2) in pixels, and whether each joint is there, (T, J).
Poses = tuple[NDArray[np.float64], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class JointPropagationConfig:
    """Settings of the propagation of joints; the defaults are the notebook's on JHMDB.

    Attributes:
        preset: "notebook", or "crw" (older tables; the notebook's sizes, ours).
        rule: settings in place of those of the preset, see `PropagationConfig`.
        size: (height, width) that frames are scaled to; null = the encoder's own square.
        cubic: features between the moments of a tubelet by a cubic (4DS) in place of a line.
        joints: part of the path of a folder of frames -> what stands there for the folder of `joint_positions.mat`.
            Not asked of generated videos.
        topk: places that a joint is the mean of; null = 5, of "crw" 3.
        most_videos: of the table, evenly spread; null = all.
        device: where labels travel; auto = that of the evaluation.
        videos: so many are drawn into the folder of the evaluation, as mp4s with the true joints on the left and those
            that were found on the right.
    """

    preset: Literal["notebook", "crw"] = "notebook"
    rule: PropagationConfig | None = None
    size: tuple[int, int] | None = (320, 320)
    cubic: bool = False
    joints: dict[str, str] = field(default_factory=lambda: {"Rename_Images": "joint_positions"})
    topk: int | None = None
    most_videos: int | None = None
    device: str = "auto"
    videos: int = 4

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size={self.size} must be (height, width) of at least 1 pixel.")
        if self.videos < 0:
            raise ValueError(f"videos={self.videos} must not be negative.")
        if (self.topk is not None and self.topk < 1) or (
            self.most_videos is not None and self.most_videos < 1
        ):
            raise ValueError(
                f"topk={self.topk} must be at least 1, and most_videos={self.most_videos} too, or null."
            )

    @property
    def settings(self) -> PropagationConfig:
        """Those of the rule, or of the preset."""
        return self.rule or PRESETS[self.preset]

    @property
    def places(self) -> int:
        """That a joint is the mean of."""
        return self.topk or (3 if self.preset == "crw" else 5)


class JointPropagation:
    """The evaluator `joints`."""

    Config = JointPropagationConfig
    title = "joint propagation"
    figures: ClassVar[dict[str, Figure]] = {
        "pck_10": Figure(title="PCK@0.1"),
        "pck_20": Figure(title="PCK@0.2"),
    }
    #: Shares of the size of a person that a joint may be off.
    thresholds: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.5)

    def __init__(self, config: JointPropagationConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(
            labels=False,
            train=False,
            encoder=True,
            reader=True,
            maps=True,
            truth=partial(joint_source, places=self.config.joints),
        )

    def evaluate(self, given: Context) -> Result:
        """Returns the share of joints near their true places, and beside it that of joints that stay where they are.

        A third share is that of the true joints of every frame, put on the grid of places and read back: how near the
        grid lets them be.  Only joints that were found count, as in the references: their share is told.  Joints that
        are not judged (see `true_joints`) count nowhere, a video without any behind its first frame is left out.

        Raises:
            FeatureError: an encoder or a size that does not do, joints that do not fit their video, or no video.
        """
        config, table = self.config, given.tables["test"]
        assert given.encoder is not None
        maker = FrameMaps(given.encoder, config.size, cubic=config.cubic, settings=given.settings)
        source = joint_source(table, config.joints)
        count = min(config.most_videos or len(table), len(table))
        own: list[list[NDArray[np.float64]]] = []
        still: list[list[NDArray[np.float64]]] = []
        rounded: list[list[NDArray[np.float64]]] = []
        lost, seen = [], []
        drawn: list[Path] = []
        for row in ((np.arange(count) + 0.5) * len(table) / max(count, 1)).astype(int):
            record = table.record(int(row))
            try:
                truth, carried, on_grid = self._carried(given, maker, source, record)
            except BadVideo as err:
                lost.append(str(err))
                continue
            except (ValueError, TableError) as err:
                raise FeatureError(str(err)) from err
            if not truth.judged[1:].any():
                lost.append(f"{record.id} has no joint to judge behind its first frame")
                continue
            stays = np.repeat(truth.places[:1], len(truth.places), 0), np.ones_like(truth.judged)
            for distances, (places, there) in ((own, carried), (still, stays), (rounded, on_grid)):
                distances.append(poses.joint_distances(places, truth.places, there, truth.judged))
            found, there = carried
            seen.append(there[1:][truth.judged[1:]].mean())
            if given.folder is not None and len(own) <= config.videos:
                shown = np.where(there[..., None], found, np.nan)
                drawn.append(self._draw(given, record, truth.places, shown))
        if not own:
            raise FeatureError(
                f"joints of no video could be carried: {'; '.join(lost[:_NAMED]) or 'test is empty'}."
            )
        if given.folder is not None:
            forget_others(given.folder / "joints", drawn)
        return self._result(own, still, rounded, float(np.mean(seen)), lost)

    def _carried(
        self, given: Context, maker: FrameMaps, source: JointSource, record: Record
    ) -> tuple[Joints, Poses, Poses]:
        """True joints, those that were found, and the true ones as near as the grid of places lets them be."""
        config, device = self.config, device_of(self.config.device, given)
        with given.open(record) as reader:
            info = reader.info
            truth = source.of_video(record.index, info)
            features = maker.of_video(reader)[: len(truth.places)]
        size, grid = (info.height, info.width), features.shape[1:3]
        first = poses.map_of_pose(truth.places[0], size, grid, given=truth.judged[0])
        maps = propagate(
            torch.from_numpy(features).to(device),
            torch.from_numpy(first).to(device),
            config.settings,
        )
        carried = poses.poses_of_maps(maps.cpu().numpy(), size, topk=config.places)
        each = np.stack([poses.map_of_pose(pose, size, grid) for pose in truth.places])
        return truth, carried, poses.poses_of_maps(each, size, topk=config.places)

    def _draw(
        self,
        given: Context,
        record: Record,
        truth: NDArray[np.float64],
        found: NDArray[np.float64],
    ) -> Path:
        assert given.folder is not None
        name = f"{name_of_row(record, record.id)}.mp4"
        path = given.folder / "joints" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with given.open(record) as reader:
            frames = stream_frames(reader, np.arange(len(found)))
            pictures = (picture for _, picture in frames)
            write_joints_video(path, pictures, truth, found, reader.info.fps)
        return path

    def _result(
        self,
        own: Distances,
        still: Distances,
        rounded: Distances,
        seen: float,
        lost: list[str],
    ) -> Result:
        metrics, beside, on_grid = (self._shares(each) for each in (own, still, rounded))
        figure = self.figures["pck_10"]
        notes = [f"{100 * seen:.1f} % of the joints were found; the others do not count"]
        if on_grid["pck_10"] < _FINE_GRID:
            notes.append(
                f"the grid of places is coarse: the true joints, rounded to it, have {figure.title} of "
                f"{figure.written(on_grid['pck_10'])} %. A larger size has a finer one"
            )
        if lost:
            notes.append(f"{len(lost)} videos are left out: {'; '.join(lost[:_NAMED])}")
        return Result(
            metrics=metrics,
            correct=0,
            total=len(own),
            chance=float("nan"),
            details={
                "stays_where_it_is": beside,
                "true_on_the_grid": on_grid,
                "found_share": seen,
                "preset": self.config.preset,
                "videos": len(own),
                "headline": {
                    "metric": "pck_10",
                    "found": figure.written(metrics["pck_10"]),
                    "position_only": figure.written(beside["pck_10"]),
                },
            },
            notes=notes,
            statement=(
                f"carries the joints of the first frame of {len(own)} videos to their places, "
                f"{figure.written(metrics['pck_10'])} % within a tenth of the person"
            ),
        )

    def _shares(self, distances: Distances) -> dict[str, float]:
        """Mean over joints of the share within each threshold, over all videos."""
        joints = [np.concatenate(each) for each in zip(*distances, strict=True)]
        shares = np.nanmean(poses.correct_joints(joints, self.thresholds), axis=1)
        return {
            f"pck_{round(100 * t)}": float(share)
            for t, share in zip(self.thresholds, shares, strict=True)
        }
