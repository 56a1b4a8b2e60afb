"""The camera of the default world: a perspective view from any side, which follows the figure.

What it does in time is as likely forwards as backwards (it runs ahead of the figure as often as behind it), so that
a single frame does not tell an action from the same one played backwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_ssl.datasets.demo.scene import NuisanceConfig, smooth_curve

# The direction of view that the azimuth varies about, and its spread at strength 1, in degrees: 0 is from the front of
# the figure, 90 from its side.
_OBLIQUE_DEG, _SPREAD_DEG = 40.0, 70.0
# Height of an average figure in the frame at zoom 1.
_FIGURE_HEIGHT = 0.72
_SMOOTH_SEC = 0.5
_LAG_SEC = 0.3


@dataclass(frozen=True, kw_only=True)
class PerspectiveCamera:
    """The camera frame by frame.

    Attributes:
        target: float64 (T, 3), the point in space that it looks at, which is in the middle of the frame but for `pan`.
        yaw: float64 (T,), radians; direction of view about the vertical.
        tilt: radians above the ground.
        distance: float64 (T,), from the target, in body heights.
        zoom: float64 (T,).
        pan: float64 (T, 2) in frame heights.
        roll: float64 (T,), radians.
        mirror: whether the picture is mirrored left to right.
        travel: float64 (T, 2) in frame heights: how far things behind the figure move because the camera follows it.
    """

    target: np.ndarray
    yaw: np.ndarray
    tilt: float
    distance: np.ndarray
    zoom: np.ndarray
    pan: np.ndarray
    roll: np.ndarray
    mirror: bool
    travel: np.ndarray
    all_round: bool = True

    def project(self, joints: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns pixels (T, J, 2), nearness (T, J) and pixels per body height (T, J) of joints in space (T, J, 3)."""
        right, up, toward = _axes(self.yaw, self.tilt)
        seen = joints - self.target[:, None]
        near = np.einsum("tjc,tc->tj", seen, toward)
        # What is beside or behind the camera would turn over: it stays as large as at a third of the distance.
        factor = self.distance[:, None] / np.maximum(self.distance[:, None] - near, 0.3)
        across = np.einsum("tjc,tc->tj", seen, right)
        down = -np.einsum("tjc,tc->tj", seen, up)
        flat = np.stack([across, down], -1) * (_FIGURE_HEIGHT * factor)[..., None]
        scale = _FIGURE_HEIGHT * factor * self.zoom[:, None] * size
        return self._to_pixels(flat, size), near, scale

    def shadow(self, joints: np.ndarray, size: int) -> np.ndarray:
        """Returns the outline (T, 24, 2) of a round shadow below the figure, as long as the figure, in pixels."""
        ground = joints[..., [0, 2]]
        middle = ground.mean(1, keepdims=True)
        spread = np.einsum("tji,tjk->tik", ground - middle, ground - middle) / ground.shape[1]
        sizes, axes = np.linalg.eigh(spread)
        angle = 2 * np.pi * np.arange(24) / 24
        around = np.stack([np.cos(angle), np.sin(angle)], 1)
        reach = np.sqrt(0.1**2 + 2.5 * np.maximum(sizes, 0))
        flat = middle + np.einsum("tik,tk,nk->tni", axes, reach, around)
        outline = np.stack([flat[..., 0], np.zeros(flat.shape[:2]), flat[..., 1]], -1)
        return self.project(outline, size)[0]

    def _to_pixels(self, flat: np.ndarray, size: int) -> np.ndarray:
        """Points (T, N, 2), given in frame heights from the middle of the view, in pixels of the frame."""
        if self.mirror:
            flat = flat * np.array([-1.0, 1.0])
        cos, sin = np.cos(self.roll)[:, None], np.sin(self.roll)[:, None]
        turned = np.stack(
            [flat[..., 0] * cos - flat[..., 1] * sin, flat[..., 0] * sin + flat[..., 1] * cos], -1
        )
        return (turned * self.zoom[:, None, None] + self.pan[:, None] + 0.5) * size


