"""Pictures of the report as data URIs: strips of clips with what a mask hides, thumbnails of videos."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from video_ssl.clips.crops import center_region, view_frames
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Record, Table

Frames = NDArray[np.uint8]

#: What a hidden patch looks like.
_HIDDEN = np.array([226, 230, 236], np.uint8)
_GAP_PX = 4
STRIP_FRAMES, STRIP_PX = 8, 112
SPRITE_FRAMES, SPRITE_PX = 8, 112
_TIMEOUT_SEC = 20.0


@dataclass(frozen=True, kw_only=True)
class MaskedClip:
    """A clip as the encoder meets it in training: strips as data URIs, and the share that is hidden."""

    record: Record
    original: str
    visible: str
    share: float
    frames: int


def masked_clips(
    objective: Any, plan: Any, table: Table, *, seed: int, count: int
) -> tuple[list[MaskedClip], list[str]]:
    """Returns clips with their masks, made by the plan of the run, and what could not be read.

    Args:
        objective: the objective's configuration; `encoder.grid` is that of the tokens.
        plan: of the same objective.
        table: the training videos; `count` of them are taken at equal distances.
        seed: of the views and masks.
    """
    made: list[MaskedClip] = []
    lost: list[str] = []
    for index in np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int):
        record = table.record(int(index))
        rng = np.random.default_rng((seed, int(index)))
        try:
            with open_record(record, timeout_sec=_TIMEOUT_SEC) as reader:
                sample = plan(record, reader, rng, 0.0)
        except (BadVideo, OSError) as err:
            lost.append(str(err))
            continue
        video, mask = sample["video"][0], sample["mask"][0]
        chosen = np.linspace(0, len(video) - 1, min(STRIP_FRAMES, len(video))).round().astype(int)
        scaled = np.stack([_resized(frame, STRIP_PX) for frame in video])
        shown = hide(scaled, mask, objective.encoder.grid)
        made.append(
            MaskedClip(
                record=record,
                original=picture(strip(scaled[chosen])),
                visible=picture(strip(shown[chosen])),
                share=float(mask.mean()),
                frames=len(video),
            )
        )
    return made, lost


def hide(video: Frames, mask: NDArray[np.bool_], grid: tuple[int, int, int]) -> Frames:
    """Returns the video (T, H, W, 3) with the patches that `mask` (L,) hides painted over.

    Tokens are in the order time, row, column of `grid` = (t, h, w); the video may be scaled to any size.
    """
    cells = mask.reshape(grid)
    t, h, w = (
        np.arange(length) * count // length
        for length, count in zip(video.shape[:3], grid, strict=True)
    )
    return np.where(cells[t][:, h][:, :, w][..., None], _HIDDEN, video)


def strip(frames: Frames) -> Frames:
    """Returns frames (T, H, W, 3) side by side on white: (H, ?, 3)."""
    gap = np.full((frames.shape[1], _GAP_PX, 3), 255, np.uint8)
    parts = [part for frame in frames for part in (frame, gap)]
    return np.concatenate(parts[:-1], axis=1)


def sprite(record: Record) -> str | None:
    """Returns frames spread over a video, side by side without gaps, as a data URI; None if it cannot be read."""
    try:
        with open_record(record, timeout_sec=_TIMEOUT_SEC) as reader:
            count = reader.info.num_frames
            at = np.linspace(0, count - 1, SPRITE_FRAMES).round().astype(int)
            frames = reader.frames(at)
    except (BadVideo, OSError):
        return None
    square = view_frames(frames, center_region(*frames.shape[1:3]), SPRITE_PX)
    return picture(np.concatenate(list(square), axis=1))


def picture(pixels: Frames) -> str:
    """Returns a JPEG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _resized(frame: Frames, height: int) -> Frames:
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)
