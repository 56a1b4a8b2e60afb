"""The linear probe: how much of the class a linear layer reads from frozen features.

A grid of heads (poolings x learning rates x weight decays) is trained together on a part of train;
the best on the rest of train (whole groups, stratified by class) is chosen and trained again on all
of train; only then are the test features opened.  The probabilities of several clips of a video
are averaged.  The pooled features of train are held in memory: N clips times the summed width of
the poolings, in float32.

Several processes share the clips of train and test: each pools and holds its own, gradients are added up over
processes, and the result is that of one process up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal

import numpy as np

from video_ssl.embed.features import FeatureFile
from video_ssl.evaluate import metrics
from video_ssl.evaluate.context import Context, device_of
from video_ssl.evaluate.contract import (
    RECOGNITION,
    Figure,
    Given,
    Needs,
    Result,
    recognition_result,
)
from video_ssl.evaluate.granularity import add_granularity, check_coarse, parents_of
from video_ssl.evaluate.heads import ChosenHead, names_of
from video_ssl.evaluate.linear import Fit, Head, LinearHeads
from video_ssl.evaluate.pooling import (
    check_poolings,
    distinct_poolings,
    outputs_of,
    pooled_features,
)
from video_ssl.evaluate.row_shares import ALONE, Share, own_rows
from video_ssl.evaluate.videos import (
    Videos,
    classes_of,
    mean_by,
    shared_notes,
    split_train,
    train_and_test,
)
from video_ssl.pretrain.processes import Processes


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Settings of the linear probe; lists are grids to choose from.

    Attributes:
        poolings: see `pooling.py`.
        learning_rates: at the start of a cosine that ends at 0.
        weight_decays: decoupled for adamw.
        epochs: passes over the training clips.
        held_out_share: part of the training videos that decides the choice; 0: nothing is chosen, the first of every
            list is taken.
        refit: train the chosen head again on all training videos before the test.
        coarse: name of a coarse class -> names of its classes; those that are not listed stand for themselves. Adds the
            accuracy over coarse classes, and that within the right one, to the table.
        device: where the heads are trained; auto = that of the evaluation.
    """

    poolings: tuple[str, ...] = ("clip", "mean", "max", "mean_std", "concat_4")
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    weight_decays: tuple[float, ...] = (0.01, 1.0)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    epochs: int = 100
    batch_size: int = 256
    held_out_share: float = 0.2
    refit: bool = True
    coarse: dict[str, tuple[str, ...]] = field(default_factory=dict)
    device: str = "auto"

    def __post_init__(self) -> None:
        check_poolings(self.poolings)
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates={self.learning_rates} must be positive numbers.")
        if not self.weight_decays or min(self.weight_decays) < 0:
            raise ValueError(f"weight_decays={self.weight_decays} must be numbers of at least 0.")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(
                f"epochs={self.epochs} and batch_size={self.batch_size} must be at least 1."
            )
        if not 0 <= self.held_out_share < 1:
            raise ValueError(
                f"held_out_share={self.held_out_share} must lie between 0 and 1, or be 0 to choose nothing."
            )
        if self.held_out_share == 0 and not self.refit:
            raise ValueError("refit=false needs a held_out_share: nothing would be trained.")
        check_coarse(self.coarse)


