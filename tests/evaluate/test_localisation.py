"""Action localisation: key frames and their clips, the mean average precision by hand, and whole evaluations."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from boxed_videos import HEIGHT, WIDTH, boxed_table
from PIL import Image
from untrained_run import untrained_run

from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.places import localisation
from video_ssl.evaluate.places.frame_map import KeyFrame, average_precisions, mean_average_precision
from video_ssl.evaluate.places.heads import RoIPoolHead, action_loss
from video_ssl.evaluate.places.key_frames import (
    KeyFrameError,
    frame_of,
    jittered,
    key_frames,
    num_classes_of,
    read_key_clip,
)
from video_ssl.evaluate.places.localisation import LocalisationConfig
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.contract import TOKENS
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.torch_encoder import TorchEncoder


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    boxed_table(folder, "train", 12, seed=0)
    boxed_table(folder, "test", 6, seed=50)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


# The metric ---------------------------------------------------------------------------------------


def frame(found, scores, truth, labels):
    shapes = [np.array(x, np.float64).reshape(-1, 4) for x in (found, truth)]
    scores = np.array(scores, np.float64).reshape(len(shapes[0]), -1)
    return KeyFrame(shapes[0], scores, shapes[1], np.array(labels, int))


A, B, FAR = [0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 45, 45]


def test_precision_by_hand():
    frames = [
        frame([A, A, FAR], [[0.9], [0.8], [0.1]], [A, B], [0, 0]),  # right, found before, wrong
        frame([B], [[0.7]], [B], [0]),  # right
    ]
    # In order: 1/1 at 1/3, 1/2, 2/3 at 2/3, 2/4; one of three is never found.
    assert average_precisions(frames, 1)[0] == pytest.approx((1 + 2 / 3) / 3)


def test_false_detections_where_nobody_is_count_officially():
    frames = [frame([A], [[0.5]], [A], [0]), frame([B], [[0.9]], [], [])]
    found = {
        rule: average_precisions(frames, 1, rule=rule)[0] for rule in ("reference", "official")
    }
    assert found == {"reference": 1.0, "official": 0.5}


def test_a_box_that_does_two_things_is_two_things():
    both = frame([A], [[0.9, 0.8, 0.7]], [A, A], [0, 1])
    values = average_precisions([both], 3)
    assert values[:2].tolist() == [1, 1]
    assert np.isnan(values[2])
    assert mean_average_precision(values) == 1
    assert np.isnan(mean_average_precision(values[2:]))


def test_boxes_without_area_are_not_there():
    inverted = frame([[10, 10, 0, 0], A], [[0.99], [0.5]], [A, [-1] * 4], [0, 0])
    assert average_precisions([inverted], 1)[0] == 1


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (frame([A], [[0.5, 0.5]], [A], [0]), "scores are of 2 classes"),
        (frame([A], [[0.5]], [A], [1]), "labels from 1 to 1, but classes are 0 to 0"),
        (frame([A], [[np.nan]], [A], [0]), "a score is NaN"),
        (frame([A], [[0.5]], [A, B], [0]), "2 true boxes, but 1 labels"),
    ],
)
def test_what_cannot_be_judged_is_refused(bad, text):
    with pytest.raises(ValueError, match=text):
        average_precisions([bad], 1)
    with pytest.raises(ValueError, match="rule='ava'"):
        average_precisions([], 1, rule="ava")


def test_the_loss_without_boxes_is_zero():
    logits = torch.full((1, 2, 3), 100.0)
    targets = torch.zeros(1, 2, 3)
    assert action_loss(logits, targets, torch.zeros(1, 2, dtype=torch.bool)) == 0
    bound = action_loss(logits, targets, torch.ones(1, 2, dtype=torch.bool))
    assert float(bound) == pytest.approx(3 * -np.log(1e-7), rel=0.02)


# Key frames ---------------------------------------------------------------------------------------


def test_boxes_lie_in_the_clip_where_the_pixels_are(tables):
    record = open_table(tables / "test.arrow").record(0)
    preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=64)
    with open_record(record) as reader:
        clip, geometry = read_key_clip(reader, 6, preprocess)
    assert clip.shape == (4, 64, 64, 3)
    shown, _ = geometry.boxes(record.boxes[6])
    # The key frame is the third of four frames around it (6 - 4 // 2 + 2).
    red = clip[2].astype(int)
    rows, columns = np.nonzero((red[..., 0] > 150) & (red[..., 1] < 110))
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(shown[0] * 64, found, atol=2)
    band = round(64 * (1 - HEIGHT / WIDTH) / 2)
    assert np.ptp(clip[:, : band - 1].reshape(-1, 3), axis=0).max() == 0  # the mean color


def test_what_a_table_says_of_key_frames():
    boxes = np.float32([[[0, 0, 0.5, 0.5], [0.5, 0.5, 1, 1], [0.2, 0.2, 0.8, 0.8]]] * 3)
    boxes[2, 1] = 0.5  # empty
    row = {
        "id": "a",
        "source": "a.mp4",
        "boxes": boxes,
        "box_times_sec": [1.0, 2.0, 3.0],
        "box_labels": [[[2, 0], [], []]] * 3,
        "box_scores": [[1.0, 0.7, 0.3]] * 3,
    }
    table = Table.from_rows([row])
    assert num_classes_of(table) == 3
    frames = list(key_frames(table, 3, None))
    assert [len(f.boxes) for f in frames] == [1, 1, 1]
    assert frames[0].targets.tolist() == [[True, False, True]]
    assert [len(f.scores) for f in frames] == [2, 2, 1]
    np.testing.assert_allclose(frames[0].scores, [0.7, 0.3])
    assert sorted(frames[0].truth[1].tolist()) == [0, 2]
    assert len(list(key_frames(table, 3, 1))) == 1
    without = {key: value for key, value in row.items() if key not in ("box_labels", "box_scores")}
    plain = Table.from_rows([{**without, "label": 1}])
    (first, *_) = key_frames(plain, 2, None)
    assert first.targets.tolist() == [[False, True], [False, False], [False, False]]
    assert not len(first.detections)


def test_a_table_with_labels_of_boxes_says_nothing_of_videos_without_them():
    """The label of a video stood in where a row had no labels of boxes: an IndexError, or an action that nobody saw."""
    boxes = np.float32([[[0, 0, 0.5, 0.5]]])
    rows = [
        {"id": "a", "source": "a.mp4", "label": 0, "boxes": boxes, "box_labels": [[[0]]]},
        {"id": "b", "source": "b.mp4", "label": 3, "boxes": boxes, "box_labels": None},
    ]
    table = Table.from_rows(rows)
    assert num_classes_of(table) == 1
    assert [f.targets.tolist() for f in key_frames(table, 1, None)] == [[[True]], [[False]]]
    never = Table.from_rows([{**row, "box_labels": None} for row in rows])
    assert num_classes_of(never) == 4
    assert [f.truth[1].tolist() for f in key_frames(never, 4, None)] == [[0], [3]]


def test_a_label_without_a_name_is_told():
    """It was a bare IndexError, of a box as well as of a video."""
    row = {"id": "clip", "source": "a.mp4", "boxes": np.float32([[[0, 0, 0.5, 0.5]]])}
    for labels in ({"box_labels": [[[5]]]}, {"label": 5}):
        table = Table.from_rows([{**row, **labels}], class_names=["red", "green"])
        told = "clip has the label 5 at a key frame, but there are 2 classes: 0 to 1"
        with pytest.raises(FeatureError, match=told):
            list(key_frames(table, num_classes_of(table), None))


def test_a_key_frame_outside_the_video_is_named(tables):
    own = open_table(tables / "test.arrow").record(0)
    with open_record(own) as reader:
        for time, wanted in ((0.4, 4), (1.1, 11)):
            record = Record(index=0, id="clip", source=own.source, box_times_sec=np.array([time]))
            assert frame_of(record, 0, reader) == wanted
        late = Record(index=0, id="clip", source=own.source, box_times_sec=np.array([9.0]))
        with pytest.raises(
            KeyFrameError, match=r"clip: a key frame at 9\.000 s, but the video goes"
        ):
            frame_of(late, 0, reader)
        many = Record(index=0, id="clip", source=own.source)
        with pytest.raises(KeyFrameError, match="boxes of frame 12, but the video has 12 frames"):
            frame_of(many, 12, reader)


def test_jittered_boxes_stay_near_and_false_ones_come_last():
    boxes = np.float32([[0.2, 0.2, 0.6, 0.8]] * 50)
    found = jittered(boxes, 0.1, 3, np.random.default_rng(0))
    assert len(found) == 53
    assert 0.01 < np.abs(found[:50] - boxes).max() < 0.1
    assert found.min() >= 0
    assert found.max() <= 1


# Whole evaluations --------------------------------------------------------------------------------


def recipe(run, tables, out, test="test", **settings):
    quick = {"per_video": 2, "epochs": 20, "lr": 0.1, "batch_size": 12}
    return EvaluateRecipe(
        encoders={"encoder": str(run), "pixels": f"pixels:{run}@12"},
        train=str(tables / "train.arrow"),
        test=str(tables / f"{test}.arrow"),
        embed=EmbedConfig(num_clips=1, frames=False, num_workers=0),
        evaluators={"localisation": {**quick, **settings}},
        out=str(out),
        device="cpu",
    )


@pytest.mark.parametrize("head", ["pool", "transformer"])
def test_pixels_tell_the_color_of_a_box_and_its_place_does_not(run, tables, tmp_path, head):
    small = {"num_layers": 1, "num_heads": 1, "num_channels": 16}
    found = evaluate(recipe(run, tables, tmp_path, head=head, decoder=small), quiet=True)
    result = found["encoders"]["pixels"]["results"]["localisation"]
    assert set(result["metrics"]) == {
        f"{boxes}_boxes{rule}" for boxes in ("true", "jittered") for rule in ("", "_reference")
    }
    assert result["metrics"]["true_boxes"] > 0.9
    assert result["metrics"]["jittered_boxes"] <= result["metrics"]["true_boxes"]
    assert result["details"]["position_only"]["true_boxes"] < 0.8
    assert result["details"]["key_frames"] == {"train": 24, "test": 12}
    assert "mean average precision" in found["summary"]
    torch.manual_seed(len(head))  # whatever was drawn before
    again = evaluate(recipe(run, tables, tmp_path, head=head, decoder=small), quiet=True)
    assert again["encoders"]["pixels"]["results"]["localisation"]["metrics"] == result["metrics"]


def test_the_position_of_boxes_costs_no_decoding(run, tables, tmp_path, monkeypatch):
    """Where maps do not fit into memory, all were read and encoded a second time for what never looks at them."""
    read = []
    plain = localisation.read_key_clip
    monkeypatch.setattr(
        localisation, "read_key_clip", lambda *given: read.append(given[1]) or plain(*given)
    )
    found = []
    for memory in (4.0, 0.0):
        read.clear()
        told = recipe(run, tables, tmp_path / f"{memory}", epochs=2, memory_gib=memory)
        del told.encoders["encoder"]
        result = evaluate(told, quiet=True)["encoders"]["pixels"]["results"]["localisation"]
        found.append((result["metrics"], result["details"]["position_only"]))
    assert found[0] == found[1]
    train, test = 24, 12
    # Whether they can be read, means and deviations, two epochs; true and jittered boxes.
    assert len(read) == (1 + 1 + 2) * train + (1 + 2) * test


@pytest.mark.parametrize("memory", [4.0, 0.0])
def test_key_frames_go_through_the_encoder_together(run, tables, tmp_path, monkeypatch, memory):
    """Each went alone: a pass of the encoder for every key frame.  One that cannot be read lies within a pass."""
    table = open_table(tables / "test.arrow")
    rows = [
        {
            "id": row.id,
            "source": str(tables / "nowhere.mp4") if row.index == 2 else row.source,
            "label": row.label,
            "boxes": row.boxes,
        }
        for row in (table.record(i) for i in range(len(table)))
    ]
    Table.from_rows(rows).save(tables / "gap.arrow")
    sizes: list[int] = []
    plain = localisation._Clips._encoded

    def counted(self, clips):
        sizes.append(len(clips))
        return plain(self, clips)

    monkeypatch.setattr(localisation._Clips, "_encoded", counted)
    found = []
    for together in (1, 5):
        sizes.clear()
        words = {"clips_per_pass": together, "memory_gib": memory, "epochs": 2}
        told = recipe(run, tables, tmp_path / f"{together}", test="gap", **words)
        found.append(evaluate(told, quiet=True)["encoders"])
        assert max(sizes) == together
    for name in ("encoder", "pixels"):
        one, several = (f[name]["results"]["localisation"] for f in found)
        assert several["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
        assert several["details"]["key_frames"] == one["details"]["key_frames"]
        assert several["notes"] == one["notes"]
        assert "2 key frames of test" in several["notes"][0]


def test_the_features_of_a_layer_are_those_of_the_layer(run, tables, tmp_path, monkeypatch):
    """Was wrong: embed.layer was not heard, and actions at boxes were judged by the encoder's output."""
    asked = []
    plain = TorchEncoder.outputs_of_arrays

    def noted(self, clips, names, **settings):
        asked.append(settings.get("layer"))
        return plain(self, clips, names, **settings)

    monkeypatch.setattr(TorchEncoder, "outputs_of_arrays", noted)
    told = recipe(run, tables, tmp_path, epochs=1)
    del told.encoders["pixels"]
    tracked = {"tracking": {"most_videos": 2, "videos": 0}}
    told = replace(
        told, embed=replace(told.embed, layer=0), evaluators={**told.evaluators, **tracked}
    )
    evaluate(told, quiet=True)
    assert set(asked) == {0}
    assert len(asked) > 5


