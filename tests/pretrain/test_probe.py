"""Probes during training: what they say, that they change no bit of it, in both loops, and what is refused."""

from __future__ import annotations

import logging
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flax_runs import tiny as tiny_flax
from flax_runs import weights as flax_weights

from video_ssl.clips.pipeline import LoaderConfig
from video_ssl.datasets.table import Table
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.explore.pages.report_page import write_report
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.errors import Interrupted, RunError
from video_ssl.pretrain.probe import open_probe
from video_ssl.pretrain.probe_figures import (
    effective_rank,
    leave_one_out_accuracy,
    participation_ratio,
    rankme,
    ridge_accuracy,
)
from video_ssl.pretrain.recipe import ProbeConfig
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.stop import StopSignals
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.recipes import ConfigError

NAMES = ("probe_knn", "probe_linear", "probe_rankme", "probe_effective_rank", "probe_videos")
TIMES = ("time", "clips_per_sec", "data_wait_share", "host_memory_gib")


@pytest.fixture(scope="module")
def labelled(videos, tmp_path_factory):
    """The videos in two classes, in a folder with a space and a quote; one cannot be read."""
    folder = tmp_path_factory.mktemp("a b's")
    (folder / "broken.mp4").write_text("no video")
    rows = [{"source": str(p), "label": i % 2} for i, p in enumerate(sorted(videos.iterdir()))]
    rows.append({"source": str(folder / "broken.mp4"), "label": 1})
    return str(Table.from_rows(rows).save(folder / "labelled.arrow").path)


def probe(table, **settings):
    return {"table": table, "every": "5 steps", **settings}


def without_times(rows):
    return [{k: v for k, v in row.items() if k not in (*TIMES, *NAMES)} for row in rows]


def test_a_probed_run_ends_in_the_same_bits(videos, labelled, helpers, tmp_path, caplog):
    """Drop path draws numbers in every step: a generator that is moved, or another order, would show."""
    plain = helpers.recipe(videos, tmp_path / "plain")
    probed = helpers.recipe(
        videos, tmp_path / "probed", training__probe=probe(labelled), training__accumulation=1
    )
    run_torch(plain)
    with caplog.at_level(logging.INFO):
        run_torch(probed)
    one, two = helpers.weights(tmp_path / "plain"), helpers.weights(tmp_path / "probed")
    assert one.keys() == two.keys()
    assert [k for k in one if not (one[k] == two[k]).all()] == []
    rows = read_metrics(tmp_path / "probed" / "metrics.jsonl")
    looked = {row["step"]: row for row in rows if "probe_knn" in row}
    assert list(looked) == [5, 10, 12]  # every 5 steps, and at the end
    for row in looked.values():
        assert row["probe_videos"] == 12
        assert 0 <= row["probe_knn"] <= 1
        assert 0 <= row["probe_linear"] <= 1
        assert 1 <= row["probe_effective_rank"] <= 12
    assert looked[5]["probe_rankme"] != looked[12]["probe_rankme"]  # of the weights of that step
    assert "probe of 12 videos" in caplog.text
    assert "broken.mp4" in caplog.text
    last = read_metrics(tmp_path / "plain" / "metrics.jsonl")[-1]
    assert without_times([last])[0].keys() <= looked[12].keys()
    page = write_report(tmp_path / "probed", tmp_path / "report.html")
    assert "Classes of the probe" in page.read_text()
    assert "Ranks of the probe" in page.read_text()


@pytest.mark.parametrize("scaling", [{"stretch": True, "kernel": "bicubic"}, {"resize_to": 40}])
def test_a_probe_reads_clips_as_an_evaluation_reads_them(labelled, scaling):
    """Was wrong: frames in order for an encoder of shuffled ones, and always the central square, bilinear."""
    preprocess = VideoPreprocess(num_frames=4, size=32, shuffle_frames=True, **scaling)
    config = ProbeConfig(table=labelled, num_clips=2)
    made = open_probe(config, preprocess, loader=LoaderConfig(), whole=True)
    encoder = SimpleNamespace(preprocess=preprocess, max_frames=None, frames_stand_alone=False)
    assert made.windows == windows_for(encoder, EmbedConfig(num_clips=2))


