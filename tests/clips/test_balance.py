"""Class-balanced batches: what a group holds, the same for any workers, hosts and resumes, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from video_ssl.clips.balance import BalanceConfig, balanced_order
from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.datasets.table import Record, Table
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.recipes import ConfigError

LABELS = [0, 1, 2, 0, -1, 1, 2, 0, 1, 2, 2, 2]
BALANCE = BalanceConfig(classes=2, videos=3)


class LabelPlan:
    """The label, and a number that tells which generator the sample got."""

    def __call__(
        self, record: Record, reader: Reader, rng: np.random.Generator, progress: float
    ) -> Mapping[str, np.ndarray]:
        label = -1 if record.label is None else record.label
        return {"label": np.array(label), "drawn": np.array(rng.random())}


def make_table(source: str, labels: list[int] | None = None) -> Table:
    labels = LABELS if labels is None else labels
    return Table.from_columns(
        {
            "source": [source] * len(labels),
            "id": [f"v{i}" for i in range(len(labels))],
            "label": [None if label < 0 else label for label in labels],
        },
        class_names=["kick", "throw", "bow"],
    )


def batches(table: Table, *, num_workers: int = 0, size: int = 12, **settings: object):  # type: ignore[no-untyped-def]
    with Pipeline(
        [(table, 1.0)],
        LabelPlan(),
        seed=3,
        global_batch_size=size,
        num_steps=6,
        config=LoaderConfig(num_workers=num_workers),
        balance=BALANCE,
        **settings,  # type: ignore[arg-type]
    ) as found:
        return list(found)


@pytest.fixture
def table(videos) -> Table:  # type: ignore[no-untyped-def]
    return make_table(str(videos / "gop12.mp4"))


def test_every_group_has_its_classes_with_different_videos() -> None:
    order = balanced_order(make_table("a.mp4"), BALANCE, seed=0)
    labels = np.array(LABELS)
    seen = set()
    for number in range(200):
        rows = order.group(number)
        seen.update(rows.tolist())
        found = labels[rows].reshape(2, 3)
        assert (found == found[:, :1]).all(), "videos of a class side by side"
        assert found[0, 0] != found[1, 0]
        assert (found >= 0).all()
        assert len(set(rows.tolist())) == 6
    assert seen == set(np.flatnonzero(labels >= 0).tolist())
    flat = [order.row(i) for i in range(12)]
    assert flat == [*order.group(0), *order.group(1)]
    assert flat != [balanced_order(make_table("a.mp4"), BALANCE, seed=1).row(i) for i in range(12)]


def test_batches_are_the_same_for_workers_hosts_and_resumed_runs(table: Table) -> None:
    alone = batches(table)
    assert len(alone) == 6
    for other in (batches(table, num_workers=2), [*alone[:2], *batches(table, start_step=2)]):
        for a, b in zip(alone, other, strict=True):
            for name in ("record_index", "label", "drawn"):
                np.testing.assert_array_equal(a[name], b[name])
    hosts = [batches(table, host=(h, 2)) for h in range(2)]
    for step, whole in enumerate(alone):
        for name in ("record_index", "label", "drawn"):
            parts = [host[step][name] for host in hosts]
            assert [len(part) for part in parts] == [6, 6], "each host has a whole group"
            np.testing.assert_array_equal(np.concatenate(parts), whole[name])
    assert len({float(x) for batch in alone for x in batch["drawn"]}) == 72


def test_what_cannot_be_balanced_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"need labels, and .* has none: leave data.balance empty"):
        balanced_order(make_table("a.mp4", [-1, -1]), BALANCE, seed=0)
    with pytest.raises(ValueError, match="need labels"):
        balanced_order(Table.from_columns({"source": ["a.mp4"]}), BALANCE, seed=0)
    with pytest.raises(
        ValueError, match=r"1 of 2 classes have fewer videos \(the least 1\): throw"
    ):
        balanced_order(make_table("a.mp4", [0, 0, 0, 1]), BALANCE, seed=0)
    with pytest.raises(ValueError, match="videos of 1 classes only: lower it"):
        balanced_order(make_table("a.mp4", [0, 0, 0]), BALANCE, seed=0)
    with pytest.raises(
        ValueError, match=r"global_batch_size=8 .*=2 x videos=3: use a multiple of 6"
    ):
        batches(make_table("a.mp4"), size=8)
    with pytest.raises(ValueError, match=r"in each of 2 parts .*: use a multiple of 12"):
        batches(make_table("a.mp4"), size=6, host=(0, 2))
    with pytest.raises(ValueError, match=r"one table, not from 1 with shuffle=False"):
        batches(make_table("a.mp4"), shuffle=False)
    with pytest.raises(ValueError, match="classes=0"):
        BalanceConfig(classes=0)


def test_a_recipe_says_what_does_not_fit() -> None:
    given = ["data.balance={classes: 2, videos: 3}"]
    with pytest.raises(ConfigError, match="use a multiple of 6"):
        load_pretrain_recipe("carl/demo", [*given, "training.global_batch_size=4"])
    with pytest.raises(ConfigError, match="mix names"):
        load_pretrain_recipe("carl/demo", [*given, "data.mix={other: 1.0}"])
    assert load_pretrain_recipe("carl/demo", [*given, "training.global_batch_size=6"]).data.balance
