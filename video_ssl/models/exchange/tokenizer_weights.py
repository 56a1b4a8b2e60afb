"""Tokenizers out of files of others: OpenAI's encoder in each of its forms, and BEiT v2's.

OpenAI's is read from its pickled module (`encoder.pkl`, see `pickled_modules`), from Hugging Face's form of it, and out
of a checkpoint of BEVT, which holds it below `cls_head.vae_encoder.`.  None of the hosted files was opened: names are
those of the code (papers/bevt.md section 10; unverified).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from video_ssl.models.config import ImageViTConfig
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.tokenizers.config import DalleConfig, VQKDConfig
from video_ssl.models.tokenizers.contract import Tokenizer
from video_ssl.models.tokenizers.dvae import GROUPS, DalleEncoder
from video_ssl.models.tokenizers.pictures import PictureTokenizer
from video_ssl.models.tokenizers.vqkd import VQKD
from video_ssl.models.weights import WeightsError, load_weights

#: Below it a checkpoint of BEVT holds the tokenizer.
_IN_BEVT = "cls_head.vae_encoder."
_WORDS = "quantize.embedding.weight"
#: BEiT v2's name -> ours.
_VQKD = (
    ("encoder.patch_embed.", "vit.patch_embed."),
    ("encoder.blocks.", "vit.blocks."),
    ("encoder.fc_norm.", "vit.norm."),
    ("encode_task_layer.", "project."),
)
_HEAD_WIDTH = 64


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the tokenizer of a file, see `Reader`."""
    state = source.checkpoint.state if source.is_file else {}
    found = None
    if family in ("auto", "dalle"):
        found = _dalle(state, source, min_share)
    if found is None and family in ("auto", "vqkd"):
        found = _vqkd(state, source, num_heads, min_share)
    if found is not None:
        return _with_sizes(found, sizes)
    if family != "auto":
        raise WeightsError(f"{source.path} has not the keys of a tokenizer of the family {family}.")
    return None


def _with_sizes(found: Published, sizes: Sizes) -> Published:
    """The tokenizer for other frames, which it sees one by one."""
    preprocess = found.preprocess
    assert isinstance(preprocess, VideoPreprocess)
    wanted = preprocess.with_sizes(sizes.image_size, sizes.num_frames)
    if wanted.size % found.encoder.stride:
        raise WeightsError(
            f"--size={wanted.size} does not divide into cells of {found.encoder.stride} pixels: give a multiple."
        )
    return found.with_clips(wanted)


def load_tokenizer(path: Path) -> Tokenizer:
    """Returns the frozen tokenizer of an encoder folder (or run), or of a file of others.

    Raises:
        WeightsError: a file that is none of a tokenizer; nothing of it was run.
        EncoderError: no folder with an encoder.
        TypeError: the encoder in it is no tokenizer.
    """
    if not path.is_file():
        module = load_encoder(path)
        if not isinstance(module, Tokenizer):
            raise TypeError(
                f"{path} holds a {type(module).__name__}, which is no tokenizer: objective.tokenizer takes a run of "
                "the objective `tokenizer`, or the file of OpenAI's or BEiT v2's."
            )
        return module
    found = read(Source(path), family="auto", sizes=Sizes(), num_heads=None, min_share=1.0)
    if found is None:
        raise WeightsError(
            f"{path} has the keys of no tokenizer: OpenAI's (encoder.pkl), Hugging Face's form of it, a checkpoint of "
            "BEVT with it, and BEiT v2's can be read."
        )
    tokenizer: Tokenizer = found.encoder
    return tokenizer.requires_grad_(False).eval()


# OpenAI's ------------------------------------------------------------------------------------------


def _dalle(state: Mapping[str, Tensor], source: Source, min_share: float) -> Published | None:
    places = {key: _dalle_name(key) for key in state}
    own = {place: state[key] for key, place in places.items() if place is not None}
    if "blocks.input.w" not in own or "blocks.output.conv.w" not in own:
        return None
    blocks = {m[1] for key in own if (m := re.match(r"blocks\.group_1\.block_(\d+)\.", key))}
    groups = {m[1] for key in own if (m := re.match(r"blocks\.group_(\d+)\.", key))}
    if len(groups) != GROUPS or not blocks:
        raise WeightsError(
            f"{source.path} has {len(groups)} groups of blocks: OpenAI's encoder has {GROUPS}."
        )
    try:
        config = DalleConfig(
            width=len(own["blocks.input.w"]),
            vocab_size=len(own["blocks.output.conv.w"]),
            blocks_per_group=len(blocks),
        )
    except ValueError as err:
        raise WeightsError(f"{source.path}: {err}") from err
    return _filled(DalleEncoder(config), own, places, source, "dalle", 112, min_share)


