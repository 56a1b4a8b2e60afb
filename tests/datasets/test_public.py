"""Public data sets: every recipe on a small copy of its layout, what is missing, and when tables are made anew."""

import json
import os
import time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.datasets import open_table
from video_ssl.datasets.opening import PUBLIC_KINDS, resolve_recipe
from video_ssl.datasets.table import Caption, TableError
from video_ssl.recipes import list_recipes


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def fill(root, files):
    """Writes texts, JSON, or nothing (videos) by their path."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def records(spec):
    table = open_table(spec)
    return [table.record(i) for i in range(len(table))]


def ucf101(root):
    fill(root, {
        "ucfTrainTestlist/classInd.txt": "1 ApplyEyeMakeup\r\n2 HandstandPushups\r\n",
        **{f"ucfTrainTestlist/trainlist0{n}.txt":
           "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g09_c02.avi 2\n"
           for n in (1, 2, 3)},
        **{f"ucfTrainTestlist/testlist0{n}.txt": "HandstandPushups/v_HandStandPushups_g01_c01.avi\n"
           for n in (1, 2, 3)},
        "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "",
        "UCF-101/HandstandPushups/v_HandstandPushups_g09_c02.avi": "",  # copies differ in case
        "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.mp4": "",  # and may be transcoded
    })  # fmt: skip


def hmdb51(root):
    fill(root, {
        **{f"testTrainMulti_7030_splits/{c}_test_split{n}.txt": f"a #1_{c}.avi 1 \nb_{c}.avi 2\nsame.avi {n % 3}\n"
           for c in ("brush_hair", "wave") for n in (1, 2, 3)},
        **{f"hmdb51_org/{c}/{name}": "" for c in ("brush_hair", "wave")
           for name in (f"a #1_{c}.avi", f"b_{c}.avi", "same.avi")},
    })  # fmt: skip


def kinetics400(root):
    classes = [f"class {n:03d}" for n in range(400)]
    head = "label,youtube_id,time_start,time_end,split,is_cc\n"
    train = "".join(f'"{c}",-id_{n},{n},{n + 10},train,0\n' for n, c in enumerate(classes))
    fill(root, {
        "annotations/train.csv": head + train,
        "annotations/validate.csv": head + "class 399,vvvv,5,15,validate,0\nclass 000,wwww,5,15,validate,1\n",
        "annotations/test.csv": "youtube_id,time_start,time_end,split\ntttt,5,15,test\n",
        **{f"train/{c}/-id_{n}_{n:06d}_{n + 10:06d}.mp4": "" for n, c in enumerate(classes)},
        "val/vvvv_000005_000015.mp4": "", "replacement/vvvv_000005_000015.mp4": "",
        "val/wwww.mkv": "", "test/tttt.mp4": "",
    })  # fmt: skip


def ssv2(root):
    train = [
        {
            "id": "78687",
            "label": "holding potato next to vicks",
            "template": "Holding [something] next to [something]",
            "placeholders": ["potato", "vicks"],
        },
        {"id": "42", "label": "x", "template": "Closing [something]"},
    ]
    fill(root, {
        "labels/labels.json": {"Closing something": "0", "Holding something next to something": "1"},
        "labels/train.json": train, "labels/validation.json": train[:1],
        "labels/test-answers.csv": "9;Closing something\n",
        "20bn-something-something-v2/78687.webm": "", "20bn-something-something-v2/9.webm": "",
        "20bn-something-something-v2/42/00001.jpg": "", "20bn-something-something-v2/42/00002.jpg": "",
    })  # fmt: skip


def diving48(root):
    item = {"vid_name": "abc_00001", "label": 1, "start_frame": 0, "end_frame": 73}
    fill(root, {
        "Diving48_vocab.json": [["Back", "15som", "05Twis", "FREE"], ["Inward", "25som", "NoTwis", "PIKE"]],
        "Diving48_V2_train.json": [item], "Diving48_V2_test.json": [item | {"vid_name": "d", "label": 0}],
        "rgb/abc_00001.mp4": "", "rgb/d.mp4": "",
    })  # fmt: skip


def small_imagenet(root):
    for name in (
        "train/n02/n02_10.JPEG",
        "train/n01/n01_9.JPEG",
        "val/ILSVRC2012_val_00000001.JPEG",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (10, 20, 30)).save(root / name, "PNG")
    fill(root, {"LOC_val_solution.csv": "ImageId,PredictionSet\nILSVRC2012_val_00000001,n02 85 1 499 272 n02 1 2 3 \n",
                "LOC_synset_mapping.txt": "n01 tench, Tinca tinca\nn02 goldfish\n"})  # fmt: skip
    Path("imagenet2.yaml").write_text("{kind: imagenet, classes: 2, root: data/imagenet2}")


def test_ucf101(data):
    ucf101(data / "ucf101")
    train, test = records("ucf101:train2"), records("ucf101:test3")
    assert [(r.id, r.label, r.group) for r in train] == [
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", 0, "ApplyEyeMakeup_g08"),
        ("HandstandPushups/v_HandStandPushups_g09_c02", 1, "HandstandPushups_g09"),
    ]
    assert [os.path.basename(r.source) for r in test] == ["v_HandStandPushups_g01_c01.mp4"]
    assert open_table("ucf101:train1").class_names == ("ApplyEyeMakeup", "HandstandPushups")


def test_hmdb51(data):
    hmdb51(data / "hmdb51")
    assert [(r.id, r.label) for r in records("hmdb51:train2")] == [
        ("brush_hair/a #1_brush_hair", 0), ("wave/a #1_wave", 1),
    ]  # fmt: skip
    test = records("hmdb51:test2")  # a name that two classes share is told apart by its folder
    assert [os.path.relpath(r.source, data / "hmdb51/hmdb51_org") for r in test] == [
        "brush_hair/b_brush_hair.avi", "brush_hair/same.avi", "wave/b_wave.avi", "wave/same.avi",
    ]  # fmt: skip
    assert len(open_table("hmdb51:train1")) == 4
    assert len(open_table("hmdb51:train3")) == 2, "0 means neither training nor test"


def test_kinetics(data):
    kinetics400(data / "kinetics400")
    train = records("kinetics400:train")
    assert len(train) == 400
    assert (train[7].id, train[7].label, train[7].group) == ("-id_7_000007_000017", 7, "-id_7")
    val = records("kinetics400:val")
    assert [os.path.relpath(r.source, data / "kinetics400") for r in val] == [
        "val/vvvv_000005_000015.mp4", "val/wwww.mkv",
    ]  # fmt: skip
    assert [(r.label, r.start_sec) for r in val] == [(399, None), (0, None)]
    assert [(r.id, r.label) for r in records("kinetics400:test")] == [("tttt_000005_000015", None)]
    Path("whole.yaml").write_text(
        "{kind: kinetics, classes: 400, untrimmed: true, root: data/kinetics400}"
    )
    (whole,) = [r for r in records("whole.yaml:val") if r.label == 0]
    assert (whole.start_sec, whole.end_sec) == (5.0, 15.0)
    Path("k600.yaml").write_text("{kind: kinetics, classes: 600, root: data/kinetics400}")
    with pytest.raises(TableError, match=r"name 400 classes, not 600: .* another version"):
        open_table("k600.yaml:val")


def test_something_something(data):
    ssv2(data / "ssv2")
    train = records("ssv2:train")
    assert [(r.id, r.label) for r in train] == [("78687", 1), ("42", 0)]
    assert train[0].captions == (Caption(text="holding potato next to vicks"),)
    assert train[1].source == str(data / "ssv2/20bn-something-something-v2/42")
    assert [(r.id, r.label) for r in records("ssv2:test")] == [("9", 0)]
    assert open_table("ssv2:val").metadata["no_flip"] is True


def test_diving48(data):
    diving48(data / "diving48")
    assert [(r.id, r.label) for r in records("diving48:train")] == [("abc_00001", 1)]
    table = open_table("diving48:test")
    assert table.class_names == ("Back 15som 05Twis FREE", "Inward 25som NoTwis PIKE")
    assert (table.column("label").tolist(), table.metadata["no_flip"]) == ([0], True)


def test_imagenet_pictures_are_videos_of_one_frame(data):
    from video_ssl.clips.reading import open_record

    small_imagenet(data / "imagenet2")
    train = records("imagenet2.yaml:train")
    assert [(r.id, r.label) for r in train] == [("train/n01/n01_9", 0), ("train/n02/n02_10", 1)]
    (val,) = records("imagenet2.yaml:val")
    assert val.label == 1
    assert open_table("imagenet2.yaml:val").class_names == ("tench", "goldfish")
    with open_record(val) as reader:
        assert reader.info.num_frames == 1
        assert reader.frames([0]).shape == (1, 6, 8, 3)
    (data / "imagenet2").rename(data / "imagenet1k")
    with pytest.raises(TableError, match="has 2 class folders, not 1000"):
        open_table("imagenet1k:train")


# What is missing


@pytest.mark.parametrize(
    "name", sorted(set(list_recipes("datasets")) - {"demo", "demo_around", "exercises", "sessions"})
)
def test_every_recipe_says_what_it_needs(data, name):
    kind, _, _ = resolve_recipe(name)
    assert kind in PUBLIC_KINDS
    for word in ("From: ", "Licence: ", "Splits", "ayout", f"video-ssl data check {name}"):
        assert word in list_recipes("datasets")[name].read_text(), word
    with pytest.raises(TableError, match=f"{name}: there is no folder .*data check {name}"):
        open_table(f"{name}:train")
    (data / name).mkdir(parents=True)
    with pytest.raises(
        TableError, match=r"has .*(no annotation file|no folder|no file) .*(Get it f|F)rom.* http"
    ):
        open_table(f"{name}:train")
    done = CliRunner().invoke(app, ["data", "check", name])
    assert done.exit_code == 1
    assert "http" in done.output


def test_missing_videos_are_counted_named_and_left_out(data, caplog):
    root = data / "ucf101"
    ucf101(root)
    assert CliRunner().invoke(app, ["data", "check", "ucf101"]).exit_code == 0
    (root / "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi").unlink()
    done = CliRunner().invoke(app, ["data", "check", "ucf101"])
    assert done.exit_code == 1
    for text in ("train1: 1 of 2 videos, missing 1: ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01", "test1: 1 of 1 videos\n",
                 "annotation file ucfTrainTestlist/classInd.txt", "https://www.crcv.ucf.edu"):  # fmt: skip
        assert text in done.output, text
    table = open_table("ucf101:train1")
    assert (len(table), table.metadata["listed"], table.metadata["missing"]) == (1, 2, 1)
    assert "3 listed videos are missing; `video-ssl data check ucf101`" in caplog.text


def test_without_a_single_video_nothing_opens(data):
    ucf101(data / "ucf101")
    for file in (data / "ucf101/UCF-101").rglob("*.*"):
        file.unlink()
    with pytest.raises(TableError, match="not one of the listed videos lies below"):
        open_table("ucf101:train1")


def test_an_unknown_split_or_name_lists_what_there_is(data):
    ucf101(data / "ucf101")
    with pytest.raises(TableError, match=r"no split 'train': it has \['test1', .*'train3'\]"):
        open_table("ucf101:train")
    assert CliRunner().invoke(app, ["data", "check", "demo"]).exception is not None


@pytest.mark.parametrize(
    ("make", "file", "content", "message"),
    [
        (ucf101, "ucfTrainTestlist/trainlist02.txt", "No/v_a_g01_c01.avi 1\n", "class 'No', which classInd.txt lacks"),
        (hmdb51, "testTrainMulti_7030_splits/wave_test_split1.txt", "a.avi\n", "line 1: 'a.avi' is not `NAME.avi 0"),
        (kinetics400, "annotations/train.csv", "label,id\n", "has no column 'youtube_id', only"),
        (ssv2, "labels/train.json", "{", "train.json is not JSON"),
        (ssv2, "labels/train.json", '[{"id": 1}]', "every item must have `id` and `template`"),
        (ssv2, "labels/train.json", '[{"id": 1, "template": "No"}]', "'No' is not in labels.json"),
        (diving48, "Diving48_V2_test.json", '[{"vid_name": "a", "label": 2}]', "labels 2..2 of 2 classes"),
    ],
)  # fmt: skip
def test_broken_annotation_files_are_named(data, make, file, content, message):
    make(data / make.__name__)
    fill(data / make.__name__, {file: content})
    with pytest.raises(TableError, match=message):
        open_table(f"{make.__name__}:train")


# Kept tables


def test_tables_are_made_once_and_anew_when_something_changes(data, monkeypatch):
    root = data / "diving48"
    diving48(root)
    settle(root)
    assert len(open_table("diving48:train")) == 1
    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.datasets.public.diving48.read_json", None)
        assert len(open_table("diving48:train")) == 1
    item = {"vid_name": "new", "label": 0}
    fill(root, {"Diving48_V2_train.json": [item, {"vid_name": "abc_00001", "label": 1}]})
    assert len(open_table("diving48:train")) == 1
    fill(root, {"rgb/new.mp4": ""})
    assert [r.label for r in records("diving48:train")] == [0, 1]
    (root / "rgb/d.mp4").unlink()
    with pytest.raises(TableError, match=r"no split 'test': it has \['train'\]"):
        open_table("diving48:test")


def settle(root):
    """Puts the changes of all folders some seconds back: what has just changed is looked at again."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, (time.time() - 10,) * 2)


