"""`bench evaluate`: what evaluators cost, beside scikit-learn, numpy and faiss in the same run, in alternating turns.

Processor time of this process, one thread; medians of the turns are shown.  The rows are random features in clusters
by class, so that accuracies say whether both sides have learned the same.  What embedding costs is for `bench embed`;
here it is counted how often videos are decoded where several encoders see the same windows.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table as ScreenTable

from video_ssl.bench.classifiers import (
    Answers,
    Rows,
    Way,
    attentive_ways,
    neighbour_ways,
    probe_ways,
)
from video_ssl.bench.config import EvaluateBench
from video_ssl.bench.footage import FOOTAGE, make_footage
from video_ssl.bench.shared_reading import ENCODERS, Decoded, decoded_by, embedding_ways
from video_ssl.bench.turns import cpu_medians, one_thread
from video_ssl.embed.features import FeatureError
from video_ssl.files import MADE_BY, claim_file, made, temporary_folder, write_json
from video_ssl.progress import console_for_tables

#: What is ours -> in words, and the peers that it is compared with.
_PROBE = {
    "probe": ("linear probe: 10 heads, the chosen one fitted again", ("sklearn chosen", "sklearn")),
    "one head": ("one of its heads", ("sklearn",)),
}
_PROBE_PEERS = {
    "sklearn chosen": "scikit-learn: 10 regressions, the chosen one fitted again",
    "sklearn": "scikit-learn: one logistic regression",
}
_NEIGHBOURS = {
    "knn": ("nearest neighbours: k and vote chosen on train", ("sklearn chosen",)),
    "search": ("search and vote alone", ("sklearn", "numpy", "faiss")),
}
_NEIGHBOUR_PEERS = {
    "sklearn chosen": "scikit-learn's search, the same choice",
    "sklearn": "scikit-learn: KNeighborsClassifier",
    "numpy": "numpy: a product and a partition",
    "faiss": "faiss: IndexFlatIP",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Something of ours beside somebody else's, or beside a part of itself.

    Attributes:
        what, peer: in words.
        cpu_ms, peer_ms: milliseconds of processor time.
        top1, peer_top1: shares of right answers; None where nothing is answered.
        same: share of the test rows that both answer alike; None where they do not answer the same question.
    """

    what: str
    cpu_ms: float
    peer: str
    peer_ms: float
    top1: float | None = None
    peer_top1: float | None = None
    same: float | None = None

    @property
    def ratio(self) -> float:
        """Our processor time to the peer's."""
        return self.cpu_ms / self.peer_ms


@dataclass(frozen=True, kw_only=True)
class EvaluateFigures:
    """What evaluators cost.

    Attributes:
        comparisons: see there.
        videos: that the encoders embedded.
        decoded: "one" encoder, three "together" as an evaluation has them, three "apart", one after the other.
    """

    comparisons: tuple[Comparison, ...]
    videos: int
    decoded: Mapping[str, Decoded]


def bench_evaluate(config: EvaluateBench, *, json_path: Path | None = None) -> EvaluateFigures:
    """Measures evaluators beside their peers, prints a table and returns the figures.

    Args:
        config: sizes, and how often.
        json_path: where the figures go as JSON, too.

    Raises:
        FeatureError: scikit-learn is not installed.
        OutputError: `json_path` is another's file or cannot be written.
    """
    place = None if json_path is None else claim_file(json_path, "bench evaluate")
    if importlib.util.find_spec("sklearn") is None:
        raise FeatureError(
            "bench evaluate compares with scikit-learn, which is not installed: pip install 'video_ssl[phases]'."
        )
    table = make_footage(FOOTAGE["easy"][0], config.folder)
    with temporary_folder("bench") as folder, one_thread(), _quiet():
        rows = Rows.drawn(config)
        found = [
            *_compared(probe_ways(rows), _PROBE, _PROBE_PEERS, rows, config.repeats),
            *_compared(neighbour_ways(rows), _NEIGHBOURS, _NEIGHBOUR_PEERS, rows, config.repeats),
            _attentive(folder, config),
        ]
        ways = embedding_ways(table, folder)
        decoded = decoded_by(ways)
        took = cpu_medians(ways, config.repeats)
    what = f"{ENCODERS} small encoders that see the same windows"
    for peer, words in (("one", "one of them"), ("apart", "one after the other")):
        found.append(Comparison(what=what, cpu_ms=took["together"], peer=words, peer_ms=took[peer]))
    figures = EvaluateFigures(comparisons=tuple(found), videos=len(table), decoded=decoded)
    _print(figures, config)
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "comparisons": [{**asdict(row), "ratio": row.ratio} for row in found],
            "videos": figures.videos,
            "decoded": {name: asdict(own) for name, own in decoded.items()},
        }
        write_json(place, {MADE_BY: made("bench evaluate"), **content})
    return figures


def _compared(
    ways: Mapping[str, Way],
    ours: Mapping[str, tuple[str, tuple[str, ...]]],
    peers: Mapping[str, str],
    rows: Rows,
    repeats: int,
) -> Iterator[Comparison]:
    answers: dict[str, Answers] = {name: act() for name, act in ways.items()}
    took = cpu_medians(ways, repeats)
    for name, (words, beside) in ours.items():
        for peer in beside:
            if peer in ways:  # faiss may not be installed
                yield Comparison(
                    what=words,
                    cpu_ms=took[name],
                    peer=peers[peer],
                    peer_ms=took[peer],
                    top1=rows.right(answers[name]),
                    peer_top1=rows.right(answers[peer]),
                    same=float((answers[name] == answers[peer]).mean()),
                )


def _attentive(folder: Path, config: EvaluateBench) -> Comparison:
    """Tokens are random, so that its answers say nothing."""
    took = cpu_medians(attentive_ways(folder, config), config.repeats)
    return Comparison(
        what=f"attentive probe: a grid of {config.heads} heads",
        cpu_ms=took["grid"],
        peer="one head",
        peer_ms=took["one head"],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Evaluators and embedding tell how far they are, which is nothing to tell of turns."""
    loggers = [logging.getLogger(f"video_ssl.{room}") for room in ("evaluate", "embed")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _print(figures: EvaluateFigures, config: EvaluateBench) -> None:
    screen = ScreenTable(
        title=f"{config.rows:,} features of {config.dim}, {config.classes} classes, {config.test_rows:,} to be judged "
        f"by: one thread, {os.cpu_count()} cores",
        title_justify="left",
    )
    screen.add_column("processor time of")
    screen.add_column("ms", justify="right")
    screen.add_column("top-1", justify="right")
    screen.add_column("beside")
    for head in ("ms", "top-1", "times it", "alike"):
        screen.add_column(head, justify="right")
    for row in figures.comparisons:
        screen.add_row(
            row.what,
            f"{row.cpu_ms:.1f}",
            _percent(row.top1),
            row.peer,
            f"{row.peer_ms:.1f}",
            _percent(row.peer_top1),
            f"{row.ratio:.2f}",
            _percent(row.same),
        )
    console = console_for_tables()
    console.print(screen)
    one, together, apart = (figures.decoded[name] for name in ("one", "together", "apart"))
    console.print(
        f"{figures.videos} videos: one encoder opened {one.openings} files and decoded {one.pictures} pictures, "
        f"{ENCODERS} together {together.openings} and {together.pictures}, one after the other {apart.openings} and "
        f"{apart.pictures}."
    )
    if importlib.util.find_spec("faiss") is None:
        console.print("faiss is not installed and left out.")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"
