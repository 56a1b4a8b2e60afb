"""Swins out of the checkpoints of BEVT and of Video Swin, and back.

Read are files of mmcv (BEVT's joint stage, fine-tuned ones, Video Swin's releases), raw or with the running averages
that lie beside the weights (family "bevt_ema"), and BEVT's stage of pictures, whose weights are made those of clips.
None of the hosted files was opened: keys and containers are those of the code (papers/bevt.md section 8; unverified).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import inflated, window_of
from video_ssl.models.networks.windows import Triple, relative_index
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError, load_weights

#: Where this code keeps its tensors.
CONTAINER = "state_dict"
EMA = "ema_"
PATCH, TABLE = "patch_embed.proj.weight", "relative_position_bias_table"
INDEX, SHIFT_MASK = "relative_position_index", "attn_mask"
#: Prefixes of the backbone; the loader of BEVT takes them off.
_PREFIXES = ("backbone.", "encoder.")
#: What BEVT has around the encoder, by the names of its code.
_AROUND = ("mask_token", "lm_down.", "fpn.", "lm_down_st.", "fpn_s.", "fpn_t.", "lm_head.")
_CLASSIFIER = "cls_head.fc_cls."
_BLOCK = re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.")
#: Frames of a token where the file is one of pictures, and moments of a window: BEVT's.
_FRAMES, _MOMENTS = 2, 8


@dataclass
class _Named:
    """The tensors of a file by the names of the backbone, and what became of its keys."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # our name -> key of the file
    indices: dict[str, Tensor] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the Swin of a checkpoint file, see `Reader`; "bevt_ema" takes the averages beside the weights."""
    state = source.checkpoint.state if source.is_file else {}
    if family == "bevt_ema":
        state = _averages(state, str(source.path))
    named = _named(state)
    if PATCH not in named.tensors or not any(key.endswith(TABLE) for key in named.tensors):
        if family == "auto":
            return None
        raise WeightsError(
            f"{source.path} has not the keys of a Swin: no {PATCH} and {TABLE}, bare or below {', '.join(_PREFIXES)}."
        )
    is_pictures = named.tensors[PATCH].dim() == 4
    window = _window(named, is_pictures=is_pictures, name=str(source.path))
    _check_indices(named, window, is_pictures=is_pictures, name=str(source.path))
    own = named.tensors
    if is_pictures:
        own = inflated(own, window=window, frames=_FRAMES)
        named.keys |= {k: named.keys[k.replace("patch_embed_2d.", "patch_embed.")] for k in own
                       if k.startswith("patch_embed_2d.")}  # fmt: skip
    classifier = {
        k: own.pop(f"{_CLASSIFIER}{k}") for k in ("weight", "bias") if f"{_CLASSIFIER}{k}" in own
    }
    around = {k: v for k, v in own.items() if k.startswith(_AROUND)}
    preprocess = _clips(window, sizes, fine_tuned=bool(classifier))
    config = _config(own, window, preprocess.num_frames, str(source.path))
    encoder = VideoSwin(config)
    wanted = encoder.state_dict()
    filling = {k: v for k, v in own.items() if k in wanted}
    report = load_weights(encoder, filling, min_share=min_share)
    places = [*report.matched, *around, *(f"{_CLASSIFIER}{k}" for k in classifier)]
    left = [named.keys[k] for k in own if k not in wanted and k not in around]
    return Published(
        encoder=encoder,
        preprocess=preprocess,
        family="bevt" if around or is_pictures else "video_swin",
        layout="original",
        heeds=(*CLIPS, "min_share"),
        form="image_stream" if is_pictures else "finetuned" if classifier else "pretrained",
        container=source.checkpoint.container,
        report=replace(
            report,
            matched=tuple(places),
            renamed={named.keys[k]: k for k in places if named.keys[k] != k},
            unused=(*left, *named.unused),
            computed=tuple(named.keys[k] for k in named.indices),
            notes=tuple(_notes(source.checkpoint.state, named, family, is_pictures=is_pictures)),
        ),
        table=f"a table for windows of {window}",
        decoders=around,
        classifier=classifier,
    )


def original_state(model: Published) -> dict[str, Tensor]:
    """Returns a model under the names of BEVT's and Video Swin's code, with the indices that its files carry; the stage
    of pictures, where that is what was read, as one of pictures."""
    encoder: VideoSwin = model.encoder
    window = encoder.config.window
    state = {**encoder.state_dict(), **model.decoders}
    if model.form == "image_stream":
        state, window = _of_pictures(state, window), (1, *window[1:])
    index = torch.from_numpy(relative_index(window).copy())
    state |= {k.replace(TABLE, INDEX): index.clone() for k in list(state) if k.endswith(TABLE)}
    heads = {k: v for k, v in state.items() if k.startswith("lm_head.")}
    found = {f"backbone.{k}": v for k, v in state.items() if k not in heads}
    found |= {f"cls_head.{k}": v for k, v in heads.items()}
    if not lost_parts(model):
        found |= {f"{_CLASSIFIER}{k}": v for k, v in model.classifier.items()}
    return {k: v.detach().clone().contiguous() for k, v in found.items()}


def lost_parts(model: Published) -> tuple[str, ...]:
    """Returns what `original_state` leaves out: that code has no classifier of features of length 1, nor one behind a
    norm of its own."""
    protocol = model.protocol
    other = "norm.weight" in model.classifier or (protocol is not None and protocol.unit_length)
    return ("classifier",) if other else ()


def _named(state: Mapping[str, Tensor]) -> _Named:
    found = _Named()
    for key, value in state.items():
        name = key.removeprefix("cls_head.") if key.startswith("cls_head.lm_head.") else key
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
        if name.startswith("fc_norm."):
            name = name.removeprefix("fc_")
        if name.startswith((EMA, "cls_head.vae_encoder.")):
            found.unused.append(key)
        elif name.endswith((INDEX, SHIFT_MASK)):
            found.indices[name], found.keys[name] = value, key
        elif name in found.tensors:
            raise WeightsError(f"two keys of the file would fill {name!r}; one is {key!r}.")
        else:
            found.tensors[name], found.keys[name] = value, key
    return found


def _averages(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of a file with the averages of all that have one; their names have lost their dots."""
    found = {key: value for key, value in state.items() if not key.startswith(EMA)}
    replaced = {k: state[a] for k in found if (a := EMA + k.replace(".", "_")) in state}
    if not replaced:
        raise WeightsError(
            f"{name} holds no running averages ({EMA}*): leave out --family bevt_ema for its weights."
        )
    lacking = [
        k
        for k, v in found.items()
        if k not in replaced and v.is_floating_point() and "vae_encoder" not in k
    ]
    if lacking:
        raise WeightsError(
            f"{name} has averages of some weights only: none of {', '.join(lacking[:4])}."
        )
    return {**found, **replaced}


