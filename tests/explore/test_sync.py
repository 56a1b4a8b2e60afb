"""Recordings of one scene brought into step: files in, times, JSON, a video and sentences out."""

from __future__ import annotations

import json
import wave
from dataclasses import dataclass, replace
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_video
from video_ssl.explore import sync as sync_of
from video_ssl.explore import sync_video
from video_ssl.explore.alignment_video import frames_at
from video_ssl.explore.config import SyncConfig
from video_ssl.explore.offsets import (
    OffsetError,
    find_offset,
    lag_scores,
    local_offsets,
    reconcile,
)
from video_ssl.explore.sync import sync_recordings, told
from video_ssl.explore.sync_tracks import SyncTrack
from video_ssl.files import OutputError

SIDE = 64


def scene(seed=0, seconds=60.0):
    """Where a square is at a time: it rests and starts at random moments, as people do."""
    rng = np.random.default_rng(seed)
    knots = np.arange(0, seconds, 0.25)
    steps = rng.normal(size=(len(knots), 2)) * (rng.random(len(knots)) < 0.4)[:, None]
    path = np.cumsum(steps, axis=0) * 9

    def where(t):
        return np.array([np.interp(t, knots, path[:, k]) for k in (0, 1)])

    return where


def record(path, where, times, start, *, mirror=False, color=(220, 60, 40), sound=None):
    """Films the scene from `start` seconds of it on; `times` are those of the recording's frames."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30, options={"crf": "12"})
        stream.width = stream.height = SIDE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 600)
        stream.codec_context.time_base = Fraction(1, 600)
        audio = None
        if sound is not None:
            audio = out.add_stream("aac", rate=sound[1], layout="mono")
        rows, columns = np.mgrid[:SIDE, :SIDE]
        for t in times:
            y, x = 32 + 20 * np.sin(where(start + t) / 12)
            picture = np.full((SIDE, SIDE, 3), 40, np.uint8)
            picture[(abs(rows - y) < 9) & (abs(columns - x) < 9)] = color
            if mirror:
                picture = np.ascontiguousarray(picture[:, ::-1])
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = round(t * 600), Fraction(1, 600)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if audio is not None:
            samples = np.asarray(sound[0], np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = sound[1], 0, Fraction(1, sound[1])
            out.mux(audio.encode(frame))
            out.mux(audio.encode())


def even(fps, seconds):
    return np.arange(round(fps * seconds)) / fps


def claps(start, seconds, rate, *, seed=0):
    """Bursts of noise at moments of the scene, heard from `start` on."""
    rng = np.random.default_rng(seed)
    moments = np.cumsum(rng.uniform(0.15, 1.5, 60))
    t = start + np.arange(int(seconds * rate)) / rate
    heard = 1e-3 * np.random.default_rng(rate).normal(size=len(t))
    for k, moment in enumerate(moments):
        after = t - moment
        tone = np.sin(2 * np.pi * (300 + 190 * (k % 9)) * after)
        heard += np.where(after >= 0, np.exp(-np.maximum(after, 0) * 25) * tone, 0) * 0.3
    return heard.astype(np.float32)


def write_wav(path, samples, rate):
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    """Three cameras of one scene, of other rates, one of varying rate; in a folder with a space and a quote."""
    folder = tmp_path_factory.mktemp("a b's")
    where, rng = scene(), np.random.default_rng(1)
    record(folder / "left.mp4", where, even(30, 12), 4.0)
    record(folder / "right.mp4", where, even(25, 11), 5.7, mirror=True, color=(30, 200, 220))
    varying = np.cumsum(rng.choice([0.02, 0.03, 0.06, 0.1], 250))
    record(folder / "phone 'x'.mp4", where, varying - varying[0], 2.9)
    return folder


def run(*words):
    return CliRunner().invoke(app, ["sync", *map(str, words)])


def test_three_cameras_of_other_and_varying_rates(cameras, tmp_path):
    """Times from frame numbers instead of seconds, or a wrong sign, would be off by far more than a frame."""
    files = [cameras / name for name in ("left.mp4", "right.mp4", "phone 'x'.mp4")]
    out = tmp_path / "o ut.json"
    result = run(*files, "--by", "motion", "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    began = [r["start_sec"] for r in found["recordings"]]
    np.testing.assert_allclose(began, [0, 1.7, -1.1], atol=0.04)
    assert found["complete"]
    assert all(pair["trusted"] and pair["agrees"] for pair in found["pairs"])
    np.testing.assert_allclose(found["pairs"][0]["offset_sec"], -1.7, atol=0.04)
    assert "+1.7" in result.output
    assert "-1.1" in result.output
    assert run(*files, "--by", "motion", "--out", out).exit_code == 0  # its own file is replaced


def test_an_encoder_finds_the_offset_of_one_view(tmp_path):
    """The way through `embed`: times of an encoder's frames, its stride, its own threshold."""
    where = scene()
    record(tmp_path / "a.mp4", where, even(12, 8), 4.0)
    record(tmp_path / "b.mp4", where, even(12, 8), 5.5)
    words = (tmp_path / "a.mp4", tmp_path / "b.mp4", "--encoder", "pixels:", "--device", "cpu")
    result = run(*words, "--frame-stride", 1, "--threshold", 0.3, "--out", tmp_path / "o.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "o.json").read_text())
    np.testing.assert_allclose(found["recordings"][1]["start_sec"], 1.5, atol=0.05)
    assert found["by"] == "pixels:"


@pytest.mark.parametrize("by", ["pixels", "hog"])
def test_pictures_of_one_view(tmp_path, by):
    where = scene()
    record(tmp_path / "a.mp4", where, even(20, 8), 4.0)
    record(tmp_path / "b.mp4", where, even(20, 8), 3.2)
    found = sync_recordings([tmp_path / "a.mp4", tmp_path / "b.mp4"], config=SyncConfig(by=by))
    np.testing.assert_allclose(found["recordings"][1]["start_sec"], -0.8, atol=0.05)
    assert found["complete"]


def test_sound_of_other_rates_and_a_recorder_without_pictures(tmp_path):
    """Sound is chosen by itself, since the recorder has nothing else; a rate taken for another would stretch it."""
    where = scene()
    sound = claps(3.0, 10, 44100), 44100
    record(tmp_path / "a.mp4", where, even(15, 10), 3.0, sound=sound)
    write_wav(tmp_path / "recorder.wav", claps(1.25, 12, 11025), 11025)
    result = run(tmp_path / "a.mp4", tmp_path / "recorder.wav", "--video", tmp_path / "v.mp4")
    assert result.exit_code == 0, result.output
    assert "by sound" in result.output
    assert "-1.7" in result.output
    assert "no video was written" in result.output
    assert not (tmp_path / "v.mp4").exists()


def test_recordings_of_other_scenes_are_not_placed(tmp_path, cameras):
    """A guess would look like an answer: exit code 1, no time, no video, and what could be tried."""
    record(tmp_path / "other.mp4", scene(seed=5), even(30, 12), 20.0)
    files = [cameras / "left.mp4", tmp_path / "other.mp4"]
    result = run(*files, "--by", "motion", "--video", tmp_path / "v.mp4")
    assert result.exit_code == 1
    assert "unknown" in result.output
    assert "may not overlap" in result.output
    assert not (tmp_path / "v.mp4").exists()


def test_one_that_ends_before_the_others_begin_stays_apart(tmp_path, cameras):
    """The others are placed; the one that does not overlap is a group of its own."""
    record(tmp_path / "before.mp4", scene(), even(30, 12), 30.0)
    files = [tmp_path / "before.mp4", cameras / "left.mp4", cameras / "right.mp4"]
    found = sync_recordings(files, config=SyncConfig(by="motion"))
    assert not found["complete"]
    assert [r["group"] for r in found["recordings"]] == [0, 1, 1]
    assert any("before.mp4; left.mp4, right.mp4" in note for note in found["notes"])
    np.testing.assert_allclose(found["recordings"][2]["start_sec"], 1.7, atol=0.04)


def test_a_short_overlap_is_never_trusted(tmp_path):
    """However well a second of film fits itself: on real takes of 1.7 s chance was as certain as truth."""
    for name in ("a.mp4", "b.mp4"):
        record(tmp_path / name, scene(), even(30, 1.8), 4.0)
    result = run(tmp_path / "a.mp4", tmp_path / "b.mp4", "--by", "motion", "--threshold", 0)
    assert result.exit_code == 1
    assert "2 s must overlap" in result.output


def test_the_same_file_twice_is_said(cameras):
    files = [cameras / "left.mp4"] * 2
    found = sync_recordings(files, config=SyncConfig(by="motion"))
    assert found["recordings"][1]["start_sec"] == 0
    assert any("same file" in line for line in told(found))


def test_the_video_shows_one_moment_on_both_sides(tmp_path):
    """Brightness tells the moment: both sides must show the same, and black where a recording has not begun."""
    seen = {}
    for name, start in (("a.mp4", 0.0), ("b.mp4", 1.0)):
        half_seconds = np.random.default_rng(0).permutation(np.arange(60, 220, 10))
        seen[name] = half_seconds[np.floor((even(10, 6) + start) * 2 + 1e-6).astype(int)]
        with av.open(str(tmp_path / name), "w") as out:
            stream = out.add_stream("libx264", rate=10, options={"crf": "5"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for k, grey in enumerate(seen[name]):
                frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), "rgb24")
                frame.pts, frame.time_base = k, Fraction(1, 10)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
    video = tmp_path / "both 'v'.mp4"
    words = ("--by", "pixels", "--threshold", 0.01, "--height", 32, "--video", video)
    for _ in range(2):  # our own video is replaced
        result = run(tmp_path / "a.mp4", tmp_path / "b.mp4", *words)
        assert result.exit_code == 0, result.output
    with open_video(video) as reader:
        frames = reader.frames(np.arange(reader.info.num_frames)).astype(float).mean(axis=3)
    left, right = frames[:, :, 4:44].mean(axis=(1, 2)), frames[:, :, 52:92].mean(axis=(1, 2))
    assert len(frames) in (70, 71)  # the offset lies between frames
    np.testing.assert_allclose(left[12:58], right[12:58], atol=3)
    np.testing.assert_allclose(left[:60], seen["a.mp4"], atol=3)
    assert right[:9].max() < 3
    assert left[-8:].max() < 3


def test_drift_of_a_clock(tmp_path, monkeypatch):
    """The second clock runs 0.4 % fast, so after two minutes it is half a second off.

    Was wrong: the offset at the middle of the overlap was taken for that at the beginning, and the video ran on from
    there: out of step by the drift of half the overlap, 0.24 s, from beginning to end.
    """
    where, gain = scene(seconds=200), 0.004
    record(tmp_path / "a.mp4", where, even(10, 120), 5.0)
    # what is shown at t of the scene is shown at (t - start) * (1 + gain) of the recording
    times = even(10, 115)
    fast = scene(seconds=200)
    record(tmp_path / "b.mp4", lambda t: fast(7.0 + (t - 7.0) / (1 + gain)), times, 7.0)
    config = SyncConfig(by="motion", drift=True, section_sec=15.0, threshold=0.05)
    asked: dict[int, list] = {1200: [], 1150: []}  # by their frames

    def noted(reader, at):
        asked[reader.info.num_frames].extend(at)
        return frames_at(reader, at)

    monkeypatch.setattr(sync_video, "frames_at", noted)
    recordings, video = [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "v.mp4"
    found = sync_recordings(recordings, config=replace(config, height=16), video=video)
    b = found["recordings"][1]
    assert b["drift_ppm"] == pytest.approx(4000, rel=0.15)
    assert b["start_sec"] == pytest.approx(2, abs=0.06)
    pair = found["pairs"][0]
    expected = (pair["middle_sec"] - 2) * 1.004 - pair["middle_sec"]
    assert pair["offset_sec"] == pytest.approx(expected, abs=0.06)
    # What the video takes of b while it takes t of a: at the beginning, in the middle, at the end.
    of_a, of_b = map(np.array, asked.values())
    first = np.flatnonzero(of_a >= b["start_sec"])[0]  # the moment at which b is seen first
    for t in (3.0, 60.0, 115.0):
        k = int(np.argmin(abs(of_a - t)))
        assert of_b[k - first] == pytest.approx((of_a[k] - 2) * 1.004, abs=0.06)


@dataclass(frozen=True)
class Clock:
    """A recording of a scene: what it shows at t was to be seen at begin + t / (1 + gain)."""

    begin: float
    gain: float
    lasts: float

    def shows(self, moment):
        return (moment - self.begin) * (1 + self.gain)


CLOCKS = {
    "one hour at 300": [Clock(0, 0, 3600), Clock(40, 300e-6, 3500)],
    "slow, and began first": [Clock(0, 0, 2400), Clock(-90, -500e-6, 2400)],
    "three of 500 to 4000": [Clock(0, 0, 180), Clock(35, 4000e-6, 160), Clock(-12, 500e-6, 200)],
    "the overlap is late": [Clock(0, 0, 1800), Clock(1200, 1500e-6, 900)],
}


@pytest.mark.parametrize("case", CLOCKS)
def test_clocks_that_drift_are_in_step_all_the_time(case, monkeypatch):
    """Was wrong: `start_sec` was the offset in the middle, so all was off by drift times that: 0.5 s in an hour at 300.

    In step is a moment that is seen at the same time of the video in all recordings, wherever it lies.
    """
    clocks, rate = CLOCKS[case], 10
    knots = np.arange(-200, 4000, 0.5)
    values = np.random.default_rng(0).normal(size=(len(knots), 3))

    def track(path, *_):
        own = clocks[int(path)]
        t = np.arange(int(own.lasts * rate)) / rate
        moment = own.begin + t / (1 + own.gain)
        seen = np.stack([np.interp(moment, knots, column) for column in values.T], axis=1)
        return SyncTrack(times=t, values=seen.astype(np.float32), duration_sec=own.lasts)

    def info(path):
        return SimpleNamespace(
            duration_sec=clocks[int(path)].lasts, width=64, fps=rate, has_audio=False
        )

    monkeypatch.setattr(sync_of, "_track", track)
    monkeypatch.setattr(sync_of, "info_of", info)
    config = SyncConfig(by="motion", drift=True, threshold=0.05)
    found = sync_recordings([str(k) for k in range(len(clocks))], config=config)
    assert found["complete"]
    assert all(pair["agrees"] for pair in found["pairs"])
    for own, recording in zip(clocks, found["recordings"], strict=True):
        gain = recording["drift_ppm"] * 1e-6
        assert gain == pytest.approx(own.gain, abs=1e-4)
        assert recording["start_sec"] == pytest.approx(own.begin, abs=0.05)
        shared = [
            max(c.begin for c in clocks),
            min(c.begin + c.lasts / (1 + c.gain) for c in clocks),
        ]
        for moment in np.linspace(*shared, 3):
            shown = (moment - recording["start_sec"]) * (1 + gain)  # as `write_in_step` does
            assert shown == pytest.approx(own.shows(moment), abs=0.03)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["left.mp4"], "name two or more"),
        (["left.mp4", "right.mp4", "--by", "sound"], "has no sound"),
        (["left.mp4", "gone.mp4"], "gone.mp4"),
        (["left.mp4", "text.mp4"], "text.mp4"),
        (["left.mp4", "silent.wav", "--by", "motion"], "sound alone"),
        (["silent.wav", "silent.wav"], "is silent"),
        (["left.mp4", "short.mp4", "--by", "motion"], "too few"),
        (["left.mp4", "still.mp4", "--by", "motion"], "nothing ever changes"),
        (["left.mp4", "right.mp4", "--by", "motion", "--encoder", "pixels:"], "give one of them"),
        (["left.mp4", "right.mp4", "--min-overlap-sec", "50"], "never overlap"),
        (["left.mp4", "right.mp4", "--max-offset-sec", "-1"], "more than 0"),
        (["left.mp4", "right.mp4", "--threshold", "2"], "between 0 and 1"),
        (["left.mp4", "right.mp4", "--out", "left.mp4"], "source"),
        (["left.mp4", "right.mp4", "--video", "text.mp4"], "not made by"),
        (["left.mp4", "right.mp4", "--out", "n.json", "--video", "n.json"], "two names"),
    ],
)
def test_bad_input_is_one_sentence(cameras, tmp_path, words, said, monkeypatch):
    """Neither a crash nor an answer, and nothing is written over."""
    for name in ("left.mp4", "right.mp4"):
        (tmp_path / name).write_bytes((cameras / name).read_bytes())
    (tmp_path / "text.mp4").write_text("no video")
    write_wav(tmp_path / "silent.wav", np.zeros(22050), 22050)
    record(tmp_path / "short.mp4", scene(), even(30, 0.2), 3.0)
    record(tmp_path / "still.mp4", lambda t: np.zeros(2), even(30, 4), 3.0)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    result = run(*words)
    assert result.exit_code not in (0, 1) or isinstance(result.exception, (ValueError, SystemExit))
    assert said in result.output + str(result.exception)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_folders_of_what_is_written_are_made(cameras, tmp_path):
    """Was wrong: a FileNotFoundError after all the work, though the place had been accepted before it."""
    out, video = tmp_path / "new" / "deep" / "o.json", tmp_path / "videos" / "v.mp4"
    files = [cameras / "left.mp4", cameras / "right.mp4"]
    words = ("--by", "motion", "--height", 16, "--out", out, "--video", video)
    result = run(*files, *words)
    assert result.exit_code == 0, result.output
    assert video.stat().st_size > 0
    # Was wrong: the file was written before the video, and did not know of it.
    assert json.loads(out.read_text())["video"] == str(video)


