"""Position tables and classifiers of MVD and VideoMAE against their references."""

import numpy as np
import pytest
from golden_models import encoder_config
from reference_keys import CLASSIFIER_KEYS

from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.networks.positions import position_table
from video_ssl.models.weights import load_weights
from video_ssl.objectives.supervised.config import Config
from video_ssl.objectives.supervised.objective import Objective


def table_of(case) -> np.ndarray:
    table = position_table(case["table"], case["dim"], tuple(case["grid_thw"]))
    if case.get("cls_row") is None:
        return table
    assert case["cls_row"] == "zeros, first"
    return np.concatenate([np.zeros((1, table.shape[1]), table.dtype), table])


@pytest.mark.golden("mvd/pos_embed", "videomae/pos_embed")
def test_position_tables(golden_case):
    g, name = golden_case.file, golden_case.name
    table = table_of(golden_case.settings)
    g.check(name, table)
    # A sum of n values that are rounded to float32 may be off by n roundings.
    units = {"units": {"per_element": max(len(table), table.size)}}
    for part, axis in (("colsum", 0), ("rowsum", 1)):
        g.check(f"{name}_{part}", table.astype(np.float64).sum(axis), **units)
    if g.gives(f"{name}_values"):
        g.check(f"{name}_values", table[g[f"{name}_rows"]])


@pytest.mark.golden("mvd/finetune", "videomae/finetune")
def test_classifier(golden):
    video, params = golden.tensor("video"), golden.tensors()
    model = VideoClassifier(
        encoder_config(golden),
        num_classes=golden.settings["num_classes"],
        readout="mean" if golden.settings["use_mean_pooling"] else "first_token",
    ).eval()
    report = load_weights(model, params, rename=CLASSIFIER_KEYS)
    assert not report.missing
    assert not report.unused
    golden.check("features", model.features(video))
    golden.check("logits", model(video))
    for block in range(golden.setting("encoder.depth")):
        taps = model.encoder.taps(video, layer=block).flatten(1, 2)
        golden.check(f"block_{block}", taps)
    golden.check("pos_embed", model.encoder.positions()[None])
    double = model.double()
    golden.check("f64/features", double.features(video.double()))
    golden.check("f64/logits", double(video.double()))


@pytest.mark.golden(
    "mvd/finetune",
    "videomae/finetune",
    unsupported=[
        ("use_mean_pooling", False, "is fine-tuned by a class token or by the mean of the patches")
    ],
)
def test_the_network_that_is_fine_tuned(golden):
    """The classifier of `pretrain supervised/...`, behind its normalisation of pixels."""
    encoder = encoder_config(golden)
    config = Config(
        num_classes=golden.settings["num_classes"],
        encoder=encoder,
        clip=ClipConfig(num_frames=golden.setting("encoder.num_frames")),
        crop=CropConfig(size=golden.setting("encoder.image_size")),
        readout="patch_mean",
    )
    model = Objective(config).eval()
    renamed = [("fc_norm.", "head.norm."), *CLASSIFIER_KEYS]
    load_weights(model, golden.tensors(), rename=renamed)
    features = model._features(golden.tensor("video"))
    golden.check("features", model.head.norm(features))
    golden.check("logits", model.head(features))
