"""Fine-tuning of an encoder of sound, as a user runs it: recordings and videos of one class or several, trials on the
way, a classifier that stays and is asked; and what is refused."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sounding_videos import RATE as FILE_RATE
from sounding_videos import write_sounding_video

import video_ssl
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pair_mixing import PairMixConfig
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Table
from video_ssl.evaluate.predict import judged
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.models.classifier_folder import MULTILABEL_MERGES, load_classifier
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.encoders import save_encoder
from video_ssl.models.mixing import mix_partners
from video_ssl.models.networks.vatt import VattAudio, VattVideo
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattVideoConfig,
)
from video_ssl.models.preprocess_config import SoundPreprocess, VideoPreprocess
from video_ssl.objectives.supervised_sound.classes import read_classes
from video_ssl.objectives.supervised_sound.config import Config
from video_ssl.objectives.supervised_sound.objective import Objective
from video_ssl.objectives.supervised_sound.plan import Plan
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.mute_videos import without_mute
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.pretrain.torch_loop.validation import MultilabelValidation
from video_ssl.recipes import ConfigError, build_config, load_yaml

NAMES = ["above", "below"]
SMALL = {"preset": None, "embed_dim": 16, "depth": 1, "ffn_dim": 16, "num_heads": 2, "dropout": 0.0}


def write_wave(path: Path, level: float, *, seed: int, seconds: float = 0.5) -> str:
    """A recording of noise around a level, which is what its class is told by."""
    noise = np.random.default_rng(seed).normal(0, 0.05, round(FILE_RATE * seconds))
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, FILE_RATE, 0, "NONE", ""))
        file.writeframes((32767 * (level + noise).clip(-1, 1)).astype("<i2").tobytes())
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.arrow: ten recordings of one class each and a video without sound; val.arrow: four and a video, whose table
    numbers the classes otherwise; several.arrow and several_val.arrow: of any number of classes, of some none."""
    place = tmp_path_factory.mktemp("sounds")
    write_sounding_video(place / "mute.mkv", seed=0, sound=False)
    waves = [write_wave(place / f"{i}.wav", (0.5, -0.5, 0.0)[i % 3], seed=i) for i in range(18)]
    rows = [
        {"id": f"r{i}", "source": waves[i], "label": i % 3, "labels": [[0], [1], []][i % 3]}
        for i in range(18)
    ]
    mute = {"id": "mute", "source": str(place / "mute.mkv"), "label": 0, "labels": [0]}
    one = [{k: r[k] for k in ("id", "source", "label")} for r in [*rows, mute] if r["label"] < 2]
    several = [{k: r[k] for k in ("id", "source", "labels")} for r in rows]
    Table.from_rows([*one[:8], one[-1]], class_names=NAMES).save(place / "one.arrow")
    turned = [{**row, "label": 1 - row["label"]} for row in [*one[8:12], one[-1]]]
    Table.from_rows(turned, class_names=NAMES[::-1]).save(place / "val.arrow")
    Table.from_rows(several[:12], class_names=NAMES).save(place / "several.arrow")
    turned = [{**row, "labels": [1 - c for c in row["labels"]]} for row in several[12:]]
    Table.from_rows(turned, class_names=NAMES[::-1]).save(place / "several_val.arrow")
    return place


def save_hearing(folder: Path) -> VattAudio:
    """An encoder of sound with the heads of its pre-training, as RUN/encoders/sound has it."""
    torch.manual_seed(0)
    network = VattAudio(
        VattAudioConfig(
            **SMALL, patch_samples=20, num_samples=200, heads=VattHeadsConfig(sound_dim=4)
        )
    )
    save_encoder(
        folder,
        network,
        architecture="vatt_audio",
        preprocess=SoundPreprocess(rate=2000, num_samples=200),
        source={},
    )
    return network


