"""Search by words and by sounds: what comes first, that page and terminal agree, and what cannot be asked."""

from __future__ import annotations

import html
import json
import re
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import toy_common
from browser import Browser, needs_browser
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.features import FeatureError, features_from_arrays, open_features
from video_ssl.explore.clip_archive import ClipArchive
from video_ssl.explore.search import search
from video_ssl.models.encoders import EncoderError


@pytest.fixture(scope="module", autouse=True)
def registered():
    with pytest.MonkeyPatch.context() as patch:
        toy_common.register(patch.setitem)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return toy_common.write_run(tmp_path_factory.mktemp("runs") / "toy")


@pytest.fixture(scope="module")
def archive(run, tmp_path_factory) -> Path:
    """Six videos, two red, two green, two blue, two clips of each."""
    folder = tmp_path_factory.mktemp("archive")
    table = toy_common.squares_table(folder)
    embed_table(str(run), str(table), folder / "f.arrow", num_workers=0)
    return folder / "f.arrow"


def colors(found) -> list[str]:
    return [re.sub(r"\d", "", moment["id"]) for moment in found["moments"]]


@pytest.mark.parametrize("color", toy_common.COLORS)
def test_words_find_what_they_say(archive, color):
    found = search(None, archive, text=f"A {color} square!", k=2, quiet=True)
    assert colors(found) == [color] * 2
    assert found["archive"] == {"videos": 6, "clips": 12}
    assert found["query"] == f"\u201cA {color} square!\u201d"
    assert found["frames"] == []
    assert found["moments"][0]["cost"] == pytest.approx(1 - np.sqrt(2 / 3), abs=0.01)
    assert all(m["end_sec"] > m["start_sec"] >= 0 for m in found["moments"])


@pytest.mark.parametrize("color", toy_common.COLORS)
@pytest.mark.parametrize("kind", ["wav", "mkv"])
def test_a_sound_finds_what_sounds_so(archive, tmp_path, color, kind):
    place = tmp_path / f"tone.{kind}"
    if kind == "wav":
        toy_common.write_wav(place, color)
    else:  # of a video only the sound counts
        other = next(name for name in toy_common.COLORS if name != color)
        toy_common.write_square(place, other, tone=color)
    found = search(None, archive, sound=place, k=2, quiet=True)
    assert colors(found) == [color] * 2
    assert found["query"] == place.name


def test_page_and_terminal_agree(archive, tmp_path):
    out, page = tmp_path / "found.json", tmp_path / "found.html"
    words = ["search", "--in", str(archive), "--text", "red <b> green", "-k", "5"]
    result = CliRunner().invoke(app, [*words, "--out", str(out), "--page", str(page)])
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    told = [(m["id"], f"{1 - m['cost']:.3f}") for m in found["moments"]]
    rows = re.findall(r"^\s*(\w+\d)\s+[\d.]+\s+[\d.]+\s+(-?[\d.]+)\s*$", result.output, re.M)
    assert rows == told
    text = page.read_text()
    shown = re.findall(r'<span class="id">(.*?)</span><span class="cosine">(.*?)</span>', text)
    assert [(html.unescape(key), cosine) for key, cosine in shown] == told
    assert "\u201cred &lt;b&gt; green\u201d" in text
    assert "<b> green" not in text
    assert "'b' not in the vocabulary" in result.output.replace("\n", " ")
    assert "b&#39; not in the vocabulary" in text


@needs_browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(archive, tmp_path, width):
    page = tmp_path / "found.html"
    search(None, archive, text="blue", k=4, page=page, quiet=True)
    with Browser(width, 900) as browser:
        browser.open(page)
        assert browser.eval("document.querySelectorAll('.moment').length") == 4
        assert browser.eval("document.querySelectorAll('.moment button.moving').length") == 4
        assert browser.eval("document.documentElement.scrollWidth <= innerWidth")
        assert not browser.errors
        assert "\u201cblue\u201d" in browser.eval("document.querySelector('h1').textContent")


def test_moments_of_words_are_cut(archive, tmp_path):
    found = search(None, archive, text="green", k=2, cut=tmp_path / "clips", quiet=True)
    for moment in found["moments"]:
        with av.open(moment["file"]) as clip:
            picture = next(clip.decode(video=0)).to_ndarray(format="rgb24")
        assert picture.mean((0, 1)).argmax() == 1


def test_of_a_video_so_many_that_do_not_overlap():
    times = {"start_sec": np.array([0.0, 0.5, 1.0, 0.0]), "end_sec": np.array([1.0, 1.5, 2.0, 1.0])}
    vectors = np.array([[1, 0.1], [1, 0.0], [1, 0.3], [0, 1]], np.float32)
    features = features_from_arrays(
        {
            "features": vectors,
            "common_text": vectors,
            "ids": np.array(["a", "a", "a", "b"]),
            **times,
        }
    )
    archive = ClipArchive(features, "common_text")
    query = np.array([1.0, 0.0], np.float32)
    found = archive.nearest(query, k=9, per_video=3)
    assert [(m.id, m.start_sec) for m in found] == [("a", 0.5), ("b", 0.0)]
    # Without the middle one the two that only touch are both taken.
    twice = ClipArchive(
        features_from_arrays(
            {
                "features": vectors[[0, 2]],
                "common_text": vectors[[0, 2]],
                "ids": np.array(["a", "a"]),
                **{name: value[[0, 2]] for name, value in times.items()},
            }
        ),
        "common_text",
    )
    assert [m.start_sec for m in twice.nearest(query, k=9, per_video=3)] == [0.0, 1.0]
    assert len(twice.nearest(query, k=9, per_video=1)) == 1