class LinearProbe:
    """The evaluator `probe`."""

    Config = ProbeConfig
    title = "linear probe"
    figures = {  # noqa: RUF012
        **RECOGNITION,
        "coarse": Figure(title="coarse"),
        "within": Figure(title="in coarse"),
    }

    def __init__(self, config: ProbeConfig) -> None:
        self.config = config

    @property
    def needs(self) -> Needs:
        return Needs(outputs=outputs_of(self.config.poolings), several_classes=True, processes=True)

    def evaluate(self, given: Given) -> Result:
        """Returns accuracy on `test` of the head that was chosen and fitted on `train`.  Called by every process.

        Raises:
            FeatureError: labels or frame features are missing, or train has one class only.
        """
        config = replace(self.config, device=device_of(self.config.device, given))
        train, test, seed = given.train, given.test, given.seed
        processes = given.processes if isinstance(given, Context) else ALONE
        train_videos, test_videos, matched = train_and_test(train, test)
        classes, train_labels, test_labels = classes_of(train_videos, test_videos)
        names = train.metadata.get("class_names") or ()
        parents = parents_of(config.coarse, names, classes) if config.coarse else None
        clips = train_labels[train_videos.index]
        mine = own_rows(len(train), processes)
        held, notes = self._held_out(train_videos, seed)
        grid = [self._first(train)]
        models: dict[str, LinearHeads] = {}
        if held.any():
            grid, models = self._train_grid(
                train,
                train_videos,
                clips,
                held,
                len(classes),
                self._fit(seed),
                processes,
                config.device,
            )
        best = max(range(len(grid)), key=lambda i: _merit(grid[i]))
        chosen = grid[best]
        if config.refit:
            head = Head(lr=chosen["learning_rate"], weight_decay=chosen["weight_decay"])
            model, column = LinearHeads([head], len(classes), config.device), 0
            x = pooled_features(train, chosen["pooling"], mine)
            model.fit(x, clips[mine], self._fit(seed), Share(mine, len(train), processes))
        else:
            heads = len(config.learning_rates) * len(config.weight_decays)
            model, column = models[chosen["pooling"]], best % heads
        mine = own_rows(len(test), processes)
        x = pooled_features(test, chosen["pooling"], mine)
        scores = Share(mine, len(test), processes).assemble(model.predict(x)[:, column])
        notes += matched + shared_notes(train_videos, test_videos) + self._edge_notes(chosen)
        probabilities = test_videos.mean(scores)
        result = recognition_result(
            probabilities,
            train_labels,
            test_labels,
            classes,
            notes,
            ids=test_videos.ids if given.keep_predictions else None,
        )
        if parents is not None:
            add_granularity(result, probabilities, test_labels, parents)
        result.chosen.update(chosen)
        result.heads["probe"] = ChosenHead(
            kind="linear",
            class_names=names_of(names, classes),
            weights=model.arrays(column),
            settings={"pooling": chosen["pooling"]},
        )
        result.details.update(
            grid=grid,
            held_out_videos=int(held.sum()),
            train_videos=len(train_videos),
            train_clips=len(train),
        )
        return result

    def _held_out(self, videos: Videos, seed: int) -> tuple[np.ndarray, list[str]]:
        """Which videos decide the choice, bool (V,), and notes about them; none where nothing is chosen."""
        if self.config.held_out_share == 0:
            return np.zeros(len(videos), bool), []
        return split_train(videos, self.config.held_out_share, seed)

    def _first(self, train: FeatureFile) -> dict[str, Any]:
        """The first setting of every list, about which nothing was measured."""
        config = self.config
        return {
            "pooling": distinct_poolings(train, config.poolings)[0],
            "learning_rate": config.learning_rates[0],
            "weight_decay": config.weight_decays[0],
            "held_out_top1": math.nan,
            "held_out_loss": math.nan,
        }

    def _train_grid(
        self,
        train: FeatureFile,
        videos: Videos,
        clips: np.ndarray,
        held: np.ndarray,
        num_classes: int,
        fit: Fit,
        processes: Processes,
        device: str,
    ) -> tuple[list[dict[str, Any]], dict[str, LinearHeads]]:
        config = self.config
        heads = [
            Head(lr=lr, weight_decay=decay)
            for lr, decay in product(config.learning_rates, config.weight_decays)
        ]
        held_clips = held[videos.index]
        labels = np.zeros(len(videos), np.int64)
        labels[videos.index] = clips
        mine = own_rows(len(train), processes)
        learned, judged = (_share_of(which, mine, processes) for which in (~held_clips, held_clips))
        _, index = np.unique(videos.index[held_clips], return_inverse=True)
        grid, models = [], {}
        for pooling in distinct_poolings(train, config.poolings):
            x = pooled_features(train, pooling, mine)
            model = LinearHeads(heads, num_classes, device)
            model.fit(x[~held_clips[mine]], clips[mine][~held_clips[mine]], fit, learned)
            models[pooling] = model
            probabilities = mean_by(judged.assemble(model.predict(x[held_clips[mine]])), index)
            for number, head in enumerate(heads):
                own = probabilities[:, number]
                truth = own[np.arange(len(own)), labels[held]]
                grid.append(
                    {
                        "pooling": pooling,
                        "learning_rate": head.lr,
                        "weight_decay": head.weight_decay,
                        "held_out_top1": metrics.top_k_accuracy(own, labels[held]),
                        "held_out_loss": float(-np.log(np.maximum(truth, 1e-12)).mean()),
                    }
                )
        return grid, models

    def _fit(self, seed: int) -> Fit:
        config = self.config
        return Fit(
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimizer=config.optimizer,
            seed=seed,
        )

    def _edge_notes(self, chosen: dict[str, Any]) -> list[str]:
        rates = sorted(self.config.learning_rates)
        known = self.config.held_out_share > 0
        if known and len(rates) > 2 and chosen["learning_rate"] in (rates[0], rates[-1]):
            return [
                f"the chosen learning rate {chosen['learning_rate']} is at the edge of the grid: a "
                "wider grid may do better"
            ]
        return []


def _share_of(which: np.ndarray, mine: np.ndarray, processes: Processes) -> Share:
    """The share of this process, which has the clips `mine`, in the clips that `which` (bool, N) takes."""
    places = np.cumsum(which) - 1
    return Share(places[mine[which[mine]]], int(which.sum()), processes)


def _merit(entry: dict[str, Any]) -> tuple[float, float]:
    """More videos right is better; among equals the lower loss; among equals the first."""
    return entry["held_out_top1"], -entry["held_out_loss"]
