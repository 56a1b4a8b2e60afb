"""Evaluators on a flax encoder and on its torch twin: the same features, times and results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from video_ssl.clips.sampling.two_clips import dense_feature_times
from video_ssl.datasets import open_table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder
from video_ssl.embed.features import open_features
from video_ssl.embed.open_encoder import open_encoder, without_flax
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.encoders import EncoderError
from video_ssl.models.encoders_flax import build_flax_module, init_variables, save_flax_encoder
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.preprocess_config import VideoPreprocess

STRIDE = 2
#: Narrow features: a regression on fewer frames than numbers would show nothing but rounding.
CONFIG = R3DConfig(
    preset=None, blocks=(1, 1, 1, 1), filters=(4, 4, 8, 2), stem_width=8, num_frames=8
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a flax run leaves, with moving statistics that are not those of the start."""
    folder = tmp_path_factory.mktemp("runs") / "teg"
    variables = init_variables(build_flax_module(CONFIG), 3)
    rng = np.random.default_rng(0)
    change = {"mean": lambda x: x + 0.1 * rng.standard_normal(x.shape), "var": lambda x: 2 * x}
    variables["batch_stats"] = _changed(variables["batch_stats"], change)
    save_flax_encoder(
        folder / "encoder",
        variables,
        architecture="r3d",
        config=CONFIG,
        preprocess=VideoPreprocess(
            num_frames=8, frame_stride=STRIDE, size=32, mean=(0, 0, 0), std=(1, 1, 1)
        ),
        source={"objective": "teg"},
    )
    return folder


def _changed(tree, change):
    return {
        name: _changed(value, change)
        if isinstance(value, dict)
        else np.asarray(change[name](value), np.float32)
        for name, value in tree.items()
    }


def both(run: Path, name: str, videos: Path, out: Path, *more: str) -> dict:
    return evaluate(
        load_evaluate_recipe(
            name,
            [
                f"encoder={run}",
                "encoders={torch: '{encoder}', flax: 'flax:{encoder}'}",
                f"train={videos / 'train.arrow'}",
                f"test={videos / 'test.arrow'}",
                f"out={out}",
                "embed.num_workers=0",
                "device=cpu",
                *more,
            ],
        ),
        quiet=True,
    )["encoders"]


def assert_same_results(entries: dict) -> None:
    flax, twin = (entries[name]["results"] for name in ("flax", "torch"))
    assert flax.keys() == twin.keys()
    for evaluator, result in flax.items():
        wanted = twin[evaluator]["metrics"]
        assert result["metrics"].keys() == wanted.keys()
        for name, value in result["metrics"].items():
            assert value == pytest.approx(wanted[name], rel=1e-3, abs=1e-3, nan_ok=True), (
                evaluator,
                name,
            )
    assert entries["flax"]["fingerprint"] != entries["torch"]["fingerprint"]


def test_probe_knn_and_retrieval_give_the_same_result(run, videos, tmp_path):
    more = [
        "evaluators={probe: {poolings: [clip], epochs: 20, learning_rates: [0.01]}, knn: {poolings: [clip]}, "
        "retrieval: {}}",
        "embed.cells=2",
    ]
    assert_same_results(both(run, "probe", videos, tmp_path, *more))


@pytest.mark.slow
def test_evaluators_on_phases_give_the_same_result(run, videos, tmp_path):
    entries = both(run, "phases", videos, tmp_path, "evaluators.phases.fractions=[1.0]")
    assert set(entries["flax"]["results"]) == {
        "phases",
        "progression",
        "kendalls_tau",
        "frame_retrieval",
    }
    assert_same_results(entries)
    flax, twin = (
        open_features(tmp_path / entries[n]["features"]["test"]) for n in ("flax", "torch")
    )
    for row in range(len(twin)):
        (ours, times), (theirs, wanted) = flax.frames(row), twin.frames(row)
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
        np.testing.assert_array_equal(times, wanted)


@pytest.mark.parametrize("kind", ["", "flax:"])
def test_dense_features_have_the_times_of_the_sheet(run, videos, tmp_path, kind):
    """tau(i) = a + ((i + 0.5) k - 0.5) r, papers/teg.md section 4.1, in frames of a video of 10 a second."""
    file = embed_table(
        f"{kind}{run}",
        str(videos / "test.arrow"),
        tmp_path / "f.arrow",
        device="cpu",
        num_clips=1,
        num_workers=0,
    )
    long = [row for row in range(len(file)) if len(file.frames(row)[0]) == 4]
    assert long  # videos that are long enough for a whole clip
    for row in long:
        features, times = file.frames(row)
        assert features.shape == (4, CONFIG.width)
        start = round(10 * float(file.table["start_sec"][row].as_py()))
        tau = [start + ((i + 0.5) * 2 - 0.5) * STRIDE for i in range(4)]
        np.testing.assert_allclose(times, np.array(tau) / 10, atol=1e-6)
        known = dense_feature_times(start, num_frames=8, frame_stride=STRIDE, num_positions=4)
        np.testing.assert_allclose(10 * times, known, atol=1e-5)


def test_what_stands_for_a_flax_encoder(run, tmp_path, monkeypatch):
    assert without_flax(f"pixels:flax:{run}@4") == f"pixels:{run}@4"
    assert open_encoder(f"pixels:flax:{run}@4").architecture == "pixels"
    video = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    trained, *fresh = (
        open_encoder(spec).outputs_of_arrays(video, ["clip"])["clip"]
        for spec in (f"flax:{run}", f"flax:untrained:{run}@1", f"untrained:flax:{run}@1")
    )
    np.testing.assert_array_equal(*fresh)
    assert not np.allclose(trained, fresh[0])
    recipe = load_evaluate_recipe("probe", [f"encoder=flax:{run}"])
    assert recipe.folder() == run / "evaluate" / "probe_flax"
    with pytest.raises(EncoderError, match="jax sees no such device"):
        open_encoder(f"flax:{run}", "cuda")
    monkeypatch.delitem(sys.modules, "video_ssl.models.encoders_flax")
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(EncoderError, match=r"needs jax: pip install 'video_ssl\[jax\]', or leave"):
        open_encoder(f"flax:{run}")


def test_bfloat16_is_near_and_does_not_change_the_encoder(run):
    video = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    full, half = (
        Embedder(open_encoder(f"flax:{run}"), EmbedConfig(precision=precision))
        for precision in ("float32", "bfloat16")
    )
    a, b = (embedder.forward(video)["moments"] for embedder in (full, half))
    assert a.dtype == b.dtype == np.float32
    assert not np.array_equal(a, b)
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())
    assert full.fingerprint == half.fingerprint


def test_the_cells_of_the_feature_map_are_the_same(run, videos, tmp_path):
    table = open_table(str(videos / "test.arrow")).select([0])
    config = EmbedConfig(outputs=("tokens",), tokens_dtype="float32", num_workers=0)
    torch_, flax = (
        Embedder(open_encoder(spec), config).embed(table, tmp_path / f"{number}.arrow")
        for number, spec in enumerate((str(run), f"flax:{run}"))
    )
    grid = flax.outputs["tokens"].grid
    assert grid == torch_.outputs["tokens"].grid
    assert grid[1:] == (1, 1)  # 32 pixels are one cell of an R3D
    a, b = (found.read("tokens", [0, 1]) for found in (torch_, flax))
    np.testing.assert_allclose(b, a, atol=1e-4 * np.abs(a).max())
    np.testing.assert_allclose(a.mean(1), torch_.features, atol=1e-4 * np.abs(a).max())
