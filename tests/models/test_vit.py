"""Encoders and the decoder: equalities that must hold whatever the weights are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.models import architecture_of
from video_ssl.models.config import DecoderConfig, ImageViTConfig, Normalization, ViTConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.health import effective_rank, feature_std
from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.layers import Attention, Block, cut, make_blocks, split_mask, take
from video_ssl.models.networks.positions import interpolate_table, position_table, resampling_matrix
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess import to_model_input, to_pixels
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.torch_loop.sharding import recompute_blocks

TINY = {"preset": None, "embed_dim": 32, "depth": 3, "num_heads": 2, "patch_size": 4}


@pytest.fixture(autouse=True)
def _seed():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


def video_vit(**changes):
    config = {**TINY, "image_size": 12, "num_frames": 4, **changes}
    return shaken(VideoViT(ViTConfig(**config)))


def image_vit(**changes):
    return shaken(ImageViT(ImageViTConfig(**{**TINY, "image_size": 12, **changes})))


def shaken(module):
    """Gives biases and norms values that show when they are left out."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


VARIANTS = {
    "3d": lambda: video_vit(),
    "1d": lambda: video_vit(positions="sincos_1d"),
    "cls": lambda: video_vit(cls_token=True, qkv_bias="full", layer_scale=0.3),
    "bare": lambda: video_vit(qkv_bias="none", final_norm=False),
    "image": lambda: image_vit(),
    "conv": lambda: video_vit(stem="conv"),
    "image conv": lambda: image_vit(stem="conv"),
}


@pytest.fixture(params=VARIANTS)
def encoder(request):
    return VARIANTS[request.param]()


def clips(n=3, t=4, size=12):
    return torch.randn(n, 3, t, size, size)


@torch.no_grad()
def test_batch_of_one_is_a_row_of_the_batch(encoder):
    video = clips()
    for method in (encoder.tokens, encoder.clip_features, encoder.frame_features, encoder.taps):
        together = method(video)
        for i in range(len(video)):
            torch.testing.assert_close(method(video[i : i + 1]), together[i : i + 1])


@torch.no_grad()
def test_features_are_means_of_tokens_in_time_order(encoder):
    video = clips()
    tokens = encoder.tokens(video)
    positions = encoder.frame_positions(4)
    frames = encoder.frame_features(video)
    assert frames.shape == (3, len(positions), encoder.embed_dim)
    assert positions.dtype == np.float64
    torch.testing.assert_close(encoder.clip_features(video), tokens.mean(1))
    torch.testing.assert_close(frames.mean(1), tokens.mean(1))
    torch.testing.assert_close(frames[:, 0], tokens[:, :9].mean(1))


def test_positions_are_the_middles_of_tubelets():
    assert video_vit().frame_positions(6).tolist() == [0.5, 2.5, 4.5]
    assert image_vit().frame_positions(3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="num_frames=5 is not a multiple of tubelet_size=2"):
        video_vit().frame_positions(5)


@torch.no_grad()
def test_kept_tokens_do_not_see_the_others():
    encoder, video = video_vit(), clips()
    mask = torch.rand(3, 18).argsort(1) < 12
    keep, hidden = split_mask(mask, 6)
    before = encoder.tokens(video, keep=keep)
    other = torch.randn_like(video)
    blocks = mask.view(3, 2, 3, 3).repeat_interleave(2, 1)
    blocks = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3).unsqueeze(1)
    after = encoder.tokens(torch.where(blocks, other, video), keep=keep)
    assert torch.equal(before, after)
    everything = torch.where(blocks, video, other)
    assert not torch.allclose(encoder.tokens(everything, keep=keep), before, atol=1e-2)
    assert hidden.shape == (3, 12)


