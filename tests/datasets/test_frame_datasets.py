"""Data sets with a label for every frame, on small made-up copies of their layout; pickles of strangers."""

import collections
import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.datasets import open_table
from video_ssl.datasets.public.finegym import read_finegym
from video_ssl.datasets.public.frame_items import stretches
from video_ssl.datasets.public.item_pickles import array_of, read_items
from video_ssl.datasets.public.penn_action import ACTIONS, KEY_EVENTS, phase_names, phases_of
from video_ssl.datasets.table import TableError


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def dump(path, content, protocol=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def item(name, labels, folder="videos", **more):
    labels = torch.tensor(labels)
    return {"id": 0, "name": name, "video_file": f"{folder}/{name}.mp4", "frame_label": labels,
            "seq_len": len(labels), **more}  # fmt: skip


def records(spec):
    table = open_table(spec)
    return [table.record(i) for i in range(len(table))]


def penn_lists(root, train, val=None):
    for split, items in (
        ("train", train),
        ("val", val or [item("9999_bowl", [0, 1, 2], action_label=3)]),
    ):
        dump(root / f"{split}.pkl", (items, [[] for _ in range(13)]))
        for listed in items:
            touch(root / listed["video_file"])


def penn_npy(root, arrays):
    for path, labels in arrays.items():
        file = root / "penn_action_labels" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, labels)
        touch(root / f"{file.stem[:4]}.mp4")


# Penn Action


def test_the_actions_have_the_published_phases():
    sizes = [4, 3, 2, 3, 6, 3, 4, 2, 2, 2, 4, 3, 4]
    assert [len(events) + 1 for events in KEY_EVENTS.values()] == sizes
    assert [len(phases_of(action)) for action in range(13)] == sizes
    assert [n for action in range(13) for n in phases_of(action)] == list(range(len(phase_names())))
    assert phase_names()[phases_of(2)[1]] == "bench_press: bar fully down to end"


def test_penn_action_from_item_lists(data):
    penn_lists(data / "penn_action", [
        item("0001_baseball_pitch", [-1, 0, 1, 3, 3], action_label=0),
        item("0002_bench_press", [0, 0, 1], action_label=2),
    ])  # fmt: skip
    pitch, press = records("penn_action:train")
    assert (pitch.id, pitch.label) == ("0001_baseball_pitch", 0)
    assert pitch.source == str(data / "penn_action/videos/0001_baseball_pitch.mp4")
    assert pitch.frame_labels.tolist() == [-1, 0, 1, 3, 3]
    assert (press.label, press.frame_labels.tolist()) == (2, [7, 7, 8])
    table = open_table("penn_action:val")
    assert table.class_names == ACTIONS
    assert table.phase_names[table.record(0).frame_labels[2]] == "bowl: release to end"
    done = CliRunner().invoke(app, ["data", "check", "penn_action"])
    assert (done.exit_code, "train: 2 of 2 videos" in done.output) == (0, True), done.output


def test_penn_action_from_label_files_and_frames(data):
    root = data / "penn_action"
    penn_npy(root, {
        "train/squat/0007.npy": np.array([0, 1, 2, 3]), "train/bowl/0010_x.npy": np.array([0.0, 2.0]),
        "val/situp/0003.npy": np.array([-1, 0, 1], np.int16), "train/jump_rope/0050.npy": np.array([0]),
        **{f"val/pullup/{n:04d}.npy": np.array([0, 1]) for n in range(100, 125)},
    })  # fmt: skip
    (root / "0003.mp4").unlink()
    for n in range(1, 4):
        (root / "frames/0003").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / f"frames/0003/{n:06d}.jpg")
    bowl, squat = records("penn_action:train")
    assert (bowl.id, bowl.label, bowl.frame_labels.tolist()) == ("0010_bowl", 3, [9, 11])
    assert (squat.id, squat.frame_labels.tolist()) == ("0007_squat", [n for n in phases_of(10)])  # noqa: C416
    (situp,) = [r for r in records("penn_action:val") if r.label == 9]
    assert situp.source == str(root / "frames/0003")
    assert situp.frame_labels.tolist() == [-1, *phases_of(9)]
    done = CliRunner().invoke(app, ["data", "check", "penn_action"])
    assert done.exit_code == 0
    assert "annotation files and folders in penn_action_labels" in done.output
    assert len(done.output.splitlines()) < 8, "thousands of label files are not listed one by one"
    np.save(root / "penn_action_labels/train/squat/0007.npy", np.array([3, 3, 3, 3]))
    assert records("penn_action:train")[1].frame_labels.tolist() == [phases_of(10)[3]] * 4


