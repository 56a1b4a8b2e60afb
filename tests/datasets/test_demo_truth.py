"""The ground truth of generated videos against the drawn pixels, the boxes of the tables, and the other camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from generated_videos import settings_of

from video_ssl.clips.reading import segment_frames
from video_ssl.datasets.demo.figure import JOINT_INDEX
from video_ssl.datasets.demo.rows import SYNC, clip_row, segment_rows
from video_ssl.datasets.demo.truth import figure_joints, figure_masks, frame_px, is_generated
from video_ssl.datasets.demo.worlds import WORLDS, plan_of, world_of
from video_ssl.datasets.table import Table, TableError


def table_of(world: str, split: str, indices: range, **nuisances: float) -> Table:
    """A table as the build writes it, without its videos."""
    settings, rows = settings_of(world, **nuisances), []
    for index in indices:
        plan = plan_of(settings, split, index)
        whole = not split.startswith("sessions_")
        made = world_of(world)
        rows += [clip_row(made, plan)] if whole else segment_rows(made, plan)
    return Table.from_rows(rows, root=Path("/nowhere"), generator=settings)


@pytest.mark.parametrize("world", WORLDS)
def test_masks_are_the_pixels_of_the_figure(world: str) -> None:
    """What changes when the figure is left out: all of the mask, and little beside its edge."""
    table = table_of(world, "val", range(3), noise=0.0, distractor=0.0)
    for index in range(len(table)):
        scene = plan_of(table.metadata["generator"], "val", index).scene()
        masks = figure_masks(table, index)
        assert masks.shape == (scene.num_frames, scene.size, scene.size)
        with_it, without = (list(scene.frames(figure=f)) for f in (True, False))
        changed = np.abs(np.stack(with_it).astype(int) - np.stack(without)).max(-1) > 12
        both, either = (masks & changed).sum(), (masks | changed).sum()
        assert both / either > 0.8, index
        edge = masks ^ np.roll(masks, 1, 1) | masks ^ np.roll(masks, 1, 2)
        edge |= np.roll(edge, -1, 1) | np.roll(edge, -1, 2)
        assert (changed & ~masks & ~edge).sum() < 0.02 * masks.sum(), index


@pytest.mark.parametrize(
    ("world", "split"),
    [("demo", "train"), ("demo", "sessions_train"), ("demo", "views_val"), ("exercises", "train")],
)
def test_joints_and_masks_lie_in_the_boxes_of_the_table(world: str, split: str) -> None:
    table = table_of(world, split, range(2))
    for index in range(len(table)):
        record = table.record(index)
        joints, masks = figure_joints(table, index), figure_masks(table, index)
        assert len(joints) == len(masks) == record.num_frames == len(record.boxes)
        size = masks.shape[1]
        low, high = record.boxes[:, 0, :2] * size, record.boxes[:, 0, 2:] * size
        inside = (joints >= low[:, None] - 1e-3) & (joints <= high[:, None] + 1e-3)
        touches = (record.boxes[:, 0] <= 0) | (record.boxes[:, 0] >= 1)
        assert inside[~touches.any(1)].all(), record.id
        for t in range(0, len(masks), 5):
            y, x = np.nonzero(masks[t])
            assert low[t, 0] - 1 <= x.min() <= low[t, 0] + 2
            assert high[t, 1] - 3 <= y.max() <= high[t, 1]
        trunk = np.round(joints[:, JOINT_INDEX["chest"]]).astype(int).clip(0, size - 1)
        assert masks[np.arange(len(masks)), trunk[:, 1], trunk[:, 0]].all(), "the chest is drawn"


def test_what_the_distractor_hides_is_not_visible() -> None:
    table = table_of("demo", "val", range(4), distractor=3.0)
    hidden = []
    for index in range(len(table)):
        scene = plan_of(table.metadata["generator"], "val", index).scene()
        whole, seen = (figure_masks(table, index, visible=visible) for visible in (False, True))
        assert not (seen & ~whole).any()
        assert scene.distractor.in_front or (seen == whole).all()
        hidden.append((whole & ~seen).sum())
    assert max(hidden) > 50


def epipolar_error(first: np.ndarray, second: np.ndarray) -> float:
    """How far points (N, 2) of two still cameras are from one fundamental matrix F: rms of x2' F x1, whatever F is."""
    a, b = (np.c_[(p - 48) / 48, np.ones(len(p))] for p in (first, second))
    products = (b[:, :, None] * a[:, None]).reshape(len(a), 9)
    return float(np.linalg.svd(products, compute_uv=False)[-1] / np.sqrt(len(a)))