@torch.no_grad()
def test_keeping_all_tokens_is_keeping_none_back():
    encoder, video = video_vit(cls_token=True), clips()
    order = torch.rand(3, 18).argsort(1)
    shuffled = encoder.tokens(video, keep=order)
    torch.testing.assert_close(shuffled, take(encoder.tokens(video), order), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_patch_embedding_is_the_convolution():
    encoder, video = video_vit(), clips()
    proj = encoder.patch_embed.proj
    conv = F.conv3d(video, proj.weight, proj.bias, stride=proj.stride).flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.patch_embed(video), conv, atol=1e-5, rtol=1e-5)
    keep = torch.tensor([[3, 0], [17, 5], [9, 9]])
    torch.testing.assert_close(
        encoder.patch_embed(video, keep), take(conv, keep), atol=1e-5, rtol=1e-5
    )


CONV = {
    "video": lambda **changes: video_vit(stem="conv", **changes),
    "image": lambda **changes: image_vit(stem="conv", **changes),
}


@pytest.mark.parametrize("kind", CONV)
@torch.no_grad()
def test_a_stem_of_convolutions_leaks_nothing_between_tokens(kind):
    """New pixels in one cube change its token before the first block, and no bit of another."""
    encoder = CONV[kind]()
    video = clips() if kind == "video" else clips()[:, :, :1]
    before, d = encoder.embed(video)[:, encoder.num_prefix :], encoder.patch_embed.tubelet_size
    for token in range(before.shape[1]):
        t, y, x = token // 9 * d, token % 9 // 3 * 4, token % 3 * 4
        other = video.clone()
        other[:, :, t : t + d, y : y + 4, x : x + 4] += 1
        changed = (encoder.embed(other)[:, encoder.num_prefix :] != before).any(-1).any(0)
        assert changed.nonzero().flatten().tolist() == [token]


