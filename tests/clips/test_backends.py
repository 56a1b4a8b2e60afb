"""Exactness of every backend on every odd file: what a library gets wrong is listed by name, and PyAV reads it."""

import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from video_maker import sequential

from video_ssl.bench.odd_videos import ODD_VIDEOS, chirp, read_index
from video_ssl.clips.decoders import backends
from video_ssl.clips.decoders.backends import OPTIONAL, choose_backend, missing, wrong_on
from video_ssl.clips.decoders.files.facts import file_facts
from video_ssl.clips.decoders.libraries.library_reader import LibraryReader, MissingBackend
from video_ssl.clips.decoders.reader import READERS, BadVideo, NotExact
from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets.table import Record

# What decord 0.6.0 and torchcodec 0.13.0 do with these files.  NOT_OPENED: an error; OTHER_FRAMES: silently others;
# OTHER_COLORS: the right frame, converted differently.
NOT_OPENED, OTHER_FRAMES, OTHER_COLORS = "not opened", "other frames", "other colors"
KNOWN_WRONG = {
    "decord": {
        "open_gop.mp4": OTHER_FRAMES,  # by random access
        "odd_420.webm": OTHER_COLORS,
        "edit_list.mp4": NOT_OPENED,  # counts the hidden frames
        "cut_in_gop.mkv": NOT_OPENED,
        "ten_bit.mp4": OTHER_COLORS,
        "hevc.mp4": OTHER_FRAMES,  # x265's GOPs are open
        "av1.mp4": NOT_OPENED,
        "mpeg4_b.avi": OTHER_FRAMES,
        "packed_b.avi": OTHER_FRAMES,
        "h264.avi": OTHER_FRAMES,
        "transport.ts": OTHER_FRAMES,
        "program.mpg": OTHER_FRAMES,
        "windows.wmv": OTHER_FRAMES,
        "animation.gif": NOT_OPENED,
    },
    "torchcodec": {
        "odd_420.webm": OTHER_COLORS,
        "cut_in_gop.mkv": NOT_OPENED,
        "ten_bit.mp4": OTHER_COLORS,
        "mpeg4_b.avi": OTHER_FRAMES,
        "packed_b.avi": OTHER_FRAMES,
        "transport.ts": OTHER_FRAMES,
        "program.mpg": OTHER_FRAMES,
    },
}
# Right in our file, but not in every file of the kind: not used there either.
DISTRUSTED = {
    "decord": set(),
    "torchcodec": {"edit_list.mp4", "h264.avi", "windows.wmv"},
}


def need(backend):
    problem = missing(backend)
    if problem is not None:
        pytest.skip(problem)


def record_of(path, **columns):
    return Record(index=0, id="r", source=str(path), **columns)


@pytest.fixture(scope="session")
def truth(odd_videos):
    """name -> (frames, times) of a plain decode, computed once."""
    cache = {}

    def get(name):
        if name not in cache:
            cache[name] = sequential(odd_videos / name)
        return cache[name]

    return get


def differing(path, backend, expected):
    """Frames that differ by random access, one at a time in a fresh reader, and in one call."""
    count = len(expected)
    order = [count - 1, *np.random.default_rng(0).integers(0, count, 24).tolist(), 0]
    wrong = set()
    with open_video(path, backend) as reader:
        assert reader.info.num_frames == count
        for index in order:
            if not np.array_equal(reader.frames([index])[0], expected[index]):
                wrong.add(index)
        for index, frame in enumerate(reader.frames(np.arange(count))):
            if not np.array_equal(frame, expected[index]):
                wrong.add(index)
    return wrong


@pytest.mark.parametrize("name", ODD_VIDEOS)
@pytest.mark.parametrize("backend", READERS)
def test_a_backend_is_exact_or_known_not_to_be(odd_videos, truth, backend, name):
    need(backend)
    expected, _ = truth(name)
    known = KNOWN_WRONG.get(backend, {}).get(name)
    path = odd_videos / name
    if known == NOT_OPENED:
        with pytest.raises(BadVideo, match=backend):
            open_video(path, backend)
    elif known is None:
        assert differing(path, backend, expected) == set()
    else:
        try:
            wrong = differing(path, backend, expected)
        except BadVideo:
            wrong = {"error"}
        assert wrong, f"{backend} is right on {name} now: take it off the list"
        if known == OTHER_COLORS:
            with open_video(path, backend) as reader:
                shown = [read_index(frame) for frame in reader.frames(np.arange(len(expected)))]
            assert shown == list(range(len(expected)))