def _window(named: _Named, *, is_pictures: bool, name: str) -> Triple:
    """The full window, from the tables and, where the file has them, the indices of positions."""
    key = next(key for key in named.tensors if key.endswith(TABLE))
    index = named.indices.get(key.replace(TABLE, INDEX))
    rows = len(named.tensors[key])
    found = window_of(rows, None if index is None else len(index))
    if found is None or (is_pictures and found[0] != 1):
        raise WeightsError(f"{name}: {key} has {rows} rows, which is no table of square windows.")
    return (_MOMENTS, *found[1:]) if is_pictures else found


def _check_indices(named: _Named, window: Triple, *, is_pictures: bool, name: str) -> None:
    """Raises WeightsError where a file numbers the differences of positions in another way."""
    for key, index in named.indices.items():
        table = named.tensors.get(key.replace(INDEX, TABLE))
        if key.endswith(SHIFT_MASK) or table is None:
            continue
        full = window_of(len(table), len(index)) if is_pictures else window
        if full is None or not torch.equal(index, torch.from_numpy(relative_index(full))):
            raise WeightsError(
                f"{name}: {named.keys[key]} is not the index of windows of {full or window}: the rows of its table "
                "would mean other differences."
            )


def _config(own: Mapping[str, Tensor], window: Triple, num_frames: int, name: str) -> SwinConfig:
    """The settings that the shapes tell."""
    counts: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.match, own)):
        stage, block = map(int, match.groups())
        counts[stage] = max(counts.get(stage, 0), block + 1)
    first = {stage: f"layers.{stage}.blocks.0." for stage in range(4)}
    lacking = [
        p
        for p in first.values()
        if f"{p}attn.{TABLE}" not in own or f"{p}mlp.fc1.weight" not in own
    ]
    if sorted(counts) != [0, 1, 2, 3] or lacking:
        raise WeightsError(
            f"{name} has blocks in the stages {sorted(counts)}: a Swin here has whole ones in four, 0 to 3."
        )
    heads = [own[f"{first[stage]}attn.{TABLE}"].shape[-1] for stage in range(4)]
    hidden, width = own[f"{first[0]}mlp.fc1.weight"].shape
    patch = own[PATCH].shape[2:]
    try:
        return SwinConfig(
            preset=None,
            embed_dim=own[PATCH].shape[0],
            depths=(counts[0], counts[1], counts[2], counts[3]),
            num_heads=(heads[0], heads[1], heads[2], heads[3]),
            window=window,
            patch=(patch[0], patch[1], patch[2]),
            mlp_ratio=hidden / width,
            images="patch_embed_2d.proj.weight" in own,
            num_frames=num_frames,
        )
    except ValueError as err:
        raise WeightsError(f"{name}: {err}") from err


def _clips(window: Triple, sizes: Sizes, *, fine_tuned: bool) -> VideoPreprocess:
    """Clips as the code makes them: 16 frames, every eighth, in pre-training; 32 in fine-tuning, every second or, with
    windows over all of their moments (Something-Something v2), one of each of 32 segments."""
    segments = fine_tuned and window[0] > _MOMENTS
    return VideoPreprocess(
        num_frames=sizes.num_frames or (32 if fine_tuned else 16),
        frame_stride=2 if fine_tuned else 8,
        size=sizes.image_size or 224,
        sampling="segments" if segments else "looped",
    )


def _notes(
    state: Mapping[str, Tensor], named: _Named, family: str, *, is_pictures: bool
) -> list[str]:
    notes = []
    if is_pictures:
        notes.append(
            "a Swin of pictures: its embedding is repeated over the frames of a token, its tables over all differences "
            "in time, as BEVT's second stage begins."
        )
    if family != "bevt_ema" and any(key.startswith(EMA) for key in state):
        notes.append(
            "the raw weights; the file holds running averages too, which --family bevt_ema takes."
        )
    if any("vae_encoder." in key for key in named.unused):
        notes.append("the tokenizer in the file is left out: --family dalle reads it.")
    return notes


def _of_pictures(state: Mapping[str, Tensor], window: Triple) -> dict[str, Tensor]:
    """The weights of a stage of pictures as `inflated` has found them."""
    found = {}
    slab = (2 * window[1] - 1) * (2 * window[2] - 1)
    for key, value in state.items():
        if key.startswith("patch_embed."):
            continue
        if key.endswith(TABLE):
            value = value[(window[0] - 1) * slab : window[0] * slab]  # equal moments
        found[key.replace("patch_embed_2d.", "patch_embed.")] = value
    return found
