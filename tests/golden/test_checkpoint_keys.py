"""Checkpoints with the keys and shapes of the real models: nothing missing, nothing unused, and the
same keys again when written.  Without values ("meta"), so that the large ones cost nothing."""

from dataclasses import replace

import pytest
import torch

from video_ssl.models.config import VIT_PRESETS, ViTConfig
from video_ssl.models.exchange.export_names import original_state
from video_ssl.models.exchange.published import interpret
from video_ssl.models.exchange.published_names import to_hugging_face
from video_ssl.models.networks.positions import position_table
from video_ssl.models.networks.vit import VideoViT


def lists_of(g):
    """tag -> {key: shape} for every list of keys in a file."""
    tags = [n.removesuffix("/keys") for n in g.names if n.endswith("/keys")]
    assert tags
    for tag in tags:
        keys = [str(key) for key in g.arrays[f"{tag}/keys"]]
        shapes = [tuple(map(int, str(s).split("x"))) for s in g.arrays[f"{tag}/shapes"]]
        yield tag, dict(zip(keys, shapes, strict=True))


def synthetic(shapes, family):
    """A state dict of those shapes; tables have their true values, from which they are recognised."""
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key, (_, rows, width) in ((k, s) for k, s in shapes.items() if "pos_embed" in k):
        prefix = int("cls_token" in shapes)
        kind = "sincos_2d" if prefix else {"mvd": "sincos_3d"}.get(family, "sincos_1d")
        t = 1 if kind == "sincos_2d" else 8
        side = round(((rows - prefix) // t) ** 0.5)
        table = torch.from_numpy(position_table(kind, width, (t, side, side)))
        state[key] = torch.cat([torch.zeros(prefix, width), table])[None]
    return state


def read(state, family="auto", **options):
    with torch.device("meta"):
        return interpret(state, family=family, **options)


def accounted(report):
    assert (report.missing, report.unused, report.mismatched) == ((), (), ())
    assert report.share == 1.0


def shapes_of(state):
    return {key: tuple(value.shape) for key, value in state.items()}


def family_of(g):
    return "mvd" if g.path.parent.name.startswith("mvd") else "videomae"


def test_every_list_of_keys_loads_whole(key_lists):
    for tag, shapes in lists_of(key_lists):
        image = "cls_token" in shapes
        family = "mae" if image else "videomae" if "teacher" in tag else family_of(key_lists)
        found = read(synthetic(shapes, family), family)
        accounted(found.report)
        assert set(found.report.computed) == {key for key in shapes if "pos_embed" in key}
        total = sum(value.numel() for value in found.state().values())
        if f"{tag}/n_params" in key_lists:
            assert total == int(key_lists.arrays[f"{tag}/n_params"]), tag
        width = found.encoder.config.width
        assert found.encoder.config.heads == {w: h for w, _, h in VIT_PRESETS.values()}[width]


def test_every_list_of_keys_is_written_again(key_lists):
    for tag, shapes in lists_of(key_lists):
        family = "mae" if "cls_token" in shapes else family_of(key_lists)
        found = read(synthetic(shapes, family), "videomae" if "teacher" in tag else family)
        assert shapes_of(original_state(found)) == shapes, tag


def test_every_video_model_comes_through_the_naming_of_hugging_face(key_lists):
    for _, shapes in lists_of(key_lists):
        found = read(synthetic(shapes, family_of(key_lists)))
        tensors = found.state()
        if any(key.startswith("decoders.") for key in tensors):
            tensors = {k: v for k, v in tensors.items() if not k.startswith("decoders.")}
        image = "cls_token" in shapes
        stem = "vit." if image else "videomae."
        again = read(to_hugging_face(tensors, stem, stem))
        accounted(again.report)
        assert again.layout == "hugging_face"
        assert shapes_of(again.state()) == shapes_of(tensors)


# Sizes that have no golden list: the same names, by the sizes of the sheet --------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "millions"),
    [
        ("S", {}, 21.9),
        ("B", {}, 86.2),
        ("L", {}, 303.9),
        ("H", {}, 631.6),
        # VideoMAE V2's giant: patches of 14 pixels, MLP ratio 48/11.
        ("g", {"patch_size": 14, "mlp_ratio": 48 / 11}, 1011.6),
    ],
)
def test_all_sizes_are_read_off_the_weights(preset, changes, millions):
    config = ViTConfig(
        preset=preset, image_size=224, num_frames=16, positions="sincos_1d", **changes
    )
    with torch.device("meta"):
        module = VideoViT(config)
    size = sum(p.numel() for p in module.parameters()) / 1e6
    assert size == pytest.approx(millions, abs=0.1)
    state = {f"encoder.{k}": v for k, v in module.state_dict().items()}
    found = read(state)
    accounted(found.report)
    wanted = replace(config, preset=None, mlp_ratio=found.encoder.config.mlp_ratio)
    assert found.encoder.config == wanted
    assert found.family == ("videomae_v2" if preset == "g" else "videomae")


@pytest.mark.parametrize("preset", ["S", "B"])
def test_distilled_students_have_710_classes(preset):
    config = ViTConfig(
        preset=preset, image_size=224, num_frames=16, positions="sincos_1d", final_norm=False
    )
    with torch.device("meta"):
        state = VideoViT(config).state_dict()
        width = config.width
        state |= {"fc_norm.weight": torch.empty(width), "fc_norm.bias": torch.empty(width)}
        state |= {"head.weight": torch.empty(710, width), "head.bias": torch.empty(710)}
    found = read(state)
    accounted(found.report)
    assert (found.family, found.num_classes) == ("videomae_v2", 710)
    assert shapes_of(original_state(found)) == shapes_of(state)
