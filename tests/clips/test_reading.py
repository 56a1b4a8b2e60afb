import os
import pickle
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video_maker import NUM_FRAMES, SIZE, chirp, read_index, sequential

from video_ssl.clips.decoders.backends import missing
from video_ssl.clips.decoders.reader import READERS, BadVideo, VideoInfo
from video_ssl.clips.reading import open_record, open_video, origin_of
from video_ssl.clips.regions import boxes_at
from video_ssl.clips.windows import WindowConfig, WindowPlan
from video_ssl.datasets.table import Record
from video_ssl.evaluate.places.key_frames import frame_of

GOOD = ["gop12.mp4", "gop250.mp4", "intra.mp4", "odd_size.mp4", "one_frame.mp4", "two_frames.mp4", "audio.mp4",
        "matroska.mkv", "fragmented.mp4", "mpeg4.avi", "h264.avi", "mpeg4.mp4", "transport.ts", "rotated.mp4",
        "variable_rate.mp4", "cut_in_gop.mkv", "cut_at_key.mp4"]  # fmt: skip
SAMPLES = Path(os.environ.get("VIDEO_SSL_SAMPLE_VIDEOS") or "/nonexistent")
UPRIGHT = {
    "video_90.mov": (568, 320),
    "video_270.mov": (568, 320),
    "video_0.mov": (320, 568),
    "video_180.mov": (320, 568),
}


def open_exact(path, backend):
    """The video as records are read: with `backend` where it is exact, with PyAV elsewhere."""
    return open_record(Record(index=0, id="r", source=str(path)), backend)


@pytest.fixture
def backend(request):
    problem = missing(request.param)
    if problem is not None:
        pytest.skip(problem)
    return request.param


def assert_same_frames(path, backend):
    expected, times = sequential(path)
    count = len(expected)
    rng = np.random.default_rng(0)
    with open_exact(path, backend) as reader:
        info = reader.info
        assert info.num_frames == count
        assert (info.height, info.width) == expected[0].shape[:2]
        everything = reader.frames(np.arange(count))
        for index in range(count):
            np.testing.assert_array_equal(
                everything[index], expected[index], err_msg=f"frame {index}"
            )
        for _ in range(8):
            wanted = rng.integers(0, count, size=5)
            for index, frame in zip(wanted, reader.frames(wanted), strict=True):
                np.testing.assert_array_equal(
                    frame, expected[index], err_msg=f"frame {index} of {wanted}"
                )
        for index in (count - 1, 0):
            np.testing.assert_array_equal(reader.frames([index])[0], expected[index])
        if None not in times and (np.diff(times) > 0).all():
            np.testing.assert_allclose(
                reader.times(np.arange(count)), np.array(times) - times[0], atol=1e-6
            )
    with open_exact(path, backend) as fresh:  # the first thing read is the last frame
        np.testing.assert_array_equal(fresh.frames([count - 1])[0], expected[-1])


@pytest.mark.parametrize("backend", READERS, indirect=True)
@pytest.mark.parametrize("name", GOOD)
def test_every_index_gives_the_frame_of_a_sequential_decode(videos, name, backend):
    assert_same_frames(videos / name, backend)


@pytest.mark.parametrize("backend", READERS, indirect=True)
@pytest.mark.parametrize(
    "name", sorted(set(GOOD) - {"rotated.mp4", "cut_in_gop.mkv", "cut_at_key.mp4", "odd_size.mp4"})
)
def test_frames_show_their_own_index(videos, name, backend):
    with open_exact(videos / name, backend) as reader:
        order = np.random.default_rng(1).permutation(reader.info.num_frames)
        assert [read_index(frame) for frame in reader.frames(order)] == order.tolist()


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="VIDEO_SSL_SAMPLE_VIDEOS is not set to a folder")
@pytest.mark.parametrize("backend", READERS, indirect=True)
@pytest.mark.parametrize(
    "path",
    sorted(p for p in SAMPLES.glob("*.*") if p.suffix in (".mp4", ".mkv", ".mov")),
    ids=lambda p: p.name,
)
def test_files_that_others_wrote(path, backend):
    if path.name.startswith("corrupted"):
        with (
            pytest.raises(BadVideo, match=f"{path.name}: .*frames? \\d+"),
            open_exact(path, backend) as reader,
        ):
            reader.frames(np.arange(reader.info.num_frames))
        return
    assert_same_frames(path, backend)
    with open_exact(path, backend) as reader:
        if path.name in UPRIGHT:
            assert reader.frames([0]).shape[1:3] == UPRIGHT[path.name]


def test_info(videos):
    with open_video(videos / "audio.mp4") as reader:
        info = reader.info
    assert info == VideoInfo(
        num_frames=NUM_FRAMES,
        fps=pytest.approx(25),
        width=SIZE[1],
        height=SIZE[0],
        duration_sec=pytest.approx(NUM_FRAMES / 25),
        codec="h264",
        rotation=0,
        has_audio=True,
    )
    with open_video(videos / "rotated.mp4") as reader:
        assert (reader.info.height, reader.info.width) == (SIZE[1], SIZE[0])
        assert reader.info.rotation in (90, 270)


