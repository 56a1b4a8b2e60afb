"""Which files of a folder are its frames: every picture once, in the order of its number, or a sentence."""

import numpy as np
import pytest
from PIL import Image

from video_ssl.clips.decoders.pictures.frame_names import FolderProblem, frames_in_order
from video_ssl.clips.decoders.reader import BadVideo, StatedCount
from video_ssl.clips.reading import open_record, open_video
from video_ssl.clips.upkeep.config import ScanConfig
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg", "10.jpg"][:2],
        ["img_9.jpg", "img_10.jpg", "img_11.jpg"],
        ["00001.jpg", "00002.jpg", "00003.png"],
        ["frame_1_of_3.png", "frame_2_of_3.png", "frame_3_of_3.png"],
        ["0001_rgb.jpg", "0002_rgb.jpg", "0003_rgb.jpg"],
        ["cam2_0001.jpg", "cam2_0002.jpg"],
        ["IMG_0001.JPG", "img_0002.jpg", "Img_0003.JPEG"],
        ["0005.jpg", "0010.jpg", "0015.jpg"],  # every fifth frame
        [
            "1403636579763.png",
            "1403636579813.png",
            "1403636579864.png",
            "1403636579912.png",
        ],  # times
        ["03.jpg", "17.jpg", "40.jpg", "41.jpg", "90.jpg"][:3],  # picked by hand
        ["0008.jpg", "0009.jpg", "000a.jpg", "000b.jpg", "000c.jpg"],
        [f"frame_{n:08x}.png" for n in range(8, 20)],
        [f"{n:x}.png" for n in range(20)],
        ["only.png"],
    ],
)
def test_names_that_count(names):
    shuffled = [names[k] for k in np.random.default_rng(0).permutation(len(names))]
    assert frames_in_order(shuffled) == names


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["img_1.jpg", "img_2.jpg", "flow_x_1.jpg", "flow_x_2.jpg"], ["img_1.jpg", "img_2.jpg"]),
        (["1.jpg", "2.jpg", "1_mask.png", "2_mask.png"], ["1.jpg", "2.jpg"]),
        (["1_rgb.png", "2_rgb.png", "1_depth.png", "2_depth.png"], ["1_rgb.png", "2_rgb.png"]),
        (["frame1.jpg", "frame2.jpg", "frame1 (1).jpg"], ["frame1.jpg", "frame2.jpg"]),
    ],
)
def test_the_picture_series_is_taken(names, kept):
    assert frames_in_order(names) == kept


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.jpg", "2.jpg", "1.png"], r"holds 1.jpg and 1.png, two pictures of one number"),
        (["1.jpg", "01.jpg", "2.jpg"], r"two pictures of one number"),
        (["a_1.jpg", "A_1.JPG"], r"two pictures of one number"),
        (
            ["cam1_1.jpg", "cam1_2.jpg", "cam2_1.jpg", "cam2_2.jpg"],
            r"several series .*\(cam1_2.jpg, cam2",
        ),
        (["a1.jpg", "b1.jpg"], r"several series"),
        (["dog.jpg", "cat.jpg"], r"several series"),
        (
            ["1.jpg", "2.jpg", "5.jpg", "6.jpg", "8.jpg"],
            r"5 frames with gaps .*: 3 are missing, the first between 2.jpg and 5",
        ),
        (
            ["05.jpg", "10.jpg", "15.jpg", "25.jpg"],
            r"1 are missing, .* 15.jpg and 25.jpg",
        ),
        (
            ["08.jpg", "09.jpg", "0a.jpg", "0b.jpg", "10.jpg"],
            r"4 are missing, .* 0b.jpg and 10.jpg",
        ),
    ],
)
def test_names_that_leave_doubt_are_refused(names, said):
    with pytest.raises(FolderProblem, match=said):
        frames_in_order(names)


def test_what_a_list_says_decides():
    gap = ["1.jpg", "2.jpg", "4.jpg"]
    assert frames_in_order(gap, StatedCount(3)) == gap
    with pytest.raises(FolderProblem, match=r"has 3 frames, a.txt line 7 says 4. Missing .* 2.jpg"):
        frames_in_order(gap, StatedCount(4, "a.txt line 7"))
    with pytest.raises(FolderProblem, match="gaps"):
        frames_in_order(gap, StatedCount(2))
    assert frames_in_order(["1.jpg", "2.jpg"], StatedCount(1)) == ["1.jpg", "2.jpg"]


def grey_folder(folder, values, name="{:05d}.png"):
    folder.mkdir(parents=True)
    for number in values:
        Image.new("RGB", (32, 32), (number,) * 3).save(folder / name.format(number))


def test_hexadecimal_names_show_every_frame(tmp_path):
    """Was wrong: names with letters were left out without a word."""
    grey_folder(tmp_path / "hex", range(8, 21), "{:08x}.png")
    with open_video(tmp_path / "hex") as reader:
        found = [int(f.mean()) for f in reader.frames(range(reader.info.num_frames))]
    assert found == list(range(8, 21))


def test_two_formats_of_a_number_are_not_shown_twice(tmp_path):
    """Was wrong: every frame came twice, or with its mask behind it."""
    grey_folder(tmp_path / "both", [1, 2, 3])
    for number in (1, 2, 3):
        Image.new("L", (32, 32), 255).save(tmp_path / f"both/{number:05d}.jpg")
    with pytest.raises(BadVideo, match=r"both: holds 00001.jpg and 00001.png, two pictures"):
        open_video(tmp_path / "both")


def test_a_folder_with_fewer_frames_than_its_list_says(tmp_path):
    """Was wrong: a copy that broke off was a shorter video, and a gap was jumped over."""
    grey_folder(tmp_path / "f1", range(1, 6))
    grey_folder(tmp_path / "f2", [1, 2, 5, 6])
    grey_folder(tmp_path / "f3", [1, 2, 4])
    grey_folder(tmp_path / "f4", range(1, 4))
    (tmp_path / "list.txt").write_text("\nf1 300 0\nf2 6 1\n\nf3 3 1\nf4 3 0\n")
    table = open_table(tmp_path / "list.txt")
    done = scan_table(table, tmp_path / "s.arrow", ScanConfig(num_workers=1), progress=False)
    assert {line["id"]: line["reason"] for line in done.skipped} == {
        "f1": "has 5 frames, list.txt line 2 says 300.",
        "f2": "has 4 frames, list.txt line 3 says 6. Missing are numbers between 00002.png and 00005.png.",
    }
    assert [done.table.record(k).id for k in range(2)] == ["f3", "f4"]
    assert "list_lines" not in done.table.metadata
    # Without a scan the reader says it.
    with pytest.raises(BadVideo, match="has 5 frames, its table says 300"):
        open_record(table.record(0))
    with pytest.raises(BadVideo, match="2 are missing"):
        open_video(tmp_path / "f2")
    # A segment says nothing about the whole folder.
    record = Record(index=0, id="a", source=str(tmp_path / "f1"), start_sec=0.0, num_frames=300)
    with open_record(record) as reader:
        assert reader.info.num_frames == 5


def test_part_of_a_table_keeps_its_lines(tmp_path):
    grey_folder(tmp_path / "f1", range(1, 6))
    grey_folder(tmp_path / "f2", range(1, 6))
    (tmp_path / "list.txt").write_text("f1 5 0\nf2 9 1\n")
    table = open_table(tmp_path / "list.txt").select(np.array([1, 0]))
    done = scan_table(table, tmp_path / "s.arrow", ScanConfig(num_workers=1), progress=False)
    assert [line["reason"] for line in done.skipped] == ["has 5 frames, list.txt line 2 says 9."]
