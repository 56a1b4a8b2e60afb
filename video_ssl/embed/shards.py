"""A feature file made in parts, by jobs that know nothing of each other, and put together.

    OUT.shards/K-of-N.arrow    features of records K*R/N .. (K+1)*R/N of a table of R; its metadata say which
                               records, and of what whole

What a shard is of stands in the file itself, so that its numbers and its name cannot part.  A shard is embedded like
any table, so it goes on where it was stopped.  The parts cover every record once by construction; `merge_shards` proves
it before it writes OUT, whose rows are those of a file made in one piece, in the same order (features to rounding,
since other clips share a batch).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.arrow.checks import BrokenArrow, checked_arrow
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import (
    finished_features,
    read_finished,
    refuse_changed_contents,
    refuse_other_features,
)
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.feature_writer import METADATA_KEY, SKIPPED_KEY, FeatureWriter, larger_batches
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.embed.jobs import job_changes, listed
from video_ssl.embed.partial import claim_features, discard
from video_ssl.embed.sense_columns import sense_columns
from video_ssl.embed.senses import SensesEmbedder, make_embedder
from video_ssl.embed.vector_columns import output_columns
from video_ssl.pretrain.processes import Processes
from video_ssl.recipes import known_settings

logger = logging.getLogger(__name__)


def shards_folder(out: Path) -> Path:
    """Returns the folder of the shards of a feature file."""
    return out.with_name(f"{out.name}.shards")


def parse_shard(text: str) -> tuple[int, int]:
    """Returns (k, n) of `k/n`, 0 <= k < n.

    Raises:
        EmbeddingError: not of that form.

    >>> parse_shard("0/4")
    (0, 4)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise EmbeddingError(
            f"shard={text!r} must be k/n with k = 0 .. n - 1: 0/4 is the first of four."
        )
    return int(match[1]), int(match[2])


