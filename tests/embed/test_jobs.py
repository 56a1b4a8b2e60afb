"""What says whether features are those of the videos that are here now."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from video_ssl.datasets.source_states import SourceStates
from video_ssl.datasets.table import Table
from video_ssl.embed.jobs import make_job


def record_by_record(table: Table) -> tuple[str, str]:
    """The digests of format 4 as they were first written down."""
    rows = hashlib.sha256(json.dumps(list(table.class_names)).encode())
    rows.update(json.dumps(list(table.phase_names)).encode())
    files, states = hashlib.sha256(), SourceStates()
    for index in range(len(table)):
        r = table.record(index)
        known = [r.id, r.source, r.start_sec, r.end_sec, r.label, r.group, r.fps]
        rows.update(json.dumps(known).encode())
        if r.frame_labels is not None:
            rows.update(r.frame_labels.tobytes())
        files.update(json.dumps(states.of(r)).encode())
    return rows.hexdigest()[:16], files.hexdigest()[:16]


def test_a_table_read_in_blocks_has_the_digests_of_its_records(tmp_path, monkeypatch):
    """Other digests would make every feature file that exists a stale one."""
    monkeypatch.setattr("video_ssl.embed.jobs._ROWS", 3)  # blocks that end within the table
    (tmp_path / "a b").mkdir()
    for name in ("a b/ü.mp4", "2.mp4"):
        (tmp_path / name).write_bytes(b"x" * len(name))
    rows = [
        {"id": "ü", "source": "a b/ü.mp4", "label": 1, "fps": 29.97, "group": "p, [q]"},
        {"id": "2", "source": "2.mp4", "label": 0, "start_sec": 0.5, "end_sec": 1.25},
        {"id": "3", "source": "gone.mp4", "frame_labels": [0, -1, 1]},
        {"id": "4", "source": "https://a.b/c.mp4", "frame_labels": []},
        {"id": "5", "source": str(tmp_path / "2.mp4"), "label": None},
        {"id": "6", "source": "a b", "frame_labels": [1] * 40},
    ]
    Table.from_rows(rows, class_names=["x", "y"], phase_names=["u", "v"]).save(
        tmp_path / "table.arrow"
    )
    table = Table.open(tmp_path / "table.arrow")
    for part in (table, table.select(np.array([5, 0, 2]))):
        about = make_job("e", {}, part)["table"]
        assert (about["rows"], about["files"]) == record_by_record(part)
