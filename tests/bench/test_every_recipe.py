"""`bench step` and `bench loader` on every recipe in the tree, its networks and clips shrunk, on tiny videos.

Recipes that differ in nothing but sizes are the same once they are shrunk, and are measured once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_recipes import RECIPES, small_recipe
from sounding_videos import write_sounding_video

from video_ssl.bench.loader import bench_loader
from video_ssl.bench.step import bench_step
from video_ssl.datasets.table import Table
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import PretrainRecipe

#: Steps of flax are compiled.
FLAX = {name for name, entry in OBJECTIVES.items() if entry.framework == "flax"}
STEPS = [
    pytest.param(name, marks=pytest.mark.slow) if name.partition("/")[0] in FLAX else name
    for name in RECIPES
]


@pytest.fixture(scope="module")
def small(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Recipe name -> the recipe in its smallest size, on two labelled videos."""
    folder = tmp_path_factory.mktemp("small")
    rows = [
        {"source": str(file), "label": i} for i, file in enumerate(sorted(videos.iterdir())[:2])
    ]
    table = Table.from_rows(rows, class_names=["a", "b"]).save(folder / "two.arrow")
    for i in range(2):
        write_sounding_video(folder / f"{i}.mkv", seed=i)
        rows[i] = {"source": str(folder / f"{i}.mkv"), "label": i}
    heard = Table.from_rows(rows, class_names=["a", "b"]).save(folder / "heard.arrow")
    return lambda name: small_recipe(
        name, folder, str(heard.path if name.startswith("supervised_sound/") else table.path)
    )


@pytest.fixture(scope="module")
def measured() -> dict[Any, Any]:
    """What was measured of a recipe of the same form."""
    return {}


def form_of(recipe: PretrainRecipe) -> str:
    return repr((recipe.objective_name, recipe.objective, recipe.training.activation_checkpointing))


def on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step for eight devices takes three times as long to compile."""
    import jax

    from video_ssl.pretrain.flax_loop import devices

    monkeypatch.setattr(devices, "_devices", lambda name: jax.devices()[:1])


@pytest.mark.parametrize("name", STEPS)
def test_bench_step(
    name: str, small: Any, measured: dict[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(name)
    if OBJECTIVES[recipe.objective_name].framework == "flax":
        on_one_device(monkeypatch)
    key = ("step", form_of(recipe))
    if key not in measured:
        measured[key] = bench_step(recipe, batch_size=2, steps=1, warmup=0)
    (row,) = measured[key]
    assert row.clips == 2 * recipe.objective.clips_per_record
    assert row.flops > 0
    assert (row.frozen_share > 0) == (recipe.objective_name in ("mvd", "bevt"))


@pytest.mark.parametrize("name", RECIPES)
def test_bench_loader(name: str, small: Any, measured: dict[Any, Any]) -> None:
    recipe = small(name)
    if recipe.objective_name == "supervised_sound":
        with pytest.raises(ValueError, match="reads sound alone"):
            bench_loader(recipe, num_batches=1, num_records=1, repeats=1)
        return
    key = ("loader", form_of(recipe))
    if key not in measured:
        measured[key] = bench_loader(recipe, num_batches=1, num_records=1, repeats=1)
    (row,) = measured[key]
    assert row.clips_per_sec > 0
    assert min(row.cpu_ms.values()) > 0
    assert row.stage_ms["decode"] > 0