def test_duplicates_order_size_and_nothing(videos):
    with open_video(videos / "gop12.mp4") as reader:
        full = reader.frames([7, 3, 7, 59])
        np.testing.assert_array_equal(full[0], full[2])
        assert [read_index(f) for f in full] == [7, 3, 7, 59]
        small = reader.frames([7, 3], (48, 64))
        assert small.shape == (2, 48, 64, 3)
        block_means = full[0].reshape(48, 2, 64, 2, 3).mean(axis=(1, 3))
        assert np.abs(small[0] - block_means).mean() < 6, "a resized frame is the same picture"
        assert reader.frames([]).shape == (0, *SIZE, 3)


def test_resized_frames_are_upright_too(videos):
    with open_video(videos / "rotated.mp4") as reader:
        full, small = reader.frames([5])[0], reader.frames([5], (64, 48))[0]
    assert small.shape == (64, 48, 3)
    means = full.reshape(64, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - means).mean() < 6


@pytest.mark.parametrize("wanted", [[60], [-1], [0, 1000]])
def test_an_index_out_of_range_is_an_error(videos, wanted):
    with (
        open_video(videos / "gop12.mp4") as reader,
        pytest.raises(IndexError, match="a video with 60 frames"),
    ):
        reader.frames(wanted)


def expected_sound(start, end, rate):
    at = start + np.arange(round((end - start) * rate)) / rate
    return np.where((at >= 0) & (at < NUM_FRAMES / 25), chirp(at), 0)


@pytest.mark.parametrize("rate", [16000, 8000, 22050])
@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 2.4), (0.5, 1.0), (1.3333, 1.3433), (-0.5, 0.25), (2.2, 3.0), (5, 6), (1, 1)],
)
def test_sound_is_that_of_the_time_and_as_long_as_asked(videos, start, end, rate):
    with open_video(videos / "audio.mp4") as reader:
        sound = reader.audio(start, end, rate)
    expected = expected_sound(start, end, rate)
    assert (sound.dtype, sound.shape) == (np.float32, expected.shape)
    at = start + np.arange(len(sound)) / rate
    inner = (at > 0.1) & (at < 2.25)  # the codec smears the very ends
    assert np.abs(sound - expected)[inner].max(initial=0) < 0.12
    assert (sound[(at < 0) | (at > 2.6)] == 0).all()


def test_no_audio_stream_is_silence(videos):
    with open_video(videos / "gop12.mp4") as reader:
        np.testing.assert_array_equal(reader.audio(0, 0.5, 16000), np.zeros(8000, np.float32))


def test_a_segment_counts_from_its_own_start(videos):
    record = Record(index=0, id="s", source=str(videos / "audio.mp4"), start_sec=0.4, end_sec=1.2)
    with open_record(record) as reader:
        assert reader.info.num_frames == 20
        assert [read_index(f) for f in reader.frames([0, 19, 5])] == [10, 29, 15]
        np.testing.assert_allclose(reader.times([0, 1]), [0, 0.04], atol=1e-6)
        assert reader.info.duration_sec == pytest.approx(0.8)
        with pytest.raises(IndexError, match="20 frames"):
            reader.frames([20])
        sound = reader.audio(0.1, 1.0, 8000)
        np.testing.assert_allclose(sound[:5600], expected_sound(0.5, 1.2, 8000), atol=0.12)
        assert (sound[5600:] == 0).all()


@pytest.fixture
def slow_folder(tmp_path):
    """Five pictures, one a second, each as bright as its number says; the stretch begins between the first two."""
    for number in range(5):
        picture = Image.new("RGB", (16, 16), (40 * number,) * 3)
        picture.save(tmp_path / f"{number:03d}.png")
    return Record(index=0, id="s", source=str(tmp_path), fps=1.0, start_sec=0.1)


def test_times_of_a_stretch_are_those_of_the_source(slow_folder):
    """They were early by up to a frame where no frame lies exactly at the start of the stretch."""
    with open_record(slow_folder) as reader:
        assert origin_of(reader, slow_folder) == 1.0
        config = WindowConfig(num_frames=2, frame_stride=1, num_clips=1, size=16)
        rng = np.random.default_rng(0)
        sample = WindowPlan(config)(slow_folder, reader, rng, 0.0)
    shown = sample["video"][0, :, 0, 0, 0] / 40
    np.testing.assert_allclose(sample["times_sec"][0], shown, atol=1e-6)
    assert origin_of(None, slow_folder) == 0.1  # of a reader that knows nothing of stretches


