"""CARL's encoder: frozen parts, positions, masks, chunks, first weights, published checkpoints, export."""

import os
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel, import_carl, load_carl
from video_ssl.models.networks.frame_config import BackboneInit, FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import (
    FrameTransformer,
    ProjectionHead,
    chunks,
    frame_position_table,
    standardized,
)
from video_ssl.models.networks.resnet import ResNet50, SmallNet, init_backbone
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError

SMALL = {
    "backbone": "small",
    "small_width": 4,
    "fc_dims": (16, 16),
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 16,
    "embed_dim": 8,
    "num_frames": 6,
}


@pytest.fixture(autouse=True)
def _seed():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    return ResNet50()


def small(**changes):
    return FrameTransformer(FrameTransformerConfig(**{**SMALL, **changes}))


# ResNet-50 ----------------------------------------------------------------------------------------


def test_resnet50_has_the_layout_of_torchvision(resnet):
    shapes = {key: tuple(value.shape) for key, value in resnet.state_dict().items()}
    assert len(shapes) == 318
    assert shapes["conv1.weight"] == (64, 3, 7, 7)
    assert shapes["layer1.0.downsample.0.weight"] == (256, 64, 1, 1)
    assert shapes["layer2.0.conv2.weight"] == (128, 128, 3, 3)
    assert shapes["layer4.2.bn3.running_var"] == (2048,)
    assert "layer2.1.downsample.0.weight" not in shapes
    assert sum(p.numel() for p in resnet.parameters()) == 23_508_032
    assert resnet.layer3[0].conv2.stride == (2, 2)  # v1.5: the 3x3 convolution strides
    with torch.no_grad():
        assert resnet.eval()(torch.zeros(1, 3, 64, 32)).shape == (1, 2048, 2, 1)


def test_what_is_frozen_stays_as_it_is(resnet):
    resnet.freeze(4)
    resnet.train()
    before = {key: value.clone() for key, value in resnet.state_dict().items()}
    out = resnet(torch.randn(2, 3, 32, 32))
    out.sum().backward()
    for name, parameter in resnet.named_parameters():
        assert (parameter.grad is not None) == name.startswith("layer4."), name
    changed = {
        key for key, value in resnet.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all(
        (key.startswith("layer4.") and "bn" in key) or "downsample.1" in key for key in changed
    )
    assert not resnet.bn1.training
    assert not resnet.layer3.training
    assert resnet.layer4.training
    resnet.freeze(0)
    assert resnet.bn1.training
    assert all(p.requires_grad for p in resnet.parameters())
    resnet.zero_grad(set_to_none=True)
    resnet.load_state_dict(before)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("synchronised", [False, True])
def test_frozen_parts_give_the_same_in_one_pass(small, synchronised):
    """Batch norms are put into the convolutions before them: weights loaded later must count, and gradients be those
    of the layers one by one."""
    torch.manual_seed(0)
    net = (SmallNet(4) if small else ResNet50()).double()
    if synchronised:
        net = torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    net.freeze(len(net.parts()) - 1 if not small else 1)
    for moments in (0.5, 2.0):  # the second time as if loaded over the first
        for module in net.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5 * moments, moments)
                torch.nn.init.uniform_(module.weight, -1.0, 1.0)
                torch.nn.init.normal_(module.bias)
        net.train(synchronised is False and not small)
        frames = torch.randn(2, 3, 64, 48, dtype=torch.float64)
        before = {key: value.clone() for key, value in net.state_dict().items()}
        found = net(frames)
        grads = []
        if not small:
            found.square().sum().backward()
            grads = [p.grad.clone() for p in net.parameters() if p.grad is not None]
            assert grads
        net.load_state_dict(before)  # batch norms that learn have seen the batch
        net.zero_grad()
        expected = frames
        for part in net.parts():
            for module in part:
                expected = module(expected)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        if not small:
            expected.square().sum().backward()
            torch.testing.assert_close(
                grads,
                [p.grad for p in net.parameters() if p.grad is not None],
                rtol=1e-8,
                atol=1e-8,
            )
        net.load_state_dict(before)
        net.zero_grad(set_to_none=True)


