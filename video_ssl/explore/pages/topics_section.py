"""Which videos the network of a run takes for one topic, beside which are: a part of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets.remote.errors import redacted
from video_ssl.datasets.table import Table
from video_ssl.explore.pages.charts import pair_chart
from video_ssl.explore.pages.trained_network import trained_network
from video_ssl.explore.run_data import class_name
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe

_TIMEOUT_SEC = 20.0


@dataclass(frozen=True, kw_only=True)
class TopicsSection:
    """Two heat maps over the same videos.

    Attributes:
        table: which videos these are, by what their table is called; "" = those of the training.
        judged: how sure the network is that two videos belong together; None where fewer than two can be used.
        true: which have one label; None where the table has no labels.
        left_out: (video, reason) of those that cannot be used.
        ranked: chance that a pair of one label is judged surer than one of two; None without labels or with one only.
    """

    table: str
    judged: Markup | None = None
    true: Markup | None = None
    left_out: tuple[tuple[str, str], ...] = ()
    ranked: float | None = None


def topics_of(
    recipe: PretrainRecipe, table: Table, *, most: int, name: str = ""
) -> TopicsSection | None:
    """Returns what the newest checkpoint judges of videos; None where the objective judges no pairs.

    Args:
        recipe: of the run.
        table: the videos.
        most: of them are compared, at equal distances in the table; those of a class stand side by side.
        name: see `TopicsSection.table`.
    """
    objective = trained_network(recipe, "related")
    if objective is None:
        return None
    import torch

    from video_ssl.pretrain.torch_loop.device_feed import to_tensors

    plan = OBJECTIVES[recipe.objective_name].main_plan(recipe.objective)
    places = np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).round().astype(int))
    records = sorted((table.record(int(i)) for i in places), key=lambda r: (r.label or 0, r.index))
    shown, samples, left_out = [], [], []
    for record in records:
        try:
            with open_record(record, timeout_sec=_TIMEOUT_SEC) as reader:
                rng = np.random.default_rng((recipe.seed, record.index))
                samples.append(plan(record, reader, rng, 1.0))
        except (BadVideo, OSError) as err:
            reason = err.reason if isinstance(err, BadVideo) else str(err)
            left_out.append((redacted(record.id), reason))
            continue
        shown.append(record)
    if len(shown) < 2:
        return TopicsSection(table=name, left_out=tuple(left_out))
    batch = to_tensors({name: np.stack([s[name] for s in samples]) for name in samples[0]})
    with torch.inference_mode():
        related = objective.related(batch)
    if related is None:
        return None
    sure = related.float().numpy()
    names = [f"{r.id}{class_name(table.class_names, r.label, ' · ')}" for r in shown]
    judged = pair_chart(sure.tolist(), names)
    labels = np.array([record.label for record in shown if record.label is not None])
    if len(labels) < len(shown):
        return TopicsSection(table=name, judged=judged, left_out=tuple(left_out))
    same = labels[:, None] == labels
    return TopicsSection(
        table=name,
        judged=judged,
        left_out=tuple(left_out),
        true=pair_chart(same.astype(float).tolist(), names),
        ranked=_ranked(sure, same),
    )


def _ranked(sure: np.ndarray, same: np.ndarray) -> float | None:
    """The area under the ROC curve over pairs of two videos."""
    pairs = ~np.eye(len(sure), dtype=bool)
    right, wrong = sure[same & pairs], sure[~same]
    if not len(right) or not len(wrong):
        return None
    above = right[:, None] > wrong
    level = right[:, None] == wrong
    return float((above + 0.5 * level).mean())
