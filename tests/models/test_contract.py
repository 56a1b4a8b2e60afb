"""Every encoder of the table keeps the contract: named outputs, their widths, their grid and their places in time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from video_ssl.models import NETWORKS
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.contract import CLIP, MOMENTS, TOKENS, Encoder
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.encoders_flax import load_flax_encoder
from video_ssl.models.hub.config import HubConfig
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.hog_config import HogConfig
from video_ssl.models.networks.pixels import PixelsConfig
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.s3dg_config import S3DGConfig
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.vatt_config import (
    VattAudioConfig,
    VattHeadsConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.zoo_config import ZooConfig
from video_ssl.models.preprocess_config import (
    Preprocess,
    SoundPreprocess,
    TextPreprocess,
    VideoPreprocess,
)
from video_ssl.models.tokenizers.config import DalleConfig, PatchWordsConfig, VQKDConfig
from video_ssl.models.tokenizers.vq_config import DiscreteVAEConfig, VQConfig

_VIT: dict[str, Any] = {"preset": None, "embed_dim": 32, "depth": 2, "num_heads": 2}
_VATT: dict[str, Any] = {"preset": None, "embed_dim": 8, "depth": 2, "num_heads": 2, "ffn_dim": 12}
_VATT["heads"] = VattHeadsConfig(sound_dim=6, text_dim=5)
CONFIGS: dict[str, Any] = {
    "vatt_video": VattVideoConfig(
        **_VATT, tubelet_size=2, patch_size=8, num_frames=4, image_size=32
    ),
    "vatt_audio": VattAudioConfig(**_VATT, patch_samples=8, num_samples=60, projection_dim=10),
    "vatt_text": VattTextConfig(**_VATT, vocab_size=5, word_dim=4),
    "vatt_words": VattWordsConfig(
        **_VATT, vocab_size=5, word_dim=4, num_words=6, projection_dim=10, freeze_words=False
    ),
    "vit": ViTConfig(**_VIT, image_size=32, num_frames=4, patch_size=8, cls_token=True),
    "image_vit": ImageViTConfig(**_VIT, image_size=32, patch_size=8),
    "r2plus1d": R2Plus1DConfig(widths=(4, 4, 4, 4, 8), num_frames=4),
    "swin": SwinConfig(
        preset=None, embed_dim=4, depths=(1, 1, 2, 1), num_heads=(1, 1, 1, 1), num_frames=4
    ),
    "vq_tokenizer": VQConfig(width=4, dim=3, vocab_size=5),
    "discrete_vae": DiscreteVAEConfig(width=4, vocab_size=5),
    "patch_words": PatchWordsConfig(vocab_size=5),
    "dalle": DalleConfig(width=4, vocab_size=5, blocks_per_group=1),
    "vqkd": VQKDConfig(
        vit=ImageViTConfig(**_VIT, image_size=32, patch_size=8, positions="learned"),
        dim=3,
        vocab_size=5,
    ),
    "s3dg": S3DGConfig(width_divisor=16, num_frames=8),
    "r3d": R3DConfig(
        preset=None, blocks=(1, 1, 1, 1), filters=(4, 4, 4, 4), stem_width=4, num_frames=4
    ),
    "zoo": ZooConfig(model="x3d_xs", num_frames=4),
    "hub": HubConfig(
        model_type="siglip_vision_model",
        settings={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": 32,
            "patch_size": 8,
        },
    ),
    "pixels": PixelsConfig(num_frames=4, size=4),
    "hog": HogConfig(shows="window", num_frames=4, size=32),
    "frame_transformer": FrameTransformerConfig(
        backbone="small",
        small_width=4,
        num_frames=4,
        fc_dims=(8,),
        hidden_dim=8,
        num_layers=1,
        num_heads=2,
        ffn_dim=8,
        embed_dim=6,
        max_frames=6,
    ),
}
PREPROCESS: dict[str, Preprocess] = {
    "video": VideoPreprocess(num_frames=4, size=32),
    "sound": SoundPreprocess(rate=16, num_samples=60),
    "text": TextPreprocess(vocabulary=("<pad>", "<unk>", "a", "b", "c"), length=6),
}
#: Whose clip feature is a token of its own, not the mean of the moments.
OWN_CLIP = ("vatt_video", "vatt_audio", "vatt_text", "vatt_words")
NAMES = [*CONFIGS, *(f"flax:{name}" for name in ("r3d", *OWN_CLIP))]
#: Frames of a clip, where four leave nothing of the map.
FRAMES = {"s3dg": 8}


def loaded(name: str, folder) -> Encoder:
    if name == "zoo":
        pytest.importorskip("pytorchvideo")
    if name == "hub":
        pytest.importorskip("transformers")
    framework, _, architecture = name.rpartition(":")
    torch.manual_seed(0)
    cls = NETWORKS[architecture].torch_class()
    save_encoder(
        folder,
        cls(CONFIGS[architecture]),
        architecture=architecture,
        preprocess=PREPROCESS[NETWORKS[architecture].modality],
        source={},
    )
    return load_flax_encoder(folder) if framework else load_encoder(folder)


def clips_for(encoder: Encoder, architecture: str) -> np.ndarray:
    """Two clips as they are read."""
    rng = np.random.default_rng(0)
    if encoder.modality == "sound":
        return rng.uniform(-1, 1, (2, 60)).astype(np.float32)
    if encoder.modality == "text":
        return np.array([[2, 3, 4, 0, 0, 0], [4, 1, 1, 2, 3, 2]])
    return rng.integers(0, 256, (2, FRAMES.get(architecture, 4), 32, 32, 3), dtype=np.uint8)


def test_every_network_is_asked():
    assert set(CONFIGS) == set(NETWORKS)


@pytest.mark.parametrize("name", NAMES)
def test_named_outputs_have_their_widths_and_places(name, tmp_path):
    encoder = loaded(name, tmp_path / "encoder")
    architecture = name.rpartition(":")[2]
    assert encoder.modality == NETWORKS[architecture].modality
    assert encoder.framework == ("flax" if name.startswith("flax:") else "torch")
    clips = clips_for(encoder, architecture)
    length = clips.shape[1]
    found = encoder.outputs_of_arrays(clips, encoder.output_names)
    assert tuple(found) == encoder.output_names
    moments = found[MOMENTS].shape[1]
    positions = encoder.frame_positions(length)
    assert positions.dtype == np.float64
    assert len(positions) == moments
    assert np.all(np.diff(positions) > 0)
    assert positions.min() >= 0
    assert positions.max() <= length - 1
    assert found[CLIP].shape == (2, encoder.output_dim(CLIP))
    assert found[MOMENTS].shape == (2, moments, encoder.output_dim(MOMENTS))
    for key, value in found.items():
        assert value.shape[-1] == encoder.output_dim(key)
    if architecture not in OWN_CLIP:
        np.testing.assert_allclose(found[CLIP], found[MOMENTS].mean(1), atol=1e-5)
    wide = encoder.outputs_of_arrays(clips, [MOMENTS, CLIP], cells=2)
    assert list(wide) == [MOMENTS, CLIP]
    assert wide[CLIP].shape == (2, encoder.output_dim(CLIP, cells=2))
    if TOKENS in encoder.output_names:
        t, h, w = encoder.token_grid(clips.shape[1:])
        assert t == moments
        assert found[TOKENS].shape == (2, t * h * w, encoder.output_dim(TOKENS))
        if encoder.output_dim(TOKENS) == encoder.output_dim(MOMENTS):
            grid = found[TOKENS].reshape(2, t, h * w, -1)
            np.testing.assert_allclose(grid.mean(2), found[MOMENTS], atol=1e-5)
    else:
        with pytest.raises(ValueError, match="gives no tokens"):
            encoder.token_grid(clips.shape[1:])
    pieces = encoder.outputs_of_pieces(
        [clips[:, :2], clips[:, 2:]], [CLIP, MOMENTS], precision="float32"
    )
    for key, value in pieces.items():
        np.testing.assert_allclose(value, found[key], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_has_its_own_width_and_grid(name, tmp_path):
    """Was wrong: a file for stage 2 of a Swin was made as wide as its last stage, and refused the first features."""
    encoder = loaded(name, tmp_path / "encoder")
    clips = clips_for(encoder, name.rpartition(":")[2])
    for layer in range(-encoder.num_blocks, encoder.num_blocks):
        found = encoder.outputs_of_arrays(clips, [CLIP, MOMENTS, TOKENS], layer=layer)
        for key, value in found.items():
            assert value.shape[-1] == encoder.output_dim(key, layer=layer)
        t, h, w = encoder.token_grid(clips.shape[1:], layer=layer)
        assert found[MOMENTS].shape[1] == t
        assert found[TOKENS].shape[1] == t * h * w
    if not encoder.num_blocks:
        with pytest.raises(ValueError, match=r"layer=0, but the encoder offers only its output"):
            encoder.output_dim(CLIP, layer=0)


@pytest.mark.parametrize("name", NAMES)
def test_what_an_encoder_does_not_have_is_told(name, tmp_path):
    encoder = loaded(name, tmp_path / "encoder")
    with pytest.raises(ValueError, match="gives no logits: it has clip, moments"):
        encoder.check_outputs(["clip", "logits"])
    with pytest.raises(ValueError, match="layer=9"):
        encoder.check_outputs(["clip"], layer=9)
    with pytest.raises(ValueError, match="pooling='median'"):
        encoder.check_outputs(["clip"], pooling="median")


def test_tokens_of_pixels_are_their_colors(tmp_path):
    encoder = loaded("pixels", tmp_path / "encoder")
    clips = np.zeros((1, 4, 32, 32, 3), np.uint8)
    clips[0, 2, 8:16, 24:32] = [255, 0, 0]  # one of the 4 x 4 cells of the third frame
    tokens = encoder.outputs_of_arrays(clips, [TOKENS])[TOKENS].reshape(4, 4, 4, 3)
    changed = np.argwhere(tokens != tokens[0, 0, 0])
    np.testing.assert_array_equal(changed, [[2, 1, 3, 0]])