@pytest.mark.parametrize("is_settled", [True, False])
@pytest.mark.parametrize("before", ["nothing", "an empty folder", "a folder in a folder"])
def test_a_class_that_is_unpacked_later_is_seen(data, before, is_settled):
    """Was wrong: only the folders that held videos were watched, so the second half never came."""
    root = data / "ucf101"
    ucf101(root)
    late = list((root / "UCF-101/HandstandPushups").iterdir())
    for path in late:
        path.unlink()
    if before == "nothing":
        (root / "UCF-101/HandstandPushups").rmdir()
    if before == "a folder in a folder":
        (root / "UCF-101/HandstandPushups/more").mkdir()
    if is_settled:
        settle(root)
    assert len(open_table("ucf101:train1")) == 1
    where = "UCF-101/HandstandPushups" + ("/more" if before == "a folder in a folder" else "")
    fill(root, {f"{where}/{path.name}": "" for path in late})
    assert len(open_table("ucf101:train1")) == 2
    fill(root, {"another/folder/v_ApplyEyeMakeup_g08_c01.avi": ""})
    (root / "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi").unlink()
    assert "/another/folder/" in open_table("ucf101:train1").record(0).source


def kinetics_rows(root, split, rows, classes=400):
    head = "label,youtube_id,time_start,time_end,split\n"
    more = (
        "".join(f"class {n:03d},filler_{n},1,11,{split}\n" for n in range(classes))
        if split == "train"
        else ""
    )
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    (root / f"annotations/{split}.csv").write_text(
        head + more + "".join(f"{row}\n" for row in rows)
    )


