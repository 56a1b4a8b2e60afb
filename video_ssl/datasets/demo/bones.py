"""Joints as bone directions: the same movement put on bodies of any proportions, bone lengths kept.

Coordinates are those of the figure: average body heights, y up, z to its front, x to its right.
"""

from __future__ import annotations

import numpy as np

from video_ssl.datasets.demo.figure import JOINT_INDEX, JOINTS, Body

_SIDED_BONES = (
    ("chest", "shoulder"), ("shoulder", "elbow"), ("elbow", "wrist"),
    ("pelvis", "hip"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "toe"),
)  # fmt: skip

BONES: tuple[tuple[str, str], ...] = (
    *(("pelvis", "chest"), ("chest", "neck"), ("neck", "head"), ("head", "face")),
    *(
        (start if start in ("chest", "pelvis") else f"{start}_{side}", f"{end}_{side}")
        for side in "lr"
        for start, end in _SIDED_BONES
    ),
)
"""(start, end) of every bone, parents before children; all joints but the pelvis are the end of one."""
BONE_INDEX = {end: i for i, (_, end) in enumerate(BONES)}
"""End joint -> its bone."""

_STARTS = [JOINT_INDEX[start] for start, _ in BONES]
_ENDS = [JOINT_INDEX[end] for _, end in BONES]

_FOOT = 0.07


def bone_lengths(body: Body) -> np.ndarray:
    """Returns the length of every bone, float64 (B,), in average body heights."""
    of_end = {
        "chest": body.torso, "neck": 0.35 * body.head, "head": 1.15 * body.head, "face": 0.5 * body.head,
        "shoulder": float(np.hypot(body.shoulder_half, 0.02)), "elbow": body.upper_arm, "wrist": body.forearm,
        "hip": body.hip_half, "knee": body.thigh, "ankle": body.shin, "toe": _FOOT,
    }  # fmt: skip
    return np.array([of_end[end.partition("_")[0]] for _, end in BONES])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors (..., 3) scaled to length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def bone_directions(joints: np.ndarray) -> np.ndarray:
    """Returns the unit direction of every bone, float64 (T, B, 3), of joints (T, J, 3)."""
    return unit(joints[:, _ENDS] - joints[:, _STARTS])


def assemble(
    body: Body, directions: np.ndarray, root: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """Returns the joints in space, float64 (T, J, 3), standing on the ground.

    Args:
        body: the lengths.
        directions: float64 (T, B, 3), unit vectors.
        root: float64 (T, 2), x and z of the pelvis.
        height: float64 (T,), how far the lowest point of the figure is above the ground (0 but in flight).
    """
    steps = directions * bone_lengths(body)[:, None]
    joints = np.zeros((len(directions), len(JOINTS), 3))
    joints[:, 0, 0], joints[:, 0, 2] = root[:, 0], root[:, 1]
    for bone, (start, end) in enumerate(zip(_STARTS, _ENDS, strict=True)):
        joints[:, end] = joints[:, start] + steps[:, bone]
    joints[:, :, 1] += (height - lowest_point(body, joints))[:, None]
    return joints


def lowest_point(body: Body, joints: np.ndarray) -> np.ndarray:
    """Returns the height of the lowest point of the figure's surface, float64 (T,): joints with their radii."""
    return (joints[:, :, 1] - _radii(body)).min(1)


def _radii(body: Body) -> np.ndarray:
    thick = {"pelvis": body.torso_radius, "chest": body.torso_radius, "head": body.head}
    thin = {
        "shoulder": 0.55 * body.torso_radius,
        "face": 0.78 * body.head,
        "neck": body.limb_radius,
    }
    return np.array([
        {**thick, **thin}.get(joint.partition("_")[0], body.limb_radius) for joint in JOINTS
    ])  # fmt: skip


def turn(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Returns vectors (..., 3) turned about the vertical: by 90 degrees the front (z) comes to the right (x)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([x * cos + z * sin, np.broadcast_to(y, x.shape), z * cos - x * sin], -1)