def _axes(yaw: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors (T, 3) to the right, upwards and towards the camera."""
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)
    front = np.stack([-np.sin(yaw), zero, np.cos(yaw)], 1)
    right = np.stack([np.cos(yaw), zero, np.sin(yaw)], 1)
    vertical = np.stack([zero, one, zero], 1)
    up = np.cos(tilt) * vertical - np.sin(tilt) * front
    return right, up, np.cos(tilt) * front + np.sin(tilt) * vertical


def sample_camera(
    rng: np.random.Generator, config: NuisanceConfig, joints: np.ndarray, fps: float
) -> PerspectiveCamera:
    """Returns a random camera that follows the joints, float64 (T, J, 3); with `motion` 0 it stands still.

    How it moves beside that does not depend on them.
    """
    num_frames = len(joints)
    shake = np.stack([smooth_curve(rng, num_frames, fps, hz=(1.5, 4)) for _ in range(2)], 1)
    drift, swell, turn = (
        smooth_curve(rng, num_frames, fps, hz=(0.08, 0.35), terms=2).clip(-1.8, 1.8)
        for _ in range(3)
    )
    rolling = smooth_curve(rng, num_frames, fps, hz=(0.1, 0.6)).clip(-2, 2)
    azimuth, tilt, far, size, lag, follow = rng.uniform(-1, 1, 6)
    shift = config.camera_shift * rng.uniform(-1, 1, 2) * np.array([0.08, 0.03])
    mirror = bool(rng.uniform() < config.mirror)

    yaw = _OBLIQUE_DEG + min(180.0, _SPREAD_DEG * config.view) * azimuth
    yaw = np.radians(yaw + 4 * min(config.view, 1.0) * config.motion * turn)
    elevation = float(np.radians(np.clip(14 + 9 * config.view * tilt, 2, 50)))
    target = _followed(joints, fps, lag * _LAG_SEC, 0.85 + 0.15 * follow, config.motion)
    right, up, _ = _axes(yaw, elevation)
    path = target - target.mean(0)
    seen = np.stack([np.einsum("tc,tc->t", path, right), -np.einsum("tc,tc->t", path, up)], 1)
    return PerspectiveCamera(
        target=target,
        yaw=yaw,
        tilt=elevation,
        distance=np.full(num_frames, 3.6 + 1.0 * min(config.view, 1.0) * far),
        zoom=1 + config.camera_zoom * (0.1 * size + 0.04 * config.motion * swell),
        pan=shift
        + config.motion
        * (
            config.camera_jitter * 0.005 * shake
            + config.camera_pan * 0.05 * np.stack([drift, 0.3 * swell], 1)
        ),
        roll=np.radians(2.5 * config.camera_jitter * config.motion) * rolling,
        mirror=mirror,
        travel=(-0.5 * _FIGURE_HEIGHT * seen * np.array([-1.0 if mirror else 1.0, 1.0])).clip(
            -2, 2
        ),
    )


def _followed(
    joints: np.ndarray, fps: float, lag_sec: float, share: float, motion: float
) -> np.ndarray:
    """Points (T, 3) to look at: the middle of the figure, smoothed, `lag_sec` late (early if negative).

    Of the way of the figure over the ground the camera goes along `share`, of its ups and downs half.
    """
    middle = (joints.min(1) + joints.max(1)) / 2
    whole = (joints.min((0, 1)) + joints.max((0, 1))) / 2
    reach = int(np.ceil(3 * _SMOOTH_SEC * fps))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * ((offsets / fps + lag_sec) / _SMOOTH_SEC) ** 2)
    padded = np.pad(middle, ((reach, reach), (0, 0)), mode="edge")
    smooth = np.stack(
        [np.convolve(axis, weights[::-1] / weights.sum(), mode="valid") for axis in padded.T], 1
    )
    return whole + min(1.0, motion) * np.array([share, 0.5, share]) * (smooth - whole)