def test_a_missing_video_is_not_replaced_by_another_of_its_name(data, caplog):
    """Was wrong: walk/same.avi was read from run/, and another YouTube video whose id differs in case was taken."""
    hmdb51(data / "hmdb51")
    (data / "hmdb51/hmdb51_org/wave/same.avi").unlink()
    assert [r.id for r in records("hmdb51:train1")] == [
        "brush_hair/a #1_brush_hair",
        "brush_hair/same",
        "wave/a #1_wave",
    ]
    assert (
        "in the folder of another class or split are not taken for 1 listed videos: wave/same"
        in caplog.text
    )
    done = CliRunner().invoke(app, ["data", "check", "hmdb51"])
    assert "train1: 3 of 4 videos, missing 1: wave/same" in done.output
    assert done.exit_code == 1
    root = data / "kinetics400"
    kinetics_rows(root, "train", ["class 000,aBc,84,94,train", "class 001,AbC,84,94,train"])
    kinetics_rows(root, "val", ["class 001,vvv,0,10,val", "class 002,www,0,10,val"])
    fill(
        root,
        {
            "train/aBc_000084_000094.mp4": "",
            "train/class 000/vvv.mp4": "",
            "any/where/www_000000_000010.mp4": "",
        },
    )
    assert [(r.id, r.label) for r in records("kinetics400:train")] == [("aBc_000084_000094", 0)]
    assert [r.id for r in records("kinetics400:val")] == ["www_000000_000010"]


