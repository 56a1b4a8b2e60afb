"""Labels that travel: what a place takes over, maps of frames, masks beside frames, and how far they come."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from boxed_videos import FRAMES, HEIGHT, WIDTH, boxed_table
from other_device import check_device
from PIL import Image
from untrained_run import untrained_run

from video_ssl.clips.reading import open_record, open_video
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record, Table, TableError
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import FeatureError
from video_ssl.evaluate.dense import label_propagation, propagation
from video_ssl.evaluate.dense.carried_video import COLORS
from video_ssl.evaluate.dense.frame_maps import FrameMaps
from video_ssl.evaluate.dense.label_propagation import LabelPropagationConfig
from video_ssl.evaluate.dense.mask_metrics import boundary_accuracy
from video_ssl.evaluate.dense.masks import masks_of_boxes
from video_ssl.evaluate.dense.propagation import (
    CRW,
    DINO,
    PropagationConfig,
    propagate,
)
from video_ssl.evaluate.leftovers import name_of_row
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.models.encoders import load_encoder

# The rule ------------------------------------------------------------------------------------------


def moving(frames=6, h=5, w=9):
    """Features that tell a thing, a column that moves one place a frame, from the ground; its labels (T, h, w, 2)."""
    features = torch.zeros(frames, h, w, 4)
    truth = torch.zeros(frames, h, w, 2)
    for t in range(frames):
        features[t, ..., 0] = 1
        features[t, :, t + 1] = torch.tensor([0.0, 1, 0, 0])
        truth[t, :, t + 1, 1] = 1
    truth[..., 0] = 1 - truth[..., 1]
    return features, truth


@pytest.mark.parametrize("rule", ["notebook", "crw", "dino"])
def test_labels_follow_what_looks_alike(rule):
    features, truth = moving()
    config = PropagationConfig(rule=rule, context=2, topk=3, radius=2, temperature=0.01)
    found = propagate(3 * features, truth[0], config)
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


def test_what_is_out_of_reach_does_not_count():
    """Two columns look alike; within the radius there is none, and nothing of the thing is taken over."""
    features, truth = moving(frames=2)
    features[1] = features[0]
    features[1, :, 8] = torch.tensor([0.0, 1, 0, 0])  # 7 places from the first column
    near = PropagationConfig(rule="dino", context=1, topk=2, radius=2, temperature=0.01)
    assert propagate(features, truth[0], near)[1, :, 8, 1].max() < 0.5
    far = PropagationConfig(rule="dino", context=1, topk=2, radius=None, temperature=0.01)
    assert propagate(features, truth[0], far)[1, :, 8, 1].min() > 0.99


def test_the_rule_of_crw_place_by_place():
    """Slowly, a place at a time: the video with its first frame repeated before it, whose labels are the given ones."""
    random = torch.Generator().manual_seed(0)
    frames, h, w, context = 5, 4, 6, 3
    features = torch.randn(frames, h, w, 8, generator=random)
    first = torch.rand(h, w, 3, generator=random)
    config = replace(CRW, context=context, topk=5, radius=2.5)
    found = propagate(features, first, config)
    assert torch.equal(found[0], first)
    unit = features / features.norm(dim=-1, keepdim=True)
    shown = [unit[0]] * (context + 1) + list(unit[1:])
    labels = [first] * (context + 1)
    for t in range(context + 1, len(shown)):
        now = torch.zeros(h, w, 3)
        for y in range(h):
            for x in range(w):
                votes = []
                for s in (0, *range(t - context, t)):
                    for v in range(h):
                        for u in range(w):
                            if s == 0 or (y - v) ** 2 + (x - u) ** 2 < 2.5**2:
                                alike = float(shown[t][y, x] @ shown[s][v, u]) / 0.05
                                votes.append((alike, labels[s][v, u]))
                best = sorted(votes, key=lambda vote: -vote[0])[:5]
                shares = torch.tensor([vote[0] for vote in best]).softmax(0)
                now[y, x] = sum(p * vote[1] for p, vote in zip(shares, best, strict=True))
        labels.append(now)
    torch.testing.assert_close(found[1:], torch.stack(labels[context + 1 :]), rtol=1e-4, atol=1e-5)


def test_pieces_of_the_table_change_nothing(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 4, 6, 8, generator=generator)
    first = torch.rand(4, 6, 3, generator=generator)
    whole = [propagate(features, first, c) for c in (PropagationConfig(), DINO)]
    monkeypatch.setattr(propagation, "_TABLE", 500)
    for config, expected in zip((PropagationConfig(), DINO), whole, strict=True):
        torch.testing.assert_close(propagate(features, first, config), expected)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: propagate(torch.zeros(2, 2, 2, 3), torch.zeros(2, 2, 1), DINO), "fewer than topk"),
        (lambda: propagate(torch.zeros(2, 3, 3, 3), torch.zeros(2, 3, 1), DINO), "do not belong"),
        (lambda: PropagationConfig(topk=0), "must be at least 1"),
        (lambda: PropagationConfig(temperature=0), "temperature=0 must be positive"),
        (lambda: PropagationConfig(radius=-1), "radius=-1 must not be negative"),
        (lambda: LabelPropagationConfig(size=(0, 4)), "at least 1 pixel"),
        (lambda: LabelPropagationConfig(videos=-1), "videos=-1 must not be negative"),
        (lambda: LabelPropagationConfig(num_classes=1), "num_classes=1 must be at least 2"),
    ],
)
def test_refusals_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_an_outline_one_pixel_off_is_right_and_far_off_is_not():
    mask = np.zeros((60, 80), bool)
    mask[20:40, 20:40] = True
    near, far = np.roll(mask, 1, 1), np.roll(mask, 30, 1)
    assert boundary_accuracy(mask, mask) == 1
    assert boundary_accuracy(near, mask) == 1
    assert boundary_accuracy(far, mask) < 0.3
    empty = np.zeros_like(mask)
    assert [float(boundary_accuracy(a, b)) for a, b in ((empty, empty), (mask, empty))] == [1, 0]


# On videos ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy", width=16)


@pytest.fixture(scope="module")
def boxed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxed")
    return boxed_table(folder, "test", 4, seed=3)


def recipe(run, test, out, **settings):
    own = {
        "size": [64, 96],
        "rule": {"context": 3, "topk": 5, "radius": 4.0, "temperature": 0.05},
        **settings,
    }
    return EvaluateRecipe(
        encoders={"a": str(run)},
        train=None,
        test=str(test),
        evaluators={"propagation": own},
        embed=EmbedConfig(num_workers=0, num_clips=1, frames=False),
        out=str(out),
        device="cpu",
    )


def result_of(found):
    return found["encoders"]["a"]["results"]["propagation"]


def test_boxes_that_move_are_followed(run, boxed, tmp_path):
    """Even untrained features tell red from blue."""
    found = evaluate(recipe(run, boxed, tmp_path, keep=True), quiet=True)
    result = result_of(found)
    still = result["details"]["stays_where_it_is"]
    assert result["metrics"]["j"] > still["j"] + 0.1
    assert result["metrics"]["j_and_f"] == pytest.approx(
        (result["metrics"]["j"] + result["metrics"]["f"]) / 2
    )
    assert result["details"]["objects"] == 8
    assert "carries the labels of the first frame of 4 videos" in found["summary"]
    # By hand, without the first and the last frame, over objects.
    overlaps = []
    for row in range(4):
        truth = masks_of_boxes(Table.open(boxed).record(row), FRAMES, HEIGHT, WIDTH)
        for k in (1, 2):
            first = truth[0] == k
            own = [
                (first & (mask == k)).sum() / (first | (mask == k)).sum() for mask in truth[1:-1]
            ]
            overlaps.append(np.mean(own))
    assert still["j"] == pytest.approx(np.mean(overlaps))
    files = sorted((tmp_path / "files" / "a" / "propagation" / "000000_test0").glob("*.png"))
    assert len(files) == FRAMES
    table = Table.open(boxed)
    truth = masks_of_boxes(table.record(0), FRAMES, HEIGHT, WIDTH)
    assert np.array_equal(np.asarray(Image.open(files[0])), truth[0])
    last = np.asarray(Image.open(files[-1]))
    assert set(np.unique(last)) <= {0, 1, 2}
    assert (last == truth[-1]).mean() > (truth[0] == truth[-1]).mean()


def test_labels_travel_on_the_device_of_the_evaluation(run, boxed):
    """Was wrong: on the CPU, whatever the evaluation ran on."""
    check_device(recipe, run, boxed)


def test_what_travelled_can_be_looked_at(run, boxed, tmp_path):
    """Masks were written one by one as indexed PNGs, which are black to every viewer."""
    found = evaluate(recipe(run, boxed, tmp_path, videos=2), quiet=True)
    assert result_of(found)["details"]["videos"] == 4
    folder = tmp_path / "files" / "a" / "propagation"
    assert [path.name for path in sorted(folder.iterdir())] == [
        "000000_test0.mp4",
        "000001_test1.mp4",
    ]
    truth = masks_of_boxes(Table.open(boxed).record(0), FRAMES, HEIGHT, WIDTH)
    with open_video(folder / "000000_test0.mp4") as reader:
        assert reader.info.num_frames == FRAMES
        assert reader.info.width == 2 * (reader.info.height * WIDTH // HEIGHT)
        first = reader.frames(np.arange(1))[0].astype(int)
    left, right = first[:, : first.shape[1] // 2], first[:, first.shape[1] // 2 :]
    assert np.abs(left - right).mean() < 4  # the labels of the first frame are given
    with open_record(Table.open(boxed).record(0)) as reader:
        plain = Image.fromarray(reader.frames(np.arange(1))[0]).resize(left.shape[1::-1])
    size = left.shape[1::-1]
    mask = np.asarray(Image.fromarray(truth[0].astype(np.uint8)).resize(size, 0))
    for k, color in enumerate(COLORS[:2], 1):  # a first draft let the sum of two colors run over
        mixed = 0.55 * color + 0.45 * np.asarray(plain, int)[mask == k].mean(0)
        assert np.abs(left[mask == k].mean(0) - mixed).max() < 12
    assert np.abs(left - np.asarray(plain, int))[mask == 0].mean() < 4


def test_what_an_earlier_evaluation_left_goes(run, boxed, tmp_path):
    """Videos and masks of another table stood among those of this one, and nobody could tell them apart."""
    folder = tmp_path / "files" / "a" / "propagation"
    (folder / "000009_old").mkdir(parents=True)
    (folder / "000000_test0").mkdir()
    others = ("000009_old.mp4", "000009_old/00000.png", "000000_test0/00099.png")
    mine = ("000009_old.png", "notes.txt", "000000_test0/notes.txt")
    for name in (*others, *mine):
        (folder / name).write_text("")
    told = recipe(run, boxed, tmp_path, videos=1, keep=True, most_videos=1)
    evaluate(told, quiet=True)
    (row,) = (path.stem for path in folder.glob("*.mp4"))
    made = {f"{row}.mp4", *(f"{row}/{number:05d}.png" for number in range(FRAMES))}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert found == {*made, *mine}
    assert not (folder / "000009_old").exists()


def test_the_preset_of_dino_and_classes(run, boxed, tmp_path):
    dino = {"preset": "dino", "rule": None, "size": [64, 96]}
    one = result_of(evaluate(recipe(run, boxed, tmp_path / "one", **dino), quiet=True))
    assert one["metrics"]["j"] > one["details"]["stays_where_it_is"]["j"]
    classes = {"score": "classes", "num_classes": 3}
    two = result_of(evaluate(recipe(run, boxed, tmp_path / "two", **classes), quiet=True))
    assert set(two["metrics"]) == {"miou"}
    assert two["metrics"]["miou"] > two["details"]["stays_where_it_is"]["miou"]


def test_the_preset_of_older_tables(run, boxed, tmp_path):
    crw = {"preset": "crw", "rule": None, "size": [64, 96]}
    found = result_of(evaluate(recipe(run, boxed, tmp_path, **crw), quiet=True))
    assert found["details"]["preset"] == "crw"
    assert found["metrics"]["j"] > found["details"]["stays_where_it_is"]["j"]
    assert LabelPropagationConfig(preset="crw").settings == CRW


def test_maps_of_frames_are_those_of_windows(run, boxed):
    """4 frames a window, 2 a token: 12 frames are 3 windows; of 10 the last is filled up with the mean color."""
    encoder = load_encoder(run)
    maker = FrameMaps(encoder, (32, 48), cubic=False, settings=EmbedConfig())
    with open_record(Table.open(boxed).record(0)) as reader:
        frames = reader.frames(np.arange(FRAMES))
        found = maker.of_video(reader)
        info = SimpleNamespace(num_frames=10)
        short = maker.of_video(SimpleNamespace(info=info, frames=reader.frames))
    assert found.shape == (FRAMES, 4, 6, 16)
    clip = frames[4:8]  # of this size already
    tokens = encoder.outputs_of_arrays(clip[None], ["tokens"])["tokens"].reshape(2, 4, 6, 16)
    expected = [tokens[0], 0.75 * tokens[0] + 0.25 * tokens[1]]
    np.testing.assert_allclose(found[4:6], expected, atol=1e-5)
    filled = np.concatenate([frames[8:10], np.broadcast_to(maker.filling, (2, 32, 48, 3))])
    tokens = encoder.outputs_of_arrays(filled[None], ["tokens"])["tokens"].reshape(2, 4, 6, 16)
    assert short.shape[0] == 10
    np.testing.assert_allclose(short[8], tokens[0], atol=1e-5)


def test_maps_are_of_the_layer_and_the_precision_that_were_asked_for(boxed, tmp_path):
    """Was wrong: embed.layer and embed.precision changed the clip features and not the maps, so that a search for the
    best layer found all of them equally good."""
    encoder = load_encoder(untrained_run(tmp_path / "toy", width=16, depth=2))
    found = {}
    with open_record(Table.open(boxed).record(0)) as reader:
        clip = reader.frames(np.arange(4))
        for layer, precision in ((1, "float32"), (0, "float32"), (0, "bfloat16")):
            settings = EmbedConfig(layer=layer, precision=precision)
            maker = FrameMaps(encoder, (32, 48), cubic=False, settings=settings)
            maps = found[layer, precision] = maker.of_video(reader)
            asked = {"layer": layer, "precision": precision}
            tokens = encoder.outputs_of_arrays(clip[None], ["tokens"], **asked)["tokens"]
            np.testing.assert_allclose(maps[0], tokens.reshape(2, 4, 6, 16)[0], atol=1e-5)
    last, first, coarse = found.values()
    assert np.abs(last - first).max() > 0.1
    assert 0 < np.abs(first - coarse).max() < 0.1


def test_a_propagation_takes_the_layer_of_its_evaluation(run, boxed, tmp_path, monkeypatch):
    """Was wrong: see above; here from the recipe to the maps."""
    seen = []

    def made(_encoder, _size, *, cubic, settings=None):
        seen.append(settings)
        raise FeatureError(f"cubic={cubic} was seen")

    monkeypatch.setattr(label_propagation, "FrameMaps", made)
    asked = recipe(run, boxed, tmp_path)
    asked = replace(asked, embed=replace(asked.embed, layer=0, precision="bfloat16"))
    with pytest.raises(FeatureError, match="was seen"):
        evaluate(asked, quiet=True)
    assert [(s.layer, s.precision) for s in seen] == [(0, "bfloat16")]


# DAVIS --------------------------------------------------------------------------------------------


@pytest.fixture
def davis(tmp_path, monkeypatch, boxed):
    """Two of the videos, as DAVIS lays them out: frames as PNG, masks with a palette."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    root, table = tmp_path / "data" / "davis2017", Table.open(boxed)
    for name, row in (("bear", 0), ("walk", 1)):
        record = table.record(row)
        pictures, masks = (root / part / "480p" / name for part in ("JPEGImages", "Annotations"))
        pictures.mkdir(parents=True)
        masks.mkdir(parents=True)
        with open_record(record) as reader:
            frames = reader.frames(np.arange(FRAMES))
        for t, mask in enumerate(masks_of_boxes(record, FRAMES, HEIGHT, WIDTH)):
            Image.fromarray(frames[t]).save(pictures / f"{t:05d}.png")
            picture = Image.fromarray(mask.astype(np.uint8), "P")
            picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
            picture.save(masks / f"{t:05d}.png")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\nwalk\n\n")
    return root


