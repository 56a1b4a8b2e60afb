"""Where the joints of videos truly are: in files beside their frames, or where their generator put them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.datasets.demo.truth import figure_joints, frame_px, is_generated
from video_ssl.datasets.public.mat_files import read_mat_arrays
from video_ssl.datasets.table import Table, TableError

_FILE, _ARRAY = "joint_positions.mat", "pos_img"


@dataclass(frozen=True, kw_only=True, eq=False)
class Joints:
    """The joints of a video of T frames.

    Attributes:
        places: float64 (T, J, 2), x and y in pixels of the video.
        judged: bool (T, J), those that a result is about; what is not judged in the first frame is in none.
    """

    places: NDArray[np.float64]
    judged: NDArray[np.bool_]


class JointSource(Protocol):
    """Knows the joints of the videos of one table."""

    def of_video(self, row: int, info: VideoInfo) -> Joints:
        """Returns those of a row.

        Args:
            row: of the table.
            info: what was opened for it.

        Raises:
            TableError: there are none, or not those of that video.
        """
        ...


def joint_source(table: Table, places: Mapping[str, str]) -> JointSource:
    """Returns who knows the joints of a table: its generator where it has one, else files (see `JointFiles`).

    Args:
        table: whose videos are judged.
        places: see `joints_beside`.

    Raises:
        TableError: the table has neither, which its first row tells, or videos that cannot be generated again.
    """
    if is_generated(table):
        return GeneratedJoints(table)
    source = table.record(0).source
    if not set(places) & set(Path(source).parts) and not _file_of(source, places).is_file():
        raise TableError(
            f"there are no joints of {source}. Take generated videos (`video-ssl data demo`), or folders of frames "
            f"with a {_FILE} each, as JHMDB has them: `joints` of this evaluator, {dict(places)}, says which part of "
            "the path of the frames stands for what in that of the joints."
        )
    return JointFiles(table, places)


class GeneratedJoints:
    """The joints of generated videos, whatever hides them; see `video_ssl.datasets.demo.truth`.

    Those outside of the frame are not judged, nor, in any frame, those that are outside of the first one: nobody could
    tell where they begin.  Of videos that were made smaller or larger since, the places are those of their own pixels.

    Args:
        table: of `build_demo`, or rows of it.

    Raises:
        TableError: its first video cannot be generated again.
    """

    def __init__(self, table: Table) -> None:
        self.table, self.frame_px = table, frame_px(table)
        figure_joints(table, 0)

    def of_video(self, row: int, info: VideoInfo) -> Joints:
        """As of `JointSource`; a video that is not as it was generated, in frames or in shape, is refused."""
        record, side = self.table.record(row), self.frame_px
        made = figure_joints(self.table, row)
        if len(made) != info.num_frames:
            raise TableError(
                f"{record.id} has {info.num_frames} frames in {record.source}, but {len(made)} were generated: joints "
                "are known of all frames of a generated video. Use it as `video-ssl data demo` makes it, or a copy of "
                "another size with all frames."
            )
        if info.width != info.height:
            raise TableError(
                f"{record.id} is {info.width} x {info.height} px in {record.source}, but {side} x {side} px were "
                "generated: joints are known of whole frames. Use it as `video-ssl data demo` makes it."
            )
        inside = np.asarray(((made >= 0) & (made < side)).all(-1))
        return Joints(places=made * (info.width / side), judged=inside & inside[:1])


class JointFiles:
    """Joints in files beside folders of frames, as JHMDB has them; all of them are judged.

    Args:
        table: of folders of frames.
        places: see `joints_beside`.
    """

    def __init__(self, table: Table, places: Mapping[str, str]) -> None:
        self.table, self.places = table, places

    def of_video(self, row: int, info: VideoInfo) -> Joints:
        """As of `JointSource`; of the frames behind the last one with joints there are none."""
        found = joints_beside(self.table.record(row).source, self.places, info.num_frames)
        return Joints(places=found, judged=np.ones(found.shape[:2], bool))


def joints_beside(source: str, places: Mapping[str, str], num_frames: int) -> NDArray[np.float64]:
    """Returns float64 (T, J, 2), x and y in pixels that count from 0, of the file beside a folder of frames.

    T is the number of frames with joints, at most `num_frames`.

    Args:
        source: the folder of frames.
        places: part of its path -> what stands there in the path of the folder of `joint_positions.mat`.
        num_frames: of the video.

    Raises:
        TableError: the file is not there, damaged, or holds no array pos_img of (2, J, T).
    """
    file = _file_of(source, places)
    arrays = read_mat_arrays(file)
    found = arrays.get(_ARRAY)
    if found is None or found.ndim != 3 or found.shape[0] != 2 or not found.size:
        shape = None if found is None else found.shape
        raise TableError(f"{file} must hold {_ARRAY} of (2, joints, frames), but has {shape}.")
    joints = found.astype(np.float64).transpose(2, 1, 0) - 1
    if not np.isfinite(joints).all():
        raise TableError(f"{file} has joints that are no numbers.")
    return joints[:num_frames]


def _file_of(source: str, places: Mapping[str, str]) -> Path:
    return Path(*(places.get(part, part) for part in Path(source).parts)) / _FILE
