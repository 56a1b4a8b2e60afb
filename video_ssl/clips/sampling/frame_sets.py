"""Which frames make a frame set: many frames of a whole video in order, with their time stamps and a validity mask.

A frame set is what frame-wise objectives (CARL, TCC, TCN) look at: T frames of a video of L frames, sorted (but for the
pairs of "anchor_positive"), not evenly spaced.  Slots that a short video cannot fill show its last frame and are not
valid.  Numpy only; all randomness comes from the generator that is passed in.

Source: papers/carl.md section 2.2 (arXiv:2203.14957, as its reference code does it), tcc.md section 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
BlockFrom = Literal["video", "clip"]
BLOCK_FROM: tuple[BlockFrom, ...] = ("video", "clip")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameSet:
    """The frames of one view.

    Attributes:
        steps: int64 (T,), source frames, each in [0, L): the time stamps of the loss.  In ascending order, but for
            "anchor_positive".
        valid: bool (T,), False where a slot only shows the last frame (or the first) again; at least one is True.
    """

    steps: Ints
    valid: Bools

    def __post_init__(self) -> None:
        assert self.steps.shape == self.valid.shape
        assert self.valid.any()


@dataclass(frozen=True, kw_only=True)
class FrameSetConfig:
    """Which frames of a video make the views of a frame-wise objective.

    Attributes:
        kind: "time_augment" draws the views from overlapping random blocks (CARL); "offset_uniform" draws each view
            from the whole video (TCC); "anchor_positive" so draws T/2 anchors, and for each a frame that lies 1 to
            `positive_window` frames before it, in the order anchor, positive, anchor, positive, ... (TCN).
        num_frames: T, slots of a view.
        num_views: views of a video; "time_augment" makes 2, or 1: the first of them.
        max_block: "time_augment": a block is 1 to this many times as long as what it is taken from.
        block_from: "time_augment": "video" takes blocks from the length of the video (CARL on Pouring, Penn Action
            and Kinetics: every block reaches past the end, so some slots are not valid), "clip" from the number of
            frames shown (CARL on FineGym, and the intended design).
        min_overlap: "time_augment": share of a view by which the second one must overlap the first (CARL's
            CONSISTENT_OFFSET).
        positive_window: see "anchor_positive".
    """

    kind: Literal["time_augment", "offset_uniform", "anchor_positive"] = "time_augment"
    num_frames: int = 80
    num_views: int = 2
    max_block: float = 1.5
    block_from: BlockFrom = "video"
    min_overlap: float = 0.2
    positive_window: int = 5

    def __post_init__(self) -> None:
        if self.num_frames < 1 or self.num_views < 1:
            raise ValueError(
                f"num_frames={self.num_frames} and num_views={self.num_views} must be at least 1."
            )
        if self.kind == "time_augment" and self.num_views > 2:
            raise ValueError(
                f"num_views={self.num_views}: kind='time_augment' makes a pair of views. Use 2, 1, or 'offset_uniform'."
            )
        if self.kind == "anchor_positive" and self.num_frames % 2:
            raise ValueError(
                f"num_frames={self.num_frames}: kind='anchor_positive' shows pairs of frames. Use an even number."
            )
        if self.positive_window < 1:
            raise ValueError(f"positive_window={self.positive_window} must be at least 1 frame.")
        if self.max_block < 1:
            raise ValueError(f"max_block={self.max_block} must be at least 1.")
        if not 0 <= self.min_overlap <= 1:
            raise ValueError(f"min_overlap={self.min_overlap} must lie in [0, 1].")
        if self.block_from not in BLOCK_FROM:
            raise ValueError(f"block_from={self.block_from!r} must be one of {list(BLOCK_FROM)}.")


def sample_frame_sets(
    num_source: int, rng: np.random.Generator, config: FrameSetConfig
) -> list[FrameSet]:
    """Returns the views of a video of `num_source` frames, config.num_views of them."""
    if config.kind == "offset_uniform":
        return [offset_uniform(num_source, config.num_frames, rng) for _ in range(config.num_views)]
    if config.kind == "anchor_positive":
        return [
            anchor_positive(num_source, config.num_frames, rng, window=config.positive_window)
            for _ in range(config.num_views)
        ]
    return list(
        time_augment(
            num_source,
            config.num_frames,
            rng,
            max_block=config.max_block,
            block_from=config.block_from,
            min_overlap=config.min_overlap,
        )
    )[: config.num_views]


def time_augment(
    num_source: int,
    num_frames: int,
    rng: np.random.Generator,
    *,
    max_block: float = 1.5,
    block_from: BlockFrom = "video",
    min_overlap: float = 0.2,
) -> tuple[FrameSet, FrameSet]:
    """Returns two views of a video, each some frames of a random block of it.

        n = min(L, T);  block = ceil(r * L) or ceil(r * n) with r uniform in [1, max_block), one r per view
        view 0 begins anywhere where its block fits (at 0 if it never does);
        view 1 begins at most int((1 - min_overlap) * n) frames from the first sampled frame of view 0;
        n different frames of the block, uniformly; those at or after L are not valid.

    A view without a valid frame is drawn again (attention over no key is not a number); this is the one departure
    from the reference.

    Args:
        num_source: L, frames of the video.
        num_frames: T, slots of a view.
        max_block, block_from, min_overlap: see `FrameSetConfig`.
    """
    _check(num_source, num_frames)
    taken = min(num_source, num_frames)
    base = num_source if block_from == "video" else taken
    first = _draw_again(num_source, num_frames, rng, base, max_block, None)
    shift = int((1 - min_overlap) * taken)
    second = _draw_again(
        num_source, num_frames, rng, base, max_block, (int(first.steps[0]) - shift, shift)
    )
    return first, second


def offset_bounds(num_source: int, block: int, near: tuple[int, int] | None) -> tuple[int, int]:
    """Returns [low, high) of the begin of a block; `near` is (first frame of view 0 - shift, shift) for view 1.

    >>> offset_bounds(100, 40, None), offset_bounds(100, 40, (10 - 16, 16)), offset_bounds(100, 120, (2, 8))
    ((0, 60), (0, 27), (0, 1))
    """
    room = num_source - block
    if near is None:
        return 0, max(room, 1)
    low, shift = near
    return max(0, min(room, low)), max(1, min(room + 1, low + 2 * shift + 1))


def offset_uniform(num_source: int, num_frames: int, rng: np.random.Generator) -> FrameSet:
    """Returns T different frames of the whole video; a video of fewer frames is shown whole and filled up."""
    _check(num_source, num_frames)
    if num_source < num_frames:
        return _frame_set(np.arange(num_frames), num_source)
    return _frame_set(np.sort(rng.choice(num_source, num_frames, replace=False)), num_source)


def anchor_positive(
    num_source: int, num_frames: int, rng: np.random.Generator, *, window: int
) -> FrameSet:
    """Returns T/2 anchors as `offset_uniform` draws them, each followed by a frame 1 to `window` frames before it.

    A positive before the first frame is the first frame, and not valid; for anchors past the end see `offset_uniform`.
    """
    _check(num_source, num_frames)
    count = num_frames // 2
    if num_source < count:
        anchors = np.arange(count)
    else:
        anchors = np.sort(rng.choice(num_source, count, replace=False))
    positives = anchors - rng.integers(1, window + 1, count)
    return _frame_set(np.stack([anchors, positives], axis=1).reshape(-1), num_source)


def context_indices(steps: Ints, num_source: int, *, num_contexts: int, stride: int) -> Ints:
    """Returns the frames t - (c - 1) * stride, ..., t - stride, t of every step t, kept inside the video.

    Args:
        steps: int64 (T,).
        num_source: L.
        num_contexts: c, at least 1.
        stride: frames between two context frames.

    Returns:
        int64 (T, c), the step itself in the last column.

    >>> context_indices(np.array([0, 20]), 30, num_contexts=2, stride=15).tolist()
    [[0, 0], [5, 20]]
    """
    back = np.arange(num_contexts - 1, -1, -1) * stride
    return np.clip(steps[:, None] - back, 0, num_source - 1).astype(np.int64)


def _draw_again(
    num_source: int,
    num_frames: int,
    rng: np.random.Generator,
    base: int,
    max_block: float,
    near: tuple[int, int] | None,
) -> FrameSet:
    """One view, drawn until a frame of it is valid: at worst every second draw succeeds (a video of one frame)."""
    taken = min(num_source, num_frames)
    while True:
        block = math.ceil(rng.uniform(1.0, max_block) * base)
        offset = int(rng.integers(*offset_bounds(num_source, block, near)))
        steps = np.full(num_frames, num_source)
        steps[:taken] = offset + np.sort(rng.choice(block, taken, replace=False))
        if steps[0] < num_source:
            return _frame_set(steps, num_source)


def _frame_set(steps: NDArray[np.integer], num_source: int) -> FrameSet:
    valid = (steps >= 0) & (steps < num_source)
    return FrameSet(steps=np.clip(steps, 0, num_source - 1).astype(np.int64), valid=valid)


def _check(num_source: int, num_frames: int) -> None:
    if num_source < 1:
        raise ValueError(f"the video has {num_source} frames: at least one is needed.")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1.")
