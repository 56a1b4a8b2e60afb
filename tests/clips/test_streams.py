"""Several streams in one batch: each as it would be alone, whatever the others, the workers and the hosts do."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
from pipeline_plans import ClipPlan, DyingPlan, PickyPlan, TablePlan

from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.streams import Stream
from video_ssl.datasets.table import Table

NAMES = ["gop12.mp4", "gop250.mp4", "audio.mp4", "matroska.mkv", "fragmented.mp4"]


@pytest.fixture
def table(videos):
    return Table.from_columns({"source": [str(videos / name) for name in NAMES]})


def run(table, plan, *, others=None, num_workers=0, steps=6, batch=4, **settings):
    config = LoaderConfig(num_workers=num_workers, max_bad_share=1.0)
    with Pipeline([(table, 1.0)], plan, seed=5, global_batch_size=batch, num_steps=steps,
                  config=config, others=others, **settings) as p:  # fmt: skip
        return list(p), p.stats


def two(table, plan=None, records=2):
    """A stream beside the main one, over three of the videos."""
    return {
        "image": Stream(
            tables=[(table.select([0, 1, 2]), 1.0)], plan=plan or ClipPlan(2), records=records
        )
    }


def part(batches, prefix):
    return [
        {n.removeprefix(prefix): a for n, a in b.items() if n.startswith(prefix)} for b in batches
    ]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_the_main_stream_is_what_it_is_alone_and_the_other_cycles(table):
    alone, _ = run(table, ClipPlan())
    both, stats = run(table, ClipPlan(), others=two(table, records=3))
    assert_equal(alone, [{n: a for n, a in b.items() if "/" not in n} for b in both])
    other = part(both, "image/")
    assert other[0]["video"].shape == (3, 1, 2, 24, 32, 3)
    orders = [batch["record_index"].tolist() for batch in other]
    assert all(sorted(order) == [0, 1, 2] for order in orders), "every pass shows every record once"
    assert len(set(map(tuple, orders))) > 1, "shuffled anew"
    progress = np.concatenate([batch["progress"] for batch in other])
    np.testing.assert_allclose(progress, np.arange(18) / 18)
    assert stats.samples == 6 * (4 + 3)


def test_streams_of_one_seed_draw_apart_and_by_their_name(table):
    same = Stream(tables=[(table, 1.0)], plan=ClipPlan(), records=4)
    batches, _ = run(table, ClipPlan(), others={"a": same, "b": same})
    draws = [tuple(row) for b in batches for n in ("draw", "a/draw", "b/draw") for row in b[n]]
    assert len(set(draws)) == len(draws)
    less, _ = run(table, ClipPlan(), others={"b": same})
    assert_equal(part(batches, "b/"), part(less, "b/"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resuming_and_workers_change_nothing(table, num_workers):
    whole, _ = run(table, ClipPlan(), others=two(table))
    tail, _ = run(table, ClipPlan(), others=two(table), start_step=2, num_workers=num_workers)
    assert_equal(whole[2:], tail)


def test_two_hosts_hold_the_rows_of_one(table):
    joint, _ = run(table, ClipPlan(), others=two(table, records=6))
    hosts = [run(table, ClipPlan(), others=two(table, records=6), host=(h, 2))[0] for h in range(2)]
    for step, batch in enumerate(joint):
        for host in range(2):
            for name in batch:
                np.testing.assert_array_equal(hosts[host][step][name], batch[name][host::2])


def test_tables_of_a_stream_are_mixed_by_weight_and_the_plan_knows_which(table):
    tables = [(table.named("videos:a"), 1.0), (table.select([0, 1, 2]).named("b"), 3.0)]
    stream = Stream(tables=tables, plan=TablePlan(), records=8)
    batches, _ = run(
        table.named("main"), TablePlan(), others={"x": stream}, steps=25, num_workers=1
    )
    index, size, name = (
        np.concatenate([b[f"x/{n}"] for b in batches]) for n in ("table_index", "index", "name")
    )
    assert index.mean() == pytest.approx(0.75, abs=0.01)
    np.testing.assert_array_equal(size, index)
    assert set(zip(index.tolist(), name.tolist(), strict=True)) == {(0, len("videos:a")), (1, 1)}
    rows = np.concatenate([b["x/record_index"] for b in batches])
    for which, count in ((0, 5), (1, 3)):
        own = rows[index == which]
        for start in range(0, len(own) - count + 1, count):
            assert sorted(own[start : start + count]) == list(range(count))
    assert set(np.concatenate([b["name"] for b in batches]).tolist()) == {len("main")}


def test_a_broken_video_of_a_stream_is_replaced_and_named(table, tmp_path, caplog):
    path = tmp_path / "skipped.jsonl"
    with caplog.at_level(logging.WARNING):
        batches, stats = run(table, ClipPlan(), others=two(table, PickyPlan([1])), skip_log=path)
    for batch in batches:
        assert 1 not in batch["image/record_index"]
        assert not [name for name in batch if "_bad" in name]
    assert any(1 in batch["record_index"] for batch in batches), "only that stream refuses it"
    assert stats.bad_samples > 0
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["source"], line["reason"]) == (table.record(1).source, "is not to our taste.")


def test_a_file_that_takes_workers_down_is_left_out_of_its_stream_only(table, tmp_path):
    path = tmp_path / "skipped.jsonl"
    others = two(table, DyingPlan("SIGSEGV", [1]))
    batches, _ = run(table, ClipPlan(), others=others, num_workers=1, skip_log=path)
    expected, _ = run(table, ClipPlan(), others=two(table, PickyPlan([1])))
    assert_equal(batches, expected)
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert (line["table"], line["row"]) == (1, 1), "tables count over all streams"
    # A resumed run does not try it again: here it would end this very process.
    assert_equal(batches[3:], run(table, ClipPlan(), others=others, start_step=3, skip_log=path)[0])


class SlashPlan(PickyPlan):
    def __call__(self, *args):
        return {"image/x": super().__call__(*args)["draw"]}


def test_streams_that_cannot_be(table):
    good = two(table)["image"]
    for others, host, message in (
        ({"image": replace(good, records=3)}, (0, 2), "stream 'image': records=3 must be a positive multiple of the 2"),
        ({"image": replace(good, records=0)}, (0, 1), "records=0 must be a positive"),
        ({"a/b": good}, (0, 1), "must not hold '/'"),
        ({"image": replace(good, tables=[])}, (0, 1), "stream 'image': tables with the weights .*at least one table"),
        ({"image": replace(good, tables=[(table, 0.0)])}, (0, 1), "positive weights"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            run(table, ClipPlan(), others=others, host=host)
    with pytest.raises(ValueError, match=r"the plan returns \['image/x'\]"):
        run(table, SlashPlan([]))
