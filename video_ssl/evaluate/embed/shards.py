"""A feature file made in parts, by jobs that know nothing of each other, and put together.

    OUT.shards/K-of-N.arrow    features of records K*R/N .. (K+1)*R/N of a table of R
    OUT.shards/K-of-N.json     which records, and of what whole

A shard is embedded like any table, so it goes on where it was stopped.  The parts cover every record once by
construction; `merge_shards` proves it before it writes OUT, whose rows are those of a file made in one piece, in
the same order (features to rounding, since other clips share a batch).
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.datasets.table import Table
from video_ssl.evaluate.embed.embedding import EmbedConfig, Embedder, EmbeddingError, pick_device
from video_ssl.evaluate.features import SKIPPED_KEY, FeatureFile, FeatureWriter, open_features
from video_ssl.evaluate.frozen import open_encoder
from video_ssl.files import write_json
from video_ssl.pretrain.processes import Processes
from video_ssl.pretrain.run_folder import recipe_changes

logger = logging.getLogger(__name__)

_ROWS_PER_BATCH = 256


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
    **settings: Any,
) -> Path:
    """Returns the file with the features of one shard; one that is there already is left as it is.

    Args:
        encoder, device, settings: as of `embed_table`.
        videos: the whole table.
        out: the feature file that all shards become.
        shard: `k/n`.

    Raises:
        EmbeddingError: more shards than videos; or another job has written this shard.
    """
    index, count = parse_shard(shard)
    if count > len(videos):
        raise EmbeddingError(
            f"{count} shards of {len(videos)} videos: take at most as many as videos."
        )
    out, where = Path(out), pick_device(device)
    if out.suffix != ".arrow":
        raise EmbeddingError(f"{out} must end in .arrow: that is the only kind that is written.")
    embedder = Embedder(
        open_encoder(encoder, device), EmbedConfig(**settings), device=where, name=encoder
    )
    return write_shard(embedder, videos, out, index, count, restart=restart)


def write_shard(
    embedder: Embedder,
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
    about = {
        "first": rows.start,
        "records": len(rows),
        "job": job,
        "embed_dim": embedder.embed_dim,
        "metadata": embedder.metadata(videos, job),
    }
    about = json.loads(json.dumps(about))
    note = path.with_suffix(".json")
    if path.is_file() and note.is_file() and not restart:
        changes = recipe_changes(json.loads(note.read_text(encoding="utf-8"))["job"], job)
        if changes:
            listed = "\n  ".join(list(changes.values())[:20])
            raise EmbeddingError(
                f"{path} is of another job (now <- there):\n  {listed}\nGive another output file, or remove "
                f"{path.parent}."
            )
        logger.info("%s is complete already", path)
        return path
    write_json(note, about, indent=None)
    part = videos.select(np.arange(rows.start, rows.stop))
    embedder.write(part, path, restart=restart, may_be_empty=True, progress=progress)
    return path


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
        EmbeddingError: no shards, shards missing (named), or of different jobs; or no video could be read.
    """
    out = Path(out)
    folder = shards_folder(out)
    if out.is_file() and not list(folder.glob("*-of-*.json")):
        logger.info("%s is merged already", out)
        return open_features(out)
    shards = _complete(folder)
    first = shards[0][1]
    records = first["job"]["table"]["records"]
    position = 0
    for path, about in shards:
        if about["job"] != first["job"]:
            lines = recipe_changes(first["job"], about["job"])
            raise EmbeddingError(f"{path} and {shards[0][0]} differ: {'; '.join(lines.values())}.")
        if about["first"] != position:
            raise EmbeddingError(
                f"{path} begins at record {about['first']}, expected was {position}."
            )
        position += about["records"]
    if position != records:
        raise EmbeddingError(
            f"{folder} has {position} of {records} records: embed the other shards."
        )
    with FeatureWriter(out, embed_dim=first["embed_dim"], metadata=first["metadata"]) as writer:
        for batch in _batches(shards, writer.skipped):
            writer.write_batch(batch.replace_schema_metadata(writer.schema.metadata))
        if writer.num_rows == 0:
            raise EmbeddingError(
                f"none of the {records} videos could be read; the first: {writer.skipped[0]['reason']}."
            )
    for path, _ in shards:
        path.unlink()
        path.with_suffix(".json").unlink()
        shutil.rmtree(path.with_name(f"{path.name}.partial"), ignore_errors=True)
    logger.info("%s: %d clips of %d shards", out, writer.num_rows, len(shards))
    return open_features(out)


def _complete(folder: Path) -> list[tuple[Path, Mapping[str, Any]]]:
    """The shards in their order, all there."""
    found = {}
    for note in folder.glob("*-of-*.json"):
        index, count = (int(number) for number in note.stem.split("-of-"))
        found[count, index] = note
    counts = sorted({count for count, _ in found})
    if len(counts) != 1:
        told = (
            f"of {counts} divisions: remove all but one"
            if counts
            else "no shards: embed --shard k/n"
        )
        raise EmbeddingError(f"{folder} has {told}.")
    count = counts[0]
    missing = [
        f"{k}/{count}" for k in range(count) if not (folder / f"{k}-of-{count}.arrow").is_file()
    ]
    if missing:
        raise EmbeddingError(
            f"{folder} lacks the shards {', '.join(missing[:20])} of {count}: embed them (--shard {missing[0]}), then "
            "merge again."
        )
    return [
        (
            found[count, k].with_suffix(".arrow"),
            json.loads(found[count, k].read_text(encoding="utf-8")),
        )
        for k in range(count)
    ]


def _batches(
    shards: list[tuple[Path, Mapping[str, Any]]], skipped: list[dict[str, Any]]
) -> Iterator[pa.RecordBatch]:
    """Record batches of some hundred rows of all files; fills the list of what was skipped."""
    waiting: list[pa.RecordBatch] = []
    for path, about in shards:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            for number in range(reader.num_record_batches):
                batch, notes = reader.get_batch_with_custom_metadata(number)
                if notes and SKIPPED_KEY in notes:
                    skipped += [
                        {**entry, "index": about["first"] + entry["index"]}  # of the whole table
                        for entry in json.loads(notes[SKIPPED_KEY])
                    ]
                if len(batch):
                    waiting.append(batch.replace_schema_metadata(None))
                if sum(len(b) for b in waiting) >= _ROWS_PER_BATCH:
                    yield pa.concat_batches(waiting)
                    waiting = []
    if waiting:
        yield pa.concat_batches(waiting)
