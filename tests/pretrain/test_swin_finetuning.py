"""Fine-tuning of BEVT's encoders: other windows, no pictures; rectangles that are not shown; crops of a trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.clips.erasing import EraseConfig, sample_erased
from video_ssl.datasets import open_table
from video_ssl.datasets.table import Record
from video_ssl.embed.clips_of import windows_for
from video_ssl.embed.config import EmbedConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import fitted_tables
from video_ssl.models.preprocess import without_rectangles
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.supervised.config import Config
from video_ssl.objectives.supervised.objective import Objective
from video_ssl.objectives.supervised.plan import Plan
from video_ssl.pretrain.recipe import ValidationConfig
from video_ssl.pretrain.torch_loop import validation
from video_ssl.recipes import build_config

SWIN: dict[str, Any] = {
    "preset": None,
    "embed_dim": 4,
    "depths": (1, 2, 1, 1),
    "num_heads": (1, 1, 2, 2),
    "window": (2, 2, 2),
}


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_encoder(
        tmp_path_factory.mktemp("encoder") / "e",
        VideoSwin(SwinConfig(**SWIN, images=True, drop_path=0.3, num_frames=4)),
        architecture="swin",
        preprocess=VideoPreprocess(num_frames=4, size=32),
        source={},
    )


def config_of(pretrained: Path, **changes: Any) -> Config:
    section = {
        "num_classes": 3,
        "init": {"run": str(pretrained)},
        "clip": {"num_frames": 4, "frame_stride": 1},
        "crop": {"kind": "random_resized", "size": 32},
        "encoder": {"architecture": "swin", **SWIN},
        **changes,
    }
    found: Config = build_config(Config, section, "objective")
    return found


def labelled() -> Any:
    names: tuple[str, ...] = ()
    return SimpleNamespace(
        column=lambda name: np.array([0, 1, 2]), column_names=["label"], class_names=names, name="t"
    )


def test_windows_grow_and_the_embedding_of_pictures_stays_behind(pretrained: Path) -> None:
    source = VideoSwin(SwinConfig(**SWIN, images=True, num_frames=4))
    source.load_state_dict(load_encoder(pretrained).state_dict())
    config = config_of(
        pretrained, encoder={"architecture": "swin", **SWIN, "window": (4, 2, 2), "drop_path": 0.4}
    ).settled([labelled()])
    objective = Objective(config, stages={"init": pretrained})
    wanted = fitted_tables(source.state_dict(), of=(2, 2, 2), window=(4, 2, 2))
    own = objective.encoder.state_dict()
    assert wanted.keys() - own.keys() == {k for k in wanted if k.startswith("patch_embed_2d.")}
    assert all(torch.equal(own[k], wanted[k]) for k in own)
    assert any(len(v) == 7 * 9 for k, v in own.items() if k.endswith("bias_table"))


def test_all_settings_of_the_encoder_but_those_of_pictures(pretrained: Path) -> None:
    """What would never get a gradient is not there."""
    config = config_of(pretrained, encoder=None).settled([labelled()])
    assert isinstance(config.encoder, SwinConfig)
    assert (config.encoder.images, config.encoder.window) == (False, (2, 2, 2))
    objective = Objective(config, stages={"init": pretrained})
    batch = {
        "video": torch.zeros(1, 1, 4, 32, 32, 3, dtype=torch.uint8),
        "label": torch.tensor([1]),
    }
    objective(batch).loss.backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_another_shape_is_refused(pretrained: Path) -> None:
    encoder = {"architecture": "swin", **SWIN, "depths": (1, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"trained with other settings.*depths=\[1, 2, 1, 1\]"):
        config_of(pretrained, encoder=encoder).settled([labelled()])


# Rectangles that are not shown ---------------------------------------------------------------------


def test_rectangles_have_the_shares_that_are_asked_for() -> None:
    config = EraseConfig(probability=0.25)
    found = sample_erased(config, 40, 4000, np.random.default_rng(0))
    top, left, h, w = found.T
    drawn = h > 0
    assert abs(drawn.mean() - 0.25) < 0.03
    share, aspect = (h * w)[drawn] / 1600, h[drawn] / w[drawn]
    assert 0.012 < share.min() < 0.03
    assert 0.3 < share.max() < 0.36
    assert 0.2 < aspect.min() < 0.4
    assert 2.7 < aspect.max() < 4.2
    assert abs(np.log(aspect).mean()) < 0.06
    assert (top + h)[drawn].max() == (left + w)[drawn].max() == 40
    assert top[drawn].min() == left[drawn].min() == 0
    assert not found[~drawn].any()


def test_a_rectangle_is_the_mean_color_in_all_frames(pretrained: Path) -> None:
    video = torch.randn(2, 3, 4, 8, 9)
    found = without_rectangles(video, torch.tensor([[1, 2, 3, 4], [0, 0, 0, 0]]))
    wanted = video.clone()
    wanted[0, :, :, 1:4, 2:6] = 0
    assert torch.equal(found, wanted)

    info = VideoInfo(
        num_frames=20, fps=10.0, width=40, height=40, duration_sec=2.0, codec="none", rotation=0,
        has_audio=False,
    )  # fmt: skip
    reader: Any = SimpleNamespace(
        info=info, frames=lambda indices, size=None: np.zeros((len(indices), 40, 40, 3), np.uint8)
    )
    config = config_of(pretrained, erase={"probability": 1.0}).settled([labelled()])
    record = Record(index=0, id="0", source="a", label=1)
    sample = Plan(config)(record, reader, np.random.default_rng(0), 0.5)
    assert sample["erased"].shape == (1, 4)
    objective = Objective(config, stages={"init": pretrained}).eval()
    seen = []
    objective.encoder.clip_features = lambda v: (
        seen.append(v) or v.mean((2, 3, 4))[:, :1].expand(-1, 32)
    )
    objective({k: torch.from_numpy(v)[None] for k, v in sample.items()})
    top, left, h, w = sample["erased"][0]
    gone = seen[0][0, 0, 0] == 0
    assert gone.sum() == h * w > 0
    assert gone[top : top + h, left : left + w].all()


def test_settings_of_rectangles() -> None:
    for changes, text in (
        ({"probability": 1.5}, "must lie in"),
        ({"area": (0.5, 0.2)}, "0 < low <= high <= 1"),
        ({"aspect": (0.0, 1.0)}, "0 < low <= high"),
    ):
        with pytest.raises(ValueError, match=text):
            EraseConfig(**changes)  # type: ignore[arg-type]


# Crops of a trial ----------------------------------------------------------------------------------


def test_a_trial_sees_every_clip_in_several_crops(
    pretrained: Path, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(config_of(pretrained).settled([labelled()]), stages={"init": pretrained})
    table = open_table(videos)
    monkeypatch.setattr(validation, "_labels", lambda *_: np.zeros(len(table), np.int64))
    trial = validation.open_validation(
        ValidationConfig(table=str(videos), num_clips=2, num_crops=3),
        objective,
        SimpleNamespace(column=lambda name: np.zeros(2, np.int64)),  # type: ignore[arg-type]
        loader=SimpleNamespace(backend="auto", video_timeout_sec=None, num_workers=0),  # type: ignore[arg-type]
        precision="fp32",
        processes=None,  # type: ignore[arg-type]
    )
    clips = trial._clips(0)
    assert clips is not None
    assert clips.shape == (6, 4, 32, 32, 3)
    larger = replace(trial.config, size=40)
    trial = validation.open_validation(
        larger,
        objective,
        SimpleNamespace(column=lambda name: np.zeros(2, np.int64)),  # type: ignore[arg-type]
        loader=SimpleNamespace(backend="auto", video_timeout_sec=None, num_workers=0),  # type: ignore[arg-type]
        precision="fp32",
        processes=None,  # type: ignore[arg-type]
    )
    clips = trial._clips(0)
    assert clips is not None
    assert clips.shape == (6, 4, 40, 40, 3)


@pytest.mark.parametrize("crops", [1, 3])
def test_a_trial_reads_clips_as_an_evaluation_reads_them(
    crops: int, videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Was wrong: frames in order for an encoder of shuffled ones, and always the central square, bilinear."""
    monkeypatch.setattr(validation, "_labels", lambda *_: np.zeros(1, np.int64))
    monkeypatch.setattr(validation, "is_sharded", lambda _: False)
    preprocess = VideoPreprocess(
        num_frames=4, size=32, shuffle_frames=True, resize_to=40, kernel="bicubic"
    )
    encoder: Any = SimpleNamespace(preprocess=preprocess, max_frames=None, frames_stand_alone=False)
    trial = validation.open_validation(
        ValidationConfig(table=str(videos), num_clips=2, num_crops=crops),
        SimpleNamespace(  # type: ignore[arg-type]
            classifier=object, encoders=lambda: {"e": encoder}, is_multilabel=lambda: False
        ),
        SimpleNamespace(column=lambda name: np.zeros(2, np.int64)),  # type: ignore[arg-type]
        loader=SimpleNamespace(),  # type: ignore[arg-type]
        precision="fp32",
        processes=None,  # type: ignore[arg-type]
    )
    crop: Any = "center" if crops == 1 else "spread"
    asked = EmbedConfig(num_clips=2, num_crops=crops, crop=crop)
    assert trial.windows == windows_for(encoder, asked)