MASKS = {"masks": {"JPEGImages": "Annotations"}}


def test_masks_of_davis_give_what_the_same_boxes_give(run, davis, boxed, tmp_path):
    assert len(open_table("davis2017:val")) == 2
    found = result_of(evaluate(recipe(run, "davis2017:val", tmp_path / "a", **MASKS), quiet=True))
    Table.open(boxed).select([0, 1]).save(tmp_path / "two.arrow")
    same = result_of(evaluate(recipe(run, tmp_path / "two.arrow", tmp_path / "b"), quiet=True))
    assert found["metrics"] == pytest.approx(same["metrics"])


def broken(davis, what):
    masks = davis / "Annotations" / "480p" / "walk"
    if what == "missing":
        masks.rename(masks.with_name("run"))
    elif what == "fewer":
        (masks / "00003.png").unlink()
    elif what == "colors":
        Image.new("RGB", (WIDTH, HEIGHT)).save(masks / "00003.png")
    elif what == "no picture":
        (masks / "00003.png").write_text("<html>")
    elif what == "sizes":
        Image.new("L", (WIDTH + 2, HEIGHT)).save(masks / "00003.png")


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("missing", r"no folder of masks .*Annotations.480p.walk.*evaluators.propagation.masks"),
        ("fewer", r"has 11 masks .* 12 frames: copy what is missing"),
        ("colors", r"00003.png is a picture in colors"),
        ("no picture", r"00003.png cannot be read"),
        ("sizes", r"have different sizes: \[\(32, 48\), \(32, 50\)\]"),
    ],
)
def test_masks_that_do_not_fit_are_named(run, davis, tmp_path, what, text):
    broken(davis, what)
    with pytest.raises(FeatureError, match=text):
        evaluate(recipe(run, "davis2017:val", tmp_path / "out", **MASKS), quiet=True)


