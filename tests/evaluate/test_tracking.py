"""Tracking without learning: windows, a tracker on pixels, curves by hand, and whole evaluations."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch
from boxed_videos import FRAMES, HEIGHT, SIDE, WIDTH, boxed_table
from untrained_run import untrained_run

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.evaluate.leftovers import safe_name
from video_ssl.evaluate.places import tracking
from video_ssl.evaluate.places.siam import SiamConfig, balanced_loss
from video_ssl.evaluate.places.track_metrics import track_scores
from video_ssl.evaluate.places.tracker import TrackerConfig, Windows, cut_window, samples
from video_ssl.evaluate.places.tracking import TrackingConfig, draw_pairs, targets_of
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    boxed_table(folder, "train", 2, seed=0)
    boxed_table(folder, "test", 4, seed=50)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


def test_scores_by_hand():
    truth = np.tile([10.0, 10.0, 10.0, 10.0], (4, 1))
    found = truth + [[0, 0, 0, 0], [5, 0, 0, 0], [30, 0, 0, 0], [0, 0, 0, 0]]
    scores = track_scores([found], [truth])
    assert scores.precision == 0.75
    assert scores.success_rate == 0.5  # an overlap of a third is not a half
    # Above 0 are three of four, above a third two, above 1 none.
    by_hand = [np.mean([o > t for o in (1.0, 1 / 3, 0.0, 1.0)]) for t in np.linspace(0, 1, 21)]
    np.testing.assert_allclose(scores.success_curve, by_hand)
    assert track_scores([found, truth], [truth, truth]).precision == pytest.approx(0.875)


@pytest.mark.parametrize(
    ("found", "truth", "text"),
    [
        ([], [], "at least one"),
        ([np.zeros((3, 4))], [np.zeros((2, 4))], r"the track is \(3, 4\), the truth \(2, 4\)"),
        ([np.full((2, 4), np.nan)], [np.zeros((2, 4))], "not finite"),
    ],
)
def test_tracks_that_cannot_be_judged_are_refused(found, truth, text):
    with pytest.raises(ValueError, match=text):
        track_scores(found, truth)


def test_a_window_shows_its_middle_in_its_middle():
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[10:20, 30:40] = 250
    window = cut_window(picture, np.array([35.0, 15.0]), 20.0, 40)
    inside = window[..., 0] > 125
    rows, columns = np.nonzero(inside)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (10, 30, 10, 30)
    outside = cut_window(picture, np.array([-100.0, -100.0]), 20.0, 8)
    assert (outside == picture.mean((0, 1)).round()).all()


def test_targets_are_things_with_boxes_in_every_frame():
    boxes = np.full((5, 3, 4), np.nan, np.float32)
    boxes[1:4, 0] = [0, 0, 0.5, 0.5]
    boxes[2, 0] = np.nan
    boxes[0, 1] = [0, 0, 0.5, 0.5]  # once only
    boxes[:, 2] = [0.5, 0.5, 0.5, 0.9]  # no area
    (target,) = targets_of(Record(index=0, id="a", source="a.mp4", boxes=boxes), None)
    assert (target.place, target.first, len(target.boxes)) == (0, 1, 3)
    assert np.isnan(target.boxes[1]).all()
    assert targets_of(Record(index=0, id="a", source="a.mp4"), None) == []
    key = Record(index=0, id="a", source="a.mp4", boxes=boxes, box_times_sec=np.arange(5.0))
    with pytest.raises(FeatureError, match="boxes of every frame"):
        targets_of(key, None)


def recipe(run, tables, out, test="test", **settings):
    quick = {"tracker": {"window_px": 48, "frames": 1}, "videos": 1, **settings}
    return EvaluateRecipe(
        encoders={"encoder": f"pixels:{run}@16"},
        train=str(tables / "train.arrow"),
        test=str(tables / f"{test}.arrow"),
        embed=EmbedConfig(num_clips=1, frames=False, num_workers=0),
        evaluators={"tracking": quick},
        out=str(out),
        device="cpu",
    )


def test_pixels_follow_a_box_that_moves(run, tables, tmp_path):
    found = evaluate(recipe(run, tables, tmp_path, objects=["mover", "other"]), quiet=True)
    result = found["encoders"]["encoder"]["results"]["tracking"]
    metrics, still = result["metrics"], result["details"]["position_only"]
    assert result["details"]["targets"] == 8
    assert metrics["mover_success"] > 0.6
    assert still["mover_success"] < 0.45
    assert metrics["other_success"] > 0.6  # it never moves
    assert still["other_success"] > 0.9
    folder = tmp_path / "files" / "encoder" / "tracks"
    lines = (folder / "000000_mover.txt").read_text().splitlines()
    assert len(lines) == FRAMES + 1
    first = np.array(lines[1].split(","), float)
    box = open_table(tables / "test.arrow").record(0).boxes[0, 0] * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    np.testing.assert_allclose(first, [*box[:2], SIDE, SIDE], atol=0.01)
    (video,) = folder.glob("*.mp4")
    with av.open(str(video)) as container:
        assert len(list(container.decode(video=0))) == FRAMES
        assert container.streams.video[0].width == 2 * 240


def test_a_trained_head_tells_the_target_from_what_is_beside_it(run, tables, tmp_path):
    told = recipe(
        run, tables, tmp_path, head={"pairs": 24, "dim": 8, "epochs": 8, "lr": 0.01}, videos=0
    )
    again = evaluate(told, quiet=True)
    result = again["encoders"]["encoder"]["results"]["tracking"]
    assert result["metrics"]["success"] > 0.6
    assert result["notes"] == []


def test_positives_and_negatives_weigh_the_same():
    logits = torch.zeros(1, 10)
    near = torch.zeros(1, 10, dtype=torch.bool)
    near[0, 0] = True
    assert float(balanced_loss(logits, near)) == pytest.approx(np.log(2))
    logits[0, 0] = 20.0  # right, and half of the loss is gone
    assert float(balanced_loss(logits, near)) == pytest.approx(np.log(2) / 2, rel=1e-4)


def test_pairs_know_where_the_target_lies_in_a_shifted_window(run, tables):
    config = SiamConfig(shift=0.2)
    record = open_table(tables / "test.arrow").record(0)
    windows = Windows(
        open_encoder(f"pixels:{run}@16", "cpu"), TrackerConfig(window_px=48, frames=1)
    )
    target = targets_of(record, 1)[0]
    with open_record(record) as reader:
        pairs = draw_pairs(target, reader, windows, config, 6, np.random.default_rng(0))
    for pair in pairs:
        # Where the box is near, the picture has its color: red, of record 0.
        boxes = pair.candidates[torch.from_numpy(pair.near)]
        inside = samples(pair.second[None], boxes[None])[0, :, 1, 1]
        target_color = samples(pair.first[None], pair.box[None, None])[0, 0, 1, 1]
        assert float((inside - target_color).abs().max()) < 1.0
        assert 1 <= pair.near.sum() < 40


def test_windows_of_pairs_go_through_the_encoder_in_pieces(run, tables, monkeypatch):
    """All pairs of a target went through in one pass, a thousand of them where there is one target."""
    encoder = open_encoder(f"pixels:{run}@16", "cpu")
    windows = Windows(encoder, TrackerConfig(window_px=48, frames=1))
    plain, sizes = encoder.outputs_of_arrays, []

    def noted(clips, *more, **settings):
        sizes.append(len(clips))
        return plain(clips, *more, **settings)

    monkeypatch.setattr(encoder, "outputs_of_arrays", noted)
    record = open_table(tables / "test.arrow").record(0)
    target = targets_of(record, 1)[0]
    made = []
    with open_record(record) as reader:
        for batch_size in (20, 3):
            rng = np.random.default_rng(0)
            made.append(
                draw_pairs(target, reader, windows, SiamConfig(), 20, rng, batch_size=batch_size)
            )
    assert sizes == [20, 20, *[3, 3, 3, 3, 3, 3, 2] * 2]
    for one, other in zip(*made, strict=True):
        for name in ("first", "second", "box", "candidates"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name))
        assert (one.near == other.near).all()


def test_a_video_that_breaks_midway_costs_no_other_one(run, tables, tmp_path, monkeypatch):
    """All were opened and counted again one by one: what was lost before was named twice."""
    rows = [open_table(tables / "test.arrow").record(i) for i in range(4)]
    changed = [
        {"id": row.id, "source": "gone.mp4" if i == 0 else row.source, "boxes": row.boxes}
        for i, row in enumerate(rows)
    ]
    Table.from_rows(changed).save(tables / "breaks.arrow")
    plain = tracking._pictures

    def breaking(target, reader):
        for number, picture in enumerate(plain(target, reader)):
            if target.record.id == rows[1].id and number == 5:
                raise BadVideo(target.record.source, "frame 5 is damaged")
            yield picture

    monkeypatch.setattr(tracking, "_pictures", breaking)
    told = recipe(run, tables, tmp_path, test="breaks", objects=["mover"], videos=0)
    result = evaluate(told, quiet=True)["encoders"]["encoder"]["results"]["tracking"]
    assert result["details"]["targets"] == 2
    (note,) = result["notes"]
    assert note.startswith("2 targets could not be followed")
    assert note.count("gone.mp4") == 1
    assert note.count("frame 5 is damaged") == 1


def test_tracks_bear_any_name_and_those_of_before_go(run, tables, tmp_path):
    """A name with a slash lost the evaluation after everything was tracked, a line break in an id broke the file, and
    tracks of an earlier run stood among those of this one."""
    row = open_table(tables / "test.arrow").record(0)
    rows = [{"id": "a\nb", "source": row.source, "boxes": row.boxes}]
    Table.from_rows(rows).save(tables / "names.arrow")
    folder = tmp_path / "files" / "encoder" / "tracks"
    folder.mkdir(parents=True)
    for name in ("000003_old.txt", "000003_old.mp4", "000000_target_0.txt", "notes.txt"):
        (folder / name).write_text("")
    told = recipe(run, tables, tmp_path, test="names", objects=["left/hand", "other"])
    evaluate(told, quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        f"000000_{safe_name('left/hand')}.mp4",
        f"000000_{safe_name('left/hand')}.txt",
        "000000_other.txt",
        "notes.txt",
    ]
    lines = (folder / "000000_other.txt").read_text().splitlines()
    assert lines[0].startswith(r'# "a\nb": from frame 0 on')
    assert len(lines) == FRAMES + 1


def test_an_encoder_of_clips_tracks_too_and_lost_videos_are_named(run, tables, tmp_path):
    rows = [open_table(tables / "test.arrow").record(i) for i in range(3)]
    changed = [
        {
            "id": row.id,
            "source": "gone.mp4" if i == 0 else row.source,
            "boxes": row.boxes if i != 1 else np.concatenate([row.boxes, row.boxes]),
        }
        for i, row in enumerate(rows)
    ]
    Table.from_rows(changed).save(tables / "odd.arrow")
    told = recipe(run, tables, tmp_path, test="odd", tracker={}, videos=0)
    told.encoders["encoder"] = str(run)
    found = evaluate(told, quiet=True)
    result = found["encoders"]["encoder"]["results"]["tracking"]
    assert result["details"]["targets"] == 2
    assert 0 <= result["metrics"]["success"] <= 1
    (note,) = result["notes"]
    assert note.startswith("4 targets could not be followed and are left out")
    assert "has boxes up to frame 23, but 12 frames" in note


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: TrackerConfig(steps=4), "steps=4 must be odd"),
        (lambda: TrackerConfig(search=1.0), "search=1.0 be above 1"),
        (lambda: TrackerConfig(hann=2.0), "hann=2.0"),
        (lambda: TrackerConfig(window_px=0), "window_px=0"),
        (lambda: SiamConfig(radius=0.5), "radius=0.5"),
        (lambda: SiamConfig(pairs=0), "pairs=0 must be at least 1"),
        (lambda: TrackingConfig(objects=("a", "a")), "different names"),
        (lambda: TrackingConfig(batch_size=0), "batch_size=0"),
    ],
)
def test_settings_that_cannot_be_are_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()
