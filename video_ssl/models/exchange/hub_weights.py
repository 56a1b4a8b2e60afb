"""Towers of `transformers` out of its folders, and DINOv2 and V-JEPA 2 out of the files of their own codes, DINOv2 also
out of timm's.

The names of those codes become those under which the models are published on the hub; transformers' own reader takes
them from there.  Sources: `dinov2/models/vision_transformer.py`, `dinov2/hub/backbones.py` of facebookresearch/dinov2
@027a9ac3 (518 px, patches of 14, heads 64 wide); `src/hub/backbones.py` and `src/models/vision_transformer.py` of
facebookresearch/vjepa2 @16de6c80, @073e524a (container `target_encoder`, prefix `module.backbone.`, 64 frames, 256 px);
timm's `vit_*_dinov2` (`reg_token`, positions of patches alone).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from video_ssl.limits import read_json
from video_ssl.models.config import IMAGENET_MEAN, IMAGENET_STD
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.exchange.published_model import CLIPS, Published, Source
from video_ssl.models.exchange.sizes import Sizes, fitted
from video_ssl.models.hub.config import HubConfig
from video_ssl.models.hub.families import FAMILIES
from video_ssl.models.hub.library import complete_settings
from video_ssl.models.hub.opening import encoder_of_state, open_hub
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError

#: Folders of these are left to `published.py`, which makes networks of ours of them.
_OURS = ("vit", "videomae", "vit_mae")
#: Containers of V-JEPA 2's files, the averaged encoder first, as its code takes it.
_VJEPA2 = ("target_encoder", "encoder")
#: Heads of the networks whose heads are not 64 wide, by width.
_HEADS = {1280: 16}
_HEAD_WIDTH = 64
_QKV = re.compile(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)")
_WRAPPED = re.compile(r"^(module\.|backbone\.|_orig_mod\.)+")
#: Of no use here: positions that rotations replace, and heads.
_UNUSED = re.compile(r"^(pos_embed_?|head\.|fc_norm\.)")

Places = tuple[tuple[str, str], ...]
#: (pattern, its place), the first that fits.
_OF_DINOV2: Places = (
    (r"^(cls_token|mask_token|register_tokens)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^blocks\.(\d+)\.ls([12])\.gamma$", r"encoder.layer.\1.layer_scale\2.lambda1"),
    (r"^blocks\.(\d+)\.attn\.(query|key|value)\.", r"encoder.layer.\1.attention.attention.\2."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^blocks\.(\d+)\.mlp\.w12\.", r"encoder.layer.\1.mlp.weights_in."),
    (r"^blocks\.(\d+)\.mlp\.w3\.", r"encoder.layer.\1.mlp.weights_out."),
    (r"^blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"encoder.layer.\1.\2."),
    (r"^norm\.", "layernorm."),
)
_OF_VJEPA2: Places = (
    (r"^patch_embed\.proj\.", "encoder.embeddings.patch_embeddings.proj."),
    (r"^blocks\.(\d+)\.attn\.(query|key|value|proj)\.", r"encoder.layer.\1.attention.\2."),
    (r"^blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.", r"encoder.layer.\1.\2."),
    (r"^norm\.", "encoder.layernorm."),
)


def read(
    source: Source, *, family: str, sizes: Sizes, num_heads: int | None, min_share: float
) -> Published | None:
    """Returns the tower of a folder of transformers, or the encoder of a file of DINOv2 or V-JEPA 2, see `Reader`.

    Of "auto" the folders of ViT and VideoMAE are left to the reader that makes networks of ours of them.
    """
    if not source.is_file:
        kind = _model_type(source)
        if family == "auto" and (kind is None or kind in _OURS):
            return None
        return _of_folder(source, sizes)
    state = {_WRAPPED.sub("", key): value for key, value in source.checkpoint.state.items()}
    stem = state.get("patch_embed.proj.weight")
    if stem is not None and stem.dim() == 4 and "blocks.0.ls1.gamma" in state:
        return _of_dinov2(source, state, sizes, num_heads)
    if stem is not None and stem.dim() == 5 and source.checkpoint.container in _VJEPA2:
        return _of_vjepa2(source, state, sizes, num_heads)
    if family == "auto":
        return None
    raise WeightsError(
        f"{source.path} has not the keys of a file of DINOv2 (blocks.0.ls1.gamma) or V-JEPA 2 (below target_encoder). "
        "A model of transformers is given as its folder."
    )


def _model_type(source: Source) -> str | None:
    try:
        content = read_json(source.path / "config.json", max_bytes=2**22)
    except (OSError, ValueError):
        return None
    said = content.get("model_type") if isinstance(content, dict) else None
    # Of folders of other projects that are laid out alike nothing is known here.
    return said if isinstance(said, str) else None


def _of_folder(source: Source, sizes: Sizes) -> Published:
    encoder, preprocess, about = open_hub(str(source.path))
    preprocess = fitted(encoder, preprocess, sizes)
    return Published(
        encoder=encoder.train(),
        preprocess=preprocess,
        family="hub",
        layout="hugging_face",
        heeds=CLIPS,
        report=LoadReport(matched=tuple(encoder.state_dict()), unused=tuple(about["unused"])),
        about=about["source"],
    )


def _of_dinov2(
    source: Source, state: dict[str, Tensor], sizes: Sizes, num_heads: int | None
) -> Published:
    state = _as_dinov2(state)
    width, patch = (
        state["patch_embed.proj.weight"].shape[0],
        state["patch_embed.proj.weight"].shape[-1],
    )
    if "pos_embed" not in state or "cls_token" not in state:
        raise WeightsError(f"{source.path} lacks pos_embed or cls_token: it is no whole DINOv2.")
    patches = state["pos_embed"].shape[1] - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise WeightsError(f"pos_embed of {source.path} has {patches} patches, which is no square.")
    registers = state["register_tokens"].shape[1] if "register_tokens" in state else 0
    kind = "dinov2_with_registers" if registers else "dinov2"
    given = _common(state, num_heads) | {
        "image_size": side * patch,
        "patch_size": patch,
        "use_swiglu_ffn": "blocks.0.mlp.w12.weight" in state,
    }
    if registers:
        given["num_register_tokens"] = registers
    elif "mask_token" not in state:
        given["use_mask_token"] = False
    elif state["mask_token"].dim() != 2:
        state["mask_token"] = state["mask_token"].reshape(1, width)
    if registers and "mask_token" not in state:
        state["mask_token"] = torch.zeros(1, width)
    preprocess = VideoPreprocess(
        num_frames=8,
        size=224,
        resize_to=256,
        kernel="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    note = (
        "frames as DINOv2 was tested: the short side 256, the central 224, bicubic. Positions of other sizes are those "
        "of transformers, without the 0.1 that DINOv2 adds to the grid."
    )
    return _of_file(source, state, kind, given, _OF_DINOV2, preprocess, sizes, note)


def _as_dinov2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's keys as DINOv2 has them: registers, positions without one for the class, gates in one layer."""
    found = {
        key: value for key, value in state.items() if not key.startswith(("head.", "fc_norm."))
    }
    if "reg_token" in found:
        found["register_tokens"] = found.pop("reg_token")
    table = found.get("pos_embed")
    if table is not None and math.isqrt(table.shape[1]) ** 2 == table.shape[1]:
        found["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    first, second = (found.get(f"blocks.0.mlp.fc{n}.weight") for n in (1, 2))
    if first is not None and second is not None and first.shape[0] == 2 * second.shape[1]:
        names = {"fc1": "w12", "fc2": "w3"}
        gated = re.compile(r"mlp\.(fc[12])\.")
        found = {gated.sub(lambda m: f"mlp.{names[m[1]]}.", k): v for k, v in found.items()}
    return found


def _of_vjepa2(
    source: Source, state: dict[str, Tensor], sizes: Sizes, num_heads: int | None
) -> Published:
    stem = state["patch_embed.proj.weight"]
    side, frames = sizes.image_size or sizes.trained_size or 256, sizes.num_frames or 64
    given = _common(state, num_heads) | {
        "patch_size": stem.shape[-1],
        "tubelet_size": stem.shape[2],
        # Rotations count patches in rows of the frames they see, so that the sizes asked for are those it is made for.
        "crop_size": side,
        "frames_per_clip": frames,
        "pred_num_hidden_layers": 1,
    }
    given["mlp_ratio"] = given.pop("intermediate_size") / given["hidden_size"]
    preprocess = VideoPreprocess(
        num_frames=frames,
        size=side,
        resize_to=int(side * 256 / 224),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    note = (
        f"side {side} and {frames} frames do not show in the weights (V-JEPA 2: 256, some 384; 64 frames): "
        "--size and --num-frames."
    )
    heeds = (*CLIPS, "num_heads", *(["trained_size"] if sizes.image_size is None else []))
    return _of_file(source, state, "vjepa2", given, _OF_VJEPA2, preprocess, sizes, note, heeds)


def _common(state: Mapping[str, Tensor], num_heads: int | None) -> dict[str, Any]:
    """Settings that the weights of a ViT show."""
    width = state["patch_embed.proj.weight"].shape[0]
    blocks = {int(match[1]) for key in state if (match := re.match(r"blocks\.(\d+)\.", key))}
    if blocks != set(range(len(blocks))) or not blocks:
        raise WeightsError(
            f"the weights have transformer blocks {sorted(blocks)[:8]}, not all up to the last."
        )
    heads = num_heads or _HEADS.get(width) or width // _HEAD_WIDTH
    if heads < 1 or width % heads:
        raise WeightsError(
            f"the number of heads does not show in the weights and width {width} has no usual one: give --num-heads."
        )
    fc1 = state.get("blocks.0.mlp.fc1.weight")
    return {
        "hidden_size": width,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": heads,
        "intermediate_size": 4 * width if fc1 is None else fc1.shape[0],
        "layer_norm_eps": 1e-6,
        "qkv_bias": "blocks.0.attn.qkv.bias" in state,
    }


def _of_file(
    source: Source,
    state: Mapping[str, Tensor],
    kind: str,
    given: dict[str, Any],
    places: Places,
    preprocess: VideoPreprocess,
    sizes: Sizes,
    note: str,
    heeds: tuple[str, ...] = (*CLIPS, "num_heads"),
) -> Published:
    placed, renamed, unused = _placed(state, places)
    family = FAMILIES[kind]
    known = complete_settings(family, {})
    if (
        "intermediate_size" in given and "intermediate_size" not in known
    ):  # DINOv2 says it by a ratio
        ratio, rest = divmod(given["intermediate_size"], given["hidden_size"])
        if rest:
            raise WeightsError(
                f"{source.path}: width {given['intermediate_size']} of its MLPs is no multiple."
            )
        given = {**given, "mlp_ratio": ratio}
    try:
        config = HubConfig(model_type=kind, settings=complete_settings(family, given))
        encoder = encoder_of_state(config, placed, str(source.path))
    except EncoderError as err:
        raise WeightsError(str(err)) from err
    except ValueError as err:
        raise WeightsError(f"{source.path}: {err}") from err
    strange = [key for key in unused if not _UNUSED.match(key)]
    if strange:
        raise WeightsError(
            f"{source.path} has weights that no {family.title} has: {', '.join(strange[:4])}. Features would differ."
        )
    report = LoadReport(
        matched=tuple(encoder.state_dict()), renamed=renamed, unused=tuple(unused), notes=(note,)
    )
    return Published(
        encoder=encoder.train(),
        preprocess=fitted(encoder, preprocess, sizes),
        family="hub",
        heeds=heeds,
        container=source.checkpoint.container,
        report=report,
    )


def _placed(
    state: Mapping[str, Tensor], places: Places
) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Tensors under the names of the hub, name -> its place, and the names that have none."""
    placed: dict[str, Tensor] = {}
    renamed: dict[str, str] = {}
    unused: list[str] = []
    for key, value in _parted(state).items():
        found = next(
            (re.sub(pattern, to, key) for pattern, to in places if re.match(pattern, key)), None
        )
        if found is None:
            unused.append(key)
        else:
            placed[found] = value
            renamed[key] = found
    return placed, renamed, unused


def _parted(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With queries, keys and values apart, which are rows of one matrix in the files."""
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        match = _QKV.fullmatch(key)
        if match is None:
            found[key] = value
            continue
        for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
            found[f"blocks.{match[1]}.attn.{name}.{match[2]}"] = part
    return found