def write_init(path, kind, resnet):
    state = {key: value.clone() for key, value in resnet.state_dict().items()}
    if kind == "torchvision":
        # Old files have no batch counters, and every file has the classifier.
        state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        content = {**state, "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    else:
        content = {
            "model": {
                **{f"module.encoder.{k}": v for k, v in state.items()},
                **{f"module.encoder_k.{k}": v + 1 for k, v in state.items() if "conv1" in k},
            },
            "epoch": 200,
        }
    torch.save(content, path)
    return path


@pytest.mark.parametrize("kind", ["torchvision", "byol"])
def test_first_weights_take_effect(tmp_path, resnet, kind):
    path = write_init(tmp_path / "init.pth", kind, resnet)
    other = ResNet50()
    frames = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(other.eval()(frames), resnet.eval()(frames))
        report = init_backbone(other, BackboneInit(kind=kind, file=str(path)), path)
        assert report.share == 1
        assert all("fc." in key or "encoder_k" in key for key in report.unused)
        assert torch.equal(other(frames), resnet(frames))


def test_an_objective_starts_from_the_file_that_its_recipe_names(tmp_path, resnet):
    from video_ssl.objectives import OBJECTIVES
    from video_ssl.recipes import build_config

    path = write_init(tmp_path / "init.pth", "byol", resnet)
    content = {
        "frames": {"num_frames": 4},
        "init": {"kind": "byol", "file": str(path)},
        "encoder": {"num_layers": 1, "fc_dims": [8], "hidden_dim": 8, "embed_dim": 8},
    }
    config = build_config(OBJECTIVES["carl"].config(), content)
    assert config.stages()["backbone"].file == str(path)
    objective = OBJECTIVES["carl"].objective()(config, stages={"backbone": path})
    ours = objective.encoder.backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in resnet.state_dict().items())


def test_files_of_another_kind_or_network_are_refused(tmp_path, resnet):
    path = write_init(tmp_path / "init.pth", "byol", resnet)
    with pytest.raises(WeightsError, match=r"only 0% of the weights would be filled"):
        init_backbone(ResNet50(), BackboneInit(kind="torchvision", file=str(path)), path)
    with pytest.raises(WeightsError, match="small net has no published weights"):
        init_backbone(small().backbone, BackboneInit(kind="byol", file=str(path)), path)


# Head ---------------------------------------------------------------------------------------------


def test_positions_in_training_and_stretched():
    table = frame_position_table(5, 6, 5)
    for t in range(5):
        for c in range(6):
            angle = t / 10000 ** (c / 6)  # the exponent is that of the channel, not of its pair
            assert abs(table[t, c] - (np.sin(angle) if c % 2 == 0 else np.cos(angle))) < 1e-6
    stretched = frame_position_table(9, 6, 5)
    np.testing.assert_allclose(stretched[::2], table, atol=1e-6)
    assert np.abs(frame_position_table(3, 6, 5)[[0, 2]] - table[[0, 4]]).max() < 1e-6
    assert frame_position_table(1, 6, 5).shape == (1, 6)


