"""Coarse classes: how much of the accuracy is knowing which classes belong together, and how much which of them it is.

Source: granularity is an axis of SEVERE (papers/frozen_protocols.md section 8); these two measures are ours [SPEC].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.contract import Result
from video_ssl.evaluate.metrics import coarse_accuracy, within_accuracy
from video_ssl.recipes import nearest


def check_coarse(coarse: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for a coarse class without classes, and a class that stands in two or twice."""
    taken: dict[str, str] = {}
    for group, names in coarse.items():
        if not names:
            raise ValueError(f"coarse.{group} is empty: name its classes.")
        for name in names:
            if name in taken:
                raise ValueError(
                    f"coarse: the class {name!r} is in {taken[name]} and in {group}: name it once."
                )
            taken[name] = group


def parents_of(
    coarse: Mapping[str, Sequence[str]], names: Sequence[str], classes: np.ndarray
) -> np.ndarray:
    """Returns int64 (K,): the coarse class, 0.., of each class; one that no group names is a group of its own.

    Args:
        coarse: group -> names of classes.
        names: of all classes, by number.
        classes: (K,) the numbers of the classes in question.

    Raises:
        FeatureError: the classes have no names, or there is no class of a name.

    >>> parents_of({"run": ["jog", "sprint"]}, ["jog", "sit", "sprint"], np.arange(3)).tolist()
    [0, 1, 0]
    """
    if not names:
        raise FeatureError(
            "coarse names classes, but the training features have no names of classes: store them, or leave coarse out."
        )
    group_of = {name: group for group, own in coarse.items() for name in own}
    for name, group in group_of.items():
        if name not in names:
            raise FeatureError(
                f"coarse.{group}: no class {name!r} among {len(names)} of train.{nearest(name, names)}"
            )
    known = [names[label] if label < len(names) else str(label) for label in classes.tolist()]
    places: dict[tuple[str, str], int] = {}
    keys = [("group", group_of[name]) if name in group_of else ("class", name) for name in known]
    return np.array([places.setdefault(key, len(places)) for key in keys], np.int64)


def add_granularity(
    result: Result, scores: np.ndarray, labels: np.ndarray, parents: np.ndarray
) -> None:
    """Adds to a result the accuracy over coarse classes ("coarse") and that within the right one ("within").

    What guessing gives stands beside them: a class at random is of the right group as often as the group has classes.

    Args:
        scores: (V, K).
        labels: int (V,), -1 for a class that train does not have.
        parents: int (K,), see `parents_of`.
    """
    sizes = np.bincount(parents)[parents[labels]].astype(float)  # of the group of each video
    known = labels >= 0
    several = known & (sizes > 1)
    result.metrics["coarse"] = coarse_accuracy(scores, labels, parents)
    result.metrics["within"] = within_accuracy(scores, labels, parents)
    result.details["chance"] = {
        "coarse": float(np.where(known, sizes / len(parents), 0.0).mean()),
        "within": float((1 / sizes[several]).mean()) if several.any() else float("nan"),
    }
    result.details["parents"] = parents.tolist()
