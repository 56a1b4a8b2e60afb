"""Fine-tuning: how much of the class an encoder gives when all of it learns, from all labels and from few.

For every part of the training videos (see `label_curve`) the encoder is trained further by a recipe of the objective
`supervised`, in a run of its own below OUT/files/ENCODER/finetune; then its classifier names the test videos.
`untrained:RUN` beside RUN is the same network from scratch: the same recipe, the same videos, fresh weights.  The
number of steps is the same for every part.  A run that is finished is not trained again, one that was killed goes on.

Source: [SPEC, ours]; the recipe says which settings are published ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from video_ssl.datasets.class_names import listed, numbers_by_name
from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.contract import Figure, Given, Needs, Result
from video_ssl.evaluate.label_curve import (
    Budget,
    budgets,
    check_budgets,
    curve_point,
    curve_result,
    drawn_parts,
)
from video_ssl.evaluate.predict import judged
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.videos import renumbered, shared_notes, train_and_test
from video_ssl.files import temporary_folder
from video_ssl.models.encoder_config import choosable
from video_ssl.models.encoders import save_encoder
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.start import run_recipe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of the fine-tuning.

    Attributes:
        shares: of the videos of each class, in (0, 1]; rounded, and at least one video.
        per_class: numbers of videos of each class; all of a class that has no more.
        draws: how often a part is drawn; all videos are taken once.
        recipe: of the objective supervised, by name or as a file.
        steps: optimizer steps of every run.
        settings: dotted key of the recipe -> value, {"optimizer.base_lr": 1e-3}.
        num_clips: of a test video; the mean of their softmax counts.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.1, 1.0)
    per_class: tuple[int, ...] = ()
    draws: int = 1
    recipe: str = "supervised/finetune_demo"
    steps: int = 300
    settings: dict[str, Any] = field(default_factory=dict)
    num_clips: int = 2

    def __post_init__(self) -> None:
        check_budgets(self.shares, self.per_class, self.draws)
        if self.steps < 1 or self.num_clips < 1:
            raise ValueError(
                f"steps={self.steps} and num_clips={self.num_clips} must be at least 1."
            )
        taken = sorted({"run", "data.table", "objective.init.run", "seed"} & set(self.settings))
        if taken:
            raise ValueError(
                f"settings has {taken[0]}, which follows from the evaluation: leave it out."
            )


class Finetune:
    """The evaluator `finetune`."""

    Config = FinetuneConfig
    title = "fine-tuning"
    learns_on: ClassVar[bool] = True
    figures = {"finetune area": Figure(title="finetune, mean over log labels")}  # noqa: RUF012

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(several_classes=True, encoder=True, reader=True, alone=True)

    def evaluate(self, given: Given) -> Result:
        """Returns the accuracy on `test` after training on parts of `train`, a metric `finetune BUDGET` for each.

        Raises:
            FeatureError: an encoder that cannot be fine-tuned.
            RunError, ConfigError: see `run_recipe`.
        """
        assert isinstance(given, Context)
        train, test = given.tables["train"], given.tables["test"]
        labels = train.column("label").astype(np.int64)
        train_videos, test_videos, notes = train_and_test(given.train, given.test)
        notes += shared_notes(train_videos, test_videos)
        truth = _truth(train, test)
        curve = []
        with ExitStack() as stack:
            folder = given.folder or stack.enter_context(temporary_folder("finetune"))
            start, fingerprint = _saved(given.encoder, folder / "finetune" / "start")
            test.save(folder / "finetune" / "test.arrow")
            for budget in budgets(self.config.shares, self.config.per_class):
                draws = []
                parts = drawn_parts(budget, labels, seed=given.seed, draws=self.config.draws)
                for seed, rows, _, smallest in parts:
                    run = self._trained(given, start, fingerprint, budget, seed, train.select(rows))
                    top1, correct, total, told = self._tried(given, run, truth)
                    notes += told
                    draws.append(
                        {
                            "seed": seed,
                            "labels": len(rows),
                            "smallest_class": smallest,
                            "top1": top1,
                            "correct": correct,
                            "run": str(run),
                        }
                    )
                curve.append(curve_point("finetune", budget, draws, total))
        return curve_result(
            curve,
            num_classes=len(np.unique(labels)),
            total=total,
            notes=notes,
            details={"recipe": self.config.recipe, "steps": self.config.steps},
        )

    def _trained(
        self,
        given: Context,
        start: Path,
        fingerprint: str,
        budget: Budget,
        seed: int,
        part: Table,
    ) -> Path:
        """The folder of the run that has learned from a part of the training videos."""
        config = self.config
        settings: dict[str, Any] = {
            "training.duration": f"{config.steps} steps",
            "training.checkpoint_every": f"{config.steps} steps",
            "optimizer.warmup": f"{max(1, config.steps // 10)} steps",
            "training.device": _device_of(given.encoder),
            "validation": None,
            **config.settings,
        }
        rows = [part.column(name).tolist() for name in ("id", "label")]
        which = [fingerprint, config.recipe, settings, seed, rows, str(part.path)]
        digest = hashlib.sha256(json.dumps(which, default=str).encode()).hexdigest()[:12]
        name = budget.name.replace(" %", "_percent").replace(" ", "_")
        run = start.parent / f"{name}-{digest}"
        table = start.parent / f"{name}-{digest}.arrow"
        part.save(table)
        own = {
            **settings,
            "objective.init.run": str(start),
            "data.table": str(table),
            "run": str(run),
            "seed": seed,
        }
        logger.info("fine-tuning on %s, %d videos: %s", budget.name, len(part), run)
        run_recipe(load_pretrain_recipe(config.recipe, [_word(k, v) for k, v in own.items()]))
        return run

    def _tried(
        self, given: Context, run: Path, truth: Mapping[str, int]
    ) -> tuple[float, int, int, list[str]]:
        """Accuracy, right and all test videos that could be read, and notes.

        Args:
            truth: id -> label as train numbers its classes, of all test videos.
        """
        settings = given.settings
        told = judged(
            run,
            str(run.parent / "test.arrow"),
            device=_device_of(given.encoder),
            config=PredictConfig(
                num_clips=self.config.num_clips,
                batch_size=settings.batch_size,
                num_workers=settings.num_workers,
                backend=settings.backend,
                video_timeout_sec=settings.video_timeout_sec,
            ),
        )
        # By number: where one of two tables has no names of classes, numbers are all there is.
        answers = {a.id: int(a.whole.shares.argmax()) for a in told.answers}
        right = sum(truth[key] == found for key, found in answers.items())
        unknown = sorted({truth[key] for key in answers} - set(range(len(told.class_names))))
        notes = (
            [f"{len(unknown)} classes of test are not in train, and count as wrong"]
            if unknown
            else []
        )
        if told.unreadable:
            lost = listed([str(entry["id"]) for entry in told.unreadable])
            notes.append(
                f"{len(told.unreadable)} test videos could not be read by the fine-tuned runs: {lost}"
            )
        return right / len(answers), right, len(answers), notes


def _truth(train: Table, test: Table) -> dict[str, int]:
    """Id -> label as train numbers its classes, of all test videos: which of them a run can read shows later."""
    labels = test.column("label").astype(np.int64)
    numbers = numbers_by_name(train.class_names, test.class_names)
    if numbers is not None:
        labels = renumbered(labels, numbers, f"{test.path or 'test'}: row", "classes")
    return dict(zip(map(str, test.column("id")), labels.tolist(), strict=True))


def _device_of(encoder: Any) -> str:
    return str(next(encoder.parameters()).device.type)


def _word(key: str, value: Any) -> str:
    """A setting as it is typed on a command line."""
    return f"{key}={value if isinstance(value, str) else json.dumps(value, default=os.fspath)}"


def _saved(encoder: Any, place: Path) -> tuple[Path, str]:
    """The folder with the weights that every run starts from, and their fingerprint."""
    kinds = choosable("video")
    if not isinstance(encoder, nn.Module) or encoder.architecture not in kinds:
        what = getattr(encoder, "architecture", type(encoder).__name__)
        raise FeatureError(
            f"evaluators.finetune trains encoders of torch, {sorted(kinds)}; this one ({what}) cannot be fine-tuned: "
            "leave it out of encoders."
        )
    save_encoder(
        place,
        encoder,
        architecture=str(encoder.architecture),
        preprocess=encoder.preprocess,  # type: ignore[arg-type]
        source=dict(encoder.source),  # type: ignore[arg-type]
    )
    return place, str(encoder.fingerprint)
