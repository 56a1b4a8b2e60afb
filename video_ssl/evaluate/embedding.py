"""The embedder: a table of videos and a frozen encoder become a feature file.

Nothing is random and no video is ever replaced: one that cannot be read is left out, listed with
its reason in the file, and told in the log.  What is in the file depends neither on the batch size
(beyond rounding) nor on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_ssl import __version__
from video_ssl.clips.windows import Window, WindowConfig, feature_times, feature_valid
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record, Table
from video_ssl.evaluate.features import FeatureFile, FeatureWriter, open_features
from video_ssl.evaluate.window_workers import Job, describe, read_windows
from video_ssl.models.config import Normalization
from video_ssl.models.encoders import Encoder, fingerprint, load_encoder
from video_ssl.models.preprocess import to_model_input
from video_ssl.recipes import to_plain

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
_ROWS = 256  # rows of one record batch


class EmbeddingError(ValueError):
    """Videos that cannot be embedded as asked; the text says why."""


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How videos become features.

    Attributes:
        num_clips: windows spread evenly over a video.
        hop: source frames between windows that cover all of a video; replaces `num_clips`.
        crop, num_crops: see `WindowConfig`; every crop of every window is a row of its own.
        cells: features are the means of cells x cells parts of the frame, side by side; 1 = of the
            whole frame, as usual for frozen ViTs; 2 keeps a trace of where things are.
        frames: keep the frame features, not only the clip feature.
        precision: of the encoder's products; features are always stored as float32.
        batch_size: clips in one forward pass.
        num_workers: decoding processes; 0 decodes in this one.
        video_timeout_sec: a video that takes longer counts as unreadable; null waits forever.
        strict: one unreadable video is an error.
    """

    num_clips: int = 2
    hop: int | None = None
    crop: Literal["center", "spread"] = "center"
    num_crops: int = 1
    cells: int = 1
    frames: bool = True
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: int = 16
    num_workers: int = 2
    backend: str = "pyav"
    video_timeout_sec: float | None = 120.0
    strict: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.cells < 1 or self.num_workers < 0:
            raise ValueError(
                f"batch_size={self.batch_size} and cells={self.cells} must be at least 1 and "
                f"num_workers={self.num_workers} at least 0."
            )
        WindowConfig(
            num_clips=self.num_clips, hop=self.hop, crop=self.crop, num_crops=self.num_crops
        )

    @property
    def content(self) -> dict[str, Any]:
        """The settings that change the features, and not only how fast they come."""
        names = ("num_clips", "hop", "crop", "num_crops", "cells", "frames", "precision", "backend")
        return {name: getattr(self, name) for name in names}


