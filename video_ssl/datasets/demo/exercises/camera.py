"""The camera of the exercises: a parallel projection from the side, which sways a little."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from video_ssl.datasets.demo.scene import NuisanceConfig, smooth_curve


@dataclass(frozen=True)
class Camera:
    """The camera frame by frame: zoom (T,), pan (T, 2) in frame heights, roll (T,) in radians, mirror.

    `yaw` and `tilt` (radians) are the direction of view; `figure_height` is in frame heights at zoom 1, `ground`
    the height of the ground below the middle of the frame, in frame heights.
    """

    zoom: np.ndarray
    pan: np.ndarray
    roll: np.ndarray
    mirror: bool
    yaw: np.ndarray
    tilt: float
    figure_height: float
    ground: float
    all_round: bool = False

    @property
    def travel(self) -> np.ndarray:
        """It stays where it is."""
        return np.zeros_like(self.pan)

    def project(self, joints: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns pixels (T, J, 2), depth (T, J) and pixels per body height (T, J) of joints in space (T, J, 3)."""
        cos, sin = np.cos(self.yaw)[:, None], np.sin(self.yaw)[:, None]
        depth = joints[..., 2] * cos - joints[..., 0] * sin
        across = joints[..., 0] * cos + joints[..., 2] * sin
        down = -joints[..., 1] * np.cos(self.tilt) + depth * np.sin(self.tilt)
        flat = np.stack([across, down], -1) * self.figure_height + np.array([0.0, self.ground])
        scale = np.broadcast_to((self.figure_height * self.zoom * size)[:, None], depth.shape)
        return self.to_pixels(flat, size), depth, scale

    def shadow(self, joints: np.ndarray, size: int) -> np.ndarray:
        """Returns the corners (T, 2, 2) around the ellipse below the figure, in pixels."""
        feet = np.stack([joints[:, :, 0].mean(1), joints[:, :, 2].mean(1)], 1)
        ground = np.stack([feet[:, 0], np.zeros(len(joints)), feet[:, 1]], 1)[:, None]
        middle, _, scale = self.project(ground, size)
        reach = 0.17 * scale[..., None] * np.array([1.0, 0.22])
        return np.concatenate([middle - reach, middle + reach], 1)

    def to_pixels(self, flat: np.ndarray, size: int) -> np.ndarray:
        """Returns points (T, N, 2), given in frame heights from the middle of the scene, in pixels of the frame."""
        if self.mirror:
            flat = flat * np.array([-1.0, 1.0])
        cos, sin = np.cos(self.roll)[:, None], np.sin(self.roll)[:, None]
        turned = np.stack(
            [flat[..., 0] * cos - flat[..., 1] * sin, flat[..., 0] * sin + flat[..., 1] * cos], -1
        )
        return (turned * self.zoom[:, None, None] + self.pan[:, None] + 0.5) * size


def sample_camera(
    rng: np.random.Generator, config: NuisanceConfig, num_frames: int, fps: float
) -> Camera:
    """Returns a random camera that keeps the figure in view."""
    shake = np.stack([smooth_curve(rng, num_frames, fps, hz=(1.5, 4)) for _ in range(2)], 1)
    drift = np.stack(
        [smooth_curve(rng, num_frames, fps, hz=(0.08, 0.35), terms=2) for _ in range(2)], 1
    )
    shift = rng.uniform(-1, 1, 2) * np.array([0.11, 0.035])
    pan = config.camera_shift * shift + config.camera_jitter * 0.006 * rng.uniform(0, 1.5) * (
        config.motion * shake
    )
    pan = pan + config.motion * (config.camera_pan * drift.clip(-1.8, 1.8) * np.array([0.07, 0.02]))
    zoom = 1 + config.camera_zoom * (
        rng.uniform(-0.12, 0.08)
        + config.motion
        * (0.05 * smooth_curve(rng, num_frames, fps, hz=(0.08, 0.3)).clip(-1.5, 1.5))
    )
    roll = np.radians(2.5 * config.camera_jitter * config.motion) * smooth_curve(
        rng, num_frames, fps, hz=(0.1, 0.6)
    ).clip(-2, 2)
    yaw = np.radians(
        40
        + config.view
        * (
            rng.uniform(-20, 20)
            + config.motion * (4 * smooth_curve(rng, num_frames, fps, hz=(0.1, 0.3)))
        )
    )
    return Camera(
        zoom=zoom,
        pan=pan,
        roll=roll,
        mirror=bool(rng.uniform() < config.mirror),
        yaw=yaw,
        tilt=float(np.radians(8 + config.view * rng.uniform(-5, 7))),
        figure_height=0.65,
        ground=0.40,
    )
