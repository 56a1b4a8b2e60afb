"""Checkpoints with the keys and shapes of the real models: nothing missing, nothing unused, and the
same keys again when written.  Without values ("meta"), so that the large ones cost nothing."""

from dataclasses import replace

import pytest
import torch
from golden_models import heads_of_width
from reference_keys import CLASSIFIER_KEYS, MVD_KEYS, VIDEOMAE_KEYS

from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.exchange.export_names import original_state
from video_ssl.models.exchange.published import interpret
from video_ssl.models.exchange.published_names import to_hugging_face
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.positions import position_table
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mvd.config import Config as MVDConfig
from video_ssl.objectives.mvd.config import ImageTeacherConfig, TeacherConfig
from video_ssl.objectives.mvd.objective import Objective as MVD
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.objectives.videomae.config import Config as VideoMAEConfig
from video_ssl.objectives.videomae.objective import Objective as VideoMAE

NOWHERE = EncoderSource(run="nowhere")
#: What tells the model of a list, in this order: a key that only it has.
ROLES = (
    ("student", "mask_token_img"),
    ("pretrain", "encoder_to_decoder.weight"),
    ("classifier", "fc_norm.weight"),
    ("image_teacher", "cls_token"),
    ("video_teacher", "encoder.patch_embed.proj.weight"),
)
claims = pytest.mark.golden("mvd/checkpoint_keys", "videomae/checkpoint_keys")


def role_of(shapes) -> str:
    return next(role for role, key in ROLES if key in shapes)


def shapes_in(g, case) -> dict[str, tuple[int, ...]]:
    """Key -> shape of the list of a case."""
    keys, shapes = (g[case[part]].tolist() for part in ("keys", "shapes"))
    return {
        key: tuple(int(n) for n in shape.split("x") if n)
        for key, shape in zip(keys, shapes, strict=True)
    }


def positions_of(g, role) -> str:
    """Whose positions a list of that role has: MVD's models have the 3-D table, its video teacher is VideoMAE's."""
    if role == "image_teacher":
        return "sincos_2d"
    return "sincos_3d" if g.method == "mvd" and role != "video_teacher" else "sincos_1d"


def family_of(g, role) -> str:
    return {"sincos_2d": "mae", "sincos_3d": "mvd", "sincos_1d": "videomae"}[positions_of(g, role)]


def grid_of(g, role) -> tuple[int, int, int]:
    model = g.settings["model"]
    side = model["image_size"] // model["patch_size"]
    return (
        1 if role == "image_teacher" else model["num_frames"] // model["tubelet_size"],
        side,
        side,
    )


def synthetic(g, shapes):
    """A state dict of those shapes; tables have their true values, from which they are recognised."""
    role = role_of(shapes)
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    for key, (_, rows, width) in ((k, s) for k, s in shapes.items() if "pos_embed" in k):
        table = torch.from_numpy(position_table(positions_of(g, role), width, grid_of(g, role)))
        prefix = torch.zeros(rows - len(table), width)
        state[key] = torch.cat([prefix, table])[None]
    return state


def read(state, family="auto", **options):
    with torch.device("meta"):
        return interpret(state, family=family, **options)


def accounted(report):
    assert (report.missing, report.unused, report.mismatched) == ((), (), ())
    assert report.share == 1.0


def shapes_of(state):
    return {key: tuple(value.shape) for key, value in state.items()}


def check_list(g, case, found) -> None:
    """Compares keys and shapes, in the file's order: the order of a state dict is nobody's promise."""
    order = [str(key) for key in g[case["keys"]]]
    keys = [k for k in order if k in found] + [k for k in found if k not in set(order)]
    g.check(case["keys"], keys)
    g.check(case["shapes"], ["x".join(map(str, found[k])) for k in keys])


@claims
def test_every_list_of_keys_loads_whole_and_is_written_again(golden_case):
    g, case = golden_case.file, golden_case.settings
    shapes = shapes_in(g, case)
    role = role_of(shapes)
    found = read(synthetic(g, shapes), family_of(g, role))
    accounted(found.report)
    assert set(found.report.computed) == {key for key in shapes if "pos_embed" in key}
    total = sum(value.numel() for value in found.state().values())
    assert total == case["n_params"]
    golden_case.check("n_params", total)
    config = found.encoder.config
    assert config.heads == heads_of_width(config.width)
    check_list(g, case, shapes_of(original_state(found)))


@claims
def test_every_model_comes_through_the_naming_of_hugging_face(golden_case):
    g, shapes = golden_case.file, shapes_in(golden_case.file, golden_case.settings)
    role = role_of(shapes)
    tensors = read(synthetic(g, shapes), family_of(g, role)).state()
    if any(key.startswith("decoders.") for key in tensors):
        tensors = {k: v for k, v in tensors.items() if not k.startswith("decoders.")}
    stem = "vit." if role == "image_teacher" else "videomae."
    again = read(to_hugging_face(tensors, stem, stem))
    accounted(again.report)
    assert again.layout == "hugging_face"
    assert shapes_of(again.state()) == shapes_of(tensors)


