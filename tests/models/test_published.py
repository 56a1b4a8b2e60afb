"""Published checkpoints: every naming gives the same model, and every key is accounted for."""

import argparse
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

from video_ssl.models.classifier import VideoClassifier, readout_of
from video_ssl.models.exchange.export_names import original_state
from video_ssl.models.exchange.published import interpret, load_published, read_published
from video_ssl.models.exchange.sizes import Sizes
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


def finetuned(prefix="", **changes):
    """A fine-tuned classifier under the keys that VideoMAE's and MVD's codes share, and its encoder."""
    encoder = video_vit(final_norm=False, **changes)
    return {prefix + k: v for k, v in {**prefixed("", encoder), **head()}.items()}, encoder


@pytest.mark.parametrize("prefix", ["", "backbone.", "model."])
def test_finetuned_keeps_the_head(prefix):
    state, encoder = finetuned(prefix)
    # OpenGVLab's own files on the hub lie below `model.`, which tells the family.
    family = "auto" if prefix == "model." else "videomae"
    found = interpret(state, family=family, **OPTIONS)
    accounted(found.report)
    same(found.head, head())
    assert found.num_classes == 5
    assert found.family == ("videomae_v2" if prefix == "model." else "videomae")
    assert torch.equal(found.encoder.positions(), encoder.positions())
    assert interpret(state, family="mvd", **OPTIONS).encoder.config.positions == "sincos_3d"


# Options of the three fine-tuning scripts, as their argument parsers have them (a part).
SCRIPT = {"model": "vit_base_patch16_224", "tubelet_size": 2, "init_scale": 0.001}
SCRIPT |= {"use_mean_pooling": True, "sampling_rate": 4, "num_segments": 1, "lr": 1e-3}
SCRIPTS = {
    "videomae": {**SCRIPT, "fc_drop_rate": 0.0, "use_checkpoint": False},
    "videomae_v2": {**SCRIPT, "head_drop_rate": 0.0, "with_checkpoint": False},
    "mvd": {**SCRIPT, "fc_drop_rate": 0.0, "use_cls_token": False, "remove_pos_emb": False},
}


@pytest.mark.parametrize("as_namespace", [True, False])
@pytest.mark.parametrize("family", list(SCRIPTS))
def test_the_command_line_in_a_file_tells_whose_positions_it_needs(tmp_path, family, as_namespace):
    """Was wrong: MVD's fine-tuned files got VideoMAE's positions, with a note and exit code 0."""
    kind = "sincos_3d" if family == "mvd" else "sincos_1d"
    state, encoder = finetuned(positions=kind)
    options = {**SCRIPTS[family], "input_size": 12, "num_frames": 4}
    args = argparse.Namespace(**options) if as_namespace else options
    torch.save({"model": state, "args": args, "epoch": 3}, tmp_path / "a.pth")
    found = read_published(tmp_path / "a.pth", num_heads=2)
    accounted(found.report)
    assert found.family == family
    assert found.encoder.config.positions == kind
    # The size and length of its clips are told, too.
    assert found.encoder.config.grid == (2, 3, 3)
    torch.testing.assert_close(found.encoder.tokens(video()), encoder.tokens(video()))
    assert not found.report.notes
    other = "videomae" if family == "mvd" else "mvd"
    insisted = read_published(tmp_path / "a.pth", family=other, num_heads=2)
    assert insisted.family == other
    assert f"the command line in the file is one of {family}" in insisted.report.notes[0]


@pytest.mark.parametrize(
    "args",
    [
        None,
        argparse.Namespace(lr=1e-3, epochs=50),
        {**SCRIPTS["mvd"], **SCRIPTS["videomae_v2"]},
        "python run.py",
    ],
)
def test_where_nothing_tells_the_family_it_is_asked_for(tmp_path, args):
    """Keys and shapes are those of both; without a command line, or with one of neither, no positions are guessed."""
    content = {"module": finetuned()[0]}
    torch.save(content if args is None else {**content, "args": args}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"give --family videomae, videomae_v2 or mvd"):
        read_published(tmp_path / "a.pth", **OPTIONS)
    assert read_published(tmp_path / "a.pth", family="mvd", **OPTIONS).family == "mvd"


def test_what_only_one_of_them_published_needs_no_command_line():
    """Cosine attention and 710 classes are V2's; a class token in a model of clips is MVD's alone."""
    for changes, family in (
        ({"cosine_attention": True}, "videomae_v2"),
        ({"cls_token": True}, "mvd"),
    ):
        state, encoder = finetuned(
            positions="sincos_3d" if family == "mvd" else "sincos_1d", **changes
        )
        found = interpret(state, **OPTIONS)
        accounted(found.report)
        assert found.family == family
        assert torch.equal(found.encoder.positions(), encoder.positions())


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


def test_a_hub_folder_tells_the_heads_of_a_width_that_has_no_usual_number(tmp_path):
    """Was wrong: what `convert --to huggingface` had written of the demo's encoders could not be read again."""
    encoder = video_vit(embed_dim=40, num_heads=5, depth=1)
    save_file(hugging_face_file(encoder), tmp_path / "model.safetensors")
    config = {"image_size": 12, "num_frames": 4, "num_attention_heads": 5}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_published(tmp_path).encoder.config.heads == 5
    assert read_published(tmp_path, num_heads=2).encoder.config.heads == 2
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_attention_heads": 7}))
    with pytest.raises(ValueError, match="7"):
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
    sizes = Sizes(image_size=size, num_frames=frames, table="interpolate", **TRAINED)
    found = interpret(state, sizes=sizes, family="videomae", num_heads=2)
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


