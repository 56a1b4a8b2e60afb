"""Supervised classification: labels of views, color that travels with them, convolutional encoders."""

import numpy as np
import pytest
import torch

from video_ssl.clips import color_changes, rand_augment
from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.mixing import Mix
from video_ssl.datasets.table import Record
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.r2plus1d import R2Plus1D
from video_ssl.models.preprocess import without_rectangles
from video_ssl.objectives.supervised.config import Config
from video_ssl.objectives.supervised.objective import Objective
from video_ssl.objectives.supervised.plan import Plan
from video_ssl.recipes import build_config

VIT = {"preset": None, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 8}
CONV = {
    "architecture": "r2plus1d",
    "preset": None,
    "depth": 10,
    "widths": [4, 4, 8, 8, 16],
    "block": "r2plus1d",
    "stem": "r2d3d",
}


def config_of(**changes):
    section = {
        "num_classes": 3,
        "clip": {"num_frames": 4, "frame_stride": 1, "num_clips": 2, "views_per_clip": 2},
        "crop": {"kind": "random_resized", "size": 32},
        "encoder": VIT,
        **changes,
    }
    return build_config(Config, section, "objective")


def objective_of(**changes):
    torch.manual_seed(0)
    return Objective(config_of(**changes))


class NoiseReader:
    """Every frame is the same noise."""

    info = VideoInfo(
        num_frames=20,
        fps=10.0,
        width=48,
        height=48,
        duration_sec=2.0,
        codec="none",
        rotation=0,
        has_audio=False,
    )

    def frames(self, indices, size=None):
        noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
        return np.repeat(noise[None], len(indices), axis=0)

    def times(self, indices):
        return np.asarray(indices) / 10


def batch_of(config, seed=0):
    plan = Plan(config)
    rows = [
        plan(
            Record(index=i, id=str(i), source="a.mp4", label=i),
            NoiseReader(),
            np.random.default_rng([seed, i]),
            0.0,
        )
        for i in range(3)
    ]
    return {k: torch.from_numpy(np.stack([row[k] for row in rows])) for k in rows[0]}


def test_color_travels_from_plan_to_model():
    plain, colored = config_of(), config_of(color={"law": "hico", "probability": 1.0})
    without, with_ = batch_of(plain), batch_of(colored)
    assert set(without) == {"video", "label"}
    assert with_["color"].shape == (3, 4, color_changes.NUM_PARAMETERS)
    # Drawn last: frames and regions are those of the run without it.
    assert torch.equal(with_["video"], without["video"])
    objective = objective_of(color={"law": "hico", "probability": 1.0}).eval()
    unchanged = torch.from_numpy(color_changes.unchanged()).expand(3, 4, -1)
    with torch.no_grad():
        bare = objective_of().eval()(without).features
        assert torch.equal(objective({**with_, "color": unchanged}).features, bare)
        assert (objective(with_).features - bare).abs().max() > 1e-3


def test_a_sample_is_augmented_where_the_settings_say_so(monkeypatch):
    """With one operation there is, negatives, and a crop that draws nothing: the same view, inverted."""
    monkeypatch.setattr(rand_augment, "OPERATIONS", {"invert": rand_augment.OPERATIONS["invert"]})
    crop = {"kind": "center", "size": 32, "flip_probability": 0.0}
    plain = batch_of(config_of(crop=crop))["video"].int()
    once = {"num_ops": 1, "probability": 1.0}
    inverted = batch_of(config_of(crop=crop, augment=once))["video"].int()
    assert (plain + inverted - 255).abs().max() <= 1  # the crop rounds
    never = batch_of(config_of(crop=crop, augment={**once, "probability": 0.0}))["video"].int()
    assert torch.equal(never, plain)


@pytest.mark.parametrize("encoder", [VIT, CONV])
def test_every_view_of_a_record_has_its_label(encoder):
    objective = objective_of(encoder=encoder).eval()
    batch = batch_of(objective.config)
    features = objective(batch).features
    logits = objective.head(features)
    expected = torch.nn.functional.cross_entropy(
        logits, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    )
    torch.testing.assert_close(objective(batch).loss, expected)


