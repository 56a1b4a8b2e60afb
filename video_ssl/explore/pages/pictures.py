"""Pictures of the report as data URIs: strips of clips with what a mask hides, thumbnails of videos."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from video_ssl.clips.crops import center_region, view_frames
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record, open_whole
from video_ssl.datasets.table import Record, Table
from video_ssl.explore.alignment_video import frames_at
from video_ssl.objectives.shared.objective_plan import ObjectivePlan, ShownClip

Frames = NDArray[np.uint8]

#: What a hidden patch looks like, and the line around a box.
_HIDDEN = np.array([226, 230, 236], np.uint8)
_BOX = (255, 176, 0)
#: A record may give many views that differ little.
CLIPS_PER_RECORD = 2
_GAP_PX = 4
STRIP_FRAMES, STRIP_PX = 8, 112
SPRITE_FRAMES, SPRITE_PX = 8, 112
_TIMEOUT_SEC = 20.0


@dataclass(frozen=True, kw_only=True)
class ClipPicture:
    """A clip as training shows it: strips as data URIs.

    Attributes:
        name: what the clip is.
        original: the clip as the plan made it.
        visible: what the encoder sees of it; None = all of it.
        hidden_share: of its parts.
        predicted: what the network makes of what is hidden; None = nothing that can be looked at.
    """

    name: str
    original: str
    visible: str | None
    hidden_share: float
    predicted: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShownRecord:
    """A training video and the clips that a visit makes of it."""

    record: Record
    clips: list[ClipPicture]


#: What a network makes of the clips of a sample, uint8 (T, H, W, 3) each; None = nothing to look at.
Predict = Callable[[Mapping[str, np.ndarray]], Sequence[Frames] | None]


def training_clips(
    plan: ObjectivePlan,
    table: Table,
    *,
    seed: int,
    count: int,
    predict: Predict | None = None,
) -> tuple[list[ShownRecord], list[str]]:
    """Returns records with their clips, made by the plan of a run, and what could not be read.

    Args:
        plan: of the objective; it says which clips of a sample are to be seen.
        table: the training videos; `count` of them are taken at equal distances.
        seed: of the views and masks.
        predict: adds what the network makes of what is hidden.
    """
    made: list[ShownRecord] = []
    lost: list[str] = []
    if getattr(plan, "sound_alone", False):  # nothing is seen
        return made, lost
    for index in np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int):
        record = table.record(int(index))
        rng = np.random.default_rng((seed, int(index)))
        try:
            with open_record(record, timeout_sec=_TIMEOUT_SEC) as reader:
                sample = plan(record, reader, rng, 0.0)
        except (BadVideo, OSError) as err:
            lost.append(str(err))
            continue
        shown = plan.shown(sample)[:CLIPS_PER_RECORD]
        predicted = (predict(sample) if predict is not None else None) or ()
        pairs = itertools.zip_longest(shown, predicted[: len(shown)])
        clips = [clip_picture(clip, guess) for clip, guess in pairs]
        made.append(ShownRecord(record=record, clips=clips))
    return made, lost


def clip_picture(clip: ShownClip, predicted: Frames | None = None) -> ClipPicture:
    """Returns the strips of a clip: some of its frames, the same with what is hidden painted over, and as predicted."""
    count = len(clip.frames)
    chosen = np.linspace(0, count - 1, min(STRIP_FRAMES, count)).round().astype(int)
    scaled = np.stack([_resized(frame, STRIP_PX) for frame in clip.frames])
    if clip.boxes is not None:
        scaled = outline(scaled, clip.boxes)
    hidden = clip.hidden
    return ClipPicture(
        name=clip.name,
        original=picture(strip(scaled[chosen])),
        visible=None if hidden is None else picture(strip(hide(scaled, hidden)[chosen])),
        hidden_share=0.0 if hidden is None else float(hidden.mean()),
        predicted=None
        if predicted is None
        else picture(strip(np.stack([_resized(predicted[i], STRIP_PX) for i in chosen]))),
    )


def hide(video: Frames, hidden: NDArray[np.bool_]) -> Frames:
    """Returns the video (T, H, W, 3) with the parts painted over that `hidden` (t, h, w) says; see `ShownClip`."""
    t, h, w = (
        np.arange(length) * count // length
        for length, count in zip(video.shape[:3], hidden.shape, strict=True)
    )
    return np.where(hidden[t][:, h][:, :, w][..., None], _HIDDEN, video)


def outline(video: Frames, boxes: NDArray[np.floating]) -> Frames:
    """Returns the video (T, H, W, 3) with boxes (T, K, 4) drawn into it; see `ShownClip`."""
    drawn = video.copy()
    height, width = video.shape[1:3]
    for t, k in zip(*np.nonzero(np.isfinite(boxes).all(-1)), strict=True):
        image = Image.fromarray(drawn[t])
        corners = boxes[t, k] * [width, height, width, height]
        ImageDraw.Draw(image).rectangle(corners.tolist(), outline=_BOX, width=2)
        drawn[t] = np.asarray(image)
    return drawn


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


@dataclass(frozen=True, kw_only=True)
class MovingPicture:
    """Frames of a stretch of a video in a row, as a page plays them.

    Attributes:
        uri: all frames side by side without gaps, as a data URI.
        count: of frames.
        width, height: of one, in pixels.
    """

    uri: str
    count: int
    width: int
    height: int


def moving_picture(
    record: Record, start_sec: float, end_sec: float, *, count: int = 12, height: int = 120
) -> MovingPicture | None:
    """Returns frames spread over a stretch of a video, both ends among them; None if it cannot be read.

    Args:
        start_sec, end_sec: seconds of the source.
        height: of the frames in pixels; smaller videos stay as they are.
    """
    try:
        with open_whole(record, timeout_sec=_TIMEOUT_SEC) as reader:
            at = np.unique(frames_at(reader, np.linspace(start_sec, end_sec, count)))
            info = reader.info
            high = min(height, info.height)
            wide = max(1, round(info.width * info.pixel_aspect * high / info.height))
            frames = reader.frames(at, (high, wide))
    except (BadVideo, OSError):
        return None
    uri = picture(np.concatenate(list(frames), axis=1), quality=72)
    return MovingPicture(uri=uri, count=len(at), width=wide, height=high)


def picture(pixels: Frames, *, quality: int = 85) -> str:
    """Returns a JPEG as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _resized(frame: Frames, height: int) -> Frames:
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    image = Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(image)