def test_a_flat_folder_of_videos_needs_no_class_folders(data):
    hmdb51(data / "hmdb51")
    flat = data / "hmdb51/videos"
    flat.mkdir()
    for path in list((data / "hmdb51/hmdb51_org").rglob("*.avi")):
        path.rename(flat / path.name)
    assert [r.id for r in records("hmdb51:test1")] == ["brush_hair/b_brush_hair", "wave/b_wave"]


def test_only_the_handstand_of_ucf101_may_be_of_other_case(data):
    ucf101(data / "ucf101")
    folder = data / "ucf101/UCF-101/ApplyEyeMakeup"
    (folder / "v_ApplyEyeMakeup_g08_c01.avi").rename(folder / "v_applyeyemakeup_g08_c01.avi")
    assert [r.id for r in records("ucf101:train1")] == [
        "HandstandPushups/v_HandStandPushups_g09_c02"
    ]


def test_a_file_with_the_name_of_two_listed_clips_is_neither(data, caplog):
    root = data / "kinetics400"
    kinetics_rows(
        root,
        "train",
        ["class 000,two,10,20,train", "class 001,two,50,60,train", "class 002,one,1,11,train"],
    )
    kinetics_rows(root, "val", ["class 001,vvv,0,10,val"])
    fill(root, {"train/two.mp4": "", "train/one.mp4": "", "val/vvv.mp4": ""})
    assert [r.id for r in records("kinetics400:train")] == ["one_000001_000011"]
    assert (
        "files whose name stands for several listed videos are not taken for 2 listed videos"
        in caplog.text
    )