def test_two_cameras_see_one_performance() -> None:
    """Joints of both recordings fit the geometry of two views at the offset that the table tells, and not beside it."""
    table = table_of("demo", "views_train", range(8), motion=0.0)
    for index in range(0, 8, 2):
        rows = [table.record(index + k) for k in (0, 1)]
        assert [row.events[0].name for row in rows] == [SYNC, SYNC]
        offset_sec = rows[0].events[0].time_sec - rows[1].events[0].time_sec
        joints = [figure_joints(table, index + k) for k in (0, 1)]
        assert np.abs(joints[0] - joints[1]).max() > 5, "from another side"
        errors = []
        for beside in (0, 1, -1):
            shift = round(offset_sec * rows[0].fps) + beside
            count = len(joints[0]) - abs(shift)
            seen = [
                j[f : f + count].reshape(-1, 2)
                for j, f in zip(joints, (max(0, shift), max(0, -shift)), strict=True)
            ]
            errors.append(epipolar_error(*seen))
        assert errors[0] < 1e-8, errors
        assert min(errors[1:]) > 1e-5, errors


def test_a_segment_is_the_same_frames_wherever_its_table_went(tmp_path: Path) -> None:
    """Was wrong: the joints of a segment that is a file of its own were those of the beginning of the session."""
    table = table_of("demo", "sessions_val", range(1))
    rows = [{"id": r.id, "source": r.source} for r in map(table.record, range(len(table)))]
    cut = Table.from_rows(rows, root=tmp_path, generator=table.metadata["generator"])
    counted = [{**row, "num_frames": 999} for row in rows]
    for index, row in enumerate(counted):
        row |= {key: getattr(table.record(index), key) for key in ("start_sec", "end_sec")}
    scanned = Table.from_rows(counted, root=tmp_path, generator=table.metadata["generator"])
    assert len(table) > 1
    for index in range(len(table)):
        truth = figure_joints(table, index)
        assert len(truth) == table.record(index).num_frames
        np.testing.assert_array_equal(figure_joints(cut, index), truth)
        np.testing.assert_array_equal(figure_joints(scanned, index), truth)


@pytest.mark.parametrize("start_sec", [0.0, 0.03, 1 / 12, 0.0831, 0.5, None])
@pytest.mark.parametrize("end_sec", [0.9, 1.0, 1.04, None])
def test_a_stretch_is_cut_as_readers_cut_it(start_sec: float | None, end_sec: float | None) -> None:
    """Was wrong: by rounding, so that the joints of a stretch that begins between two frames were a frame early."""
    table = table_of("demo", "val", range(1))
    whole, record = figure_joints(table, 0), table.record(0)
    first, last = segment_frames(np.arange(len(whole)) / record.fps, start_sec, end_sec)
    row = {"id": record.id, "source": "a.mp4", "start_sec": start_sec, "end_sec": end_sec}
    own = Table.from_rows([row], root=Path("/nowhere"), generator=table.metadata["generator"])
    np.testing.assert_array_equal(figure_joints(own, 0), whole[first:last])


def test_frames_have_the_size_that_the_table_tells() -> None:
    table = table_of("demo", "val", range(1))
    assert is_generated(table)
    assert frame_px(table) == figure_masks(table, 0).shape[1]
    other = Table.from_rows([{"id": "a", "source": "a.mp4"}], root=Path("/nowhere"))
    assert not is_generated(other)
    with pytest.raises(TableError, match="the table is not of generated videos: `video-ssl data"):
        frame_px(other)
    old = {**settings_of("demo"), "size": "huge"}
    with pytest.raises(TableError, match=r"nothing here generates format=\d, size='huge'"):
        frame_px(Table.from_rows([{"source": "a.mp4"}], root=Path("/nowhere"), generator=old))


def test_other_tables_are_refused() -> None:
    row = {"id": "val-00001", "source": "a.mp4"}
    with pytest.raises(TableError, match="record 'val-00001' is not of a generated video"):
        figure_joints(Table.from_rows([row], root=Path("/nowhere")), 0)
    old = {**settings_of("demo"), "format": 2}
    with pytest.raises(TableError, match=r"cannot be generated again: format=2 is none .*'demo'"):
        figure_masks(Table.from_rows([row], root=Path("/nowhere"), generator=old), 0)
