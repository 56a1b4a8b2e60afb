"""What the loader is compared with, on the same frames: a plain loop as in other code, and decoding alone."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from video_ssl.clips.crops import Region, ViewRequest
from video_ssl.clips.decoders.reader import Reader
from video_ssl.datasets.parts import divide_parts

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One view that a plan requested: which frames, which region (None: all of it), which size (None: as it is)."""

    indices: np.ndarray
    region: Region | None
    size: tuple[int, int] | None

    def moved(self, first: int) -> Shown:
        """The same, counted from the start of the file instead of a segment that begins at frame `first`."""
        return replace(self, indices=self.indices + first)


class RecordingReader:
    """A reader that notes what is requested and calls `clock(name)` around the work."""

    def __init__(self, reader: Reader, clock: Callable[[str], Any]) -> None:
        self._reader, self._clock = reader, clock
        self.info = reader.info
        self.asked: list[Shown] = []
        if getattr(reader, "views", None) is not None:
            self.views = self._views

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        self.asked.append(Shown(indices=np.asarray(indices), region=None, size=size))
        with self._clock("decode"):
            return self._reader.frames(indices, size)

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        with self._clock("decode"):
            return self._reader.audio(start_sec, end_sec, rate)

    def _views(self, requests: Sequence[ViewRequest]) -> None:
        self.asked += [
            Shown(indices=r.indices, region=r.region, size=(r.out.shape[1], r.out.shape[2]))
            for r in requests
        ]
        with self._clock("decode"):
            self._reader.views(requests)  # type: ignore[attr-defined]


def plain_decoder() -> str:
    """Returns "decord", or "pyav" where it is not installed."""
    return "decord" if importlib.util.find_spec("decord") else "pyav"


@dataclass(frozen=True, eq=False)
class Files:
    """The files of a video, one or several in a row, and how many frames each has, which loops over files must know."""

    paths: tuple[str, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, source: str) -> Files:
        """Returns the files of a source.

        Raises:
            ValueError: one that is no file by itself: other loops cannot open it.
        """
        paths = tuple(divide_parts(source))
        for path in paths:
            if not os.path.isfile(path):
                raise ValueError(
                    f"{path} is no file by itself (a member of a tar, a record of a shard, a folder of frames or a "
                    "URI), and the plain loop and decoding alone read files: give a table of files, or --footage easy."
                )
        counts = tuple(_times(path)[0].size if len(paths) > 1 else 0 for path in paths)
        return cls(paths, counts)

    def divided(self, indices: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """Yields every file of which frames are wanted, and which of it, in the order they are wanted in."""
        if len(self.paths) == 1:
            yield self.paths[0], indices
            return
        first = np.cumsum((0, *self.counts[:-1]))
        part = np.searchsorted(first, indices, side="right") - 1
        for begin, end in itertools.pairwise(
            [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(indices)]
        ):
            number = int(part[begin])
            yield self.paths[number], indices[begin:end] - first[number]


def plain_loop(files: Files, asked: Sequence[Shown]) -> list[torch.Tensor]:
    """Returns the views as the loaders of the field make them: float32 (C, T, H, W), normalised, per clip.

    Of a video in several files those with wanted frames are opened in turn.  All frames of a file are decoded in one
    call (decord by path, one thread; PyAV for files that decord gives up on), each made a PIL image, cropped,
    resized (bilinear), put into one array, divided by 255 and normalised in torch.  No masks are drawn.
    """
    wanted = np.concatenate([shown.indices for shown in asked])
    clips = np.split(
        np.concatenate([_decode_all(path, indices) for path, indices in files.divided(wanted)]),
        np.cumsum([len(shown.indices) for shown in asked])[:-1],
    )
    return [_plain_view(frames, shown) for frames, shown in zip(clips, asked, strict=True)]


def _decode_all(path: str, indices: np.ndarray) -> np.ndarray:
    if plain_decoder() == "decord":
        import decord

        with contextlib.suppress(
            decord.DECORDError, IndexError
        ):  # codecs it does not know, turned files, ...
            reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
            return np.asarray(reader.get_batch(indices.tolist()).asnumpy())
    wanted, pictures = set(indices.tolist()), {}
    with av.open(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                pictures[index] = frame.to_ndarray(format="rgb24")
            if len(pictures) == len(wanted):
                break
    return np.stack([pictures[index] for index in indices.tolist()])


def _plain_view(frames: np.ndarray, shown: Shown) -> torch.Tensor:
    images = [Image.fromarray(frame) for frame in frames]
    if shown.region is not None:
        r = shown.region
        images = [im.crop((r.left, r.top, r.left + r.width, r.top + r.height)) for im in images]
    if shown.size is not None:
        size = shown.size[::-1]
        images = [im.resize(size, Image.Resampling.BILINEAR) for im in images]
    pixels = torch.from_numpy(np.stack([np.asarray(im) for im in images]))
    clip = pixels.permute(3, 0, 1, 2).contiguous().float().div(255)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (_MEAN, _STD))
    return (clip - mean) / std


class Floor:
    """Decoding alone with PyAV, one thread: open, seek, decode, convert nothing, keep nothing.

    `necessary` leaves out pictures that are neither wanted nor referenced by others (H.264, HEVC); otherwise every
    frame from the key frame to the last wanted one is decoded, as decoders do by themselves.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._pts, self._keys = _times(path)

    def decode(self, indices: np.ndarray, *, necessary: bool) -> int:
        """Decodes what must be decoded to get the frames; returns how many of them came out."""
        wanted = self._pts[np.unique(indices)]
        came = 0
        with av.open(self.path) as container:
            stream = container.streams.best("video")
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            for key, run in self._runs(wanted):
                container.seek(int(key), stream=stream, backward=True)
                came += _decode_run(container, stream, set(run), necessary)
        return came

    def _runs(self, wanted: np.ndarray) -> Iterator[tuple[int, list[int]]]:
        """(key frame, times to decode from it); the next key frame is sought if it lies between two wanted frames."""
        keys = self._keys[np.maximum(np.searchsorted(self._keys, wanted, side="right") - 1, 0)]
        for key in np.unique(keys):
            yield int(key), wanted[keys == key].tolist()


def _times(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Times of all frames and of the key frames, sorted, in ticks of the file."""
    with av.open(path) as container:
        packets = [
            (p.pts, p.is_keyframe)
            for p in container.demux(container.streams.best("video"))
            if p.size and p.pts is not None and not p.is_discard
        ]
    pts = np.sort(np.array([pts for pts, _ in packets]))
    return pts, np.sort(np.array([pts for pts, is_key in packets if is_key]))


def _decode_run(container: Any, stream: Any, left: set[int], necessary: bool) -> int:
    context, count, sent = stream.codec_context, 0, 0
    total, skipping = len(left), False
    for packet in container.demux(stream):
        if packet.size == 0:
            break
        if necessary and skipping == (packet.pts in left):
            skipping = not skipping
            context.skip_frame = "NONREF" if skipping else "DEFAULT"
        sent += packet.pts in left
        count += sum(frame.pts in left for frame in context.decode(packet))
        if sent == total:
            break
    count += sum(frame.pts in left for frame in context.decode(None))
    context.skip_frame = "DEFAULT"
    context.flush_buffers()
    return count
