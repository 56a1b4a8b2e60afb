"""From joint angles to joints in space: the skeleton that stands on the ground."""

from __future__ import annotations

import numpy as np

from video_ssl.datasets.demo.exercises.motion import FIELD_INDEX
from video_ssl.datasets.demo.figure import JOINT_INDEX, JOINTS, Body


def _direction(flex_deg: np.ndarray, out_deg: np.ndarray, side: float) -> np.ndarray:
    """Unit vectors (T, 3) of a limb that hangs down at 0, 0."""
    f, a = np.radians(flex_deg), np.radians(out_deg)
    return np.stack([side * np.sin(a) * np.cos(f), -np.cos(a) * np.cos(f), np.sin(f)], axis=1)


def skeleton(body: Body, poses: np.ndarray) -> np.ndarray:
    """Returns the joints in space, float64 (T, J, 3), the lowest point of the figure on y = 0 (plus `lift`).

    Args:
        body: proportions.
        poses: float64 (T, P) in the order of FIELDS.
    """
    field = {name: poses[:, i] for name, i in FIELD_INDEX.items()}
    joints = np.zeros((len(poses), len(JOINTS), 3))
    at = JOINT_INDEX

    pitch, roll, twist = (np.radians(field[name]) for name in ("pitch", "roll", "twist"))
    up = np.stack([np.sin(roll) * np.cos(pitch), np.cos(roll) * np.cos(pitch), np.sin(pitch)], 1)
    across = np.stack([np.cos(twist), -np.sin(roll), np.sin(twist)], 1)
    nod = pitch + np.radians(field["head"])
    head_up = np.stack([np.sin(roll) * np.cos(nod), np.cos(roll) * np.cos(nod), np.sin(nod)], 1)
    front = np.stack([-np.sin(twist) * np.cos(nod), -np.sin(nod), np.cos(nod)], 1)

    joints[:, at["chest"]] = body.torso * up
    joints[:, at["neck"]] = (body.torso + 0.35 * body.head) * up
    joints[:, at["head"]] = joints[:, at["neck"]] + 1.15 * body.head * head_up
    joints[:, at["face"]] = joints[:, at["head"]] + 0.5 * body.head * front
    for side, sign in (("l", -1.0), ("r", 1.0)):
        direction = {
            limb: _direction(field[f"{limb}_{side}_flex"], field[f"{limb}_{side}_out"], sign)
            for limb in ("arm", "fore", "thigh", "shin")
        }
        shoulder = joints[:, at["chest"]] + sign * body.shoulder_half * across - 0.02 * up
        hip = np.array([sign * body.hip_half, 0, 0])
        chains = (
            ("shoulder", shoulder),
            ("elbow", body.upper_arm * direction["arm"]),
            ("wrist", body.forearm * direction["fore"]),
            ("hip", np.broadcast_to(hip, shoulder.shape)),
            ("knee", body.thigh * direction["thigh"]),
            ("ankle", body.shin * direction["shin"]),
            ("toe", _foot(direction["shin"])),
        )
        point = shoulder
        for name, step in chains:
            point = step if name in ("shoulder", "hip") else point + step
            joints[:, at[f"{name}_{side}"]] = point
    return joints + _stand_on_ground(body, joints, field)[:, None]


def _foot(shin: np.ndarray) -> np.ndarray:
    """The foot (T, 3): at right angles to the shin, towards the front."""
    front = np.array([0.0, 0.0, 1.0]) - shin * shin[:, 2:]
    return 0.07 * front / np.maximum(np.linalg.norm(front, axis=1, keepdims=True), 1e-6)


def _stand_on_ground(body: Body, joints: np.ndarray, field: dict[str, np.ndarray]) -> np.ndarray:
    """The shift (T, 3) that puts the lowest point on the ground and keeps the planted foot where it was."""
    ankles = joints[:, [JOINT_INDEX["ankle_l"], JOINT_INDEX["ankle_r"]]]
    rest = np.array([[-1.0, 0, 0], [1.0, 0, 0]]) * body.hip_half * 1.5
    weight = np.stack([0.5 - 0.5 * field["anchor"], 0.5 + 0.5 * field["anchor"]], 1)[..., None]
    shift = (weight * (rest - ankles)).sum(1)
    seat = joints[:, JOINT_INDEX["pelvis"], 1] - body.torso_radius
    feet = joints[:, [JOINT_INDEX[f"{n}_{s}"] for n in ("ankle", "toe") for s in "lr"], 1]
    shift[:, 1] = field["lift"] - np.minimum(seat, feet.min(1) - body.limb_radius)
    return shift
