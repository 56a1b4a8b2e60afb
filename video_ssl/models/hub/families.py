"""Which models of `transformers` are encoders here, and what has to be known of each.  Free of torch.

A new one is a line, if its class gives one token for each patch behind those that are none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: Settings that bound how large a network becomes, and the most that anybody has.
_LARGEST = {
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "projection_dim", "projection_size"), 2**16
    ),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_register_tokens"), 2**10),
    **dict.fromkeys(("pred_hidden_size", "pred_num_mask_tokens"), 2**16),
    **dict.fromkeys(("pred_num_hidden_layers", "pred_num_attention_heads"), 2**10),
    **dict.fromkeys(("image_size", "crop_size", "patch_size", "tubelet_size"), 2**14),
    **dict.fromkeys(("num_frames", "frames_per_clip"), 2**14),
    **dict.fromkeys(("num_patches", "max_position_embeddings"), 2**18),
    "num_channels": 2**10,
    "in_chans": 2**10,
    "vocab_size": 2**22,
}
_MOST_TOKENS = 2**18
#: Settings of the library itself, and of heads that are left out; none changes a feature.
LEFT_OUT = frozenset(
    {
        *(
            "architectures",
            "dtype",
            "torch_dtype",
            "transformers_version",
            "id2label",
            "label2id",
            "problem_type",
        ),
        *(
            "return_dict",
            "output_attentions",
            "output_hidden_states",
            "is_encoder_decoder",
            "use_cache",
        ),
        *(
            "chunk_size_feed_forward",
            "tie_word_embeddings",
            "attn_implementation",
            "model_type",
            "num_labels",
        ),
        *("out_features", "out_indices", "stage_names", "apply_layernorm", "reshape_hidden_states"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A tower.

    Attributes:
        title: what users call it.
        config, model: classes of `transformers`.
        whole: attribute of the config of a model of several towers that describes this one; the config says
            `model_type` without the ending of the tower.
        sees: single frames, or clips.
        options: of the constructor of the model.
        trunk: attribute of the model that is its encoder; "" = the model.
        first: tokens before the patches, registers apart.
        sizes: frames of other sizes than trained: "never", "asked" (the library wants to be told), or "always".
        pooled: what stands for a class token is `pooler_output`.
        common: "text" where `pooler_output` lies in a space with texts, "projected" where a layer behind leads there.
        argument: name of the input.
    """

    title: str
    config: str
    model: str
    whole: str = ""
    sees: Literal["frames", "clips"] = "frames"
    options: Mapping[str, Any] = field(default_factory=dict)
    trunk: str = ""
    first: int = 1
    sizes: Literal["never", "asked", "always"] = "asked"
    pooled: bool = False
    common: Literal["", "text", "projected"] = ""
    argument: str = "pixel_values"


_NO_POOLER = {"add_pooling_layer": False}

#: `model_type` of the tower -> what is known of it.
FAMILIES: dict[str, Family] = {
    "vit": Family(title="ViT", config="ViTConfig", model="ViTModel", options=_NO_POOLER),
    # A distillation token stands behind the class token.
    "deit": Family(
        title="DeiT", config="DeiTConfig", model="DeiTModel", options=_NO_POOLER, first=2
    ),
    "vit_msn": Family(title="MSN", config="ViTMSNConfig", model="ViTMSNModel"),
    "ijepa": Family(
        title="I-JEPA", config="IJepaConfig", model="IJepaModel", options=_NO_POOLER, first=0
    ),
    "dinov2": Family(title="DINOv2", config="Dinov2Config", model="Dinov2Model", sizes="always"),
    "dinov2_with_registers": Family(
        title="DINOv2 with registers",
        config="Dinov2WithRegistersConfig",
        model="Dinov2WithRegistersModel",
        sizes="always",
    ),
    "dinov3_vit": Family(
        title="DINOv3 (ViT)", config="DINOv3ViTConfig", model="DINOv3ViTModel", sizes="always"
    ),
    "clip_vision_model": Family(
        title="CLIP",
        config="CLIPVisionConfig",
        model="CLIPVisionModelWithProjection",
        whole="vision_config",
        pooled=True,
        common="projected",
    ),
    "siglip_vision_model": Family(
        title="SigLIP, SigLIP 2",
        config="SiglipVisionConfig",
        model="SiglipVisionModel",
        whole="vision_config",
        first=0,
        pooled=True,
        common="text",
    ),
    # The network takes patches, so that frames of any aspect fit; they are cut here.
    "siglip2_vision_model": Family(
        title="SigLIP 2 (NaFlex)",
        config="Siglip2VisionConfig",
        model="Siglip2VisionModel",
        whole="vision_config",
        first=0,
        sizes="always",
        pooled=True,
        common="text",
    ),
    "videomae": Family(
        title="VideoMAE",
        config="VideoMAEConfig",
        model="VideoMAEModel",
        sees="clips",
        first=0,
        sizes="never",
    ),
    # Its rotations count patches in rows of the trained size; of other sizes they are told where a token is.
    "vjepa2": Family(
        title="V-JEPA 2",
        config="VJEPA2Config",
        model="VJEPA2Model",
        sees="clips",
        trunk="encoder",
        first=0,
        sizes="always",
        argument="pixel_values_videos",
    ),
}

#: The same of towers of text.
TEXT_FAMILIES: dict[str, Family] = {
    "clip_text_model": Family(
        title="CLIP",
        config="CLIPTextConfig",
        model="CLIPTextModelWithProjection",
        whole="text_config",
        common="projected",
    ),
    "siglip_text_model": Family(
        title="SigLIP, SigLIP 2",
        config="SiglipTextConfig",
        model="SiglipTextModel",
        whole="text_config",
        common="text",
    ),
    "siglip2_text_model": Family(
        title="SigLIP 2 (NaFlex)",
        config="Siglip2TextConfig",
        model="Siglip2TextModel",
        whole="text_config",
        common="text",
    ),
}


def supported() -> str:
    """Returns the models that are known, for an error."""
    named = (f"{family.title} ({name})" for name, family in FAMILIES.items())
    return ", ".join(named)


def side_of(value: Any, name: str) -> int:
    """Returns the side of a square that a setting says as a number, as a pair or as a dict of height and width.

    Raises:
        ValueError: none of these, or no square.
    """
    given = value
    if isinstance(value, Mapping):
        given = [value.get("height"), value.get("width")]
    sides = list(given) if isinstance(given, (list, tuple)) else [given]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in sides)
    if not sides or not whole or len(set(sides)) != 1:
        raise ValueError(
            f"{name}={value!r} must be a positive number, or two equal ones: a square."
        )
    return int(sides[0])


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for settings of a stranger's model that no network has."""
    for name, largest in _LARGEST.items():
        value = settings.get(name)
        if value is None:
            continue
        for number in value if isinstance(value, (list, tuple)) else (value,):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if not whole or not 0 <= number <= largest:
                raise ValueError(f"{name}={value!r} must be a whole number of at most {largest:,}.")
    patch = settings.get("patch_size")
    image = settings.get("crop_size", settings.get("image_size"))
    if patch is None or image is None:
        return
    side = side_of(image, "image_size") // side_of(patch, "patch_size")
    frames = settings.get("frames_per_clip", settings.get("num_frames", 1))
    tokens = side * side * max(frames // max(settings.get("tubelet_size", 1), 1), 1)
    if side < 1 or tokens > _MOST_TOKENS:
        raise ValueError(
            f"image_size={image} with patch_size={patch} makes {tokens:,} tokens: 1 to {_MOST_TOKENS:,} are possible."
        )
