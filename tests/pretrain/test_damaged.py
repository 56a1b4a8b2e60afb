"""Checkpoints whose bytes have changed, and data that have: found before anything is trained on them."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from video_ssl.datasets.table import Table
from video_ssl.pretrain import checkpoint_folders
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    begin_checkpoint,
    complete_checkpoint,
    list_checkpoints,
    read_meta,
    sound_checkpoint,
)
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.session import Session
from video_ssl.pretrain.table_digest import SAMPLE, describe_tables, table_changes
from video_ssl.pretrain.torch_loop.checkpoints import load_state, save_checkpoint
from video_ssl.pretrain.torch_loop.loop import _Means
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.pretrain.torch_loop.sharded_checkpoints import SHARDS, load_for

TIMES = ("time", "clips_per_sec", "data_wait_share", "host_memory_gib")


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_after(monkeypatch: pytest.MonkeyPatch, recipe: Any, step: int) -> None:
    """Trains until the end of the process right after step number `step`, its checkpoint included."""
    look = Session._look

    def dies(self: Any) -> None:
        look(self)
        if self._saved == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Session, "_look", dies)
        with pytest.raises(Killed):
            run_torch(recipe)


def flip(path: Path, place: float, bit: int = 0) -> None:
    """Flips one bit, `place` of the way into a file."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def state(value: float) -> dict[str, Any]:
    return {"objective": {"w": torch.full((300,), value)}, "optimizer": {"w": {"m": torch.ones(2)}}}


def three(folder: Path) -> list[Path]:
    return [save_checkpoint(folder, step, state(step), {"seed": 3}).folder for step in (5, 6, 7)]


@pytest.mark.parametrize("bit", [0, 7])
@pytest.mark.parametrize("place", np.linspace(0, 1, 13))
@pytest.mark.parametrize("name", ["state.pt", "meta.json"])
def test_a_flipped_bit_anywhere_is_found(
    tmp_path: Path, caplog: Any, name: str, place: float, bit: int
) -> None:
    """Was wrong: only sizes were compared, so a checkpoint with a flipped bit was trained on."""
    *_, newest = three(tmp_path)
    flip(newest / name, place, bit)
    found = sound_checkpoint(tmp_path)
    assert found == Checkpoint(6, tmp_path / "step_6")
    assert f"{newest} is damaged" in caplog.text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step_5", "step_6", "step_7.damaged"]
    assert sound_checkpoint(tmp_path) == found


def test_one_set_aside_does_not_push_out_the_good_ones(tmp_path: Path) -> None:
    """The damaged one has the highest step, so a sweep that keeps one would otherwise keep that."""
    three(tmp_path)
    flip(tmp_path / "step_7" / "state.pt", 0.5)
    sound_checkpoint(tmp_path)
    checkpoint_folders.sweep(tmp_path, keep=1)
    assert [c.step for c in list_checkpoints(tmp_path)] == [6]
    save_checkpoint(tmp_path, 7, state(8.0), {})
    assert sound_checkpoint(tmp_path) == Checkpoint(7, tmp_path / "step_7")


