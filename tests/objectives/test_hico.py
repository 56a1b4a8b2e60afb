"""HiCo from videos to the loss: which frames, whose partners, over one process and two, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.decoders.reader import BadVideo, VideoInfo
from video_ssl.clips.joined import JoinedReader, segment_seconds
from video_ssl.datasets.table import Record
from video_ssl.models.networks.r2plus1d_config import R2Plus1DConfig
from video_ssl.models.networks.s3dg import S3DG, from_hico, to_hico
from video_ssl.models.networks.s3dg_config import S3DGConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.hico.config import Config
from video_ssl.objectives.hico.losses import topical_loss
from video_ssl.objectives.hico.objective import Objective
from video_ssl.objectives.hico.plan import Plan, _frames_of
from video_ssl.recipes import build_config

FPS = 10.0
CLIP = {"num_frames": 4, "frame_stride": 3, "fps": 6.0, "sampling": "seconds", "num_clips": 3}
CLIP_SEC = 2.0
SMALL: dict[str, Any] = {
    "clip": CLIP,
    "crop": {"kind": "whole", "size": 8},
    "color": None,
    "encoder": {
        "architecture": "r2plus1d",
        "preset": None,
        "depth": 10,
        "widths": [2, 2, 3, 3, 4],
        "block": "r2plus1d",
        "stem": "r2plus1d",
    },
    "hidden_dims": [6],
    "out_dim": 5,
    "topic_hidden": 7,
}


def config_of(**changes: Any) -> Config:
    return build_config(Config, {**SMALL, **changes})


class Clock:
    """Every pixel of frame i is i."""

    def __init__(self, num_frames: int, fps: float = FPS) -> None:
        self.info = VideoInfo(
            num_frames=num_frames,
            fps=fps,
            width=8,
            height=8,
            duration_sec=num_frames / fps,
            codec="none",
            rotation=0,
            has_audio=False,
        )

    def frames(self, indices: Any, size: Any = None) -> np.ndarray:
        return np.broadcast_to(
            np.asarray(indices, np.uint8)[:, None, None, None], (len(indices), 8, 8, 3)
        )


RECORD = Record(index=0, id="a", source="a.mp4")


def starts(config: Config, progress: float, *, num_frames: int = 200, count: int = 200) -> Any:
    """First and last shown frame of every clip of many visits, (count, V, 2)."""
    plan = Plan(config)
    samples = [
        plan(RECORD, Clock(num_frames), np.random.default_rng(i), progress)["video"]
        for i in range(count)
    ]
    return np.stack(samples)[:, :, [0, -1], 0, 0, 0].astype(int)


# Clips --------------------------------------------------------------------------------------------


def test_the_visual_pair_moves_apart_as_the_training_goes_on_and_the_last_clip_is_anywhere() -> (
    None
):
    for progress, reach in ((0.0, 0.0), (0.5, 0.5), (1.0, 1.0)):
        found = starts(config_of(distance_sec=(0.0, 1.0)), progress)
        apart = np.abs(found[:, 1, 0] - found[:, 0, 0]) / FPS
        assert apart.max() <= reach + 2 / FPS
        assert apart.max() >= 0.8 * reach
        assert np.abs(found[:, 2, 0] - found[:, 0, 0]).max() / FPS > 8
    lengths = found[..., 1] - found[..., 0]
    assert set(np.unique(lengths)) <= {int(CLIP_SEC * FPS) - 1, int(CLIP_SEC * FPS)}


@pytest.mark.parametrize(
    ("fps", "length", "count", "seconds"),
    [
        (25.0, 128, 117, None),
        (25.0, 127, 60, None),
        (30000 / 1001, 150, 720, None),
        (30000 / 1001, 150, 24, 5),
        (30.0, 150, 48, 5),
    ],
)
def test_clips_of_a_video_in_several_files_begin_where_they_were_asked_for(
    fps: float, length: int, count: int, seconds: int | None
) -> None:
    """Was wrong: only the length of each file was compared with whole seconds.  117 files of 5.12 s counted as files of
    5 s, clips began up to 14 s beside the moment that was drawn, and one near the end was an IndexError."""
    reader = JoinedReader(
        [str(part) for part in range(count)],
        lambda part: Clock(length, fps=fps),  # type: ignore[arg-type, return-value]
        part_frames=[length] * count,
        part_sec=[length / fps] * count,
    )
    assert segment_seconds(reader) == seconds
    duration = reader.info.num_frames / reader.info.fps
    plan, last = Plan(config_of()), duration - CLIP_SEC
    drawn = [plan.intervals(duration, np.random.default_rng(seed), 0.5) for seed in range(50)]
    drawn.append(np.array([[0.0, CLIP_SEC], [last - 0.01, duration - 0.01], [last, duration]]))
    for begin, end in np.concatenate(drawn).tolist():
        frames = _frames_of(reader, (begin, end), 4)
        assert abs(frames[0] / fps - begin) < 0.2 + 1 / fps
        assert abs(frames[-1] / fps - end) < 0.2 + 2 / fps


def test_a_clip_lasts_as_long_at_any_rate() -> None:
    slow = starts(config_of(), 1.0, count=20)
    plan = Plan(config_of())
    fast = plan(RECORD, Clock(250, fps=25.0), np.random.default_rng(0), 1.0)["video"][:, :, 0, 0, 0]
    assert (slow[..., 1] - slow[..., 0]).max() <= 20
    assert np.all(np.ptp(fast.astype(int), axis=1) >= 48)


def test_the_same_visit_at_the_same_progress_is_the_same_sample() -> None:
    """A run that goes on in the middle draws what it would have drawn."""
    plan = Plan(config_of(color={"law": "hico"}))
    one, two = (plan(RECORD, Clock(150), np.random.default_rng(3), 0.4) for _ in range(2))
    assert one.keys() == two.keys() == {"video", "color"}
    assert all(np.array_equal(one[k], two[k]) for k in one)
    later = plan(RECORD, Clock(150), np.random.default_rng(3), 0.9)
    assert not np.array_equal(one["video"], later["video"])


def test_pairs_of_hicopp_lie_anywhere_and_stay_together() -> None:
    clip = {**CLIP, "num_clips": 6}
    found = starts(config_of(method="hicopp", clip=clip, distance_sec=(0.0, 1.5)), 0.0)
    np.testing.assert_array_equal(found[:, 0::2], found[:, 1::2])
    assert np.abs(found[:, 0, 0] - found[:, 2, 0]).max() / FPS > 8
    near = starts(
        config_of(method="hicopp", clip=clip, distance_sec=(0.0, 0.0), topic_distance_sec=0.5),
        0.0,
    )
    assert np.abs(near[:, 0, 0] - near[:, 2, 0]).max() / FPS <= 0.7


def test_clips_of_simclr_are_anywhere() -> None:
    clip = {**CLIP, "num_clips": 2}
    found = starts(
        config_of(method="simclr", clip=clip, topical_weight=0.0, distance_sec=None), 0.0
    )
    assert np.abs(found[:, 0, 0] - found[:, 1, 0]).max() / FPS > 8


@pytest.mark.parametrize("num_frames", [12, 39])
def test_a_video_shorter_than_two_clips_is_refused_by_name(num_frames: int) -> None:
    with pytest.raises(BadVideo, match=r"a\.mp4.*clips of 2\.00 s need twice that"):
        Plan(config_of())(RECORD, Clock(num_frames), np.random.default_rng(0), 0.0)
    Plan(config_of())(RECORD, Clock(40), np.random.default_rng(0), 0.0)


@pytest.mark.parametrize("progress", [-0.1, 1.01])
def test_progress_outside_of_the_training_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=r"progress=.* must lie in \[0, 1\]"):
        Plan(config_of())(RECORD, Clock(100), np.random.default_rng(0), progress)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"clip": {**CLIP, "num_clips": 2}}, r"num_clips=2 .* at least 3"),
        ({"method": "hicopp"}, r"num_clips=3 .* an even number"),
        ({"clip": {**CLIP, "sampling": "constant"}}, "sampling: seconds"),
        ({"clip": {**CLIP, "fps": None}}, "clip.fps"),
        ({"clip": {**CLIP, "views_per_clip": 2}}, "views_per_clip=2 must be 1"),
        ({"visual_weight": 0.0, "topical_weight": 0.0}, "not both 0"),
        ({"method": "simclr"}, "which has no topics"),
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"distance_sec": (-1.0, 1.0)}, "must not be negative"),
        ({"topic_distance_sec": 1.0}, "goes with method='hicopp'"),
        ({"hidden_dims": []}, "one or more widths"),
        ({"freeze_patches": True}, "only a vit has patches"),
        ({"pooling": "cls"}, "only a vit has patches and a class token"),
        (
            {"encoder": {"architecture": "s3d"}},
            r"^encoder\.architecture='s3d': allowed are \[.*'s3dg'.*\]\. Did you mean 's3dg'\?$",
        ),
        ({"encoder": {"architecture": "s3dg", "width_divisor": 32}}, "must lie in 1..16"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        config_of(**changes)


def test_what_the_encoder_expects_is_told_in_seconds() -> None:
    objective = Objective(config_of())
    assert objective.encoders()["encoder"].preprocess == VideoPreprocess(
        num_frames=4, frame_stride=3, fps=6.0, size=8, sampling="seconds", mean=(0.45,) * 3,
        std=(0.225,) * 3,
    )  # fmt: skip


# From uint8 to the loss ---------------------------------------------------------------------------


def raw_batch(config: Config, *, num_videos: int = 3, size: int = 8) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    shape = (num_videos, config.clip.num_clips, config.clip.num_frames, size, size, 3)
    return {"video": torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))}


def embeddings_by_hand(objective: Objective, batch: dict[str, torch.Tensor]) -> Any:
    """(visual, topical) embeddings of every clip, each computed from its pixels."""
    pixels = batch["video"].flatten(0, 1).permute(0, 4, 1, 2, 3).double()
    features = objective.encoder(((pixels / 255) - 0.45) / 0.225).mean((2, 3, 4))
    return tuple(
        F.normalize(torch.nn.Sequential(*head)(features), dim=-1)
        for head in (objective.visual, objective.topical)
    )


def loss_by_hand(objective: Objective, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """HiCo, or HiCo++, one pair of clips after the other."""
    config = objective.config
    z, h = embeddings_by_hand(objective, batch)
    videos, clips = batch["video"].shape[:2]
    paired = config.method == "hicopp"
    visual = []
    for b in range(videos):
        for a in range(clips if paired else 2):
            anchor, partner = z[b * clips + a], z[b * clips + (a ^ 1)]
            rest = [z[o * clips + k] for o in range(videos) if o != b for k in range(clips)]
            top = torch.exp(anchor @ partner / config.temperature)
            below = sum(torch.exp(anchor @ other / config.temperature) for other in rest)
            visual.append(-torch.log(top / (top + below)))
    owner = [b for b in range(videos) for _ in range(clips)]
    if paired:
        h = (h[0::2] + h[1::2]) / 2
        owner = owner[0::2]
    judge = torch.nn.Sequential(objective.judge.hidden, torch.nn.ReLU(), objective.judge.out)
    same, other = [], []
    for i in range(len(h)):
        for j in range(len(h)):
            p = torch.sigmoid(judge(torch.cat([h[i], h[j]]))).squeeze()
            if i != j and owner[i] == owner[j]:
                same.append((1 - p) ** config.focus * torch.log(p + 1e-5))
            elif owner[i] != owner[j]:
                other.append(p**config.focus * torch.log(1 - p + 1e-5))
    topical = -torch.stack(same).mean() - torch.stack(other).mean()
    return config.visual_weight * torch.stack(visual).mean() + config.topical_weight * topical


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"visual_weight": 0.5, "topical_weight": 2.0, "temperature": 0.3, "focus": 2.0},
        {"method": "hicopp", "clip": {**CLIP, "num_clips": 4}},
    ],
)
def test_the_loss_of_raw_clips_is_the_sheet_s(changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    objective = Objective(config_of(**changes)).eval()
    batch = raw_batch(objective.config)
    found = objective(batch).loss
    wanted = loss_by_hand(objective.double(), batch)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"method": "hicopp", "clip": {**CLIP, "num_clips": 4}}])
def test_how_sure_it_is_of_two_videos_is_the_mean_over_their_clips(changes: Any) -> None:
    torch.manual_seed(0)
    objective = Objective(config_of(**changes)).eval()
    with torch.no_grad():
        objective.judge.hidden.weight *= 20
        batch = raw_batch(objective.config)
        found = objective.related(batch)
        logits, owner = objective.topic_logits(objective._features(batch))
    assert found is not None
    for a in range(3):
        for b in range(3):
            pairs = [
                logits[i, j].sigmoid()
                for i in range(len(owner)) if owner[i] == a
                for j in range(len(owner)) if owner[j] == b and i != j
            ]  # fmt: skip
            torch.testing.assert_close(found[a, b], torch.stack(pairs).mean())
    assert Objective(config_of(topical_weight=0.0)).related(batch) is None


def test_a_term_without_weight_has_no_head() -> None:
    visual = Objective(config_of(topical_weight=0.0, clip={**CLIP, "num_clips": 2}))
    topical = Objective(config_of(visual_weight=0.0))
    names = [{name.split(".")[0] for name, _ in o.named_parameters()} for o in (visual, topical)]
    assert names == [{"encoder", "visual"}, {"encoder", "topical", "judge"}]
    for objective in (visual, topical):
        objective(raw_batch(objective.config)).loss.backward()
        assert all(p.grad is not None for p in objective.parameters())


def test_one_video_is_refused_where_it_would_give_nan() -> None:
    objective = Objective(config_of())
    with pytest.raises(
        ValueError, match=r"1 record .* hico tells videos apart\. Raise training\.global_batch_size"
    ):
        objective(raw_batch(objective.config, num_videos=1))


def test_a_judge_that_is_sure_gives_finite_gradients() -> None:
    """The slope of a square root is infinite at 0: a probability of exactly 1 made NaN of all weights."""
    owner = torch.arange(3).repeat_interleave(3)
    for size in (40.0, 200.0, -200.0):
        logits = torch.full((9, 9), size, requires_grad=True)
        loss = topical_loss(logits, owner, focus=0.5)
        loss.backward()
        assert loss.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_patches_that_are_frozen_do_not_move() -> None:
    objective = Objective(
        config_of(
            encoder={"preset": None, "embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 4},
            freeze_patches=True,
        )
    )
    objective(raw_batch(objective.config)).loss.backward()
    still = {n for n, p in objective.named_parameters() if p.grad is None}
    assert still == {"encoder.patch_embed.proj.weight", "encoder.patch_embed.proj.bias"}


WORK = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from test_hico import config_of, raw_batch
from video_ssl.objectives.hico.objective import Objective
rank = int(sys.argv[1])
torch.manual_seed(0)
objective = Objective(config_of(topic_pairs="all")).eval()
with torch.no_grad():
    objective.judge.hidden.weight *= 20  # untrained, it says the same of all pairs
batch = raw_batch(objective.config, num_videos=4)
whole = objective(batch)
whole.loss.backward()
wanted = [p.grad.clone() for p in objective.parameters()]
objective.zero_grad()
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
part = objective({"video": batch["video"].chunk(2)[rank]})
torch.testing.assert_close(part.loss, whole.loss)
part.loss.backward()
for p, w in zip(objective.parameters(), wanted):
    dist.all_reduce(p.grad)
    torch.testing.assert_close(p.grad / 2, w, atol=1e-6, rtol=1e-4)
own = Objective(config_of()).eval()
own.load_state_dict(objective.state_dict())
figures = own({"video": batch["video"].chunk(2)[rank]}).figures
torch.testing.assert_close(figures["loss_visual"], whole.figures["loss_visual"])
assert not torch.allclose(figures["loss_topical"], whole.figures["loss_topical"], rtol=1e-4)
dist.destroy_process_group()
print("equal")
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    """Losses and averaged gradients of two halves of a batch; topics of each process alone, as published, differ."""
    command = [sys.executable, "-W", "ignore", "-c", WORK]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outs = [process.communicate(timeout=600)[0] for process in started]
    assert all("equal" in out for out in outs), outs


# S3D-G --------------------------------------------------------------------------------------------


def test_the_moments_of_s3dg_lie_where_its_map_looks() -> None:
    """A change of one frame moves the moments around it most; positions are their middles."""
    torch.manual_seed(0)
    network = S3DG(S3DGConfig(width_divisor=16)).eval()
    for length in (5, 16, 21):
        clip = torch.randn(1, 3, length, 32, 32)
        with torch.no_grad():
            shape = network(clip).shape[2:]
            assert tuple(shape) == network.grid(clip)
        assert len(network.frame_positions(length)) == shape[0]
    np.testing.assert_array_equal(network.frame_positions(24), [2.0, 10.0, 18.0])


@pytest.mark.parametrize("shape", [(4, 32, 32), (8, 16, 32)])
def test_clips_that_are_too_small_for_s3dg_are_refused(shape: tuple[int, int, int]) -> None:
    network = S3DG(S3DGConfig(width_divisor=16)).eval()
    with pytest.raises(ValueError, match="Use longer clips or a larger crop"):
        network(torch.zeros(1, 3, *shape))
    network(torch.zeros(1, 3, 5, 17, 17))


def test_either_family_of_names_will_do_and_two_that_differ_will_not() -> None:
    network = S3DG(S3DGConfig(width_divisor=16))
    theirs = to_hico(network.state_dict())
    assert len(theirs) == 2 * len(network.state_dict())
    aliases = {k: v for k, v in theirs.items() if k.startswith("backbone.block")}
    names = {k: v for k, v in theirs.items() if k not in aliases}
    for part in (theirs, aliases, names):
        assert from_hico(part).keys() == network.state_dict().keys()
    theirs["backbone.block3.1.gating_b0.fc.bias"] = torch.ones(4)
    with pytest.raises(ValueError, match="differs from its alias"):
        from_hico(theirs)


def test_r3d_of_basic_blocks_has_whole_kernels() -> None:
    """R3D-18: no config of it is published, the stem is ours (papers/hico.md section 3.2)."""
    config = R2Plus1DConfig(preset="r3d_18")
    assert (config.block, config.kernels, config.stem) == ("r2d3d", (3, 3, 3, 3), "r2d3d")


def test_the_topic_of_hicopp_is_judged_by_the_mean_of_the_two_clips_side_by_side() -> None:
    """Clips 0 and 1 are a pair, and 2 and 3: within a pair their order does not count, across pairs it does."""
    torch.manual_seed(0)
    config = config_of(method="hicopp", clip={**CLIP, "num_clips": 4})
    objective = Objective(config).eval()
    with torch.no_grad():
        features = torch.randn(3, 4, config.encoder.width)
        logits, owner = objective.topic_logits(features)
        assert owner.tolist() == [0, 0, 1, 1, 2, 2]
        within, _ = objective.topic_logits(features[:, [1, 0, 3, 2]])
        across, _ = objective.topic_logits(features[:, [0, 2, 1, 3]])
    torch.testing.assert_close(within, logits)
    assert not torch.allclose(across, logits, atol=1e-4)
