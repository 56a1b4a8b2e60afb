"""The figure of the generated worlds: names of its joints, body proportions and colors, and the drawing of it.

Lengths are in body heights of an average figure, y up, z to the front of the figure, x to its right.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Color = tuple[int, int, int]

JOINTS = (
    *("pelvis", "chest", "neck", "head", "face"),
    *(f"{name}_{side}" for name in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle", "toe") for side in "lr"),
)  # fmt: skip
JOINT_INDEX = {name: i for i, name in enumerate(JOINTS)}


@dataclass(frozen=True, kw_only=True)
class Body:
    """One figure: lengths in average body heights, radii likewise, colors as RGB."""

    thigh: float
    shin: float
    torso: float
    upper_arm: float
    forearm: float
    shoulder_half: float
    hip_half: float
    head: float
    limb_radius: float
    torso_radius: float
    skin: Color
    hair: Color
    shirt: Color
    trousers: Color
    shoes: Color
    outline: Color
    long_sleeves: bool
    long_trousers: bool


def _color(rng: np.random.Generator, light: tuple[float, float], saturation: float) -> Color:
    rgb = colorsys.hls_to_rgb(rng.uniform(), rng.uniform(*light), rng.uniform(0.2, 1) * saturation)
    return (int(255 * rgb[0]), int(255 * rgb[1]), int(255 * rgb[2]))


def sample_body(rng: np.random.Generator, *, shape: float = 1.0, color: float = 1.0) -> Body:
    """Returns a random figure; `shape` scales how far proportions stray, `color` 0 gives every figure one outfit."""
    spread = 1 + shape * rng.uniform(-0.16, 0.16, 9)
    girth = 1 + shape * rng.uniform(-0.2, 0.35)
    if color == 0:
        rng = np.random.default_rng(0)
    # Clothes are clearly dark or clearly light; backgrounds keep to the middle (scene.py), so contrast is good
    # in either polarity and the brightness of a pixel is independent of the pose.
    shades = [(0.08, 0.22), (0.78, 0.94)]
    shirt, trousers = shades[rng.integers(2)], shades[rng.integers(2)]
    skin = _color(rng, (0.2, 0.3) if rng.uniform() < 0.5 else (0.72, 0.85), 0.5)
    return Body(
        thigh=0.245 * spread[0],
        shin=0.235 * spread[1],
        torso=0.29 * spread[2],
        upper_arm=0.175 * spread[3],
        forearm=0.165 * spread[4],
        shoulder_half=0.115 * spread[5],
        hip_half=0.065 * spread[6],
        head=0.075 * spread[7],
        limb_radius=0.032 * girth,
        torso_radius=0.078 * girth * spread[8],
        skin=skin,
        hair=_color(rng, (0.05, 0.5), 0.7),
        shirt=_color(rng, shirt, color),
        trousers=_color(rng, trousers, color),
        shoes=_color(rng, (0.1, 0.9), color),
        outline=_color(rng, (0.02, 0.1), 0.5),
        long_sleeves=bool(rng.uniform() < 0.5),
        long_trousers=bool(rng.uniform() < 0.6),
    )


@dataclass(frozen=True)
class _Part:
    group: str
    start: str
    end: str
    start_radius: float
    end_radius: float
    color: Color


def _shade(color: Color, factor: float) -> Color:
    return tuple(int(min(255, max(0, channel * factor))) for channel in color)  # type: ignore[return-value]


def body_parts(body: Body, *, all_round: bool = False) -> list[_Part]:
    """Returns the tapered capsules that make up the figure; the limbs of the left side are darker.

    With `all_round` the face is a part of its own, which the head hides from behind; else it is always in front.
    """
    r, t = body.limb_radius, body.torso_radius
    parts = [
        _Part("torso", "hip_l", "hip_r", 0.9 * t, 0.9 * t, body.trousers),
        _Part("torso", "pelvis", "chest", 0.92 * t, 0.95 * t, body.shirt),
        _Part("torso", "shoulder_l", "shoulder_r", 0.55 * t, 0.55 * t, body.shirt),
        _Part("head", "neck", "head", 0.9 * r, 0.9 * r, body.skin),
        _Part("head", "head", "head", body.head, body.head, body.hair),
        _Part(
            "face" if all_round else "head",
            "face",
            "face",
            0.78 * body.head,
            0.78 * body.head,
            body.skin,
        ),
    ]
    for side, factor in (("l", 0.72), ("r", 1.0)):
        shirt, skin, trousers = (_shade(c, factor) for c in (body.shirt, body.skin, body.trousers))
        sleeve = shirt if body.long_sleeves else skin
        leg = trousers if body.long_trousers else skin
        arm, limb = f"arm_{side}", f"leg_{side}"
        parts += [
            _Part(arm, f"shoulder_{side}", f"elbow_{side}", 1.15 * r, 0.9 * r, shirt),
            _Part(arm, f"elbow_{side}", f"wrist_{side}", 0.9 * r, 0.75 * r, sleeve),
            _Part(arm, f"wrist_{side}", f"wrist_{side}", 1.05 * r, 1.05 * r, skin),
            _Part(limb, f"hip_{side}", f"knee_{side}", 1.6 * r, 1.15 * r, trousers),
            _Part(limb, f"knee_{side}", f"ankle_{side}", 1.15 * r, 0.85 * r, leg),
            _Part(limb, f"ankle_{side}", f"toe_{side}", 0.95 * r, 0.75 * r, _shade(body.shoes, factor)),
        ]  # fmt: skip
    return parts


class FigurePainter:
    """Draws one figure frame by frame from joints on the screen; everything per clip is computed at once.

    Args:
        body: shape and colors.
        points: float64 (T, J, 2), joints in pixels of the canvas.
        depth: float64 (T, J), larger = nearer to the viewer.
        scale: float64 (T, J), pixels of the canvas per body height where a joint is.
        outline: width of the outline in pixels of the canvas.
        all_round: the figure may be seen from behind.
    """

    def __init__(
        self,
        body: Body,
        points: np.ndarray,
        depth: np.ndarray,
        scale: np.ndarray,
        outline: float,
        *,
        all_round: bool = False,
    ) -> None:
        self._parts = body_parts(body, all_round=all_round)
        self._outline_color = body.outline
        start = [JOINT_INDEX[p.start] for p in self._parts]
        end = [JOINT_INDEX[p.end] for p in self._parts]
        radii = np.array([[p.start_radius, p.end_radius] for p in self._parts])
        self._a, self._b = points[:, start], points[:, end]
        self._radii = np.maximum(radii * np.stack([scale[:, start], scale[:, end]], -1), 0.6)
        self._outline = outline
        groups = [p.group for p in self._parts]
        self._members = {
            g: [i for i, x in enumerate(groups) if x == g] for g in dict.fromkeys(groups)
        }
        part_depth = (depth[:, start] + depth[:, end]) / 2
        self._order = np.argsort(
            [part_depth[:, members].mean(1) for members in self._members.values()], axis=0, kind="stable"
        ).T  # fmt: skip
        self._fill = self._shapes(self._radii)
        self._line = self._shapes(self._radii + outline)

    def boxes(self) -> np.ndarray:
        """Returns the bounds of what is drawn, float64 (T, 4): x_min, y_min, x_max, y_max in canvas pixels."""
        reach = (self._radii + self._outline)[..., None]
        low = np.minimum(self._a - reach[:, :, 0], self._b - reach[:, :, 1]).min(1)
        high = np.maximum(self._a + reach[:, :, 0], self._b + reach[:, :, 1]).max(1)
        return np.concatenate([low, high], axis=1)

    def _shapes(self, radii: np.ndarray) -> list[list[list[list[float]]]]:
        """For every frame and part: quad, first disc, second disc, as lists of numbers for Pillow."""
        axis = self._b - self._a
        length = np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-6)
        normal = np.stack([-axis[..., 1], axis[..., 0]], -1) / length
        r0, r1 = radii[..., :1], radii[..., 1:]
        quad = np.concatenate(
            [self._a + r0 * normal, self._b + r1 * normal, self._b - r1 * normal, self._a - r0 * normal], -1
        )  # fmt: skip
        first = np.concatenate([self._a - r0, self._a + r0], -1)
        second = np.concatenate([self._b - r1, self._b + r1], -1)
        frames = zip(quad.tolist(), first.tolist(), second.tolist(), strict=True)
        return [[list(part) for part in zip(*frame, strict=True)] for frame in frames]

    def draw(self, draw: ImageDraw.ImageDraw, frame: int) -> None:
        """Draws the figure of one frame, far limbs first, every limb with its own outline."""
        members = list(self._members.values())
        line, fill = self._line[frame], self._fill[frame]
        for group in self._order[frame]:
            for part in members[group]:
                _draw_capsule(draw, line[part], self._outline_color)
            for part in members[group]:
                _draw_capsule(draw, fill[part], self._parts[part].color)


def _draw_capsule(draw: ImageDraw.ImageDraw, shape: list[list[float]], color: Color) -> None:
    quad, first, second = shape
    draw.ellipse(first, fill=color)
    if first != second:
        draw.polygon(quad, fill=color)
        draw.ellipse(second, fill=color)
