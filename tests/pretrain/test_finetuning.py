"""Fine-tuning, as a user runs it: classes from the table, settings from the encoder, accuracy on other videos on the
way, and a classifier that stays."""

from __future__ import annotations

import json
import logging
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from colored_videos import COLORS, make_table, write_video
from typer.testing import CliRunner

import video_ssl
from video_ssl.cli import app
from video_ssl.clips.reading import open_record
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets.table import Table
from video_ssl.models.classifier_folder import MERGES, load_classifier
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.encoders import save_encoder
from video_ssl.models.encoders_flax import build_flax_module, init_variables, save_flax_encoder
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.vatt import VattVideo
from video_ssl.models.networks.vatt_config import VattVideoConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.errors import RunError
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_to_dict
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.torch_loop.loop import seed_step
from video_ssl.pretrain.torch_loop.run import run_torch
from video_ssl.recipes import ConfigError, build_config, load_yaml, to_yaml

NAMES = ["red", "green", "blue"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """train.arrow (12 videos of 3 colors); val.arrow (6), which numbers them otherwise and has a broken one."""
    folder = tmp_path_factory.mktemp("tables")
    make_table(folder, "train", 12, seed=0)
    val = make_table(folder, "val", 7, seed=50, broken=(6,))
    order = ["blue", "red", "green"]
    Table.from_columns(
        {
            "id": val.column("id"),
            "source": [val.record(row).source for row in range(len(val))],
            "label": [order.index(NAMES[label]) for label in val.column("label")],
        },
        class_names=order,
    ).save(folder / "val.arrow")
    return folder


@pytest.fixture(scope="module")
def trained(tables, tmp_path_factory, helpers):
    """A run that has pretrained a ViT without labels for two steps."""
    run = tmp_path_factory.mktemp("runs") / "ssl"
    recipe = helpers.recipe(tables / "train.arrow", run, training__duration="2 steps")
    run_torch(recipe)
    return run


def words(tables, run, trained, *more):
    return [
        f"run={run}",
        f"objective.init.run={trained}",
        f"data.table={tables / 'train.arrow'}",
        f"validation.table={tables / 'val.arrow'}",
        "objective.clip={num_frames: 4, frame_stride: 1, num_clips: 1}",
        "objective.crop={size: 32}",
        "loader.num_workers=0",
        "training.duration=24 steps",
        "training.global_batch_size=6",
        "training.log_every=5",
        "training.checkpoint_every=12 steps",
        "training.device=cpu",
        "training.ema={decay: 0.5}",
        "optimizer={base_lr: 3e-3, lr_scaling: none, warmup: 2 steps}",
        "validation.every=10 steps",
        *more,
    ]


def recipe_of(*arguments):
    return load_pretrain_recipe("supervised/finetune_demo", words(*arguments))


@pytest.fixture(scope="module")
def tuned(tables, trained, tmp_path_factory):
    """(run, what was said) of the command."""
    run = tmp_path_factory.mktemp("tuned") / "run"
    said = logging.getLogger("video_ssl")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    said.addHandler(handler)
    before, threads = said.level, torch.get_num_threads()
    said.setLevel(logging.INFO)
    torch.set_num_threads(1)
    done = CliRunner().invoke(
        app, ["pretrain", "supervised/finetune_demo", *words(tables, run, trained)]
    )
    torch.set_num_threads(threads)
    said.setLevel(before)
    said.removeHandler(handler)
    assert done.exit_code == 0, done.output
    return run, lines


def test_classes_and_encoder_are_those_of_table_and_run(tuned, trained):
    recipe = load_yaml(tuned[0] / "recipe.yaml")
    assert recipe["objective"]["num_classes"] == 3
    assert recipe["objective"]["encoder"]["embed_dim"] == 24
    assert recipe["objective"]["encoder"]["positions"] == "sincos_1d"
    encoders = [video_ssl.load_encoder(run).state_dict() for run in (tuned[0], trained)]
    assert encoders[0].keys() == encoders[1].keys()


def test_accuracy_is_told_on_the_way_and_at_the_end(tuned):
    run, lines = tuned
    rows = read_metrics(run / "metrics.jsonl")
    tried = {row["step"]: row for row in rows if "val_top1" in row}
    assert list(tried) == [10, 20, 24]
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 24]
    assert tried[24]["val_top1"] == 1.0
    assert tried[24]["val_videos"] == 6
    assert tried[24]["val_loss"] < tried[10]["val_loss"]
    told = "\n".join(lines)
    assert "step 24: names the class of 6 of 6 videos of" in told
    assert "guessing gives 33.3 %, the most frequent class 33.3 %" in told
    assert "numbers its classes otherwise: they are matched by name" in told
    assert told.count("left out, as it cannot be read") == 1
    assert json.loads((run / "finished.json").read_text())["metrics"]["val_top1"] == 1.0


