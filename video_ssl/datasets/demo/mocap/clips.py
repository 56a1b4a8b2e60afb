"""The captured clips: read from the data file, put into space by our own forward kinematics.

Coordinates here are those of the capture: meters, x to the front of the figure, y up, z to its right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

DATA_FILE = Path(__file__).with_name("mocap15.npz")
NOTICES: tuple[Path, ...] = tuple(
    DATA_FILE.with_name(name)
    for name in ("NOTICE.txt", "LICENSE.bullet.txt", "LICENSE.deepmimic.txt")
)
"""Files that must stay with the data wherever it is copied."""

# Columns of a row of `frames/NAME` after duration and root position: joint -> (first column, numbers).  Four numbers
# are a quaternion (w, x, y, z), one is an angle in radians about the joint's z axis.
_ROTATIONS: dict[str, tuple[int, int]] = {
    "root": (4, 4), "chest": (8, 4), "neck": (12, 4),
    "rhip": (16, 4), "rknee": (20, 1), "rankle": (21, 4), "rshoulder": (25, 4), "relbow": (29, 1),
    "lhip": (30, 4), "lknee": (34, 1), "lankle": (35, 4), "lshoulder": (39, 4), "lelbow": (43, 1),
}  # fmt: skip
_COLUMNS = 44


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One capture.

    Attributes:
        name: for example `walk`.
        times_sec: float64 (T,), strictly increasing from 0.
        positions: joint -> float64 (T, 3), meters.
        rotations: joint -> float64 (T, 3, 3), from the joint's own axes to the world.
    """

    name: str
    times_sec: np.ndarray
    positions: dict[str, np.ndarray]
    rotations: dict[str, np.ndarray]


@cache
def _data() -> dict[str, np.ndarray]:
    with np.load(DATA_FILE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def clip_names() -> tuple[str, ...]:
    """Returns the names of the captures in the data file, sorted."""
    return tuple(sorted(name.removeprefix("frames/") for name in _data() if "frames/" in name))


@cache
def load_clip(name: str) -> Clip:
    """Returns a capture.

    Raises:
        ValueError: if there is none of that name, or if its numbers are not what the format says.
    """
    if name not in clip_names():
        raise ValueError(f"There is no capture {name!r}. Choose one of: {', '.join(clip_names())}.")
    return clip_from_frames(name, _data()[f"frames/{name}"])


def clip_from_frames(name: str, frames: np.ndarray) -> Clip:
    """Returns the capture of rows (T, 44): duration in seconds, root position, then rotations (see the README).

    Raises:
        ValueError: if the shape is another one, a number is not finite, or a duration but the last is not above 0.
    """
    if frames.ndim != 2 or frames.shape[1] != _COLUMNS or len(frames) < 2:
        raise ValueError(
            f"The frames of capture {name!r} have shape {frames.shape}, but must have (T, {_COLUMNS}) with T >= 2."
        )
    rows = frames.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"The frames of capture {name!r} hold numbers that are not finite.")
    if (rows[:-1, 0] <= 0).any():
        raise ValueError(f"Every duration of capture {name!r} but the last must be above 0 s.")
    positions, rotations = forward_kinematics(rows)
    times = np.concatenate([[0.0], np.cumsum(rows[:-1, 0])])
    return Clip(name=name, times_sec=times, positions=positions, rotations=rotations)


def forward_kinematics(
    rows: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns joint -> positions (T, 3) in meters, and joint -> rotations (T, 3, 3), of rows (T, 44).

    Joints without rotation of their own (wrists, head, toes) have that of their parent.
    """
    skeleton = _data()
    names = [str(joint) for joint in skeleton["joint_names"]]
    positions: dict[str, np.ndarray] = {}
    rotations: dict[str, np.ndarray] = {}
    for joint, parent, offset in zip(names, skeleton["parents"], skeleton["offsets"], strict=True):
        local = _rotation(rows, joint)
        if parent < 0:
            positions[joint], rotations[joint] = rows[:, 1:4], local
            continue
        above = rotations[names[parent]]
        positions[joint] = positions[names[parent]] + above @ offset
        rotations[joint] = above @ local
    return positions, rotations


def _rotation(rows: np.ndarray, joint: str) -> np.ndarray:
    """Rotation matrices (T, 3, 3) of a joint in its parent's axes."""
    first, count = _ROTATIONS.get(joint, (0, 0))
    if count == 0:
        return np.broadcast_to(np.eye(3), (len(rows), 3, 3))
    if count == 1:
        half = rows[:, first] / 2
        zero = np.zeros_like(half)
        w, x, y, z = np.cos(half), zero, zero, np.sin(half)
    else:
        quaternion = rows[:, first : first + 4]
        w, x, y, z = (quaternion / np.linalg.norm(quaternion, axis=1, keepdims=True)).T
    return np.stack([
        np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], 1),
        np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], 1),
        np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], 1),
    ], 1)  # fmt: skip