def test_clips_are_as_large_as_asked(run, tables, tmp_path, monkeypatch):
    """Clips had the size of the encoder's training: a map of 2 x 2 cells for a network that was made for 64 px."""
    sides, boxes = set(), []
    plain, read = TorchEncoder.outputs_of_arrays, localisation.read_key_clip

    def noted(self, clips, names, **settings):
        if names == [TOKENS]:
            sides.add(clips.shape[2:4])
        return plain(self, clips, names, **settings)

    def placed(*given):
        clip, geometry = read(*given)
        boxes.append(geometry.target)
        return clip, geometry

    monkeypatch.setattr(TorchEncoder, "outputs_of_arrays", noted)
    monkeypatch.setattr(localisation, "read_key_clip", placed)
    told = recipe(run, tables, tmp_path, epochs=1, clip_px=80)
    del told.encoders["encoder"]
    found = evaluate(told, quiet=True)
    assert sides == {(80, 80)}
    assert set(boxes) == {(80, 80)}
    assert found["encoders"]["pixels"]["results"]["localisation"]["metrics"]["true_boxes"] > 0


def test_key_frames_are_drawn_with_what_the_head_says(run, tables, tmp_path, monkeypatch):
    seen = []
    plain = localisation.write_boxes_sheet

    def noted(path, shown):
        seen.append((path, shown))
        plain(path, shown)

    monkeypatch.setattr(localisation, "write_boxes_sheet", noted)
    told = recipe(run, tables, tmp_path, pictures=5)
    del told.encoders["encoder"]
    evaluate(told, quiet=True)
    ((path, shown),) = seen
    assert path == tmp_path / "files" / "pixels" / "boxes.png"
    table = open_table(tables / "test.arrow")
    right = 0
    for one in shown:
        assert one.picture.shape == (HEIGHT, WIDTH, 3)
        done, _, said = one.lines[0].partition(": ")
        right += said.startswith(f"{done} ")
        # What is done shows in the color of the first box: its place fits the picture.
        left, top, end, bottom = np.round(one.boxes[0] * [WIDTH, HEIGHT, WIDTH, HEIGHT]).astype(int)
        inside = one.picture[top + 2 : bottom - 2, left + 2 : end - 2].reshape(-1, 3).mean(0)
        assert table.class_names[int(inside.argmax())] == done
    assert len(shown) == 5
    assert right >= 4
    with Image.open(path) as sheet:
        assert sheet.width == 4 * (240 + 6) + 6
    again = recipe(run, tables, tmp_path, pictures=0, epochs=1)
    del again.encoders["encoder"]
    evaluate(again, quiet=True)
    assert not path.exists()