def test_a_convolutional_encoder_learns_and_says_what_it_is():
    objective = objective_of(encoder=CONV)
    assert isinstance(objective.encoder, R2Plus1D)
    assert not objective.no_weight_decay()
    assert objective.encoders()["encoder"].preprocess.sampling == "constant"
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (6, 1, 4, 32, 32, 3), dtype=torch.uint8, generator=generator)
    batch = {"video": video, "label": torch.tensor([0, 1, 2, 0, 1, 2])}
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = objective(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_an_encoder_of_shuffled_clips_is_given_shuffled_clips(tmp_path):
    fingerprints = set()
    for clip in ({"num_frames": 4}, {"num_frames": 4, "shuffle_frames": True}):
        trained = objective_of(clip=clip, encoder=CONV).encoders()["encoder"]
        save_encoder(
            tmp_path / "encoder",
            trained.module,
            architecture="r2plus1d",
            preprocess=trained.preprocess,
            source={},
        )
        encoder = load_encoder(tmp_path / "encoder")
        assert windows_for(encoder, EmbedConfig()).shuffle_frames == ("shuffle_frames" in clip)
        fingerprints.add(encoder.fingerprint)
    assert len(fingerprints) == 2


def test_an_encoder_of_segments_is_asked_for_segments():
    clip = {"num_frames": 4, "sampling": "segments"}
    assert objective_of(clip=clip).encoders()["encoder"].preprocess.sampling == "segments"


@pytest.mark.parametrize("learns", ["all", "head", "head_and_statistics"])
def test_what_learns(learns: str) -> None:
    """Of a frozen encoder nothing moves; with "head_and_statistics" its batch norms follow the batches, as in HiCo."""
    torch.manual_seed(0)
    config = build_config(
        Config,
        {
            "num_classes": 3,
            "learns": learns,
            "clip": {"num_frames": 4},
            "crop": {"size": 32},
            "encoder": {"architecture": "r2plus1d", "widths": [2, 2, 2, 2, 4]},
        },
    )
    objective = Objective(config).train()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    video = torch.randint(0, 256, (4, 1, 4, 32, 32, 3), dtype=torch.uint8)
    label = torch.tensor([0, 1, 2, 0])
    objective({"video": video, "label": label}).loss.backward()
    optimizer.step()
    moved = {n for n, v in objective.state_dict().items() if not torch.equal(v, before[n])}
    assert {"head.weight", "head.bias"} <= moved
    inside = {name for name in moved if name.startswith("encoder.")}
    weights = {name for name in inside if "running" not in name and "num_batches" not in name}
    assert bool(weights) == (learns == "all")
    assert bool(inside) == (learns != "head")


# Fine-tuning as published --------------------------------------------------------------------------

PUBLISHED = {
    "readout": "patch_mean",
    "head_scale": 0.5,
    "label_smoothing": 0.1,
    "mix": {},
    "erase": {"probability": 1.0},
    "augment": {},
}


def by_hand(objective, batch):
    """Clip after clip in float64: rectangle away, mixed with its partner, mean of the patches, LayerNorm, soft loss."""
    pixels = batch["video"].flatten(0, 1).permute(0, 4, 1, 2, 3).double() / 255
    statistics = objective.config.normalization
    mean, std = (
        torch.tensor(x).double()[:, None, None, None] for x in (statistics.mean, statistics.std)
    )
    clips = (pixels - mean) / std
    for clip, (top, left, h, w) in zip(clips, batch["erased"].flatten(0, 1).tolist(), strict=True):
        clip[:, :, top : top + h, left : left + w] = 0
    labels = batch["label"].repeat_interleave(batch["video"].shape[1])
    lam, boxed, *box = batch["mix"][0].tolist()
    top, bottom, left, right = map(int, box)
    encoder, head, losses = objective.encoder, objective.head, []
    for i, own in enumerate(clips):
        other = clips[len(clips) - 1 - i]
        mixed = own.clone()
        if boxed:
            mixed[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        else:
            mixed = lam * own + (1 - lam) * other
        x = encoder.embed(mixed[None])
        for block in encoder.blocks:
            x = block(x)
        feature = x[0].mean(0)
        feature = (feature - feature.mean()) / (feature.var(correction=0) + 1e-6).sqrt()
        logits = head.weight @ (feature * head.norm.weight + head.norm.bias) + head.bias
        share = torch.full((3,), 0.1 / 3).double()
        share[labels[i]] += 0.9 * lam
        share[labels[len(clips) - 1 - i]] += 0.9 * (1 - lam)
        losses.append(-(share * logits.log_softmax(0)).sum())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("boxed", [False, True])
def test_the_published_loss_by_hand(boxed):
    objective = objective_of(**PUBLISHED).eval().double()
    torch.nn.init.normal_(objective.head.norm.weight)
    batch = batch_of(objective.config)
    assert batch["mix"].shape == (3, 6)
    seed = next(s for s in range(9) if bool(batch_of(objective.config, s)["mix"][0, 1]) == boxed)
    batch = batch_of(objective.config, seed)
    assert (batch["erased"][..., 2] > 0).all()
    pixels = objective_of(**PUBLISHED).eval()
    pixels.load_state_dict(objective.state_dict())
    torch.testing.assert_close(
        pixels(batch).loss.double(), by_hand(objective, batch), rtol=1e-5, atol=1e-5
    )


def test_only_the_first_draw_of_a_batch_counts():
    objective = objective_of(**PUBLISHED).eval()
    batch = batch_of(objective.config)
    before = objective(batch).loss
    batch["mix"][1:] = float("nan")
    assert torch.equal(objective(batch).loss, before)
    batch["mix"][0] = torch.from_numpy(Mix(lam=0.123).row)
    assert not torch.equal(objective(batch).loss, before)


def test_noise_in_the_rectangle_differs_from_frame_to_frame():
    video = torch.zeros(2, 3, 4, 8, 9)
    rectangles = torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]])
    torch.manual_seed(0)
    found = without_rectangles(video, rectangles, fill="noise")
    inside = found[0, :, :, 1:4, 2:6]
    assert inside.std().item() == pytest.approx(1, abs=0.15)
    assert len({frame.sum().item() for frame in inside.unbind(1)}) == 4
    assert (found != 0).sum() == inside.numel()