def test_an_encoder_that_draws_when_it_is_asked_changes_no_step(
    videos, labelled, helpers, tmp_path, monkeypatch
):
    """Every step seeds the generator itself; networks that are asked draw nothing, so no test saw it."""
    outputs = VideoViT.outputs

    def drawing(self, *args, **kw):
        torch.rand(7)
        return outputs(self, *args, **kw)

    monkeypatch.setattr(VideoViT, "outputs", drawing)
    run_torch(helpers.recipe(videos, tmp_path / "plain"))
    run_torch(helpers.recipe(videos, tmp_path / "probed", training__probe=probe(labelled)))
    one, two = helpers.weights(tmp_path / "plain"), helpers.weights(tmp_path / "probed")
    assert [k for k in one if not (one[k] == two[k]).all()] == []


def test_running_statistics_and_averages_stay(labelled, helpers, tmp_path, videos):
    """Batch norms in training mode would take the clips of the probe into their statistics, an average its weights."""
    content = {
        "name": "supervised",
        "num_classes": 2,
        "clip": {"num_frames": 4, "frame_stride": 1},
        "crop": {"size": 16},
        "encoder": {
            "architecture": "r3d",
            "preset": None,
            "blocks": [1, 1, 1, 1],
            "filters": [2, 2, 3, 3],
            "stem_width": 4,
        },
    }
    runs = {}
    for name, settings in (("plain", None), ("probed", probe(labelled, every="2 steps"))):
        recipe = helpers.tiny(videos, tmp_path / name)
        recipe["objective"] = content
        recipe["data"]["table"] = labelled
        recipe["loader"] |= {"max_bad_share": 0.5}
        recipe["training"] |= {"probe": settings, "duration": "4 steps", "ema": {"decay": 0.9}}
        from video_ssl.pretrain.recipe import recipe_from_dict

        run_torch(recipe_from_dict(recipe))
        runs[name] = helpers.weights(tmp_path / name)
    assert any("running_mean" in k for k in runs["plain"])
    assert [k for k in runs["plain"] if not (runs["plain"][k] == runs["probed"][k]).all()] == []


def test_flax_is_probed_without_a_changed_bit(videos, labelled, tmp_path, monkeypatch):
    """The arrays of a step are given away to the next: holding them would be an error or other bits."""
    jax = pytest.importorskip("jax")
    from video_ssl.pretrain.flax_loop.run import run_flax

    found = {}
    for name, settings in (("plain", None), ("probed", probe(labelled, every="2 steps"))):
        recipe = tiny_flax(
            videos, tmp_path / name, training__probe=settings, training__duration="4 steps"
        )
        run_flax(recipe, devices=jax.devices()[:1])
        found[name] = flax_weights(tmp_path / name)
    assert [
        k for k in found["plain"] if not np.array_equal(found["plain"][k], found["probed"][k])
    ] == []
    rows = read_metrics(tmp_path / "probed" / "metrics.jsonl")
    assert [row["step"] for row in rows if "probe_knn" in row] == [2, 4]
    recipe = tiny_flax(
        videos,
        tmp_path / "stopped",
        training__probe=probe(labelled, every="2 steps"),
        training__duration="4 steps",
    )
    stopped_after(monkeypatch, 2, lambda: run_flax(recipe, devices=jax.devices()[:1]))
    run_flax(recipe, devices=jax.devices()[:1])
    again = read_metrics(tmp_path / "stopped" / "metrics.jsonl")
    assert [row.keys() for row in again] == [row.keys() for row in rows]
    assert [row.get("probe_rankme") for row in again] == [row.get("probe_rankme") for row in rows]
    assert all(row["probe_videos"] == 12 for row in rows if "probe_knn" in row)


def stopped_after(monkeypatch, step, start):
    """Runs `start` with a signal in a step."""
    steps = iter(range(1, step + 1))
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "agreed", lambda _: signal.SIGTERM if next(steps) == step else 0)
        with pytest.raises(Interrupted):
            start()


