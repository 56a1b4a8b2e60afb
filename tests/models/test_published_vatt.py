"""VATT's TensorFlow checkpoints: the reference's bytes, and files of both families made of our own weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tf_checkpoint_maker import write_checkpoint

from video_ssl.models import NETWORKS
from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.tf_checkpoint import read_tf_checkpoint
from video_ssl.models.networks.vatt_bridge import SUFFIX, names_of_tf, to_kernel
from video_ssl.models.networks.vatt_config import VattHeadsConfig, VattSharedConfig
from video_ssl.models.weights import WeightsError

SHARED = "model/layer_with_weights-0/_base_layer/unified_backbone/unified_transformer"
HEADS = "model/layer_with_weights-0/_head_layer/_bridge_heads/0"
BLOCK = ("layer_norm/gamma", "layer_norm/beta", "feed_forward/layer_norm/gamma",
         "feed_forward/layer_norm/beta", *(f"mha/{x}/{y}" for x in "qkvo" for y in ("kernel", "bias")),
         *(f"feed_forward/mlp/{x}/{y}" for x in ("wi", "wo") for y in ("kernel", "bias")))  # fmt: skip


def keys_of_shared(depth):
    """Every key of a modality-agnostic checkpoint, as the sheet lists them."""
    keys = [f"{SHARED}/tx/layers/{i}/{name}" for i in range(depth) for name in BLOCK]
    keys += [f"{SHARED}/tx/final_layer_norm/{x}" for x in ("gamma", "beta")]
    keys += [f"{SHARED}/{m}_agg_embedding" for m in ("vid", "aud", "txt")]
    for m in ("video", "audio", "text"):
        keys += [
            f"{SHARED}/{p}/{m}/{x}" for p in ("pre_proj", "post_proj") for x in ("kernel", "bias")
        ]
        axes = ("temporal", "vertical", "horizontal") if m == "video" else ("temporal",)
        place = f"{SHARED}/pos_embedding_lookup/{m}"
        keys += [f"{place}/{axis}_position_embeddings/embeddings" for axis in axes]
        keys += [f"{place}/layernorm/{x}" for x in ("gamma", "beta")]
    keys += [
        f"{SHARED}/raw_to_embeddings/{m}/{x}"
        for m in ("video", "audio")
        for x in ("kernel", "bias")
    ]
    keys += [f"{SHARED}/raw_to_embeddings/text/embeddings"]
    norms = ("hid_to_va/pre_bn", "hid_to_va/bn", "va_to_vat/bn")
    leaves = ("gamma", "beta", "moving_mean", "moving_variance")
    keys += [f"{HEADS}/{norm}/{leaf}" for norm in norms for leaf in leaves]
    keys += [f"{HEADS}/{x}/kernel" for x in ("vid_to_hid", "hid_to_va/dense", "va_to_vat/dense")]
    return keys + [
        f"{HEADS}/{h}/{x}" for h in ("aud_to_va", "txt_to_vat") for x in ("kernel", "bias")
    ]


def shared_checkpoint(folder):
    """A modality-agnostic checkpoint of our own weights, and the three encoders that they are of."""
    shared = VattSharedConfig(
        preset=None, embed_dim=64, depth=2, ffn_dim=32, num_heads=1, projection_dim=24,
        patch_size=8, tubelet_size=2, patch_samples=16, word_dim=6,
    )  # fmt: skip
    video, audio, words = (
        replace(config, heads=VattHeadsConfig(sound_dim=10, text_dim=8))
        for config in shared.encoders()
    )
    sizes = {"num_frames": 4, "image_size": 24, "table_frames": 4, "table_size": 24}
    configs = {
        "video": replace(video, **sizes),
        "sound": replace(audio, num_samples=80, table_samples=80),
        "text": replace(words, vocab_size=5),
    }
    torch.manual_seed(0)
    encoders = {n: NETWORKS[c.architecture].torch_class()(c) for n, c in configs.items()}
    for other in ("sound", "text"):
        encoders[other].transformer = encoders["video"].transformer
    arrays = {}
    for key in keys_of_shared(2):
        places = names_of_tf(key)
        assert places, key
        encoder, name = places[0]
        value = encoders[encoder].state_dict()[name].numpy()
        is_kernel = name.endswith("weight") and value.ndim > 1
        arrays[key + SUFFIX] = to_kernel(value) if is_kernel else value
    used = {place for key in keys_of_shared(2) for place in names_of_tf(key)}
    for encoder, module in encoders.items():
        there = {n for n in module.state_dict() if not n.endswith("num_batches_tracked")}
        assert {n for e, n in used if e == encoder} == there
    arrays["optimizer/iter" + SUFFIX] = np.int64(3)
    write_checkpoint(folder / "ckpt-500000", arrays)
    return encoders


WORDS = "<pad>\n<bos>\n<eos>\n<unk>\ndog\n"
INPUTS = {
    "video": np.random.default_rng(0).integers(0, 256, (2, 4, 24, 24, 3), np.uint8),
    "sound": np.random.default_rng(0).uniform(-1, 1, (2, 80)).astype(np.float32),
    "text": np.array([[4, 3, *[0] * 14], [4] * 16]),
}


@pytest.mark.parametrize("name", ["video", "sound", "text"])
def test_a_modality_agnostic_checkpoint_gives_three_encoders(name, tmp_path):
    encoders = shared_checkpoint(tmp_path)
    (tmp_path / "howto100m_en.txt").write_text(WORDS)
    done = convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family=f"vatt_{name}")
    assert done.report.share == 1
    assert not done.report.unused
    assert not done.report.missing
    back = load_encoder(tmp_path / "out")
    ours = encoders[name].eval()
    ours.preprocess = back.preprocess
    found = back.outputs_of_arrays(INPUTS[name], back.output_names)
    wanted = ours.outputs_of_arrays(INPUTS[name], ours.output_names)
    assert set(found) == set(wanted)
    for output, value in wanted.items():
        np.testing.assert_array_equal(found[output], value)
    if name == "text":
        assert back.preprocess.ids(["Dog cat"])[0, :3].tolist() == [4, 3, 0]


def test_a_clip_of_another_size_keeps_the_trained_tables(tmp_path):
    shared_checkpoint(tmp_path)
    convert(
        tmp_path / "ckpt-500000.index",
        tmp_path / "out",
        family="vatt_video",
        sizes=Sizes(image_size=32),
    )
    back = load_encoder(tmp_path / "out")
    assert (back.config.image_size, back.config.table_size) == (32, 24)
    assert back.preprocess.size == 32
    clips = np.zeros((1, 4, 32, 32, 3), np.uint8)
    assert back.outputs_of_arrays(clips, ["tokens"])["tokens"].shape[1] == 2 * 16


def fine_tuned(folder, num_classes=3):
    """The encoder of video under other names, with a classifier."""
    encoders = shared_checkpoint(folder)

    arrays = read_tf_checkpoint(folder / "ckpt-500000")
    head = "model/layer_with_weights-0/_ops/1/classification/weights"
    kept = {
        k.replace("/_base_layer/", "/_ops/0/_base/"): v for k, v in arrays.items() if HEADS not in k
    }
    rng = np.random.default_rng(0)
    kept[f"{head}/kernel{SUFFIX}"] = rng.normal(size=(24, num_classes)).astype(np.float32)
    kept[f"{head}/bias{SUFFIX}"] = rng.normal(size=num_classes).astype(np.float32)
    write_checkpoint(folder / "ckpt-500000", kept)
    return encoders, kept[f"{head}/kernel{SUFFIX}"]


def test_a_fine_tuned_checkpoint_keeps_its_classifier(tmp_path):
    encoders, kernel = fine_tuned(tmp_path)
    done = convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family="vatt_video")
    assert done.model.num_classes == 3
    assert done.model.form == "fine-tuned"
    assert done.model.encoder.config.heads is None
    np.testing.assert_array_equal(done.model.classifier["weight"], kernel.T)
    back = load_encoder(tmp_path / "out")
    ours = encoders["video"].eval()
    ours.preprocess = back.preprocess
    clips = INPUTS["video"]
    np.testing.assert_array_equal(
        back.outputs_of_arrays(clips, ["clip"])["clip"],
        ours.outputs_of_arrays(clips, ["clip"])["clip"],
    )


# What is refused ----------------------------------------------------------------------------------


def test_words_need_their_vocabulary(tmp_path):
    shared_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match=r"put howto100m_en.txt .* a file of 5 words"):
        convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family="vatt_text")
    (tmp_path / "howto100m_en.txt").write_text(WORDS + "cat\n")
    with pytest.raises(WeightsError, match="has 6 words, but the encoder has 5"):
        convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family="vatt_text")


def test_a_checkpoint_of_something_else_is_told(tmp_path):
    write_checkpoint(
        tmp_path / "ckpt-1", {"model/dense/kernel" + SUFFIX: np.zeros((3, 4), np.float32)}
    )
    with pytest.raises(
        WeightsError, match=r"has no encoder of video; it has no encoder of VATT\. .*dense"
    ):
        convert(tmp_path / "ckpt-1.index", tmp_path / "out", family="vatt_video")


def test_a_missing_shard_is_told(tmp_path):
    shared_checkpoint(tmp_path)
    (tmp_path / "ckpt-500000.data-00000-of-00001").unlink()
    with pytest.raises(WeightsError, match="is missing: download all files"):
        convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family="vatt_video")


def test_a_cut_shard_is_told(tmp_path):
    shared_checkpoint(tmp_path)
    shard = tmp_path / "ckpt-500000.data-00000-of-00001"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="is cut"):
        convert(tmp_path / "ckpt-500000.index", tmp_path / "out", family="vatt_video")
