"""`split`: classes alike on both sides, whatever belongs together on one, nothing replaced; as a user runs it."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from films import scene, write
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.clips.upkeep.config import SplitConfig
from video_ssl.clips.upkeep.split import SPLITS, split_table
from video_ssl.datasets.opening import open_table
from video_ssl.datasets.table import Table, TableError
from video_ssl.files import OutputError

WITHOUT_LOOKING = {"copies": False}


def table_of(folder, count=40, classes=4, **columns):
    """A table whose videos nobody opens."""
    return Table.from_columns(
        {
            "source": [f"{i}.mp4" for i in range(count)],
            "label": np.arange(count) % classes,
            **columns,
        },
        root=folder,
        class_names=[f"class {i}" for i in range(classes)],
    )


def divide(table, out, **settings):
    return split_table(table, out, SplitConfig(**settings), progress=False)


def ids(table):
    return set(table.column("id").tolist())


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two classes of six films of their own, a copy of one in each class, one file that is none."""
    folder = tmp_path_factory.mktemp("my videos")
    for number, name in enumerate(("Über Kopf", "squat")):
        (folder / name).mkdir()
        for film in range(6):
            write(folder / name / f"{film}.mp4", scene(10 * number + film, film % 3, frames=8))
    write(folder / "squat" / "copy.mp4", scene(11, 1, frames=8)[:, ::2, ::2].copy(), crf=30)
    (folder / "squat" / "broken.mp4").write_text("no video")
    return folder


def test_a_folder_is_divided_by_one_command_and_its_copies_stay_together(videos, tmp_path):
    for seed in range(2):
        out = tmp_path / f"parts{seed}"
        done = CliRunner().invoke(
            app, ["split", str(videos), str(out), "--test", "0.4", "--seed", str(seed)]
        )
        assert done.exit_code == 0, done.output
        train, test = (open_table(f"{out}:{split}") for split in SPLITS)
        assert ids(train) | ids(test) == ids(open_table(videos))
        assert not ids(train) & ids(test)
        for side in (train, test):
            assert len({"squat/1.mp4", "squat/copy.mp4"} & ids(side)) in (0, 2)
            assert side.class_names == ("squat", "Über Kopf")
        assert sorted(np.bincount(test.column("label")))[0] >= 2
        assert all(Path(test.record(row).source).is_file() for row in range(len(test)))
    assert "copies of one video, found by what they show: 2 videos in 1" in done.output
    assert "squat/broken.mp4" in done.output
    about = json.loads((out / "split.json").read_text())
    assert about["copies"] == [["squat/1.mp4", "squat/copy.mp4"]]
    assert list(about["unread"]) == ["squat/broken.mp4"]
    assert not list(out.glob(".*"))


def test_what_is_said_to_use_can_be_typed_where_names_have_spaces(videos, tmp_path):
    """Was wrong: a folder with a space in its name was printed as two words of a command."""
    out = tmp_path / "my parts"
    done = CliRunner().invoke(app, ["split", str(videos), str(out), "--test", "0.4", "--no-copies"])
    (line,) = [line for line in done.output.splitlines() if line.startswith("use them as ")]
    typed = shlex.split(line.removeprefix("use them as "))
    assert typed == [f"train={out}:train", f"test={out}:test"]
    assert len(open_table(typed[0].removeprefix("train="))) > 0


def test_a_copy_under_another_label_is_named(videos, tmp_path):
    table = Table.from_columns(
        {
            "source": [str(p) for p in sorted((videos / "squat").glob("[0-3c]*.mp4"))],
            "label": [0, 0, 1, 1, 1],
        },
        class_names=["down", "up"],
    )
    result = divide(table, tmp_path / "out", num_workers=1)
    (line,) = [line for line in result.lines if "different labels" in line]
    assert "1.mp4" in line
    assert "copy.mp4" in line


def test_classes_are_divided_alike_and_the_same_again_with_the_same_seed(tmp_path):
    first, again, other = (
        divide(table_of(tmp_path), tmp_path / name, seed=seed, **WITHOUT_LOOKING)
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert np.bincount(first.test.column("label")).tolist() == [2, 2, 2, 2]
    assert ids(first.test) == ids(again.test) != ids(other.test)


def test_groups_and_stretches_of_a_file_stay_together_through_each_other(tmp_path):
    people = [f"p{i // 2 % 10}" for i in range(40)]
    stretches = table_of(
        tmp_path,
        group=people,
        source=[f"{i // 3}.mp4" for i in range(40)],
        start_sec=[float(i % 3) for i in range(40)],
    )
    with pytest.raises(TableError, match=r"all 40 videos belong together .*group.*--no-copies"):
        divide(stretches, tmp_path / "all", **WITHOUT_LOOKING)
    result = divide(table_of(tmp_path, group=people), tmp_path / "p", **WITHOUT_LOOKING)
    sides = [set(side.column("group").tolist()) for side in (result.train, result.test)]
    assert not sides[0] & sides[1]
    assert len(result.test) == 8
    by_name = divide(
        table_of(tmp_path, group=people), tmp_path / "q", group="subject", **WITHOUT_LOOKING
    )
    assert ids(by_name.test) == ids(result.test)


def test_a_class_of_one_video_is_told_and_stays_in_training(tmp_path):
    labels = [0] * 10 + [1]
    table = table_of(tmp_path, count=11, classes=2, label=labels)
    result = divide(table, tmp_path / "out", **WITHOUT_LOOKING)
    assert set(result.test.column("label").tolist()) == {0}
    assert any("without a test video" in line and "class 1" in line for line in result.lines)


def test_nothing_is_written_over_a_split_nor_over_tables_of_others(tmp_path):
    table = table_of(tmp_path)
    divide(table, tmp_path / "out", **WITHOUT_LOOKING)
    before = (tmp_path / "out/test.arrow").read_bytes()
    with pytest.raises(OutputError, match="holds a split already"):
        divide(table, tmp_path / "out", seed=1, **WITHOUT_LOOKING)
    assert (tmp_path / "out/test.arrow").read_bytes() == before
    table.save(tmp_path / "mine/train.arrow")
    with pytest.raises(OutputError, match="has not made it"):
        divide(table, tmp_path / "mine", **WITHOUT_LOOKING)
    (tmp_path / "out/split.json").unlink()  # killed before its end
    assert ids(divide(table, tmp_path / "out", **WITHOUT_LOOKING).test)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"group": "actor"}, "no column 'actor' to group by"), ({"test": 1.5}, "between 0 and 1")],
)
def test_mistakes_are_refused_before_a_video_is_opened(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        divide(table_of(tmp_path), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()
