"""The folder that examples in docstrings run in: runs, videos, a table of them and published weights, all tiny."""

from __future__ import annotations

from pathlib import Path

import torch
from colored_videos import write_video
from safetensors.torch import save_file

from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.exchange.carl_weights import CARL_KEYS, CarlModel
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.r3d import R3D
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess

WIDTH = 32


def make_example_folder(folder: Path) -> None:
    """Fills a folder; nothing is random from one time to the next."""
    torch.manual_seed(0)
    clip = VideoPreprocess(num_frames=4, frame_stride=1, size=16)
    vit = VideoViT(
        ViTConfig(
            preset=None,
            embed_dim=WIDTH,
            depth=1,
            num_heads=2,
            image_size=16,
            num_frames=4,
            patch_size=8,
        )
    )
    for place in ("runs/mine/encoder", "encoders/k400"):
        save_encoder(
            folder / place,
            vit,
            architecture="vit",
            preprocess=clip,
            source={"objective": "videomae"},
        )
    head = {
        "fc_norm.weight": torch.ones(WIDTH),
        "fc_norm.bias": torch.zeros(WIDTH),
        "head.weight": torch.randn(400, WIDTH),
        "head.bias": torch.zeros(400),
    }
    save_file(head, folder / "encoders" / "k400" / "head.safetensors")
    cnn = R3D(
        R3DConfig(
            preset=None, blocks=(1, 1, 1, 1), filters=(2, 2, 3, 3), stem_width=4, num_frames=8
        )
    )
    save_encoder(
        folder / "runs" / "teg" / "encoder",
        cnn,
        architecture="r3d",
        preprocess=VideoPreprocess(num_frames=8, frame_stride=1, size=32),
        source={"objective": "teg"},
    )
    _write_carl(folder / "checkpoint_epoch_00299.pth")
    _write_videos(folder)


def _write_carl(path: Path) -> None:
    config = FrameTransformerConfig(
        num_frames=80, num_layers=1, hidden_dim=16, ffn_dim=16, embed_dim=8, fc_dims=(16, 16)
    )
    state = {}
    for key, value in CarlModel(config, 8).state_dict().items():
        theirs, ours = next(names for names in CARL_KEYS if key.startswith(names[1]))
        state[theirs + key.removeprefix(ours)] = value
    torch.save({"model_state": state, "cfg": {"TRAIN": {"NUM_FRAMES": 80}}}, path)


def _write_videos(folder: Path) -> None:
    """videos/ with three videos of two classes; videos.csv, a table of them with a column `split`; train.csv with
    all of them, val.csv with another one."""
    lines = ["source,label,split"]
    (folder / "videos").mkdir()
    for number, (name, num_frames) in enumerate((("wave1", 12), ("wave2", 16), ("bow1", 14))):
        write_video(folder / "videos" / f"{name}.mp4", num_frames, (90 * number, 120, 60), number)
        lines.append(f"videos/{name}.mp4,{int(name == 'bow1')},{'val' if number else 'train'}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    rows = "\n".join(line.rpartition(",")[0] for line in lines)
    (folder / "train.csv").write_text(rows + "\n")
    (folder / "other").mkdir()
    write_video(folder / "other" / "bow2.mp4", 10, (90, 60, 120), 3)
    (folder / "val.csv").write_text("source,label\nother/bow2.mp4,1\n")