def test_labels_of_another_length_follow_the_rule(data):
    longer = item("0001_bowl", [0, 0, 1, 1, 2, 2], action_label=3) | {"seq_len": 4}
    shorter = item("0002_bowl", [0, 1], action_label=3) | {"seq_len": np.int64(5)}
    penn_lists(data / "penn_action", [longer, shorter])
    first, second = records("penn_action:train")
    assert (first.frame_labels - 9).tolist() == [[0, 0, 1, 1, 2, 2][j * 6 // 4] for j in range(4)]
    assert (second.frame_labels - 9).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 1, 4]), r"0007.npy: labels 0..4, but there are 4 phases: 0..3"),
        (np.array([-2, 1]), r"labels -2..1, but"),
        (np.array([], np.int64), "array of labels is empty"),
        (np.array([0.5, 1]), "must be whole numbers"),
        (np.array([np.nan, 1]), "must be whole numbers"),
        (np.zeros((2, 3)), r"one row of numbers, found an array \(2, 3\)"),
        (np.array([object()]), "not a readable npy file of numbers"),
        (np.array(["a"]), "one row of numbers"),
    ],
)
def test_broken_label_files_are_named(data, labels, message):
    penn_npy(
        data / "penn_action", {"train/squat/0007.npy": labels, "val/bowl/0008.npy": np.array([0])}
    )
    with pytest.raises(TableError, match=message):
        open_table("penn_action:train")


def test_a_folder_that_is_no_action_or_an_empty_split_is_named(data):
    penn_npy(
        data / "penn_action",
        {"train/squats/0007.npy": np.array([0]), "val/bowl/0008.npy": np.array([0])},
    )
    with pytest.raises(TableError, match=r"squats is not the folder of an action.*'squat'"):
        open_table("penn_action:train")
    os.rename(data / "penn_action/penn_action_labels/train/squats", data / "squats")
    with pytest.raises(TableError, match=r"train has no file ACTION/ID\.npy"):
        open_table("penn_action:train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame_label": None}, r"item 1 \('0002_bowl'\) has no frame_label, only"),
        ({"frame_label": torch.zeros(0)}, "array of labels is empty"),
        ({"frame_label": "0011"}, "must be one row of numbers, found str"),
        ({"action_label": 13}, "action_label=13 must be one of 0..12"),
        (
            {"name": "0003_pushup", "action_label": 3},
            "action_label=3 is bowl .counted from 0., but the name says pushup",
        ),
        ({"action_label": None}, r"item 1 \('0002_bowl'\): "),
        ({"seq_len": 0}, "seq_len=0 must be at least 1"),
        ({"seq_len": "many"}, "seq_len='many' is no number"),
        ({"video_file": None}, "has no video_file"),
    ],
)
def test_broken_items_are_named(data, change, message):
    good = item("0001_bowl", [0, 1], action_label=3)
    penn_lists(data / "penn_action", [good, item("0002_bowl", [0], action_label=3)])
    dump(data / "penn_action/train.pkl", [good, item("0002_bowl", [0], action_label=3) | change])
    with pytest.raises(TableError, match=message):
        open_table("penn_action:train")


