"""What surrounds the figure of a generated world: background, light, noise and a moving distractor.

None of it knows the action: all of it is drawn from a random stream of its own, so that it is independent of the
label.  Backgrounds keep to medium brightness and to smooth patterns that move as a whole: hard for raw pixels, easy
to predict for a model that has understood the motion.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from video_ssl.datasets.demo.figure import Body, Color, FigurePainter

SUPERSAMPLING = 2
TEXTURE_KINDS = ("clouds", "stripes", "checks", "dots", "patches")


@dataclass(frozen=True, kw_only=True)
class NuisanceConfig:
    """Strength of everything that is not the action; 0 switches one off, larger is harder.

    What moves, scales, turns and colors the figure is strong by default, so that raw pixels and random networks fail;
    clutter behind it and noise are milder, so that a small network can learn from a thousand clips.

    Attributes:
        body: spread of body proportions.
        color: variety of clothes and of background colors.
        texture: contrast of the background pattern.
        texture_motion: speed of the background's own motion.
        camera_shift: constant displacement of the figure.
        camera_jitter: shake of a hand-held camera.
        camera_zoom: constant scale and its change within the clip.
        camera_pan: slow movement of the camera.
        view: spread of the direction from which the figure is seen: 1 is 70 degrees to both sides of an oblique view,
            2.6 is all around (20 degrees at 1 in the world `exercises`).
        mirror: probability of the mirror image.
        speed: spread of the tempo, whole and per phase.
        time_warp: bend of the clock within a phase, 0..1.
        style: spread of the poses.
        lighting: brightness, tint and a moving gradient.
        noise: sensor noise.
        distractor: size and speed of the moving object.
        sound: background noise and hum in the audio track.
        motion: how much camera, background, light and distractor change within a video, beside their own strengths;
            0 keeps them still.
    """

    body: float = 1.0
    color: float = 1.0
    texture: float = 0.4
    texture_motion: float = 0.5
    camera_shift: float = 1.0
    camera_jitter: float = 0.5
    camera_zoom: float = 1.0
    camera_pan: float = 1.0
    view: float = 1.0
    mirror: float = 0.5
    speed: float = 1.0
    time_warp: float = 1.0
    style: float = 1.0
    lighting: float = 0.6
    noise: float = 0.3
    distractor: float = 0.7
    sound: float = 1.0
    motion: float = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            limit = 1.0 if name in ("mirror", "time_warp") else 3.0
            if not 0 <= value <= limit:
                raise ValueError(
                    f"{name}={value} must lie in 0..{limit:g} (0 off, 1 the default strength)."
                )


def smooth_curve(
    rng: np.random.Generator,
    num_frames: int,
    fps: float,
    *,
    hz: tuple[float, float],
    terms: int = 3,
) -> np.ndarray:
    """Returns a smooth random curve, float64 (T,), of about unit size: a sum of sines between the given frequencies."""
    times = np.arange(num_frames)[:, None] / fps
    frequency, phase = rng.uniform(*hz, terms), rng.uniform(0, 2 * np.pi, terms)
    return (rng.normal(size=terms) * np.sin(2 * np.pi * frequency * times + phase)).sum(
        1
    ) / np.sqrt(terms)


class Camera(Protocol):
    """What a scene needs of a camera: where joints are seen, and what the background follows.

    That is zoom (T,), pan (T, 2) in frame heights and roll (T,) in radians of the picture, and `travel` (T, 2), how far
    in frame heights things behind the figure move because the camera goes along with it; `all_round` where it may see
    the figure from behind.
    """

    @property
    def zoom(self) -> np.ndarray: ...
    @property
    def pan(self) -> np.ndarray: ...
    @property
    def roll(self) -> np.ndarray: ...
    @property
    def travel(self) -> np.ndarray: ...
    @property
    def all_round(self) -> bool: ...

    def project(self, joints: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns pixels (T, J, 2), nearness (T, J) and pixels per body height (T, J) of joints in space (T, J, 3)."""
        ...

    def shadow(self, joints: np.ndarray, size: int) -> np.ndarray:
        """Returns the outline of the shadow on the ground in pixels (T, N, 2); N = 2: corners around an ellipse."""
        ...


def _mid_color(rng: np.random.Generator, config: NuisanceConfig, base: float) -> np.ndarray:
    light = 0.48 + 0.16 * config.texture * rng.uniform(-1, 1)
    hue = (base + config.color * rng.uniform(-0.2, 0.2)) % 1
    return 255 * np.array(colorsys.hls_to_rgb(hue, light, config.color * rng.uniform(0.1, 0.65)))


