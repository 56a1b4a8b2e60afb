"""Whether an evaluator that looks at videos computes where the evaluation runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.datasets.table import Table
from video_ssl.embed.features import features_from_arrays
from video_ssl.evaluate.context import Context
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.models.encoders import load_encoder


def check_device(recipe: Callable[..., EvaluateRecipe], run: Path, table: Path) -> None:
    """Asserts that the only evaluator of a recipe takes the device of the evaluation unless it has one of its own.

    torch's device "meta" computes nothing, and says so: so it shows on every machine that the device is taken.

    Args:
        recipe: makes it of the run, the table, a folder and settings of the evaluator.
        run: of an encoder.
        table: its test videos.
    """
    features = features_from_arrays({"features": np.eye(2)})
    given = Context(
        train=features,
        test=features,
        device=torch.device("meta"),
        encoder=load_encoder(run),
        tables={"test": Table.open(table)},
    )
    (evaluator,) = recipe(run, table, "out", most_videos=1).make_evaluators().values()
    with pytest.raises(NotImplementedError, match="meta"):
        evaluator.evaluate(given)
    (evaluator,) = recipe(run, table, "out", most_videos=1, device="cpu").make_evaluators().values()
    assert evaluator.evaluate(given).details["videos"] == 1