@pytest.mark.parametrize("name", ODD_VIDEOS)
@pytest.mark.parametrize("backend", OPTIONAL)
def test_the_rules_know_what_the_list_knows(odd_videos, backend, name):
    reason = wrong_on(backend, file_facts(str(odd_videos / name)))
    known = name in KNOWN_WRONG[backend] or name in DISTRUSTED[backend]
    assert (reason is not None) == known, reason


@pytest.mark.parametrize("backend", OPTIONAL)
def test_a_record_is_read_exactly_whatever_was_asked_for(odd_videos, truth, backend):
    need(backend)
    for name in ("plain.mp4", *sorted(KNOWN_WRONG[backend])):
        chosen = choose_backend(backend, record_of(odd_videos / name))
        assert chosen == (backend if name == "plain.mp4" else "pyav")
    expected, _ = truth("open_gop.mp4")
    with open_record(record_of(odd_videos / "open_gop.mp4"), backend) as reader:
        for index in (59, 13, 40, 0):
            np.testing.assert_array_equal(reader.frames([index])[0], expected[index])


def test_the_reason_is_logged_once(odd_videos, caplog, monkeypatch):
    need("decord")
    monkeypatch.setattr(backends, "_said", set())
    caplog.set_level(logging.INFO)
    for _ in range(3):
        assert choose_backend("decord", record_of(odd_videos / "transport.ts")) == "pyav"
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1
    assert "transport.ts is read with pyav, not decord" in said[0]
    assert "wrong on mpegts" in said[0]


def test_columns_decide_without_a_look_at_the_file(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda _: None)
    assert choose_backend("auto", record_of("/nowhere.mp4", exact="decord,torchcodec")) == "pyav"
    monkeypatch.setattr(backends, "BY_SPEED", ("decord", "torchcodec", "pyav"))
    nowhere = record_of("/nowhere.mp4")
    assert choose_backend("auto", nowhere) == "pyav"
    assert choose_backend("auto", replace(nowhere, exact="")) == "pyav"
    assert choose_backend("auto", replace(nowhere, exact="torchcodec")) == "torchcodec"
    assert choose_backend("auto", replace(nowhere, exact="decord,torchcodec")) == "decord"
    assert choose_backend("decord", replace(nowhere, exact="decord")) == "decord"
    assert choose_backend("decord", replace(nowhere, exact="torchcodec")) == "pyav"
    assert choose_backend("decord", replace(nowhere, container="mpegts")) == "pyav"
    assert choose_backend("decord", replace(nowhere, codec="hevc")) == "pyav"
    assert choose_backend("torchcodec", replace(nowhere, edit_list=True)) == "pyav"
    with pytest.raises(BadVideo, match="does not exist"):
        choose_backend("decord", nowhere)


def test_auto_takes_only_what_is_installed(monkeypatch):
    monkeypatch.setattr(backends, "missing", lambda name: "no" if name == "decord" else None)
    monkeypatch.setattr(backends, "BY_SPEED", ("decord", "torchcodec", "pyav"))
    record = record_of("/nowhere.mp4", exact="decord,torchcodec")
    assert choose_backend("auto", record) == "torchcodec"