def test_a_first_frame_without_labels_is_left_out_and_told(run, davis, tmp_path):
    empty = davis / "Annotations" / "480p" / "walk" / "00000.png"
    Image.new("L", (WIDTH, HEIGHT)).save(empty)
    found = result_of(evaluate(recipe(run, "davis2017:val", tmp_path / "a", **MASKS), quiet=True))
    assert found["details"]["videos"] == 1
    assert "walk has no labels in its first frame" in found["notes"][0]
    Image.new("L", (WIDTH, HEIGHT)).save(davis / "Annotations" / "480p" / "bear" / "00000.png")
    with pytest.raises(FeatureError, match=r"labels of no video could be carried: .*bear has no"):
        evaluate(recipe(run, "davis2017:val", tmp_path / "b", **MASKS), quiet=True)


def test_frames_that_do_not_divide_and_boxes_that_lack(run, boxed, tmp_path):
    with pytest.raises(FeatureError, match=r"size=\(60, 90\): .*does not divide into tokens"):
        evaluate(recipe(run, boxed, tmp_path / "a", size=[60, 90]), quiet=True)
    table = Table.open(boxed)
    bare = Table.from_rows([{"id": "a", "source": table.record(0).source}]).save(
        tmp_path / "bare.arrow"
    )
    with pytest.raises(FeatureError, match="needs boxes, but test has no column boxes"):
        evaluate(recipe(run, bare.path, tmp_path / "b"), quiet=True)
    with pytest.raises(FeatureError, match="fewer than topk=7"):
        evaluate(recipe(run, boxed, tmp_path / "c", rule=None, size=[16, 16]), quiet=True)


def test_lists_of_davis(davis):
    (davis / "ImageSets" / "2017" / "val.txt").write_text("bear\nswan\n")
    with pytest.raises(
        TableError, match=r"names 1 of 2 videos that have no folder, such as .*swan"
    ):
        open_table("davis2017:val")
    for file in (davis / "ImageSets" / "2017").glob("*"):
        file.unlink()
    with pytest.raises(TableError, match=r"has no file ImageSets/2017/\*.txt"):
        open_table("davis2017:val")


def test_any_id_can_be_the_name_of_a_file():
    """An id as long as a path, or one with a line break, ended the evaluation after all was carried."""
    ids = ["a/b", "a_b", "a\nb", "ü" * 300, "ü" * 299, "x" * 300, ""]
    names = [name_of_row(Record(index=7, id=own, source=""), own) for own in ids]
    assert len(set(names)) == len(ids)
    assert all(name.startswith("000007_") and len(name.encode()) < 200 for name in names)
    assert not any(set(name) & set("/\n\0") for name in names)
