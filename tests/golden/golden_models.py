"""Configs of our networks from the settings of a golden file, and what its numbers are made with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from golden_files import GoldenFile

from video_ssl.clips.config import MaskConfig
from video_ssl.models.config import (
    VIT_PRESETS,
    DecoderConfig,
    ImageViTConfig,
    Normalization,
    ViTConfig,
)
from video_ssl.pretrain.torch_loop.optimizers import is_decayed

_QKV_BIAS = {"q_and_v": "q_v", "full": "full"}


def encoder_config(golden: GoldenFile, key: str = "encoder", **changes: Any) -> Any:
    """The config of the transformer whose settings stand under `key`: of clips if it has tubelets, else of frames."""
    settings = golden.setting(key)
    _check_constants(settings)
    common = {
        "preset": None,
        "embed_dim": settings["embed_dim"],
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "mlp_ratio": settings["mlp_ratio"],
        "patch_size": settings["patch_size"],
        "image_size": settings["image_size"],
        "positions": settings["positions"],
        "cls_token": settings.get("cls_token", False),
        "qkv_bias": _qkv_bias(settings),
        "cosine_attention": settings.get("cos_attention", False),
        "final_norm": settings.get("final_norm", True),
        # Only whether it is there: the values are among the weights.
        "layer_scale": float(settings.get("layer_scale", False)),
    }
    if "tubelet_size" in settings:
        clip = {k: settings[k] for k in ("tubelet_size", "num_frames")}
        return ViTConfig(**{**common, **clip, **changes})
    return ImageViTConfig(**{**common, **changes})


def decoder_config(golden: GoldenFile, key: str = "decoder") -> DecoderConfig:
    """The decoder's own settings; the rest it takes from the encoder, as `check_decoder` makes sure."""
    settings = golden.setting(key)
    _check_constants(settings)
    own = {
        "embed_dim": settings["embed_dim"],
        "depth": settings["depth"],
        "num_heads": settings["num_heads"],
        "mlp_ratio": settings["mlp_ratio"],
        "drop_path": 0.0,
        "cosine_attention": settings.get("cos_attention", False),
    }
    return DecoderConfig(**own)


def _qkv_bias(settings: Mapping[str, Any]) -> str:
    if not settings.get("qkv_bias", True):
        return "none"
    return _QKV_BIAS[settings.get("qkv_bias_kind", "full")]


def _check_constants(settings: Mapping[str, Any]) -> None:
    """What every network here has fixed: numbers of a file with others could not be met, and must not look as if."""
    for name, value in (("norm_eps", 1e-6), ("activation", "gelu_erf")):
        assert settings.get(name, value) == value, f"{name}={settings[name]}: ours is {value}"


def normalization(golden: GoldenFile, key: str) -> Normalization:
    mean, std = golden.setting(f"{key}.input_mean"), golden.setting(f"{key}.input_std")
    return Normalization(mean=tuple(mean), std=tuple(std))


def mask_config(mask: Any) -> MaskConfig:
    """A config that hides as many tokens as the rows of a mask; which ones, the file gives."""
    return MaskConfig(kind="random", ratio=(int(mask[0].sum()) + 0.5) / mask.shape[-1])


def check_mask_count(settings: Mapping[str, Any], grid: tuple[int, int, int]) -> None:
    """The count that our rule of that kind and ratio gives is the reference's."""
    if "kind" in settings and "ratio" in settings:
        config = MaskConfig(kind=settings["kind"], ratio=settings["ratio"])
        assert config.num_masked(grid) == settings["masked_tokens"]


def heads_of_width(width: int) -> int:
    return {dim: heads for dim, _, heads in VIT_PRESETS.values()}[width]


def adamw_of(objective: Any, settings: Mapping[str, Any]) -> tuple[torch.optim.AdamW, set[str]]:
    """AdamW with the settings of a file, and the names of what it decays."""
    spared = objective.no_weight_decay()
    decayed, plain = {}, {}
    for name, parameter in objective.named_parameters():
        (decayed if is_decayed(name, parameter, spared) else plain)[name] = parameter
    groups = [
        {"params": list(decayed.values()), "weight_decay": settings["weight_decay"]},
        {"params": list(plain.values()), "weight_decay": 0.0},
    ]
    options = {"betas": tuple(settings["betas"]), "eps": settings["eps"]}
    return torch.optim.AdamW(groups, lr=0.0, **options), set(decayed)


def gradient_norm(module: torch.nn.Module) -> torch.Tensor:
    return torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
