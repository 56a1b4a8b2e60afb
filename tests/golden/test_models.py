"""Position tables, classifiers and the keys of real checkpoints against the references."""

import re
from dataclasses import replace

import numpy as np
import torch

from video_ssl.models.classifier import CLASSIFIER_KEYS, VideoClassifier
from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.positions import position_table
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mvd.config import Config as MVDConfig
from video_ssl.objectives.mvd.config import ImageTeacherConfig, TeacherConfig
from video_ssl.objectives.mvd.objective import PUBLISHED_KEYS as MVD_KEYS
from video_ssl.objectives.mvd.objective import Objective as MVD
from video_ssl.objectives.sources import EncoderSource
from video_ssl.objectives.videomae.config import Config as VideoMAEConfig
from video_ssl.objectives.videomae.objective import PUBLISHED_KEYS as VIDEOMAE_KEYS
from video_ssl.objectives.videomae.objective import Objective as VideoMAE

NOWHERE = EncoderSource(run="nowhere")


def kind_of(g):
    """MVD's clips have the 3-D table, VideoMAE's the 1-D one."""
    return "sincos_3d" if g.path.parent.name.startswith("mvd") else "sincos_1d"


def test_position_tables(table):
    for name in table.names:
        expected = table.arrays[name]
        if whole := re.fullmatch(r"table_d(\d+)_g(\d+)_t(\d+)", name):
            d, g, t = map(int, whole.groups())
            found = position_table(kind_of(table), d, (t, g, g))
        elif big := re.fullmatch(r"(big_d(\d+)_g(\d+)_t(\d+))_(values|colsum|rowsum)", name):
            d, g, t = map(int, big.groups()[1:4])
            found = position_table(kind_of(table), d, (t, g, g))
            found = _part(found, big[5], table.arrays[f"{big[1]}_rows"])
        elif image := re.fullmatch(r"image2d_cls_d(\d+)_g(\d+)", name):
            d, g = map(int, image.groups())
            found = _with_class_row(d, g)
        elif image := re.fullmatch(r"(image2d_big_d(\d+)_g(\d+))_values", name):
            d, g = int(image[2]), int(image[3])
            found = _with_class_row(d, g)[table.arrays[f"{image[1]}_rows"]]
        else:
            assert name.endswith("_rows"), f"{name} is not checked"
            continue
        # A sum of n values rounded to float32 may be off by n roundings.
        atol = 1e-6 if "sum" not in name else 1e-7 * max(expected.shape[0], found.size)
        np.testing.assert_allclose(found, expected, atol=atol, rtol=0, err_msg=name)


def _part(found, part, rows):
    if part == "values":
        return found[rows]
    return found.astype(np.float64).sum(axis=0 if part == "colsum" else 1)


def _with_class_row(d, g):
    return np.concatenate([np.zeros((1, d)), position_table("sincos_2d", d, (1, g, g))])


def test_classifier(golden, classifier):
    g = classifier
    params = g.params()
    config = golden.vit_config(g, params, g["video"], positions=kind_of(g))
    model = VideoClassifier(config, num_classes=params["head.weight"].shape[0]).eval()
    report = load_weights(model, params, rename=CLASSIFIER_KEYS)
    assert not report.missing
    assert not report.unused
    golden.close(model.features(g["video"]), g["features"], 2e-5)
    golden.close(model(g["video"]), g["logits"], 2e-5)
    for name in (n for n in g.names if n.startswith("block_")):
        taps = model.encoder.taps(g["video"], layer=int(name.removeprefix("block_")))
        golden.close(taps.flatten(1, 2), g[name], 2e-5)
    golden.close(model.encoder.positions()[None], g["pos_embed"], 1e-6)
    if "f64/logits" in g:
        golden.close(model.double()(g["video"].double()), g["f64/logits"], 1e-10)


# Keys of the real ViT-B models --------------------------------------------------------------------


def shapes_of(g, tag):
    keys = [str(key) for key in g[f"{tag}/keys"]]
    shapes = [tuple(int(n) for n in str(s).split("x") if n) for s in g[f"{tag}/shapes"]]
    return dict(zip(keys, shapes, strict=True))


