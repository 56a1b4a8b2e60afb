"""One feature file of what is seen, heard and told: as the files of each sense, stopped and resumed, or in shards."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import toy_common
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed import senses
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import EmbeddingError
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.embed.partial import OtherJob, partial_folder
from video_ssl.embed.sense_columns import clips_of_rows
from video_ssl.embed.senses import SenseRows, parse_senses, sense_settings
from video_ssl.embed.shards import embed_shard, merge_shards
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate, given_features
from video_ssl.explore.search import search
from video_ssl.recipes import build_config

OF_A_ROW = ("id", "clip", "label", "source", "content", "start_sec", "end_sec", "feature")
COMMON = {"sound": "common_sound", "text": "common_text"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        toy_common.register(patch.setitem)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return str(toy_common.write_run(tmp_path_factory.mktemp("runs") / "toy"))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> str:
    """Six videos; the last is mute and untold."""
    return str(toy_common.squares_table(tmp_path_factory.mktemp("squares")))


@pytest.fixture(scope="module")
def apart(run, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    encoders = {"video": run, "sound": f"{run}/encoders/sound", "text": f"{run}/encoders/text"}
    return {
        sense: embed_table(encoder, table, folder / f"{sense}.arrow", num_workers=0)
        for sense, encoder in encoders.items()
    }


@pytest.fixture(scope="module")
def together(run, table, tmp_path_factory):
    out = tmp_path_factory.mktemp("together") / "one.arrow"
    found = embed_table(run, table, out, senses="all", num_workers=0)
    assert [path.name for path in out.parent.iterdir()] == ["one.arrow"]
    return found


def assert_same(found, expected, sense):
    """A sense of one file is what a file of this sense alone holds, to the bit."""
    for name in (*OF_A_ROW, COMMON[sense]):
        assert found.table[name].to_pylist() == expected.table[name].to_pylist(), name


def test_every_sense_is_as_in_a_file_of_its_own(apart, together):
    seen = apart["video"].table
    assert together.table.select(seen.column_names).equals(seen)
    assert list(together.senses) == ["sound", "text"]
    for sense in ("sound", "text"):
        found, expected = together.senses[sense], apart[sense]
        assert_same(found, expected, sense)
        assert found.records[0].tolist() == expected.records[0].tolist()
        reasons = [(entry["id"], entry["reason"]) for entry in expected.skipped]
        assert [(entry["id"], entry["reason"]) for entry in found.skipped] == reasons != []
        for key in ("encoder", "preprocess", "windows"):
            assert found.metadata[key] == expected.metadata[key]
        assert found.metadata["class_names"] == list(toy_common.COLORS)


def test_what_is_not_there_is_null_and_no_zeros(together):
    rows = together.table.to_pylist()
    for row in rows:
        mute = row["id"] == "blue5"
        assert row["sound_missing"] == ("it has no sound" if mute else None)
        assert row["text_missing"] == ("it has no caption" if mute else None)
        # Windows of sound go with the clips, captions without times with the first clip.
        heard, told = row["sound_common_sound"], row["text_feature"]
        assert heard is None if mute else len(heard) == 1
        assert told is None if mute else len(told) == (2 if row["clip"] == 0 else 0)
    assert together.skipped == []


def test_search_and_evaluators_find_the_same(apart, together, tmp_path):
    tone = tmp_path / "tone.wav"
    toy_common.write_wav(tone, "green")
    for asked in ({"text": "a blue square"}, {"sound": tone}):
        one, own = (
            search(None, file.path, k=4, quiet=True, **asked) for file in (together, apart["video"])
        )
        assert one["moments"] == own["moments"] != []
    given = given_features(f"features:,{together.path}")
    assert list(given) == ["sound", "text", "test"]
    text = apart["text"].path
    named = given_features(f"features:,{together.path},text={text}")
    assert named["text"].path == text  # what is named wins
    assert named["sound"].path == together.path


def test_the_command_and_an_evaluation_of_its_file(run, table, apart, tmp_path):
    out = tmp_path / "one.arrow"
    words = ["embed", run, table, str(out), "--senses", "sound,text", "--num-workers", "0"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    files = [str(apart[sense].path) for sense in ("video", "text", "sound")]
    spec = "features:,{},text={},sound={}".format(*files)
    results = []
    for encoder in (f"features:,{out}", spec):
        asked = {name: {"ks": [1, 2]} for name in ("text_to_video", "sound_to_video")}
        settings = {"train": None, "test": table, "device": "cpu", "out": str(tmp_path / "e")}
        settings |= {"encoders": {"toy": encoder}, "evaluators": asked}
        found = evaluate(build_config(EvaluateRecipe, settings), quiet=True)
        entries = found["encoders"]["toy"]["results"]
        results.append({name: entry["metrics"] for name, entry in entries.items()})
    assert results[0] == results[1]
    assert results[0]["sound_to_video"]["R@2"] == 1.0


def test_what_is_said_during_a_clip_goes_with_it():
    def rows(ids, starts, ends):
        return pa.table({"id": ids, "start_sec": starts, "end_sec": ends})

    clips = rows(["b"] * 3 + ["a"], [0.0, 2.0, 4.0, 0.0], [2.0, 4.0, 6.0, 1.0])
    told = rows(
        ["a", "gone", *["b"] * 7],
        pa.array([9.0, 0.0, 2.5, 7.0, None, 1.0, 1.5, 4.9, None], pa.float64()),
        pa.array([9.5, 1.0, 3.0, 8.0, None, 3.0, 3.9, None, -5.0], pa.float64()),
    )
    # In it; behind the last; without times; halfway, so the first; more in the second; one time only.
    expected = [3, -1, 1, 2, 0, 0, 1, 2, 0]
    assert clips_of_rows(told, clips, in_step=False).tolist() == expected
    heard = rows(["b"] * 3, [0.0, 0.1, 0.2], [0.1, 0.2, 0.3])
    assert clips_of_rows(heard, clips, in_step=True).tolist() == [0, 1, 2]
    assert clips_of_rows(heard, clips, in_step=False).tolist() == [0, 0, 0]


@pytest.mark.parametrize("settings", [{"stride_sec": 0.3}, {"num_crops": 3, "crop": "spread"}])
def test_where_clips_and_windows_of_sound_are_not_as_many(run, table, tmp_path, settings):
    one = embed_table(run, table, tmp_path / "one.arrow", senses="all", num_workers=0, **settings)
    of_sound = {k: v for k, v in settings.items() if k == "stride_sec"}
    place = tmp_path / "sound.arrow"
    own = embed_table(f"{run}/encoders/sound", table, place, num_workers=0, **of_sound)
    assert len(own) != len(one) - 2  # without the mute one
    assert_same(one.senses["sound"], own, "sound")


@pytest.mark.parametrize("given", [{}, {"num_clips": 5}, {"stride_sec": 0.3}, {"per_frame": True}])
def test_sound_is_heard_as_into_a_file_of_its_own(run, given):
    encoder = open_encoder(f"{run}/encoders/sound")
    settings = sense_settings(EmbedConfig(fps=8.0, cells=2, layer=1, **given), encoder)
    assert windows_for(encoder, settings) == windows_for(encoder, EmbedConfig(**given))
    assert settings.names == ("clip",)


def test_a_silent_sound_and_a_table_without_any(run, tmp_path, monkeypatch, caplog):
    """Silence is what a file of sound has of it; where nothing is heard or told in any video, columns are null."""
    picture = tmp_path / "mute.mkv"
    toy_common.write_square(picture, "red", tone=None)
    silent = tmp_path / "silent.mkv"
    with monkeypatch.context() as patch:
        patch.setitem(toy_common.TONES, "none", 0.0)
        toy_common.write_square(silent, "red", tone="none")
    rows = [{"id": path.stem, "source": str(path)} for path in (picture, silent)]
    both = str(Table.from_rows(rows).save(tmp_path / "both.arrow").path)
    one = embed_table(run, both, tmp_path / "one.arrow", senses="all", num_workers=0)
    own = embed_table(f"{run}/encoders/sound", both, tmp_path / "s.arrow", num_workers=0)
    assert own.ids.tolist() == ["silent"] * 2
    assert_same(one.senses["sound"], own, "sound")
    assert len(one.senses["text"]) == 0
    assert one.table["text_feature"].null_count == len(one) == 4
    mute = str(Table.from_rows(rows[:1]).save(tmp_path / "mute.arrow").path)
    one = embed_table(run, mute, tmp_path / "none.arrow", senses="sound", num_workers=0)
    assert one.table["sound_common_sound"].null_count == len(one) == 2
    assert one.senses["sound"].skipped[0]["reason"] == "it has no sound"
    assert "sound of 0 of 1 videos; the first without: mute: it has no sound" in caplog.text
    assert list(one.senses) == ["sound"]


def test_a_recording_without_pictures_has_no_clip(run, tmp_path):
    toy_common.write_wav(tmp_path / "tone.wav", "red")
    toy_common.write_square(tmp_path / "red.mkv", "red", tone="red")
    rows = [{"id": n, "source": str(tmp_path / n)} for n in ("tone.wav", "red.mkv")]
    both = str(Table.from_rows(rows).save(tmp_path / "both.arrow").path)
    one = embed_table(run, both, tmp_path / "one.arrow", senses="sound", num_workers=0)
    assert set(one.ids) == set(one.senses["sound"].ids) == {"red.mkv"}
    assert [entry["id"] for entry in one.skipped] == ["tone.wav"]


@pytest.mark.parametrize("killed", ["sound", "joining"])
def test_a_killed_job_goes_on_and_no_other(run, table, together, tmp_path, monkeypatch, killed):
    out, written = tmp_path / "one.arrow", []
    write = senses.write_side_by_side

    def writing(embedders, videos, places, **settings):
        written.append(Path(places[0]).stem)
        if killed in written:
            raise KeyboardInterrupt
        write(embedders, videos, places, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(senses, "write_side_by_side", writing)
        if killed == "joining":
            patch.setattr(SenseRows, "arrays", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_table(run, table, out, senses="all", num_workers=0)
    assert not out.exists()
    assert (partial_folder(out) / "video.arrow").is_file()
    for asked, now in (("sound", "video, sound"), (None, "video")):
        with pytest.raises(OtherJob, match=f"\n  senses: {now} <- video, sound, text\n"):
            embed_table(run, table, out, senses=asked, num_workers=0)
    killed, written = "nothing", []
    with monkeypatch.context() as patch:
        patch.setattr(senses, "write_side_by_side", writing)
        found = embed_table(run, table, out, senses="all", num_workers=0)
    assert "video" not in written
    assert found.table.equals(together.table)
    assert [path.name for path in tmp_path.iterdir()] == ["one.arrow"]


def test_begun_without_senses_is_another_job(run, table, tmp_path, monkeypatch):
    out = tmp_path / "one.arrow"
    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.embed.partial.PartialFeatures.finish", _killed)
        with pytest.raises(KeyboardInterrupt):
            embed_table(run, table, out, num_workers=0)
    with pytest.raises(OtherJob, match="senses: video, sound <- video\n"):
        embed_table(run, table, out, senses="sound", num_workers=0)
    one = embed_table(run, table, out, senses="sound", num_workers=0, restart=True)
    assert list(one.senses) == ["sound"]
    assert not partial_folder(out).exists()


def _killed(self) -> None:
    raise KeyboardInterrupt


def test_a_complete_file_is_of_its_senses(run, table, together, tmp_path):
    out = tmp_path / "one.arrow"
    shutil.copy(together.path, out)
    before = out.stat().st_mtime_ns
    embed_table(run, table, out, senses="text,sound,video", num_workers=0)  # in any order
    assert out.stat().st_mtime_ns == before
    for asked, now in (("text", "video, text"), (None, "video")):
        told = rf"has other features[\s\S]*senses: {now} <- video, sound, text\n"
        with pytest.raises(EmbeddingError, match=told):
            embed_table(run, table, out, senses=asked, num_workers=0)
    found = embed_table(run, table, out, num_workers=0, restart=True)
    assert found.senses == {}


def test_what_was_put_into_the_folder_is_refused(run, table, tmp_path, monkeypatch):
    out = tmp_path / "one.arrow"
    with monkeypatch.context() as patch:
        patch.setattr(SenseRows, "arrays", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed_table(run, table, out, senses="sound", num_workers=0)
    folder = partial_folder(out)
    shutil.copy(folder / "video.arrow", folder / "sound.arrow")
    with pytest.raises(FeatureError, match=r"sound\.arrow is of another job[\s\S]*--restart"):
        embed_table(run, table, out, senses="sound", num_workers=0)


def test_shards_become_the_file(run, table, together, tmp_path):
    out, videos = tmp_path / "one.arrow", open_table(table)
    embed_shard(run, videos, out, "0/2", senses="all", num_workers=0)
    with pytest.raises(EmbeddingError, match=r"of another job[\s\S]*senses: video, sound <- "):
        embed_shard(run, videos, out, "0/2", senses="sound", num_workers=0)
    embed_shard(run, videos, out, "1/2", senses="sound", num_workers=0)
    with pytest.raises(EmbeddingError, match="differ: senses: video, sound <- video, sound, text"):
        merge_shards(out)
    embed_shard(run, videos, out, "1/2", senses="all", num_workers=0, restart=True)
    found = merge_shards(out)
    np.testing.assert_allclose(found.features, together.features, atol=1e-6)
    for sense in ("sound", "text"):
        one, whole = found.senses[sense], together.senses[sense]
        assert one.ids.tolist() == whole.ids.tolist()
        assert one.table["clip"].equals(whole.table["clip"])
        np.testing.assert_allclose(
            one.vectors(COMMON[sense]), whole.vectors(COMMON[sense]), atol=1e-5
        )
        assert one.skipped == whole.skipped
    assert list(out.parent.iterdir()) == [out]


def only(run, place, *senses) -> str:
    """The run with the encoders of these senses beside that of video."""
    shutil.copytree(Path(run) / "encoder", place / "encoder")
    for sense in senses:
        shutil.copytree(Path(run) / "encoders" / sense, place / "encoders" / sense)
    return str(place)


def test_a_run_without_the_other_encoders(run, table, tmp_path):
    out = tmp_path / "one.arrow"
    alone, hears = only(run, tmp_path / "alone"), only(run, tmp_path / "hears", "sound")
    for asked in ("sound", "all"):
        with pytest.raises(EmbeddingError, match=r"no encoder of sound [\s\S]*leave out --senses"):
            embed_table(alone, table, out, senses=asked, num_workers=0)
    text = r"text cannot be embedded with .* there are .*sound \(sound\).*take --senses sound\."
    with pytest.raises(EmbeddingError, match=text):
        embed_table(hears, table, out, senses=["sound", "text"], num_workers=0)
    assert list(tmp_path.glob("one*")) == []
    assert list(embed_table(hears, table, out, senses="all", num_workers=0).senses) == ["sound"]


@pytest.mark.parametrize(
    ("senses", "settings", "text"),
    [
        ("sond", {}, r"senses='sond': allowed are video, sound, text.*Did you mean 'sound'"),
        ("all,sound", {}, "or all alone"),
        (" ,", {}, "name some of video, sound, text"),
        ("sound", {"hop": 2}, "hop=2 counts frames, and sound has none"),
    ],
)
def test_what_cannot_be_asked(run, table, tmp_path, senses, settings, text):
    with pytest.raises(EmbeddingError, match=text):
        embed_table(run, table, tmp_path / "f.arrow", senses=senses, num_workers=0, **settings)
    assert list(tmp_path.iterdir()) == []


def test_senses_go_with_an_encoder_of_video(run, table, tmp_path):
    with pytest.raises(EmbeddingError, match="is an encoder of sound, and senses are written"):
        embed_table(f"{run}/encoders/sound", table, tmp_path / "f.arrow", senses="text")
    assert parse_senses("video") == ()


def test_columns_that_do_not_fit_each_other_are_damage(together, tmp_path):
    table = together.table
    place = table.schema.get_field_index("sound_clip")
    wrong = pa.array([[0, 1]] * len(table), pa.list_(pa.int32()))
    path = tmp_path / "f.arrow"
    with pa.OSFile(str(path), "wb") as sink:
        broken = table.set_column(place, "sound_clip", wrong)
        with pa.ipc.new_file(sink, broken.schema) as writer:
            writer.write_table(broken)
    with pytest.raises(FeatureError, match="its columns of sound do not fit each other"):
        open_features(path)