def save_seeing(folder: Path) -> None:
    shape = {**SMALL, "tubelet_size": 2, "patch_size": 16, "num_frames": 4, "image_size": 32}
    save_encoder(
        folder,
        VattVideo(build_config(VattVideoConfig, shape)),
        architecture="vatt_video",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=1, size=32),
        source={},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of VATT in short: one encoder that sees, one that hears."""
    run = tmp_path_factory.mktemp("vatt") / "run"
    save_seeing(run / "encoder")
    save_hearing(run / "encoders" / "sound")
    return run


def recipe_of(table: Path, init: Path, run: Path, *more: str):
    return load_pretrain_recipe(
        "supervised_sound/small",
        [
            f"run={run}",
            f"data.table={table}",
            f"objective.init.run={init}",
            *("loader.num_workers=0", "loader.max_bad_share=0.9", "training.device=cpu"),
            *("training.duration=20 steps", "training.checkpoint_every=14 steps"),
            *("training.log_every=2", "training.global_batch_size=6"),
            *("optimizer.base_lr=1e-2", "optimizer.warmup=2 steps", "training.precision=fp32"),
            *more,
        ],
    )


@pytest.fixture(scope="module")
def one(folder: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    more = ("objective.mix=null", "validation={table: " + str(folder / "val.arrow") + "}")
    run_torch(
        recipe_of(
            folder / "one.arrow",
            trained / "encoders" / "sound",
            run,
            *more,
            "validation.every=10 steps",
        )
    )
    return run


def several_recipe(folder: Path, trained: Path, run: Path, *more: str):
    return recipe_of(
        folder / "several.arrow",
        trained / "encoders" / "sound",
        run,
        *("objective.rate=1000", "objective.num_samples=300", "objective.noise=0.01"),
        "validation={table: " + str(folder / "several_val.arrow") + ", average: logits}",
        "validation.every=10 steps",
        *more,
    )


@pytest.fixture(scope="module")
def several(folder: Path, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("several") / "run"
    run_torch(several_recipe(folder, trained, run))
    return run


# Training -----------------------------------------------------------------------------------------


def test_one_class_each_is_learned_and_tried_on_others(one: Path) -> None:
    settings = load_yaml(one / "recipe.yaml")["objective"]
    assert (settings["multilabel"], settings["num_classes"]) == (False, 2)
    assert (settings["rate"], settings["num_samples"]) == (2000, 200)
    rows = read_metrics(one / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.2 < rows[0]["loss"]
    assert rows[-1]["accuracy"] == 1.0
    assert rows[-1]["silent"] == 0.0
    assert [row["step"] for row in rows if "val_top1" in row] == [10, 20]
    assert (rows[-1]["val_top1"], rows[-1]["val_videos"]) == (1.0, 4)


def test_a_video_without_sound_is_named_and_never_heard(one: Path) -> None:
    lines = [json.loads(line) for line in (one / "skipped.jsonl").read_text().splitlines()]
    assert [(line["id"], line["reason"]) for line in lines] == [("mute", "it has no sound")]


def test_the_heads_of_the_pre_training_are_left_behind(one: Path, trained: Path) -> None:
    before = video_ssl.load_encoder(trained / "encoders" / "sound").state_dict()
    after = video_ssl.load_encoder(one).state_dict()
    assert set(before) - set(after) == {n for n in before if n.startswith("heads.")}
    assert not any(torch.equal(after[name], before[name]) for name in after if "mlp" in name)


def test_predict_hears_with_the_classifier(one: Path, folder: Path) -> None:
    told = judged(one, str(folder / "val.arrow"), device="cpu", config=PredictConfig(num_workers=0))
    assert told.class_names == tuple(NAMES)
    table = Table.open(folder / "val.arrow")
    truth = {row.id: 1 - row.label for row in map(table.record, range(len(table)))}
    assert {a.id: int(a.whole.shares.argmax()) for a in told.answers} == {
        key: label for key, label in truth.items() if key != "mute"
    }
    assert all(a.whole.shares.sum() == pytest.approx(1) for a in told.answers)
    assert [(e["id"], e["reason"]) for e in told.unreadable] == [("mute", "it has no sound")]


def test_predict_takes_a_folder_of_recordings_and_a_single_one(one: Path, tmp_path: Path) -> None:
    """Was wrong: "holds no video", and "a file must end in .arrow, .csv, ..."."""
    place = tmp_path / "my sounds"
    place.mkdir()
    files = [write_wave(place / f"{i}.wav", (0.5, -0.5)[i % 2], seed=20 + i) for i in range(3)]
    for source, count in ((place, 3), (files[0], 1)):
        told = judged(one, str(source), device="cpu", config=PredictConfig(num_workers=0))
        assert [answer.id for answer in told.answers] == [f"{i}.wav" for i in range(count)]
        assert told.unreadable == []


def test_one_class_is_nothing_to_tell_apart(folder: Path) -> None:
    """Was wrong: "num_classes=1 must be at least 2", a key that nobody had set."""
    rows = [{"id": str(i), "source": str(folder / f"{i}.wav"), "label": 0} for i in range(3)]
    for names, text in (([], "is of one class: two"), (["hum"], r"is of one class \(hum\): two")):
        with pytest.raises(ValueError, match=text):
            read_classes([Table.from_rows(rows, class_names=names)], multilabel=False, stated=None)


def test_several_classes_are_learned_with_mixup(several: Path) -> None:
    settings = load_yaml(several / "recipe.yaml")["objective"]
    assert (settings["multilabel"], settings["num_classes"], settings["mix"]) == (
        True,
        2,
        {"alpha": 5.0},
    )
    assert settings["encoder"]["table_samples"] == 200  # positions of the encoder, for 300 samples
    rows = read_metrics(several / "metrics.jsonl")
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:2])
    assert rows[-1]["val_map"] == rows[-1]["val_auc"] == 1.0
    assert (rows[-1]["val_classes"], rows[-1]["val_videos"]) == (2, 6)


def test_a_trial_on_recordings_of_the_same_classes_says_so(
    folder: Path, trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Was wrong: it told of a mean average precision of nan %."""
    caplog.set_level("INFO")
    table = Table.open(folder / "several_val.arrow")
    rows = [{"id": r.id, "source": r.source, "labels": [0, 1]} for r in map(table.record, range(3))]
    Table.from_rows(rows, class_names=table.class_names).save(tmp_path / "alike.arrow")
    run_torch(
        several_recipe(
            folder, trained, tmp_path / "run", f"validation.table={tmp_path / 'alike.arrow'}"
        )
    )
    assert "has no class that some have and others lack" in caplog.text
    assert "nan %" not in caplog.text


