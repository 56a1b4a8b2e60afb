"""Published checkpoints: every naming gives the same model, and every key is accounted for."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from published_maker import (
    TRAINED,
    decoder,
    head,
    hugging_face_file,
    image_vit,
    mae_file,
    mvd_file,
    prefixed,
    video,
    video_vit,
    videomae_file,
)
from safetensors.torch import save_file

from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.exchange.published import Sizes, interpret, load_published, read_published
from video_ssl.models.networks.layers import Attention, hidden_width
from video_ssl.models.weights import WeightsError

SIZES = Sizes(**TRAINED)
OPTIONS = {"sizes": SIZES, "num_heads": 2}


def same(found, wanted):
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert torch.equal(found[key], value), key


def accounted(report):
    """Nothing is missing, unused or of another shape."""
    assert (report.missing, report.unused, report.mismatched) == ((), (), ())


def test_videomae_pretraining():
    encoder, pixels = video_vit(), decoder("sincos_1d", 96, embed_bias=False)
    found = interpret(videomae_file(encoder, pixels), **OPTIONS)
    accounted(found.report)
    same(found.encoder.state_dict(), encoder.state_dict())
    same(found.decoders, prefixed("decoder.", pixels))
    assert (found.family, found.form, found.num_classes) == ("videomae", "videomae", 0)


def test_mvd_student():
    encoder = video_vit(positions="sincos_3d")
    found = interpret(mvd_file(encoder), **OPTIONS)
    accounted(found.report)
    assert set(found.report.computed) == {"pos_embed", "pos_embed_img", "pos_embed_vid"}
    assert found.encoder.config.positions == "sincos_3d"
    same(found.encoder.state_dict(), encoder.state_dict())
    assert {key.split(".")[1] for key in found.decoders} == {"image", "video"}
    assert found.family == "mvd"


@pytest.mark.parametrize("with_decoder", [False, True])
def test_mae(with_decoder):
    encoder = image_vit()
    found = interpret(mae_file(encoder, with_decoder=with_decoder), **OPTIONS)
    accounted(found.report)
    same(found.encoder.state_dict(), encoder.state_dict())
    assert bool(found.decoders) is with_decoder
    assert found.family == "mae"
    assert found.encoder.config.positions == "sincos_2d"


@pytest.mark.parametrize("prefix", ["", "backbone.", "model."])
def test_finetuned_keeps_the_head(prefix):
    encoder = video_vit(final_norm=False)
    state = {prefix + k: v for k, v in {**prefixed("", encoder), **head()}.items()}
    found = interpret(state, **OPTIONS)
    accounted(found.report)
    same(found.head, head())
    assert found.num_classes == 5
    # OpenGVLab's own files on the hub lie below `model.`.
    assert found.family == ("videomae_v2" if prefix == "model." else "videomae")
    assert "--family mvd" in found.report.notes[0]
    assert interpret(state, family="mvd", **OPTIONS).encoder.config.positions == "sincos_3d"


def test_a_distilled_encoder_with_a_norm_and_no_head():
    encoder = video_vit(final_norm=False)
    norm = {k: v for k, v in head().items() if k.startswith("fc_norm")}
    found = interpret(
        {f"model.{k}": v for k, v in {**prefixed("", encoder), **norm}.items()}, **OPTIONS
    )
    accounted(found.report)
    assert found.num_classes == 0
    model = VideoClassifier(encoder.config, num_classes=0).eval()
    model.load_state_dict({**prefixed("encoder.", encoder), **found.head})
    features = F.layer_norm(
        encoder.clip_features(video()), (32,), norm["fc_norm.weight"], norm["fc_norm.bias"], 1e-6
    )
    torch.testing.assert_close(model(video()), features)


@pytest.mark.parametrize("bias", ["separate", "pair", "linear"])
@pytest.mark.parametrize("stem", ["videomae.", ""])
def test_hugging_face_encoder(stem, bias):
    encoder = video_vit()
    found = interpret(hugging_face_file(encoder, stem, bias), **OPTIONS)
    accounted(found.report)
    same(found.encoder.state_dict(), encoder.state_dict())


def test_hugging_face_pretraining_and_classifier():
    encoder, pixels = video_vit(), decoder("sincos_1d", 96, embed_bias=False)
    found = interpret(hugging_face_file(encoder, pixels=pixels), **OPTIONS)
    accounted(found.report)
    same(found.decoders, prefixed("decoder.", pixels))
    encoder = video_vit(final_norm=False)
    found = interpret(hugging_face_file(encoder, classifier=head()), **OPTIONS)
    accounted(found.report)
    same(found.head, head())
    key = "videomae.encoder.layer.1.attention.attention.value.weight"
    assert found.report.renamed[key] == "encoder.blocks.1.attn.qkv.weight"


def test_hugging_face_bias_of_keys_is_kept_where_it_is_not_zero():
    encoder = video_vit(qkv_bias="full")
    state = hugging_face_file(encoder, bias="linear")
    found = interpret(state, **OPTIONS)
    accounted(found.report)
    assert found.encoder.config.qkv_bias == "full"
    same(found.encoder.state_dict(), encoder.state_dict())


def test_hugging_face_images():
    encoder = image_vit()
    state = hugging_face_file(encoder, "vit.", bias="linear")
    state["vit.embeddings.position_embeddings"] = mae_file(encoder)["pos_embed"]
    found = interpret(state, **OPTIONS)
    accounted(found.report)
    same(found.encoder.state_dict(), encoder.state_dict())


def test_a_hub_folder_tells_its_sizes_and_is_contradicted_where_it_is_wrong(tmp_path):
    encoder = video_vit(embed_dim=384, num_heads=6, depth=1)
    state = hugging_face_file(encoder)
    half = len(state) // 2
    parts = {"a.safetensors": list(state)[:half], "b.safetensors": list(state)[half:]}
    for name, keys in parts.items():
        save_file({k: state[k] for k in keys}, tmp_path / name)
    index = {"weight_map": {k: name for name, keys in parts.items() for k in keys}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"image_size": 12, "num_frames": 4, "num_attention_heads": 16, "layer_norm_eps": 1e-12}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = read_published(tmp_path)
    accounted(found.report)
    assert found.encoder.config.grid == (2, 3, 3)
    assert found.encoder.config.heads == 6
    assert "16 heads" in found.report.notes[0]
    assert "1e-12" in found.report.notes[1]
    index["weight_map"]["x"] = "../elsewhere.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match=r"not a file beside it: refused"):
        read_published(tmp_path)


# Positions ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "frames"), [(20, 8), (8, 2), (12, 4)])
@pytest.mark.parametrize("kind", ["sincos_1d", "sincos_3d", "learned"])
def test_positions_of_other_clips(kind, size, frames):
    """Up and down, for formulas and for learned tables, against torch's own resampling."""
    encoder = video_vit(positions=kind)
    state = prefixed("", encoder)
    if kind == "learned":
        state["pos_embed"] = state.pop("positions.table")
    elif kind == "sincos_3d":
        state["pos_embed"] = encoder.positions()[None].clone()
    found = interpret(
        state, sizes=Sizes(image_size=size, num_frames=frames, **TRAINED), num_heads=2
    )
    new = (frames // 2, size // 4, size // 4)
    volume = encoder.positions().unflatten(0, (2, 3, 3)).permute(3, 0, 1, 2).detach()
    volume = F.interpolate(volume, size=new[1:], mode="bicubic", align_corners=False)
    volume = F.interpolate(
        volume.flatten(2)[None],
        size=(new[0], new[1] * new[2]),
        mode="bilinear",
        align_corners=False,
    )[0]
    expected = volume.flatten(1).T
    torch.testing.assert_close(found.encoder.positions(), expected, atol=1e-5, rtol=0)
    same_grid = (size, frames) == (12, 4)
    assert ("as trained" in found.table) is same_grid
    assert ("interpolated from 2x3x3 tokens (4 frames of 12 px)" in found.table) is not same_grid
    if same_grid:
        assert torch.equal(found.encoder.positions(), encoder.positions())


def test_positions_computed_anew_on_request():
    sizes = Sizes(image_size=20, num_frames=8, table="recompute", **TRAINED)
    found = interpret(prefixed("encoder.", video_vit()), sizes=sizes, num_heads=2)
    fresh = video_vit(image_size=20, num_frames=8)
    assert torch.equal(found.encoder.positions(), fresh.positions())
    assert "computed anew for 4x5x5 tokens" in found.table


def test_a_learned_table_of_images_with_a_class_row():
    """A fine-tuned MAE trains its table, the row of the class token included."""
    encoder = image_vit()
    state = mae_file(encoder)
    rows = torch.randn(1, 10, 32, generator=torch.Generator().manual_seed(3))
    state["pos_embed"] = rows
    found = interpret(state, **OPTIONS)
    accounted(found.report)
    assert found.encoder.config.positions == "learned"
    assert "no known formula" in found.report.notes[0]
    frame = video(1, 1)
    x = encoder.patch_embed(frame) + rows[:, 1:]
    x = torch.cat([encoder.cls_token + rows[:, :1], x], dim=1)
    torch.testing.assert_close(found.encoder.embed(frame), x)


def test_the_grid_of_a_stored_table_is_found():
    encoder = image_vit(image_size=24)
    found = interpret(mae_file(encoder), sizes=Sizes(image_size=12), num_heads=2)
    assert found.encoder.config.table_size == 24
    assert "interpolated from 1x6x6 tokens (24 px) to 1x3x3 tokens (12 px)" in found.table
    state = mae_file(encoder)
    state["pos_embed"] = torch.zeros(1, 8, 32)
    with pytest.raises(WeightsError, match=r"7 rows, which are not .*--trained-size"):
        interpret(state, **OPTIONS)


def test_half_precision_tables_are_still_the_formula():
    encoder = video_vit(positions="sincos_3d")
    state = {k: v.to(torch.bfloat16) for k, v in mvd_file(encoder).items()}
    assert interpret(state, **OPTIONS).encoder.config.positions == "sincos_3d"


# Quirks ---------------------------------------------------------------------------------------------


def test_the_mlp_of_the_giant_survives_its_ratio():
    for width, hidden in ((1408, 6144), (48, 209), (1664, 8192)):
        assert hidden_width(width, hidden / width) == hidden
    assert hidden_width(1408, 48 / 11) == 6144


def test_cosine_attention_against_loops():
    generator = torch.Generator().manual_seed(0)
    module = Attention(12, 3, "q_v", cosine=True).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        module.scale.copy_(torch.tensor([1.0, 4.0, 9.0]).view(3, 1, 1))  # the last is clamped
    x = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    rows = x.numpy() @ module.qkv.weight.detach().numpy().T
    rows[..., :12] += module.q_bias.detach().numpy()
    rows[..., 24:] += module.v_bias.detach().numpy()
    out = np.zeros((2, 5, 12))
    for b in range(2):
        for h, scale in enumerate((1.0, 4.0, 4.6052)):
            q, k, v = (rows[b, :, 12 * i + 4 * h : 12 * i + 4 * h + 4] for i in range(3))
            for i in range(5):
                cosines = [
                    q[i] @ k[j] / np.linalg.norm(q[i]) / np.linalg.norm(k[j]) for j in range(5)
                ]
                weights = np.exp(np.exp(scale) * (np.array(cosines) - max(cosines)))
                out[b, i, 4 * h : 4 * h + 4] = weights @ v / weights.sum()
    expected = torch.from_numpy(out) @ module.proj.weight.T + module.proj.bias
    torch.testing.assert_close(module(x), expected, atol=1e-10, rtol=0)


def test_cosine_attention_is_recognised():
    encoder = video_vit(cosine_attention=True)
    found = interpret(prefixed("encoder.", encoder), sizes=SIZES)
    accounted(found.report)
    assert found.encoder.config.cosine_attention
    assert found.encoder.config.heads == 2
    assert found.family == "videomae_v2"
    assert torch.equal(found.encoder.tokens(video()), encoder.tokens(video()))


def test_layer_scale_is_recognised():
    encoder = video_vit(layer_scale=0.1)
    found = interpret(prefixed("encoder.", encoder), **OPTIONS)
    same(found.encoder.state_dict(), encoder.state_dict())


def test_a_head_on_the_class_token_is_named_and_left_out():
    state = {**mae_file(image_vit()), "head.weight": torch.ones(5, 32), "head.bias": torch.ones(5)}
    found = interpret(state, **OPTIONS)
    assert not found.head
    assert found.report.unused == ("head.weight", "head.bias")
    assert "reads one token" in found.report.notes[0]


def test_our_own_objectives_checkpoints_are_read():
    encoder, pixels = video_vit(), decoder("sincos_1d", 96, embed_bias=False)
    state = {**prefixed("encoder.", encoder), **prefixed("decoder.", pixels)}
    found = interpret(state, **OPTIONS)
    accounted(found.report)
    same(found.state(), state)


# Refusals -------------------------------------------------------------------------------------------


def test_too_few_weights_are_refused():
    state = videomae_file(video_vit())
    for key in [k for k in state if ".blocks.1.mlp" in k]:
        del state[key]
    with pytest.raises(
        WeightsError, match=r"only 92% of .* at least 100% .* missing: encoder.blocks.1.mlp.fc1"
    ):
        interpret(state, **OPTIONS)
    found = interpret(state, min_share=0.9, **OPTIONS)
    assert len(found.report.missing) == 4
    assert found.report.share == pytest.approx(45 / 49)


def test_shapes_that_do_not_fit_are_named():
    state = videomae_file(video_vit())
    state["encoder.norm.weight"] = torch.ones(31)
    with pytest.raises(
        WeightsError, match=r"mismatched: encoder.norm.weight \[31\] instead of \[32\]"
    ):
        interpret(state, **OPTIONS)


@pytest.mark.parametrize("naming", ["original", "hugging face", "half of the bias"])
def test_blocks_with_more_than_ours_are_refused(tmp_path, naming):
    """Weights left out inside a block change features: never silently."""
    encoder = video_vit()
    if naming == "original":
        key, state = "encoder.blocks.1.attn.k_norm.weight", prefixed("encoder.", encoder)
    elif naming == "hugging face":
        key = "videomae.encoder.layer.1.attention.k_norm.weight"
        state = hugging_face_file(encoder)
    else:
        key = "videomae.encoder.layer.1.attention.attention.query.bias"
        state = hugging_face_file(video_vit(qkv_bias="none"))
    state[key] = torch.ones(32)
    with pytest.raises(WeightsError, match=f"has 1 weights inside its blocks .*{key}"):
        interpret(state, **OPTIONS)
    assert interpret(state, min_share=0.99, **OPTIONS).strange == (key,)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="has 1 weights inside its blocks"):
        load_published(tmp_path / "a.pth", image_size=12, num_frames=4, num_heads=2)


