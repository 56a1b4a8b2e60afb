"""Files that do not end where they say are refused in every container; complete ones and live recordings are not."""

import pytest
import video_maker

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_video
from video_ssl.clips.upkeep.config import ScanConfig
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.datasets import open_table

MPEG4 = {"codec": "mpeg4", "b_frames": 0}
MPEG2 = {"codec": "mpeg2video", "b_frames": 2}
VP8 = {"codec": "libvpx", "b_frames": 0}
# name -> how it is made
FILES = {
    "a.mkv": {},
    "live.mkv": {"options": {"live": "1"}},
    "a.webm": VP8,
    "a.mp4": {},
    "fragments.mp4": {"options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mov": {},
    "a.3gp": {"codec": "mpeg4", "b_frames": 0},
    "a.avi": MPEG4,
    "a.flv": {"codec": "flv", "b_frames": 0},
    "a.wmv": {"codec": "wmv2", "b_frames": 0},
    "a.ogv": {**VP8, "container": "ogg"},
    "a.ts": {"container": "mpegts"},
    "a.m2ts": {"container": "mpegts", "options": {"mpegts_m2ts_mode": "1"}},
    "a.mpg": MPEG2,
    "a.vob": MPEG2,
    "a.mxf": MPEG2,
    "a.gif": {"codec": "gif", "pix_fmt": "rgb8", "b_frames": 0},
    "a.apng": {"codec": "apng", "pix_fmt": "rgb24", "b_frames": 0},
    "a.mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p", "b_frames": 0},
    "a.ivf": {**VP8, "container": "ivf"},
    "a.y4m": {"codec": "wrapped_avframe", "b_frames": 0, "container": "yuv4mpegpipe"},
}
FRAMES = 24
# Where the demultiplexer stops at the end of the first, or the second, file.  Others are read to their end.
NOT_ALL = {
    "a.mkv",
    "live.mkv",
    "a.webm",
    "a.mp4",
    "fragments.mp4",
    "a.mov",
    "a.3gp",
    "a.flv",
    "a.wmv",
    "a.ogv",
}
ALL = {"a.avi", "a.ts", "a.m2ts", "a.mpg", "a.vob", "a.gif", "a.mjpeg"}  # fmt: skip


# Zeros between packets are no fault there, or are a picture.
ZEROS_ARE_ALLOWED = (".mpg", ".vob", ".gif", ".y4m")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    for name, style in FILES.items():
        video_maker.make_video(folder / name, num_frames=FRAMES, size=(48, 64), **style)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_a_complete_file_is_complete(files, name):
    with open_video(files / name) as reader:
        assert reader.info.num_frames == FRAMES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.73])
def test_a_download_that_broke_off_is_refused(files, tmp_path, name, share):
    """Was wrong: half a Matroska, WebM, Ogg, GIF, MXF or transport stream was a video of half as many frames."""
    content = (files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[: round(len(content) * share) // 2 * 2 + 1])
    with (
        pytest.raises(BadVideo, match=r"is cut off|cannot be opened|is damaged"),
        open_video(path) as reader,
    ):
        reader.frames([0, reader.info.num_frames - 1])


@pytest.mark.parametrize("name", sorted(set(FILES) - {"a.mxf", "a.gif", "a.apng", "a.mjpeg"}))
def test_the_very_end_is_missing(files, tmp_path, name):
    content = (files / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(content[:-7])
    with pytest.raises(BadVideo, match=r"is cut off"), open_video(path) as reader:
        reader.frames([0, reader.info.num_frames - 1])


def test_the_sentence_has_the_numbers_and_what_to_do(files, tmp_path):
    for name in ("a.mkv", "a.ts"):
        content = (files / name).read_bytes()
        (tmp_path / name).write_bytes(content[:1001])
    with pytest.raises(BadVideo) as caught:
        open_video(tmp_path / "a.mkv")
    assert caught.value.reason == f"is cut off: 1001 bytes of {(files / 'a.mkv').stat().st_size}."
    with pytest.raises(BadVideo, match=r"within its last packet, at byte 1001: get it again, or"):
        open_video(tmp_path / "a.ts")


def test_scan_names_half_a_webm(files, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "whole.webm").write_bytes((files / "a.webm").read_bytes())
    (folder / "half.webm").write_bytes((files / "a.webm").read_bytes()[:2000])
    found = scan_table(
        open_table(folder), tmp_path / "s.arrow", ScanConfig(num_workers=1), progress=False
    )
    assert [line["id"] for line in found.skipped] == ["half.webm"]
    assert "is cut off: 2000 bytes of" in found.skipped[0]["reason"]


@pytest.mark.parametrize("name", sorted(NOT_ALL | ALL))
@pytest.mark.parametrize("count", [2, 3])
def test_files_in_one_are_all_shown_or_refused(files, tmp_path, name, count):
    """Was wrong: of two mp4, FLV or WMV files in one, or three Matroska, not all were shown, without a word."""
    path = tmp_path / name
    path.write_bytes((files / name).read_bytes() * count)
    if name in NOT_ALL:
        with pytest.raises(BadVideo, match="holds several videos one after the other"):
            open_video(path)
        return
    with open_video(path) as reader:
        assert reader.info.num_frames == count * FRAMES
        times = reader.times(range(count * FRAMES))
        assert (times[1:] > times[:-1]).all()


@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.flv", "a.gif", "a.mpg"])
def test_padding_behind_the_end_is_no_cut(files, tmp_path, name):
    path = tmp_path / name
    path.write_bytes((files / name).read_bytes() + bytes(37))
    with open_video(path) as reader:
        assert reader.info.num_frames == FRAMES


def test_a_video_inside_of_another_file_ends_at_its_own_end(files, tmp_path):
    content = (files / "a.mkv").read_bytes()
    path = tmp_path / "packed"
    path.write_bytes(b"x" * 100 + content + b"y" * 5000)
    with open_video(path, byte_range=(100, len(content))) as reader:
        assert reader.info.num_frames == FRAMES
    with pytest.raises(BadVideo, match="is cut off"):
        open_video(path, byte_range=(100, len(content) // 2))


@pytest.mark.parametrize("name", [n for n in FILES if not n.endswith(ZEROS_ARE_ALLOWED)])
@pytest.mark.parametrize("share", [0.4, 0.5])
def test_a_download_that_has_its_size_but_not_its_contents_is_refused(files, tmp_path, name, share):
    """Was wrong: what a download manager had laid out (WebM, Ogg, WMV, MXF, IVF, fragments of MP4, zeros behind
    the part that came) was a video of half as many frames."""
    content = (files / name).read_bytes()
    path, come = tmp_path / name, round(len(content) * share)
    path.write_bytes(content[:come] + bytes(len(content) - come))
    with pytest.raises(BadVideo), open_video(path) as reader:
        reader.frames([0, reader.info.num_frames - 1])
