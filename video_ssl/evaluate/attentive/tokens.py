"""Where an attentive probe gets the tokens of a video from: a feature file, memory, or the video itself each time.

The tokens of a video are float16 (V, L, D): V views of it, L tokens each.  "together": the clips of a crop stand one
after the other in one sequence; "apart": every clip of every crop is a view.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.evaluate.context import Context
from video_ssl.models.contract import TOKENS

logger = logging.getLogger(__name__)

Tokens = NDArray[np.float16]
Layout = Literal["together", "apart"]
#: Half precision ends at 65504; no feature worth a head is that large.
_LARGEST = 6e4
_GIB = 2**30


class ClipTokens(Protocol):
    """The tokens of the clips of one video after the other."""

    #: Bytes of all of them in float16.
    num_bytes: int
    #: Where they come from, in words.
    origin: str

    def of_videos(self, videos: Sequence[int]) -> Iterator[Tokens]:
        """Yields the tokens of the clips of each of these videos, float16 (clips, N, D)."""


class StoredTokens:
    """Those of a feature file."""

    origin = "read from the feature file"

    def __init__(self, file: FeatureFile) -> None:
        spec = file.require(TOKENS)
        if spec.per_clip is None:
            raise FeatureError(
                f"{file.path or 'the features'}: clips have different numbers of tokens, which do not go into one "
                "batch. Embed windows of one length (without per_frame)."
            )
        self.file, self.rows = file, rows_of_videos(file)
        self.num_bytes = 2 * len(file) * spec.per_clip * spec.width

    def of_videos(self, videos: Sequence[int]) -> Iterator[Tokens]:
        """See `ClipTokens`."""
        for video in videos:
            yield _half(self.file.read(TOKENS, self.rows[video]))


class LiveTokens:
    """Those that the encoder makes of the videos, read as they were for the clip features."""

    origin = "made by the encoder from the videos"

    def __init__(
        self, given: Context, split: str, file: FeatureFile, *, frame_positions: bool = False
    ) -> None:
        """
        Args:
            given: with encoder and tables.
            split: whose tokens.
            file: the features of its clips.
            frame_positions: add to tokens a code of the frame that they begin with, see `with_frame_codes`.
        """
        assert given.encoder is not None
        self.frame_positions = frame_positions
        windows = windows_for(given.encoder, given.settings)
        if not isinstance(windows, WindowConfig):
            raise FeatureError("an attentive probe needs an encoder of videos.")
        self.given, self.windows, self.encoder = given, windows, given.encoder
        self.table = given.tables[split]
        place = {record_id: row for row, record_id in enumerate(self.table.column("id"))}
        first, _ = file.records
        self.records = [place[record_id] for record_id in file.ids[first]]
        self.rows = rows_of_videos(file)
        shape = (windows.num_frames, windows.size, windows.size, 3)
        layer = given.settings.layer
        grid = self.encoder.token_grid(shape, layer=layer)
        self.moments = grid[0]
        width = self.encoder.output_dim(TOKENS, layer=layer)
        self.num_bytes = 2 * len(file) * int(np.prod(grid)) * width

    def of_videos(self, videos: Sequence[int]) -> Iterator[Tokens]:
        """See `ClipTokens`.  Decodes some videos ahead.

        Raises:
            FeatureError: a video that could be read for the clip features cannot be read any more, or differs.
        """
        ahead = max(1, self.given.settings.num_workers)
        with ThreadPoolExecutor(ahead) as threads:
            for start in range(0, len(videos), ahead):
                piece = videos[start : start + ahead]
                for clips, frames in threads.map(self._clips, piece):
                    yield self._tokens(clips, frames)

    def _clips(self, video: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The clips of a video, and the source frames (clips, T) that they show."""
        record = self.table.record(self.records[video])
        try:
            with self.given.open(record) as reader:
                found = list(iterate_windows(record, reader, self.windows))
        except BadVideo as err:
            raise FeatureError(f"{err}, although it could be read before: start again.") from err
        clips: NDArray[np.uint8] = np.concatenate([window.clips for window in found])
        frames = np.stack([w.indices for w in found]).repeat(self.windows.num_crops, axis=0)
        if len(clips) != len(self.rows[video]):
            raise FeatureError(
                f"{record.source} has {len(clips)} clips, but {len(self.rows[video])} when it was embedded: it has "
                "changed since. Start again."
            )
        return clips, frames

    def _tokens(self, clips: NDArray[np.uint8], frames: NDArray[np.int64]) -> Tokens:
        settings, made = self.given.settings, []
        tubelet = self.windows.num_frames // self.moments
        for start in range(0, len(clips), settings.batch_size):
            arrays = self.encoder.outputs_of_arrays(
                clips[start : start + settings.batch_size],
                [TOKENS],
                precision=settings.precision,
                layer=settings.layer,
            )
            tokens = arrays[TOKENS]
            if self.frame_positions:
                own = frames[start : start + settings.batch_size, : tubelet * self.moments]
                tokens = with_frame_codes(tokens, own[:, ::tubelet])
            made.append(_half(tokens))
        return np.concatenate(made)


