"""A run of VATT from files: videos with sound, subtitles and captions in a table, and another table without them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from small_recipes import small_recipe
from sounding_videos import write_sounding_video

from video_ssl.clips.vocabulary import SPECIAL_WORDS
from video_ssl.datasets import open_table
from video_ssl.models.encoder_folder import find_encoder, read_config, read_preprocess
from video_ssl.pretrain.recipe import PretrainRecipe
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run_folder import RunError
from video_ssl.pretrain.start import run_recipe

pytestmark = pytest.mark.slow
CUE = "1\n00:00:00,100 --> 00:00:00,900\nThe tone is low.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos with sound, one of them with subtitles; and a folder of two without."""
    place = tmp_path_factory.mktemp("heard")
    (place / "mute").mkdir()
    for i in range(6):
        path = place / f"{i}.mkv" if i < 4 else place / "mute" / f"{i}.mkv"
        write_sounding_video(path, seed=i, sound=i < 4)
    (place / "0.srt").write_text(CUE)
    rows = ["0.mkv,,0.srt", "1.mkv,a tone 1,", "2.mkv,a tone 2,", "3.mkv,,"]
    (place / "t.csv").write_text("\n".join(["path,caption,subtitles", *rows]) + "\n")
    return place


def recipe_of(folder: Path, run: Path, workers: int = 0) -> PretrainRecipe:
    """The demo in its smallest size, on both tables; its vocabulary is made of the captions."""
    small = small_recipe("vatt/demo", run.parent, str(folder / "t.csv"))
    data = dataclasses.replace(small.data, mix={str(folder / "mute"): 0.5})
    training = dataclasses.replace(
        small.training, duration=6, checkpoint_every=3, log_every=1, global_batch_size=8
    )
    return small.replace(
        run=str(run),
        objective=dataclasses.replace(
            small.objective, words=None, fps=None, frame_stride=1, rate=2000, num_samples=800
        ),
        data=data,
        training=training,
        optimizer=dataclasses.replace(small.optimizer, warmup=1),
        loader=dataclasses.replace(small.loader, num_workers=workers),
    )


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("vatt") / "run"
    run_recipe(recipe_of(folder, run))
    return run


def test_the_vocabulary_of_the_captions_leaves_with_the_encoder_of_words(run: Path) -> None:
    seen, folder = find_encoder(run), find_encoder(run / "encoders" / "text")
    assert read_preprocess(read_config(seen), seen).sampling == "dmvr"
    preprocess = read_preprocess(read_config(folder), folder)
    expected = (*SPECIAL_WORDS, "tone", "a", "1", "2", "is", "low", "the")
    assert preprocess.vocabulary == expected
    assert preprocess.ids(["A tone, unheard!"])[0, :3].tolist() == [5, 4, 3]
    assert (run / "recipe.yaml").read_text().count("- tone\n") == 1


def test_what_was_missing_in_the_batches_is_in_the_metrics(run: Path) -> None:
    """Of five videos in six draws one or two are mute and wordless; of those with sound one has no caption."""
    rows = read_metrics(run / "metrics.jsonl")
    shares = [sum(row[name] for row in rows) / len(rows) for name in ("has_sound", "has_words")]
    assert 0.4 < shares[1] < shares[0] < 0.95


def test_a_run_that_goes_on_with_workers_ends_in_the_same_bits(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    (again / "recipe.yaml").write_text(
        (again / "recipe.yaml").read_text().replace(str(run), str(again))
    )
    (again / "finished.json").unlink()
    for gone in ("encoder", "encoders", "checkpoints/step_6"):
        shutil.rmtree(again / gone)
    run_recipe(recipe_of(folder, again, workers=1))
    for name in ("encoder", "encoders/sound", "encoders/text"):
        file = Path(name) / "model.safetensors"
        assert (again / file).read_bytes() == (run / file).read_bytes()


def test_a_run_does_not_go_on_with_other_captions(run: Path, folder: Path, tmp_path: Path) -> None:
    """Other words have other places."""
    again, other = tmp_path / "again", tmp_path / "other"
    shutil.copytree(run, again)
    shutil.copytree(folder, other)
    content = (again / "recipe.yaml").read_text()
    for old, new in ((run, again), (folder, other)):
        content = content.replace(str(old), str(new))
    (again / "recipe.yaml").write_text(content)
    (again / "finished.json").unlink()
    (other / "0.srt").write_text(CUE.replace("low", "high"))
    assert "high" in open_table(other / "t.csv").record(0).captions[0].text
    with pytest.raises(RunError, match=r"objective\.words"):
        run_recipe(recipe_of(other, again))
