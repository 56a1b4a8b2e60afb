"""A record: what is known about one video, in a table a row of `SCHEMA`.  Its conventions are those of `table`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("start_sec", pa.float64()),
        pa.field("end_sec", pa.float64()),
        pa.field("label", pa.int32()),
        pa.field("labels", pa.list_(pa.int32())),
        pa.field(
            "captions",
            pa.list_(
                pa.struct(
                    [("text", pa.string()), ("start_sec", pa.float64()), ("end_sec", pa.float64())]
                )
            ),
        ),
        pa.field("frame_labels", pa.list_(pa.int16())),
        pa.field("boxes", pa.list_(pa.list_(pa.list_(pa.float32(), 4)))),
        pa.field(
            "events", pa.list_(pa.struct([("name", pa.string()), ("time_sec", pa.float64())]))
        ),
        pa.field("group", pa.string()),
        pa.field("num_frames", pa.int32()),
        pa.field("fps", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("duration_sec", pa.float64()),
        pa.field("has_audio", pa.bool_()),
        pa.field("codec", pa.string()),
        pa.field("container", pa.string()),
        pa.field("rotation", pa.int16()),
        pa.field("variable_fps", pa.bool_()),
        pa.field("edit_list", pa.bool_()),
        pa.field("max_gop", pa.int32()),
        pa.field("byte_offset", pa.int64()),
        pa.field("byte_size", pa.int64()),
        pa.field("file_size", pa.int64()),
        pa.field("file_mtime", pa.float64()),
        pa.field("exact", pa.string()),
        pa.field("mirrored", pa.bool_()),
        pa.field("pixel_aspect", pa.float64()),
        pa.field("part_frames", pa.list_(pa.int32())),
        pa.field("part_sec", pa.list_(pa.float64())),
        pa.field("box_times_sec", pa.list_(pa.float64())),
        pa.field("box_labels", pa.list_(pa.list_(pa.list_(pa.int32())))),
        pa.field("box_scores", pa.list_(pa.list_(pa.float32()))),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A sentence about a stretch of the video; times are None where it is about all of it."""

    text: str
    start_sec: float | None = None
    end_sec: float | None = None


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happens at one moment."""

    name: str
    time_sec: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """One row: a video, or a segment of one where `start_sec` and `end_sec` are set.

    `index` is the row in the table that returned the record; `source` is an absolute path (of a file, or of a folder of
    frames), a URI, or either of them for a tar followed by `!/MEMBER`, or several of these in a row (see `parts`): one
    video then, whose parts have `part_frames` frames and `part_sec` seconds where a scan has counted them.

    `frame_labels` is int16 (frames,).  `boxes` is float32 (moments, objects, 4), NaN where a moment has fewer objects
    than the fullest one: one for each frame, or for each of `box_times_sec`, float64 (moments,), which are times of the
    source like those of captions; `box_labels` are the classes of each box, `box_scores` float32 (moments, objects) how
    sure a detector is of it.

    What `video-ssl scan` found out: `width` and `height` of the upright picture, which is the coded one mirrored left
    to right where `mirrored`, then turned by `rotation` counter-clockwise degrees; `pixel_aspect` width of a pixel over
    its height (pictures are read as they are stored, not stretched); `max_gop` largest distance of key frames in
    frames; `exact` names of the backends (joined by commas) that return the right frames of this file.  `byte_offset`
    and `byte_size` say where in the tar the video lies.  `file_size` (bytes) and `file_mtime` (seconds since 1970)
    belong to the file that holds it, the tar where it lies in one; a file that differs from them has changed and is not
    read.

    `no_flip` is not a column but a property of the whole table: a mirrored view would show something else.  Nor
    are `table`, what the table was opened by (`Table.name`), and `table_index`, its place among the tables that a
    stream of a training mixes: 0 is `data.table`, then those of `data.mix`.
    """

    index: int
    id: str
    source: str
    start_sec: float | None = None
    end_sec: float | None = None
    label: int | None = None
    labels: tuple[int, ...] | None = None
    captions: tuple[Caption, ...] | None = None
    frame_labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    box_times_sec: np.ndarray | None = None
    box_labels: tuple[tuple[tuple[int, ...], ...], ...] | None = None
    box_scores: np.ndarray | None = None
    events: tuple[Event, ...] | None = None
    group: str | None = None
    num_frames: int | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    duration_sec: float | None = None
    has_audio: bool | None = None
    codec: str | None = None
    container: str | None = None
    rotation: int | None = None
    variable_fps: bool | None = None
    edit_list: bool | None = None
    max_gop: int | None = None
    byte_offset: int | None = None
    byte_size: int | None = None
    file_size: int | None = None
    file_mtime: float | None = None
    exact: str | None = None
    mirrored: bool | None = None
    pixel_aspect: float | None = None
    part_frames: np.ndarray | None = None
    part_sec: np.ndarray | None = None
    no_flip: bool = False
    table: str = ""
    table_index: int = 0
