"""What is embedded, how and with what, as JSON that is the same exactly when the features are the same.

    format               of the feature file and of this JSON
    encoder              fingerprint of its weights
    settings             that change the features
    table.records        their number
    table.rows           digest of ids, sources, stretches, labels and their names
    table.captions       digest of the captions, where these are what is embedded
    short_sound          what a recording shorter than a window is heard as, where sound is embedded: it "loops";
                         features of an earlier version, without this, have silence behind it
    senses.SENSE         where one file has several: encoder, settings, captions and the like of each beside video
    table.files          digest of sizes, times and places of the videos (`source_states`)

Up to format 3 only the sizes of files were noted: whether such features are those of the videos that are here now,
nobody can tell, so they are read but not taken for complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from video_ssl.clips.contents import content_digest, content_key
from video_ssl.clips.text import split_words
from video_ssl.datasets.source_states import SourceStates
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.recipes import recipe_changes

FORMAT_VERSION = 4
_MOST_LINES = 20
#: What of a row the features depend on, behind its id and its source.
_TOLD = ("start_sec", "end_sec", "label", "group", "fps")
#: Rows that are looked at together.
_ROWS = 2**14


def make_job(
    encoder: str,
    settings: Mapping[str, Any],
    table: Table,
    *,
    captions: bool = False,
    sound: bool = False,
) -> dict[str, Any]:
    """Returns the job of embedding a table, its captions, or its sound.

    Raises:
        TableError: two records have one id.
    """
    table.refuse_doubled_ids()
    rows, files = _table_digests(table)
    own = sense_job(encoder, settings, table, captions=captions, sound=sound)
    about = {"records": len(table), "rows": rows, "files": files, **own.pop("table", {})}
    return {"format": FORMAT_VERSION, **own, "table": about}


def sense_job(
    encoder: str,
    settings: Mapping[str, Any],
    table: Table,
    *,
    captions: bool = False,
    sound: bool = False,
) -> dict[str, Any]:
    """Returns the part of `make_job` that is not the same for every encoder of a table."""
    job: dict[str, Any] = {"encoder": encoder, "settings": settings}
    if captions:
        job["table"] = {"captions": _captions_digest(table)}
    if sound:
        job["short_sound"] = "loops"
    return dict(json.loads(json.dumps(job)))


def job_key(job: Mapping[str, Any]) -> str:
    """Returns 16 hexadecimal digits for a job."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:16]


def _table_digests(table: Table) -> tuple[str, str]:
    """Digests of what the table says, and of the state of the files that it names."""
    rows = hashlib.sha256(json.dumps(list(table.class_names)).encode())
    if table.phase_names:
        rows.update(json.dumps(list(table.phase_names)).encode())
    files, states = hashlib.sha256(), SourceStates()
    columns = table.arrow
    for begin in range(0, len(table), _ROWS):
        # Column by column: a Record of every row, with all that the table says of it, took three times as long.
        block = columns.slice(begin, _ROWS)
        nothing = [None] * len(block)

        def of(name: str, block: pa.Table = block, nothing: list[Any] = nothing) -> list[Any]:
            return block[name].to_pylist() if name in block.column_names else nothing

        sources = [table.absolute(source) for source in of("source")]
        told = zip(of("id"), sources, *map(of, _TOLD), strict=True)
        moments = block["frame_labels"] if "frame_labels" in block.column_names else None
        for number, row in enumerate(told):
            rows.update(json.dumps(row).encode())
            if moments is not None and moments[number].is_valid:
                rows.update(moments[number].values.to_numpy(zero_copy_only=False).tobytes())
        for source, *place in zip(sources, of("byte_offset"), of("byte_size"), strict=True):
            known = None if None in place else (place[0], place[1])
            files.update(json.dumps(states.of_source(source, known)).encode())
    return rows.hexdigest()[:16], files.hexdigest()[:16]


def _captions_digest(table: Table) -> str:
    digest = hashlib.sha256()
    for record in _records(table):
        told = [[c.text, c.start_sec, c.end_sec] for c in record.captions or ()]
        digest.update(json.dumps(told).encode())
        if not all(split_words(c.text) for c in record.captions or ()):
            digest.update(b"without those of no word")  # in files of before they are rows
    return digest.hexdigest()[:16]


def job_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Returns key -> readable line for everything in which two jobs differ."""
    changes = recipe_changes(before, now)
    theirs, ours = before.get("senses", {}), now.get("senses", {})
    for sense in set(theirs) ^ set(ours):  # one line, not one for each of its settings
        changes = {k: v for k, v in changes.items() if not k.startswith(f"senses.{sense}.")}
        named = (", ".join(["video", *sorted(own)]) for own in (ours, theirs))
        changes["senses"] = f"senses: {' <- '.join(named)}"
    if "format" in changes:
        changes = {key: line for key, line in changes.items() if not key.startswith("table.")}
        changes["format"] += (
            " (an earlier version noted only how large files were: whether these are the features of the videos as "
            "they are now, nobody can tell)"
        )
    if "table.files" in changes:
        changes["table.files"] = (
            "table.files: videos have been changed, replaced or touched since (size, time of change, place in a tar)"
        )
    return changes


def listed(changes: Mapping[str, str]) -> str:
    """Returns the lines as they stand in an error."""
    return "\n  ".join(list(changes.values())[:_MOST_LINES])


# Contents


def changed_contents(found: FeatureFile, table: Table) -> tuple[list[str], int]:
    """Returns the sources whose contents are not those that were embedded, and how many could be read in full then.

    Compared are all bytes where the features were made with `check`, otherwise size, beginning and end.

    Raises:
        FeatureError: the file has no contents (an earlier version made it).
    """
    noted = {str(entry["id"]): entry for entry in found.skipped if "content" in entry}
    columns = ("id", "content", "digest")
    for row in found.table.select(list(columns)).to_pylist():
        noted.setdefault(row["id"], row)
    if not any(entry["content"] for entry in noted.values()):
        raise FeatureError(
            f"{found.path} does not say what its videos held (an earlier version made it), so --check has nothing to "
            "compare them with: write it anew with --restart."
        )
    changed, full = [], 0
    for record in _records(table):
        entry = noted.get(record.id)
        if entry is None or not entry["content"]:
            continue
        full += entry.get("digest") is not None
        now = content_digest(record) if entry.get("digest") else content_key(record)
        if now != (entry.get("digest") or entry["content"]):
            changed.append(record.source)
    return changed, full


def _records(table: Table) -> Iterator[Record]:
    return (table.record(index) for index in range(len(table)))
