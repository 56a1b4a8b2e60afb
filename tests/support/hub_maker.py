"""Tiny random models of transformers, saved by the library itself beside the processors it would save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
_PATCHES = {"image_size": 32, "patch_size": 8}
#: name -> (class of the model, of its config, settings)
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTModel", "ViTConfig", {**_SMALL, **_PATCHES}),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {**_SMALL, **_PATCHES}),
    "vit_msn": ("ViTMSNModel", "ViTMSNConfig", {**_SMALL, **_PATCHES}),
    "ijepa": ("IJepaModel", "IJepaConfig", {**_SMALL, **_PATCHES}),
    # Positions for more patches than the frames have, as those of the published models.
    "dinov2": ("Dinov2Model", "Dinov2Config", {**_SMALL, "image_size": 48, "patch_size": 8}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegistersConfig",
        {**_SMALL, **_PATCHES, "num_register_tokens": 3},
    ),
    "dinov3": (
        "DINOv3ViTModel",
        "DINOv3ViTConfig",
        {**_SMALL, **_PATCHES, "num_register_tokens": 3},
    ),
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {
            "projection_dim": 12,
            "vision_config": {**_SMALL, **_PATCHES},
            "text_config": {
                **_SMALL,
                "vocab_size": 40,
                "max_position_embeddings": 16,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "pad_token_id": 1,
            },
        },
    ),
    "siglip": (
        "SiglipModel",
        "SiglipConfig",
        {
            "vision_config": {**_SMALL, **_PATCHES},
            "text_config": {**_SMALL, "vocab_size": 40, "max_position_embeddings": 16},
        },
    ),
    "siglip2": (
        "Siglip2Model",
        "Siglip2Config",
        {
            "vision_config": {**_SMALL, "num_patches": 16, "patch_size": 8},
            "text_config": {**_SMALL, "vocab_size": 40, "max_position_embeddings": 16},
        },
    ),
    "videomae": (
        "VideoMAEForVideoClassification",
        "VideoMAEConfig",
        {**_SMALL, **_PATCHES, "num_frames": 4},
    ),
    "vjepa2": (
        "VJEPA2Model",
        "VJEPA2Config",
        {
            **_PATCHES,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "crop_size": 32,
            "frames_per_clip": 4,
            "pred_hidden_size": 48,
            "pred_num_hidden_layers": 1,
            "pred_num_attention_heads": 2,
        },
    ),
}
IMAGES = tuple(name for name in MODELS if name not in ("videomae", "vjepa2"))
#: Image processors with their settings, of the classes that the published models name.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "dinov2": (
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
    "clip": (
        "CLIPImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "siglip": ("SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}}),
    "siglip2": ("Siglip2ImageProcessorPil", {"patch_size": 8, "max_num_patches": 16}),
    "videomae": (
        "VideoMAEImageProcessorPil",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
}
#: What the library writes for others: their classes need torchvision, which nothing else here does.
_WRITTEN = {
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "size": {"height": 32, "width": 32},
}
_CUT = {
    "size": {"shortest_edge": 36},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
}


def library() -> Any:
    """transformers, where it is installed."""
    import pytest

    return pytest.importorskip("transformers", reason="pip install 'video_ssl[hub]'")


def processor_of(name: str) -> Any:
    """The library's own image processor of a model."""
    cls, settings = PROCESSORS[name]
    return getattr(library(), cls)(**settings)


def tokenizer(name: str = "clip") -> Any:
    """A tokenizer that knows letters, and that of CLIP two words whole; "siglip2" has one of its own kind."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    if name == "siglip2":
        pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581", *letters]
        return library().Siglip2Tokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters]
    # Words are built from the left, a piece with its ending at last.
    merges: list[tuple[str, str]] = []
    for word in ("red", "blue"):
        left = word[0]
        for place, letter in enumerate(word[1:], 1):
            right = letter + ("</w>" if place == len(word) - 1 else "")
            merges.append((left, right))
            pieces += [piece for piece in (right, left + right) if piece not in pieces]
            left += right
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    return library().CLIPTokenizer(vocab=vocab, merges=merges)


def make_model(name: str, folder: Path, *, seed: int = 0, text: bool = False) -> Any:
    """Returns the library's model, saved into a folder with its processor, and a tokenizer if asked for."""
    transformers = library()
    cls, config, settings = MODELS[name]
    torch.manual_seed(seed)
    model = getattr(transformers, cls)(getattr(transformers, config)(**settings)).eval()
    for (
        parameter
    ) in model.parameters():  # fresh biases and tokens are zero, and would hide mistakes
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    if name in PROCESSORS:
        processor_of(name).save_pretrained(folder)
    else:
        place = "video_preprocessor_config.json" if name == "vjepa2" else "preprocessor_config.json"
        content = {**_WRITTEN, **(_CUT if name == "vjepa2" else {})}
        (folder / place).write_text(json.dumps(content))
    if text:
        tokenizer(name).save_pretrained(folder)
    return model
