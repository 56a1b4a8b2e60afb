"""Every pre-training recipe in the tree, its networks and clips shrunk, so that it is built and run in a moment."""

from __future__ import annotations

from pathlib import Path

from video_ssl.pretrain.recipe import PretrainRecipe, load_pretrain_recipe, recipe_to_dict
from video_ssl.recipes import list_recipes, to_yaml

RECIPES = sorted(list_recipes("pretrain"))
VIT = ["preset=null", "embed_dim=16", "depth=2", "num_heads=2", "patch_size=16"]
FRAMES = [
    *("backbone=small", "small_width=4", "fc_dims=[16]", "hidden_dim=16", "num_layers=1"),
    *("num_heads=2", "ffn_dim=16", "embed_dim=12", "frozen_parts=0"),
]
#: What is small of a network, by the class of its settings; and the side of a crop that leaves something of the maps.
VATT_PARTS = {
    "video": ["depth=1", "embed_dim=8", "ffn_dim=8", "num_heads=2", "patch_size=16"],
    "audio": ["depth=1", "embed_dim=8", "ffn_dim=8", "num_heads=2", "patch_samples=16"],
    "text": ["depth=1", "embed_dim=8", "ffn_dim=8", "num_heads=2", "word_dim=4"],
    "shared": [
        *("depth=1", "embed_dim=8", "ffn_dim=8", "num_heads=2", "patch_samples=16"),
        *("word_dim=4", "projection_dim=8"),
    ],
}
NETWORKS = {
    "ViTConfig": VIT,
    "ImageViTConfig": VIT,
    "R3DConfig": ["preset=null", "blocks=[1,1,1,1]", "filters=[2,2,3,3]", "stem_width=4"],
    "R2Plus1DConfig": ["preset=null", "depth=10", "widths=[4,4,4,4,4]", "block=r2plus1d"],
    "FrameTransformerConfig": FRAMES,
    "SwinConfig": [
        "preset=null",
        "embed_dim=4",
        "depths=[1,1,2,1]",
        "num_heads=[1,1,1,1]",
        "window=[2,2,2]",
    ],
    "VQConfig": ["width=4", "dim=3", "vocab_size=7"],
    "PatchWordsConfig": ["vocab_size=7"],
    "DiscreteVAEConfig": ["width=4", "vocab_size=7"],
    "S3DGConfig": ["width_divisor=16"],
    "ZooConfig": [],
}
SIZES = {
    "SwinConfig": 64,
    "VQConfig": 32,
    "PatchWordsConfig": 32,
    "DiscreteVAEConfig": 32,
    "FrameTransformerConfig": 80,
    "R2Plus1DConfig": 64,
}
DECODER = ["decoder.embed_dim=16", "decoder.depth=1", "decoder.num_heads=2"]
MASKED = [*DECODER, "clip.num_frames=4"]
FRAME_SETS = ["frames.num_frames=6", "init.kind=random", "init.file=null"]
#: What is small of the objectives themselves.
OBJECTIVE = {
    "mae": [*DECODER, "frames_per_video=2"],
    "videomae": MASKED,
    "mvd": [*MASKED, "image.size=null", "video.size=null"],
    "supervised": ["init=null", "clip.num_frames=4", "num_classes=2"],
    "supervised_sound": [
        *("init=null", "rate=160", "num_samples=64", "num_classes=2", "multilabel=false"),
    ],
    "carl": FRAME_SETS,
    "tcc": FRAME_SETS,
    "tcn": FRAME_SETS,
    "bevt": ["clip.num_frames=4", "mask.count=8", "mask.least=2", "init=null"],
    "tokenizer": ["frames_per_video=2"],
    "hico": [
        "clip.num_frames=8",
        "clip.fps=60",
        "clip.frame_stride=2",
        "hidden_dims=[5]",
        "out_dim=4",
        "topic_hidden=4",
    ],
    "cvrl": ["hidden_dims=[5]", "out_dim=4", "num_frames=4"],
    "const_cl": [
        *("hidden_dims=[5]", "out_dim=4", "num_frames=4", "local.context_level=1"),
        *("local.decoder.num_layers=1", "local.decoder.num_heads=1", "regions.count=3"),
        "local.decoder.num_channels=4",
    ],
    "vatt": [
        *("num_frames=8", "rate=160", "num_samples=64", "num_words=4", "num_captions=2"),
        *(
            "vocabulary=null",
            "word_vectors=null",
            "words=[<pad>, <bos>, <eos>, <unk>, a]",
            "heads.sound_dim=6",
        ),
        *("heads.text_dim=5", "loss.replicas=1"),
    ],
    "teg": ["heads.hidden_dims=[5]", "heads.out_dim=4", "long_frames=4", "short_frames=4"],
}
RUN = [
    *("data.balance=null", "loader.num_workers=0", "optimizer.layer_decay=null"),
    *("training.device=cpu", "training.precision=fp32", "training.accumulation=1"),
    "training.global_batch_size=2",
    "validation=null",
]


def a_recipe_of(objective: str) -> str:
    """Returns the name of the objective's demo, or where it has none (TCC learns nothing in minutes) of `small`."""
    return f"{objective}/{'demo' if f'{objective}/demo' in RECIPES else 'small'}"


def small_recipe(name: str, folder: Path, table: str = "nowhere") -> PretrainRecipe:
    """Returns a recipe of the tree in its smallest size.

    Args:
        name: of the recipe.
        folder: where recipes of its stages are written, those of the small MAE and VideoMAE.
        table: in place of its own.
    """
    full = load_pretrain_recipe(name)
    encoder = full.objective.encoder
    kind = "ViTConfig" if encoder is None else type(encoder).__name__
    objective = list(OBJECTIVE[full.objective_name])
    if hasattr(full.objective, "crop"):
        objective.append(f"crop.size={SIZES.get(kind, 32)}")
    if full.objective_name == "supervised_sound":
        part = ", ".join(text.replace("=", ": ") for text in VATT_PARTS["audio"])
        objective.append(f"encoder={{preset: null, {part}}}")
    elif (
        encoder is None
    ):  # fine-tuning takes it from the run that it goes on from, which is not there
        objective += [f"encoder={{{', '.join(text.replace('=', ': ') for text in VIT)}}}"]
    elif full.objective_name == "vatt":  # it has three encoders, or one transformer for all
        parts = ["shared"] if full.objective.shared else ["video", "audio", "text"]
        objective += [f"{part}.{text}" for part in parts for text in VATT_PARTS[part]]
    else:
        objective += [f"encoder.{text}" for text in NETWORKS[kind]]
    if full.objective_name == "mvd":
        for teacher, stage in (("image", "mae/demo"), ("video", "videomae/demo")):
            file = folder / f"{teacher}.yaml"
            if not file.is_file():
                file.write_text(to_yaml(recipe_to_dict(small_recipe(stage, folder))))
            objective.append(f"{teacher}.source={{recipe: {file}}}")
    if full.objective_name == "bevt":
        file = folder / "tokenizer.yaml"
        if not file.is_file():
            file.write_text(to_yaml(recipe_to_dict(small_recipe("tokenizer/demo", folder))))
        objective.append(f"tokenizer={{recipe: {file}}}")
    streams = [f"data.streams.{name}={{table: {table}, records: 2}}" for name in full.data.streams]
    settings = [*RUN, *streams, f"data.table={table}", *(f"objective.{text}" for text in objective)]
    return load_pretrain_recipe(name, settings)
