"""VATT's encoders: both frameworks give the same, tables follow the grid, the right tokens are dropped."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from video_ssl.models import NETWORKS
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.encoders_flax import load_flax_encoder, save_flax_encoder
from video_ssl.models.networks.vatt_bridge import to_flax_variables, to_torch_state
from video_ssl.models.networks.vatt_config import (
    VATT_PRESETS,
    VattAudioConfig,
    VattHeadsConfig,
    VattSharedConfig,
    VattTextConfig,
    VattVideoConfig,
    VattWordsConfig,
)
from video_ssl.models.networks.vatt_flax import VattAudio, VattVideo, cut
from video_ssl.models.networks.vatt_layers_flax import kept_rows
from video_ssl.models.networks.vatt_tables import relative_buckets, spline_matrix
from video_ssl.models.preprocess_config import SoundPreprocess, TextPreprocess, VideoPreprocess

SMALL: dict[str, Any] = {
    "preset": None,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "ffn_dim": 48,
    "dropout": 0.0,
}
HEADS = VattHeadsConfig(sound_dim=24, text_dim=16)
PAPER = VattHeadsConfig(sound_dim=24, text_dim=16, relu_before_text=False, norm_all=True)
WORDS = {"vocab_size": 20, "word_dim": 12}
VIDEO = {"tubelet_size": 2, "patch_size": 8, "num_frames": 8, "image_size": 32}
CASES: dict[str, Any] = {
    "video": VattVideoConfig(**SMALL, **VIDEO, heads=HEADS),
    "video-paper": VattVideoConfig(
        **SMALL, **VIDEO, heads=PAPER, aggregation_position=True, projection_dim=40
    ),
    "video-resampled": VattVideoConfig(**SMALL, **VIDEO, table_frames=4, table_size=24),
    "audio": VattAudioConfig(**SMALL, patch_samples=16, num_samples=330, heads=HEADS),
    "audio-paper": VattAudioConfig(
        **SMALL,
        patch_samples=16,
        num_samples=330,
        table_samples=160,
        heads=PAPER,
        aggregation_position=True,
        projection_dim=40,
    ),
    "text": VattTextConfig(**SMALL, **WORDS, heads=HEADS),
    "text-paper": VattTextConfig(**SMALL, **WORDS, heads=PAPER, freeze_words=False),
    "words": VattWordsConfig(**SMALL, **WORDS, heads=HEADS, projection_dim=40),
    "words-paper": VattWordsConfig(
        **SMALL, **WORDS, heads=PAPER, freeze_words=False, aggregation_position=True,
        projection_dim=40,
    ),
}  # fmt: skip
VOCABULARY = ("<pad>", "<unk>", *(f"w{i}" for i in range(18)))
PREPROCESS: dict[str, Any] = {
    "video": VideoPreprocess(num_frames=8, frame_stride=1, size=32),
    "sound": SoundPreprocess(rate=160, num_samples=330),
    "text": TextPreprocess(vocabulary=VOCABULARY, length=16),
}


def clips_for(modality: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    if modality == "video":
        return rng.integers(0, 256, (3, 8, 32, 32, 3), np.uint8)
    if modality == "sound":
        return rng.uniform(-1, 1, (3, 330)).astype(np.float32)
    words = rng.integers(1, 20, (3, 16))
    words[0, 5:] = 0
    words[1] = 0
    return words


def far_from_start(module: Any, seed: int = 0) -> Any:
    """Variables whose biases, scales and statistics all differ from their first values."""
    rng = np.random.default_rng(seed)
    variables = module.init(jax.random.key(0), module.smallest_input())
    return jax.tree.map(
        lambda x: np.array(x + 0.2 * rng.uniform(0, 1, x.shape), np.float32), variables
    )


@pytest.mark.parametrize("case", CASES)
def test_both_frameworks_give_the_same(case, tmp_path):
    config = CASES[case]
    network = NETWORKS[config.architecture]
    variables = far_from_start(network.flax_class()(config))
    save_flax_encoder(
        tmp_path / "encoder", variables, architecture=config.architecture, config=config,
        preprocess=PREPROCESS[network.modality], source={},
    )  # fmt: skip
    ours, twin = load_encoder(tmp_path / "encoder"), load_flax_encoder(tmp_path / "encoder")
    assert ours.output_names == twin.output_names == tuple(config.output_widths)
    clips = clips_for(network.modality)
    found = ours.outputs_of_arrays(clips, ours.output_names)
    same = twin.outputs_of_arrays(clips, twin.output_names)
    for name, value in found.items():
        assert value.std() > 0.01
        np.testing.assert_allclose(value, same[name], atol=1e-5 * np.abs(value).max(), err_msg=name)
    assert ours.token_grid(clips.shape[1:]) == twin.token_grid(clips.shape[1:])


@pytest.mark.parametrize("case", CASES)
def test_weights_come_back_from_torch_in_the_same_bits(case):
    config = CASES[case]
    variables = far_from_start(NETWORKS[config.architecture].flax_class()(config))
    again = to_flax_variables(to_torch_state(variables))
    jax.tree.map(np.testing.assert_array_equal, variables, again)


def test_the_card_of_an_encoder_names_the_common_spaces(tmp_path):
    encoder = NETWORKS["vatt_audio"].torch_class()(CASES["audio"])
    save_encoder(
        tmp_path / "encoder",
        encoder,
        architecture="vatt_audio",
        source={},
        preprocess=PREPROCESS["sound"],
    )
    text = (tmp_path / "encoder" / "README.md").read_text()
    assert "common_sound (B, D')" in text
    assert "one in the space that" in text


def test_a_clip_of_another_size_has_resampled_positions():
    """Position rows at the same places of the clip are the same, whatever the grid."""
    matrix = spline_matrix(6, 12)
    table = np.random.default_rng(0).normal(size=(6, 3))
    np.testing.assert_allclose((matrix @ table)[::2], table, atol=1e-12)
    np.testing.assert_allclose(spline_matrix(7, 7), np.eye(7), atol=1e-12)
    assert spline_matrix(1, 5).tolist() == [[1.0]] * 5


def test_words_far_apart_share_a_bucket():
    """Against the formula of the sheet, by hand."""
    found = relative_buckets(100, num_buckets=32, max_distance=64)
    for row, column in ((0, 0), (0, 7), (0, 8), (9, 1), (0, 11), (50, 30), (0, 99), (99, 0)):
        distance = column - row
        size = abs(distance)
        wanted = size if size < 8 else min(8 + int(np.log(size / 8) / np.log(8) * 8 + 1e-9), 15)
        assert found[row, column] == wanted + (16 if distance > 0 else 0)


def test_padding_behind_a_text_changes_nothing():
    for case in ("text", "words"):
        config = CASES[case]
        module = NETWORKS[config.architecture].flax_class()(config)
        variables = far_from_start(module)
        words = np.zeros((2, 16), np.int32)
        words[:, :3] = [4, 7, 9]
        noisy = far_from_start(module)
        table = noisy["frozen"]["words"]["frozen_table"]
        table[0] += 5  # the vector of padding
        found = module.apply(variables, words)["clip"]
        np.testing.assert_allclose(found, module.apply(noisy, words)["clip"], atol=1e-6)
        table[7] += 5
        assert np.abs(found - module.apply(noisy, words)["clip"]).max() > 1e-3


# DropToken ----------------------------------------------------------------------------------------


def test_kept_tokens_keep_their_places_and_their_order():
    config = CASES["video"]
    module = VattVideo(config)
    variables = far_from_start(module)
    video = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 32, 32, 3)), jnp.float32)
    whole = module.apply(variables, video)
    order = np.random.default_rng(3).permutation(64)
    mixed = module.apply(variables, video, keep=jnp.asarray(order[None]))
    np.testing.assert_allclose(mixed["clip"], whole["clip"], atol=1e-5)
    np.testing.assert_allclose(mixed["tokens"], whole["tokens"][:, order], atol=1e-5)


def test_what_is_dropped_is_not_looked_at():
    config = CASES["audio"]
    module = VattAudio(config)
    variables = far_from_start(module)
    sound = np.random.default_rng(0).uniform(-1, 1, (2, 330)).astype(np.float32)
    keep = jnp.asarray([[3, 7, 12]])
    found = module.apply(variables, sound, keep=keep)
    assert found["tokens"].shape == (2, 3, 32)
    other = sound.copy()
    other[:, 0:48] = 0  # pieces 0 to 2
    np.testing.assert_array_equal(found["clip"], module.apply(variables, other, keep=keep)["clip"])
    other[:, 48:64] = 0  # piece 3
    assert np.abs(found["clip"] - module.apply(variables, other, keep=keep)["clip"]).max() > 1e-4


def test_every_replica_keeps_its_own_tokens():
    tokens = jnp.arange(4 * 5).reshape(4, 5, 1)
    found = kept_rows(tokens, jnp.asarray([[4, 0], [1, 2]]))[..., 0]
    assert found.tolist() == [[4, 0], [9, 5], [11, 12], [16, 17]]


def test_pixels_that_fill_no_cube_are_left_out():
    video = np.random.default_rng(0).normal(size=(1, 9, 33, 40, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        cut(jnp.asarray(video), 4, 16), cut(jnp.asarray(video[:, :8, :32, :32]), 4, 16)
    )


# Settings -----------------------------------------------------------------------------------------

#: Millions of parameters.  Source: papers/vatt.md section 3.
PUBLISHED = {"S": 20.9, "B": 87.9, "M": 155.0, "L": 306.1}


@pytest.mark.parametrize("preset", VATT_PRESETS)
def test_published_sizes(preset):
    with torch.device("meta"):
        encoder = NETWORKS["vatt_video"].torch_class()(
            VattVideoConfig(preset=preset, num_frames=32, image_size=224)
        )
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[preset], rel=0.02)


@pytest.mark.parametrize(
    ("cls", "settings", "text"),
    [
        (VattVideoConfig, {"preset": None}, "embed_dim is not set: give a preset"),
        (VattVideoConfig, {"num_heads": 7}, "not divisible by num_heads=7"),
        (
            VattVideoConfig,
            {"num_frames": 3},
            "num_frames=3 is less than one token of tubelet_size=4",
        ),
        (VattAudioConfig, {"num_samples": 100}, "less than one token of patch_samples=128"),
        (VattAudioConfig, {"dropout": 1.0}, r"must lie in \[0, 1\)"),
        (VattTextConfig, {"projection_dim": 8}, "T5 encoder has neither"),
        (VattTextConfig, {"num_buckets": 30}, "multiple of 4"),
        (VattTextConfig, {"max_distance": 8}, "must be above num_buckets / 4 = 8"),
        (VattWordsConfig, {"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        (VattHeadsConfig, {"text_dim": 0}, "text_dim=0"),
    ],
)
def test_settings_that_fit_nothing_are_told(cls, settings, text):
    with pytest.raises(ValueError, match=text):
        cls(**settings)


def test_an_encoder_on_its_own_needs_its_clip():
    with pytest.raises(ValueError, match="num_frames is not set"):
        NETWORKS["vatt_video"].torch_class()(VattVideoConfig())
    with pytest.raises(ValueError, match="vocab_size is not set"):
        NETWORKS["vatt_text"].torch_class()(VattTextConfig())


def test_the_shared_transformer_has_three_ways_in():
    video, audio, words = VattSharedConfig(preset="S", projection_dim=64).encoders()
    assert video.width == audio.width == words.width == 64
    assert video.inner == audio.inner == words.inner == 512


@pytest.mark.parametrize("framework", ["torch", "flax"])
@pytest.mark.parametrize(
    ("case", "clips", "text"),
    [
        ("video", np.zeros((1, 1, 32, 32, 3), np.uint8), "do not fill one token"),
        ("audio", np.zeros((1, 15), np.float32), "do not fill one token"),
        ("text", np.full((1, 4), 20), "word 20 of a vocabulary of 20"),
        ("words", np.zeros((1, 9), np.int64), "have 9 words, but the encoder has positions for 16"),
    ],
)
def test_inputs_that_do_not_fit_are_told(framework, case, clips, text, tmp_path):
    config = CASES[case]
    network = NETWORKS[config.architecture]
    save_encoder(
        tmp_path / "encoder", network.torch_class()(config), architecture=config.architecture,
        preprocess=PREPROCESS[network.modality], source={},
    )  # fmt: skip
    encoder = (load_encoder if framework == "torch" else load_flax_encoder)(tmp_path / "encoder")
    with pytest.raises(ValueError, match=text):
        encoder.outputs_of_arrays(clips, ["clip"])