def test_all_damaged_is_no_start_from_the_beginning(tmp_path: Path) -> None:
    """Was wrong: a run whose only checkpoint was cut short began again from step 0 without a word."""
    flipped, cut, empty = three(tmp_path)
    flip(flipped / "state.pt", 0.9)
    (cut / "state.pt").write_bytes(b"x")
    (empty / "meta.json").unlink()
    for _ in range(2):  # nor at the second try
        with pytest.raises(
            CheckpointError, match=r"every checkpoint in .* is damaged .*begin from the start"
        ):
            sound_checkpoint(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    shutil.rmtree(cut)
    shutil.rmtree(empty)
    flipped.rename(tmp_path / "step_5.damaged")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        sound_checkpoint(tmp_path)


def test_checkpoints_of_earlier_versions_still_open(tmp_path: Path, caplog: Any) -> None:
    *_, newest = three(tmp_path)
    meta = json.loads((newest / "meta.json").read_text())
    for key in ("crc32", "checksum"):
        del meta[key]
    (newest / "meta.json").write_text(json.dumps(meta))
    caplog.set_level("INFO")
    assert sound_checkpoint(tmp_path) == Checkpoint(7, newest)
    assert "earlier version, without checksums" in caplog.text


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", '{"bytes": 3}', '{"bytes": {"state.pt": []}}', "{", "null"]
)
def test_a_description_that_is_none_is_damage(tmp_path: Path, text: str) -> None:
    """Was wrong: 100,000 brackets ended in a RecursionError."""
    *_, newest = three(tmp_path)
    (newest / "meta.json").write_text(text)
    assert sound_checkpoint(tmp_path) == Checkpoint(6, tmp_path / "step_6")


def test_a_run_goes_on_from_the_one_before_and_ends_in_the_same_bits(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_torch(helpers.recipe(videos, tmp_path / "straight"))
    recipe = helpers.recipe(videos, tmp_path / "run")
    killed_after(monkeypatch, recipe, 8)
    flip(tmp_path / "run" / "checkpoints" / "step_8" / "state.pt", 0.5)
    run_torch(recipe)
    assert "step_8 is damaged" in (tmp_path / "run" / "logs" / "rank_0.log").read_text()
    starts = json.loads((tmp_path / "run" / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 4]
    one, two = (helpers.weights(tmp_path / name) for name in ("straight", "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def divided(folder: Path, step: int) -> Path:
    """A checkpoint as the processes of a divided run write it."""
    temporary = begin_checkpoint(folder, step)
    flat = {"objective/w": torch.full((300,), float(step)), "optimizer/w/m": torch.ones(2)}
    dcp.save(flat, checkpoint_id=temporary / SHARDS, no_dist=True)
    return complete_checkpoint(folder, step, temporary, {}).folder


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_a_divided_checkpoint_is_checked_too(tmp_path: Path, name: str) -> None:
    divided(tmp_path, 4)
    flip(divided(tmp_path, 8) / SHARDS / name, 0.6)
    found = sound_checkpoint(tmp_path)
    assert found == Checkpoint(4, tmp_path / "step_4")
    module = nn.Module()
    module.w = nn.Parameter(torch.zeros(300))
    assert load_for(found, module)["objective"]["w"][0] == 4


def test_the_description_of_a_divided_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """Was wrong: torch unpickles it with nothing in the way, so resuming a stranger's run folder ran its code."""

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    place = divided(tmp_path, 4)
    (place / SHARDS / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="which describes no checkpoint"):
        load_for(Checkpoint(4, place), nn.Linear(1, 1))
    assert not (tmp_path / "ran").exists()


def test_a_description_of_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    place = divided(tmp_path, 4)
    metadata = pickle.loads((place / SHARDS / ".metadata").read_bytes())
    about = metadata.state_dict_metadata["objective/w"]
    about.size = torch.Size([2**40])
    (place / SHARDS / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"describes [\d,]+ bytes of tensors"):
        load_for(Checkpoint(4, place), nn.Linear(1, 1))


# metrics.jsonl


@pytest.mark.parametrize("killed_at", [3, 6, 9])
def test_averages_go_on_over_a_kill(
    killed_at: int, videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: the first row after a resume was the mean of the steps since then, not since the row before."""
    often = {"training__log_every": 5, "training__checkpoint_every": 3}
    run_torch(helpers.recipe(videos, tmp_path / "straight", **often))
    recipe = helpers.recipe(videos, tmp_path / "run", **often)
    killed_after(monkeypatch, recipe, killed_at)
    run_torch(recipe)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "run"))
    assert [row["step"] for row in one] == [5, 10, 12]
    for left, right in zip(one, two, strict=True):
        assert {k: v for k, v in left.items() if k not in TIMES} == {
            k: v for k, v in right.items() if k not in TIMES
        }


class Two:
    """The place of one of two processes that have the same sums but for a factor."""

    world_size, device = 2, torch.device("cpu")

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gather(self, rows: torch.Tensor) -> torch.Tensor:
        mine = rows / (1 + 2 * self.rank)
        return torch.cat([mine, 3 * mine])

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_each_process_goes_on_with_its_own_sums() -> None:
    for rank, factor in enumerate((1.0, 3.0)):
        means = _Means(None, Two(rank))  # type: ignore[arg-type]
        means.add({"loss": torch.tensor(0.1 * factor)})
        kept = json.loads(json.dumps(means.kept(Two(rank))))  # type: ignore[arg-type]
        again = _Means(kept, Two(rank))  # type: ignore[arg-type]
        for each in (means, again):
            each.add({"loss": torch.tensor(0.2)})
        assert again.read(Two(rank)) == means.read(Two(rank))  # type: ignore[arg-type]
    alone = Two(0)
    alone.world_size = 1
    assert _Means(kept, alone).read(alone)["loss"] == pytest.approx(0.2)  # type: ignore[arg-type]


# The data


def clone(videos: Path, to: Path) -> Path:
    shutil.copytree(videos, to)
    return to


def test_a_run_does_not_go_on_with_other_videos(
    videos: Path, tmp_path: Path, helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: only their number was compared."""
    data = clone(videos, tmp_path / "data")
    recipe = helpers.recipe(data, tmp_path / "run")
    killed_after(monkeypatch, recipe, 4)
    (data / "03.mp4").rename(data / "other.mp4")
    with pytest.raises(
        CheckpointError, match=r"other videos than when .*step_4 was made \(other ids, sources"
    ):
        run_torch(recipe)
    (data / "other.mp4").rename(data / "03.mp4")
    helpers.write_video(data / "03.mp4", seed=99)
    (data / "03.mp4").write_bytes((data / "03.mp4").read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match=r"other sizes.*--allow-changes"):
        run_torch(recipe)
    assert run_torch(recipe, allow_changes=True).steps == 12


def test_the_same_videos_elsewhere_are_the_same(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from video_ssl.datasets import open_table

    told = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        clone(videos, tmp_path / name / "data")
        monkeypatch.chdir(tmp_path / name)
        told.append(json.loads(json.dumps(describe_tables([open_table("data")]))))
    assert table_changes(*told) == ""
    (
        tmp_path / "there" / "data" / "05.mp4"
    ).unlink()  # counted and replaced in training: no reason to stop
    assert (
        table_changes(told[0], describe_tables([open_table("data")])) != ""
    )  # but a folder has one less
    kept = open_table(str(tmp_path / "here" / "data"))
    before = describe_tables([kept])
    (tmp_path / "here" / "data" / "05.mp4").unlink()
    assert table_changes(before, describe_tables([kept])) == ""


def test_every_column_that_tells_counts_and_chunks_do_not() -> None:
    rows = 3000
    columns = {
        "id": [f"é{i}" for i in range(rows)],
        "source": [f"http://x/{i}" for i in range(rows)],
        "start_sec": [None if i % 3 else i / 7 for i in range(rows)],
        "label": list(range(rows)),
        "file_size": list(range(rows)),
    }
    whole = Table.from_columns(columns)
    (before,) = describe_tables([whole])
    import pyarrow as pa

    parts = pa.concat_tables(
        [whole.arrow.slice(0, 7), whole.arrow.slice(7, 1000), whole.arrow.slice(1007)]
    )
    assert describe_tables([Table(data=parts, root=whole.root)]) == [before]
    assert describe_tables([whole.select(range(rows))]) == [before]
    for name, value, word in (
        ("id", "x", "ids"),
        ("source", "http://y/", "sources"),
        ("start_sec", 1.0, "beginnings"),
        ("label", 0, "labels"),
        ("file_size", 0, "sizes"),
    ):
        changed = {**columns, name: [*columns[name][:-1], value]}
        assert (
            table_changes([before], describe_tables([Table.from_columns(changed)]))
            == f"other {word}"
        )
    swapped = Table.from_columns(columns).select([1, 0, *range(2, rows)])
    assert "ids" in table_changes([before], describe_tables([swapped]))
    less = {k: v for k, v in columns.items() if k != "file_size"}
    (other,) = describe_tables([Table.from_columns(less)])
    assert len(other["sizes"]) == SAMPLE
    assert table_changes([before], [other]) == ""  # what only one of them knows is no difference
    assert table_changes(None, [other]) == ""  # a checkpoint of an earlier version


def test_what_a_checkpoint_says_of_its_data_is_small(
    videos: Path, tmp_path: Path, helpers: Any
) -> None:
    run_torch(helpers.recipe(videos, tmp_path / "run", training__duration=4))
    meta = read_meta(Checkpoint(4, tmp_path / "run" / "checkpoints" / "step_4"))
    assert meta["tables"][0]["columns"].keys() >= {"id", "source"}
    assert meta["averages"] == {"count": 0}
    assert meta["crc32"].keys() == meta["bytes"].keys() == {"state.pt"}
    assert load_state(Checkpoint(4, tmp_path / "run" / "checkpoints" / "step_4"))["objective"]


def test_a_checkpoint_under_the_name_of_another_step_is_not_that_step(tmp_path):
    """Was wrong: step_1 called step_2 was taken for step 2, and a run missed a step without a word."""
    temporary = begin_checkpoint(tmp_path, 1)
    (temporary / "state.pt").write_bytes(b"state")
    complete_checkpoint(tmp_path, 1, temporary, {})
    assert [c.step for c in list_checkpoints(tmp_path)] == [1]
    (tmp_path / "step_1").rename(tmp_path / "step_2")
    assert list_checkpoints(tmp_path) == []
    with pytest.raises(
        CheckpointError, match="checkpoint of step 1 under another name: call it step_1"
    ):
        sound_checkpoint(tmp_path)
