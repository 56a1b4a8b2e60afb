"""An encoder is shown the clips of its training: test views of segments, or plain windows where asked."""

import pytest

from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import VideoPreprocess


@pytest.fixture
def encoder():
    module = PixelEncoder(PixelsConfig(num_frames=4, size=1))
    module.preprocess = VideoPreprocess(num_frames=4, frame_stride=1, size=16, sampling="segments")
    module.architecture, module.source = "pixels", {}
    return module


def spans(videos, tmp_path, encoder, **settings):
    table = Table.open(videos / "train.arrow").select([3])  # 21 frames at 10 a second
    config = EmbedConfig(num_workers=0, **settings)
    found = Embedder(encoder, config).embed(table, tmp_path / "f.arrow")
    return list(
        zip(*(found.table[f"{end}_sec"].to_pylist() for end in ("start", "end")), strict=True)
    )


def test_segments_span_the_video(videos, tmp_path, encoder):
    # papers/videomae.md 6, MVD: middles of halves of 4 segments, half to even: 1, 6, 11, 16 and 3, 9, 13, 19.
    found = spans(videos, tmp_path, encoder, num_clips=2)
    assert found == [pytest.approx((0.1, 1.6)), pytest.approx((0.3, 1.9))]


def test_another_sampling_can_be_asked_for(videos, tmp_path, encoder):
    found = spans(videos, tmp_path, encoder, num_clips=2, sampling="constant")
    assert found == [pytest.approx((0.0, 0.3)), pytest.approx((1.7, 2.0))]


def test_windows_that_cover_the_video_are_of_constant_stride(videos, tmp_path, encoder):
    found = spans(videos, tmp_path, encoder, hop=8)
    assert [start for start, _ in found] == pytest.approx([0.0, 0.8, 1.6, 1.7])
    with pytest.raises(ValueError, match="sampling='segments' goes with num_clips, not with hop"):
        EmbedConfig(hop=8, sampling="segments")


def test_every_crop_of_every_clip_has_its_row(videos, tmp_path, encoder):
    found = spans(videos, tmp_path, encoder, num_clips=2, crop="spread", num_crops=3)
    assert found == [found[0]] * 3 + [found[3]] * 3
    with pytest.raises(ValueError, match=r"center_share=0\.5 must lie"):
        EmbedConfig(crop="spread", center_share=0.5)