def test_detections_of_the_table_and_lost_key_frames(run, tables, tmp_path):
    """Detected boxes are tried where the table has them, and what cannot be read is named and never replaced."""
    rows = []
    for index, row in enumerate(open_table(tables / "test.arrow").record(i) for i in range(6)):
        near = np.clip(row.boxes[5, :1] + 0.01, 0, 1)
        boxes = np.stack([np.concatenate([row.boxes[m], near]) for m in (5, 6)])
        rows.append(
            {
                "id": row.id,
                "source": "gone.mp4" if index == 0 else row.source,
                "boxes": boxes,
                "box_times_sec": [0.5, 60.0 if index == 1 else 0.6],
                "box_labels": [[[row.label], [], []]] * 2,
                "box_scores": [[1.0, float("nan"), 0.9]] * 2,
            }
        )
    Table.from_rows(rows, class_names=["red", "green"]).save(tables / "detected.arrow")
    found = evaluate(recipe(run, tables, tmp_path, test="detected", jitter=None), quiet=True)
    result = found["encoders"]["pixels"]["results"]["localisation"]
    assert result["metrics"]["detected_boxes"] > 0.8
    assert result["details"]["key_frames"]["test"] == 9
    assert result["notes"][0].startswith("3 key frames of test could not be used and are left out")
    assert "60.000 s" in result["notes"][0]