def _dalle_name(key: str) -> str | None:
    """Our name of a key of any of the forms: those of the pickled module; None for what is no part of the encoder."""
    name = key.removeprefix(_IN_BEVT)
    name = name.replace(".group.block_", ".block_").replace(".res_path.path.", ".res_path.")
    name = re.sub(r"\.weight$", ".w", re.sub(r"\.bias$", ".b", name))
    return name if name.startswith("blocks.") else None


# BEiT v2's -----------------------------------------------------------------------------------------


def _vqkd(
    state: Mapping[str, Tensor], source: Source, num_heads: int | None, min_share: float
) -> Published | None:
    if _WORDS not in state or "encode_task_layer.0.weight" not in state:
        return None
    lacking = [
        k for k in ("encoder.patch_embed.proj.weight", "encoder.pos_embed", "encoder.cls_token")
        if k not in state
    ]  # fmt: skip
    if lacking:
        raise WeightsError(f"{source.path} is not a whole tokenizer of BEiT v2: no {lacking[0]}.")
    patch = state["encoder.patch_embed.proj.weight"]
    table = state["encoder.pos_embed"]
    side = round((table.shape[1] - 1) ** 0.5)
    numbers = [int(m[1]) for key in state if (m := re.match(r"encoder\.blocks\.(\d+)\.", key))]
    try:
        vit = ImageViTConfig(
            preset=None,
            embed_dim=len(patch),
            depth=1 + max(numbers, default=-1),
            num_heads=num_heads or max(1, len(patch) // _HEAD_WIDTH),
            patch_size=patch.shape[-1],
            image_size=side * patch.shape[-1],
            positions="learned",
            qkv_bias="q_v" if "encoder.blocks.0.attn.q_bias" in state else "none",
        )
        config = VQKDConfig(vit=vit, dim=state[_WORDS].shape[1], vocab_size=len(state[_WORDS]))
    except ValueError as err:
        raise WeightsError(f"{source.path}: {err}") from err
    places = {key: _vqkd_name(key) for key in state}
    tokenizer = VQKD(config)
    wanted = tokenizer.state_dict()
    own = {place: state[key] for key, place in places.items() if place in wanted}
    own["codebook"] = nn.functional.normalize(state[_WORDS].float(), dim=-1)
    # The class token has a position too, which no patch sees alone.
    own["vit.cls_token"] = state["encoder.cls_token"] + table[:, :1]
    own["vit.positions.table"] = table[:, 1:]
    places |= {_WORDS: "codebook", "encoder.pos_embed": "vit.positions.table"}
    places["encoder.cls_token"] = "vit.cls_token"
    own = {
        k: v.reshape(wanted[k].shape) if v.numel() == wanted[k].numel() else v
        for k, v in own.items()
    }
    return _filled(tokenizer, own, places, source, "vqkd", vit.image_size or 224, min_share)


def _vqkd_name(key: str) -> str | None:
    for theirs, ours in _VQKD:
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return None


def _filled(
    tokenizer: PictureTokenizer,
    own: Mapping[str, Tensor],
    places: Mapping[str, str | None],
    source: Source,
    family: str,
    size: int,
    min_share: float,
) -> Published:
    """The tokenizer with its weights, every one of them, and what became of the keys of the file."""
    try:
        report = load_weights(tokenizer, own, min_share=min_share)
    except WeightsError as err:
        raise WeightsError(f"{source.path} is not a whole tokenizer ({family}): {err}") from err
    matched = set(report.matched)
    return Published(
        encoder=tokenizer,
        preprocess=VideoPreprocess(
            num_frames=1, frame_stride=1, size=size, mean=(0.0,) * 3, std=(1.0,) * 3
        ),
        family=family,
        heeds=(*CLIPS, "min_share", *(["num_heads"] if family == "vqkd" else [])),
        form="tokenizer",
        container=source.checkpoint.container,
        report=replace(
            report,
            renamed={k: p for k, p in places.items() if p in matched and p != k and p is not None},
            unused=tuple(k for k, p in places.items() if p not in matched),
        ),
        table="learned" if family == "vqkd" else "none",
    )
