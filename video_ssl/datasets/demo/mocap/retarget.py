"""Captures as bones of the figure: directions that fit a body of any proportions, in the style of a performer.

Coordinates of what is returned are those of the figure: y up, z to its front, x to its right.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from video_ssl.datasets.demo.bones import BONE_INDEX, BONES, turn, unit
from video_ssl.datasets.demo.mocap.clips import load_clip

_CAPTURED_LEG_M = 0.4215 + 0.41

# A figure is in flight where the lowest point of the capture (joints with the radii of an average body) is higher.
_FLIGHT_M = 0.06
_CAPTURED_RADII_M = {"root": 0.1, "chest": 0.1, "neck": 0.1, "head": 0.1}


class Rows:
    """Linear interpolation of the rows of several arrays at the same times."""

    def __init__(self, known_sec: np.ndarray, wanted_sec: np.ndarray) -> None:
        self._index = np.clip(
            np.searchsorted(known_sec, wanted_sec, side="right") - 1, 0, len(known_sec) - 2
        )
        gap = np.diff(known_sec)[self._index]
        self._share = np.clip((wanted_sec - known_sec[self._index]) / gap, 0, 1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        share = self._share.reshape(-1, *[1] * (rows.ndim - 1))
        return rows[self._index] * (1 - share) + rows[self._index + 1] * share


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Frames of a capture in the figure's coordinates: directions (N, B, 3), root (N, 2), height, heading (N,)."""

    directions: np.ndarray
    root: np.ndarray
    height: np.ndarray
    heading: np.ndarray


def straightened(frames: Frames) -> Frames:
    """Returns the frames turned so that they face to +z at their start and again at their end.

    What a capture turns in all (less than 10 degrees) is taken back evenly: then a movement and the same one backwards
    are seen from the same side.
    """
    heading = frames.heading - frames.heading[0]
    net = (heading[-1] + np.pi) % (2 * np.pi) - np.pi
    drift = net * np.linspace(0, 1, len(heading))
    path = np.stack([frames.root[:, 0], np.zeros(len(heading)), frames.root[:, 1]], 1)
    return replace(
        frames, directions=turn(frames.directions, -(frames.heading[0] + drift)[:, None]),
        root=turn(path, -frames.heading[0])[:, [0, 2]], heading=heading - drift,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Capture:
    """A capture as bones of the figure: directions as seen from the trunk, and the trunk's own axes in space.

    Root and height are in lengths of the leg; `feet` (T, 2) is how far the ankles are in front of the pelvis.
    """

    times_sec: np.ndarray
    local: np.ndarray
    axes: np.ndarray
    root: np.ndarray
    height: np.ndarray
    feet: np.ndarray

    def at(
        self,
        times_sec: np.ndarray,
        *,
        amplitude: float = 1.0,
        offsets: np.ndarray | float = 0.0,
        loop: bool = False,
    ) -> Frames:
        """Returns the frames at the given times.

        Args:
            times_sec: float64 (N,), seconds of the capture.
            amplitude: scale of how directions, as seen from the trunk, stray from their mean.
            offsets: float64 (B, 3), added to them.
            loop: the capture goes on from its start where it ends; without it, its ends are held.
        """
        cycle = self.times_sec[-1]
        turns = np.floor(times_sec / cycle) if loop else np.zeros(len(times_sec))
        inside = times_sec - turns * cycle
        rows = Rows(self.times_sec, inside)
        local, axes, root = rows(self.local), rows(self.axes), rows(self.root)
        if loop:
            # What start and end of the cycle differ by is spread over it, so that there is no jump between them.
            share = (inside / cycle - 0.5)[:, None, None]
            local = local - share * (self.local[-1] - self.local[0])
            axes = axes - share[..., None] * (self.axes[-1] - self.axes[0])
            root = root + turns[:, None] * (self.root[-1] - self.root[0])
        mean = self.local.mean(0)
        local = unit(mean + amplitude * (local - mean) + offsets)
        directions = unit(np.einsum("tbij,tbj->tbi", axes[:, _TRUNK_OF_BONE], local))
        right = axes[:, 0, :, 2]
        return Frames(
            directions=directions[..., [2, 1, 0]], root=root, height=rows(self.height),
            heading=np.unwrap(np.arctan2(-right[:, 0], right[:, 2])),
        )  # fmt: skip

    def footfalls_sec(self) -> list[float]:
        """Returns when either foot touches the ground within the cycle."""
        return [float(self.times_sec[i]) for i in self.feet.argmax(0)]


# Bone -> joints of the capture; the trunk's axes of legs and spine are those of the pelvis, else those of the chest.
_FROM_CAPTURE = {
    "chest": ("root", "neck"), "neck": ("chest", "neck"), "head": ("neck", "head"),
    "shoulder": ("neck", "shoulder"), "elbow": ("shoulder", "elbow"), "wrist": ("elbow", "wrist"),
    "hip": ("root", "hip"), "knee": ("hip", "knee"), "ankle": ("knee", "ankle"), "toe": ("ankle", "toe"),
}  # fmt: skip
_TRUNK_OF_BONE = [
    0 if end.partition("_")[0] in ("hip", "knee", "ankle", "toe", "chest") else 1
    for end in BONE_INDEX
]


def _captured_joint(name: str, side: str) -> str:
    if name == "toe":
        return {"l": "left_toe", "r": "right_toe"}[side]
    return name if name in ("root", "chest", "neck", "head") else side + name


@cache
def captured(name: str) -> Capture:
    """Returns the capture of a name.

    Raises:
        ValueError: if there is none.
    """
    clip = load_clip(name)
    axes = np.stack([clip.rotations["root"], clip.rotations["chest"]], 1)
    directions = []
    for _, end in BONES:
        joint, _, side = end.partition("_")
        if joint == "face":
            directions.append(clip.rotations["neck"][:, :, 0])
            continue
        start, stop = (_captured_joint(each, side) for each in _FROM_CAPTURE[joint])
        directions.append(unit(clip.positions[stop] - clip.positions[start]))
    local = np.einsum("tbij,tbi->tbj", axes[:, _TRUNK_OF_BONE], np.stack(directions, 1))
    low = np.min(
        [p[:, 1] - _CAPTURED_RADII_M.get(j, 0.0) for j, p in clip.positions.items()], axis=0
    )
    root = clip.positions["root"]
    return Capture(
        times_sec=clip.times_sec, local=local, axes=axes,
        root=root[:, [2, 0]] / _CAPTURED_LEG_M,
        height=np.maximum(0, low - _FLIGHT_M) / _CAPTURED_LEG_M,
        feet=np.stack([clip.positions[f"{side}ankle"][:, 0] - root[:, 0] for side in "lr"], 1),
    )  # fmt: skip