class VideoTokens:
    """The tokens of the videos of a split as the heads take them.

    Args:
        source: of the tokens of clips.
        num_crops: of every window of a video; the rows of a window stand side by side.
        layout: see the head of this file.
        room: bytes that may be kept; more are asked of `source` whenever they are needed.
    """

    def __init__(self, source: ClipTokens, *, num_crops: int, layout: Layout, room: int) -> None:
        self.source, self.num_crops, self.layout = source, num_crops, layout
        self.kept: dict[int, Tokens] | None = {} if source.num_bytes <= room else None

    @property
    def told(self) -> str:
        """Where tokens come from, and whether they are kept, in words."""
        size = f"{self.source.num_bytes / _GIB:.3g} GiB of tokens, {self.source.origin}"
        kept = (
            "kept in memory"
            if self.kept is not None
            else "too many to keep: anew whenever they are needed"
        )
        return f"{size}, {kept}"

    def batches(self, videos: Sequence[int], size: int) -> Iterator[tuple[list[int], Tokens]]:
        """Yields some of the videos, and their tokens (B, V, L, D); about `size` sequences in a batch.

        Raises:
            FeatureError: videos with different numbers of clips.
        """
        ahead: list[int] = []
        found: list[Tokens] = []
        for video, tokens in zip(videos, self._of_videos(videos), strict=True):
            ahead.append(video)
            found.append(tokens)
            if len(found) * len(tokens) >= size:
                yield ahead, _stacked(found)
                ahead, found = [], []
        if found:
            yield ahead, _stacked(found)

    def _of_videos(self, videos: Sequence[int]) -> Iterator[Tokens]:
        if self.kept is None:
            yield from map(self._laid_out, self.source.of_videos(videos))
            return
        missing = iter(self.source.of_videos([v for v in videos if v not in self.kept]))
        for video in videos:
            if video not in self.kept:
                self.kept[video] = self._laid_out(next(missing))
            yield self.kept[video]

    def _laid_out(self, clips: Tokens) -> Tokens:
        """(windows * crops, N, D) -> (V, L, D)"""
        if self.layout == "apart":
            return clips
        windows = clips.reshape(-1, self.num_crops, *clips.shape[1:])
        swapped: Tokens = windows.swapaxes(0, 1)
        return swapped.reshape(self.num_crops, -1, clips.shape[-1])


def rows_of_videos(file: FeatureFile) -> list[NDArray[np.intp]]:
    """Returns the rows of every video of a feature file, in order of first appearance."""
    first, index = file.records
    return [np.flatnonzero(index == video) for video in range(len(first))]


def with_frame_codes(
    tokens: NDArray[np.floating], frames: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Returns float32 (B, N, D): tokens with the sin-cos code of the source frame that their moment begins with added.

    Code of frame p: sin(p w_i), then cos(p w_i), w_i = 10000^(-2 i / D), i = 0 .. D/2 - 1.

    Args:
        tokens: (B, N, D), moment by moment; D is even.
        frames: int (B, t), the first frame of each moment, counted in the video; t divides N.

    Source: papers/frozen_protocols.md section 1; an option of the reference that no published config uses.

    Raises:
        ValueError: an odd width.
    """
    width = tokens.shape[-1]
    if width % 2:
        raise ValueError(f"codes of frames need an even width, but tokens have {width} numbers.")
    rates = 10000.0 ** -(np.arange(width // 2) / (width // 2))
    angles = frames[..., None].astype(np.float64) * rates
    codes = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).astype(np.float32)
    return tokens.astype(np.float32) + codes.repeat(tokens.shape[1] // frames.shape[1], axis=1)


def _half(tokens: NDArray[np.floating]) -> Tokens:
    return np.clip(tokens, -_LARGEST, _LARGEST).astype(np.float16)


def _stacked(found: list[Tokens]) -> Tokens:
    shapes = {tokens.shape for tokens in found}
    if len(shapes) > 1:
        raise FeatureError(
            f"videos have different numbers of clips or tokens ({sorted(shapes)}), which do not go into one batch. "
            "Embed as many clips of every video: embed.num_clips, without hop, stride_sec and per_frame."
        )
    return np.stack(found)
