"""BEVT's three stages in one call: what one takes from the other, and each resumed where it was stopped."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from video_ssl.datasets import open_table
from video_ssl.datasets.table import TableError
from video_ssl.models.encoders import find_encoder
from video_ssl.objectives.bevt.objective import Objective
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.tokenizer.objective import Objective as Tokenizer
from video_ssl.pretrain.dry_run import describe_start
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import (
    PretrainRecipe,
    load_pretrain_recipe,
    stage_recipe,
    with_stages,
)
from video_ssl.pretrain.run import batch_source, existing_stages, open_streams, prepare_stages
from video_ssl.pretrain.torch_loop.run import build_objective, run_torch
from video_ssl.recipes import ConfigError, load_yaml, to_yaml

TRAINING = {
    "duration": 3,
    "global_batch_size": 2,
    "device": "cpu",
    "checkpoint_every": 1,
    "log_every": 1,
}


def written(path: Path, base: str, **objective: Any) -> Path:
    content = {
        "base": f"{base}.yaml",
        "objective": objective,
        "training": TRAINING,
        "optimizer": {"warmup": 1},
        "evaluate": None,
    }
    if base == "bevt/demo":
        content["data"] = {"streams": {"images": {"table": "nowhere", "records": 2}}}
    path.write_text(to_yaml(content))
    return path


def chain(videos: Path, folder: Path, *changes: str) -> PretrainRecipe:
    """The demo in its smallest size: a tokenizer, pictures alone, and both streams, three steps each."""
    folder.mkdir(exist_ok=True)
    encoder = {"embed_dim": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    small = {"clip": {"num_frames": 4, "frame_stride": 1}, "encoder": encoder}
    root = Path("pretrain").resolve()
    words = written(
        folder / "words.yaml",
        str(root / "tokenizer/demo"),
        encoder={"width": 4, "dim": 3, "vocab_size": 7},
    )
    small["tokenizer"] = {"recipe": str(words)}
    images = written(folder / "images.yaml", str(root / "bevt/demo_images"), **small)
    small["init"] = {"recipe": str(images)}
    both = written(folder / "both.yaml", str(root / "bevt/demo"), **small)
    return load_pretrain_recipe(
        both,
        [
            f"data.table={videos}",
            f"run={folder / 'run'}",
            "loader.num_workers=0",
            f"data.streams.images={{table: {videos}, records: 2}}",
            *changes,
        ],
    )


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    folder = find_encoder(run)
    return {**load_file(folder / "model.safetensors"), **load_file(folder / "decoder.safetensors")}


@pytest.fixture(scope="module")
def trained(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> PretrainRecipe:
    recipe = chain(videos, tmp_path_factory.mktemp("chain"))
    run_torch(recipe)
    return recipe


def test_the_second_stage_begins_with_what_the_reference_takes_along(
    trained: PretrainRecipe,
) -> None:
    """The whole backbone, mask token and decoder of pictures too; the head and the decoder of clips start anew."""
    stages = existing_stages(trained)
    first = weights_of(stages["init"])
    assert {"mask_token", "lm_down.weight", "fpn.0.weight", "lm_head.weight"} <= first.keys()
    assert not any(name.startswith(("fpn_s", "fpn_t", "lm_down_st")) for name in first)
    torch.manual_seed(trained.seed)
    fresh = Objective(
        trained.objective.__class__(**{**vars(trained.objective), "init": None}), stages=stages
    )
    begun = build_objective(trained, stages)
    own = {
        k.removeprefix("network.").removeprefix("encoder."): v
        for k, v in begun.state_dict().items()
    }
    for name, value in first.items():
        assert torch.equal(own[name], value) == (not name.startswith("lm_head.")), name
    anew = {k: v for k, v in fresh.state_dict().items() if k.startswith("lm_head.") or "_s" in k}
    assert anew
    for name, value in anew.items():
        assert torch.equal(begun.state_dict()[name], value), name


@pytest.mark.parametrize("other", [{"embed_dim": 8}, {"depths": (2, 1, 1, 1)}, {"mlp_ratio": 2.0}])
def test_a_first_stage_of_another_network_is_refused(
    trained: PretrainRecipe, other: dict[str, Any]
) -> None:
    """Which would leave most of it fresh, without a word."""
    config = replace(trained.objective, encoder=replace(trained.objective.encoder, **other))
    with pytest.raises(ValueError, match=r"stages/init.* is no Swin of the widths .* first stage"):
        Objective(config, stages=existing_stages(trained))


def test_the_tokenizer_is_trained_once(trained: PretrainRecipe) -> None:
    stages = trained.folder / "stages"
    assert sorted(p.name for p in stages.iterdir()) == ["init", "tokenizer"]
    assert not (stages / "init" / "stages").exists()
    source = trained.objective.init
    assert source is not None
    inner = stage_recipe(trained, "init", source)
    assert inner.objective.tokenizer == EncoderSource(stage="tokenizer")
    assert existing_stages(inner)["tokenizer"] == stages / "tokenizer" / "encoder"
    told = "\n".join(describe_start(trained))
    assert f"tokenizer of both/init: {stages / 'tokenizer'}" in told
    with pytest.raises(RunError, match="is no stage: name it by run, file or recipe"):
        existing_stages(inner.replace(run=str(trained.folder)))


def test_a_moved_chain_is_known_again(
    videos: Path, trained: PretrainRecipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained.folder.rename(tmp_path / "run")
    try:
        with caplog.at_level(logging.INFO):
            prepare_stages(trained.replace(run=str(tmp_path / "run")), run_torch)
        assert sum("is already finished" in r.getMessage() for r in caplog.records) == 2
    finally:
        (tmp_path / "run").rename(trained.folder)


def test_every_stage_goes_on_where_it_was_stopped(
    videos: Path, trained: PretrainRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = chain(videos, tmp_path)

    class Stopped(Exception):
        pass

    def stopping(follow: Any, streams: str | None) -> Any:
        def after_step(self: Any, progress: float) -> None:
            follow(self, progress)
            if 0.5 < progress < 1 and getattr(self.config, "streams", None) == streams:
                raise Stopped

        return after_step

    def run_until_stopped(kind: Any, streams: str | None) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(kind, "after_step", stopping(kind.after_step, streams))
            with pytest.raises(Stopped):
                run_torch(recipe)

    for folder, kind, streams in (
        ("stages/tokenizer", Tokenizer, None),
        ("stages/init", Objective, "images"),
        (".", Objective, "both"),
    ):
        run_until_stopped(kind, streams)
        there = [p.name for p in (recipe.folder / folder / "checkpoints").iterdir()]
        assert there == ["step_1"]
    run_torch(recipe)
    for run in ("stages/init", "."):
        ours, theirs = (weights_of(r.folder / run) for r in (recipe, trained))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("section", "mistake", "text"),
    [
        ("optimizer", {"warmup": 50}, "warmup of 50 steps does not fit"),
        ("objective", {"init": {"file": "nowhere.pth"}}, r"needs 'init' .* no file nowhere\.pth"),
    ],
)
def test_a_mistake_of_the_second_stage_is_told_before_the_first_is_trained(
    section: str, mistake: dict[str, Any], text: str, videos: Path, tmp_path: Path
) -> None:
    """Was wrong: it was found when the tokenizer had been trained; the run itself and the first stage are sound."""
    recipe = chain(videos, tmp_path)
    images = tmp_path / "images.yaml"
    content = load_yaml(images)
    images.write_text(to_yaml({**content, section: {**content[section], **mistake}}))
    with pytest.raises(ValueError, match=text):
        run_torch(recipe)
    assert not (tmp_path / "run" / "stages").exists()


PUBLISHED = "bevt/swin_b_in1k_k400"
FIRST = "objective.init={recipe: bevt/swin_b_in1k, stream: images}"


@pytest.mark.parametrize(
    ("changes", "pictures"),
    [([], "imagenet1k:train"), (["data.streams.images.table=FOLDER"], "FOLDER")],
)
def test_stages_of_pictures_are_trained_on_the_pictures(changes: list[str], pictures: str) -> None:
    """Was wrong: a stage took data.table, so that the tokenizer of ImageNet and the stage of pictures alone learned
    from frames of Kinetics; `stream` says whose tables are meant."""
    run = load_pretrain_recipe(PUBLISHED, [FIRST, *changes])
    tables = {r.name.rpartition("/")[2]: r.data.tables_of() for r in with_stages(run)}
    assert tables == {
        "tokenizer": {pictures: 1.0},
        "init": {pictures: 1.0},
        "swin_b_in1k_k400": {"kinetics400:train": 1.0},
    }  # one tokenizer: the stage of pictures has no stream to name, and takes it all the same
    images = load_pretrain_recipe("bevt/swin_b_in1k", changes and ["data.table=FOLDER"])
    assert {r.data.table for r in with_stages(images)} == {pictures}
    given = load_pretrain_recipe(
        PUBLISHED, ["objective.tokenizer.recipe=null", "objective.tokenizer.file=encoder.pkl"]
    )
    assert [r.name for r in with_stages(given)] == [PUBLISHED]


@pytest.mark.parametrize("name", [PUBLISHED, "bevt/demo"])
def test_each_stage_can_be_looked_at_alone(name: str) -> None:
    """Was wrong: the operations of `bevt/demo` could not be counted, since the stage of pictures looked for the
    tokenizer of a run that did not exist."""
    run = load_pretrain_recipe(name, [FIRST] if name == PUBLISHED else [])
    together, alone = list(with_stages(run)), list(with_stages(run, alone=True))
    assert [part.name for part in alone] == [part.name for part in together]
    assert [part.training for part in alone] == [part.training for part in together]
    assert together[1].objective.tokenizer.stage == "tokenizer"
    for part in alone:
        assert not [s for s in part.objective.stages().values() if getattr(s, "stage", None)]
        assert list(with_stages(part))[-1] == part  # its own stages can be found too


def test_a_stage_on_a_stream_keeps_the_tables_of_the_others_and_must_find_it() -> None:
    mixed = ["data.mix={more: 2.0}", "data.streams.images.mix={other: 0.5}"]
    run = load_pretrain_recipe(PUBLISHED, mixed)
    (tokenizer, _) = with_stages(run)
    assert tokenizer.data.tables_of() == {"imagenet1k:train": 1.0, "other": 0.5}
    again = EncoderSource(recipe=PUBLISHED, stream="images")
    inner = stage_recipe(run, "init", again)
    assert inner.data.tables_of("images") == {"imagenet1k:train": 1.0, "other": 0.5}
    same = load_pretrain_recipe(
        PUBLISHED, [*mixed[:1], "data.streams.images={table: null, records: 2}"]
    )
    assert stage_recipe(same, "init", again).data.tables_of() == same.data.tables_of()
    with pytest.raises(ConfigError, match=r"objective\.init\.stream.*\['images'\].*'images'\?"):
        stage_recipe(run, "init", EncoderSource(recipe=PUBLISHED, stream="image"))


# The stream of pictures ---------------------------------------------------------------------------


def test_a_stream_of_pictures_that_is_shorter_than_a_batch_goes_round(
    videos: Path, tmp_path: Path
) -> None:
    table = open_table(videos).select(range(3)).save(tmp_path / "three.arrow")
    recipe = chain(videos, tmp_path, f"data.streams.images={{table: {table.path}, records: 8}}")
    with batch_source(recipe, open_streams(recipe), 2, (0, 1))(0) as batches:
        for batch in batches:
            counts = np.bincount(batch["images/record_index"], minlength=3)
            assert counts.sum() == 8
            assert counts.min() >= 2


def test_a_stream_of_pictures_that_is_empty_is_refused(videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "nothing"
    folder.mkdir()
    recipe = chain(videos, tmp_path, f"data.streams.images={{table: {folder}, records: 8}}")
    with pytest.raises(TableError, match=str(folder)):
        open_streams(recipe)
    (tmp_path / "none.csv").write_text("path,label\n")
    recipe = chain(
        videos, tmp_path, f"data.streams.images={{table: {tmp_path / 'none.csv'}, records: 8}}"
    )
    with pytest.raises(TableError, match=r"none\.csv"):
        open_streams(recipe)
