"""Encoders and heads.  The table names every network; nothing is imported until one is used."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

_HERE = "video_ssl.models"
_NETWORKS, _EXCHANGE = f"{_HERE}.networks", f"{_HERE}.exchange"
_TOKENIZERS = f"{_HERE}.tokenizers"


class NetworkError(ValueError):
    """A network that is not in the table; the text says which."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """Where the parts of a network are, as "module:name".

    Attributes:
        config: its settings, a frozen dataclass free of torch and jax.  One with a field `architecture` whose only
            value is the network's name in the table may be chosen in recipes (`encoder_config.py`).
        torch: the class, an `nn.Module` that takes the config and keeps what `contract.Encoder` promises; its base
            `TorchEncoder` does most of it.
        flax: its twin, a linen module with the fields `config` and `dtype`; see `encoders_flax.FlaxNetwork`.
        bridge: the module that carries weights between the two, with `to_torch_state` and `to_flax_variables`.
        modality: what it sees.
        published: family of checkpoints -> the module that reads its files into this network, see
            `exchange/published_model.py`.
        package: that the torch class imports and that not everybody has.
    """

    config: str
    torch: str
    flax: str | None = None
    bridge: str | None = None
    modality: Literal["video", "sound", "text"] = "video"
    published: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None

    def config_class(self) -> Any:
        return attribute(self.config)

    def torch_class(self) -> Any:
        return attribute(self.torch)

    def flax_class(self) -> Any:
        assert self.flax is not None
        return attribute(self.flax)

    def bridge_module(self) -> Any:
        assert self.bridge is not None, f"{self.flax} needs a bridge to torch's weights"
        return import_module(self.bridge)


def _vatt(
    name: str, modality: Literal["video", "sound", "text"], family: str | None = None
) -> Network:
    """One of VATT's encoders, which lie in the same modules."""
    return Network(
        config=f"{_NETWORKS}.vatt_config:Vatt{name}Config",
        torch=f"{_NETWORKS}.vatt:Vatt{name}",
        flax=f"{_NETWORKS}.vatt_flax:Vatt{name}",
        bridge=f"{_NETWORKS}.vatt_bridge",
        modality=modality,
        published={family: f"{_EXCHANGE}.vatt_weights"} if family else {},
    )