def test_layers_start_identical_and_are_not_shared():
    first, second = small().head.video_encoder.enc_layers
    for (name, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.data_ptr() != b.data_ptr()
    fan = first.feed_forward.fc1.weight
    assert fan.abs().max() <= np.sqrt(6 / sum(fan.shape)) + 1e-6


def test_frames_that_are_not_valid_are_no_keys_but_have_an_output():
    encoder = small().eval()
    video = torch.randn(2, 3, 6, 16, 16)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    other = video.clone()
    other[1, :, 4:] = torch.randn(3, 2, 16, 16)
    with torch.no_grad():
        a, b = (encoder.frame_features(v, mask=mask) for v in (video, other))
        torch.testing.assert_close(a[0], b[0])
        torch.testing.assert_close(a[1, :4], b[1, :4])
        assert not torch.allclose(a[1, 4:], b[1, 4:])
        assert b.isfinite().all()
        seen = encoder.frame_features(other)
        assert not torch.allclose(seen[1, :4], b[1, :4], atol=1e-4)
        clip = encoder.clip_features(video, mask=mask)
        torch.testing.assert_close(clip[1], a[1, :4].mean(0))
    torch.testing.assert_close(a.norm(dim=-1), torch.ones(2, 6))


def test_position_and_neighbours_matter_unless_positions_are_left_out():
    video = torch.randn(1, 3, 6, 16, 16)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    for positions, same in (("sincos", False), ("none", True)):
        encoder = small(positions=positions).eval()
        with torch.no_grad():
            straight = encoder.frame_features(video)[:, order]
            mixed = encoder.frame_features(video[:, :, order])
        assert torch.allclose(straight, mixed, atol=1e-5) == same


def test_position_dropout_hides_positions_from_whole_views_in_training_only():
    model = small(position_dropout=0.5, dropout=0.0).train()
    pooled = torch.rand(1, 6, model.backbone.out_dim).expand(40, 6, -1)
    views = model.head(pooled)
    kinds = torch.unique((views * 1e4).round(), dim=0)
    assert len(kinds) == 2, "with and without positions"
    plain = small(positions="none", dropout=0.0).train()
    plain.load_state_dict(model.state_dict())
    hidden = [torch.allclose(view, plain.head(pooled)[0], atol=1e-5) for view in views]
    assert 5 < sum(hidden) < 35
    model.eval()
    assert torch.equal(model.head(pooled[:2])[0], model.head(pooled[:2])[1])
    assert not torch.allclose(model.head(pooled[:1]), plain.eval().head(pooled[:1]), atol=1e-3)


def test_standardized_features_forget_what_stays_the_same_in_a_video():
    model = small(standardize=True).eval()
    pooled = torch.rand(2, 6, model.backbone.out_dim)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    other = pooled * torch.rand(2, 1, model.backbone.out_dim).add(1) + 3
    other[1, 4:] += 7  # frames that are not valid do not count
    found, again = model.head(pooled, mask), model.head(other, mask)
    torch.testing.assert_close(again[0], found[0], atol=1e-2, rtol=0)
    torch.testing.assert_close(again[1, :4], found[1, :4], atol=1e-2, rtol=0)
    assert (found[0] - found[1]).abs().max() > 0.05
    one = standardized(pooled, mask)
    torch.testing.assert_close(one[1, :4].mean(0), torch.zeros(one.shape[-1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        one[1, :4].std(0, correction=0), torch.ones(one.shape[-1]), atol=1e-2, rtol=0
    )
    assert standardized(torch.ones(1, 3, 2), None).abs().max() == 0, "nothing changes: 0, not NaN"
    plain = small().eval()
    assert (plain.head(pooled, mask) - plain.head(other, mask)).abs().max() > 0.05


def test_chunks_of_the_backbone_change_batch_statistics_only():
    video = torch.randn(2, 3, 6, 16, 16)
    whole, parts = small(), small(chunk_frames=4)
    parts.load_state_dict(whole.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(whole.eval()(video), parts.eval()(video))
        assert not torch.allclose(whole.train().pooled(video), parts.train().pooled(video))
        bn = parts.backbone.layers[1]
        assert int(bn.num_batches_tracked) == 2
        # The second chunk holds time steps 4 and 5 of both videos.
        frames = video[:, :, 4:].transpose(1, 2).flatten(0, 1)
        fresh = small()
        fresh.backbone.load_state_dict(whole.backbone.state_dict())
        torch.testing.assert_close(
            fresh.train().backbone(frames).amax((2, 3)).view(2, 2, -1), parts.pooled(video)[:, 4:]
        )


def test_long_videos_are_cut_into_equal_parts_with_their_own_positions():
    assert list(chunks(10, 4)) == [(0, 4), (4, 8), (8, 10)]
    assert list(chunks(1001, 1000)) == [(0, 501), (501, 1001)]
    assert list(chunks(3, 1000)) == [(0, 3)]
    encoder = small(max_frames=5).eval()
    video = torch.randn(1, 3, 8, 16, 16)
    with torch.no_grad():
        features = encoder.frame_features(video)
        parts = [encoder.frame_features(video[:, :, a:b]) for a, b in ((0, 4), (4, 8))]
    torch.testing.assert_close(features, torch.cat(parts, 1))


def test_conv_head_sees_its_context_frames_and_no_others():
    encoder = small(head="conv", conv_dim=8, num_contexts=2, context_stride=3).eval()
    video = torch.randn(1, 3, 9, 96, 96)
    with torch.no_grad():
        features = encoder.frame_features(video)
        assert features.shape == (1, 9, 8)
        explicit = video[:, :, [2, 5]]
        torch.testing.assert_close(F.normalize(encoder(explicit), dim=-1)[:, 0], features[:, 5])
        other = video.clone()
        other[:, :, 2] = 0
        moved = (encoder.frame_features(other) - features).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [2, 5]
    with pytest.raises(ValueError, match="feature maps of at least 5x5"):
        encoder(torch.randn(1, 3, 2, 65, 64))
    encoder(torch.randn(1, 3, 2, 65, 65))


def test_projection_is_over_all_frames():
    projection = ProjectionHead(4).train()
    projection(torch.randn(3, 5, 4))
    assert int(projection.net[1].num_batches_tracked) == 1


def test_the_encoder_survives_its_folder(tmp_path):
    encoder = small().eval()
    preprocess = VideoPreprocess(num_frames=6, frame_stride=1, size=16)
    folder = save_encoder(
        tmp_path / "encoder",
        encoder,
        architecture="frame_transformer",
        preprocess=preprocess,
        source={"objective": "carl"},
    )
    back = load_encoder(folder)
    video = torch.randn(1, 3, 9, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(back.frame_features(video), encoder.frame_features(video))
    assert back.frame_positions(9).tolist() == list(range(9))
    clip, frames = back.features(video)
    torch.testing.assert_close(clip, frames.mean(1))
    assert back.output_dim("clip") == frames.shape[-1] == 8


# Published checkpoints ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def carl_model():
    config = FrameTransformerConfig(
        num_frames=80, num_layers=2, fc_dims=(16, 16), hidden_dim=16, ffn_dim=16, embed_dim=8
    )
    torch.manual_seed(2)
    return CarlModel(config, 8).eval()


def write_carl(path, model, cfg, monkeypatch, **changes):
    """A checkpoint as CARL writes it; the module easydict exists only while it is written."""
    back = [(ours, theirs) for theirs, ours in CARL_KEYS]
    state = {}
    for key, value in model.state_dict().items():
        ours, theirs = next((o, t) for o, t in back if key.startswith(o))
        state[theirs + key[len(ours) :]] = value
    content = {"epoch": 3, "model_state": state, "optimizer_state": {"state": {}}, "cfg": cfg}
    with monkeypatch.context() as patch:
        if cfg is not None:
            patch.setitem(sys.modules, "easydict", sys.modules.get("easydict") or MODULE)
        torch.save({**content, **changes}, path)
    return path


class EasyDict(dict):
    """As the package has it: items are attributes too, nested ones are converted."""

    def __init__(self, items):
        for key, value in items.items():
            self[key] = EasyDict(value) if isinstance(value, dict) else value
            self.__dict__[key] = self[key]


MODULE = types.ModuleType("easydict")
EasyDict.__module__, EasyDict.__qualname__ = "easydict", "EasyDict"
MODULE.EasyDict = EasyDict


def test_a_published_checkpoint_is_read_without_its_classes(tmp_path, carl_model, monkeypatch):
    cfg = EasyDict({"TRAIN": {"NUM_FRAMES": 80}, "MODEL": {"L2_NORMALIZE": True}})
    path = write_carl(tmp_path / "checkpoint_epoch_00003.pth", carl_model, cfg, monkeypatch)
    monkeypatch.delitem(sys.modules, "easydict", raising=False)
    model, report = load_carl(path)
    assert "easydict" not in sys.modules
    assert model.encoder.config == carl_model.encoder.config
    assert not report.unused
    assert not report.missing
    video = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        expected = carl_model.encoder.frame_features(video)
        torch.testing.assert_close(model.eval().encoder.frame_features(video), expected)
        encoder = load_encoder(import_carl(path, tmp_path / "encoder"))
        torch.testing.assert_close(encoder.frame_features(video), expected)
    assert (encoder.preprocess.num_frames, encoder.preprocess.size) == (80, 224)


def test_the_length_of_the_training_must_be_known(tmp_path, carl_model, monkeypatch):
    path = write_carl(tmp_path / "a.pth", carl_model, None, monkeypatch)
    with pytest.raises(WeightsError, match="give num_frames"):
        load_carl(path)
    model, _ = load_carl(path, num_frames=240)
    assert model.encoder.config.num_frames == 240


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_what_is_no_carl_checkpoint_is_refused(tmp_path, carl_model, monkeypatch):
    torch.save({"model_state": {"weight": torch.zeros(2)}}, tmp_path / "b.pth")
    with pytest.raises(WeightsError, match=r"no embed.video_emb.weight.*no checkpoint of CARL"):
        load_carl(tmp_path / "b.pth", num_frames=80)
    path = write_carl(
        tmp_path / "c.pth", carl_model, EasyDict({}), monkeypatch, extra=Evil(tmp_path / "ran")
    )
    with pytest.raises(WeightsError, match=r"names (posix|nt).mkdir"):
        load_carl(path, num_frames=80)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"hidden_dim": 20, "num_heads": 8}, "not divisible by num_heads=8"),
        ({"dropout": 1.0}, r"must lie in \[0, 1\)"),
        ({"frozen_parts": 6}, "so 0 to 5"),
        ({"backbone": "small", "frozen_parts": 2}, "so 0 to 1"),
        ({"fc_dims": ()}, "one or more widths"),
        ({"position_dropout": 1.5}, r"position_dropout=1.5 must lie in \[0, 1\]"),
        ({"standardize": True, "head": "conv"}, "standardize goes with head='transformer'"),
    ],
)
def test_refused_settings_say_why(settings, text):
    with pytest.raises(ValueError, match=text):
        FrameTransformerConfig(**settings)


def test_the_sizes_of_the_paper():
    with torch.device("meta"):
        model = CarlModel(FrameTransformerConfig(num_frames=80), 128)
    count = lambda parameters: sum(p.numel() for p in parameters)  # noqa: E731
    backbone = model.encoder.backbone
    assert round(count(p for p in backbone.parameters() if not p.requires_grad) / 1e6, 2) == 8.54
    assert round(count(backbone.layer4.parameters()) / 1e6, 2) == 14.96
    assert round(count(model.encoder.head.parameters()) / 1e6, 2) == 3.85
    assert count(model.projection.parameters()) == 33_280
