"""What a head says about videos, and how it is written: JSON, CSV or Parquet.

A row (CSV, Parquet) is a video, a clip or a segment:

    id, source            of the record
    start_sec, end_sec    from the first to the last frame that was seen, in seconds of the source; a segment ends
                          where the next begins
    label, score          the surest class and its share, 0..1; of a segment the mean over its frames
    label_2, score_2 ...  the classes behind it, `top_k` in all
    reason                why a video could not be read; its other cells are empty

JSON has the same, nested: `videos` with their `clips` or `segments`, and `unreadable`; and the `accuracy`, where
classes of the videos are known.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from video_ssl.evaluate.accuracy import Accuracy
from video_ssl.evaluate.predict_config import Each
from video_ssl.files import MADE_BY, claim_file, made, made_by, written_aside

_FIRST = ("id", "source", "start_sec", "end_sec", "label", "score")
SUFFIXES = (".json", ".csv", ".parquet")


@dataclass(frozen=True, kw_only=True, eq=False)
class Span:
    """A stretch of a video and how sure the head is of each class there.

    Attributes:
        start_sec, end_sec: seconds of the source, NaN where unknown.
        shares: float (K,), adding up to 1 where a video has one class.
    """

    start_sec: float
    end_sec: float
    shares: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What a head says about a video.

    Attributes:
        whole: of the video.
        parts: its clips, or where the head names frames its segments, in order of time.
    """

    id: str
    source: str
    whole: Span
    parts: list[Span] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Everything that is written.

    Attributes:
        class_names: K.
        answers: of the videos that could be read.
        unreadable: id, source and reason of the others.
        parts: what the parts of the answers are.
        about: head, encoder and settings, as JSON.
        accuracy: how often it is right, where classes of videos are known.
    """

    class_names: tuple[str, ...]
    answers: Sequence[Answer]
    unreadable: Sequence[dict[str, Any]]
    parts: Literal["clips", "segments"]
    about: dict[str, Any]
    accuracy: Accuracy | None = None


def claim_predictions(path: Path, sources: Sequence[str | Path]) -> Path:
    """Returns the file to write, links followed; to be asked before any work.

    Raises:
        ValueError: of no kind that is written.
        OutputError: it must not or cannot be written; what `predict` itself has made is replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES)}: that is what can be written.")
    return claim_file(path, "predict", sources=sources, is_ours=_is_ours)


def write_predictions(
    path: Path, predictions: Predictions, *, top_k: int, each: Each = "video"
) -> None:
    """Writes predictions, whole or not at all.

    Args:
        path: its ending says how.
        predictions: what the head says.
        top_k: classes of a row.
        each: what a row of CSV and Parquet is; of a head that names frames it is always a segment.
    """
    top_k = min(top_k, len(predictions.class_names))
    with written_aside(path) as temporary:
        if path.suffix.lower() == ".json":
            text = json.dumps(_as_json(predictions, top_k), indent=1, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
            return
        rows = list(_rows(predictions, top_k, each))
        if path.suffix.lower() == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns(top_k))
                writer.writeheader()
                writer.writerows(rows)
            return
        schema = pa.schema(
            [(name, pa.float64() if _is_number(name) else pa.string()) for name in columns(top_k)],
            metadata={MADE_BY: made("predict"), "about": json.dumps(predictions.about)},
        )
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def columns(top_k: int) -> list[str]:
    """Returns the columns of CSV and Parquet.

    >>> columns(2)
    ['id', 'source', 'start_sec', 'end_sec', 'label', 'score', 'label_2', 'score_2', 'reason']
    """
    more = [f"{name}_{place}" for place in range(2, top_k + 1) for name in ("label", "score")]
    return [*_FIRST, *more, "reason"]


def _is_number(name: str) -> bool:
    return name.endswith("_sec") or name.startswith("score")


def _is_ours(path: Path) -> bool:
    """Whether a file was made by `predict`: a CSV, which has no room to say so, by the names of its columns."""
    if path.suffix.lower() == ".csv":
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.readline(2**16).rstrip("\r\n").split(",")
        return head == columns((len(head) - len(_FIRST) - 1) // 2 + 1)
    if path.suffix.lower() == ".parquet":
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError):
            return False
        return bool(metadata.get(MADE_BY.encode()) == made("predict").encode())
    return made_by(path) == "predict"


def _rows(predictions: Predictions, top_k: int, each: Each) -> Iterator[dict[str, Any]]:
    for answer in predictions.answers:
        split = predictions.parts == "segments" or each == "clip"
        for span in answer.parts if split else [answer.whole]:
            row: dict[str, Any] = {"id": answer.id, "source": answer.source}
            row |= {"start_sec": _known(span.start_sec), "end_sec": _known(span.end_sec)}
            for place, (label, score) in enumerate(_best(span, predictions.class_names, top_k), 1):
                end = "" if place == 1 else f"_{place}"
                row |= {f"label{end}": label, f"score{end}": score}
            yield row
    for entry in predictions.unreadable:
        yield {name: entry.get(name) for name in ("id", "source", "reason")}


def _as_json(predictions: Predictions, top_k: int) -> dict[str, Any]:
    names = predictions.class_names

    def told(span: Span) -> dict[str, Any]:
        best = _best(span, names, top_k)
        return {
            "start_sec": _known(span.start_sec),
            "end_sec": _known(span.end_sec),
            "label": best[0][0],
            "score": best[0][1],
            "top": [{"label": label, "score": score} for label, score in best],
        }

    return {
        MADE_BY: made("predict"),
        **predictions.about,
        **({"accuracy": asdict(predictions.accuracy)} if predictions.accuracy else {}),
        "classes": list(names),
        "videos": [
            {
                "id": answer.id,
                "source": answer.source,
                **told(answer.whole),
                predictions.parts: [told(part) for part in answer.parts],
            }
            for answer in predictions.answers
        ],
        "unreadable": list(predictions.unreadable),
    }


def _best(span: Span, names: Sequence[str], top_k: int) -> list[tuple[str, float]]:
    """The surest classes and their shares; equal ones in the order of the classes."""
    order = np.argsort(-span.shares, kind="stable")[:top_k]
    return [(names[place], float(span.shares[place])) for place in order.tolist()]


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