def test_boxes_of_a_stretch_are_those_of_their_moments(slow_folder):
    """Of a moment at 2 s the picture of 3 s was taken, and boxes were looked for at the same wrong place."""
    moments = np.array([2.0, 4.0])
    boxes = np.float32([[[0, 0, 0.5, 0.5]], [[0.5, 0.5, 1, 1]]])
    record = replace(slow_folder, boxes=boxes, box_times_sec=moments)
    with open_record(record) as reader:
        frames = [frame_of(record, moment, reader) for moment in range(2)]
        shown = reader.frames(frames)[:, 0, 0, 0] / 40
        found, _ = boxes_at(record, reader, np.arange(4), max_distance_sec=0.25)
    np.testing.assert_allclose(shown, moments)
    assert [len(own) for own in found] == [0, 1, 0, 1]


def test_a_segment_without_a_frame_is_bad(videos):
    record = Record(index=0, id="s", source=str(videos / "gop12.mp4"), start_sec=5.0, end_sec=6.0)
    with pytest.raises(BadVideo, match="record 's' has no frame from 5 to 6 s"):
        open_record(record)


@pytest.fixture
def bad(videos, tmp_path):
    good = (videos / "gop250.mp4").read_bytes()
    zeroed = bytearray(good)
    zeroed[len(good) // 3 : len(good) // 2] = bytes(len(good) // 2 - len(good) // 3)
    avi = (videos / "mpeg4.avi").read_bytes()
    fragments = (videos / "fragmented.mp4").read_bytes()
    contents = {
        "empty.mp4": b"", "text.mp4": b"<html>404 Not Found</html>" * 40, "noise.mp4": os.urandom(5000),
        "cut.mp4": good[: len(good) * 6 // 10], "cut.avi": avi[: len(avi) // 2],
        "cut_fragments.mp4": fragments[: len(fragments) * 7 // 10],
        "zeroed.mp4": bytes(zeroed), "only_head.mp4": good[:40],
    }  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo(tmp_path / "pipe.mp4")
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.mp4", "does not exist"),
        ("folder.mp4", "is a folder"),
        ("pipe.mp4", "is not a regular file"),
        ("empty.mp4", "is empty"),
        ("text.mp4", "cannot be opened as a video"),
        ("noise.mp4", "cannot be opened as a video"),
        ("cut.mp4", "is cut off: .* bytes of"),
        ("cut.avi", "is cut off: .* bytes of"),
        ("cut_fragments.mp4", "is cut off: .* bytes of"),
        ("only_head.mp4", "cut off|cannot be opened"),
        ("sound.mp4", "has no video stream, only audio"),
        ("zeroed.mp4", r"frame \d+"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_reason(bad, name, reason):
    begin = time.monotonic()
    with pytest.raises(BadVideo, match=reason) as caught, open_video(bad / name) as reader:
        reader.frames(np.arange(reader.info.num_frames))
    assert time.monotonic() - begin < 60
    assert caught.value.path == str(bad / name)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.path, copy.reason, str(copy)) == (
        caught.value.path,
        caught.value.reason,
        str(caught.value),
    )


def test_damage_never_does_worse_than_an_error(videos, tmp_path):
    rng = np.random.default_rng(0)
    for name in ("gop12.mp4", "mpeg4.avi", "matroska.mkv", "transport.ts"):
        content = np.frombuffer((videos / name).read_bytes(), np.uint8)
        for round_ in range(6):
            hurt = content.copy()
            hurt[rng.integers(0, len(hurt), 40)] = rng.integers(0, 256, 40)
            path = tmp_path / f"{round_}{name}"
            path.write_bytes(hurt[: rng.integers(len(hurt) // 2, len(hurt))].tobytes())
            try:
                with open_video(path, timeout_sec=20) as reader:
                    reader.frames([0, reader.info.num_frames - 1])
            except BadVideo as err:
                assert str(path) in str(err)  # noqa: PT017


def test_time_is_limited(videos):
    with pytest.raises(BadVideo, match="takes longer than 1e-09 s"):
        open_video(videos / "gop12.mp4", timeout_sec=1e-9)
    with open_video(videos / "gop12.mp4", timeout_sec=0.5) as reader:
        reader.frames([0])
        time.sleep(0.6)
        with pytest.raises(BadVideo, match=r"takes longer than 0\.5 s"):
            reader.frames([30])


def test_an_unknown_backend_names_the_known(videos):
    with pytest.raises(ValueError, match=r"no decoder backend 'pyv'.* Did you mean 'pyav'"):
        open_video(videos / "gop12.mp4", "pyv")


def test_only_what_is_needed_is_decoded(videos, monkeypatch):
    """16 of 60 frames near the end of a file with short GOPs must not cost a decode from the start."""
    from video_ssl.clips.decoders.pyav import reader as pyav_reader

    decoded = []
    original = pyav_reader.PyAVReader._frames_after_seek

    def counting(self, *args):
        for frame in original(self, *args):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(pyav_reader.PyAVReader, "_frames_after_seek", counting)
    with open_video(videos / "gop12.mp4") as reader:
        reader.frames([50, 51, 52])
    assert len(decoded) <= 12


def test_one_decoding_thread(videos):
    with open_video(videos / "gop12.mp4") as reader:
        assert reader._stream.codec_context.thread_count == 1
