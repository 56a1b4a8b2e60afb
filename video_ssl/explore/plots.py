"""Pictures of an `Exploration` for notebooks: matrices, maps, nearest frames.

Needs `pip install 'video_ssl[notebook]'`.  Every picture is a matplotlib figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from video_ssl.embed.features import FeatureError
from video_ssl.explore.alignment_video import PALETTE, distance_levels
from video_ssl.explore.exploration import NO_PHASE, Exploration, try_pictures
from video_ssl.explore.tracks import Track

_INK, _SOFT, _PATH = "#1c2430", "#5c6878", "#e62828"


def _pyplot() -> ModuleType:
    try:
        import matplotlib.pyplot as plt
    except ImportError as err:
        raise FeatureError("pictures need matplotlib: pip install 'video_ssl[notebook]'") from err
    return plt


def plot_matrices(exploration: Exploration, videos: Sequence[str | int]) -> Any:
    """Returns a figure with the distances of every pair of some videos; dark is near, red the alignment.

    >>> from video_ssl import open_exploration
    >>> frames = open_exploration("features.arrow")
    >>> len(plot_matrices(frames, ["wave1.mp4", "wave2.mp4"]).axes)
    4
    """
    plt = _pyplot()
    chosen = [exploration.index(video) for video in videos]
    count = len(chosen)
    side = max(1.6, min(3.0, 9.6 / count))
    figure, axes = plt.subplots(
        count, count, figsize=(side * count, side * count), squeeze=False, layout="constrained"
    )
    for row, a in enumerate(chosen):
        for column, b in enumerate(chosen):
            axis = axes[row, column]
            _matrix(axis, exploration, a, b, width=1.3)
            axis.set_xticks([])
            axis.set_yticks([])
            if row == 0:
                axis.set_title(exploration.tracks[b].id, fontsize=8.5, color=_INK)
            if column == 0:
                axis.set_ylabel(exploration.tracks[a].id, fontsize=8.5, color=_INK)
    return figure


def plot_alignment(exploration: Exploration, query: str | int, key: str | int) -> Any:
    """Returns a figure of one alignment: the matrix with both videos' phases along its sides.

    >>> from video_ssl import open_exploration
    >>> figure = plot_alignment(open_exploration("features.arrow"), "wave1.mp4", "wave2.mp4")
    >>> figure.savefig("alignment.png")
    """
    plt = _pyplot()
    a, b = exploration.index(query), exploration.index(key)
    figure, axes = plt.subplots(
        2,
        2,
        figsize=(6.4, 5.6),
        width_ratios=[1, 22],
        height_ratios=[22, 1],
        layout="constrained",
    )
    _matrix(axes[0, 1], exploration, a, b, width=2.2)
    axes[0, 1].set_xticks([])
    axes[0, 1].set_yticks([])
    _phases(axes[0, 0], exploration, exploration.tracks[a], upright=True)
    _phases(axes[1, 1], exploration, exploration.tracks[b], upright=False)
    axes[1, 0].axis("off")
    labels = np.concatenate([exploration.tracks[v].labels for v in (a, b)])
    _legend(axes[0, 1], exploration, labels, loc="upper left", bbox_to_anchor=(1.01, 1))
    shares = exploration.agreement(a, b)
    if np.isfinite(shares.aligned):
        axes[0, 1].set_title(
            f"same phase: {100 * shares.aligned:.0f} % of the aligned frames, "
            f"{100 * shares.stretched:.0f} % if only stretched",
            fontsize=9.5,
            color=_SOFT,
        )
    return figure


def plot_map(exploration: Exploration, videos: Sequence[str | int] | None = None) -> Any:
    """Returns a figure of the frames of some videos (all if None) on two components, colored by phase.

    Thin lines follow each video through time; a ring marks its first frame.

    >>> from video_ssl import open_exploration
    >>> plot_map(open_exploration("features.arrow")).savefig("map.png")
    """
    plt = _pyplot()
    chosen = [exploration.index(v) for v in (range(len(exploration)) if videos is None else videos)]
    places, shares = exploration.map(chosen)
    figure, axis = plt.subplots(figsize=(7.6, 5.2), layout="constrained")
    for video, where in zip(chosen, places, strict=True):
        track = exploration.tracks[video]
        colors = [_shade(exploration, label) for label in track.labels]
        axis.plot(*where.T, color=_INK, linewidth=0.6, alpha=0.3, zorder=1)
        axis.scatter(*where.T, c=colors, s=16, linewidths=0, alpha=0.9, zorder=2)
        axis.scatter(*where[:1].T, s=70, facecolors="none", edgecolors=_INK, zorder=3)
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel(f"1st component ({100 * shares[0]:.0f} % of the variance)", color=_SOFT)
    axis.set_ylabel(f"2nd component ({100 * shares[1]:.0f} %)", color=_SOFT)
    axis.spines[["top", "right"]].set_visible(False)
    labels = np.concatenate([exploration.tracks[v].labels for v in chosen])
    _legend(axis, exploration, labels, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def plot_nearest(
    exploration: Exploration, video: str | int, frames: Sequence[int], *, count: int = 5
) -> Any:
    """Returns a figure: left frames of a video, beside each the most similar frame of each of the nearest videos.

    Green titles: the same phase, red: another.

    >>> from video_ssl import open_exploration
    >>> figure = plot_nearest(open_exploration("features.arrow"), "wave1.mp4", [0, 6], count=2)
    >>> len(figure.axes)  # a row a frame: itself and two others
    6
    """
    plt = _pyplot()
    own = exploration.index(video)
    found = {frame: exploration.nearest(own, frame, count=count) for frame in frames}
    needed = {own, *(near.video for hits in found.values() for near in hits)}
    pictures = {v: try_pictures(exploration.tracks[v])[0] for v in needed}
    columns = 1 + max(len(hits) for hits in found.values())
    figure, axes = plt.subplots(
        len(found),
        columns,
        figsize=(1.75 * columns, 2.15 * len(found)),
        squeeze=False,
        layout="constrained",
    )
    for row, (frame, hits) in enumerate(found.items()):
        phase = int(exploration.tracks[own].labels[frame])
        for column in range(columns):
            axis = axes[row, column]
            axis.axis("off")
            if column > len(hits):
                continue
            v, f = (own, frame) if column == 0 else hits[column - 1][:2]
            label = int(exploration.tracks[v].labels[f])
            _show(axis, pictures[v], f)
            title = f"{exploration.tracks[v].id}\n{exploration.phase_name(label)}"
            if column:
                title += f" · {hits[column - 1].cosine:.3f}"
            shade = _INK
            if column and phase >= 0 and label >= 0:
                shade = "#2f9e6e" if label == phase else "#c2405b"
            axis.set_title(
                title, fontsize=7.5, color=shade, fontweight="bold" if column == 0 else "normal"
            )
    return figure


def _matrix(axis: Any, exploration: Exploration, a: int, b: int, *, width: float) -> None:
    found = exploration.pair(a, b)
    axis.imshow(PALETTE[distance_levels(found.cost)], aspect="auto", interpolation="nearest")
    axis.plot(found.path_j, found.path_i, color="white", linewidth=2.4 * width, alpha=0.5)
    axis.plot(found.path_j, found.path_i, color=_PATH, linewidth=width)
    axis.set_xlim(-0.5, found.cost.shape[1] - 0.5)
    axis.set_ylim(found.cost.shape[0] - 0.5, -0.5)


def _phases(axis: Any, exploration: Exploration, track: Track, *, upright: bool) -> None:
    """A bar of the phases of a video along a side of a matrix, with its times."""
    shades = [_shade(exploration, label) for label in track.labels]
    colors = np.array([[int(s[k : k + 2], 16) for k in (1, 3, 5)] for s in shades], np.uint8)
    bar = colors[:, None] if upright else colors[None]
    axis.imshow(bar, aspect="auto", interpolation="nearest")
    ticks = np.unique(np.linspace(0, len(shades) - 1, 5).round().astype(int))
    known = bool(np.isfinite(track.times).all())
    texts = [f"{track.times[t]:.1f}" if known else str(t) for t in ticks]
    unit = "s" if known else "frame"
    if upright:
        axis.set_xticks([])
        axis.set_yticks(ticks, texts, fontsize=8, color=_SOFT)
        axis.set_ylabel(f"{track.id} ({unit})", color=_INK)
    else:
        axis.set_yticks([])
        axis.set_xticks(ticks, texts, fontsize=8, color=_SOFT)
        axis.set_xlabel(f"{track.id} ({unit})", color=_INK)


def _legend(axis: Any, exploration: Exploration, labels: np.ndarray, **where: Any) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            marker="o",
            linestyle="none",
            color=_shade(exploration, label),
            label=exploration.phase_name(label),
        )
        for label in sorted(set(labels.tolist()), key=lambda label: (label < 0, label))
    ]
    if len(handles) <= 24:
        axis.legend(handles=handles, frameon=False, fontsize=8.5, **where)


def _shade(exploration: Exploration, label: int) -> str:
    return exploration.phase_colors.get(int(label), NO_PHASE)


def _show(axis: Any, pictures: list[np.ndarray] | None, frame: int) -> None:
    axis.imshow(pictures[frame] if pictures else _empty(96))


def _empty(height: int) -> np.ndarray:
    image = Image.new("RGB", (height, height), "#e9edf3")
    ImageDraw.Draw(image).text((height // 2, height // 2), "no picture", "#5c6878", anchor="mm")
    return np.asarray(image)