@pytest.mark.parametrize("patch", [3, 4, 6])
@torch.no_grad()
def test_a_stem_of_convolutions_is_convolutions_of_each_cube(patch):
    """Against the definition, cube by cube; and kept tokens alone are computed."""
    encoder = CONV["video"](patch_size=patch)
    stem, video = encoder.patch_embed, clips()
    side, tokens = 12 // patch, []
    for t, y, x in np.ndindex(2, side, side):
        x, y = x * patch, y * patch
        z = video[:, :, 2 * t : 2 * t + 2, y : y + patch, x : x + patch].flatten(1, 2)
        for conv in stem.convs:
            z = F.gelu(F.conv2d(z, conv.weight, conv.bias, stride=2, padding=1))
        assert z.shape[2:] == (1, 1)
        tokens.append(F.linear(z[:, :, 0, 0], stem.project.weight, stem.project.bias))
    expected = torch.stack(tokens, 1)
    torch.testing.assert_close(stem(video), expected, atol=1e-5, rtol=1e-5)
    keep = torch.tensor([[3, 0], [7, 5], [2, 2]])
    torch.testing.assert_close(stem(video, keep), take(expected, keep), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_stem_of_convolutions_keeps_the_size_of_its_signals():
    torch.manual_seed(0)
    config = ViTConfig(preset="Ti", depth=1, stem="conv", image_size=32, num_frames=2)
    stem = VideoViT(config).patch_embed
    assert [conv.out_channels for conv in stem.convs] == [24, 48, 96, 192]
    assert 0.3 < float(stem(torch.randn(8, 3, 2, 32, 32)).std()) < 3


@pytest.mark.parametrize("bias", ["q_v", "full", "none"])
@torch.no_grad()
def test_attention_is_softmax_of_scaled_products(bias):
    layer, x = shaken(Attention(24, 3, bias)), torch.randn(2, 7, 24)
    q, k, v = (x @ layer.qkv.weight.T).chunk(3, dim=-1)
    if bias == "q_v":
        q, v = q + layer.q_bias, v + layer.v_bias
    if bias == "full":
        q, k, v = (y + b for y, b in zip((q, k, v), layer.qkv.bias.chunk(3), strict=True))
    heads = []
    for h in range(3):
        part = slice(8 * h, 8 * h + 8)
        weights = torch.softmax(q[..., part] @ k[..., part].mT / 8**0.5, dim=-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(layer(x), layer.proj(torch.cat(heads, -1)), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_is_close_to_float32(encoder):
    video = clips()
    exact = encoder.tokens(video)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder.tokens(video)
    error = (rough.float() - exact).norm() / exact.norm()
    assert 1e-5 < error < 0.02


def test_recomputing_blocks_changes_nothing():
    plain, frugal = video_vit(), video_vit()
    frugal.load_state_dict(plain.state_dict())
    recompute_blocks(frugal)
    video = clips()
    for model in (plain, frugal):
        model.train()
        model.clip_features(video).square().sum().backward()
    for a, b in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_drop_path_rises_linearly_and_keeps_the_mean():
    rates = [b.drop_path for b in make_blocks(16, 5, 2, mlp_ratio=1, qkv_bias="q_v", drop_path=0.4)]
    np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4])
    block = Block(16, 2, drop_path=0.25)
    dropped = block.train()._drop(torch.ones(20000, 1, 1))
    np.testing.assert_allclose(dropped.unique(), [0, 1 / 0.75])
    # 4 standard errors of a mean of 20000.
    assert abs(dropped.mean() - 1) < 4 * (0.25 / 0.75 / 20000) ** 0.5
    assert torch.equal(block.eval()._drop(torch.ones(4, 1, 1)), torch.ones(4, 1, 1))


def test_initial_weights():
    model = VideoViT(ViTConfig(**TINY, image_size=12, num_frames=4))
    for block in model.blocks:
        bound = (6 / (32 + 96)) ** 0.5
        weight = block.attn.qkv.weight.detach()
        assert 0.95 * bound < weight.abs().max() <= bound
        assert block.attn.q_bias.count_nonzero() == block.mlp.fc1.bias.count_nonzero() == 0
        assert torch.equal(block.norm1.weight, torch.ones(32))
    # The convolution keeps PyTorch's own init: uniform within fan_in^-0.5.
    fan_in = 3 * 2 * 4 * 4
    assert model.patch_embed.proj.weight.abs().max() <= fan_in**-0.5
    assert model.patch_embed.proj.bias.count_nonzero() > 0


def test_tables_are_not_in_the_state_dict(encoder):
    assert not [k for k in encoder.state_dict() if "position" in k or "pos_embed" in k]


@pytest.mark.parametrize("name", ["3d", "image"])
def test_round_trip_through_an_encoder_folder(tmp_path, name):
    encoder = VARIANTS[name]()
    preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=12)
    save_encoder(
        tmp_path / "encoder",
        encoder,
        architecture=architecture_of(encoder),
        preprocess=preprocess,
        source={"objective": "none"},
    )
    again = load_encoder(tmp_path / "encoder")
    video = clips()
    assert again.preprocess == preprocess
    with torch.no_grad():
        assert torch.equal(again.clip_features(video), encoder.clip_features(video))


# Other grids --------------------------------------------------------------------------------------


@torch.no_grad()
def test_another_grid_is_answered_with_an_interpolated_table():
    encoder = video_vit()
    assert encoder.tokens(clips(t=8, size=20)).shape == (3, 4 * 25, 32)
    native = encoder.positions((2, 3, 3))
    assert native is encoder.positions.table
    assert encoder.positions((4, 5, 5)) is encoder.positions((4, 5, 5))


def test_interpolation_of_the_same_grid_is_the_table():
    table = position_table("sincos_3d", 32, (2, 3, 5))
    assert interpolate_table(table, (2, 3, 5), (2, 3, 5)) is table
    matrix = resampling_matrix(5, 5, "cubic")
    np.testing.assert_array_equal(matrix, np.eye(5))


