"""What a generated video shows, exactly: joints in pixels and masks of the figure, made anew from the row of its table.

Nothing is stored: the id, and the settings in the table's metadata (`generator`), give the plan of the video again.
"""

from __future__ import annotations

import re

import numpy as np

from video_ssl.datasets.demo.scene import Scene
from video_ssl.datasets.demo.worlds import plan_of
from video_ssl.datasets.errors import TableError
from video_ssl.datasets.table import Table

# val-00012, and sessions_val-00003-01 for a segment
_ID = re.compile(r"([a-z_]+)-([0-9]{5})(-[0-9]{2,})?")


def figure_joints(table: Table, index: int) -> np.ndarray:
    """Returns where the joints are, float64 (T, J, 2): x and y in pixels of the frame, also where they are hidden.

    J joints in the order of `figure.JOINTS`; T frames of the record, of the segment where it is one.

    Args:
        table: made by `build_demo`, of any world.
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
    except (KeyError, ValueError) as err:
        raise TableError(f"record {record.id!r} cannot be generated again: {err}") from err
    first = 0 if record.start_sec is None else round(record.start_sec * plan.size.fps)
    return plan.scene(), first, first + (record.num_frames or len(plan.joints))