def shard_rows(records: int, index: int, count: int) -> range:
    """Returns the records of a shard; all shards together have every record once, and differ by one at most.

    >>> [list(shard_rows(5, k, 2)) for k in range(2)]
    [[0, 1], [2, 3, 4]]
    """
    return range(index * records // count, (index + 1) * records // count)


def embed_shard(
    encoder: str,
    videos: Table,
    out: str | Path,
    shard: str,
    *,
    device: str = "auto",
    restart: bool = False,
    senses: str | Sequence[str] | None = None,
    **settings: Any,
) -> Path:
    """Returns the file with the features of one shard; one that is there already is left as it is.

    Where the whole feature file is complete it is returned, and nothing is embedded.

    Args:
        encoder, device, senses, settings: as of `embed_table`.
        videos: the whole table.
        out: the feature file that all shards become.
        shard: `k/n`.
        restart: write this shard anew, complete or not.

    Raises:
        EmbeddingError: more shards than videos; or another job has written this shard, or the feature file; or that one
            is there with `restart`, which would be in vain.
    """
    index, count = parse_shard(shard)
    if count > len(videos):
        raise EmbeddingError(
            f"{count} shards of {len(videos)} videos: take at most as many as videos."
        )
    config, out = EmbedConfig(**known_settings(EmbedConfig, settings, "embedding")), Path(out)
    if out.suffix != ".arrow":
        raise EmbeddingError(f"{out} must end in .arrow: that is the only kind that is written.")
    out = claim_features(out)
    if restart and out.is_file():
        raise EmbeddingError(
            f"{out} is there already, and --restart makes a shard of it anew, not the file: the merge would keep that "
            "one. Remove it, or give another output file."
        )
    embedder = make_embedder(encoder, config, device, senses)
    if out.is_file():
        rows = shard_rows(len(videos), index, count)
        part = videos.select(np.arange(rows.start, rows.stop))
        finished_features(out, embedder, videos, part=part, in_parts=True)
        logger.info("%s is complete already: nothing is left for shard %s", out, shard)
        return out
    return write_shard(embedder, videos, out, index, count, restart=restart)


def write_shard(
    embedder: Embedder | SensesEmbedder,
    videos: Table,
    out: Path,
    index: int,
    count: int,
    *,
    restart: bool = False,
    progress: bool = True,
) -> Path:
    """Returns the file with shard `index` of `count` of the features of a table, see `embed_shard`.

    Raises:
        EmbeddingError: another job has written this shard.
    """
    path = shards_folder(out) / f"{index}-of-{count}.arrow"
    path.parent.mkdir(parents=True, exist_ok=True)
    job = embedder.job(videos)
    rows = shard_rows(len(videos), index, count)
    part = videos.select(np.arange(rows.start, rows.stop))
    if path.is_file() and not restart:
        _refuse_other_job(path, job)
        if embedder.config.check:
            refuse_changed_contents(FeatureFile(_read(path).read_all(), path=path), part)
        logger.info("%s is complete already", path)
        return path
    about = {"first": rows.start, "records": len(rows), "whole": embedder.metadata(videos, job)}
    embedder.write(part, path, restart=restart, shard=about, progress=progress)
    return path


def _refuse_other_job(path: Path, job: Mapping[str, Any]) -> None:
    changes = job_changes(_about(path)["whole"]["job"], job)
    if changes:
        raise EmbeddingError(
            f"{path} is of another job (now <- there):\n  {listed(changes)}\nGive another output file, remove "
            f"{path.parent}, or make the shard anew with --restart."
        )


def _read(path: Path) -> Any:
    try:
        return checked_arrow(path)[0]
    except (BrokenArrow, OSError) as err:
        raise EmbeddingError(
            f"{path} is damaged ({err}): make this shard anew with --restart."
        ) from err


def _about(path: Path) -> dict[str, Any]:
    """What a shard says about itself: `first` and number of `records`, and the metadata of the `whole`."""
    found = json.loads((_read(path).schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if "shard" not in found:
        raise EmbeddingError(
            f"{path} does not say of which encoder and videos it is (an earlier version made it): make this shard anew "
            "with --restart."
        )
    about: dict[str, Any] = found["shard"]
    return about


def embed_together(
    embedder: Embedder, videos: Table, out: Path, processes: Processes, *, progress: bool = True
) -> FeatureFile:
    """Returns the features of a table, of which every process has embedded its shard.  Called by every process.

    Stopped and called again it goes on, with another number of processes from the start.

    Raises:
        EmbeddingError, FeatureError: as `Embedder.embed`.
    """
    count = min(processes.world_size, len(videos))
    processes.on_main(lambda: _remove_other_divisions(shards_folder(out), count))
    if processes.rank < count:
        write_shard(embedder, videos, out, processes.rank, count, progress=progress)
    processes.wait()
    processes.on_main(lambda: _merge_and_clear(out))
    return open_features(out)


def _merge_and_clear(out: Path) -> None:
    merge_shards(out)
    shutil.rmtree(shards_folder(out), ignore_errors=True)


def _remove_other_divisions(folder: Path, count: int) -> None:
    for path in folder.glob("*-of-*"):
        if path.name.partition("-of-")[2].split(".")[0] != str(count):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def merge_shards(out: str | Path) -> FeatureFile:
    """Returns the feature file that the shards in OUT.shards become; they are removed once it is there.

    Raises:
        EmbeddingError: no shards, shards missing (named), or of different jobs; or no video could be read; or the file
            is there and has features of another job.
    """
    out = claim_features(out)
    folder = shards_folder(out)
    there = _shard_files(folder)
    if out.is_file() and (not there or _is_merged(out, there)):
        logger.info("%s is merged already", out)
        _remove_shards(folder, there)
        return open_features(out)
    shards = [(path, _about(path)) for path in _complete(folder, there)]
    _refuse_gaps(folder, shards)
    if out.is_file():
        before = read_finished(out, in_parts=True).metadata.get("job", {})
        changes = job_changes(before, shards[0][1]["whole"]["job"])
        refuse_other_features(out, changes, in_parts=True)
    schema = _read(shards[0][0]).schema
    with FeatureWriter(
        out,
        embed_dim=schema.field("feature").type.list_size,
        metadata=shards[0][1]["whole"],
        columns=[*output_columns(schema), *sense_columns(schema)],
    ) as writer:
        for batch in larger_batches(_batches(shards, writer.skipped)):
            writer.write_batch(batch.replace_schema_metadata(writer.schema.metadata))
        if writer.num_rows == 0:
            raise EmbeddingError(
                f"none of the {len(writer.skipped)} videos could be read; the first: "
                f"{writer.skipped[0]['reason'].rstrip('.')}."
            )
    _remove_shards(folder, there)
    logger.info("%s: %d clips of %d shards", out, writer.num_rows, len(shards))
    return open_features(out)


def _shard_files(folder: Path) -> dict[tuple[int, int], Path]:
    """(n, k) -> the file of shard k of n."""
    found = {}
    for path in folder.glob("*-of-*.arrow"):
        match = re.fullmatch(r"(\d+)-of-(\d+)\.arrow", path.name)
        if match:
            found[int(match[2]), int(match[1])] = path
    return found


def _is_merged(out: Path, shards: Mapping[tuple[int, int], Path]) -> bool:
    """Whether OUT is what these shards became: a merge was stopped while it removed them."""
    try:
        job = open_features(out).metadata.get("job")
    except FeatureError:
        return False
    return job is not None and all(_about(path)["whole"]["job"] == job for path in shards.values())


def _refuse_gaps(folder: Path, shards: list[tuple[Path, dict[str, Any]]]) -> None:
    """Raises EmbeddingError unless the shards are of one job and have every record once."""
    position, (first, of_first) = 0, shards[0]
    for path, about in shards:
        changes = job_changes(of_first["whole"]["job"], about["whole"]["job"])
        if changes:
            raise EmbeddingError(f"{path} and {first} differ: {'; '.join(changes.values())}.")
        if about["first"] != position:
            raise EmbeddingError(
                f"{path} begins at record {about['first']}, expected was {position}."
            )
        position += about["records"]
    records = of_first["whole"]["job"]["table"]["records"]
    if position != records:
        raise EmbeddingError(
            f"{folder} has {position} of {records} records: embed the other shards."
        )


def _remove_shards(folder: Path, shards: Mapping[tuple[int, int], Path]) -> None:
    for path in shards.values():
        path.unlink()
        path.with_suffix(".json").unlink(missing_ok=True)  # an earlier version wrote it
        discard(path)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()


def _complete(folder: Path, there: Mapping[tuple[int, int], Path]) -> list[Path]:
    """The shards in their order, all there."""
    counts = {count for count, _ in there}
    for path in folder.glob("*-of-*.arrow.partial"):
        counts.add(int(path.name.split(".")[0].partition("-of-")[2]))
    if len(counts) != 1:
        problem = (
            f"of {sorted(counts)} divisions: remove all but one"
            if counts
            else "no shards: embed --shard k/n"
        )
        raise EmbeddingError(f"{folder} has {problem}.")
    (count,) = counts
    missing = [f"{k}/{count}" for k in range(count) if (count, k) not in there]
    if missing:
        raise EmbeddingError(
            f"{folder} lacks the shards {', '.join(missing[:20])} of {count}: embed them (--shard {missing[0]}), then "
            "merge again."
        )
    return [there[count, k] for k in range(count)]


def _batches(
    shards: list[tuple[Path, dict[str, Any]]], skipped: list[dict[str, Any]]
) -> Iterator[pa.RecordBatch]:
    """The record batches of all files that have rows; fills the list of what was skipped."""
    for path, about in shards:
        reader = _read(path)
        for number in range(reader.num_record_batches):
            batch, notes = reader.get_batch_with_custom_metadata(number)
            if notes and SKIPPED_KEY in notes:
                skipped += [
                    {**entry, "index": about["first"] + entry["index"]}  # of the whole table
                    for entry in json.loads(notes[SKIPPED_KEY])
                ]
            if len(batch):
                yield batch.replace_schema_metadata(None)
