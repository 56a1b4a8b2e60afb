"""Display matrices of every kind are shown as the ffmpeg program shows them; the shape of pixels is told and kept."""

import math
import shutil
import struct
import subprocess

import numpy as np
import pytest
import video_maker
from PIL import Image

from video_ssl.clips.crops import Region, ViewRequest
from video_ssl.clips.decoders.backends import missing
from video_ssl.clips.decoders.orientation import Orientation, read_matrix
from video_ssl.clips.decoders.reader import READERS, NotExact
from video_ssl.clips.reading import open_record, open_video
from video_ssl.clips.upkeep.config import TranscodeConfig, VideoFormat
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.transcode import transcode_table
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record, Table

WIDTH, HEIGHT = video_maker.SIZE[1], video_maker.SIZE[0]


def turned(degrees, mirror=1.0, scale=1.0):
    """a, b, c, d of a turn clockwise, of the mirrored picture where `mirror` is -1."""
    cos, sin = (scale * f(math.radians(degrees)) for f in (math.cos, math.sin))
    return mirror * cos, sin, -mirror * sin, cos


# name -> (a, b, c, d of the matrix, what is done to the coded picture; None: only ffmpeg knows)
MATRICES = {
    "none": ((1, 0, 0, 1), lambda p: p),
    "mirrored": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "upside_down": ((1, 0, 0, -1), lambda p: p[::-1]),
    "half_turn": ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
    "clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
    "counter_clockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "transposed": ((0, 1, 1, 0), lambda p: p.swapaxes(0, 1)),
    "anti_transposed": ((0, -1, -1, 0), lambda p: np.rot90(p.swapaxes(0, 1), 2)),
    "zero": ((0, 0, 0, 0), lambda p: p),
    "half_zero": ((1, 0, 0, 0), lambda p: p),
    "twice_as_large": ((2, 0, 0, 2), lambda p: p),
    "mirrored_and_scaled": ((-2, 0, 0, 1), lambda p: p[:, ::-1]),
    "clockwise_and_scaled": ((0, 3, -2, 0), lambda p: np.rot90(p, -1)),
    "nearly_nothing": (turned(0.4), lambda p: p),
    "one_degree": (turned(1), lambda p: p),
    "nearly_a_half_turn": (turned(179.7), lambda p: p[::-1, ::-1]),
    "nearly_a_quarter": (turned(89.8), lambda p: np.rot90(p, -1)),
    "sheared_rows": ((1, 0, 0.5, 1), lambda p: p),
    "sheared_columns": ((1, 0.3, 0, 1), None),
    "two_degrees": (turned(2), None),
    "minus_one_degree": (turned(359), None),
    "a_degree_beside_a_quarter": (turned(89), None),
    "diagonal": (turned(45), None),
    "mirrored_diagonal": (turned(45, mirror=-1), None),
}


