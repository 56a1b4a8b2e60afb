"""Supervised classification: labels of views, color that travels with them, convolutional encoders."""

import numpy as np
import pytest
import torch

from video_ssl.clips import color_changes
from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.r2plus1d import R2Plus1D
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