@pytest.mark.parametrize("of_boxes", [False, True])
def test_another_order_of_names_gives_the_same_precision(run, tables, tmp_path, of_boxes):
    """Numbers of classes were compared, not names: a split that lacks one was judged against the wrong ones."""
    for name, names in (("test", ["red", "green"]), ("other", ["blue", "green", "red"])):
        rows = []
        for record in map(open_table(tables / "test.arrow").record, range(6)):
            label = names.index(("red", "green")[record.label])
            own = {"box_labels": [[[label], []]] * len(record.boxes)} if of_boxes else {}
            row = {"id": record.id, "source": record.source, "boxes": record.boxes, **own}
            rows.append({**row, "label": label})
        Table.from_rows(rows, class_names=names).save(tables / f"named_{name}.arrow")
    found = []
    for test in ("named_test", "named_other"):
        told = recipe(run, tables, tmp_path / test, test=test)
        del told.encoders["encoder"]
        result = evaluate(told, quiet=True)["encoders"]["pixels"]["results"]["localisation"]
        found.append(result)
    assert found[0]["metrics"]["true_boxes"] > 0.9
    assert found[1]["metrics"] == pytest.approx(found[0]["metrics"], abs=0.05)
    assert found[1]["details"]["classes_of_boxes"] == 3
    assert not found[0]["notes"]
    assert any("matched by name" in note for note in found[1]["notes"])


