"""BEVT from uint8 batches to the loss, its tokenizer, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from video_ssl.clips.decoders.reader import VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.explore.pages.vocabulary_section import section_of
from video_ssl.models.config import ImageViTConfig
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.swin import VideoSwin
from video_ssl.models.networks.swin_config import SwinConfig
from video_ssl.models.networks.swin_tables import fitted_tables
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.tokenizers.config import DalleConfig, VQKDConfig
from video_ssl.models.tokenizers.dvae import DalleEncoder
from video_ssl.models.tokenizers.vq_config import VQConfig
from video_ssl.models.tokenizers.vq_tokenizer import VQTokenizer
from video_ssl.models.tokenizers.vqkd import VQKD
from video_ssl.objectives.bevt.config import Config
from video_ssl.objectives.bevt.objective import Objective
from video_ssl.objectives.bevt.plan import plans
from video_ssl.objectives.tokenizer.config import Config as TokenizerConfig
from video_ssl.objectives.tokenizer.objective import Objective as Training
from video_ssl.pretrain.errors import CheckpointError
from video_ssl.pretrain.torch_loop.checkpoints import load_objective
from video_ssl.recipes import build_config

WORDS = 9
SMALL: dict[str, Any] = {
    "tokenizer": {"run": "runs/tokenizer"},
    "clip": {"num_frames": 4, "frame_stride": 2, "sampling": "looped"},
    "crop": {"kind": "short_side", "scales": [0.7, 0.875], "size": 64, "flip_probability": 0.5},
    "mask": {"count": 8, "least": 2},
    "color": {"law": "bevt"},
    "encoder": {
        "preset": None,
        "embed_dim": 4,
        "depths": [1, 2, 2, 1],
        "num_heads": [1, 1, 2, 2],
        "window": [2, 2, 2],
    },
    "video_weight": 0.5,
    "image_weight": 2.0,
}


def config_of(**changes: Any) -> Config:
    return build_config(Config, {**SMALL, **changes})


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = VQTokenizer(VQConfig(width=4, dim=5, vocab_size=WORDS)).eval()
    return save_encoder(
        tmp_path / "tokenizer",
        network,
        architecture="vq_tokenizer",
        preprocess=VideoPreprocess(num_frames=1, frame_stride=1, size=32),
        source={},
    )


class Noise:
    info = VideoInfo(
        num_frames=20, fps=10.0, width=100, height=90, duration_sec=2.0, codec="none", rotation=0,
        has_audio=False,
    )  # fmt: skip

    def frames(self, indices: Any, size: Any = None) -> np.ndarray:
        rngs = [np.random.default_rng(int(i)) for i in indices]
        return np.stack([rng.integers(0, 256, (90, 100, 3), dtype=np.uint8) for rng in rngs])


def raw_batch(config: Config) -> dict[str, torch.Tensor]:
    """What a loader makes: two records of the main stream, three of the other."""
    batch: dict[str, torch.Tensor] = {}
    for number, (name, plan) in enumerate(plans(config).items()):
        rows = [
            plan(Record(index=i, id=str(i), source="a"), Noise(), np.random.default_rng(i), 0.5)
            for i in range(2 + number)
        ]
        prefix = f"{name}/" if number else ""
        batch |= {
            prefix + key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]
        }
    return batch


def test_the_loss_of_raw_clips_and_pictures(tokenizer: Path) -> None:
    """Every hidden cell's word, one after the other, from the pixels of both views."""
    config = config_of()
    torch.manual_seed(1)
    objective = Objective(config, stages={"tokenizer": tokenizer}).eval()
    batch = raw_batch(config)
    batch["mask"][0, 1] = (
        False  # tubes of one moment each: with equal moments their order would not be seen
    )
    batch["mask"][1, 0] = False
    output = objective(batch)
    words = objective.frozen["tokenizer"].module
    mean, std = (
        torch.tensor(getattr(config.normalization, n)).view(3, 1, 1, 1) for n in ("mean", "std")
    )
    with torch.no_grad():
        clips = []
        for video, small, mask in zip(batch["video"], batch["words"], batch["mask"], strict=True):
            pixels = (video.movedim(-1, 0).float() / 255 - mean) / std
            logits = objective.lm_head(objective.network(pixels[None], mask[None]))[0]
            wanted = words.encode(small.movedim(-1, 1).float() / 255)
            hidden = mask.repeat_interleave(2, dim=0)
            assert hidden.any()
            clips.append((logits.view(*wanted.shape, -1)[hidden], wanted[hidden]))
        pictures = []
        from video_ssl.models.color_changes import apply_color

        for i, mask in enumerate(batch["images/mask"]):
            color = batch["images/color"][i : i + 1]
            view, small = (
                apply_color(
                    batch[f"images/{n}"][i].movedim(-1, 0)[None, :, None].float() / 255,
                    color,
                    "bevt",
                )
                for n in ("picture", "words")
            )
            logits = objective.lm_head(
                objective.network.images(((view[0] - mean) / std)[None, :, 0], mask[None])
            )[0]
            wanted = words.encode(small[:, :, 0])[0]
            pictures.append((logits.view(4, 4, -1)[mask], wanted[mask]))
    losses = [
        F.cross_entropy(torch.cat([x for x, _ in rows]), torch.cat([w for _, w in rows]))
        for rows in (clips, pictures)
    ]
    torch.testing.assert_close(output.figures["loss_video"], losses[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.figures["loss_images"], losses[1], atol=1e-5, rtol=1e-5)
    wanted = 0.5 * losses[0] + 2.0 * losses[1]
    torch.testing.assert_close(output.loss.detach(), wanted, atol=1e-5, rtol=1e-5)


def test_the_tokenizer_sees_the_same_region_half_as_large() -> None:
    for plan in plans(config_of(color=None)).values():
        sample = plan(Record(index=0, id="0", source="a"), Noise(), np.random.default_rng(0), 0.5)
        view = sample.get("video", sample.get("picture")).astype(float)
        small = sample["words"].astype(float)
        assert small.shape[-3:-1] == (32, 32)
        halves = (view[..., 0::2, :, :] + view[..., 1::2, :, :]) / 2
        halves = (halves[..., 0::2, :] + halves[..., 1::2, :]) / 2
        assert np.corrcoef(halves.ravel(), small.ravel())[0, 1] > 0.9


def test_pictures_alone_teach_the_embedding_of_clips_too(tokenizer: Path) -> None:
    config = config_of(streams="images")
    objective = Objective(config, stages={"tokenizer": tokenizer})
    objective(raw_batch(config)).loss.backward()
    trained = {n for n, p in objective.named_parameters() if p.requires_grad}
    assert {n for n, p in objective.named_parameters() if p.grad is not None} == trained
    assert not any(".patch_embed." in name for name in trained)
    encoder = objective.network.encoder
    objective.after_step(1.0)
    still = torch.randn(1, 3, 1, 64, 64).expand(-1, -1, 2, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.embed(still), encoder.embed_images(still[:, :, 0]), atol=1e-5, rtol=1e-5
        )


def test_pictures_alone_teach_the_biases_of_all_differences_in_time(tokenizer: Path) -> None:
    """Was wrong: pictures learn the biases between tokens of one moment, and those of all other differences in time
    stayed at their random start, which the stage with clips began from."""
    config = config_of(streams="images")
    torch.manual_seed(0)
    objective = Objective(config, stages={"tokenizer": tokenizer})
    optimizer = torch.optim.SGD(objective.parameters(), 1.0)
    objective(raw_batch(config)).loss.backward()
    optimizer.step()
    tables = {n: p for n, p in objective.named_parameters() if n.endswith("bias_table")}
    learned = {n: p.detach().view(3, 9, -1)[1].clone() for n, p in tables.items()}
    assert len(tables) == 6
    objective.after_step(1.0)
    for name, table in tables.items():
        for slab in table.detach().view(3, 9, -1):
            assert torch.equal(slab, learned[name]), name


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"crop": {"size": 72}}, "crop.size=72 must be a multiple of 64"),
        ({"clip": {"num_frames": 5}}, "num_frames=5 must be a multiple of"),
        ({"mask": {"count": 16, "least": 2}}, "leaves nothing to see"),
        ({"mask": {"count": 8, "least": 9}}, "least=9 must lie in"),
        ({"mask": {"count": 8, "least": 2, "moments": [0.1, 1.0]}}, "may hide none"),
        ({"mask": {"count": 8, "least": 2, "moments": [0.5, 1.5]}}, "0 < low <= high"),
        ({"video_weight": 0.0}, "must be positive"),
        (
            {"crop": {"kind": "short_side", "size": 64, "scales": [1.0]}},
            r"scales=.* must be \(low, high\)",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        config_of(**changes)


def test_what_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig

    folder = save_encoder(
        tmp_path / "e",
        PixelEncoder(PixelsConfig(num_frames=1, size=4)),
        architecture="pixels",
        preprocess=VideoPreprocess(num_frames=1, size=32),
        source={},
    )
    with pytest.raises(TypeError, match="is no tokenizer"):
        Objective(config_of(), stages={"tokenizer": folder})
    with pytest.raises(ValueError, match=r"set objective\.tokenizer\.run"):
        Objective(config_of())


# The tokenizer ------------------------------------------------------------------------------------


def test_a_vocabulary_learns_to_tell_pictures_and_uses_its_words() -> None:
    """Colored squares: after some steps they come back, and words that nobody took have started anew."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = build_config(
        TokenizerConfig,
        {"encoder": {"width": 16, "dim": 8, "vocab_size": 32}, "crop": {"size": 16}},
    )
    objective = Training(config).train()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    seen = []
    for _ in range(120):
        cells = rng.integers(0, 256, (4, 4, 2, 2, 3)).astype(np.uint8)
        video = torch.from_numpy(cells.repeat(8, axis=2).repeat(8, axis=3))
        output = objective({"video": video})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        seen.append({k: float(v) for k, v in output.figures.items()})
    assert (
        np.mean([s["psnr_db"] for s in seen[-10:]]) > np.mean([s["psnr_db"] for s in seen[:5]]) + 4
    )
    assert np.mean([s["words_used"] for s in seen[-10:]]) > 0.5
    network = objective.encoder.eval()
    pictures = video.flatten(0, 1).movedim(-1, 1).float() / 255
    words = network.encode(pictures)
    assert words.shape == (16, 2, 2)
    assert network.decode(words).shape == pictures.shape
    with pytest.raises(ValueError, match="do not divide into cells of 8 pixels"):
        network.encode(pictures[..., :15])


def test_the_report_shows_pictures_from_their_words_and_counts_them() -> None:
    torch.manual_seed(0)
    config = build_config(
        TokenizerConfig, {"encoder": {"width": 4, "dim": 3, "vocab_size": 7}, "crop": {"size": 16}}
    )
    objective = Training(config).eval()
    video = torch.randint(0, 256, (2, 3, 16, 16, 3), dtype=torch.uint8)
    network = objective.encoder
    pictures = video.flatten(0, 1).movedim(-1, 1).float() / 255
    with torch.no_grad():
        words = network.encode(pictures)
        found = objective.reconstructed({"video": video})
        wanted = network.decode(words).movedim(1, -1).view(2, 3, 16, 16, 3)
    torch.testing.assert_close(found, wanted)
    counts = objective.counted_words({"video": video})
    assert counts.tolist() == [int((words == k).sum()) for k in range(7)]
    told = section_of(np.array([6, 2, 0, 0]), 3)
    assert (told.words, told.dead, told.cells, told.videos) == (4, 2, 8, 3)
    assert told.most_frequent == 0.75
    assert told.perplexity == pytest.approx(np.exp(-0.75 * np.log(0.75) - 0.25 * np.log(0.25)))
    assert "<svg" in told.drawing


# Stages and tokenizers that do not fit -------------------------------------------------------------


def saved_swin(folder: Path, **changes: Any) -> Path:
    settings = {**SMALL["encoder"], "images": True, "num_frames": 4, **changes}
    config = build_config(SwinConfig, settings)
    return save_encoder(
        folder,
        VideoSwin(config),
        architecture="swin",
        preprocess=VideoPreprocess(num_frames=4, size=64),
        source={},
    )


def test_a_first_stage_of_another_shape_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    config = config_of(init={"run": "runs/images"})
    places = {"tokenizer": tokenizer}
    for name, changes in (
        ("width", {"embed_dim": 8}),
        ("depth", {"depths": (1, 2, 3, 1)}),
        ("heads", {"num_heads": (1, 1, 1, 1)}),
    ):
        folder = saved_swin(tmp_path / name, **changes)
        with pytest.raises(ValueError, match=r"is no Swin of the widths \(4, 8, 16, 32\)"):
            Objective(config, stages={**places, "init": folder})
    with pytest.raises(ValueError, match="is no Swin"):
        Objective(config, stages={**places, "init": tokenizer})
    with pytest.raises(ValueError, match="no encoder was given"):
        Objective(config, stages=places)


def test_a_first_stage_of_other_windows_is_interpolated(tokenizer: Path, tmp_path: Path) -> None:
    folder = saved_swin(tmp_path / "e", window=(4, 2, 2))
    config = config_of(init={"run": "runs/images"})
    objective = Objective(config, stages={"tokenizer": tokenizer, "init": folder})
    theirs = load_encoder(folder).state_dict()
    own = objective.network.encoder.state_dict()
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    assert (len(theirs[name]), len(own[name])) == (7 * 9, 3 * 9)
    assert torch.equal(own[name], fitted_tables(theirs, of=(4, 2, 2), window=(2, 2, 2))[name])
    assert torch.equal(own["norm.weight"], theirs["norm.weight"])


def test_the_head_has_the_words_of_the_file_that_is_given(tokenizer: Path, tmp_path: Path) -> None:
    """OpenAI's form with another vocabulary than any other: the head follows, and weights of before do not fit."""
    network = DalleEncoder(DalleConfig(width=4, vocab_size=13, blocks_per_group=1))
    torch.save(network.state_dict(), tmp_path / "dalle.pth")
    config = config_of(tokenizer={"file": str(tmp_path / "dalle.pth")})
    objective = Objective(config, stages={"tokenizer": tmp_path / "dalle.pth"})
    assert objective.lm_head.out_features == 13
    assert objective(raw_batch(config)).loss.isfinite()
    before = Objective(config_of(), stages={"tokenizer": tokenizer}).state_dict()
    with pytest.raises(CheckpointError, match=r"lm_head\.weight"):
        load_objective(objective, before, "runs/before/checkpoints/step_1")


def test_a_tokenizer_of_large_cells_sees_the_large_picture() -> None:
    """BEiT v2's has patches of 16 pixels; its words stand for the same cells."""
    config = config_of(color=None)
    torch.manual_seed(0)
    vit = ImageViTConfig(
        preset=None, embed_dim=8, depth=1, num_heads=1, image_size=64, positions="learned"
    )
    network = VQKD(VQKDConfig(vit=vit, dim=3, vocab_size=WORDS))
    seen = []
    words = network.words
    network.words = lambda pictures: seen.append(pictures) or words(pictures)  # type: ignore[func-returns-value, assignment]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("video_ssl.objectives.bevt.objective._tokenizer", lambda *_: network)
        objective = Objective(config)
    batch = raw_batch(config)
    objective(batch)
    assert torch.equal(seen[0], batch["video"].flatten(0, 1).movedim(-1, 1).float() / 255)
    assert torch.equal(seen[1], batch["images/picture"].movedim(-1, 1).float() / 255)