def test_the_file_says_that_there_is_no_video(cameras, tmp_path):
    """Was wrong: the note went to the screen alone, and `video` was missing.  For no video no folder is made."""
    record(tmp_path / "other.mp4", scene(seed=5), even(30, 12), 20.0)
    out, video = tmp_path / "o.json", tmp_path / "no" / "v.mp4"
    files = [cameras / "left.mp4", tmp_path / "other.mp4"]
    assert run(*files, "--by", "motion", "--out", out, "--video", video).exit_code == 1
    found = json.loads(out.read_text())
    assert found["video"] is None
    assert any("no video was written" in note for note in found["notes"])
    assert not video.parent.exists()


def test_the_video_of_other_recordings_does_not_stay(cameras, tmp_path):
    """Was wrong: the file said that there is no video, and that of an earlier call stayed under its name."""
    record(tmp_path / "other.mp4", scene(seed=5), even(30, 12), 20.0)
    out, video = tmp_path / "o.json", tmp_path / "v.mp4"
    words = ("--by", "motion", "--height", 16, "--out", out, "--video", video)
    assert run(cameras / "left.mp4", cameras / "right.mp4", *words).exit_code == 0
    assert video.exists()
    assert run(cameras / "left.mp4", tmp_path / "other.mp4", *words).exit_code == 1
    assert json.loads(out.read_text())["video"] is None
    assert not video.exists()