def test_tables_and_encoders_that_lack_something_are_refused_before_anything_is_read(
    run, tables, tmp_path
):
    plain = [{"id": "a", "source": "a.mp4", "label": 0}]
    Table.from_rows(plain).save(tables / "plain.arrow")
    with pytest.raises(
        FeatureError, match="localisation needs boxes, but test has no column boxes"
    ):
        evaluate(recipe(run, tables, tmp_path, test="plain"), quiet=True)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"per_video": 0}, "per_video=0"),
        ({"jitter": 1.0}, "jitter=1.0 must lie in"),
        ({"iou": 0.0}, "iou=0.0"),
        ({"lr": 0.0}, "lr=0.0 must be positive"),
        ({"pictures": -1}, "pictures=-1 must not be negative"),
        ({"clip_px": 0}, "clip_px=0 must be at least 1, or null"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        LocalisationConfig(**settings)


def test_a_head_is_trained_to_its_end_with_the_usual_settings():
    """Was wrong: it began at a half for every class and was still unlearning that after its passes, so that every
    encoder was at chance: of 14 classes, what does nothing was named sooner than what does something."""
    random, side, width = np.random.default_rng(0), 200, 64
    boxes = torch.tensor([[[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]]])
    targets = np.zeros((side, 2, 14), bool)
    targets[np.arange(side), 0, random.integers(0, 14, side)] = True
    maps = torch.from_numpy(random.normal(size=(side, 1, 4, 4, width)).astype(np.float32))
    maps[:, :, :, :2, 0] += 3  # what does something

    def batches(order, size, boxes_of, *, with_maps):
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            told = [targets[row] for row in rows]
            yield (
                maps[rows],
                boxes.expand(len(rows), -1, -1),
                torch.ones(len(rows), 2, dtype=bool),
                told,
            )

    frames = [SimpleNamespace(targets=own) for own in targets]
    clips = SimpleNamespace(frames=frames, batches=batches)
    torch.manual_seed(0)
    model = localisation._Standard(
        RoIPoolHead(width, 14), np.zeros(width, np.float32), np.ones(width, np.float32)
    )
    localisation._begin_at_shares(localisation._last_layer(model), frames)
    shares = torch.sigmoid(model.head.classifier.bias).detach().numpy()
    np.testing.assert_allclose(shares, targets.mean((0, 1)).clip(1e-4), rtol=1e-5)
    localisation._fit(model, clips, LocalisationConfig(), 0)
    with torch.no_grad():
        found = torch.sigmoid(model(maps, boxes.expand(side, -1, -1))).mean((0, 2))
    assert found[0] == pytest.approx(1 / 14, rel=0.3)
    assert found[1] < 0.02


def test_an_evaluation_begins_so(run, tables, tmp_path, monkeypatch):
    """The wiring of the above."""
    begun, plain = [], localisation._fit

    def noted(model, clips, config, seed):
        if isinstance(model, localisation._Standard):
            share = torch.sigmoid(localisation._last_layer(model).bias).detach().numpy()
            targets = np.concatenate([frame.targets for frame in clips.frames])
            begun.append((share, targets.mean(0)))
        plain(model, clips, config, seed)

    monkeypatch.setattr(localisation, "_fit", noted)
    evaluate(recipe(run, tables, tmp_path, epochs=1), quiet=True)
    assert len(begun) == 2  # encoder, pixels
    for share, expected in begun:
        np.testing.assert_allclose(share, expected.clip(1e-4, 1 - 1e-4), rtol=1e-4)


def test_rates_of_heads():
    config = LocalisationConfig
    assert config().learning_rate == 1e-2
    assert config(head="transformer").learning_rate == 1e-3
    assert config(lr=0.5).learning_rate == 0.5
    with pytest.raises(ValueError, match=r"lr=0\.0 must be positive"):
        config(lr=0.0)
