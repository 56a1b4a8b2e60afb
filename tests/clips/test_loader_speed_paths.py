"""The short cuts of the reader give what the long way gives: pictures left out, draining, crops while scaling."""

import os
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import video_maker
from PIL import Image

from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.clips.crops import Region, ViewRequest, view_frames
from video_ssl.clips.decoders.pyav import reader as pyav_reader
from video_ssl.clips.decoders.pyav.mp4_index import read_mp4_index
from video_ssl.clips.decoders.pyav.reader import PyAVReader
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record, open_video
from video_ssl.clips.views import read_views, sample_clip_views
from video_ssl.datasets.table import Table

NAMES = [
    *("gop12.mp4", "gop250.mp4", "intra.mp4", "odd_size.mp4", "one_frame.mp4", "two_frames.mp4"),
    *("matroska.mkv", "fragmented.mp4", "mpeg4.avi", "h264.avi", "mpeg4.mp4", "transport.ts"),
    *("rotated.mp4", "variable_rate.mp4", "cut_in_gop.mkv", "cut_at_key.mp4"),
]
CODED = {
    "pyramid.mp4": {"x264-params": "b-pyramid=normal:bframes=5:b-adapt=0:keyint=250"},
    "strict.mp4": {"x264-params": "b-pyramid=strict:bframes=4:b-adapt=0:keyint=20"},
    "open_gop.mp4": {"x264-params": "open-gop=1:bframes=3:b-adapt=0:keyint=12:scenecut=0"},
    "interlaced.mp4": {"x264-params": "tff=1:bframes=3:keyint=30"},
    "refresh.mp4": {"x264-params": "intra-refresh=1:bframes=2:keyint=20"},
    "references.mp4": {"x264-params": "ref=8:bframes=3:weightb=1:keyint=250", "preset": "medium"},
}


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """Videos with every structure of references that x264 knows."""
    folder = tmp_path_factory.mktemp("coded")
    for name, options in CODED.items():
        with av.open(str(folder / name), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.height, stream.width = video_maker.SIZE
            stream.pix_fmt = "yuv420p"
            stream.options = {"preset": "veryfast", "threads": "1", **options}
            for index in range(50):
                picture = video_maker.draw(index, video_maker.SIZE)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            out.mux(stream.encode())
    return folder


def sample_videos():
    root = os.environ.get("VIDEO_SSL_SAMPLE_VIDEOS")
    found = Path(root).glob("*.*") if root else []
    return sorted(path for path in found if path.suffix in {".mp4", ".mkv", ".mov"})


def some_indices(num_frames, seed):
    """What plans ask for: strided runs, single frames, both ends, and everything out of order."""
    rng = np.random.default_rng(seed)
    yield np.array([num_frames - 1])
    yield np.arange(0, num_frames, 4)
    for _ in range(4):
        start, stride = int(rng.integers(num_frames)), int(rng.integers(1, 9))
        yield np.arange(start, num_frames, stride)[:8]
    yield rng.permutation(num_frames)[:10]


def assert_exact(path, pictures):
    with open_video(path) as reader:
        assert reader.info.num_frames == len(pictures)
        for indices in some_indices(len(pictures), seed=len(pictures)):
            for place, frame in zip(indices, reader.frames(indices), strict=True):
                np.testing.assert_array_equal(frame, pictures[place], err_msg=f"frame {place}")


@pytest.mark.parametrize("name", CODED)
def test_pictures_left_out_change_nothing_in_the_others(coded, name):
    pictures, _ = video_maker.sequential(coded / name)
    assert_exact(coded / name, pictures)


@pytest.mark.parametrize("name", NAMES)
def test_every_container_is_exact(videos, name):
    pictures, _ = video_maker.sequential(videos / name)
    assert_exact(videos / name, pictures)


@pytest.mark.parametrize("path", sample_videos(), ids=lambda path: path.name)
def test_odd_files_with_and_without_the_short_cuts(path, monkeypatch):
    try:
        with open_video(path, timeout_sec=60) as reader:
            indices = np.unique(np.linspace(0, reader.info.num_frames - 1, 12).astype(int))
            quick = reader.frames(indices, (32, 48))
    except BadVideo as err:
        pytest.skip(f"not a readable video: {err}")
    monkeypatch.setattr(pyav_reader, "SKIPPING_CODECS", set())
    with PyAVReader(str(path)) as reader:
        np.testing.assert_array_equal(quick, reader.frames(indices, (32, 48)))


def test_pictures_are_really_left_out(coded, monkeypatch):
    """Only wanted or referenced pictures come out of the decoder, and nothing is read past the last one wanted."""
    decoded, read = [], []
    real = PyAVReader._frames_after_seek
    packets = PyAVReader._packets_from
    monkeypatch.setattr(
        PyAVReader,
        "_frames_after_seek",
        lambda self, *args: (decoded.append(f.pts) or f for f in real(self, *args)),
    )
    monkeypatch.setattr(
        PyAVReader,
        "_packets_from",
        lambda self, *args: (read.append(p.pts) or p for p in packets(self, *args)),
    )
    with open_video(coded / "pyramid.mp4") as reader:
        reader.frames([30])
    assert len(decoded) < 20, (
        "of 31 frames up to the wanted one, two thirds are not needed by others"
    )
    assert len(read) <= 36


def test_a_reader_can_be_left_in_the_middle_of_a_run(videos):
    with open_video(videos / "gop250.mp4") as reader:
        stream = reader.stream(np.arange(40))
        assert next(stream)[0] == 0
        reader.close()
        stream.close()
    with open_video(videos / "gop250.mp4") as reader:
        next(reader.stream(np.arange(3, 40)))
        pictures, _ = video_maker.sequential(videos / "gop250.mp4")
        np.testing.assert_array_equal(reader.frames([5])[0], pictures[5])


# The index of an mp4 file


def demuxed(path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(pyav_reader, "read_mp4_index", lambda *_: None)
        with PyAVReader(str(path)) as reader:
            assert not reader._from_index
            return reader._list


LISTED_BY_PACKETS = {"fragmented.mp4", "variable_rate.mp4", "cut_at_key.mp4", "mpeg4.mp4"}


def assert_same_list(path, monkeypatch):
    with PyAVReader(str(path)) as reader:
        used, listing = reader._from_index, reader._list
    if used:
        by_packets = demuxed(path, monkeypatch)
        for name in ("pts", "key_pts", "key_dts"):
            np.testing.assert_array_equal(getattr(listing, name), getattr(by_packets, name))
    return used


@pytest.mark.parametrize("name", [name for name in [*NAMES, "audio.mp4"] if name.endswith(".mp4")])
def test_the_index_lists_what_the_packets_do(videos, name, monkeypatch):
    assert assert_same_list(videos / name, monkeypatch) == (name not in LISTED_BY_PACKETS)


@pytest.mark.parametrize("name", CODED)
def test_the_index_of_every_structure(coded, name, monkeypatch):
    assert_same_list(coded / name, monkeypatch)


@pytest.mark.parametrize("path", sample_videos(), ids=lambda path: path.name)
def test_the_index_of_odd_files(path, monkeypatch):
    try:
        assert_same_list(path, monkeypatch)
    except BadVideo as err:
        pytest.skip(f"not a readable video: {err}")


def test_the_rest_of_the_file_is_not_read(videos, monkeypatch):
    monkeypatch.setattr(PyAVReader, "_list_by_demuxing", lambda self: pytest.fail("reads it all"))
    with open_video(videos / "audio.mp4") as reader:
        assert reader.info.num_frames == video_maker.NUM_FRAMES


def test_the_index_of_a_part_of_a_file(videos, tmp_path):
    inner = (videos / "gop12.mp4").read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"x" * 777 + inner + b"y" * 99)
    whole = read_mp4_index(str(videos / "gop12.mp4"))
    part = read_mp4_index(str(tmp_path / "shard.tar"), (777, len(inner)))
    np.testing.assert_array_equal(part.pts, whole.pts)
    assert read_mp4_index(str(tmp_path / "shard.tar")) is None


def test_a_damaged_index_is_left_to_the_demultiplexer(videos, tmp_path):
    """Whatever byte of the index is wrong, the answer is None or arrays that belong together, never an error."""
    data = bytearray((videos / "gop12.mp4").read_bytes())
    start = data.index(b"moov") - 4
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.mp4"
    for _ in range(300):
        copy = bytearray(data)
        copy[int(rng.integers(start, len(copy)))] = int(rng.integers(256))
        path.write_bytes(copy)
        index = read_mp4_index(str(path))
        assert index is None or (np.diff(index.pts) > 0).all()
    assert read_mp4_index(str(tmp_path / "missing.mp4")) is None
    assert read_mp4_index(str(videos / "matroska.mkv")) is None


def test_an_index_that_is_wrong_is_found_out(videos, monkeypatch):
    """Times that no packet has: the file is refused, not read at other frames."""
    real = pyav_reader.read_mp4_index

    def wrong(*place):
        index = real(*place)
        pts = index.pts.copy()
        pts[20] += 1
        return replace(index, pts=pts)

    monkeypatch.setattr(pyav_reader, "read_mp4_index", wrong)
    with open_video(videos / "gop12.mp4") as reader:
        assert reader.frames([3]).shape == (1, 96, 128, 3)
        with pytest.raises(
            BadVideo, match="the frames that its index lists are not those in the file"
        ):
            reader.frames([20, 21])


# Views


REGIONS = [
    (Region(left=0, top=0, width=96, height=96), (64, 64)),
    (Region(left=17, top=9, width=70, height=61, flip=True), (56, 56)),
    (Region(left=30, top=4, width=40, height=40), (112, 112)),
    (Region(left=5, top=7, width=48, height=32), (32, 48)),  # nothing to scale
]


def both_ways(reader, indices, region, size):
    outs = [np.zeros((len(indices), *size, 3), np.uint8) for _ in range(2)]
    for out, resize in zip(outs, ["decoder", "pillow"], strict=True):
        read_views(reader, [ViewRequest(indices=indices, region=region, out=out)], resize=resize)
    return outs


@pytest.mark.parametrize(("region", "size"), REGIONS)
@pytest.mark.parametrize("name", ["gop12.mp4", "rotated.mp4", "odd_size.mp4", "mpeg4.avi"])
def test_views_of_the_decoder_are_those_of_pillow(videos, name, region, size):
    with open_video(videos / name) as reader:
        if name == "rotated.mp4":
            region = Region(left=region.top, top=region.left, width=region.height, height=region.width,
                            flip=region.flip)  # fmt: skip
            size = size[::-1]
        quick, slow = both_ways(reader, np.array([3, 1, 9]), region, size)
    if size == (region.height, region.width):
        np.testing.assert_array_equal(quick, slow)
    else:
        assert np.abs(grey_difference(quick, slow)).mean() < 3
        assert abs(grey_difference(quick, slow).mean()) < 2
        assert best_shift(quick, slow) == (0, 0)


def grey_difference(quick, slow):
    """Signed, float (T, h, w).  The test videos have colored noise, which chroma cannot keep."""
    return (quick.astype(float) - slow) @ [0.299, 0.587, 0.114]


def best_shift(first, second):
    """By how many pixels `first` must be moved to look like `second`."""
    a, b = first.astype(float).mean(-1), second.astype(float).mean(-1)
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min(shifts, key=lambda s: np.abs(np.roll(a, s, (1, 2)) - b)[:, 2:-2, 2:-2].mean())


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_region_of_a_rotated_video_lies_where_it_is_seen(tmp_path, rotation):
    path = tmp_path / "r.mp4"
    video_maker.make_video(path, num_frames=3, rotation=rotation)
    with open_video(path) as reader:
        height, width = reader.info.height, reader.info.width
        region = Region(left=width // 5, top=height // 3, width=width // 2, height=height // 3)
        quick, slow = both_ways(reader, np.arange(3), region, (40, 44))
        assert np.abs(grey_difference(quick, slow)).mean() < 3
        whole = reader.frames(np.arange(3))
    np.testing.assert_array_equal(slow, view_frames(whole, region, (40, 44)))


@pytest.mark.parametrize("path", sample_videos(), ids=lambda path: path.name)
def test_views_of_odd_files(path):
    try:
        reader = open_video(path, timeout_sec=60)
    except BadVideo as err:
        pytest.skip(f"not a readable video: {err}")
    with reader:
        info = reader.info
        side = min(info.height, info.width) * 2 // 3
        left, top = (info.width - side) // 2, (info.height - side) // 2
        region = Region(left=left, top=top, width=side, height=side)
        try:
            quick, slow = both_ways(reader, np.array([0, info.num_frames // 2]), region, (96, 96))
        except BadVideo as err:
            pytest.skip(f"not a readable video: {err}")
    assert np.abs(grey_difference(quick, slow)).mean() < 3
    if slow.std(axis=(1, 2)).max() > 5:  # there is something to see
        assert best_shift(quick, slow) == (0, 0)


def smooth_video(path, **settings):
    y, x = np.mgrid[:120, :160]
    picture = np.stack([60 + 90 * (x > 80), 40 + y, 200 - x // 2], -1).astype(np.uint8)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25)
        stream.height, stream.width = 120, 160
        for name, value in settings.items():
            setattr(stream.codec_context, name, value)
        stream.codec_context.options = {"crf": "4"}
        for _ in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    "settings",
    [
        {"pix_fmt": "yuv420p"},
        {"pix_fmt": "yuv444p"},
        {"pix_fmt": "yuv420p10le"},
        {"pix_fmt": "yuv422p10le"},
        {"pix_fmt": "yuv420p", "colorspace": 1},  # BT.709
        {"pix_fmt": "yuv420p", "color_range": 2},  # full range
    ],
    ids=str,
)
def test_colors_are_those_of_the_slow_path(tmp_path, settings):
    smooth_video(tmp_path / "s.mp4", **settings)
    with open_video(tmp_path / "s.mp4") as reader:
        region = Region(left=11, top=21, width=80, height=80)
        quick, slow = both_ways(reader, np.arange(3), region, (56, 56))
    away_from_the_edge = np.abs(quick.astype(int) - slow)[:, :, :44]
    assert away_from_the_edge.max() <= 6
    assert np.abs(quick.astype(int) - slow).mean() < 2.5


def test_many_views_share_the_decoding_and_duplicates_are_alike(videos, monkeypatch):
    taken = []
    real = PyAVReader._decode
    monkeypatch.setattr(
        PyAVReader, "_decode", lambda self, wanted: taken.append(len(wanted)) or real(self, wanted)
    )
    region, other = (
        Region(left=0, top=0, width=90, height=90),
        Region(left=9, top=3, width=50, height=60),
    )
    indices = np.array([4, 8, 8, 2])
    outs = [np.zeros((4, side, side, 3), np.uint8) for side in (32, 48, 32)]
    with open_video(videos / "gop12.mp4") as reader:
        reader.info  # noqa: B018
        taken.clear()
        reader.views(
            [
                ViewRequest(indices=indices, region=region, out=outs[0]),
                ViewRequest(indices=indices, region=region, out=outs[1]),
                ViewRequest(indices=np.array([8, 30, 31, 32]), region=other, out=outs[2]),
            ]
        )
        assert taken == [6]
        alone = np.zeros((1, 32, 32, 3), np.uint8)
        reader.views([ViewRequest(indices=np.array([8]), region=region, out=alone)])
    np.testing.assert_array_equal(outs[0][1], outs[0][2])
    np.testing.assert_array_equal(outs[0][1], alone[0])
    assert not np.array_equal(outs[0][1], outs[2][0])


def test_a_segment_shows_its_own_frames(videos):
    record = Table.from_columns(
        {"source": [str(videos / "gop12.mp4")], "start_sec": [0.4], "end_sec": [1.2]}
    ).record(0)
    region = Region(left=0, top=0, width=128, height=96)
    out = np.zeros((2, 96, 128, 3), np.uint8)
    with open_record(record) as reader:
        reader.views([ViewRequest(indices=np.array([0, 5]), region=region, out=out)])
        with pytest.raises(IndexError):
            reader.views([ViewRequest(indices=np.array([20, 21]), region=region, out=out)])
    assert [video_maker.read_index(frame) for frame in out] == [10, 15]


def test_a_region_outside_is_refused(videos):
    out = np.zeros((1, 8, 8, 3), np.uint8)
    region = Region(left=100, top=0, width=64, height=64)
    with open_video(videos / "gop12.mp4") as reader, pytest.raises(ValueError, match="reaches out"):
        reader.views([ViewRequest(indices=np.array([0]), region=region, out=out)])


def test_clips_of_a_plan_are_the_same_whichever_way(videos):
    record = Table.from_columns({"source": [str(videos / "gop12.mp4")]}).record(0)
    clip = ClipConfig(num_frames=4, frame_stride=3, num_clips=2)
    views = {}
    for resize in ("decoder", "pillow"):
        crop = CropConfig(kind="random_resized", size=48, flip_probability=0.5, resize=resize)
        with open_record(record) as reader:
            views[resize] = sample_clip_views(
                record, reader, np.random.default_rng(4), clip=clip, crop=crop, sizes=(48, 24)
            )
    for quick, slow in zip(views["decoder"], views["pillow"], strict=True):
        assert quick.shape == slow.shape
        assert quick.shape[:2] == (2, 4)
        assert np.abs(grey_difference(quick, slow)).mean() < 3


def test_pillow_stays_the_reference():
    frames = np.random.default_rng(0).integers(0, 256, (1, 40, 60, 3), np.uint8)
    region = Region(left=7, top=3, width=30, height=31)
    image = Image.fromarray(frames[0]).crop((7, 3, 37, 34)).resize((16, 16), Image.BILINEAR)
    np.testing.assert_array_equal(view_frames(frames, region, 16)[0], np.asarray(image))
