"""What a tokenizer's vocabulary is used for, counted over training pictures: a part of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Table
from video_ssl.evaluate.metrics import perplexity
from video_ssl.explore.pages.charts import line_chart
from video_ssl.explore.pages.trained_network import trained_network
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe

_TIMEOUT_SEC = 20.0
#: Videos whose pictures are counted, at equal distances in the table.
MOST = 64


@dataclass(frozen=True, kw_only=True)
class VocabularySection:
    """How often each word stands somewhere.

    Attributes:
        drawing: the shares of the words, the most frequent first, SVG.
        words: of the vocabulary.
        dead: words that stand nowhere.
        perplexity: of the frequencies: words of equal frequency that would be as hard to guess.
        most_frequent: share of the most frequent word.
        cells, videos: that were counted.
    """

    drawing: Markup
    words: int
    dead: int
    perplexity: float
    most_frequent: float
    cells: int
    videos: int


def vocabulary_of(recipe: PretrainRecipe, table: Table) -> VocabularySection | None:
    """Returns what the newest checkpoint makes of training pictures; None where the objective has no vocabulary."""
    objective = trained_network(recipe, "counted_words")
    if objective is None:
        return None
    import torch

    from video_ssl.pretrain.torch_loop.device_feed import to_tensors

    plan = OBJECTIVES[recipe.objective_name].main_plan(recipe.objective)
    places = np.unique(np.linspace(0, len(table) - 1, min(MOST, len(table))).round().astype(int))
    counts: NDArray[np.int64] | None = None
    videos = 0
    for place in places:
        record = table.record(int(place))
        rng = np.random.default_rng((recipe.seed, record.index))
        try:
            with open_record(record, timeout_sec=_TIMEOUT_SEC) as reader:
                sample = plan(record, reader, rng, 1.0)
        except (BadVideo, OSError):
            continue
        batch = to_tensors({name: np.asarray(value)[None] for name, value in sample.items()})
        with torch.inference_mode():
            found = objective.counted_words(batch)
        if found is None:
            return None
        counts = found.numpy() if counts is None else counts + found.numpy()
        videos += 1
    return None if counts is None else section_of(counts, videos)


def section_of(counts: NDArray[np.int64], videos: int) -> VocabularySection:
    """Returns what is told of words that were counted, int64 (K,), over the pictures of so many videos."""
    shares = np.sort(counts / counts.sum())[::-1]
    used = shares[shares > 0]
    curve = [(float(rank), float(share)) for rank, share in enumerate(used, 1)]
    return VocabularySection(
        drawing=line_chart({"share": curve}, log=True),
        words=len(counts),
        dead=int((counts == 0).sum()),
        perplexity=perplexity(counts),
        most_frequent=float(shares[0]),
        cells=int(counts.sum()),
        videos=videos,
    )
