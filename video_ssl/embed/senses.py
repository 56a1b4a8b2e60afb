"""A feature file of several senses: what is seen, heard and told of the videos of a table, by the encoders of one run.

Each sense is embedded as into a file of its own, and as that is resumed where it was stopped; when all are there, one
file is made of them, with a row for each clip of a video (see `sense_columns.py`).

    OUT.partial/job.json       of all senses together
    OUT.partial/video.arrow    complete features of one sense; sound.arrow and text.arrow where they are asked for
    OUT.partial/video.arrow.partial/    those on their way, see `partial.py`
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError, write_side_by_side
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.embed.job_folder import JobFolder
from video_ssl.embed.jobs import job_changes, listed
from video_ssl.embed.open_encoder import open_encoder, partner_spec
from video_ssl.embed.partial import part_name
from video_ssl.embed.sense_columns import SHARED_METADATA, SenseColumns, SenseRows
from video_ssl.models.contract import COMMON, COMMON_WITH, Encoder
from video_ssl.models.encoders import EncoderError
from video_ssl.models.preprocess_config import MODALITIES, Modality, SoundPreprocess
from video_ssl.pretrain.processes import choose_device
from video_ssl.recipes import nearest

logger = logging.getLogger(__name__)

ALL = "all"


def parse_senses(senses: str | Sequence[str] | None) -> tuple[str, ...]:
    """Returns the senses beside video that are asked for, each once; `all` stands for those that there are.

    Raises:
        EmbeddingError: another name, or `all` beside others.

    >>> parse_senses("video, sound,text"), parse_senses("all"), parse_senses(None)
    (('sound', 'text'), ('all',), ())
    """
    if senses is None:
        return ()
    given = senses.split(",") if isinstance(senses, str) else senses
    names = tuple(dict.fromkeys(name.strip() for name in given if name.strip()))
    for name in names:
        if name not in (*MODALITIES, ALL):
            raise EmbeddingError(
                f"senses={name!r}: allowed are {', '.join(MODALITIES)}, with commas between, or {ALL}."
                f"{nearest(name, (*MODALITIES, ALL))}"
            )
    if not names or (ALL in names and len(names) > 1):
        raise EmbeddingError(
            f"senses={','.join(names)!r}: name some of {', '.join(MODALITIES)}, or {ALL} alone."
        )
    return tuple(name for name in names if name != "video")


def make_embedder(
    encoder: str,
    config: EmbedConfig,
    device: str,
    senses: str | Sequence[str] | None = None,
) -> Embedder | SensesEmbedder:
    """Returns what embeds a table with an encoder, and with those of other senses of the same run.

    Args:
        encoder: as `open_encoder` takes it.
        config: of the video; see `sense_settings` for the others.
        device: auto, cpu, ...
        senses: as `parse_senses` takes them.

    Raises:
        EmbeddingError: see `parse_senses`; the encoder is not one of video; the run has no such encoder; or settings
            that say nothing of sound.
        EncoderError: see `open_encoder`.
    """
    names = parse_senses(senses)
    where = choose_device(device)
    opened = open_encoder(encoder, device)
    own = Embedder(opened, config, device=where, name=encoder)
    if not names:
        return own
    if opened.preprocess.modality != "video":
        raise EmbeddingError(
            f"{encoder} is an encoder of {opened.preprocess.modality}, and senses are written beside clips of video: "
            "name the run, or its encoder of video."
        )
    specs = _partners(encoder, names)
    others = {}
    for sense, spec in specs.items():
        partner = open_encoder(spec, device)
        settings = sense_settings(config, partner)
        others[sense] = Embedder(partner, settings, device=where, name=spec)
    return SensesEmbedder(own, others)


def _partners(encoder: str, names: Sequence[str]) -> dict[str, str]:
    """Sense -> the encoder of the run that has it."""
    found, lacking = {}, {}
    for sense in tuple(COMMON_WITH) if ALL in names else names:
        try:
            found[sense] = partner_spec(encoder, _modality(sense))
        except EncoderError as err:
            lacking[sense] = str(err)
    if ALL in names and found:
        for sense, reason in lacking.items():
            logger.info("without %s: %s", sense, reason)
        return found
    if lacking:
        rest = [*found, "video"]
        way = f"take --senses {','.join(found)}" if found else "leave out --senses"
        raise EmbeddingError(
            f"{' and '.join(lacking)} cannot be embedded with {encoder}: {next(iter(lacking.values()))} For "
            f"{' and '.join(reversed(rest))} alone {way}."
        )
    return found


def _modality(name: str) -> Modality:
    return next(known for known in MODALITIES if known == name)


def sense_settings(config: EmbedConfig, encoder: Encoder) -> EmbedConfig:
    """Returns how the videos are embedded as they are heard or told, where `config` says how they are as they are seen.

    What it says of frames is left out.  Sound has as many windows as the video, or one every so many seconds, or with
    `per_frame` all of it is heard at the pace of its encoder; text has all captions.  A video without sound is none
    that cannot be read, so that `strict` is of pictures only.

    Raises:
        EmbeddingError: `hop`, which counts frames, for sound.
    """
    plain = config.without_frames
    pre = encoder.preprocess
    if not isinstance(pre, SoundPreprocess):
        return plain
    if config.hop is not None:
        raise EmbeddingError(
            f"hop={config.hop} counts frames, and sound has none: lay out windows with stride_sec, or num_clips."
        )
    stride_sec = config.stride_sec
    if config.per_frame:
        stride_sec = (pre.hop or pre.num_samples) / pre.rate
    return replace(plain, num_clips=config.num_clips, stride_sec=stride_sec)


class SensesEmbedder:
    """Turns tables into feature files of several senses; used as an `Embedder`.

    Args:
        video: of the clips, with all that it is asked to keep.
        senses: sense -> of what is heard or told; clip features and vectors in common spaces are kept.
    """

    def __init__(self, video: Embedder, senses: Mapping[str, Embedder]) -> None:
        self.video, self.senses = video, dict(senses)

    @property
    def config(self) -> EmbedConfig:
        """The settings of the video."""
        return self.video.config

    @property
    def columns(self) -> list[SenseColumns]:
        """The columns of the senses."""
        return [
            SenseColumns(
                sense=sense,
                widths={"feature": own.embed_dim}
                | {n: own.encoder.output_dim(n) for n in own.outputs if n in COMMON},
            )
            for sense, own in self.senses.items()
        ]

    def job(self, table: Table) -> dict[str, Any]:
        """Returns JSON that changes with whatever changes the features of a table, see `jobs.py`."""
        return self.video.job(table) | {
            "senses": {s: e.told(table) for s, e in self.senses.items()}
        }

    def metadata(self, table: Table, job: dict[str, Any]) -> dict[str, Any]:
        """Returns what the feature file of a table and its `job` says about itself."""
        about = {}
        for sense, own in self.senses.items():
            found = own.metadata(table, job["senses"][sense])
            about[sense] = {k: v for k, v in found.items() if k not in SHARED_METADATA}
        return self.video.metadata(table, job) | {"senses": about}

    def embed(
        self, table: Table, out: str | Path, *, progress: bool = True, restart: bool = False
    ) -> FeatureFile:
        """Returns the features of a table, written to `out`; see `Embedder.embed`."""
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
        """Does what `embed` does; see `Embedder.write`."""
        out, job = Path(out), self.job(table)
        metadata = self.metadata(table, job)
        if shard is not None:
            metadata["shard"] = dict(shard)
        with _SensesFolder(out, job=job, restart=restart) as folder:
            self._write_part("video", table, folder, progress, may_be_empty=shard is not None)
            for sense in self.senses:
                self._write_part(sense, table, folder, progress, may_be_empty=True)
            self._join(folder, metadata)
            folder.discard()

    def _write_part(
        self, sense: str, table: Table, folder: _SensesFolder, progress: bool, *, may_be_empty: bool
    ) -> None:
        """Embeds a sense into a file of its own, unless that is there."""
        own, path = self.senses.get(sense, self.video), folder.part(sense)
        if path.is_file():
            folder.refuse_other_part(path, own.job(table))
            return
        try:
            # What is not heard or told is no fault: `_join` tells of it.
            write_side_by_side(
                [own],
                table,
                [path],
                progress=progress,
                may_be_empty=may_be_empty,
                tell_skipped=own is self.video,
            )
        except EmbeddingError:
            folder.discard_if_empty()
            raise

    def _join(self, folder: _SensesFolder, metadata: Mapping[str, Any]) -> None:
        """Makes the feature file of those of all senses."""
        seen = folder.open("video")
        ids = list(dict.fromkeys(seen.ids.tolist()))
        columns = self.columns
        rows = []
        for own in columns:
            found = folder.open(own.sense)
            rows.append(SenseRows(own, found.table, found.skipped, seen.table))
            count, reason = rows[-1].told(ids)
            logger.log(
                logging.INFO if count else logging.WARNING,
                "%s: %s of %d of %d videos%s",
                folder.out,
                own.sense,
                count,
                len(ids),
                f"; the first without: {reason}" if reason else "",
            )
        begin = 0
        try:
            with FeatureWriter(
                folder.out,
                embed_dim=seen.embed_dim,
                metadata=metadata,
                columns=[*self.video.columns, *columns],
            ) as writer:
                writer.skipped.extend(seen.skipped)
                for batch in seen.table.to_batches():
                    arrays = [a for own in rows for a in own.arrays(batch, begin)]
                    writer.write_batch(
                        pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=writer.schema)
                    )
                    begin += len(batch)
        except OSError as err:
            raise folder.unwritable(err) from err


class _SensesFolder(JobFolder):
    """OUT.partial of a file of several senses."""

    holding = tuple(map(part_name, MODALITIES))

    def part(self, sense: str) -> Path:
        """Returns where the features of a sense are."""
        return self.folder / part_name(sense)

    def open(self, sense: str) -> FeatureFile:
        """Returns the complete features of a sense."""
        path = self.part(sense)
        try:
            return open_features(path, may_be_empty=True)
        except FeatureError as err:
            raise self._damaged(str(err)) from err

    def refuse_other_part(self, path: Path, job: Mapping[str, Any]) -> None:
        """Raises FeatureError if complete features of a sense are of another job: somebody has put them there."""
        changes = job_changes(self.open(path.stem).metadata.get("job", {}), job)
        if changes:
            raise self._damaged(
                f"{path.name} is of another job (now <- there):\n  {listed(changes)}\n"
            )

    def discard_if_empty(self) -> None:
        """Removes the folder where nothing of any sense is in it."""
        if not any(path.name.startswith(self.holding) for path in self.folder.iterdir()):
            self.discard()

    def unwritable(self, err: OSError) -> FeatureError:
        """Returns what to say of a disk that is full or cannot be written."""
        return self._unwritable(err)

    def _kept(self) -> str:
        return "The features of each sense are"
