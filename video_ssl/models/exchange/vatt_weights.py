"""Encoders out of VATT's TensorFlow checkpoints, without TensorFlow: both families, pre-trained and fine-tuned.

One checkpoint holds the encoders of video, sound and words (a modality-agnostic one three whose transformer is the
same); the family says which is read.  The key names are those of papers/vatt.md section 8, tested on a checkpoint of a
small model of the same class structure.  The published files themselves were not opened, and where a fine-tuned one
keeps its classifier is unverified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from video_ssl.clips.vocabulary import VocabularyError, read_vocabulary
from video_ssl.models.encoders import build_encoder
from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.tf_checkpoint import (
    TFCheckpointError,
    is_bookkeeping,
    read_tf_checkpoint,
)
from video_ssl.models.networks.vatt_bridge import SUFFIX, Arrays, from_kernel, from_tf
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.preprocess_config import (
    VOCABULARY,
    Preprocess,
    SoundPreprocess,
    TextPreprocess,
    VideoPreprocess,
)
from video_ssl.models.weights import WeightsError, load_weights

#: Family -> the encoder of a checkpoint that it reads.
FAMILIES = {"vatt_video": "video", "vatt_sound": "sound", "vatt_text": "text"}
#: Published with the checkpoints; ours is that of encoder folders.
VOCABULARIES = ("howto100m_en.txt", VOCABULARY)
HEAD_DIM, RATE, NUM_WORDS = 64, 48_000, 16


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns one encoder of a checkpoint, see `Reader`.

    Args:
        source: the `.index` file of a checkpoint, one of its data files, or a folder with exactly one.  Words need the
            vocabulary beside it, `howto100m_en.txt` or `vocabulary.txt`.
        family: of `FAMILIES`; "auto" reads none, as the file does not say which encoder is meant.
        sizes: of the clips of the result; position tables are resampled wherever these differ.
        num_heads: by default those of 64 numbers each.
        min_share: least share of the encoder's weights that must be filled.

    Raises:
        WeightsError: no checkpoint of VATT, no such encoder in it, or a vocabulary that does not fit.
    """
    if family == "auto":
        return None
    arrays = _read_arrays(source.path)
    states, unused = from_tf(arrays)
    name = FAMILIES[family]
    if name not in states:
        there = ", ".join(states) or "no encoder of VATT"
        raise WeightsError(
            f"{source.path} has no encoder of {name}; it has {there}. The first keys are "
            f"{', '.join(sorted(arrays)[:4]) or 'none'}."
        )
    state = states[name]
    config = _with_sizes(_config(name, state, num_heads), sizes)
    encoder = build_encoder(config)
    tensors = {key: torch.from_numpy(value) for key, value in state.items()}
    report = load_weights(encoder, tensors, min_share=min_share)
    others = [other for other in states if other != name]
    notes = (
        [f"the file also holds the encoders of {', '.join(others)}: see family."] if others else []
    )
    classifier = _classifier(arrays, config.width)
    left = [key for key in unused if key.removesuffix(SUFFIX) not in classifier]
    return Published(
        encoder=encoder,
        preprocess=_preprocess(config, source.path),
        family=family,
        heeds=("num_heads", "min_share", *(CLIPS if name == "video" else ())),
        report=replace(report, unused=tuple(left), notes=(*report.notes, *notes)),
        layout="TensorFlow",
        form="fine-tuned" if classifier else "pretrained",
        table="learned tables, resampled by a spline where the clip has another grid",
        classifier={
            "weight" if value.ndim == 2 else "bias": torch.from_numpy(
                from_kernel(value) if value.ndim == 2 else value.copy()
            )
            for value in classifier.values()
        },
    )


def _read_arrays(path: Path) -> Arrays:
    try:
        return read_tf_checkpoint(path, wanted=lambda name: not is_bookkeeping(name))
    except TFCheckpointError as err:
        raise WeightsError(str(err)) from err


def _config(name: str, state: Arrays, num_heads: int | None) -> Any:
    """The settings of an encoder, read off the shapes of its weights."""
    settings = _transformer(state, num_heads)
    if name != "text":
        settings["projection_dim"] = _rows(state, "post_proj.weight")
    if name == "video":
        return _video(state, settings)
    if name == "sound":
        return _sound(state, settings)
    places, word_dim = state["words.frozen_table"].shape
    settings |= {"vocab_size": places, "word_dim": word_dim, "heads": _heads(state, text=True)}
    if "relative.table" in state:
        return VattTextConfig(num_buckets=len(state["relative.table"]), **settings)
    settings["projection_dim"] = _rows(state, "post_proj.weight")
    return VattWordsConfig(num_words=len(state["positions.temporal"]), **settings)