def test_predict_gives_every_class_a_share_of_its_own(several: Path, folder: Path) -> None:
    protocol = load_classifier(several).protocol
    assert protocol.multilabel
    assert protocol.merge == MULTILABEL_MERGES["logits"]
    told = judged(
        several,
        str(folder / "several_val.arrow"),
        device="cpu",
        config=PredictConfig(num_workers=0),
    )
    shares = {answer.id: answer.whole.shares for answer in told.answers}
    table = Table.open(folder / "several_val.arrow")
    classifier, encoder = load_classifier(several), video_ssl.load_encoder(several)
    for row in map(table.record, range(len(table))):
        own = [1 - c for c in row.labels]
        if own:
            assert int(shares[row.id].argmax()) == own[0]
    # What is said of a recording is the sigmoid of the mean scores of its two stretches.
    record = table.record(0)
    with open_record(record, sound_alone=True) as reader:
        whole = reader.audio(0, 0.5, 1000)
    clips = np.stack([whole[:300], whole[-300:]]).astype(np.float32)
    feature = encoder.outputs_of_arrays(clips, ("clip",))["clip"]
    scores = (feature @ classifier.weight.T + classifier.bias).mean(0)
    assert shares[record.id] == pytest.approx(1 / (1 + np.exp(-scores)), abs=1e-5)


