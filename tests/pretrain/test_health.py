"""The verdict on a training: on rows made up, and on runs that were made ill on purpose."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from video_ssl.explore.pages.report_page import write_report
from video_ssl.pretrain.health import verdict_of
from video_ssl.pretrain.reporting import Stopwatch, read_metrics
from video_ssl.pretrain.torch_loop.run import run_torch


def rows_of(losses: list[float], **figures: Any) -> list[dict[str, Any]]:
    """Rows of a training that is well but for what is given; a list is a value a row."""
    every = {"grad_norm": 1.0, "feature_std": 0.05, "data_wait_share": 0.1, **figures}
    return [
        {
            "step": 10 * (n + 1),
            "progress": (n + 1) / len(losses),
            "loss": loss,
            **{k: v[n] if isinstance(v, list) else v for k, v in every.items()},
        }
        for n, loss in enumerate(losses)
    ]


FALLING = [1.0, 0.9, 0.8, 0.75, 0.7, 0.68, 0.67, 0.66]
FLAT = [1.0, 0.999, 1.002, 1.0, 0.998, 1.001, 1.0, 0.9995]


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("fine", rows_of(FALLING)),
        ("early", rows_of(FALLING[:4])),
        ("early", []),
        ("stuck", rows_of(FLAT)),
        ("diverging", rows_of([1, 0.9, 0.8, 0.8, 6, 9, 11, 12])),
        ("diverging", rows_of([1, 0.9, 0.8, 0.8, 0.9, 1.3, 1.4, 1.5], grad_norm=[1] * 5 + [9] * 3)),
        # of a real run: rates so large that steps jump about
        ("diverging", rows_of([0.42, 0.96, 0.22, 0.36, 0.26, 0.26, 1.4, 0.72, 0.71, 0.42])),
        # the same rise without steep gradients: a term whose weight grows
        ("fine", rows_of([2.5, 2, 1.5, 1.4, 1.3, 2.1, 2.1, 2.1])),
        # judged by the loss at hidden tokens, where the sum rises with the weight of the others
        ("fine", rows_of([1, 1, 2, 3, 4, 5, 6, 7], loss_hidden=FALLING)),
        (
            "collapsed",
            rows_of(FALLING, feature_std=[0.05, 0.05, 0.04, 0.01, 1e-3, 1e-4, 1e-4, 9e-5]),
        ),
        ("fine", rows_of(FALLING, feature_std=0.0)),  # batches of one sample have no spread
        ("fine", rows_of(FALLING, feature_std=0.004)),  # small from the start, as of a new ViT
        ("loader-bound", rows_of(FALLING, data_wait_share=0.8)),
        ("fine", rows_of(FALLING, data_wait_share=[0.9] + [0.2] * 7)),  # while the loader starts
        # what is worse comes first
        ("stuck", rows_of(FLAT, data_wait_share=0.8)),
        ("fine", rows_of([math.nan, *FALLING[1:]])),
    ],
)
def test_verdict(kind: str, rows: list[dict[str, Any]]) -> None:
    verdict = verdict_of(rows)
    assert verdict.kind == kind
    assert verdict.is_bad == bool(verdict.advice)


ILL = {
    "fine": {},
    "stuck": {"optimizer__base_lr": 0.0},
    # well at first, then ever larger steps
    "diverging": {"optimizer__base_lr": 1.0, "optimizer__warmup": "25 steps"},
}


def trained(videos: Path, run: Path, helpers: Any, **changes: Any) -> list[dict[str, Any]]:
    settings = {
        "training__duration": "30 steps",
        "training__log_every": 3,
        "training__checkpoint_every": "30 steps",
        "objective__target": "raw",
        **changes,
    }
    run_torch(helpers.recipe(videos, run, **settings))
    return read_metrics(run / "metrics.jsonl")


@pytest.mark.parametrize("kind", ILL)
def test_a_run_made_ill_says_so(
    kind: str,
    videos: Path,
    tmp_path: Path,
    helpers: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On its lines, once with what to do, and on its page.  That so small a network waits for data is left out."""
    monkeypatch.setattr(Stopwatch, "waited", lambda self, seconds: None)
    run = tmp_path / "run"
    with caplog.at_level(logging.INFO, logger="video_ssl"):
        rows = trained(videos, run, helpers, **ILL[kind])
    assert verdict_of(rows).kind == kind
    steps = [r.getMessage() for r in caplog.records if r.getMessage().startswith("step ")]
    assert steps[0].endswith("left  early")
    assert steps[-1].endswith(f"left  {kind}")
    warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len([w for w in warned if w.startswith(f"{kind}: ")]) == (kind != "fine")
    page = write_report(run).read_text()
    assert f"<b>Health: {kind}</b>" in page


def test_a_slow_loader_says_so(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second of reading beside milliseconds of step."""
    from video_ssl.clips import pipeline

    draw = pipeline.Pipeline.__next__

    def slowly(self: Iterator[Any]) -> Any:
        time.sleep(0.5)
        return draw(self)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline.Pipeline, "__next__", slowly)
    rows = trained(videos, tmp_path / "run", helpers, training__duration=4, training__log_every=1)
    assert verdict_of(rows).kind == "loader-bound"