def test_the_report_shows_the_accuracy(tuned, tmp_path):
    done = CliRunner().invoke(app, ["report", str(tuned[0]), str(tmp_path / "report.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy on other videos" in page
    assert "val_top1" in page
    assert "val_videos" not in page


def test_the_classifier_beside_the_encoder_says_the_same(tuned, tables):
    protocol = load_classifier(tuned[0]).protocol
    assert protocol.class_names == tuple(NAMES)
    assert (protocol.num_classes, protocol.clips, protocol.feature) == (3, 2, "clip")
    assert protocol.validation["val_top1"] == 1.0
    right = says_what_the_run_said(tuned[0], tables)
    assert right == 6


def test_the_middle_alone_is_tried_where_the_recipe_says_so(tables, trained, tmp_path):
    """Was wrong: HiCo's fine-tuning was tried on the whole short side, where its code takes the middle 7/8."""
    framed = tmp_path / "framed.csv"
    with framed.open("w") as file:
        file.write("id,source,label\n")
        for number in range(3):
            path = tmp_path / f"{number}.mp4"
            write_video(path, 12, COLORS[number], frame=COLORS[(number + 1) % 3])
            file.write(f"{number},{path},{NAMES[number]}\n")
    right = {}
    for share in (1.0, 0.5):
        run = tmp_path / str(share)
        given = words(tables, run, trained, f"validation.table={framed}", "training.ema=null")
        run_torch(
            load_pretrain_recipe(
                "supervised/finetune_demo", [*given, f"validation.center_share={share}"]
            )
        )
        right[share] = load_classifier(run).protocol.validation["val_top1"]
    assert right == {1.0: 0.0, 0.5: 1.0}
    with pytest.raises(ConfigError, match=r"center_share=0\.5 must lie in \(0, 1\], and below 1"):
        recipe_of(tables, run, trained, "validation.center_share=0.5", "validation.num_crops=3")


def test_what_is_averaged_is_the_recipes_choice(tables, trained, tmp_path):
    """VATT averages the logits of its views and not their softmax: of clips that differ that is something else."""
    rows = []
    for number in range(3):
        path = tmp_path / f"{number}.mp4"
        write_video(path, 24, COLORS[number], then=COLORS[(number + 1) % 3])
        rows.append({"id": str(number), "source": str(path), "label": number})
    turning = Table.from_rows(rows, class_names=NAMES).save(tmp_path / "turning.arrow")
    said = {}
    for average in MERGES:
        run = tmp_path / average
        given = words(tables, run, trained, f"validation.average={average}", "training.ema=null")
        given += [
            f"validation.table={tmp_path / 'turning.arrow'}",
            "objective.clip.sampling=constant",
        ]
        run_torch(load_pretrain_recipe("supervised/finetune_demo", given))
        assert load_classifier(run).protocol.merge == MERGES[average]
        shares = [own_shares(run, turning.record(row)) for row in range(3)]
        losses = [-np.log(own[row]) for row, own in enumerate(shares)]
        said[average] = load_classifier(run).protocol.validation["val_loss"]
        assert said[average] == pytest.approx(np.mean(losses), rel=1e-4)
    assert abs(said["logits"] / said["softmax"] - 1) > 0.01


def test_a_video_transformer_of_vatt_is_fine_tuned_without_its_heads(tables, tmp_path):
    """Was wrong: the heads into the common spaces, which fine-tuning leaves out, were missed as another setting."""
    shape = {"preset": None, "embed_dim": 16, "depth": 1, "ffn_dim": 16, "num_heads": 2}
    config = build_config(
        VattVideoConfig,
        {
            **shape,
            "heads": {"sound_dim": 8, "text_dim": 4},
            "tubelet_size": 2,
            "patch_size": 16,
            "num_frames": 4,
            "image_size": 32,
        },
    )
    torch.manual_seed(0)
    network = VattVideo(config)
    folder = tmp_path / "pretrained" / "encoder"
    save_encoder(
        folder,
        network,
        architecture="vatt_video",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=1, size=32),
        source={},
    )
    run = tmp_path / "run"
    still = ["training.ema=null", "training.duration=3 steps", "objective.learns=head"]
    given = words(tables, run, tmp_path / "pretrained", *still, "optimizer.warmup=0")
    run_torch(load_pretrain_recipe("supervised/finetune_demo", given))
    learned = video_ssl.load_encoder(run).state_dict()
    assert set(learned) < set(network.state_dict())
    for name, value in learned.items():
        assert torch.equal(value, network.state_dict()[name])
    says_what_the_run_said(run, tables)


def own_shares(run, record):
    """How sure what lies in RUN/encoder alone is of each class of a video."""
    classifier, encoder = load_classifier(run), video_ssl.load_encoder(run)
    protocol, preprocess = classifier.protocol, encoder.preprocess
    windows = WindowConfig(
        num_frames=preprocess.num_frames,
        frame_stride=preprocess.frame_stride,
        sampling=preprocess.sampling,
        size=preprocess.size,
        num_clips=protocol.clips,
    )
    with open_record(record) as reader:
        clips = [window.clips for window in iterate_windows(record, reader, windows)]
    features = encoder.outputs_of_arrays(np.concatenate(clips), ("clip",), pooling=protocol.pooling)
    return classifier.shares(features["clip"])


def says_what_the_run_said(run, tables):
    """Classes the validation videos with what lies in RUN/encoder alone; returns how many are right."""
    protocol = load_classifier(run).protocol
    val, losses, right = Table.open(tables / "val.arrow"), [], 0
    for row in range(6):
        record = val.record(row)
        shares = own_shares(run, record)
        truth = val.class_names[record.label]
        right += protocol.name(int(shares.argmax())) == truth
        losses.append(-np.log(shares[NAMES.index(truth)]))
    assert np.mean(losses) == pytest.approx(protocol.validation["val_loss"], rel=1e-4)
    assert right == round(6 * protocol.validation["val_top1"])
    return right


AS_PUBLISHED = [
    "objective.readout=patch_mean",
    "objective.clip.views_per_clip=2",
    "objective.augment={magnitude: 3}",
    "objective.mix={}",
    "objective.erase={fill: noise}",
    "objective.label_smoothing=0.1",
    "optimizer.layer_decay=0.75",
    "training.checkpoint_every=5 steps",
    "training.duration=12 steps",
    "objective.dropout=0.1",
]


def test_fine_tuning_as_published_stops_resumes_and_leaves_its_classifier(
    tables, trained, tmp_path, monkeypatch, helpers
):
    """Everything that VideoMAE and MVD fine-tune with, at once."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    run_torch(recipe_of(tables, whole, trained, *AS_PUBLISHED))
    right = says_what_the_run_said(whole, tables)
    assert right >= 3
    found = load_classifier(whole)
    assert found.norm is not None
    assert not np.allclose(found.norm[0], 1)
    assert "norm.weight" in video_ssl.load_encoder(trained).state_dict()
    assert "norm.weight" not in video_ssl.load_encoder(whole).state_dict()

    class Killed(BaseException):
        pass

    def die(seed, step, rank):
        seed_step(seed, step, rank)
        if step == 7:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.pretrain.torch_loop.loop.seed_step", die)
        with pytest.raises(Killed):
            run_torch(recipe_of(tables, again, trained, *AS_PUBLISHED))
    run_torch(recipe_of(tables, again, trained, *AS_PUBLISHED))
    one, two = helpers.weights(whole), helpers.weights(again)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_a_class_token_classifies_as_the_run_did(tables, tmp_path):
    """From random weights: the settings of the encoder are written out."""
    size = "embed_dim: 32, depth: 1, num_heads: 2, patch_size: 8"
    run = tmp_path / "run"
    run_torch(
        recipe_of(
            tables,
            run,
            "nothing",
            "objective.init=null",
            f"objective.encoder={{preset: null, {size}, cls_token: true}}",
            "objective.readout=class_token",
            "training.duration=4 steps",
        )
    )
    says_what_the_run_said(run, tables)
    assert load_classifier(run).protocol.pooling == "cls"


def test_the_linear_protocol_of_cvrl_reads_an_encoder_of_flax(tables, tmp_path):
    """The encoder stays as its run left it, and the layer reads its feature at length 1, in the folder too."""
    config = R3DConfig(
        preset=None, blocks=(1, 1, 1, 1), filters=(4, 4, 4, 8), stem_width=4, num_frames=4
    )
    module = build_flax_module(config)
    source = tmp_path / "flax" / "encoder"
    save_flax_encoder(
        source,
        init_variables(module, 0),
        architecture="r3d",
        config=config,
        preprocess=VideoPreprocess(
            num_frames=4, frame_stride=1, size=32, mean=(0.0,) * 3, std=(1.0,) * 3
        ),
        source={"objective": "cvrl"},
    )
    run = tmp_path / "run"
    given = [
        *words(tables, run, source.parent, "training.ema=null", "validation.size=32"),
        "validation.num_crops=1",
        "optimizer={name: sgd, base_lr: 8.0, lr_scaling: none, warmup: 2 steps, momentum: 0.9}",
    ]
    run_torch(load_pretrain_recipe("supervised/cvrl_linear_k600", given))
    before, after = (video_ssl.load_encoder(place).state_dict() for place in (source, run))
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert load_classifier(run).protocol.unit_length
    assert says_what_the_run_said(run, tables) >= 4  # colors are easy, chance gives 2


def test_a_trial_leaves_every_bit_of_the_training_alone(
    tuned, tables, trained, tmp_path, helpers, monkeypatch
):
    run = tmp_path / "run"
    run_torch(recipe_of(tables, run, trained, "validation=null"))
    one, two = helpers.weights(tuned[0]), helpers.weights(run)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert not any("val_top1" in row for row in read_metrics(run / "metrics.jsonl"))
    assert load_classifier(run).protocol.validation == {}

    class Killed(BaseException):
        pass

    def die(seed, step, rank):
        seed_step(seed, step, rank)
        if step == 15:
            raise Killed

    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr("video_ssl.pretrain.torch_loop.loop.seed_step", die)
        with pytest.raises(Killed):
            run_torch(recipe_of(tables, again, trained))
    run_torch(recipe_of(tables, again, trained))
    rows = [
        {
            row["step"]: row["val_loss"]
            for row in read_metrics(r / "metrics.jsonl")
            if "val_loss" in row
        }
        for r in (tuned[0], again)
    ]
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("change", "words_of_error"),
    [
        ("objective.num_classes=10", r"num_classes=10, but .* has 3 classes \(red, green, blue\)"),
        (
            "objective.encoder={preset: null, embed_dim: 48, depth: 2, num_heads: 2, patch_size: 8}",
            r"embed_dim=24 \(not 48\).*objective.encoder=null",
        ),
        ("objective.normalization={mean: [0, 0, 0]}", "normalization=.*was trained with"),
        ("validation.table=bare.csv", "6 of 6 of bare.csv have no label"),
        ("validation.table=other.csv", r"no class of other.csv \(up\) is in the training table"),
        ("data.table=bare.csv", "6 of 6 of .*bare.csv have no label"),
    ],
)
def test_contradictions_end_before_the_first_step(
    tables, trained, tmp_path, monkeypatch, change, words_of_error
):
    monkeypatch.chdir(tmp_path)
    files = [Table.open(tables / "val.arrow").record(row).source for row in range(6)]
    (tmp_path / "bare.csv").write_text("path\n" + "\n".join(files))
    (tmp_path / "other.csv").write_text("path,label\n" + "\n".join(f"{f},up" for f in files))
    with pytest.raises(RunError, match=words_of_error):
        run_torch(recipe_of(tables, tmp_path / "run", trained, change))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_labels_of_the_validation_are_looked_at_before_the_encoder_is_pretrained(
    tables, tmp_path, helpers
):
    """Was wrong: where a run trains the encoder that it starts from, the labels were missed when that was done."""
    inner = helpers.tiny(Path("nowhere"), Path("nowhere"), training__duration="2 steps")
    (tmp_path / "inner.yaml").write_text(to_yaml(inner), encoding="utf-8")
    files = [Table.open(tables / "val.arrow").record(row).source for row in range(6)]
    (tmp_path / "bare.csv").write_text("path\n" + "\n".join(files))
    run = tmp_path / "run"
    given = [word for word in words(tables, run, "") if not word.startswith("objective.init")]
    recipe = load_pretrain_recipe(
        "supervised/finetune_demo",
        [
            *given,
            "objective.init={run: null, recipe: " + str(tmp_path / "inner.yaml") + "}",
            f"objective.encoder={json.dumps(inner['objective']['encoder'])}",
            f"validation.table={tmp_path / 'bare.csv'}",
        ],
    )
    with pytest.raises(RunError, match=r"6 of 6 of .*bare\.csv have no label"):
        run_torch(recipe)
    assert not (run / "stages").exists()


def test_only_a_classifier_can_be_validated_and_only_one_is_found(
    tables, trained, tmp_path, helpers
):
    recipe = helpers.recipe(
        tables / "train.arrow", tmp_path / "run", validation={"table": str(tables / "val.arrow")}
    )
    with pytest.raises(RunError, match="this objective has none: set validation=null"):
        run_torch(recipe)
    with pytest.raises(EncoderError, match=r"trained without labels. Fine-tune it"):
        load_classifier(trained)
    with pytest.raises(ValueError, match="both"):
        recipe_of(tables, tmp_path / "run", trained, f"validation.table={tables / 'train.arrow'}")


def test_a_damaged_classifier_is_refused(tuned, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(tuned[0] / "encoder", folder)
    text = (folder / "classifier.json").read_text()
    (folder / "classifier.json").write_text(text.replace("blue", "BLUE"))
    with pytest.raises(EncoderError, match="damaged"):
        load_classifier(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "head",
    [[], ["objective.readout=patch_mean", "objective.mix={}", "objective.clip.views_per_clip=2"]],
)
def test_two_processes_with_divided_weights_try_as_one_does(
    tables, trained, tmp_path, helpers, head
):
    """The same weights tried by one and by two processes: after steps of rate 0."""
    still = ["training.duration=2 steps", "optimizer.base_lr=0", "optimizer.weight_decay=0", *head]
    run_torch(recipe_of(tables, tmp_path / "one", trained, *still))
    recipe = recipe_of(tables, tmp_path / "two", trained, *still, "training.sharding=fsdp")
    file = tmp_path / "two.yaml"
    file.write_text(to_yaml(recipe_to_dict(recipe)), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        helpers.start(file, RANK=str(rank), LOCAL_RANK=str(rank), **place) for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], outs
    one, two = (load_classifier(tmp_path / name).protocol.validation for name in ("one", "two"))
    assert one.pop("table") == two.pop("table")
    assert one == pytest.approx(two, rel=1e-5)