@pytest.mark.parametrize("content", [[], {"a": 1}, [1, 2], ([], [])])
def test_pickles_that_are_no_item_lists_are_refused(data, content):
    penn_lists(data / "penn_action", [item("0001_bowl", [0], action_label=3)])
    dump(data / "penn_action/train.pkl", content)
    with pytest.raises(TableError, match=r"train.pkl (must hold a list|holds an empty list)"):
        open_table("penn_action:train")


# Pouring and FineGym


def test_pouring(data):
    root = data / "pouring"
    for split, name in (("train", "a"), ("val", "b"), ("test", "c")):
        dump(root / f"{split}.pkl", [item(name, [0, 1, 2, 3, 4])])
        touch(root / f"videos/{name}.mp4")
    (record,) = records("pouring:train")
    assert (record.label, record.frame_labels.tolist()) == (0, [0, 1, 2, 3, 4])
    table = open_table("pouring:test")
    assert table.phase_names[1] == "hand touches bottle to liquid starts exiting"
    assert (len(table.phase_names), table.class_names) == (5, ("pouring",))
    dump(root / "val.pkl", [item("b", [2, 2, 2])])  # one phase only: for the evaluators to say
    assert records("pouring:val")[0].frame_labels.tolist() == [2, 2, 2]
    dump(root / "val.pkl", [item("b", [5])])
    with pytest.raises(TableError, match=r"labels 5\.\.5, but there are 5 phases"):
        open_table("pouring:val")


@pytest.mark.parametrize("classes", [99, 288])
def test_finegym(data, classes):
    root = data / f"finegym{classes}"
    name = "0LtLS9wROrk_E_002407_002435"
    labels = [-1.0, classes - 1.0, -1.0]  # CARL's labels are float32
    dump(
        root / f"gym{classes}_train_v1.0.pkl",
        [item(name, labels, "processed_videos", event_label=4)],
    )
    dump(
        root / f"gym{classes}_val.pkl", [item("v_E_1_2", [0.0], "processed_videos", event_label=1)]
    )
    more = item("w_E_1_2", [0.0], "additional_processed_videos", event_label=1)
    del more["frame_label"]
    dump(root / "additional_v1.0.pkl", [more])
    for video in (
        f"processed_videos/{name}",
        "processed_videos/v_E_1_2",
        "additional_processed_videos/w_E_1_2",
    ):
        touch(root / f"{video}.mp4")
    (train,), (val,) = records(f"finegym{classes}:train"), records(f"finegym{classes}:val")
    assert (train.id, train.label, train.frame_labels.tolist()) == (name, 1, [-1, classes - 1, -1])
    assert (val.label, val.frame_labels.tolist()) == (0, [0])
    assert records(f"finegym{classes}:additional")[0].frame_labels is None
    table = open_table(f"finegym{classes}:train")
    assert table.class_names == ("event 1", "event 4")
    assert table.phase_names[-1] == f"element {classes - 1}"
    lines = [
        f"Clabel:   {n}; set: 1; Glabel:  {n + 3}; (VT) element; number {n}\n"
        for n in range(classes)
    ]
    (root / f"gym{classes}_categories.txt").write_text("".join(lines))
    assert open_table(f"finegym{classes}:train").phase_names[7] == "(VT) element; number 7"
    (root / f"gym{classes}_categories.txt").write_text("".join(lines[:-1]))
    with pytest.raises(TableError, match=f"names {classes - 1} elements"):
        open_table(f"finegym{classes}:train")


def test_finegym_has_two_sizes(data):
    with pytest.raises(TableError, match="classes=100: FineGym has sets of 99 and of 288"):
        read_finegym(data, 100)


def test_names_of_phases():
    assert stretches([]) == ["start to end"]


