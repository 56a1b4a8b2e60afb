"""What a generated video shows, exactly: joints in pixels and masks of the figure, made anew from the row of its table.

Nothing is stored: the id, and the settings in the table's metadata (`generator`), give the plan of the video again.
"""

from __future__ import annotations

import re

import numpy as np

from video_ssl.datasets.demo.scene import Scene
from video_ssl.datasets.demo.video import VideoPlan
from video_ssl.datasets.demo.worlds import plan_of, world_of_format
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.table import Record, Table

# val-00012, and sessions_val-00003-01 for a segment
_ID = re.compile(r"([a-z_]+)-([0-9]{5})(?:-([0-9]{2,}))?")
# As readers of segments cut: a time within it of a frame is that of the frame.
_ROUNDING_SEC = 5e-4


def is_generated(table: Table) -> bool:
    """Returns whether a table says how its videos were generated, as those of `build_demo` and their selections do."""
    return isinstance(table.metadata.get("generator"), dict)


def frame_px(table: Table) -> int:
    """Returns height and width of the frames as they were generated; copies of the videos may be smaller or larger.

    Raises:
        TableError: the table is not of generated videos, or no generator here makes them.
    """
    settings = table.metadata.get("generator")
    if not isinstance(settings, dict):
        raise TableError(
            f"{table.name or 'the table'} is not of generated videos: `video-ssl data demo` makes some."
        )
    world = world_of_format(settings.get("format"))
    if world is None or settings.get("size") not in world.sizes:
        raise TableError(
            f"nothing here generates format={settings.get('format')!r}, size={settings.get('size')!r}."
        )
    return world.sizes[settings["size"]].frame_px


def figure_joints(table: Table, index: int) -> np.ndarray:
    """Returns where the joints are, float64 (T, J, 2): x and y in pixels of the frame, also where they are hidden.

    J joints in the order of `figure.JOINTS`; T frames as they were generated, of the segment where the record is one,
    be its video the session or a file of its own.  A video that was shortened or got another frame rate since has
    another number of frames: compare.

    Args:
        table: made by `build_demo`, of any world, or rows of such a table, also copied, scanned or transcoded.
        index: row.

    Raises:
        TableError: the table is not of generated videos, or no generator here makes them.
    """
    scene, first, last = _scene(table, index)
    return scene.joints_px()[first:last]


def figure_masks(table: Table, index: int, *, visible: bool = False) -> np.ndarray:
    """Returns which pixels show the figure, bool (T, H, W): those of which it covers half or more, without its shadow.

    Args:
        table: as for `figure_joints`.
        index: row.
        visible: leave out what the distractor hides; else the mask is of all of the figure, like its box.

    Raises:
        TableError: as of `figure_joints`.
    """
    scene, first, last = _scene(table, index)
    return np.stack([scene.figure_mask(t, visible=visible) for t in range(first, last)])


def _scene(table: Table, index: int) -> tuple[Scene, int, int]:
    """The scene of the video, and which of its frames the record is."""
    record, settings = table.record(index), table.metadata.get("generator")
    named = _ID.fullmatch(record.id)
    if not isinstance(settings, dict) or named is None:
        raise TableError(
            f"record {record.id!r} is not of a generated video: its table must be one that `video-ssl data demo` made."
        )
    try:
        plan = plan_of(settings, named[1], int(named[2]))
        first, last = _frames(plan, record, named[3])
    except (KeyError, ValueError, IndexError) as err:
        raise TableError(f"record {record.id!r} cannot be generated again: {err}") from err
    return plan.scene(), first, last


def _frames(plan: VideoPlan, record: Record, segment: str | None) -> tuple[int, int]:
    """The first frame of a record and the one behind its last; what a table counts is of its file, and not asked."""
    start, end = record.start_sec, record.end_sec
    if start is None and end is None:
        if segment is None:
            return 0, len(plan.joints)
        cut = plan.cuts[int(segment)]  # times went when the segment became a file of its own
        return cut.first, cut.last
    times = np.arange(len(plan.joints)) / plan.size.fps
    bounds = np.array([0.0 if start is None else start, np.inf if end is None else end])
    first, last = np.searchsorted(times, bounds - _ROUNDING_SEC)
    return int(first), int(last)
