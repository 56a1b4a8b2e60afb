"""How far what a frozen encoder says about places carries the joints of a first frame through its video.

Source: papers/frozen_protocols.md section 3 (JHMDB; the notebook of RVM and 4DS).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo, stream_frames
from video_ssl.datasets.public.mat_files import read_mat_arrays
from video_ssl.datasets.table import Record, TableError
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import Figure, Needs, Result
from video_ssl.evaluate.dense import poses
from video_ssl.evaluate.dense.carried_video import write_joints_video
from video_ssl.evaluate.dense.frame_maps import FrameMaps
from video_ssl.evaluate.dense.propagation import PRESETS, PropagationConfig, propagate
from video_ssl.evaluate.leftovers import forget_others, name_of_row

_NAMED = 3
_FILE, _ARRAY = "joint_positions.mat", "pos_img"


@dataclass(frozen=True, kw_only=True)
class JointPropagationConfig:
    """Settings of the propagation of joints; the defaults are the notebook's on JHMDB.

    Attributes:
        preset: "notebook", or "crw" (older tables; the notebook's sizes, ours).
        rule: settings in place of those of the preset, see `PropagationConfig`.
        size: (height, width) that frames are scaled to; null = the encoder's own square.
        cubic: features between the moments of a tubelet by a cubic (4DS) in place of a line.
        joints: part of the path of a folder of frames -> what stands there for the folder of `joint_positions.mat`.
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
        return Needs(labels=False, train=False, encoder=True, reader=True, maps=True)

    def evaluate(self, given: Context) -> Result:
        """Returns the share of joints near their true places, and beside it that of joints that stay where they are.

        Only joints that were found count, as in the references: their share is told.

        Raises:
            FeatureError: an encoder or a size that does not do, joints that do not fit their video, or no video.
        """
        config, table = self.config, given.tables["test"]
        assert given.encoder is not None
        maker = FrameMaps(given.encoder, config.size, cubic=config.cubic, settings=given.settings)
        count = min(config.most_videos or len(table), len(table))
        own, still, lost, seen = [], [], [], []
        drawn: list[Path] = []
        for row in ((np.arange(count) + 0.5) * len(table) / max(count, 1)).astype(int):
            record = table.record(int(row))
            try:
                truth, found, there = self._carried(given, maker, record)
            except BadVideo as err:
                lost.append(str(err))
                continue
            except (ValueError, TableError) as err:
                raise FeatureError(str(err)) from err
            own.append(poses.joint_distances(found, truth, there))
            if given.folder is not None and len(own) <= config.videos:
                shown = np.where(there[..., None], found, np.nan)
                drawn.append(self._draw(given, record, truth, shown))
            stays = np.repeat(truth[:1], len(truth), 0)
            still.append(poses.joint_distances(stays, truth, np.ones_like(there)))
            seen.append(there[1:].mean())
        if not own:
            raise FeatureError(
                f"joints of no video could be carried: {'; '.join(lost[:_NAMED]) or 'test is empty'}."
            )
        if given.folder is not None:
            forget_others(given.folder / "joints", drawn)
        return self._result(own, still, float(np.mean(seen)), lost)

    def _carried(
        self, given: Context, maker: FrameMaps, record: Record
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """True joints (T, J, 2) in pixels, those that were found, and whether each was, (T, J)."""
        config, device = self.config, device_of(self.config.device, given)
        with given.open(record) as reader:
            info = reader.info
            truth = joints_beside(record.source, config.joints, info.num_frames)
            features = maker.of_video(reader)[: len(truth)]
        size = (info.height, info.width)
        first = poses.map_of_pose(truth[0], size, features.shape[1:3])
        maps = propagate(
            torch.from_numpy(features).to(device),
            torch.from_numpy(first).to(device),
            config.settings,
        )
        found, there = poses.poses_of_maps(maps.cpu().numpy(), size, topk=config.places)
        return truth, found, there

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
        own: list[list[NDArray[np.float64]]],
        still: list[list[NDArray[np.float64]]],
        seen: float,
        lost: list[str],
    ) -> Result:
        metrics, beside = self._shares(own), self._shares(still)
        figure = self.figures["pck_10"]
        notes = [f"{100 * seen:.1f} % of the joints were found; the others do not count"]
        if lost:
            notes.append(f"{len(lost)} videos are left out: {'; '.join(lost[:_NAMED])}")
        return Result(
            metrics=metrics,
            correct=0,
            total=len(own),
            chance=float("nan"),
            details={
                "stays_where_it_is": beside,
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

    def _shares(self, distances: list[list[NDArray[np.float64]]]) -> dict[str, float]:
        """Mean over joints of the share within each threshold, over all videos."""
        joints = [np.concatenate(each) for each in zip(*distances, strict=True)]
        shares = np.nanmean(poses.correct_joints(joints, self.thresholds), axis=1)
        return {
            f"pck_{round(100 * t)}": float(share)
            for t, share in zip(self.thresholds, shares, strict=True)
        }


def joints_beside(source: str, places: Mapping[str, str], num_frames: int) -> NDArray[np.float64]:
    """Returns float64 (T, J, 2), x and y in pixels that count from 0, of the file beside a folder of frames.

    T is the number of frames with joints, at most `num_frames`.

    Raises:
        TableError: the file is not there, damaged, or holds no array pos_img of (2, J, T).
    """
    file = Path(*(places.get(part, part) for part in Path(source).parts)) / _FILE
    arrays = read_mat_arrays(file)
    found = arrays.get(_ARRAY)
    if found is None or found.ndim != 3 or found.shape[0] != 2 or not found.size:
        shape = None if found is None else found.shape
        raise TableError(f"{file} must hold {_ARRAY} of (2, joints, frames), but has {shape}.")
    joints = found.astype(np.float64).transpose(2, 1, 0) - 1
    if not np.isfinite(joints).all():
        raise TableError(f"{file} has joints that are no numbers.")
    return joints[:num_frames]