#: architecture -> network; a new one is its files and a line here.
NETWORKS: dict[str, Network] = {
    # Before the ViTs, whose reader takes every folder of Hugging Face.
    "hub": Network(
        config=f"{_HERE}.hub.config:HubConfig",
        torch=f"{_HERE}.hub.network:HubEncoder",
        published={"hub": f"{_EXCHANGE}.hub_weights"},
        package="transformers",
    ),
    "vit": Network(
        config=f"{_HERE}.config:ViTConfig",
        torch=f"{_NETWORKS}.vit:VideoViT",
        published=dict.fromkeys(("videomae", "videomae_v2", "mvd"), f"{_EXCHANGE}.published"),
    ),
    "image_vit": Network(
        config=f"{_HERE}.config:ImageViTConfig",
        torch=f"{_NETWORKS}.image_vit:ImageViT",
        published={"mae": f"{_EXCHANGE}.published"},
    ),
    "r2plus1d": Network(
        config=f"{_NETWORKS}.r2plus1d_config:R2Plus1DConfig",
        torch=f"{_NETWORKS}.r2plus1d:R2Plus1D",
        published={"hico": f"{_EXCHANGE}.hico_weights"},
    ),
    "s3dg": Network(
        config=f"{_NETWORKS}.s3dg_config:S3DGConfig",
        torch=f"{_NETWORKS}.s3dg:S3DG",
        published={"hico": f"{_EXCHANGE}.hico_weights"},
    ),
    "vq_tokenizer": Network(
        config=f"{_TOKENIZERS}.vq_config:VQConfig",
        torch=f"{_TOKENIZERS}.vq_tokenizer:VQTokenizer",
    ),
    "discrete_vae": Network(
        config=f"{_TOKENIZERS}.vq_config:DiscreteVAEConfig",
        torch=f"{_TOKENIZERS}.discrete_vae:DiscreteVAE",
    ),
    "patch_words": Network(
        config=f"{_TOKENIZERS}.config:PatchWordsConfig",
        torch=f"{_TOKENIZERS}.patch_words:PatchWords",
    ),
    "swin": Network(
        config=f"{_NETWORKS}.swin_config:SwinConfig",
        torch=f"{_NETWORKS}.swin:VideoSwin",
        published=dict.fromkeys(("bevt", "bevt_ema", "video_swin"), f"{_EXCHANGE}.swin_weights"),
    ),
    # Behind the Swin: files of BEVT hold such a tokenizer too.
    "dalle": Network(
        config=f"{_TOKENIZERS}.config:DalleConfig",
        torch=f"{_TOKENIZERS}.dvae:DalleEncoder",
        published={"dalle": f"{_EXCHANGE}.tokenizer_weights"},
    ),
    "vqkd": Network(
        config=f"{_TOKENIZERS}.config:VQKDConfig",
        torch=f"{_TOKENIZERS}.vqkd:VQKD",
        published={"vqkd": f"{_EXCHANGE}.tokenizer_weights"},
    ),
    "r3d": Network(
        config=f"{_NETWORKS}.r3d_config:R3DConfig",
        torch=f"{_NETWORKS}.r3d:R3D",
        flax=f"{_NETWORKS}.r3d_flax:R3D",
        bridge=f"{_NETWORKS}.r3d_bridge",
        published=dict.fromkeys(("cvrl", "const_cl"), f"{_EXCHANGE}.r3d_weights"),
    ),
    "vatt_video": _vatt("Video", "video", family="vatt_video"),
    "vatt_audio": _vatt("Audio", "sound", family="vatt_sound"),
    "vatt_text": _vatt("Text", "text", family="vatt_text"),
    "vatt_words": _vatt("Words", "text"),
    "zoo": Network(
        config=f"{_NETWORKS}.zoo_config:ZooConfig",
        torch=f"{_NETWORKS}.zoo:ZooEncoder",
        published={"pytorchvideo": f"{_EXCHANGE}.zoo_weights"},
        package="pytorchvideo",
    ),
    "pixels": Network(
        config=f"{_NETWORKS}.pixels_config:PixelsConfig",
        torch=f"{_NETWORKS}.pixels:PixelEncoder",
    ),
    "hog": Network(
        config=f"{_NETWORKS}.hog_config:HogConfig",
        torch=f"{_NETWORKS}.hog:HogEncoder",
    ),
    "frame_transformer": Network(
        config=f"{_NETWORKS}.frame_config:FrameTransformerConfig",
        torch=f"{_NETWORKS}.frame_transformer:FrameTransformer",
        published={"carl": f"{_EXCHANGE}.carl_weights"},
    ),
}


def published_families() -> dict[str, str]:
    """Returns family -> module of its reader, of all networks."""
    return {family: place for net in NETWORKS.values() for family, place in net.published.items()}


def attribute(place: str) -> Any:
    """Returns what a "module:name" names."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


def with_flax() -> list[str]:
    """Returns the names of the networks that both frameworks have."""
    return sorted(name for name, network in NETWORKS.items() if network.flax is not None)


def network_of_config(config: object) -> Network | None:
    """Returns the network whose settings these are; None where they are those of something else."""
    return next((net for net in NETWORKS.values() if _is_at(type(config), net.config)), None)


def architecture_of(part: object) -> str:
    """Returns the name in `NETWORKS` of a config, a torch network or a flax one, or of its class.

    Raises:
        NetworkError: it is not in the table, so nobody could load it again.
    """
    cls = part if isinstance(part, type) else type(part)
    for name, network in NETWORKS.items():
        if any(_is_at(cls, place) for place in (network.config, network.torch, network.flax)):
            return name
    raise NetworkError(
        f"{cls.__module__}:{cls.__qualname__} belongs to no network of video_ssl.models.NETWORKS, which has "
        f"{sorted(NETWORKS)}: add a line for it."
    )


def _is_at(cls: type, place: str | None) -> bool:
    """Whether a class is what a place names; a module that nobody has imported cannot have made it."""
    module, _, name = (place or "").partition(":")
    return getattr(sys.modules.get(module), name, None) is cls