def with_matrix(source, target, matrix):
    """Writes `matrix` (a, b, c, d) into the track header of an mp4."""
    content = bytearray(source.read_bytes())
    a, b, c, d = (round(value * 65536) for value in matrix)
    place = content.index(b"tkhd") + 44
    struct.pack_into(">9i", content, place, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    target.write_bytes(content)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A video of 4 frames with every matrix; name -> path, None -> the one without."""
    folder = tmp_path_factory.mktemp("matrices")
    plain = folder / "plain.mp4"
    video_maker.make_video(plain, num_frames=4)
    found = {None: plain}
    for name, (matrix, _) in MATRICES.items():
        found[name] = folder / f"{name}.mp4"
        with_matrix(plain, found[name], matrix)
    return found


def by_the_program(path, height, width):
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
@pytest.mark.parametrize("name", MATRICES)
def test_every_matrix_is_shown_as_the_ffmpeg_program_shows_it(files, name):
    """Was wrong: a mirrored picture came half turned, one upside down was not, tilted ones stood straight."""
    with open_video(files[name]) as reader:
        found = reader.frames(range(4))
    np.testing.assert_array_equal(found, by_the_program(files[name], *found.shape[1:3]))


@pytest.mark.parametrize("name", [name for name, (_, what) in MATRICES.items() if what])
def test_turns_and_mirrors_without_the_program(files, name):
    with open_video(files[None]) as reader:
        coded = reader.frames(range(4))
    with open_video(files[name]) as reader:
        found, info = reader.frames(range(4)), reader.info
    for before, after in zip(coded, found, strict=True):
        np.testing.assert_array_equal(after, MATRICES[name][1](before))
    assert (info.height, info.width) == found.shape[1:3]
    # What the columns say leads from the coded picture to the shown one.
    flipped = coded[:, :, ::-1] if info.mirrored else coded
    np.testing.assert_array_equal(np.rot90(flipped, info.rotation // 90, (1, 2)), found)


@pytest.mark.parametrize("backend", sorted(set(READERS) - {"pyav"}))
@pytest.mark.parametrize("name", MATRICES)
def test_libraries_are_used_only_where_they_show_the_same(files, name, backend):
    if missing(backend):
        pytest.skip(missing(backend))
    with open_video(files[name]) as reader:
        expected = reader.frames(range(4))
    record = Record(index=0, id="a", source=str(files[name]))
    with open_record(record, backend) as reader:
        np.testing.assert_array_equal(reader.frames(range(4)), expected)
    if name in ("mirrored", "transposed", "diagonal", "nearly_a_half_turn", "zero"):
        with pytest.raises(NotExact, match="mirrored or turned by an odd angle"):
            open_video(files[name], backend)
    elif name in ("none", "clockwise", "half_turn", "twice_as_large"):
        open_video(files[name], backend).close()


@pytest.mark.parametrize("name", ["mirrored", "upside_down", "transposed", "anti_transposed", "diagonal"])  # fmt: skip
def test_views_lie_where_they_are_seen(files, name):
    with open_video(files[name]) as reader:
        height, width = reader.info.height, reader.info.width
        whole = reader.frames([0, 2])
        region = Region(left=width // 5, top=height // 3, width=width // 2, height=height // 3)
        crop = whole[
            :,
            region.top : region.top + region.height,
            region.left : region.left + region.width,
        ]
        out = np.zeros_like(crop)
        small = np.zeros((2, 24, 30, 3), np.uint8)
        reader.views(
            [
                ViewRequest(indices=np.array([0, 2]), region=region, out=out),
                ViewRequest(indices=np.array([0, 2]), region=region, out=small),
            ]
        )
    np.testing.assert_array_equal(out, crop)
    expected = np.stack([resized(picture, 24, 30) for picture in crop])
    # The filters differ in color over fine noise: see docs/decoding.md.
    assert np.abs((small.astype(float) - expected).mean(-1)).mean() < 3


def resized(picture, height, width):
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), float)


def test_a_matrix_in_numbers():
    one = 1 << 16
    assert read_matrix((one, 0, 0, 0, one, 0, 0, 0, 1 << 30)) == Orientation()
    assert read_matrix((0, one, 0, -one, 0, 0, 0, 0, 1 << 30)) == Orientation(rotation=270)
    found = read_matrix((-one, 0, 0, 0, one, 0, 0, 0, 1 << 30))
    assert (found.rotation, found.mirrored, found.is_plain) == (0, True, False)
    cos, sin = (round(one * f(math.radians(30))) for f in (math.cos, math.sin))
    assert read_matrix((cos, sin, 0, -sin, cos, 0, 0, 0, 1 << 30)).rotation == 330


def test_scan_tells_and_transcode_applies_the_matrix(files, tmp_path):
    source = files["transposed"]
    record = scan_table(
        Table.from_rows([{"source": str(source)}]), tmp_path / "s.arrow", progress=False
    ).table.record(0)
    assert (record.rotation, record.mirrored, record.pixel_aspect) == (90, True, 1.0)
    assert (record.width, record.height) == (HEIGHT, WIDTH)
    done = transcode_table(
        Table.from_rows([{"source": str(source)}]),
        tmp_path / "out",
        TranscodeConfig(num_workers=1),
        progress=False,
    ).table.record(0)
    assert (done.rotation, done.mirrored) == (0, False)
    with open_video(source) as old, open_video(done.source) as new:
        difference = old.frames([1]).astype(float) - new.frames([1])
    assert np.abs(difference).mean() < 6


@pytest.mark.parametrize(("matrix", "aspect"), [("none", 4 / 3), ("clockwise", 3 / 4)])
def test_pixels_that_are_not_square_are_told_and_kept(tmp_path, caplog, matrix, aspect):
    """Was wrong: transcode dropped the shape of the pixels, so wide pictures became narrow without a word."""
    plain, path = tmp_path / "wide.mp4", tmp_path / "in" / "wide.mp4"
    path.parent.mkdir()
    video_maker.make_video(plain, num_frames=4, aspect="4/3")
    with_matrix(plain, path, MATRICES[matrix][0])
    with open_video(path) as reader:
        assert reader.info.pixel_aspect == pytest.approx(aspect)
        assert {reader.info.width, reader.info.height} == {WIDTH, HEIGHT}
    with caplog.at_level("INFO"):
        scanned = scan_table(open_table(path.parent), tmp_path / "s.arrow", progress=False).table
    assert scanned.record(0).pixel_aspect == pytest.approx(aspect)
    assert "1 of 1 records have pixels that are not square" in caplog.text
    small = VideoFormat(short_side=48)
    done = transcode_table(
        scanned, tmp_path / "out", TranscodeConfig(num_workers=1), format=small, progress=False
    )
    made = done.table.record(0)
    with open_video(made.source) as reader:
        info = reader.info
    assert made.pixel_aspect == pytest.approx(info.pixel_aspect)
    shown = info.width * info.pixel_aspect / info.height
    whole = (WIDTH * 4 / 3 / HEIGHT) if matrix == "none" else (HEIGHT * 3 / 4 / WIDTH)
    assert shown == pytest.approx(whole, rel=1e-3)