@pytest.mark.parametrize("new", [(2, 5, 7), (2, 2, 2), (5, 4, 4), (1, 9, 3)])
def test_interpolation_is_that_of_torch(new):
    old, dim = (2, 4, 4), 6
    table = np.random.default_rng(0).normal(size=(32, dim)).astype(np.float32)
    volume = torch.from_numpy(table).double().view(*old, dim)
    space = F.interpolate(volume.permute(0, 3, 1, 2), new[1:], mode="bicubic", align_corners=False)
    line = space.permute(1, 2, 3, 0).flatten(0, 2)[None]
    both = F.interpolate(line, new[0], mode="linear", align_corners=False)[0]
    expected = both.view(dim, *new[1:], new[0]).permute(3, 1, 2, 0).reshape(-1, dim)
    found = interpolate_table(table, old, new)
    np.testing.assert_allclose(found, expected.float(), atol=2e-6)


@pytest.mark.parametrize(("old", "new"), [(4, 9), (9, 4), (1, 3), (7, 7)])
@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_resampling_keeps_constants(old, new, kind):
    np.testing.assert_allclose(resampling_matrix(old, new, kind).sum(1), 1, atol=1e-12)


# The decoder and masks ----------------------------------------------------------------------------


def decoder(**changes):
    config = DecoderConfig(embed_dim=16, depth=2, num_heads=2, drop_path=0.0)
    options = {"in_dim": 32, "out_dim": 7, "table": "sincos_3d", "grid": (2, 3, 3), **changes}
    return shaken(MaskedDecoder(config, **options))


@torch.no_grad()
def test_decoder_does_not_care_for_the_order_of_its_tokens():
    model, encoded = decoder(), torch.randn(2, 5, 32)
    visible, wanted = torch.rand(2, 18).argsort(1).split([5, 13], dim=1)
    plain = model(encoded, visible, wanted)
    a, b = torch.randperm(5), torch.randperm(13)
    moved = model(encoded[:, a], visible[:, a], wanted[:, b])
    torch.testing.assert_close(moved, plain[:, b], atol=1e-5, rtol=1e-5)
    swapped = model(encoded, visible[:, a], wanted)
    assert not torch.allclose(swapped, plain, atol=1e-3)


@torch.no_grad()
def test_decoder_gives_a_class_token_no_position():
    model, encoded = decoder(), torch.randn(2, 6, 32)
    visible, wanted = torch.rand(2, 18).argsort(1).split([5, 13], dim=1)
    before = model(encoded, visible, wanted)
    moved = model(encoded[:, [0, 2, 1, 3, 4, 5]], visible[:, [1, 0, 2, 3, 4]], wanted)
    torch.testing.assert_close(moved, before, atol=1e-5, rtol=1e-5)
    other = torch.cat([torch.randn(2, 1, 32), encoded[:, 1:]], dim=1)
    assert not torch.allclose(model(other, visible, wanted), before, atol=1e-3)


def test_split_mask_keeps_token_order():
    mask = torch.rand(4, 11).argsort(1) < 6
    visible, hidden = split_mask(mask, 5)
    for row in range(4):
        assert visible[row].tolist() == np.flatnonzero(~mask[row]).tolist()
        assert hidden[row].tolist() == np.flatnonzero(mask[row]).tolist()


def test_a_mask_with_another_count_is_refused():
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[0, :4] = True
    mask[1, :3] = True
    with pytest.raises(RuntimeError, match="exactly 4 of 8 tokens visible"):
        split_mask(mask, 4)


def test_cubes_are_cut_in_the_order_that_they_say():
    video = torch.arange(2 * 3 * 4 * 6 * 6).view(2, 3, 4, 6, 6)
    first, last = (cut(video, 2, 3, o) for o in ("channels_first", "channels_last"))
    cube = video[1, :, 2:4, 3:6, 0:3]  # token: second tubelet, second row, first column
    assert torch.equal(first[1, 4 + 2], cube.reshape(-1))
    assert torch.equal(last[1, 4 + 2], cube.permute(1, 2, 3, 0).reshape(-1))


