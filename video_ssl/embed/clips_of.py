"""Which clips of a record are embedded: what the encoder was made for, where the settings do not say otherwise.

video   windows of frames, see `WindowConfig`
sound   windows of samples: `num_clips`, or one every `stride_sec`; `per_frame` covers all of it at the pace that
        the encoder names
text    all captions
"""

from __future__ import annotations

from dataclasses import fields, replace

from video_ssl.clips.sound_windows import SoundWindows
from video_ssl.clips.windows import WindowConfig
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.text_windows import TextWindows
from video_ssl.embed.window_workers import AnyWindows
from video_ssl.models.contract import Encoder
from video_ssl.models.preprocess_config import AnyText, SoundPreprocess, VideoPreprocess

_OF_FRAMES = (
    "hop",
    "overlap",
    "num_frames",
    "frame_stride",
    "fps",
    "sampling",
    "crop",
    "center_share",
    "num_crops",
    "cells",
)
_OF_TIME = ("stride_sec", "per_frame", "num_clips")


def windows_for(encoder: Encoder, config: EmbedConfig) -> AnyWindows:
    """Returns the windows of the records that an encoder is given.

    Raises:
        ValueError: a setting of frames for an encoder of sound or text, of time for one of text.
    """
    pre = encoder.preprocess
    if isinstance(pre, AnyText):
        _refuse(config, (*_OF_FRAMES, *_OF_TIME), "text, of which all captions are embedded")
        return TextWindows(words=pre)
    if isinstance(pre, SoundPreprocess):
        _refuse(config, _OF_FRAMES, "sound: use num_clips, stride_sec or per_frame")
        return _sound_windows(pre, config)
    return _video_windows(encoder, pre, config)


def clip_shape(windows: AnyWindows) -> tuple[int, ...]:
    """Returns the shape of a clip as it is read: (T, H, W, 3), (N,) or (L,)."""
    if isinstance(windows, TextWindows):
        return (windows.words.length,)
    if isinstance(windows, SoundWindows):
        return (windows.num_samples,)
    return (windows.num_frames, windows.size, windows.size, 3)


def _video_windows(encoder: Encoder, pre: VideoPreprocess, config: EmbedConfig) -> WindowConfig:
    windows = config.windows(
        num_frames=pre.num_frames,
        frame_stride=pre.frame_stride,
        fps=pre.fps,
        sampling=pre.sampling,
        shuffle_frames=pre.shuffle_frames,
        **pre.scaling(),
    )
    asked = config.num_frames is not None or config.overlap is not None
    most = encoder.max_frames
    if config.per_frame and most is not None and not asked:
        return replace(windows, whole=True, num_frames=most)
    if config.per_frame and config.overlap is None and encoder.frames_stand_alone:
        return replace(windows, overlap=0.0)
    return windows


def _sound_windows(pre: SoundPreprocess, config: EmbedConfig) -> SoundWindows:
    hop = None
    if config.per_frame:
        hop = pre.hop or pre.num_samples
    elif config.stride_sec is not None:
        hop = max(1, round(config.stride_sec * pre.rate))
    return SoundWindows(
        rate=pre.rate,
        num_samples=pre.num_samples,
        num_clips=1 if hop else config.num_clips,
        hop=hop,
    )


def _refuse(config: EmbedConfig, names: tuple[str, ...], what: str) -> None:
    usual = {field.name: field.default for field in fields(EmbedConfig)}
    given = [
        f"{name}={getattr(config, name)!r}"
        for name in names
        if getattr(config, name) != usual[name]
    ]
    if given:
        raise ValueError(f"{', '.join(given)} goes with videos, but it takes {what}.")