def _noise_field(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise float32 (size, size) in about -1..1 with `cells` cells a side."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def paint_texture(rng: np.random.Generator, config: NuisanceConfig, size: int) -> Image.Image:
    """Returns a random smooth background pattern, RGB of `size` x `size` pixels."""
    kind = TEXTURE_KINDS[rng.integers(len(TEXTURE_KINDS))]
    base = rng.uniform()
    colors = np.stack([_mid_color(rng, config, base) for _ in range(3)])
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    angle, waves = rng.uniform(0, np.pi), rng.uniform(7, 16)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    bend = 0.08 * _noise_field(rng, size, 5)
    if kind == "stripes":
        level = np.tanh(2 * np.sin(2 * np.pi * waves * (u + bend)))
    elif kind == "checks":
        level = np.tanh(3 * np.sin(2 * np.pi * waves * (u + bend)) * np.sin(2 * np.pi * waves * v))
    elif kind == "dots":
        level = np.tanh(4 * (np.sin(2 * np.pi * waves * u) + np.sin(2 * np.pi * waves * v) - 0.9))
    elif kind == "patches":
        level = np.tanh(4 * _noise_field(rng, size, int(rng.integers(9, 18))))
    else:
        level = 1.2 * _noise_field(rng, size, int(rng.integers(6, 12))) + 0.4 * _noise_field(
            rng, size, 30
        )
    blend = (0.5 + 0.5 * np.clip(level, -1, 1))[..., None]
    slow = (0.5 + 0.5 * np.clip(1.3 * _noise_field(rng, size, 4), -1, 1))[..., None]
    image = colors[0] * (1 - blend) + (colors[1] * (1 - slow) + colors[2] * slow) * blend
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Background:
    """A texture and its own motion: offset (T, 2) in frame heights and turn (T,) in radians; `scale` enlarges it."""

    texture: Image.Image
    offset: np.ndarray
    turn: np.ndarray
    parallax: float

    def frame(self, camera: Camera, t: int, size: int) -> Image.Image:
        """Returns the background of frame `t` as the camera sees it, RGB of `size` x `size` pixels."""
        angle = -camera.roll[t] - self.turn[t]
        factor = 1 / (1 + self.parallax * (camera.zoom[t] - 1))
        a, b = factor * np.cos(angle), -factor * np.sin(angle)
        middle = size * (0.5 + self.parallax * (camera.pan[t] + camera.travel[t]))
        home = self.texture.width / 2 + size * self.offset[t]
        matrix = (
            a,
            b,
            home[0] - a * middle[0] - b * middle[1],
            -b,
            a,
            home[1] + b * middle[0] - a * middle[1],
        )
        return self.texture.transform(
            (size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )


def sample_background(
    rng: np.random.Generator,
    config: NuisanceConfig,
    num_frames: int,
    fps: float,
    size: int,
    *,
    texture_seed: np.random.SeedSequence,
    travels: bool = False,
) -> Background:
    """Returns the pattern of `texture_seed` with a random motion from `rng`, which keeps the frame inside of it.

    With `travels` the pattern goes on, mirrored, to all sides: the camera may move along it.
    """
    heading = rng.uniform(0, 2 * np.pi)
    times = config.motion * np.arange(num_frames) / fps
    # A triangle wave: constant speed, turning back before the pattern ends.
    speed, phase = config.texture_motion * rng.uniform(0.02, 0.22), rng.uniform(0, 4)
    run = np.abs((speed / 0.15 * times + phase) % 4 - 2) - 1
    sway = np.stack([smooth_curve(rng, num_frames, fps, hz=(0.15, 0.8)) for _ in range(2)], 1)
    offset = 0.3 * run[:, None] * np.array([np.cos(heading), np.sin(heading)])
    offset = offset + config.texture_motion * 0.05 * rng.uniform(0, 1) * (config.motion * sway)
    turn = (
        config.texture_motion
        * 0.12
        * rng.uniform(0, 1)
        * (config.motion * smooth_curve(rng, num_frames, fps, hz=(0.1, 0.4)))
    )
    texture = paint_texture(np.random.default_rng(texture_seed), config, int(2.6 * size))
    if travels:
        texture = _continued(texture)
    return Background(
        texture, offset.clip(-0.45, 0.45), turn + rng.uniform(-0.3, 0.3), float(rng.uniform(0.4, 1))
    )


def _continued(texture: Image.Image) -> Image.Image:
    side = texture.width
    pixels = np.pad(np.asarray(texture), ((side, side), (side, side), (0, 0)), mode="symmetric")
    return Image.fromarray(pixels)


@dataclass(frozen=True)
class Distractor:
    """A colored object that wanders about: centre (T, 2) in 0..1 of the frame, turn (T,), radius in frame heights."""

    corners: np.ndarray
    center: np.ndarray
    turn: np.ndarray
    radius: float
    color: Color
    outline: Color
    in_front: bool

    def polygons(self, size: int) -> np.ndarray:
        """Returns the outline in pixels, float64 (T, N, 2)."""
        cos, sin = np.cos(self.turn)[:, None], np.sin(self.turn)[:, None]
        x, y = self.corners[:, 0], self.corners[:, 1]
        turned = np.stack([x * cos - y * sin, x * sin + y * cos], -1)
        return size * (self.center[:, None] + self.radius * turned)


def sample_distractor(
    rng: np.random.Generator, config: NuisanceConfig, num_frames: int, fps: float
) -> Distractor:
    """Returns a random object on a smooth path within the frame, half of the time in front of the figure."""
    count = int(rng.choice([3, 4, 5, 6, 24]))
    around = 2 * np.pi * np.arange(count) / count
    stretch = np.array([1.0, rng.uniform(0.55, 1.0)])
    times = config.motion * np.arange(num_frames) / fps
    hz = config.distractor * rng.uniform(0.08, 0.35, 2)
    path = np.sin(2 * np.pi * (hz * times[:, None] + rng.uniform(size=2)))
    middle, reach = rng.uniform(0.35, 0.65, 2), rng.uniform(0.12, 0.36, 2)
    color = colorsys.hls_to_rgb(rng.uniform(), rng.uniform(0.2, 0.8), rng.uniform(0.4, 1))
    red, green, blue = (int(255 * c) for c in color)
    return Distractor(
        corners=np.stack([np.cos(around), np.sin(around)], 1) * stretch,
        center=(middle + reach * path).clip(0.06, 0.94),
        turn=rng.uniform(0, 6) + rng.uniform(-2, 2) * times,
        radius=float(config.distractor * rng.uniform(0.05, 0.1)),
        color=(red, green, blue),
        outline=(red // 4, green // 4, blue // 4),
        in_front=bool(rng.uniform() < 0.5),
    )


@dataclass(frozen=True)
class Light:
    """Gain (T,), tint (3,), gradient strength and direction (T,) of the light; `noise` is the sensor's, in levels."""

    gain: np.ndarray
    tint: np.ndarray
    slope: float
    heading: np.ndarray
    noise: float
    noise_seed: int
    shadow: bool


def sample_light(
    rng: np.random.Generator, config: NuisanceConfig, num_frames: int, fps: float
) -> Light:
    """Returns random light that changes slowly."""
    slow = config.motion * smooth_curve(rng, num_frames, fps, hz=(0.1, 0.5))
    return Light(
        gain=np.exp(config.lighting * (rng.uniform(-0.25, 0.15) + 0.12 * slow.clip(-2, 2))),
        tint=1 + config.lighting * rng.uniform(-0.12, 0.12, 3),
        slope=float(config.lighting * rng.uniform(0, 0.35)),
        heading=rng.uniform(0, 2 * np.pi)
        + rng.uniform(-1, 1) * (config.motion * np.arange(num_frames)) / fps,
        noise=float(config.noise * rng.uniform(0, 5)),
        noise_seed=int(rng.integers(2**31)),
        shadow=bool(rng.uniform() < 0.6),
    )


class Scene:
    """One video, ready to be drawn.

    Args:
        body: the figure.
        joints: float64 (T, J, 3) in space.
        camera: what looks at them.
        rng: source of all that is random here; must not depend on the action.
        texture_seed: seed of the background pattern.
        config: strengths.
        size: frame height and width in pixels, even.
        fps: frames per second.
    """

    def __init__(
        self,
        body: Body,
        joints: np.ndarray,
        camera: Camera,
        *,
        rng: np.random.Generator,
        texture_seed: np.random.SeedSequence,
        config: NuisanceConfig,
        size: int,
        fps: float,
    ) -> None:
        self.num_frames, self.size, self.camera = len(joints), size, camera
        self._joints = joints
        streams = rng.spawn(3)
        self._background = (int(streams[0].integers(2**62)), config, fps, texture_seed)
        self.distractor = sample_distractor(streams[1], config, self.num_frames, fps)
        self.light = sample_light(streams[2], config, self.num_frames, fps)
        self._canvas = SUPERSAMPLING * size
        points, depth, scale = self.camera.project(joints, self._canvas)
        outline = 0.008 * self._canvas
        self.painter = FigurePainter(
            body, points, depth, scale, outline, all_round=camera.all_round
        )
        self._shadow = camera.shadow(joints, self._canvas)

    def boxes(self) -> np.ndarray:
        """Returns float32 (T, 2, 4): figure and distractor, [x_min, y_min, x_max, y_max] in 0..1, cut at the frame.

        The box of the figure bounds all of it, also what the distractor hides.
        """
        polygon = self.distractor.polygons(self._canvas)
        other = np.concatenate([polygon.min(1) - 1, polygon.max(1) + 1], 1)
        both = np.stack([self.painter.boxes(), other], 1) / self._canvas
        return both.clip(0, 1).astype(np.float32)

    def joints_px(self) -> np.ndarray:
        """Returns where the joints are, hidden ones too, float64 (T, J, 2): x and y in pixels of the frame."""
        return self.camera.project(self._joints, self.size)[0]

    def figure_mask(self, t: int, *, visible: bool) -> np.ndarray:
        """Returns the pixels of frame `t` of which the figure covers half or more, bool (H, W).

        With `visible` without what the distractor hides.
        """
        canvas = Image.new("RGBX", (self._canvas, self._canvas))
        draw = ImageDraw.Draw(canvas)
        self.painter.draw(draw, t)
        if visible and self.distractor.in_front:
            polygon = self.distractor.polygons(self._canvas)[t]
            nothing = (0, 0, 0, 0)
            draw.polygon(polygon.ravel().tolist(), fill=nothing, outline=nothing, width=2)
        return np.asarray(canvas.reduce(SUPERSAMPLING))[..., 3] >= 128

    def frames(self, *, figure: bool = True, distractor: bool = True) -> Iterator[np.ndarray]:
        """Yields the frames, uint8 (H, W, 3); the switches leave something out (its shadow stays)."""
        seed, config, fps, texture_seed = self._background
        size = self.size
        background = sample_background(
            np.random.default_rng(seed),
            config,
            self.num_frames,
            fps,
            size,
            texture_seed=texture_seed,
            travels=bool(self.camera.travel.any()),
        )
        noise_rng = np.random.default_rng(self.light.noise_seed)
        grain = (self.light.noise * noise_rng.standard_normal((size + 32, size + 32, 1))).astype(
            np.float32
        )
        where = noise_rng.integers(0, 32, (self.num_frames, 2))
        y, x = (np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5)[..., None]
        polygons = self.distractor.polygons(self._canvas)
        for t in range(self.num_frames):
            image = np.asarray(background.frame(self.camera, t, size)).astype(np.float32)
            layer = np.asarray(self._objects(t, polygons[t], figure, distractor)).astype(np.float32)
            image *= 1 - layer[..., 3:] / 255
            image += layer[..., :3]
            heading = float(self.light.heading[t])
            light = 1 + 2 * self.light.slope * (math.cos(heading) * x + math.sin(heading) * y)
            image *= light * (self.light.gain[t] * self.light.tint).astype(np.float32)
            i, j = where[t]
            image += grain[i : i + size, j : j + size]
            yield np.clip(image, 0, 255).astype(np.uint8)

    def _objects(self, t: int, polygon: np.ndarray, figure: bool, distractor: bool) -> Image.Image:
        """Everything before the background, RGBA with premultiplied alpha, at the size of the frame."""
        # Pillow averages the four channels of RGBX as they are; of RGBA it would divide the colors by alpha again.
        canvas = Image.new("RGBX", (self._canvas, self._canvas))
        draw = ImageDraw.Draw(canvas)
        if self.light.shadow:
            _draw_shadow(draw, self._shadow[t])
        if distractor and not self.distractor.in_front:
            self._draw_distractor(draw, polygon)
        if figure:
            self.painter.draw(draw, t)
        if distractor and self.distractor.in_front:
            self._draw_distractor(draw, polygon)
        return canvas.reduce(SUPERSAMPLING)

    def _draw_distractor(self, draw: ImageDraw.ImageDraw, polygon: np.ndarray) -> None:
        corners = [tuple(corner) for corner in polygon.tolist()]
        draw.polygon(corners, fill=self.distractor.color, outline=self.distractor.outline, width=2)


def _draw_shadow(draw: ImageDraw.ImageDraw, outline: np.ndarray) -> None:
    darker = (0, 0, 0, 80)
    if len(outline) == 2:
        draw.ellipse(outline.ravel().tolist(), fill=darker)
    else:
        draw.polygon(outline.ravel().tolist(), fill=darker)