def write_others(folder: Path) -> tuple[Path, Path]:
    """What another model has made of three videos and of two texts."""
    videos = np.array([[0.9, 0.1], [0.2, 0.7], [0.6, 0.5]], np.float32)
    np.savez(folder / "videos.npz", features=videos, ids=np.array(["dog", "cat", "both"]))
    texts = np.array([[5.0, 0.0], [0.0, 0.1]], np.float32)
    np.savez(folder / "texts.npz", features=texts, ids=np.array(["a dog", "a cat"]))
    return folder / "videos.npz", folder / "texts.npz"


def test_features_of_others(tmp_path):
    videos, texts = write_others(tmp_path)
    for text, order in (("a dog", ["dog", "both", "cat"]), ("a cat", ["cat", "both", "dog"])):
        found = search(None, videos, text=text, vectors=texts, quiet=True)
        assert [moment["id"] for moment in found["moments"]] == order
    cosine = 1 - found["moments"][0]["cost"]
    assert cosine == pytest.approx(0.7 / np.hypot(0.2, 0.7), abs=1e-6)
    with pytest.raises(FeatureError, match=r"no vector of the text 'a dug'.*Did you mean 'a dog'"):
        search(None, videos, text="a dug", vectors=texts, quiet=True)
    with pytest.raises(FeatureError, match="no vectors in a space shared with text"):
        search(None, videos, text="a dog", quiet=True)
    wide = tmp_path / "wide.npz"
    np.savez(wide, features=np.eye(3), ids=np.array(["a", "b", "c"]))
    with pytest.raises(FeatureError, match="the query has 3 numbers, but clip of"):
        search(None, videos, text="a", vectors=wide, quiet=True)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({}, "nothing given: search for one of a clip, --text WORDS and --sound FILE"),
        ({"clip": "red0", "text": "red"}, "a clip and --text given"),
        ({"text": "red", "sound": "x.wav"}, "--text and --sound given"),
        ({"text": "red", "start_sec": 1.0}, r"a part .* goes with a clip, not with --text"),
        ({"text": " ?! "}, "has no words: write what is to be seen"),
        ({"text": "ein \u72ac \U0001f436"}, "knows none of the words"),
        ({"sound": "gone.wav"}, "no sound file gone.wav"),
        ({"sound": "x.wav", "vectors": "f.npz"}, "--vectors has vectors of texts"),
    ],
)
def test_what_cannot_be_asked(archive, asked, text):
    with pytest.raises(FeatureError, match=text):
        search(asked.pop("clip", None), archive, quiet=True, **asked)


def test_words_beyond_the_length_are_told(archive):
    found = search(None, archive, text="red " * 10_000, k=1, quiet=True)
    assert found["notes"] == ["only the first 4 of 10000 words are read"]


def test_a_mute_video_is_no_sound(archive, tmp_path):
    toy_common.write_square(tmp_path / "mute.mkv", "red", tone=None)
    with pytest.raises(FeatureError, match="it has no sound"):
        search(None, archive, sound=tmp_path / "mute.mkv", quiet=True)


def test_silence_is_no_question(archive, tmp_path):
    """The nearest to a silent file were printed as if it had said something."""
    path = tmp_path / "silent.wav"
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(8000)
        out.writeframes(bytes(2 * 8000))
    with pytest.raises(FeatureError, match=r"silent\.wav is silent from \d\.\d to \d\.\d s"):
        search(None, archive, sound=path, quiet=True)


def test_another_encoder_than_the_archives(archive, tmp_path, run):
    other = toy_common.write_run(tmp_path / "other")
    assert colors(search(None, archive, text="red", encoder=str(other), k=1, quiet=True)) == ["red"]
    seen = toy_common.Seen(toy_common.SeenConfig())
    from video_ssl.models.encoders import save_encoder
    from video_ssl.models.preprocess_config import VideoPreprocess

    save_encoder(other / "encoder", seen, architecture="toy_seen", source={},
                 preprocess=VideoPreprocess(num_frames=4, frame_stride=2, size=16))  # fmt: skip
    with pytest.raises(FeatureError, match="was embedded by another encoder"):
        search(None, archive, text="red", encoder=str(other), quiet=True)
    with pytest.raises(EncoderError, match="gone"):
        search(None, archive, text="red", encoder=str(tmp_path / "gone"), quiet=True)


def test_an_archive_without_a_common_space(tmp_path, run):
    table = toy_common.squares_table(tmp_path)
    told = tmp_path / "told.arrow"
    embed_table(f"{run}/encoders/text", str(table), told, num_workers=0)
    with pytest.raises(FeatureError, match="has no vectors in a space shared with sound"):
        search(None, told, sound=tmp_path / "red0.mkv", quiet=True)
    assert "common_text" in open_features(told).outputs