def test_other_models_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="not a checkpoint of MAE, VideoMAE or MVD"):
        interpret({"conv1.weight": torch.ones(1)})
    with pytest.raises(WeightsError, match="ZeRO stage 3"):
        interpret({"patch_embed.proj.weight": torch.ones(0)})
    with pytest.raises(WeightsError, match="no whole transformer blocks"):
        interpret({"patch_embed.proj.weight": torch.ones(32, 3, 2, 4, 4)})
    with pytest.raises(
        WeightsError, match=r"holds no weights: expected one of model.safetensors.*there is nothing"
    ):
        read_published(tmp_path)


def test_a_teacher_needs_its_encoder_alone(tmp_path):
    """An incomplete head or decoder does not matter to it, an incomplete encoder does."""
    state = videomae_file(video_vit())
    del state["decoder.norm.weight"]
    torch.save({"model": state}, tmp_path / "a.pth")
    clip = {"image_size": 12, "num_frames": 4, "num_heads": 2}
    same(load_published(tmp_path / "a.pth", **clip).state_dict(), video_vit().state_dict())
    del state["encoder.norm.weight"], state["encoder.blocks.0.norm1.bias"]
    torch.save({"model": state}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"not whole: encoder.blocks.0.norm1.bias"):
        load_published(tmp_path / "b.pth", **clip)