# Modules of ours with these keys --------------------------------------------------------------------


def on_meta(build):
    with torch.device("meta"):
        return build()


def encoder_in(g, shapes, role, **changes):
    """The config of the encoder of a list: its sizes from the shapes, its clips from the settings."""
    model, plain = g.settings["model"], {k.removeprefix("encoder."): v for k, v in shapes.items()}
    width = plain["patch_embed.proj.weight"][0]
    common = {
        "preset": None,
        "embed_dim": width,
        "depth": 1 + max(int(k.split(".")[1]) for k in plain if k.startswith("blocks.")),
        "num_heads": heads_of_width(width),
        "patch_size": model["patch_size"],
        "image_size": model["image_size"],
        "positions": positions_of(g, role),
    }
    if role == "image_teacher":
        return ImageViTConfig(**common, **changes)
    clip = {k: model[k] for k in ("num_frames", "tubelet_size")}
    return ViTConfig(**common, **clip, **changes)


def module_of(g, shapes):
    """Our module for a list, and how keys are renamed for it."""
    role = role_of(shapes)
    encoder = encoder_in(g, shapes, role)
    # Heads do not show in keys and shapes; a file need not say them.
    decoder = DecoderConfig(**{"num_heads": 1, **g.settings["model"]["decoder"]})
    if role == "pretrain":
        config = VideoMAEConfig(encoder=encoder, decoder=decoder)
        return VideoMAE(config), VIDEOMAE_KEYS
    if role == "student":
        config = MVDConfig(
            image=ImageTeacherConfig(source=NOWHERE),
            video=TeacherConfig(source=NOWHERE),
            encoder=encoder,
            decoder=decoder,
        )
        return MVD(config, teachers=teachers_for(g, shapes)), MVD_KEYS
    if role == "classifier":
        classes = shapes["head.weight"][0]
        return VideoClassifier(encoder, num_classes=classes), CLASSIFIER_KEYS
    drop = (("pos_embed", None), ("encoder.", ""))
    return (ImageViT if role == "image_teacher" else VideoViT)(encoder), drop


def teachers_for(g, shapes):
    """Teachers as wide as the student's decoders are asked for."""
    model = g.settings["model"]
    image, video = (shapes[f"decoder_{k}.head.weight"][0] for k in ("img", "vid"))
    common = {
        "preset": None,
        "depth": 1,
        "patch_size": model["patch_size"],
        "image_size": model["image_size"],
    }
    clip = {k: model[k] for k in ("num_frames", "tubelet_size")}
    return {
        "image": ImageViT(ImageViTConfig(embed_dim=image, num_heads=1, **common)),
        "video": VideoViT(
            ViTConfig(embed_dim=video, num_heads=1, positions="sincos_1d", **common, **clip)
        ),
    }


@claims
def test_every_key_has_its_place_in_our_module(golden_case):
    """Every key of the reference has its place here, and every place here its key."""
    g = golden_case.file
    shapes = shapes_in(g, golden_case.settings)
    module, rename = on_meta(lambda: module_of(g, shapes))
    places = renamed_keys(shapes, rename)
    dropped = {key for key, place in places.items() if place is None}
    assert all("pos_embed" in key for key in dropped)
    ours = shapes_of(module.state_dict())
    assert {p: shapes[k] for k, p in places.items() if p is not None} == ours
    assert sum(p.numel() for p in module.parameters()) == golden_case.settings["n_params"]


@claims
def test_a_pretrained_file_fills_the_classifier(golden):
    told = golden.settings["load"].partition(":")[0]
    if not golden.gives(f"{told}/*"):
        return
    lists = [shapes_in(golden, case) for case in golden.cases.values()]
    by_role = {role_of(shapes): shapes for shapes in lists}
    shapes = by_role.get("student") or by_role["pretrain"]
    state = {k: torch.zeros(s, device="meta") for k, s in shapes.items()}
    config = encoder_in(golden, shapes, role_of(shapes))
    module = on_meta(lambda: VideoClassifier(config, num_classes=10))
    rename = (
        *((f"{prefix}", prefix) for prefix in ("decoder", "encoder_to", "mask_token", "pos_embed")),
        *((f"{prefix}", prefix) for prefix in ("down_", "encoder.")),
        ("", "encoder."),
    )
    report = load_weights(module, state, rename=rename, min_share=0.9)
    bare = [str(name).removeprefix("encoder.") for name in report.unused]
    for part, names in (("missing", report.missing), ("unexpected", bare)):
        name = f"{told}/{part}"
        expected = [str(n) for n in golden[name]] if name in golden else []
        back = {n.removeprefix("encoder."): n for n in expected} if part == "unexpected" else {}
        found = [back.get(n, n) for n in names]
        golden.check(name, sorted(found, key=lambda n: _place(expected, n)))


def _place(expected, name):
    return expected.index(name) if name in expected else len(expected)


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
