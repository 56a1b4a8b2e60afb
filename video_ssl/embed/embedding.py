"""The embedder: a table of videos and a frozen encoder become a feature file.

Nothing is random and no video is ever replaced: one that cannot be read is left out, listed with
its reason in the file, and named in the log.  What is in the file depends neither on the batch size
(beyond rounding) nor on the number of workers, nor on how often the job was interrupted: rows are
written as they come, and the same job goes on where it stopped (see `partial.py`).

One feature per frame (`per_frame`): every sampled frame of a video gets a feature of its own.
Windows of the encoder's clip length overlap by `overlap` (half, or nothing for encoders whose frame
features do not depend on the other frames), and a frame is taken from the window in whose middle it
lies best.  Where an encoder gives fewer moments than frames (tubelets), the feature of a frame is
the linear interpolation between the moments before and behind it.  Encoders of whole videos (CARL)
see all of a video at once, or in the fewest equal parts of at most their `max_frames` frames.  The
rows of the file are still windows; their `frame_features` hold only their own frames, so that those
of all rows of a record, one after the other, are the frames of the video (`FeatureFile.frames_of`).
"""

from __future__ import annotations

import functools
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from video_ssl import __version__
from video_ssl.clips.decoders.reader import ONLY_SOUND
from video_ssl.clips.sound_windows import SoundWindows
from video_ssl.clips.windows import WindowConfig
from video_ssl.datasets.table import Table
from video_ssl.embed.clips_of import clip_shape, windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureFile, open_features
from video_ssl.embed.grids import GridColumn
from video_ssl.embed.jobs import job_key, make_job, sense_job
from video_ssl.embed.meters import Reached, peak_memory_gib
from video_ssl.embed.partial import PartialFeatures
from video_ssl.embed.rates import rate_of
from video_ssl.embed.rows import RowCollector
from video_ssl.embed.text_windows import TextWindows
from video_ssl.embed.vector_columns import Column, VectorColumn
from video_ssl.embed.window_workers import Piece, WindowJob, describe, read_windows
from video_ssl.models.contract import CLIP, COMMON, MOMENTS, Encoder
from video_ssl.models.networks.layers import spatial_cells
from video_ssl.models.preprocess_config import described
from video_ssl.progress import duration_text, metered
from video_ssl.recipes import to_plain

logger = logging.getLogger(__name__)

#: Frames of a whole video that are turned into floating-point pixels at a time.
_PIECE = 32


class EmbeddingError(ValueError):
    """Videos that cannot be embedded as asked; the text says why."""


