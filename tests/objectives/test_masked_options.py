"""What masked objectives offer beside their papers: targets of gradients, a loss at visible tokens.  Their arithmetic
is compared in test_raw_batches.py and tests/golden/test_maskfeat.py."""

import numpy as np
import pytest
import torch

from video_ssl.models.config import DecoderConfig, ImageViTConfig, ViTConfig
from video_ssl.models.networks.decoder import MaskedDecoder
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.vit import VideoViT
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.masked_config import HogConfig, VisibleLossConfig
from video_ssl.objectives.shared.visible_loss import VisibleLoss, make_visible_loss
from video_ssl.recipes import build_config

SIZE = {"preset": None, "embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
CLIP = {"num_frames": 4, "frame_stride": 2}
MASKED = {
    "crop": {"size": 32},
    "mask": {"ratio": 0.5},
    "encoder": SIZE,
    "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2},
}
SETTINGS = {
    "mae": MASKED,
    "videomae": {**MASKED, "clip": CLIP},
    "mvd": {
        **MASKED,
        "clip": CLIP,
        "image": {"source": {"run": "image"}, "weight": 0.5},
        "video": {"source": {"run": "video"}, "weight": 2.0},
    },
}
names = pytest.mark.parametrize("name", SETTINGS)


def config_of(name, **changes):
    return build_config(OBJECTIVES[name].config(), {**SETTINGS[name], **changes})


def build(name, **changes):
    torch.manual_seed(0)
    teachers = {
        "image": ImageViT(ImageViTConfig(**SIZE, image_size=32)),
        "video": VideoViT(ViTConfig(**SIZE, image_size=32, num_frames=4)),
    }
    ready = {"teachers": teachers} if name == "mvd" else {}
    return OBJECTIVES[name].objective()(config_of(name, **changes), **ready)


def batch_of(objective):
    rng = np.random.default_rng(0)
    frames = 1 if isinstance(objective.config.encoder, ImageViTConfig) else 4
    grid = objective.config.encoder.grid
    tokens, hidden = int(np.prod(grid)), objective.config.mask.num_masked(grid)
    return {
        "video": torch.from_numpy(rng.integers(0, 256, (2, 1, frames, 32, 32, 3), dtype=np.uint8)),
        "mask": torch.from_numpy(rng.random((2, 1, tokens)).argsort(-1) < hidden),
    }


# Predictions at visible tokens ----------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("prefix", [0, 1])
def test_a_decoder_predicts_at_visible_tokens_too(prefix):
    config = DecoderConfig(embed_dim=16, depth=2, num_heads=2, drop_path=0.0)
    model = MaskedDecoder(config, in_dim=8, out_dim=7, table="sincos_3d", grid=(2, 3, 3)).eval()
    encoded = torch.randn(2, prefix + 5, 8)
    visible, wanted = torch.rand(2, 18).argsort(1).split([5, 13], dim=1)
    behind = []
    model.blocks[-1].register_forward_hook(lambda *args: behind.append(args[-1]))
    plain = model(encoded, visible, wanted)
    both = model(encoded, visible, wanted, at_visible=True)
    torch.testing.assert_close(both[:, 5:], plain)
    expected = model.head(model.norm(behind[0]))[:, prefix : prefix + 5]
    torch.testing.assert_close(both[:, :5], expected)


@names
def test_without_a_weight_there_is_nothing_and_the_bits_are_those_of_the_hidden_loss(name):
    plain, weighted = build(name), build(name, visible_weight=1.0)
    assert plain.visible_loss is None
    assert plain.state_dict().keys() == weighted.state_dict().keys()
    loss, figures, *_ = plain.eval()(batch_of(plain))
    _, parts, *_ = weighted.eval()(batch_of(weighted))
    if name == "mvd":
        assert figures.keys() == {"loss_image", "loss_video"}
        assert parts.keys() == figures.keys() | {"loss_image_visible", "loss_video_visible"}
        hidden = 0.5 * parts["loss_image"] + 2.0 * parts["loss_video"]
    else:
        assert figures == {}
        assert parts.keys() == {"loss_hidden", "loss_visible"}
        hidden = parts["loss_hidden"]
    torch.testing.assert_close(hidden, loss.detach())


@names
def test_the_loss_is_the_sum_of_its_parts(name):
    """Of those that are told, the visible ones times their weight."""
    objective = build(name, visible_weight=3.0).eval()
    loss, parts, *_ = objective(batch_of(objective))
    if name == "mvd":
        terms = [
            weight * (parts[f"loss_{k}"] + 3.0 * parts[f"loss_{k}_visible"])
            for k, weight in (("image", 0.5), ("video", 2.0))
        ]
        expected = torch.stack(terms).sum()
    else:
        expected = parts["loss_hidden"] + 3.0 * parts["loss_visible"]
    torch.testing.assert_close(loss.detach(), expected)


# Distance and warm-up -------------------------------------------------------------------------------


def test_visible_tokens_count_by_their_distance_to_the_mask():
    loss = VisibleLoss(VisibleLossConfig(visible_weight=1.0, visible_by_distance=True), (2, 1, 4))
    predicted = torch.tensor([[1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0, 0]]).bool()
    visible = torch.tensor([[1, 3, 4, 7], [0, 1, 2, 3]])
    found = [float(loss(row.expand(2, -1), visible, predicted)) for row in torch.eye(4)]
    far = np.array([1, 3, 1, np.sqrt(10)])
    np.testing.assert_allclose(found, far**-0.5 / 8, rtol=1e-6)  # where nothing is predicted: 0


@names
def test_the_weight_warms_up_and_a_resumed_run_goes_on_where_it_was(name):
    settings = {"visible_weight": 2.0, "visible_warmup": [0.25, 0.75]}
    objective, full = build(name, **settings).eval(), build(name, visible_weight=2.0).eval()
    batch = batch_of(full)
    hidden, whole = build(name).eval()(batch).loss.detach(), full(batch).loss.detach()

    @torch.no_grad()
    def share(objective):
        return float((objective(batch).loss - hidden) / (whole - hidden))

    assert share(objective) == pytest.approx(0, abs=1e-5)
    for progress, expected in ((0.25, 0), (0.375, 0.25), (0.75, 1), (1.0, 1), (0.5, 0.5)):
        objective.after_step(progress)
        assert share(objective) == pytest.approx(expected, abs=1e-5)
    resumed = build(name, **settings).eval()
    resumed.load_state_dict(objective.state_dict())
    assert torch.equal(resumed(batch).loss, objective(batch).loss)
    assert make_visible_loss(VisibleLossConfig(), (1, 2, 2)) is None


# Settings -------------------------------------------------------------------------------------------


def test_values_of_a_token():
    assert config_of("mae", target="hog").values_per_token() == 27
    four = config_of("videomae", target="hog", hog={"cell_px": 4, "bins": 6})
    assert four.values_per_token() == 3 * 6 * 4
    assert config_of("videomae").values_per_token() == 3 * 2 * 64
    assert HogConfig().values_per_token(patch_size=16, frame_size=224) == 108


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        (
            "mae",
            {"target": "hog", "encoder": {**SIZE, "patch_size": 4}},
            "encoder.patch_size=4 is no multiple of hog.cell_px=8: use hog.cell_px=4",
        ),
        (
            "videomae",
            {"target": "hog", "hog": {"gaussian_window": 12}},
            "hog.gaussian_window=12 does not divide frames of crop.size=32",
        ),
        ("videomae", {"hog": {"bins": 1}}, "hog.bins=1 must be at least 2"),
        ("videomae", {"hog": {"gaussian_window": 1}}, "has no width"),
        ("mvd", {"visible_weight": -1}, "visible_weight=-1.0 must be a number of at least 0"),
        ("mae", {"visible_weight": float("inf")}, "visible_weight=inf"),
        ("mae", {"visible_by_distance": True}, "visible_weight=0 leaves it out"),
        ("mvd", {"visible_warmup": [0.1, 0.2]}, "visible_weight=0 leaves it out"),
        (
            "videomae",
            {"visible_weight": 1, "visible_warmup": [0.5, 0.5]},
            "two rising shares of the training",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused(name, changes, text):
    with pytest.raises(ValueError, match=text):
        config_of(name, **changes)