def test_links_stay_links(cameras, tmp_path):
    """Was wrong: a link given as `--out` or `--video` was replaced by a file, and what it leads to stayed as it was."""
    (tmp_path / "far").mkdir()
    for name in ("o.json", "v.mp4"):
        (tmp_path / name).symlink_to(tmp_path / "far" / name)
    files = [cameras / "left.mp4", cameras / "right.mp4"]
    places = {"out": tmp_path / "o.json", "video": tmp_path / "v.mp4"}
    sync_recordings(files, config=SyncConfig(by="motion", height=16), **places)
    for place in places.values():
        assert place.is_symlink()
        assert (tmp_path / "far" / place.name).stat().st_size > 0


def test_times_are_kept_where_the_video_fails(cameras, tmp_path, monkeypatch):
    """They are what took long; the video is written before them, since they say whether there is one."""

    def broken(*_, **__):
        raise BadVideo("left.mp4", "is broken.")

    monkeypatch.setattr(sync_of, "write_in_step", broken)
    files = [cameras / "left.mp4", cameras / "right.mp4"]
    out = tmp_path / "o.json"
    with pytest.raises(BadVideo):
        sync_recordings(files, config=SyncConfig(by="motion"), out=out, video=tmp_path / "v.mp4")
    found = json.loads(out.read_text())
    assert (found["complete"], found["video"]) == (True, None)