def test_doubled_clips_are_told(data, caplog):
    """Kinetics-600 lists clips twice, in one split and in two."""
    root = data / "kinetics400"
    rows = ["class 000,x,1,11,train"] * 2 + ["class 001,y,1,11,train", "class 002,y,1,11,train"]
    kinetics_rows(root, "train", rows)
    kinetics_rows(root, "val", ["class 000,x,1,11,val", "class 000,z,1,11,val"])
    fill(
        root,
        {
            "train/x_000001_000011.mp4": "",
            "train/y_000001_000011.mp4": "",
            "val/z_000001_000011.mp4": "",
        },
    )
    found = [(r.id, r.label) for r in records("kinetics400:train")]
    assert found == [("x_000001_000011", 0), ("y_000001_000011", 1), ("y_000001_000011#2", 2)]
    output = CliRunner().invoke(app, ["data", "check", "kinetics400"]).output
    for text in (
        "train: 1 videos are listed twice and taken once, for example x_000001_000011",
        "train: 1 videos are listed twice with different labels, and are two records of one video, for example y",
        "1 videos are listed in train and in val, for example x_000001_000011: do not train",
    ):  # fmt: skip
        assert text in caplog.text, text
        assert text in output, text


@pytest.mark.parametrize(
    ("make", "file", "content", "message"),
    [
        (ucf101, "ucfTrainTestlist/classInd.txt", "0 ApplyEyeMakeup\n1 HandstandPushups\n",
         "must number its 2 classes from 1 to 2, each once, .*but has the numbers 0 to 1"),
        (ucf101, "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\n3 HandstandPushups\n", "from 1 to 2"),
        (ucf101, "ucfTrainTestlist/classInd.txt", "1 A\n2 A\n", "line 2: '2 A' must be"),
        (ucf101, "ucfTrainTestlist/classInd.txt", "ApplyEyeMakeup\n", "line 1: 'ApplyEyeMakeup' is not `NUMBER"),
        (ucf101, "ucfTrainTestlist/trainlist02.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 0\n",
         r"trainlist02\.txt line 1: .* has the number 0, but classInd\.txt gives 1 to ApplyEyeMakeup"),
        (ssv2, "labels/labels.json", {"Closing something": "1", "Holding something next to something": "2"},
         "must number its 2 templates from 0 to 1, each once, but has the numbers 1 to 2"),
        (ssv2, "labels/labels.json", {"Closing something": "x"}, "'Closing something' has the number 'x'"),
        (diving48, "Diving48_V2_test.json", [{"vid_name": "a", "label": 2}], r"labels 2\.\.2 of 2 classes"),
        (kinetics400, "annotations/train.csv", "label,youtube_id,time_start,time_end\n3,x,1,11\n",
         r"train\.csv line 2: the label is the number 3, but numbers are given to names"),
    ],
)  # fmt: skip
def test_labels_numbered_from_the_wrong_end_are_refused(data, make, file, content, message):
    """Was wrong: a classInd.txt that counts from 0 gave the first class the label -1."""
    make(data / make.__name__)
    fill(data / make.__name__, {file: content})
    with pytest.raises(TableError, match=message):
        open_table(f"{make.__name__}:train1")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "class 000,x,,,train",
            r"train\.csv line 402 \(x\): time_start='', time_end='' are no stretch",
        ),
        ("class 000,x,nan,11,train", "time_start='nan'"),
        ("class 000,x,11,1,train", "time_start='11', time_end='1' are no stretch"),
        ("class 000,x", r"line 402 has 2 fields, not the 5 of the header .*: 'class 000,x'\. Mend"),
        ("class 000,x,1,11,train,7", r"line 402 has 5\+ fields, not the 5"),
        (",x,1,11,train", "line 402 has no label: ',x,1,11,train'"),
        ("class 000,m\xfcn,1,11,train", r"train\.csv line 402 is not UTF-8"),
        ("class 000,m\0n,1,11,train", "zero bytes, the first in line 402"),
    ],
)
def test_a_broken_line_of_kinetics_is_named(data, row, message):
    """Was wrong: "could not convert string to float: ''", a TypeError, a UnicodeDecodeError, without file and line."""
    root = data / "kinetics400"
    kinetics_rows(root, "train", [])
    with open(root / "annotations/train.csv", "ab") as file:
        file.write(row.encode("latin-1") + b"\n")
    kinetics_rows(root, "val", ["class 000,z,1,11,val"])
    with pytest.raises(TableError, match=message):
        open_table("kinetics400:train")