def test_a_missing_package_is_one_line_that_says_what_to_install(odd_videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(MissingBackend, match=r"pip install 'video_ssl\[decord\]'"):
        open_video(odd_videos / "plain.mp4", "decord")
    monkeypatch.setattr(backends, "missing", lambda name: f"the backend {name} is not installed")
    with pytest.raises(MissingBackend, match="torchcodec is not installed"):
        choose_backend("torchcodec", record_of(odd_videos / "plain.mp4"))
    with pytest.raises(ValueError, match="Did you mean 'decord'"):
        choose_backend("decor", record_of(odd_videos / "plain.mp4"))


@pytest.mark.parametrize("backend", OPTIONAL)
def test_size_times_sound_and_info_are_those_of_pyav(odd_videos, backend):
    need(backend)
    for name in ("two_streams.mp4", "rotated_90.mp4", "variable_rate.mp4"):
        with (
            open_video(odd_videos / name, backend) as ours,
            open_video(odd_videos / name) as reference,
        ):
            assert ours.info == reference.info
            every = np.arange(ours.info.num_frames)
            np.testing.assert_array_equal(ours.times(every), reference.times(every))
            small, expected = (r.frames([7, 3, 7], (40, 56)) for r in (ours, reference))
            assert small.shape == (3, 40, 56, 3)
            # Resized after the conversion to RGB, not within it: colored noise differs by a few levels.
            assert np.abs(small.astype(int) - expected).mean() < 9
            assert np.abs(small[0].astype(int) - expected[1]).mean() > 20, "another frame"
            assert ours.frames([]).shape == (0, ours.info.height, ours.info.width, 3)
            with pytest.raises(IndexError, match="frames"):
                ours.frames([ours.info.num_frames])
            if name == "two_streams.mp4":
                sound = ours.audio(0.5, 1.5, 16000)
                assert np.abs(sound - chirp(0.5 + np.arange(16000) / 16000)).max() < 0.15


@pytest.mark.parametrize("backend", OPTIONAL)
def test_what_a_library_cannot_read_is_bad_video(odd_videos, tmp_path, backend):
    need(backend)
    good = (odd_videos / "long_gop.mp4").read_bytes()
    hurt = bytearray(good)
    hurt[len(good) // 3 : len(good) // 2] = bytes(len(good) // 2 - len(good) // 3)
    for name, content in {"text.mp4": b"<html>" * 99, "hurt.mp4": hurt, "empty.mp4": b""}.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(BadVideo, match=name), open_video(path, backend) as reader:
            reader.frames(np.arange(reader.info.num_frames))
    with pytest.raises(BadVideo, match="does not exist"):
        open_video(tmp_path / "none.mp4", backend)
    with pytest.raises(BadVideo, match="takes longer than 1e-09 s"):
        open_video(odd_videos / "plain.mp4", backend, timeout_sec=1e-9)
    reader = open_video(odd_videos / "plain.mp4", backend)
    reader.close()
    reader.close()
    with pytest.raises(ValueError, match="is closed"):
        reader.frames([0])


def test_a_library_that_counts_other_frames_is_not_used(odd_videos):
    class Miscounting(LibraryReader):
        NAME = "fake"

        def _open_decoder(self, path):
            return (lambda indices: np.zeros((len(indices), 96, 128, 3), np.uint8)), 61

    with pytest.raises(NotExact, match="fake counts 61 frames instead of 60: use backend='pyav'"):
        Miscounting(str(odd_videos / "plain.mp4"))


def test_a_library_that_returns_other_sizes_is_not_used(odd_videos):
    class Turned(LibraryReader):
        NAME = "fake"

        def _open_decoder(self, path):
            return (lambda indices: np.zeros((len(indices), 128, 96, 3), np.uint8)), 60

    with (
        Turned(str(odd_videos / "plain.mp4")) as reader,
        pytest.raises(NotExact, match="returns"),
    ):
        reader.frames([0])


def test_importing_the_clips_imports_no_decoder_library():
    import subprocess

    code = (
        "import sys, video_ssl.clips.decoders.backends, video_ssl.clips.upkeep.scan, video_ssl.clips.upkeep.transcode\n"
        "sys.exit(sum(name in sys.modules for name in ('torch', 'decord', 'torchcodec')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name", ["plain.mp4", "long_gop.mp4", "open_gop.mp4", "variable_rate.mp4", "matroska.mkv"]
)
def test_pytorchvideo_shows_the_same_clips(odd_videos, truth, name):
    from pytorchvideo_oracle import encoded_video_class

    EncodedVideo = encoded_video_class()
    if EncodedVideo is None:
        pytest.skip("pytorchvideo is not installed: pip install 'video_ssl[zoo]'")
    assert not any(m == "torchvision" or m.startswith("torchvision.") for m in sys.modules)
    video = EncodedVideo.from_path(str(odd_videos / name), decode_audio=False, decoder="pyav")
    with open_video(odd_videos / name) as reader:
        times = reader.times(np.arange(reader.info.num_frames))
        first, last = 17, 41
        middle = (times[1:] + times[:-1]) / 2  # between two frames: rounding cannot matter
        clip = video.get_clip(middle[first - 1], middle[last - 1])["video"]
        ours = reader.frames(np.arange(first, last))
    theirs = clip.numpy().transpose(1, 2, 3, 0).astype(np.uint8)
    np.testing.assert_array_equal(theirs, ours)
    video.close()


def test_a_file_that_must_be_looked_at_is_fetched_within_the_time(monkeypatch):
    asked = []

    def locate(source, *, byte_range=None, timeout_sec=None):
        asked.append(timeout_sec)
        raise BadVideo(source, "took too long.")

    monkeypatch.setattr(backends, "locate", locate)
    monkeypatch.setattr(backends, "missing", lambda backend: None)
    with pytest.raises(BadVideo, match="took too long"):
        open_record(record_of("https://slow.example/a.mp4"), "decord", timeout_sec=2.5)
    assert asked == [2.5]