@pytest.mark.parametrize("table", ["reference", "recompute"])
@pytest.mark.parametrize("kind", ["sincos_1d", "sincos_3d"])
def test_positions_of_clips_are_computed_anew_as_the_references_do(table, kind):
    """Was wrong: by default the trained table was interpolated, which VideoMAE's and MVD's codes never do."""
    sizes = Sizes(image_size=20, num_frames=8, table=table, **TRAINED)
    encoder = video_vit(positions=kind)
    state = mvd_file(encoder) if kind == "sincos_3d" else prefixed("encoder.", encoder)
    found = interpret(state, sizes=sizes, num_heads=2)
    fresh = video_vit(positions=kind, image_size=20, num_frames=8)
    assert torch.equal(found.encoder.positions(), fresh.positions())
    assert "computed anew for 4x5x5 tokens" in found.table


def test_positions_of_images_are_interpolated_as_the_reference_does():
    encoder = image_vit()
    found = interpret(mae_file(encoder), sizes=Sizes(image_size=20, **TRAINED), num_heads=2)
    image = encoder.positions().T.unflatten(1, (3, 3))[None]
    wanted = F.interpolate(image, size=(5, 5), mode="bicubic", align_corners=False)[0].flatten(1).T
    torch.testing.assert_close(found.encoder.positions(), wanted, atol=1e-5, rtol=0)
    assert "interpolated from 1x3x3 tokens" in found.table


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


LINEAR = {k: v for k, v in head().items() if k.startswith("head.")}


@pytest.mark.parametrize("prefix", [0, 1])
def test_a_head_on_the_first_token_is_kept(prefix):
    """Was wrong: such a head (use_mean_pooling=False) was left out.  It reads the class token, or else a patch."""
    encoder = video_vit(positions="sincos_3d", cls_token=bool(prefix))
    found = interpret({**prefixed("", encoder), **LINEAR}, family="mvd", **OPTIONS)
    accounted(found.report)
    same(found.head, LINEAR)
    model = VideoClassifier(encoder.config, num_classes=5, readout=readout_of(found.head)).eval()
    model.load_state_dict({**prefixed("encoder.", encoder), **found.head})
    wanted = encoder(video())[:, 0] @ LINEAR["head.weight"].T + LINEAR["head.bias"]
    torch.testing.assert_close(model(video()), wanted)
    if not prefix:
        same(original_state(found), {**prefixed("", encoder), **LINEAR})


def test_a_head_on_the_class_token_of_images_is_kept():
    encoder = image_vit()
    found = interpret({**mae_file(encoder), **LINEAR}, **OPTIONS)
    accounted(found.report)
    same(found.head, LINEAR)
    model = VideoClassifier(encoder.config, num_classes=5, readout="first_token").eval()
    model.load_state_dict({**prefixed("encoder.", encoder), **LINEAR})
    frames = encoder(video().transpose(1, 2).flatten(0, 1)[:, :, None])[:, 0].view(2, 4, -1)
    wanted = frames.mean(1) @ LINEAR["head.weight"].T + LINEAR["head.bias"]
    torch.testing.assert_close(model(video()), wanted)


def test_a_head_that_reads_no_token_of_ours_is_left_out():
    state = {**prefixed("", image_vit(cls_token=False)), **LINEAR}
    found = interpret(state, **OPTIONS)
    assert not found.head
    assert found.report.unused == ("head.weight", "head.bias")
    with pytest.raises(ValueError, match="has no class token: use 'mean'"):
        VideoClassifier(image_vit(cls_token=False).config, num_classes=5, readout="first_token")


@pytest.mark.parametrize("readout", ["mean", "first_token"])
def test_fresh_heads_are_not_cut(readout):
    """Was wrong: cut at one standard deviation, which leaves a deviation of 0.0108 instead of 0.02."""
    torch.manual_seed(0)
    config = video_vit(embed_dim=64, cls_token=True).config
    model = VideoClassifier(config, num_classes=400, readout=readout, init_scale=0.5)
    layers = [(m, 0.02) for m in model.encoder.modules() if isinstance(m, torch.nn.Linear)]
    for layer, std in [*layers, (model.head, 0.01)]:
        assert layer.weight.std().item() == pytest.approx(std, rel=0.05)
        assert layer.weight.abs().max() > 2.5 * std
        assert not layer.bias.any() if layer.bias is not None else True
    assert model.encoder.cls_token.std().item() == pytest.approx(0.02, rel=0.4)


def test_cosine_attention_in_a_decoder_is_kept():
    """Was wrong: the scales of V2's decoder were dropped, and what was written was another decoder."""
    encoder = video_vit(cosine_attention=True)
    pixels = decoder("sincos_1d", 96, embed_bias=False, cosine_attention=True)
    state = videomae_file(encoder, pixels)
    assert "decoder.blocks.0.attn.scale" in state
    found = interpret(state, sizes=SIZES)
    accounted(found.report)
    same(found.decoders, prefixed("decoder.", pixels))
    same(original_state(found), state)


def test_a_decoder_that_is_another_one_here_is_left_out():
    encoder, pixels = video_vit(), decoder("sincos_1d", 96, embed_bias=False)
    state = {**videomae_file(encoder, pixels), "decoder.blocks.0.gamma_1": torch.ones(16)}
    found = interpret(state, **OPTIONS)
    assert not found.decoders
    same(found.encoder.state_dict(), encoder.state_dict())
    assert "decoder.blocks.0.gamma_1" in found.report.notes[0]
    assert "left out" in found.report.notes[0]


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
    with pytest.raises(
        WeightsError, match=f"has 1 weights that its features are made with .*{key}"
    ):
        interpret(state, **OPTIONS)
    assert interpret(state, min_share=0.99, **OPTIONS).strange == (key,)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="has 1 weights that its features are made with"):
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
