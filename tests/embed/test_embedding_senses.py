"""Encoders of sound and text: windows of what is heard with their times, and captions, in feature files like frames."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
import toy_senses

from video_ssl.clips.audio import sound_of_clip
from video_ssl.clips.reading import open_record
from video_ssl.clips.sound_windows import SoundWindows, iterate_sound_windows
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import open_features
from video_ssl.embed.jobs import job_changes, make_job
from video_ssl.embed.text_windows import TextWindows, iterate_text_windows
from video_ssl.models.preprocess_config import SoundPreprocess, TextPreprocess

RATE = 8000
QUICK = EmbedConfig(num_workers=0)


def write_ramp(path, num_frames, *, heard=True):
    """A video of 10 frames a second whose sound is a tenth of the time in seconds."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=RATE, layout="mono") if heard else None
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if sound is not None:
            wave = np.round(np.arange(num_frames * RATE // 10) / RATE / 10 * 2**15).astype(np.int16)
            for begin in range(0, len(wave), 1000):
                piece = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1000], "s16", "mono")
                piece.sample_rate, piece.pts, piece.time_base = RATE, begin, Fraction(1, RATE)
                out.mux(sound.encode(piece))
            out.mux(sound.encode())


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heard")
    rows = []
    for name, frames in (("long", 20), ("mute", 5), ("short", 1)):
        write_ramp(folder / f"{name}.mkv", frames, heard=name != "mute")
        row = {"id": name, "source": str(folder / f"{name}.mkv"), "label": len(rows)}
        rows.append(row | {"frame_labels": np.arange(frames) // 5, "captions": None})
    rows[0]["captions"] = [
        {"text": "A dog.", "start_sec": 0.5, "end_sec": 1.25},
        {"text": "dog dog cat dog dog"},
    ]
    rows[2]["captions"] = [{"text": "a"}]
    return Table.from_rows(rows)


def hearing(**changes):
    """Its moments are the means of 80 samples: with these videos a tenth of the time."""
    module = toy_senses.Sound(toy_senses.SoundConfig(width=2, patch=80))
    with torch.no_grad():
        module.linear.weight.fill_(1 / 80)
        module.linear.bias.zero_()
    module.preprocess = SoundPreprocess(**{"rate": RATE, "num_samples": 1600, **changes})
    module.architecture, module.source = "toy_sound", {}
    return module


def reading():
    module = toy_senses.Text(toy_senses.TextConfig(num_words=4, width=3))
    module.preprocess = TextPreprocess(vocabulary=("<pad>", "<unk>", "a", "dog"), length=4)
    module.architecture, module.source = "toy_text", {}
    return module


def test_what_is_heard_has_its_times(table, tmp_path):
    config = EmbedConfig(num_clips=3, num_workers=0, outputs=("moments", "tokens"))
    found = Embedder(hearing(), config).embed(table, tmp_path / "f.arrow", progress=False)
    assert found.ids.tolist() == ["long"] * 3 + ["short"] * 3
    assert [(entry["id"], entry["reason"]) for entry in found.skipped] == [
        ("mute", "it has no sound")
    ]
    assert found.table["start_sec"].to_pylist()[:3] == pytest.approx([0.0, 0.9, 1.8])
    for row in range(3):
        moments, times = found.frames(row)
        assert moments.shape == (20, 2)
        assert times[0] == pytest.approx(0.9 * row + 79 / 2 / RATE)
        np.testing.assert_allclose(moments[:, 0], times / 10, atol=1e-4)
        np.testing.assert_allclose(found.features[row], moments.mean(0), atol=1e-5)
        grid = found.grid("tokens", row)
        assert grid.grid == (20, 1, 1)
        np.testing.assert_allclose(grid.map[:, 0, 0], moments, atol=1e-3)
    # A frame lasts 0.1 s, five of them have one label; 0.9 s is in the tenth frame.
    assert found.table["frame_labels"][1].as_py() == [1] * 10 + [2] * 10
    # A tenth of a second, which goes on at its beginning and counts once.
    assert found.frames(3)[1].max() < 0.1
    assert found.table["end_sec"][3].as_py() < 0.1
    assert np.isnan(found.grid("tokens", 3).times[10:]).all()


def test_a_short_recording_is_heard_as_in_training(table):
    """Training loops it, but embedding put silence behind it: of a second in a window of three, two were silent."""
    windows = SoundWindows(rate=RATE, num_samples=2000)
    for name, long_enough in (("short", False), ("long", True)):
        record = next(r for r in (table.record(i) for i in range(len(table))) if r.id == name)
        with open_record(record, sound_alone=True) as reader:
            (window,) = iterate_sound_windows(record, reader, windows)
            begin = 0 if not long_enough else (2 * RATE - 2000) // 2
            sound = reader.audio(begin / RATE, (begin + 2000) / RATE, RATE)
            trained, _ = sound_of_clip(reader, 0, rate=RATE, num_samples=2000)
        if long_enough:
            assert np.array_equal(window.clips[0], sound)
            assert window.valid.all()
        else:
            assert np.array_equal(window.clips[0], trained)
            assert not sound[800:].any()
            assert window.valid.tolist() == [True] * 800 + [False] * 1200


def test_features_with_silence_behind_short_recordings_are_another_job(table):
    """Those of an earlier version must not be taken for complete."""
    job = Embedder(hearing(), QUICK).job(table)
    before = {key: value for key, value in job.items() if key != "short_sound"}
    assert list(job_changes(before, job)) == ["short_sound"]
    assert "short_sound" not in Embedder(reading(), QUICK).job(table)


@pytest.mark.parametrize(
    ("preprocess", "settings", "starts"),
    [
        ({}, {"per_frame": True}, np.arange(10) * 0.2),
        ({"hop": 4000}, {"per_frame": True}, [0.0, 0.5, 1.0, 1.5, 1.8]),
        ({}, {"stride_sec": 0.7}, [0.0, 0.7, 1.4, 1.8]),
        ({}, {"num_clips": 1}, [0.9]),
    ],
)
def test_which_stretches_are_heard(table, tmp_path, preprocess, settings, starts):
    config = EmbedConfig(num_workers=1, **settings)
    part = table.select([0])
    found = Embedder(hearing(**preprocess), config).embed(part, tmp_path / "f.arrow")
    assert found.table["start_sec"].to_pylist() == pytest.approx(list(starts))


def test_of_a_stretch_of_a_video_times_are_those_of_the_source(table, tmp_path):
    source = table.record(0).source
    part = Table.from_rows([{"id": "s", "source": source, "start_sec": 0.5, "end_sec": 1.5}])
    found = Embedder(hearing(), QUICK).embed(part, tmp_path / "f.arrow", progress=False)
    assert found.table["start_sec"].to_pylist() == pytest.approx([0.5, 1.3])
    moments, times = found.frames(1)
    np.testing.assert_allclose(moments[:, 0], times / 10, atol=1e-4)


def test_captions_are_rows(table, tmp_path):
    encoder = reading()
    found = Embedder(encoder, QUICK).embed(table, tmp_path / "f.arrow", progress=False)
    assert found.ids.tolist() == ["long", "long", "short"]
    assert found.table["clip"].to_pylist() == [0, 1, 0]
    assert found.table["start_sec"].to_pylist() == [0.5, None, None]
    assert found.table["end_sec"].to_pylist() == [1.25, None, None]
    assert [entry["reason"] for entry in found.skipped] == ["it has no caption"]
    words = encoder.words.weight.detach().numpy()
    np.testing.assert_allclose(found.frames(0)[0], words[[2, 3]], atol=1e-6)
    np.testing.assert_allclose(found.frames(1)[0], words[[3, 3, 1, 3]], atol=1e-6)
    assert np.isnan(found.frames(1)[1]).all()
    np.testing.assert_allclose(found.features[0], words[[2, 3, 0, 0]].mean(0), atol=1e-6)
    assert found.labels.tolist() == [0, 0, 2]
    assert open_features(tmp_path / "f.arrow").metadata["preprocess"]["vocabulary"]


def test_captions_without_a_word_are_left_out(tmp_path):
    """They were rows of padding, and so queries and items of an evaluation that nothing can be told of."""
    texts = [["...", "dog", " ", "a dog", "?!"], ["!"], ["cat"]]
    rows = [
        {"id": str(row), "source": f"{row}.mp4", "captions": [{"text": text} for text in told]}
        for row, told in enumerate(texts)
    ]
    table = Table.from_rows(rows)
    found = Embedder(reading(), QUICK).embed(table, tmp_path / "f.arrow", progress=False)
    assert found.ids.tolist() == ["0", "0", "2"]
    assert found.table["clip"].to_pylist() == [0, 1, 0]
    assert [(entry["id"], entry["reason"]) for entry in found.skipped] == [
        ("1", "it has no caption with a word")
    ]
    windows = TextWindows(words=reading().preprocess)
    record = table.record(0)
    rest = [window.clips.tolist() for window in iterate_text_windows(record, windows, first=1)]
    assert rest == [[[2, 3, 0, 0]]]
    assert not list(iterate_text_windows(record, windows, first=2))


def test_features_with_captions_without_a_word_are_another_job(table, monkeypatch):
    """Those of an earlier version have rows of them and must not be taken for complete."""
    other = Table.from_rows([{"source": "a.mp4", "captions": [{"text": "..."}, {"text": "dog"}]}])
    now = [make_job("", {}, one, captions=True)["table"]["captions"] for one in (table, other)]
    monkeypatch.setattr("video_ssl.embed.jobs.split_words", str.split)
    then = [make_job("", {}, one, captions=True)["table"]["captions"] for one in (table, other)]
    assert now[0] == then[0]
    assert now[1] != then[1]


def test_other_captions_are_another_job(table):
    embedder = Embedder(reading(), QUICK)
    rows = [{"id": "a", "source": "a.mp4", "captions": [{"text": text}]} for text in ("x", "y")]
    first, second = (embedder.job(Table.from_rows([row])) for row in rows)
    assert first["table"].pop("captions") != second["table"].pop("captions")
    assert first == second
    assert "captions" not in Embedder(hearing(), QUICK).job(table)["table"]


@pytest.mark.parametrize(
    ("make", "settings", "text"),
    [
        (hearing, {"fps": 8.0, "num_crops": 3, "crop": "spread"}, r"fps=8\.0, crop='spread', num_"),
        (hearing, {"outputs": ("tokens",), "tokens_side": 2}, "tokens_side=2 is finer than the 1"),
        (reading, {"stride_sec": 1.0}, r"stride_sec=1\.0 goes with videos, but it takes text"),
        (reading, {"outputs": ("tokens",)}, "has no output 'tokens', only clip, moments"),
    ],
)
def test_settings_of_frames_are_refused(make, settings, text):
    with pytest.raises(EmbeddingError, match=text):
        Embedder(make(), EmbedConfig(**settings))