def assert_same_keys(module, shapes, rename, num_parameters):
    """Every key of the reference has its place here, and every place here its key."""
    places = renamed_keys(shapes, rename)
    dropped = {key for key, place in places.items() if place is None}
    assert all("pos_embed" in key for key in dropped)
    ours = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert {p: shapes[k] for k, p in places.items() if p is not None} == ours
    assert sum(p.numel() for p in module.parameters()) == num_parameters


def on_meta(build):
    with torch.device("meta"):
        return build()


def test_keys_of_pretraining_models(keys):
    if "pretrain_base/keys" in keys:
        decoder = DecoderConfig(embed_dim=384, depth=4, num_heads=6)
        module = on_meta(lambda: VideoMAE(VideoMAEConfig(decoder=decoder)))
        shapes = shapes_of(keys, "pretrain_base")
        assert_same_keys(module, shapes, VIDEOMAE_KEYS, int(keys["pretrain_base/n_params"]))
    if "student_base/keys" in keys:
        shapes = shapes_of(keys, "student_base")
        presets = {384: "S", 768: "B", 1024: "L", 1280: "H"}
        image, video = (presets[shapes[f"decoder_{k}.head.weight"][0]] for k in ("img", "vid"))
        config = MVDConfig(
            image=ImageTeacherConfig(source=NOWHERE), video=TeacherConfig(source=NOWHERE)
        )
        module = on_meta(lambda: MVD(config, teachers=_teachers(image, video)))
        assert_same_keys(module, shapes, MVD_KEYS, int(keys["student_base/n_params"]))


def _teachers(image, video):
    clip = {"num_frames": 16, "positions": "sincos_1d"}
    return {
        "image": ImageViT(ImageViTConfig(preset=image, image_size=224)),
        "video": VideoViT(ViTConfig(preset=video, image_size=224, **clip)),
    }


def test_keys_of_teachers(keys):
    if "image_teacher_base/keys" not in keys:
        return
    teachers = on_meta(lambda: _teachers("B", "B"))
    drop = (("pos_embed", None), ("encoder.", ""))
    for name in ("image", "video"):
        tag = f"{name}_teacher_base"
        assert_same_keys(teachers[name], shapes_of(keys, tag), drop, int(keys[f"{tag}/n_params"]))


def test_keys_of_classifiers(keys):
    shapes = shapes_of(keys, "finetune_base")
    config = ViTConfig(preset="B", image_size=224, num_frames=16, positions=kind_of(keys))
    num_classes = shapes["head.weight"][0]
    module = on_meta(lambda: VideoClassifier(config, num_classes=num_classes))
    assert_same_keys(module, shapes, CLASSIFIER_KEYS, int(keys["finetune_base/n_params"]))


def test_a_pretrained_file_fills_the_classifier(keys):
    tag = next(t for t in ("student_base", "pretrain_base") if f"{t}/keys" in keys)
    state = {k: torch.zeros(s, device="meta") for k, s in shapes_of(keys, tag).items()}
    config = ViTConfig(preset="B", image_size=224, num_frames=16, positions=kind_of(keys))
    module = on_meta(lambda: VideoClassifier(config, num_classes=10))
    rename = (
        *((f"{prefix}", prefix) for prefix in ("decoder", "encoder_to", "mask_token", "pos_embed")),
        *((f"{prefix}", prefix) for prefix in ("down_", "encoder.")),
        ("", "encoder."),
    )
    report = load_weights(module, state, rename=rename, min_share=0.9)
    bare = lambda names: {str(n).removeprefix("encoder.") for n in names}  # noqa: E731
    assert set(report.missing) == set(map(str, keys["load_pretrain_into_finetune/missing"]))
    assert bare(report.unused) == bare(keys["load_pretrain_into_finetune/unexpected"])


def test_the_tables_of_the_real_models_have_the_stored_shapes(keys):
    if "student_base/keys" not in keys:
        return
    shapes = shapes_of(keys, "student_base")
    config = ViTConfig(preset="B", image_size=224, num_frames=16)
    tokens = replace(config, positions="sincos_3d").grid
    assert shapes["pos_embed"] == (1, tokens[0] * tokens[1] * tokens[2], config.embed_dim)