class Embedder:
    """Turns tables into feature files with one encoder.

    Args:
        encoder: as `load_encoder` gives it.
        config: how.
        device: where the encoder runs.
        name: what the encoder is called in the file and in the log.
    """

    def __init__(
        self,
        encoder: Encoder,
        config: EmbedConfig | None = None,
        *,
        device: str | torch.device = "cpu",
        name: str = "",
    ) -> None:
        self.encoder = encoder
        self.config = config or EmbedConfig()
        self.device = torch.device(device)
        self.name = name or encoder.architecture
        self.fingerprint = fingerprint(encoder)
        encoder.to(self.device)

    def key(self, table: Table) -> str:
        """Returns 16 hexadecimal digits that change with whatever changes the features of a table:
        the encoder, the settings, the records, or the size of a video file."""
        about = [FORMAT_VERSION, self.fingerprint, self.config.content]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        digest.update(table_fingerprint(table).encode())
        return digest.hexdigest()[:16]

    def embed(self, table: Table, out: str | Path, *, progress: bool = True) -> FeatureFile:
        """Returns the features of all clips of a table, written to `out`.

        The file appears only when it is complete.  Memory holds one batch, and the feature rows of
        one video.

        Raises:
            EmbeddingError: no video could be read; or, with `strict`, one could not.
            FeatureError: a feature that is not finite.
        """
        out = Path(out)
        started = time.perf_counter()
        job = Job(
            table=table,
            windows=self._windows(),
            backend=self.config.backend,
            video_timeout_sec=self.config.video_timeout_sec,
        )
        writer = FeatureWriter(
            out,
            embed_dim=self.encoder.feature_dim(self.config.cells),
            metadata=self._metadata(table),
        )
        with writer, _bar(f"{self.name}: {len(table)} videos", len(table), progress) as advance:
            batch = _Batch(self, table, writer)
            for piece in read_windows(job, self.config.num_workers):
                batch.add(piece.index, piece.windows)
                if piece.last:
                    self._end_of_record(batch, piece.index, piece.reason)
                    advance()
            batch.finish()
            if writer.num_rows == 0:
                raise EmbeddingError(
                    f"none of the {len(table)} videos could be read; the first: "
                    f"{writer.skipped[0]['source']}: {writer.skipped[0]['reason']}."
                )
        seconds = time.perf_counter() - started
        rate = writer.num_rows / seconds
        logger.info("%s: %d clips in %.1f s (%.1f/s)", out, writer.num_rows, seconds, rate)
        if writer.skipped:
            logger.warning(
                "%s: %d of %d videos could not be read and are not in the features; the first: %s: %s",
                out,
                len(writer.skipped),
                len(table),
                writer.skipped[0]["source"],
                writer.skipped[0]["reason"],
            )
        return open_features(out)

    def _end_of_record(self, batch: _Batch, index: int, reason: str | None) -> None:
        if reason is None:
            batch.close_record()
            return
        entry = describe(batch.table.record(index), reason)
        if self.config.strict:
            raise EmbeddingError(
                f"{entry['source']} cannot be read: {reason}. With strict=false it would be left "
                "out and listed."
            )
        batch.drop_record(entry)

    def _windows(self) -> WindowConfig:
        """The clips that the encoder was made for, in the number that is asked for."""
        pre, config = self.encoder.preprocess, self.config
        return WindowConfig(
            num_frames=pre.num_frames,
            frame_stride=pre.frame_stride,
            fps=pre.fps,
            size=pre.size,
            num_clips=config.num_clips,
            hop=config.hop,
            crop=config.crop,
            num_crops=config.num_crops,
        )

    def _metadata(self, table: Table) -> dict[str, Any]:
        encoder = self.encoder
        return {
            "encoder": {
                "name": self.name,
                "architecture": encoder.architecture,
                "fingerprint": self.fingerprint,
                "config": to_plain(encoder.config),
                "source": encoder.source,
            },
            "preprocess": to_plain(encoder.preprocess),
            "settings": self.config.content,
            "layer": "last",
            "table": {"path": str(table.path or ""), "records": len(table)},
            "class_names": list(table.class_names),
            "versions": {"video_ssl": __version__, "torch": torch.__version__},
        }

    @torch.inference_mode()
    def forward(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns clip and frame features, (B, D') and (B, T', D'), of uint8 (B, T, H, W, 3)."""
        pre = self.encoder.preprocess
        pixels = torch.from_numpy(video).to(self.device, non_blocking=True)
        x = to_model_input(pixels, Normalization(mean=pre.mean, std=pre.std))
        half = self.config.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            clips, frames = self.encoder.features(x, self.config.cells)
        return (
            clips.float().cpu().numpy(),
            frames.float().cpu().numpy() if self.config.frames else None,
        )


class _Batch:
    """Collects windows of successive records into batches, and rows of one record until it ends."""

    def __init__(self, embedder: Embedder, table: Table, writer: FeatureWriter) -> None:
        self.embedder, self.table, self.writer = embedder, table, writer
        self.positions = embedder.encoder.frame_positions(embedder.encoder.preprocess.num_frames)
        self.waiting: list[tuple[Record, int, np.ndarray, Window]] = []
        self.ready: list[dict[str, Any]] = []  # rows, in order; those of the open record come last
        self.record: Record | None = None
        self.clips = 0  # clips of the open record so far

    def add(self, index: int, windows: tuple[Window, ...]) -> None:
        if self.record is None:
            self.record, self.clips = self.table.record(index), 0
        for window in windows:
            for video in window.video:
                self.waiting.append((self.record, self.clips, video, window))
                self.clips += 1
                if len(self.waiting) == self.embedder.config.batch_size:
                    self._embed()

    def close_record(self) -> None:
        self.record = None
        if len(self.ready) >= _ROWS:
            self._write()

    def drop_record(self, entry: dict[str, Any]) -> None:
        self.waiting = [item for item in self.waiting if item[0] is not self.record]
        self.ready = [row for row in self.ready if row["record"] is not self.record]
        self.record = None
        self.writer.skipped.append(entry)

    def finish(self) -> None:
        self._embed()
        self._write()

    def _embed(self) -> None:
        if not self.waiting:
            return
        clips, frames = self.embedder.forward(np.stack([video for _, _, video, _ in self.waiting]))
        for place, (record, number, _, window) in enumerate(self.waiting):
            moments = None if frames is None else frames[place]
            self.ready.append(_row(record, number, window, clips[place], moments, self.positions))
        self.waiting = []

    def _write(self) -> None:
        self.writer.write(self.ready)
        self.ready = []


def _row(
    record: Record,
    number: int,
    window: Window,
    clip: np.ndarray,
    moments: np.ndarray | None,
    positions: np.ndarray,
) -> dict[str, Any]:
    """The row of one clip; moments that show only the filling of a short video are left out."""
    origin = record.start_sec or 0.0
    times = window.times + origin
    row: dict[str, Any] = {
        "record": record,
        "id": record.id,
        "clip": number,
        "label": record.label,
        "group": record.group,
        "start_sec": float(times[0]),
        "end_sec": float(times[window.valid].max()),
        "feature": clip,
    }
    if moments is not None:
        shown = feature_valid(window.valid, positions)
        row["frame_features"] = moments[shown]
        row["frame_times_sec"] = feature_times(times, positions)[shown]
        row["frame_labels"] = _labels_at(record, row["frame_times_sec"])
    return row


def _labels_at(record: Record, times: np.ndarray) -> np.ndarray | None:
    """The label of the source frame shown at each time; None where frames cannot be placed."""
    labels = record.frame_labels
    if labels is None or not len(labels) or not record.fps or record.start_sec is not None:
        return None
    index = np.floor(times * record.fps + 1e-6).astype(np.int64)
    return np.asarray(labels[index.clip(0, len(labels) - 1)], np.int16)


def table_fingerprint(table: Table) -> str:
    """Returns 16 hexadecimal digits that change with the records or the size of a video file."""
    digest = hashlib.sha256(json.dumps(list(table.class_names)).encode())
    for index in range(len(table)):
        record = table.record(index)
        try:
            size = os.stat(record.source).st_size
        except OSError:
            size = -1
        known = [record.id, record.source, record.start_sec, record.end_sec, record.label]
        digest.update(json.dumps([*known, record.group, record.fps, size]).encode())
        if record.frame_labels is not None:
            digest.update(record.frame_labels.tobytes())
    return digest.hexdigest()[:16]


def embed_table(
    encoder: str,
    table: str,
    out: str | Path,
    *,
    device: str = "auto",
    **settings: Any,
) -> FeatureFile:
    """Returns the features of a table named by a text, written to `out`.

    Args:
        encoder: see `load_encoder`.
        table: see `open_table`.
        settings: fields of `EmbedConfig`.
    """
    where = pick_device(device)
    embedder = Embedder(
        load_encoder(encoder, where), EmbedConfig(**settings), device=where, name=encoder
    )
    return embedder.embed(open_table(table), out)


def pick_device(name: str) -> torch.device:
    """Returns the device of a name; `auto` is the accelerator where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@contextmanager
def _bar(text: str, total: int, shown: bool) -> Iterator[Any]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    disable = not (shown and console.is_terminal)
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=disable) as bar:
        task = bar.add_task(text, total=total)
        yield lambda: bar.advance(task)