@pytest.mark.parametrize(
    ("make", "file"),
    [(ucf101, "ucfTrainTestlist/trainlist01.txt"), (ucf101, "ucfTrainTestlist/classInd.txt"),
     (ssv2, "labels/train.json"), (hmdb51, "testTrainMulti_7030_splits/wave_test_split1.txt"),
     (ssv2, "labels/test-answers.csv"), (diving48, "Diving48_vocab.json"), (kinetics400, "annotations/validate.csv")],
)  # fmt: skip
def test_annotation_files_of_another_encoding_are_named_with_their_line(data, make, file):
    root = data / make.__name__
    make(root)
    content = (root / file).read_bytes()
    for broken, message in (
        (content + b"\xfc\n", r"line \d+ is not UTF-8"), (content.decode().encode("utf-16"), "UTF-16"),
    ):  # fmt: skip
        (root / file).write_bytes(broken)
        with pytest.raises(TableError, match=message) as caught:
            open_table(f"{make.__name__}:train1")
        assert str(root / file) in str(caught.value)
    if file.endswith("json"):
        (root / file).write_text("[" * 100_000)
        with pytest.raises(TableError, match="is not JSON"):
            open_table(f"{make.__name__}:train")


def test_a_folder_that_cannot_be_written_keeps_its_tables_in_the_cache(data, tmp_path, monkeypatch):
    from video_ssl.datasets.table import Table

    diving48(data / "diving48")
    save = Table.save

    def refuse(self, path):
        if str(path).startswith(str(data)):
            raise PermissionError(30, "Read-only file system")
        return save(self, path)

    monkeypatch.setattr(Table, "save", refuse)
    assert str(open_table("diving48:train").path).startswith(str(tmp_path / "cache"))
    (record,) = records("diving48:train")
    assert record.source == str(data / "diving48/rgb/abc_00001.mp4")
    assert not list(data.rglob("*.arrow"))