def test_a_foreign_json_is_not_replaced(cameras, tmp_path):
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="not made by"):
        sync_recordings([cameras / "left.mp4", cameras / "right.mp4"], out=tmp_path / "notes.json")


def test_scores_are_those_of_slow_loops():
    """Other lengths, narrow overlaps, a stretch in which nothing changes."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(17, 3)).cumsum(0) + 50, rng.normal(size=(29, 3)).cumsum(0) - 80
    b[:9] = b[0]
    lags, scores = lag_scores(a, b, min_overlap=2)
    assert lags.tolist() == list(range(-15, 28))
    for lag, score in zip(lags, scores, strict=True):
        rows = [i for i in range(17) if 0 <= i + lag < 29]
        x, y = a[rows], b[np.add(rows, lag)]
        x, y = x - x.mean(0), y - y.mean(0)
        energy = (x**2).sum() * (y**2).sum()
        slow = (x * y).sum() / np.sqrt(energy) if energy > 1e-9 else 0.0
        assert score == pytest.approx(slow, abs=1e-9)


def test_equal_lags_and_nothing_outside():
    """Of equally good lags the nearest to 0 is taken, and then there is no confidence."""
    wave_ = np.tile([0.0, 1, 4, 2], 12)[:, None]
    found = find_offset(wave_, wave_, window=1)
    assert (found.lag, found.confidence) == (0, pytest.approx(0, abs=1e-6))
    assert find_offset(wave_[:9], wave_[2:11], window=99).confidence == 0
    flat = find_offset(np.ones((9, 2)), wave_[:9] * np.ones(2))
    assert (flat.lag, flat.score, flat.confidence) == (0, 0, 0)


def test_one_wrong_pair_does_not_pull_the_others():
    """Least squares spreads the error of 3 over all; the robust times leave it where it is."""
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    true = np.array([0, 1.0, -2.0, 0.5])
    offsets = [true[b] - true[a] for a, b in pairs]
    offsets[4] += 3
    found = reconcile(pairs, offsets, np.ones(6), num=4, robust=True)
    np.testing.assert_allclose(found.times, true, atol=5e-3)
    np.testing.assert_allclose(np.abs(found.residuals), [0, 0, 0, 0, 3, 0], atol=0.01)
    plain = reconcile(pairs, offsets, np.ones(6), num=4)
    assert np.abs(plain.times - true).max() > 0.5


def test_sections_say_where_they_lie():
    """A lag that grows by a frame every section must be seen to grow."""
    rng = np.random.default_rng(2)
    long = rng.normal(size=(400, 5)).cumsum(0)
    other = np.concatenate([long[k * 101 : k * 101 + 100] for k in range(3)])
    middles, lags, trust = local_offsets(other, long, lag=0, section=100, reach=8)
    assert middles.tolist() == [50, 150, 250]
    np.testing.assert_allclose(lags, [0, 1, 2], atol=0.5)
    assert (trust > 0.05).all()


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (np.zeros((0, 3)), np.zeros((4, 3)), "no frame features"),
        (np.ones((4, 2)), np.ones((4, 3)), "one encoder"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), "not finite"),
    ],
)
def test_features_that_cannot_be_compared(a, b, said):
    with pytest.raises(OffsetError, match=said):
        find_offset(a, b)
