"""Settings of the benchmarks.  Free of torch and jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_MOST_BUSY = 1024


@dataclass(frozen=True, kw_only=True)
class StepBench:
    """How a step is timed.

    Attributes:
        batch_size: records per step.  The recipe's own batch is for many devices.
        steps: timed steps; the median is shown.
        warmup: steps before them.
        compile_too: time torch.compile as well.  Flax compiles every step.
        busy: time the step once more beside so many processes that keep cores busy, as other jobs of the machine do.
    """

    batch_size: int = 8
    steps: int = 5
    warmup: int = 2
    compile_too: bool = False
    busy: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.busy <= _MOST_BUSY:
            raise ValueError(f"busy={self.busy} must lie in 0..{_MOST_BUSY} processes.")


@dataclass(frozen=True, kw_only=True)
class LoaderBench:
    """What the data pipeline is measured on, and how often.

    Attributes:
        footage: what is read: easy or hard (files made on first use), or table, the recipe's own.
        num_batches: batches drawn from the pipeline with workers; 0: none.
        num_records: records timed one by one in every turn.
        repeats: turns; medians are shown.
        step_ms: what a step of the consumer takes.
        folder: where the footage is kept.
        json_path: write figures here.
    """

    footage: str = "table"
    num_batches: int = 30
    num_records: int = 20
    repeats: int = 5
    step_ms: float = 0.0
    folder: Path = Path("data/bench-footage")
    json_path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ReadersBench:
    """What the decoders are timed on.

    Attributes:
        draws: clips timed per file.
        num_frames: length of the timed files.
        seed: of the starts of the clips.
    """

    draws: int = 25
    num_frames: int = 300
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StartBench:
    """How the start of processes is timed.

    Attributes:
        repeats: turns; medians are shown.
    """

    repeats: int = 3

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class RetrieveBench:
    """What retrieval is measured on: random features, of a clip a video.

    Attributes:
        queries: vectors that search.
        gallery: vectors that are searched.
        width: numbers of a vector.
        repeats: turns; medians are shown.
    """

    queries: int = 1000
    gallery: int = 100_000
    width: int = 512
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("queries", "gallery", "width", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class EmbedBench:
    """What reading for `embed` is measured on, and how often.

    Attributes:
        footage: what is read: easy or hard (files made on first use), or a table, list or folder of videos.
        size: side of the squares that an encoder sees.
        num_frames: frames of a window.
        num_records: videos of the table, the first ones.
        repeats: turns; medians are shown.
        folder: where the footage is kept.
    """

    footage: str = "easy"
    size: int = 224
    num_frames: int = 16
    num_records: int = 8
    repeats: int = 3
    folder: Path = Path("data/bench-footage")

    def __post_init__(self) -> None:
        for name in ("size", "num_frames", "num_records", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class EvaluateBench:
    """What the evaluators are measured on, and how often.

    Attributes:
        rows: features to learn from, one a video, in clusters by class.
        dim: numbers of a feature.
        classes: of the features.
        test_rows: features to be judged by.
        heads: of the attentive probe's grid.
        repeats: turns; medians are shown.
        folder: where the footage is kept that three encoders read.
    """

    rows: int = 1200
    dim: int = 512
    classes: int = 14
    test_rows: int = 300
    heads: int = 20
    repeats: int = 5
    folder: Path = Path("data/bench-footage")

    def __post_init__(self) -> None:
        for name in ("dim", "test_rows", "heads", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.classes < 2:
            raise ValueError(f"classes={self.classes} must be at least 2: nothing to tell apart.")
        if self.rows < 2 * self.classes:
            raise ValueError(
                f"rows={self.rows} must be at least 2 for each of classes={self.classes}: one to learn from and one "
                "that decides the choice."
            )


@dataclass(frozen=True, kw_only=True)
class AllBench:
    """How the benches are run of which `bench all` makes a table.

    Attributes:
        repeats: turns of each; medians are shown.
        folder: where the footage is kept.
    """

    repeats: int = 3
    folder: Path = Path("data/bench-footage")

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} must be at least 1.")