def test_a_look_that_a_signal_came_before_is_taken_by_the_continuation(
    videos, labelled, helpers, tmp_path, monkeypatch
):
    """Was wrong: a signal in the step of a look lost that look for ever, in the last step the final one."""
    settings = {"training__probe": probe(labelled), "training__log_every": 3}
    run_torch(helpers.recipe(videos, tmp_path / "straight", **settings))
    recipe = helpers.recipe(videos, tmp_path / "run", **settings)
    for steps in (5, 7):  # after steps 5 and 12, which is the last
        stopped_after(monkeypatch, steps, lambda: run_torch(recipe))
    result = run_torch(recipe)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "run"))
    assert [row["step"] for row in one if "probe_knn" in row] == [5, 10, 12]
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        assert {k: v for k, v in left.items() if k not in TIMES} == {
            k: v for k, v in right.items() if k not in TIMES
        }
    assert result.metrics == two[-1]
    left, right = helpers.weights(tmp_path / "straight"), helpers.weights(tmp_path / "run")
    assert [k for k in left if not (left[k] == right[k]).all()] == []


def test_a_look_is_written_once_however_often_the_run_is_continued(
    videos, labelled, helpers, tmp_path, monkeypatch
):
    """A continuation that takes the look and is killed before its first checkpoint leaves it to the next."""
    settings = {"training__probe": probe(labelled), "training__checkpoint_every": 100}
    recipe = helpers.recipe(videos, tmp_path / "run", **settings)
    stopped_after(monkeypatch, 5, lambda: run_torch(recipe))
    assert [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")] == [4]
    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "agreed", lambda _: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            run_torch(recipe)
    run_torch(recipe)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"label": 0}, {"label": 0}], "at least 2 are needed"),
        ([{"label": 0}, {}], "1 of 2 of"),
        ([{}, {}], "have no label"),
    ],
)
def test_tables_that_are_refused_before_the_first_step(videos, helpers, tmp_path, rows, said):
    files = sorted(videos.iterdir())
    given = [{"source": str(files[i]), **row} for i, row in enumerate(rows)]
    table = Table.from_rows(given).save(tmp_path / "t.arrow").path
    recipe = helpers.recipe(videos, tmp_path / "run", training__probe=probe(str(table)))
    with pytest.raises(RunError, match=said):
        run_torch(recipe)


def test_settings_and_memory_that_are_refused(videos, labelled, helpers, tmp_path, monkeypatch):
    for wrong, said in (
        ({"k": 0}, "k=0"),
        ({"every": "0 steps"}, "every"),
        ({"tabel": 1}, "tabel"),
    ):
        with pytest.raises((ConfigError, ValueError), match=said):
            helpers.recipe(videos, tmp_path / "run", training__probe=probe(labelled, **wrong))
    monkeypatch.setattr("video_ssl.pretrain.probe._KEPT_BYTES", 1000)
    recipe = helpers.recipe(videos, tmp_path / "run", training__probe=probe(labelled))
    with pytest.raises(RunError, match=r"lower training\.probe\.max_videos"):
        run_torch(recipe)


# The figures --------------------------------------------------------------------------------------


def clusters(num=60, width=10, *, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(num) % 3
    return 3 * rng.normal(size=(3, width))[labels] + noise * rng.normal(size=(num, width)), labels


def test_accuracies_of_clusters_and_of_noise():
    x, labels = clusters()
    assert leave_one_out_accuracy(x, labels) == 1
    assert ridge_accuracy(x, labels) == 1
    noise = np.random.default_rng(1).normal(size=(240, 6))
    for accuracy in (leave_one_out_accuracy, ridge_accuracy):
        assert accuracy(noise, np.arange(240) % 3) < 0.5  # a row that votes for itself gives 1


def test_neighbours_are_those_of_slow_loops():
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    right = 0
    for i in range(30):
        cosine = [
            -2 if j == i else x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j])
            for j in range(30)
        ]
        right += labels[int(np.argmax(cosine))] == labels[i]
    assert leave_one_out_accuracy(x, labels, k=1) == pytest.approx(right / 30)


def test_edges_of_the_figures():
    same, labels = np.ones((6, 4)), np.array([0, 0, 0, 1, 1, 1])
    assert 0 <= ridge_accuracy(same, labels) <= 1
    assert effective_rank(same) == pytest.approx(1)
    assert effective_rank(np.zeros((3, 2))) == 1
    assert participation_ratio(same) == 1
    assert rankme(np.eye(5)) == pytest.approx(5, rel=1e-4)
    assert leave_one_out_accuracy(np.eye(2), np.array([0, 0]), k=9) == 1
    assert ridge_accuracy(np.eye(2), np.array([0, 1])) == 0  # each half lacks the other's class
