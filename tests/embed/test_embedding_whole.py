"""Encoders of whole videos: every frame sees all of its video, or all of its part of a very long one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.clips.crops import center_region, view_frames
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.models.config import Normalization
from video_ssl.models.contract import Encoder
from video_ssl.models.encoders import load_encoder, save_encoder
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import FrameTransformer
from video_ssl.models.preprocess import to_model_input
from video_ssl.models.preprocess_config import VideoPreprocess

SIZE = 80  # the conv head needs maps of 5 x 5


def make_encoder(folder: Path, **changes: object) -> Encoder:
    torch.manual_seed(0)
    config = FrameTransformerConfig(
        backbone="small", small_width=4, num_frames=6, fc_dims=(16,), hidden_dim=16, num_layers=1, num_heads=2,
        ffn_dim=16, embed_dim=8, conv_dim=8, context_stride=2, **changes,
    )  # fmt: skip
    preprocess = VideoPreprocess(num_frames=6, frame_stride=1, size=SIZE)
    save_encoder(
        folder,
        FrameTransformer(config),
        architecture="frame_transformer",
        preprocess=preprocess,
        source={},
    )
    return load_encoder(folder)


def expected(encoder: Encoder, record) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The features of all frames from one call of the encoder with the whole video."""
    with open_record(record) as reader:
        frames = reader.frames(range(reader.info.num_frames))
    region = center_region(*frames.shape[1:3])
    pixels = torch.from_numpy(view_frames(frames, region, SIZE))[None]
    with torch.inference_mode():
        return encoder.frame_features(to_model_input(pixels, Normalization()))[0].numpy()


def embedded(encoder: Encoder, table: Table, out: Path, **settings: object) -> list[np.ndarray]:
    config = EmbedConfig(per_frame=True, num_workers=0, **settings)
    found = Embedder(encoder, config).embed(table, out, progress=False)
    return [found.frames_of(record.id)[0] for record in map(table.record, range(3))]


@pytest.mark.parametrize(
    ("head", "most"), [("transformer", 1000), ("transformer", 7), ("conv", 1000)]
)
def test_features_are_those_of_one_look_at_the_whole_video(videos, tmp_path, head, most) -> None:
    """Videos of 12, 15 and 18 frames; with max_frames=7 they are cut into 2 x 6, 3 x 5 and 3 x 6 frames."""
    encoder = make_encoder(tmp_path / "e", head=head, max_frames=most)
    table = Table.open(videos / "train.arrow")
    found = embedded(encoder, table, tmp_path / "f.arrow")
    for number, frames in enumerate(found):
        record = table.record(number)
        assert len(frames) == 12 + 3 * number
        np.testing.assert_allclose(frames, expected(encoder, record), atol=1e-5)


def test_parts_have_positions_of_their_own_and_windows_are_something_else(videos, tmp_path) -> None:
    table = Table.open(videos / "train.arrow")
    whole = embedded(make_encoder(tmp_path / "a"), table, tmp_path / "a.arrow")
    parts = embedded(make_encoder(tmp_path / "b", max_frames=7), table, tmp_path / "b.arrow")
    windows = embedded(make_encoder(tmp_path / "a"), table, tmp_path / "c.arrow", num_frames=6)
    for a, b, c in zip(whole, parts, windows, strict=True):
        assert a.shape == b.shape == c.shape
        assert np.abs(a - b).max() > 0.01
        assert np.abs(a - c).max() > 0.01


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_part_is_a_row_and_the_last_may_be_shorter(videos, tmp_path, num_workers) -> None:
    """Videos of 12, 15 and 18 frames in parts of at most 5."""
    table = Table.open(videos / "train.arrow")
    config = EmbedConfig(per_frame=True, num_workers=num_workers)
    encoder = make_encoder(tmp_path / "e", max_frames=5)
    found = Embedder(encoder, config).embed(table, tmp_path / "f.arrow", progress=False)
    lengths = [len(found.frames(row)[0]) for row in range(10)]
    assert lengths == [4, 4, 4, 5, 5, 5, 5, 5, 5, 3]
    assert found.table["clip"].to_pylist()[:10] == [0, 1, 2, 0, 1, 2, 0, 1, 2, 3]
    labels = found.table["frame_labels"].to_pylist()
    assert [*labels[0], *labels[1], *labels[2]] == [i % 5 for i in range(12)]