# Pickles of strangers


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_and_tensors_are_read_as_they_are(tmp_path, protocol):
    arrays = {
        "tensor": torch.arange(5), "float": -torch.ones(4), "half": torch.ones(2).half(), "bool": torch.tensor([True]),
        "view": torch.arange(12).view(3, 4).T[1:3], "empty": torch.zeros(0), "number": torch.tensor(3),
        "numpy": np.arange(3), "big": np.array([1, 2], ">i2"), "fortran": np.asfortranarray(np.eye(2, 3)),
    }  # fmt: skip
    plain = {
        "s": np.float64(2.5),
        "i": np.int64(3),
        "o": collections.OrderedDict(a=1),
        "t": (1, [2], "x", b"y", None),
    }
    dump(tmp_path / "a.pkl", arrays | plain, protocol)
    found = read_items(tmp_path / "a.pkl")
    for name, expected in arrays.items():
        np.testing.assert_array_equal(array_of(found[name]), np.asarray(expected))
    assert {name: found[name] for name in plain} == plain


class Evil:
    def __init__(self, call, *args):
        self.made = (call, args)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize(
    ("call", "args", "name"),
    [
        (os.system, ("touch ran",), "posix.system"),
        (eval, ("open('ran', 'w')",), "builtins.eval"),
        (getattr, ("a", "upper"), "builtins.getattr"),
        (os.mkdir, ("ran",), "posix.mkdir"),
        (torch.load, ("ran",), "torch.*load"),
        (np.load, ("ran",), "numpy.*load"),
        (np.ndarray, ((2**40,),), "calls a type"),
    ],
)  # fmt: skip
def test_a_hostile_pickle_is_refused_by_name_and_nothing_runs(tmp_path, data, call, args, name):
    root = data / "pouring"
    dump(root / "train.pkl", [item("a", [0]) | {"seq_len": Evil(call, *args)}])
    dump(root / "val.pkl", [item("b", [0])])
    with pytest.raises(TableError, match=name):
        open_table("pouring:train")
    assert not (tmp_path / "ran").exists()


def test_what_a_storage_names_is_refused_too(tmp_path):
    hidden = pickle.dumps(Evil(os.mkdir, str(tmp_path / "ran")), protocol=2)
    dump(tmp_path / "a.pkl", Evil(torch.storage._load_from_bytes, hidden))
    with pytest.raises(TableError, match=r"a storage that names posix.mkdir"):
        read_items(tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_cannot_change_our_functions(tmp_path):
    for state in (b"}X\x05\x00\x00\x00_callK\x01s", b"N}X\x05\x00\x00\x00_callK\x01s\x86"):
        (tmp_path / "a.pkl").write_bytes(
            b"\x80\x04ctorch._utils\n_rebuild_tensor_v2\n" + state + b"b."
        )
        with pytest.raises(TableError, match="damaged pickle, or not of plain items"):
            read_items(tmp_path / "a.pkl")
    dump(tmp_path / "b.pkl", torch.arange(3))
    assert read_items(tmp_path / "b.pkl").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [(0, (6,), (1,)), (4, (2,), (1,)), (0, (2,), (9,)), (-1, (1,), (1,)), (0, (-1,), (1,))],
)
def test_a_tensor_does_not_reach_beyond_its_numbers(tmp_path, offset, size, stride):
    with warnings.catch_warnings(action="ignore"):
        storage = torch.arange(5).storage()
    dump(
        tmp_path / "a.pkl",
        Evil(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, {}),
    )
    with pytest.raises(TableError, match=r"a tensor of .* in 5 numbers"):
        read_items(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"PK\x03\x04", "is a zip archive"), (b"<!DOCTYPE html>", "is a web page"),
     (b"abc", "begins with"), (b"\x80\x04", "damaged pickle"), (b"\x80\x04]\x94(", "damaged pickle")],
)  # fmt: skip
def test_files_that_are_no_pickles_are_told(tmp_path, content, message):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(TableError, match=message):
        read_items(tmp_path / "a.pkl")