class Embedder:
    """Turns tables into feature files with one encoder.

    Args:
        encoder: as `open_encoder` gives it, of torch or flax.
        config: how.
        device: where the encoder runs.
        name: what the encoder is called in the file and in the log.

    Raises:
        EmbeddingError: the encoder has no such layer or pooling, or does not take such clips.
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
        try:
            self.windows = windows_for(encoder, self.config)
        except ValueError as err:
            raise EmbeddingError(f"{self.name}: {err}") from err
        self._shape = clip_shape(self.windows)
        self.outputs = self._outputs()
        if encoder.framework == "torch":  # the arrays of flax lie where they compute
            encoder.to(self.device)
        self.embed_dim = encoder.output_dim(CLIP, cells=self.config.cells, layer=self.config.layer)
        self._positions: dict[int, np.ndarray] = {}
        try:
            self.positions(self._shape[0])
            self.grids = self._grid_columns()
            self.columns: list[Column] = [*self._vector_columns(), *self.grids]
        except ValueError as err:
            raise EmbeddingError(f"{self.name} does not take such clips: {err}") from err

    @functools.cached_property
    def fingerprint(self) -> str:
        """That of the encoder; all weights are read for it."""
        return self.encoder.fingerprint

    def positions(self, num_frames: int) -> np.ndarray:
        """Returns where the moments of a clip lie, (T',), in units of its sampled frames, its samples or its words."""
        if num_frames not in self._positions:
            if len(self._positions) > 100:  # videos of many lengths, each seen whole
                self._positions.clear()
            self._positions[num_frames] = self.encoder.frame_positions(num_frames)
        return self._positions[num_frames]

    @property
    def batch_size(self) -> int:
        """Clips in one call of the encoder; whole videos have many lengths, so each is a batch of its own."""
        return 1 if self.windows.whole else self.config.batch_size

    def job(self, table: Table) -> dict[str, Any]:
        """Returns JSON that changes with whatever changes the features of a table, see `jobs.py`."""
        return make_job(
            self.fingerprint,
            self.config.content,
            table,
            captions=isinstance(self.windows, TextWindows),
            sound=isinstance(self.windows, SoundWindows),
        )

    def told(self, table: Table) -> dict[str, Any]:
        """Returns the part of `job` that is not of every encoder of this table."""
        text, sound = (isinstance(self.windows, kind) for kind in (TextWindows, SoundWindows))
        return sense_job(self.fingerprint, self.config.content, table, captions=text, sound=sound)

    def key(self, table: Table) -> str:
        """Returns 16 hexadecimal digits that change when `job` does."""
        return job_key(self.job(table))

    def embed(
        self, table: Table, out: str | Path, *, progress: bool = True, restart: bool = False
    ) -> FeatureFile:
        """Returns the features of all clips of a table, written to `out`.

        The file appears only when it is complete; until then its rows are in the folder OUT.partial,
        from which the same job goes on.  Memory holds one batch, the windows on their way from the
        workers, and the rows since the last commit (at most a few hundred).

        Args:
            restart: throw away what an interrupted job has left.

        Raises:
            EmbeddingError: no video could be read; or, with `strict`, one could not.
            FeatureError: a feature that is not finite, a full disk, or OUT.partial belongs to
                another job.
        """
        self.write(table, out, progress=progress, restart=restart)
        return open_features(out)

    def write(
        self,
        table: Table,
        out: str | Path,
        *,
        progress: bool = True,
        restart: bool = False,
        shard: Mapping[str, Any] | None = None,
    ) -> None:
        """Does what `embed` does.

        Args:
            shard: what the metadata say about the whole of which the table is a part; videos that cannot be read at
                all then give a file without rows.
        """
        write_side_by_side([self], table, [out], progress=progress, restart=restart, shard=shard)

    def begin(
        self, table: Table, out: Path, *, restart: bool, shard: Mapping[str, Any] | None
    ) -> PartialFeatures:
        """Returns the features of a table on their way to `out`, a context manager; see `write`."""
        job = self.job(table)
        metadata = self.metadata(table, job)
        return PartialFeatures(
            out,
            embed_dim=self.embed_dim,
            metadata=metadata if shard is None else {**metadata, "shard": dict(shard)},
            job=job,
            columns=self.columns,
            restart=restart,
        )

    def tell_beginning(self, table: Table, partial: PartialFeatures) -> None:
        """Says how large the features will be, and how many are there already."""
        self._tell_size(table, partial.out)
        if partial.state.records or partial.state.clips:
            logger.info(
                "%s: %d of %d videos are embedded already, %d clips in all",
                partial.out,
                partial.state.records,
                len(table),
                partial.num_rows,
            )

    def reading(self, table: Table, partial: PartialFeatures) -> WindowJob:
        """Returns what is to be decoded of what an interrupted job has not embedded yet."""
        return WindowJob(
            table=table,
            windows=self.windows,
            backend=self.config.backend,
            video_timeout_sec=self.config.video_timeout_sec,
            first_record=partial.state.records,
            first_window=partial.state.clips // self.windows.num_crops,
            check=self.config.check,
        )

    def rows(self, table: Table, partial: PartialFeatures) -> RowCollector:
        """Returns what turns the pieces of `reading` into rows of `partial`."""
        return RowCollector(
            self.forward,
            self.positions,
            table=table,
            batch_size=self.batch_size,
            num_crops=self.windows.num_crops,
            every=self.config.tokens_every,
            partial=partial,
        )

    def take(self, rows: RowCollector, piece: Piece, table: Table) -> None:
        """Hands the next windows of a record over.

        Raises:
            EmbeddingError: the record cannot be read, and the settings are `strict`.
        """
        rows.add(piece)
        if piece.last and piece.reason is None:
            rows.close_record()
        elif piece.last:
            rows.drop_record(piece.index, self._unreadable(table, piece))

    def finish(
        self,
        partial: PartialFeatures,
        table: Table,
        *,
        may_be_empty: bool,
        tell_skipped: bool = True,
    ) -> None:
        """Makes the feature file; says what of the table is not in it, unless others do.

        Raises:
            EmbeddingError: no video could be read, unless that may be.
        """
        if partial.num_rows == 0 and not may_be_empty:
            first = partial.skipped[0]
            partial.discard()
            more = ""
            if first["reason"] == ONLY_SOUND:
                more = " Recordings need an encoder of sound, such as RUN/encoders/sound of VATT."
            raise EmbeddingError(
                f"none of the {len(table)} videos could be read; the first: "
                f"{first['source']}: {first['reason'].rstrip('.')}.{more}"
            )
        partial.finish()
        if partial.skipped and tell_skipped:
            logger.warning(
                "%s: %d of %d videos could not be read and are not in the features; the first: %s: %s",
                partial.out,
                len(partial.skipped),
                len(table),
                partial.skipped[0]["source"],
                partial.skipped[0]["reason"],
            )

    def _unreadable(self, table: Table, piece: Piece) -> dict[str, Any]:
        entry = describe(table.record(piece.index), piece)
        if self.config.strict:
            raise EmbeddingError(
                f"{entry['source']} cannot be read: {(piece.reason or '').rstrip('.')}. With strict=false it would be "
                "left out and listed."
            )
        return entry

    def _outputs(self) -> tuple[str, ...]:
        """The outputs that are kept: moments only where the encoder has them, common ones always where it has them.

        Common spaces are trained on the encoder's last output only, so that an earlier layer has none.
        """
        config, there = self.config, self.encoder.output_names
        asked = tuple(name for name in config.names if name != MOMENTS or name in there)
        common = () if config.layer is not None else tuple(n for n in COMMON if n in there)
        names = tuple(dict.fromkeys((*asked, *common)))
        lacking = [name for name in names if name not in there]
        if lacking:
            raise EmbeddingError(
                f"{self.name} ({self.encoder.architecture}) has no output {lacking[0]!r}, only {', '.join(there)}: "
                "leave it out of outputs."
            )
        if config.per_frame and set(names) <= {CLIP, *COMMON}:
            raise EmbeddingError(
                f"{self.name} ({self.encoder.architecture}) has no features of frames: leave out per_frame."
            )
        try:
            self.encoder.check_outputs(names, layer=config.layer, pooling=config.pooling)
        except ValueError as err:
            raise EmbeddingError(f"{self.name}: {err}") from err
        return names

    def _vector_columns(self) -> list[VectorColumn]:
        """The columns of the outputs in common spaces."""
        common = (name for name in self.outputs if name in COMMON)
        return [VectorColumn(name=n, width=self.encoder.output_dim(n)) for n in common]

    def _grid_columns(self) -> list[GridColumn]:
        """The columns of the outputs on a grid."""
        config = self.config
        if not config.grids:
            return []
        _, h, w = self.encoder.token_grid(self._shape, layer=config.layer)
        if config.tokens_side is not None and config.tokens_side > min(h, w):
            raise ValueError(
                f"tokens_side={config.tokens_side} is finer than the {h} x {w} tokens of a moment. Give at most "
                f"{min(h, w)}."
            )
        return [
            GridColumn(
                name=name,
                width=self.encoder.output_dim(name, layer=config.layer),
                dtype=config.tokens_dtype,
            )
            for name in config.grids
        ]

    def _tell_size(self, table: Table, out: Path) -> None:
        """Says how large the outputs on a grid will be."""
        config, windows = self.config, self.windows
        if not self.grids:
            return
        t, h, w = self.encoder.token_grid(self._shape, layer=config.layer)
        side = (h, w) if config.tokens_side is None else (config.tokens_side,) * 2
        t = len(range(0, t, config.tokens_every))
        vector = sum(column.width * np.dtype(column.dtype).itemsize for column in self.grids)
        clip = t * side[0] * side[1] * vector
        message = f"{', '.join(config.grids)}: {t} x {side[0]} x {side[1]} vectors a clip, {clip / 2**20:.2f} MiB"
        if isinstance(windows, WindowConfig) and windows.per_frame:
            message = f"{', '.join(config.grids)}: {clip / t / 2**20:.2f} MiB a sampled frame"
        covering = config.per_frame or config.hop is not None or config.stride_sec is not None
        if covering or isinstance(windows, TextWindows):  # how many, only the records tell
            logger.info("%s: %s", out, message)
            return
        total = clip * windows.num_clips * windows.num_crops * len(table)
        free = shutil.disk_usage(out.absolute().parent).free
        logger.info("%s: %s, %.2f GiB in all", out, message, total / 2**30)
        if 2 * total > free:
            logger.warning(
                "%s: until the file is complete that is needed twice, and %.2f GiB are free. Think of tokens_side, "
                "tokens_every, or fewer clips.",
                out,
                free / 2**30,
            )

    def metadata(self, table: Table, job: dict[str, Any]) -> dict[str, Any]:
        """Returns what the feature file of a table and its `job` says about itself."""
        encoder, layer = self.encoder, self.config.layer
        return {
            "job": job,
            "encoder": {
                "name": self.name,
                "architecture": encoder.architecture,
                "framework": encoder.framework,
                "fingerprint": self.fingerprint,
                "config": to_plain(encoder.config),
                "source": encoder.source,
            },
            "preprocess": described(encoder.preprocess),
            "settings": self.config.content,
            "windows": {} if isinstance(self.windows, TextWindows) else to_plain(self.windows),
            "layer": "last" if layer is None else layer,
            "pooling": self.config.pooling,
            "table": {
                "path": str(table.path or ""),
                "records": len(table),
                "fps": rate_of(table),
            },
            "class_names": list(table.class_names),
            **({"phase_names": list(table.phase_names)} if table.phase_names else {}),
            "versions": {"video_ssl": __version__, "torch": torch.__version__},
        }

    def forward(self, video: np.ndarray) -> dict[str, np.ndarray]:
        """Returns "clip" (B, D'), "moments" (B, T', D'), common ones (B, D) and others (B, t, h, w, D) of clips as they
        are read."""
        config, names = self.config, self.outputs
        if self.windows.whole:  # float pixels of a long video would fill the memory
            pieces = (video[:, i : i + _PIECE] for i in range(0, video.shape[1], _PIECE))
            found = self.encoder.outputs_of_pieces(pieces, names, precision=config.precision)
        else:
            found = self.encoder.outputs_of_arrays(
                video,
                names,
                precision=config.precision,
                cells=config.cells,
                layer=config.layer,
                pooling=config.pooling,
            )
        for name in config.grids:
            found[name] = self._on_grid(found[name], video.shape[1:])
        return {name: found[name] for name in names}

    def _on_grid(self, tokens: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Tokens (B, L, D) of clips of a shape as (B, t, h, w, D), as far as they are kept."""
        grid = self.encoder.token_grid(shape, layer=self.config.layer)
        cells = tokens.reshape(len(tokens), *grid, tokens.shape[-1])
        cells, side = cells[:, :: self.config.tokens_every], self.config.tokens_side
        if side is None:
            return cells
        means = spatial_cells(torch.from_numpy(cells), side)
        return means.reshape(*cells.shape[:2], side, side, cells.shape[-1]).numpy()


def write_side_by_side(
    embedders: Sequence[Embedder],
    table: Table,
    outs: Sequence[str | Path],
    *,
    progress: bool = True,
    restart: bool = False,
    shard: Mapping[str, Any] | None = None,
    may_be_empty: bool = False,
    tell_skipped: bool = True,
) -> None:
    """Writes the features of a table by several encoders that see the same clips; every video is decoded once.

    The files are those that `Embedder.write` would write one after the other, and are resumed as they are.

    Args:
        embedders: with the same windows and the same settings of reading; nothing of their features is there yet, if
            they are several.
        outs: a feature file for each.
        progress, restart, shard: as `Embedder.write` takes them.
        may_be_empty: where no video can be read there is a file without rows, as of a shard.
        tell_skipped: warn of videos that are left out.

    Raises:
        EmbeddingError, FeatureError: see `Embedder.embed`.
    """
    names, started = ", ".join(embedder.name for embedder in embedders), time.perf_counter()
    with ExitStack() as stack:
        partials = [
            stack.enter_context(embedder.begin(table, Path(out), restart=restart, shard=shard))
            for embedder, out in zip(embedders, outs, strict=True)
        ]
        for embedder, partial in zip(embedders, partials, strict=True):
            embedder.tell_beginning(table, partial)
        jobs = [e.reading(table, partial) for e, partial in zip(embedders, partials, strict=True)]
        assert all(job == jobs[0] for job in jobs), (
            "encoders that see other clips, or stand elsewhere"
        )
        before, done = partials[0].num_rows, partials[0].state.records
        rows = [e.rows(table, partial) for e, partial in zip(embedders, partials, strict=True)]
        with metered(
            f"embedding with {names}", total=len(table), done=done, show=progress
        ) as meter:
            reached = Reached(meter)
            for piece in read_windows(jobs[0], embedders[0].config.num_workers):
                for embedder, own in zip(embedders, rows, strict=True):
                    embedder.take(own, piece, table)
                reached.note(piece)
            for own in rows:
                own.finish()
        made = partials[0].num_rows - before
        for embedder, partial in zip(embedders, partials, strict=True):
            may_be = may_be_empty or shard is not None
            embedder.finish(partial, table, may_be_empty=may_be, tell_skipped=tell_skipped)
    seconds = time.perf_counter() - started
    speed, (peak, decoder) = meter.speed(), peak_memory_gib()
    logger.info(
        "%s: %d clips in %s (%s), peak memory %.2f GiB, of a decoding process %.2f GiB",
        ", ".join(str(out) for out in outs),
        made,
        duration_text(seconds),
        speed or f"{made / seconds:.1f}/s",
        peak,
        decoder,
    )