def test_a_run_that_goes_on_ends_in_the_same_bits(
    several: Path, folder: Path, trained: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    shutil.copytree(several, again)
    recipe = (again / "recipe.yaml").read_text().replace(str(several), str(again))
    (again / "recipe.yaml").write_text(recipe)
    (again / "finished.json").unlink()
    for gone in ("encoder", "checkpoints/step_20"):
        shutil.rmtree(again / gone)
    run_torch(several_recipe(folder, trained, again))
    for name in ("model.safetensors", "classifier.safetensors"):
        assert (again / "encoder" / name).read_bytes() == (several / "encoder" / name).read_bytes()


# Numbers ------------------------------------------------------------------------------------------


def config_of(**more) -> Config:
    shape = {"rate": 1000, "num_samples": 100, "num_classes": 2, "multilabel": False}
    encoder = VattAudioConfig(**SMALL, patch_samples=20)
    return Config(**{**shape, "encoder": encoder, **more})


def test_partners_are_mixed_by_their_own_shares() -> None:
    """By hand: places 0.9, 0.1, 0.5 put sample 1 first, then 2, then 0."""
    values = torch.tensor([[1.0, 0.0], [10.0, 1.0], [100.0, 0.0]])
    mix = torch.tensor([[0.5, 0.9], [0.25, 0.1], [0.75, 0.5]], dtype=torch.float64)
    expected = [[5.5, 0.5], [0.25 * 10 + 0.75 * 100, 0.25], [75.25, 0.0]]
    assert mix_partners(values, mix).tolist() == expected


def test_the_loss_of_several_classes_is_that_of_the_mixed_ones_weighted() -> None:
    """A slow version: sigmoid cross-entropy, summed, times the mean rarity of what a mixed sample has."""
    torch.manual_seed(1)
    objective = Objective(config_of(multilabel=True, num_classes=3, mix=PairMixConfig())).eval()
    assert objective.head.bias.tolist() == pytest.approx([-np.log(2)] * 3)
    labels = torch.tensor([[True, False, False], [True, True, False], [False, False, False]])
    mix = torch.tensor([[0.5, 0.9], [0.25, 0.1], [0.75, 0.5]], dtype=torch.float64)
    batch = {"sound": torch.randn(3, 100), "labels": labels, "mix": mix}
    y = mix_partners(labels.float(), mix).double().numpy()
    with torch.no_grad():
        found = objective(batch)
        z = objective.scores(mix_partners(batch["sound"], mix)).double().numpy()
    share = 1 / (1 + np.exp(-z))
    each = -(y * np.log(share) + (1 - y) * np.log(1 - share)).sum(1)
    count = y.sum(0)
    rarity = np.divide(1, count, out=np.zeros(3), where=count > 0)
    weights = np.array([row @ rarity / row.sum() if row.sum() else 0.0 for row in y])
    assert float(found.loss) == pytest.approx((each * weights).mean(), rel=1e-5)
    surest = z.argmax(1)
    assert float(found.figures["accuracy"]) == pytest.approx(
        np.mean([labels[i, surest[i]].item() for i in range(3)])
    )


@pytest.mark.parametrize("learns", ["all", "head"])
def test_an_encoder_that_stays_as_it_is_learns_nothing(learns: str) -> None:
    objective = Objective(config_of(multilabel=False, num_classes=3, learns=learns)).train()
    before = {key: value.clone() for key, value in objective.encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=1.0)
    objective({"sound": torch.randn(4, 100), "label": torch.tensor([0, 1, 2, 0])}).loss.backward()
    optimizer.step()
    changed = any(
        not torch.equal(value, before[key]) for key, value in objective.encoder.state_dict().items()
    )
    assert changed == (learns == "all")
    assert objective.head.weight.grad.abs().max() > 0
    assert objective.encoder.training == (learns == "all")


def test_stretches_of_a_recording_are_averaged_as_the_recipe_says() -> None:
    scores = torch.tensor([[4.0, -1.0], [-2.0, -1.0]], dtype=torch.float64)
    shares = 1 / (1 + np.exp(-scores.numpy()))
    for average, expected in (
        ("softmax", shares.mean(0)),
        ("logits", 1 / (1 + np.exp(-scores.numpy().mean(0)))),
    ):
        trial = SimpleNamespace(config=SimpleNamespace(average=average))
        found = MultilabelValidation._merged(trial, scores)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_a_sample_is_a_stretch_of_its_recording(folder: Path) -> None:
    table = Table.open(folder / "one.arrow")
    record, plan = table.record(0), Plan(config_of(mix=PairMixConfig()))
    with open_record(record, sound_alone=True) as reader:
        whole = reader.audio(0, 0.5, 1000)
        samples = [plan(record, reader, np.random.default_rng(i), 0.0) for i in range(20)]
    starts = set()
    for sample in samples:
        near = [np.abs(whole[i : i + 100] - sample["sound"]).max() < 1e-4 for i in range(401)]
        found = np.flatnonzero(near).tolist()
        assert len(found) == 1
        starts.add(found[0])
        assert sample["label"] == record.label
        assert sample["mix"].shape == (2,)
    assert len(starts) > 10
    assert (max(starts) > 300, min(starts) < 100) == (True, True)
    long = Plan(config_of(num_samples=700))
    with open_record(record, sound_alone=True) as reader:
        sound = long(record, reader, np.random.default_rng(0), 0.0)["sound"]
    np.testing.assert_allclose(sound, np.tile(whole, 2)[:700], atol=1e-4)


# What is refused ----------------------------------------------------------------------------------


def test_a_video_without_sound_makes_no_sample(folder: Path) -> None:
    table = Table.open(folder / "one.arrow")
    record = table.record(len(table) - 1)
    with open_record(record) as reader, pytest.raises(BadVideo, match="it has no sound"):
        Plan(config_of())(record, reader, np.random.default_rng(0), 0.0)


def test_videos_known_to_be_mute_are_left_out_before(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": f"v{i}", "source": f"/{i}.mp4", "has_audio": own} for i, own in enumerate(KNOWN)]
    with caplog.at_level("WARNING", "video_ssl"):
        kept = without_mute(Table.from_rows(rows))
    assert kept.column("id").tolist() == ["v0", "v2"]
    assert "1 of 3 videos are left out, as they have no sound: v1" in caplog.text
    with pytest.raises(RunError, match=r"no video has sound \(v1\)"):
        without_mute(Table.from_rows(rows[1:2]))


KNOWN = (True, False, None)


def test_records_without_a_class_or_with_two_kinds_are_refused() -> None:
    def table(**columns) -> Table:
        return Table.from_columns({"id": ["a", "b"], "source": ["/a.wav", "/b.wav"], **columns})

    def asked(*tables: Table, multilabel=None, stated=None):
        return read_classes(tables, multilabel=multilabel, stated=stated)

    one, many = {"label": [0, 1]}, {"labels": [[0, 2], []]}
    assert asked(table(**one)) == (False, 2)
    assert asked(table(**many)) == (True, 3)
    assert asked(table(**one, **many), multilabel=True) == (True, 3)
    with pytest.raises(ValueError, match=r"has no classes: give a table with the column `label`"):
        asked(table())
    with pytest.raises(ValueError, match=r"has both `label` .* objective\.multilabel=false or"):
        asked(table(**one, **many))
    with pytest.raises(ValueError, match=r"some have one class of each record"):
        asked(table(**one), table(**many))
    with pytest.raises(ValueError, match=r"1 of 2 of the table have no label"):
        asked(table(label=[0, None]))
    with pytest.raises(ValueError, match=r"1 of 2 of the table have none in the column `labels`"):
        asked(table(labels=[[0], None]))
    with pytest.raises(ValueError, match=r"2 of 2 of the table have none in the column `labels`"):
        asked(table(**one), multilabel=True)
    with pytest.raises(ValueError, match=r"every list of `labels` is empty"):
        asked(table(labels=[[], []]))
    with pytest.raises(ValueError, match=r"num_classes=2, but the table has 3 classes"):
        asked(table(**many), stated=2)
    with pytest.raises(ValueError, match=r"-1 among its labels"):
        table(labels=[[0], [-1]])


def test_a_negative_class_is_named(folder: Path) -> None:
    record = Table.open(folder / "one.arrow").record(0)
    wrong = {"label": -3, "labels": (0, -3)}
    for several in (False, True):
        plan = Plan(config_of(multilabel=several))
        changed = type(record)(index=0, id=record.id, source=record.source, **wrong)
        with open_record(record, sound_alone=True) as reader:
            with pytest.raises(ValueError, match=r"'r0' .* has the class -3, .* in 0\.\.1"):
                plan(changed, reader, np.random.default_rng(0), 0.0)
            bare = type(record)(index=0, id=record.id, source=record.source)
            with pytest.raises(ValueError, match=r"'r0' .* has no `label"):
                plan(bare, reader, np.random.default_rng(0), 0.0)


def test_an_encoder_that_sees_is_refused_and_the_one_beside_it_named(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"sees video, .* beside it that hears .*encoders/sound"):
        run_torch(recipe_of(folder / "one.arrow", trained, tmp_path / "run"))
    alone = tmp_path / "alone"
    save_seeing(alone / "encoder")
    with pytest.raises(RunError, match=r"sees video, .* with the objective supervised"):
        run_torch(recipe_of(folder / "one.arrow", alone, tmp_path / "run"))
    with pytest.raises(EncoderError, match="no encoder"):
        run_torch(recipe_of(folder / "one.arrow", tmp_path / "gone", tmp_path / "run"))


def test_videos_are_not_classified_by_an_encoder_that_hears(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    recipe = load_pretrain_recipe(
        "supervised/finetune_demo",
        [
            f"run={tmp_path / 'run'}",
            f"data.table={folder / 'one.arrow'}",
            f"objective.init.run={trained / 'encoders' / 'sound'}",
            *("validation=null", "training.device=cpu"),
        ],
    )
    with pytest.raises(RunError, match=r"takes sound, .* the objective supervised_sound"):
        run_torch(recipe)


def test_settings_of_pictures_do_not_go_with_sounds(
    folder: Path, trained: Path, tmp_path: Path
) -> None:
    more = ["validation={table: " + str(folder / "val.arrow") + ", num_crops: 3}"]
    recipe = recipe_of(
        folder / "one.arrow", trained / "encoders" / "sound", tmp_path / "run", *more
    )
    with pytest.raises(RunError, match=r"num_crops, size and center_share are settings of pictu"):
        run_torch(recipe)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["objective.init=null"], r"encoder, rate, num_samples of null: .*RUN/encoders/sound"),
        (
            ["objective.multilabel=true", "objective.label_smoothing=0.1"],
            "label_smoothing=0.1 goes with one class",
        ),
        (["objective.mix={alpha: 0}"], "alpha=0.* must be positive"),
        (["objective.noise=-1"], "noise=-1.* must not be negative"),
    ],
)
def test_settings_that_mean_nothing_are_refused(more: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_pretrain_recipe("supervised_sound/small", more)