def test_what_a_head_reads():
    torch.manual_seed(0)
    video = torch.rand(2, 3, 4, 32, 32)
    token = objective_of(encoder={**VIT, "cls_token": True}, readout="class_token").eval()
    expected = token.encoder(video)[:, 0]
    torch.testing.assert_close(token._features(video), expected)
    assert token.classifier_pooling() == "cls"
    unit = objective_of(readout="clip_unit").eval()
    features = unit.encoder.clip_features(video)
    lengths = features.square().sum(1, keepdim=True).sqrt()
    expected = features / lengths @ unit.head.weight.T + unit.head.bias
    torch.testing.assert_close(unit.head(unit._features(video)), expected)
    scaled, whole = (objective_of(head_scale=s).head.weight for s in (0.01, 1.0))
    torch.testing.assert_close(scaled, 0.01 * whole)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"readout": "class_token"}, "has no class token"),
        ({"readout": "patch_mean", "encoder": CONV}, "a r2plus1d has none to take"),
        ({"head_scale": -1}, "head_scale=-1.0 must be 0 or a positive number"),
        ({"mix": {"cut": "width"}}, "mix.cut"),
        ({"augment": {"num_ops": 0}}, "leave the whole setting out"),
        ({"erase": {"fill": "black"}}, "erase.fill"),
    ],
)
def test_settings_that_cannot_be(changes, text):
    with pytest.raises(ValueError, match=text):
        config_of(**changes)


def test_an_odd_number_of_clips_cannot_be_mixed():
    clip = {"num_frames": 4, "frame_stride": 1}
    objective = objective_of(mix={}, clip=clip)
    with pytest.raises(ValueError, match="a batch of 3 clips cannot be mixed in pairs"):
        objective(batch_of(objective.config))
