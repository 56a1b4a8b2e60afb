"""Files of sound alone: read as they are heard, in stretches too, and refused as pictures."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from colored_videos import write_video

from video_ssl.clips.audio import sound_of_clip
from video_ssl.clips.decoders import sound_file
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets.table import Record, Table
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import load_pretrain_recipe

RATE = 8000


def write(path: Path, samples: np.ndarray, *, channels: int = 1) -> Path:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes((samples * 2**15).astype(np.int16).tobytes())
    return path


def write_coded(
    path: Path, samples: np.ndarray, rate: int, codec: str, kind: str, options: dict[str, str]
) -> None:
    """Writes sound with an encoder of a variable rate, where it has one."""
    with av.open(str(path), "w", format=kind, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        if codec == "libmp3lame":
            stream.codec_context.flags |= 2
            stream.codec_context.global_quality = 2 * 118
        size = stream.codec_context.frame_size or 1152
        for begin in range(0, len(samples), size):
            piece = samples[None, begin : begin + size].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(piece, "fltp", "mono")
            frame.sample_rate, frame.pts = rate, begin
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """1.255 s in which the sound is a tenth of the time in seconds."""
    return write(tmp_path / "ramp.wav", np.arange(int(1.255 * RATE)) / RATE / 10)


def test_what_is_heard(ramp: Path) -> None:
    with open_video(ramp, timeout_sec=60) as reader:
        info = reader.info
        assert (info.has_audio, info.width, info.num_frames) == (True, 0, 126)
        assert info.duration_sec == pytest.approx(1.255)
        at = 0.5 + np.arange(2000) / RATE
        np.testing.assert_allclose(reader.audio(0.5, 0.75, RATE), at / 10, atol=1e-4)
        np.testing.assert_allclose(reader.audio(0.1, 0.2, RATE)[0], 0.01, atol=1e-4)
        assert not reader.audio(1.3, 1.4, RATE).any()
        assert reader.times([0, 125]).tolist() == [0.0, 1.25]
        with pytest.raises(BadVideo, match="has no pictures, only sound"):
            reader.frames([0])


def test_a_stretch(ramp: Path) -> None:
    record = Record(index=0, id="r", source=str(ramp), start_sec=0.5, end_sec=1.0)
    with open_record(record, sound_alone=True) as reader:
        assert reader.info.duration_sec == pytest.approx(0.5)
        heard = reader.audio(0.0, 0.6, RATE)
    np.testing.assert_allclose(heard[:4000], (0.5 + np.arange(4000) / RATE) / 10, atol=1e-4)
    assert not heard[4000:].any()


@pytest.mark.parametrize("backend", ["pyav", "auto", "decord"])
def test_other_backends_hear_the_same(ramp: Path, backend: str) -> None:
    record = Table.from_rows([{"id": "r", "source": str(ramp)}]).record(0)
    with open_record(record, backend, sound_alone=True) as reader:
        assert reader.audio(0.0, 0.1, RATE).shape == (800,)


@pytest.mark.parametrize(
    ("codec", "kind", "options", "extra_sec"),
    [
        ("aac", "adts", {}, 0.06),
        ("libmp3lame", "mp3", {"write_xing": "0"}, 0.06),
        ("libmp3lame", "mp3", {}, 0.0),
    ],
)
def test_how_long_files_without_a_head_last(
    tmp_path: Path, codec: str, kind: str, options: dict[str, str], extra_sec: float
) -> None:
    """FFmpeg guesses from the bit rate of the beginning: 5 s of silence and 5 of noise were 150 s, and windows of what
    is not there were taken for good sound."""
    path, rate = tmp_path / ("x.mp3" if kind == "mp3" else "x.aac"), 48000
    noise = 0.3 * np.random.default_rng(0).standard_normal(5 * rate)
    write_coded(path, np.concatenate([np.zeros(5 * rate), noise]), rate, codec, kind, options)
    with open_video(path) as reader:
        duration = reader.info.duration_sec
        heard = reader.audio(0.0, 20.0, rate)
    assert 10.0 - 1e-6 <= duration <= 10.0 + extra_sec + 1e-6
    assert np.flatnonzero(heard).max() < round((duration + 0.03) * rate)
    assert np.abs(heard[round((duration - 0.1) * rate) : round(duration * rate)]).max() > 0.01


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
@pytest.mark.parametrize("kind", ["wav", "mkv"])
def test_sound_that_is_not_finite_is_refused(tmp_path: Path, kind: str, wrong: float) -> None:
    """A track of floats may hold NaN, which went into the batch as good sound: the loss was NaN, or all similarities
    of the file were."""
    path, sound = tmp_path / f"x.{kind}", np.full(2 * RATE, 0.1, np.float32)
    sound[RATE + 100] = wrong
    with av.open(str(path), "w") as out:
        video = None
        if kind == "mkv":
            video = out.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        stream = out.add_stream("pcm_f32le", rate=RATE, layout="mono")
        for number in range(20 if video else 0):
            picture = av.VideoFrame.from_ndarray(np.zeros((32, 48, 3), np.uint8), "rgb24")
            picture.pts, picture.time_base = number, Fraction(1, 10)
            out.mux(video.encode(picture))
        if video:
            out.mux(video.encode())
        for begin in range(0, len(sound), 1000):
            frame = av.AudioFrame.from_ndarray(sound[None, begin : begin + 1000], "flt", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    with open_video(path) as reader:
        assert reader.audio(0.0, 0.5, RATE).max() == pytest.approx(0.1)
        for _ in range(2):
            with pytest.raises(BadVideo, match="its sound holds numbers that are not finite"):
                reader.audio(0.5, 1.5, RATE)
        with pytest.raises(BadVideo, match="not finite"):
            sound_of_clip(reader, 0, rate=2 * RATE, num_samples=4 * RATE)


def test_files_whose_packets_tell_no_duration_are_decoded(
    ramp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of what was demultiplexed is no beginning of what is decoded."""
    monkeypatch.setattr(sound_file, "_RAW", {"wav"})
    assert open_video(ramp).info.duration_sec == pytest.approx(1.255)
    monkeypatch.setattr(sound_file.SoundFileReader, "_counted_seconds", lambda *_: None)
    assert open_video(ramp).info.duration_sec == pytest.approx(1.255)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no sound", "cannot be read as sound"), (b"", "empty")]
)
def test_what_is_no_sound(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(BadVideo, match=reason):
        open_video(tmp_path / "x.wav")


def test_without_a_sample(tmp_path: Path) -> None:
    with pytest.raises(BadVideo, match=r"has no sound|cannot be read"):
        open_video(write(tmp_path / "none.wav", np.zeros(0)))


@pytest.mark.parametrize(("start", "end"), [(None, None), (0.5, 1.0)])
def test_who_asks_for_pictures_gets_a_bad_video(
    ramp: Path, start: float | None, end: float | None
) -> None:
    """Was wrong: it opened as a video of 0 x 0 pixels, and crops divided by zero in every objective but VATT."""
    record = Record(index=0, id="r", source=str(ramp), start_sec=start, end_sec=end)
    with pytest.raises(BadVideo, match=r"ramp\.wav: has no pictures, only sound"):
        open_record(record)


def test_training_goes_on_without_it(ramp: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "seen.mp4", 20, (200, 40, 40))
    rows = [{"id": name, "source": str(tmp_path / name)} for name in ("seen.mp4", "ramp.wav")]
    table = Table.from_rows(rows)
    config = load_pretrain_recipe("tokenizer/demo", ["objective.crop.size=16"]).objective
    skipped = tmp_path / "skipped.jsonl"
    settings = {"seed": 1, "global_batch_size": 2, "num_steps": 3, "skip_log": skipped}
    loader = LoaderConfig(num_workers=0)
    plan = OBJECTIVES["tokenizer"].main_plan(config)
    with Pipeline([(table, 1.0)], plan, config=loader, **settings) as made:  # type: ignore[arg-type]
        rows_seen = np.concatenate([batch["record_index"] for batch in made])
    assert set(rows_seen.tolist()) == {0}
    assert "has no pictures, only sound" in skipped.read_text()