# Pixels, health, errors ---------------------------------------------------------------------------


def test_pixels_are_normalised_per_color_and_views_are_folded():
    video = torch.randint(0, 256, (2, 3, 4, 5, 6, 3), dtype=torch.uint8)
    normalization = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    found = to_model_input(video, normalization)
    assert found.dtype == torch.float32
    expected = (video.numpy() / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    expected = expected.reshape(6, 4, 5, 6, 3).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert torch.equal(to_model_input(video[:, 1], normalization), found[1::3])
    with pytest.raises(ValueError, match="must be uint8"):
        to_pixels(video.float())


def test_health_sees_collapse():
    healthy = torch.randn(256, 16)
    line = torch.randn(256, 1) * torch.randn(1, 16)
    point = torch.randn(1, 16).expand(256, 16)
    assert 0.2 < feature_std(healthy) < 0.3  # 16^-0.5 = 0.25
    assert feature_std(point) < 1e-6
    assert effective_rank(healthy) > 14
    assert effective_rank(line) == pytest.approx(1, abs=0.01)
    assert effective_rank(torch.zeros(8, 4)) == 1
    assert effective_rank(line + 50) == pytest.approx(1, abs=0.01)
    # Two directions of equal strength.
    cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    assert effective_rank(cross) == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"image_size": 13}, "image_size=13 is not divisible by patch_size=4: use 12 or 16"),
        ({"table_size": 0}, "table_size=0 is not divisible by patch_size=4: use 4 or 8"),
        ({"table_size": -8}, "table_size=-8 is not divisible by patch_size=4: use 4 or 8"),
        ({"num_frames": 5}, "num_frames=5 must be a positive multiple of tubelet_size=2"),
        ({"num_heads": 3}, "embed_dim=32 is not divisible by num_heads=3"),
        ({"embed_dim": 24}, "embed_dim=24 must be a multiple of 16 for the position table"),
        ({"embed_dim": None}, "embed_dim is not set: give a preset"),
        ({"preset": "XL"}, "preset='XL' must be one of"),
        ({"drop_path": 1.0}, "drop_path=1.0 must lie in"),
    ],
)
def test_impossible_sizes_are_refused(config, text):
    with pytest.raises(ValueError, match=text):
        ViTConfig(**{**TINY, "image_size": 12, "num_frames": 4, **config})


def test_a_preset_can_be_changed_in_part():
    config = ViTConfig(preset="S", depth=2)
    assert (config.embed_dim, config.depth, config.num_heads) == (384, 2, 6)


def test_clips_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="4 frames of 12x10 pixels does not divide"):
        video_vit().tokens(torch.zeros(1, 3, 4, 12, 10))
    with pytest.raises(ValueError, match="frames of 12x10 pixels do not divide"):
        image_vit().tokens(torch.zeros(1, 3, 4, 12, 10))
    with pytest.raises(ValueError, match="keep chooses patches of one frame"):
        image_vit().tokens(torch.zeros(1, 3, 2, 12, 12), keep=torch.zeros(1, 1, dtype=torch.long))


def test_cells_are_means_of_parts_of_the_frame_side_by_side():
    encoder = VideoViT(
        ViTConfig(
            preset=None,
            embed_dim=32,
            depth=1,
            num_heads=2,
            patch_size=8,
            image_size=32,
            num_frames=4,
        )
    )
    video = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = encoder.tokens(video).unflatten(1, (2, 4, 4))
    clip, frames = encoder.features(video, cells=2)
    assert frames.shape == (2, 2, encoder.output_dim("clip", cells=2)) == (2, 2, 128)
    parts = [tokens[:, :, y : y + 2, x : x + 2].mean((2, 3)) for y in (0, 2) for x in (0, 2)]
    torch.testing.assert_close(frames, torch.cat(parts, -1))
    torch.testing.assert_close(clip, frames.mean(1))
    torch.testing.assert_close(encoder.features(video)[1], encoder.frame_features(video))