def _transformer(state: Arrays, num_heads: int | None) -> dict[str, Any]:
    """The sizes of the transformer."""
    blocks = {int(m[1]) for m in map(re.compile(r"transformer\.blocks\.(\d+)\.").match, state) if m}
    if not blocks or "transformer.blocks.0.mlp.fc1.weight" not in state:
        raise WeightsError("the checkpoint has no transformer of VATT: its blocks are missing.")
    hidden, width = state["transformer.blocks.0.mlp.fc1.weight"].shape
    if num_heads is None and "relative.table" in state:
        num_heads = state["relative.table"].shape[1]
    if num_heads is None and width % HEAD_DIM:
        raise WeightsError(
            f"a transformer of width {width} has no heads of {HEAD_DIM} numbers, as all published ones: give num_heads."
        )
    return {
        "preset": None,
        "embed_dim": width,
        "depth": max(blocks) + 1,
        "ffn_dim": hidden,
        "num_heads": num_heads or width // HEAD_DIM,
    }


def _video(state: Arrays, settings: dict[str, Any]) -> VattVideoConfig:
    tubelet, patch = state["patch_embed.weight"].shape[2:4]
    t, h, w = (len(state[f"positions.{axis}"]) for axis in ("temporal", "vertical", "horizontal"))
    if h != w:
        raise WeightsError(f"the position tables are of {h} x {w} patches: only squares are read.")
    return VattVideoConfig(
        tubelet_size=tubelet,
        patch_size=patch,
        num_frames=t * tubelet,
        image_size=h * patch,
        table_frames=t * tubelet,
        table_size=h * patch,
        heads=_heads(state),
        **settings,
    )


def _sound(state: Arrays, settings: dict[str, Any]) -> VattAudioConfig:
    patch = state["patch_embed.weight"].shape[2]
    samples = len(state["positions.temporal"]) * patch
    return VattAudioConfig(
        patch_samples=patch,
        num_samples=samples,
        table_samples=samples,
        heads=_heads(state),
        **settings,
    )


def _heads(state: Arrays, *, text: bool = False) -> VattHeadsConfig | None:
    """The heads; a width that an encoder does not show keeps its default."""
    if "heads.sound.weight" in state:
        return VattHeadsConfig(
            sound_dim=len(state["heads.sound.weight"]), text_dim=len(state["heads.text.weight"])
        )
    if "heads.dense.weight" not in state:
        return None
    width = len(state["heads.dense.weight"])
    return VattHeadsConfig(text_dim=width) if text else VattHeadsConfig(sound_dim=width)


def _rows(state: Arrays, name: str) -> int | None:
    return len(state[name]) if name in state else None


def _with_sizes(config: Any, sizes: Sizes) -> Any:
    """The same for clips of other sizes; the tables keep theirs."""
    if not isinstance(config, VattVideoConfig):
        return config
    return replace(
        config,
        num_frames=sizes.num_frames or config.num_frames,
        image_size=sizes.image_size or config.image_size,
    )


def _classifier(arrays: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The classifier of a fine-tuned checkpoint, kernel and bias by key without suffix; {} where there is none."""
    found = {
        key.removesuffix(SUFFIX): value
        for key, value in arrays.items()
        if re.search(r"classification/weights/(kernel|bias)$", key.removesuffix(SUFFIX))
    }
    kernels = [value for value in found.values() if value.ndim == 2 and len(value) == width]
    fits = len(found) == 2 and len(kernels) == 1
    return found if fits else {}


def _preprocess(config: Any, path: Path) -> Preprocess:
    """How the clips of pre-training are made.  Source: papers/vatt.md section 2."""
    if isinstance(config, VattVideoConfig):
        half = (0.5, 0.5, 0.5)
        assert config.num_frames is not None
        assert config.image_size is not None
        return VideoPreprocess(
            num_frames=config.num_frames,
            frame_stride=1,
            fps=10.0,
            size=config.image_size,
            mean=half,
            std=half,
        )
    if isinstance(config, VattAudioConfig):
        assert config.num_samples is not None
        return SoundPreprocess(rate=RATE, num_samples=config.num_samples)
    length = config.num_words if isinstance(config, VattWordsConfig) else NUM_WORDS
    return TextPreprocess(vocabulary=_vocabulary(path, config.places), length=length)


def _vocabulary(path: Path, places: int) -> tuple[str, ...]:
    folder = path if path.is_dir() else path.parent
    file = next((folder / name for name in VOCABULARIES if (folder / name).is_file()), None)
    if file is None:
        raise WeightsError(
            f"the encoder of words needs its vocabulary: put {VOCABULARIES[0]} (of misc_data.tgz), a file of {places} "
            f"words, one a line, into {folder}."
        )
    try:
        words = read_vocabulary(file)
    except VocabularyError as err:
        raise WeightsError(str(err)) from err
    if len(words) != places:
        raise WeightsError(
            f"{file} has {len(words)} words, but the encoder has {places}: it is the vocabulary of another one."
        )
    return words
