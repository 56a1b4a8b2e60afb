"""Long videos: one pass over the file, memory that does not grow, a feature for every frame, layers and poolings."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from video_ssl.clips.reading import open_record
from video_ssl.clips.sampling.window_layout import Layout, starts_by_hop, starts_by_time
from video_ssl.clips.windows import WindowConfig, iterate_windows
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import FeatureError
from video_ssl.embed.rows import features_at
from video_ssl.models.config import ImageViTConfig, ViTConfig
from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess


def ready(module, **preprocess):
    module.preprocess = VideoPreprocess(size=16, mean=(0, 0, 0), std=(1, 1, 1), **preprocess)
    module.architecture, module.source = "toy", {}
    return module.requires_grad_(False).eval()


def pixels(**changes):
    return ready(PixelEncoder(PixelsConfig(num_frames=4, size=1)), num_frames=4, **changes)


def vit(*, cls_token=False):
    torch.manual_seed(0)
    config = ViTConfig(
        preset=None,
        embed_dim=32,
        depth=3,
        num_heads=2,
        image_size=16,
        num_frames=4,
        patch_size=8,
        cls_token=cls_token,
    )
    return ready(VideoViT(config), num_frames=4, frame_stride=2)


def long_video(path, num_frames, *, codec, gop):
    """Grey frames 32 x 32 at 25 per second, written fast."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = Fraction(1, 25)
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "threads": "1"}
        frame = av.VideoFrame(32, 32, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        for number in range(num_frames):
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class CountingContainer:
    """An open file that counts the packets that are read from it."""

    def __init__(self, container, counts):
        self._container, self._counts = container, counts

    def __getattr__(self, name):
        return getattr(self._container, name)

    def demux(self, *streams):
        for packet in self._container.demux(*streams):
            self._counts["packets"] += 1
            yield packet


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("avi", "mpeg4")])
def test_the_cost_of_a_frame_does_not_grow_with_the_length(tmp_path, monkeypatch, suffix, codec):
    """Two and ten minutes: packets read, and bytes held, per frame of the video."""
    config = WindowConfig(num_frames=8, frame_stride=2, hop=8, size=16)
    lengths = (3000, 15000)
    files = [long_video(tmp_path / f"{n}.{suffix}", n, codec=codec, gop=250) for n in lengths]
    counts, held = {"packets": 0}, []
    original = av.open
    monkeypatch.setattr(
        av, "open", lambda *a, **more: CountingContainer(original(*a, **more), counts)
    )
    for path, num_frames in zip(files, lengths, strict=True):
        record = Record(index=0, id="a", source=str(path))
        with open_record(record) as reader:
            assert reader.info.num_frames == num_frames
            counts["packets"] = 0  # without those that list or count the frames
            tracemalloc.start()
            windows = sum(1 for _ in iterate_windows(record, reader, config))
            held.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert windows == -(-(num_frames - 15) // 8) + 1
        assert num_frames * 0.9 < counts["packets"] <= num_frames + 20
    assert (held[1] - held[0]) / (lengths[1] - lengths[0]) < 64  # times, what is needed, starts


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(1, 20))
def test_every_frame_is_the_own_frame_of_the_window_whose_middle_is_nearest(n, num_frames, hop):
    starts = starts_by_hop(max(n - num_frames, 0), min(hop, num_frames))
    layout = Layout(
        starts=starts,
        num_frames=num_frames,
        frame_stride=1,
        grid=np.arange(n) * 3,
        times=np.arange(3 * n) / 10,
    )
    found = {}
    for number in range(len(layout)):
        clip, own = layout.clip(number), layout.own(number)
        assert own.any()
        for index in clip.indices[own & clip.valid].tolist():
            assert index not in found
            found[index] = number
    assert sorted(found) == (np.arange(n) * 3).tolist()
    middles = starts + (num_frames - 1) / 2
    for index, number in found.items():
        assert abs(index / 3 - middles[number]) == np.abs(index / 3 - middles).min()


def test_starts_by_time_follow_the_clock_and_not_the_count():
    times = np.concatenate([np.arange(10) * 0.1, 1 + np.arange(10) * 0.5])
    assert starts_by_time(16, 0.5, times).tolist() == [0, 5, 10, 11, 12, 13, 14, 15, 16]
    assert starts_by_time(0, 0.5, times).tolist() == [0]


def test_one_feature_for_every_sampled_frame(videos, tmp_path):
    """Mean colors: every sampled frame has its own, at its own time, through overlapping windows."""
    table = Table.open(videos / "test.arrow")
    for stride, overlap in ((1, None), (2, 0.5), (3, 0.25)):
        config = EmbedConfig(per_frame=True, frame_stride=stride, overlap=overlap, num_workers=0)
        found = Embedder(pixels(), config).embed(table, tmp_path / f"{stride}.arrow")
        for v in range(len(table)):
            with open_record(table.record(v)) as reader:
                frames = reader.frames(np.arange(0, reader.info.num_frames, stride))
            square = frames[:, :, 8:40].astype(np.float64).mean(axis=(1, 2)) / 255
            values, times = found.frames_of(table.record(v).id)
            assert times == pytest.approx(np.arange(len(frames)) * stride / 10)
            np.testing.assert_allclose(values, square, atol=2e-3)
    labels = [x for cell in found.table["frame_labels"].to_pylist() for x in cell]
    assert len(labels) == sum(len(row) for row in found.table["frame_times_sec"].to_pylist())
    with pytest.raises(FeatureError, match=r"no record 'tset0'. Did you mean 'test"):
        found.frames_of("tset0")


def test_frames_of_a_clip_encoder_lie_between_its_moments(videos, tmp_path):
    table = Table.open(videos / "test.arrow").select([3])  # 21 frames: 11 at stride 2
    encoder = vit()
    found = Embedder(encoder, EmbedConfig(per_frame=True, num_workers=0)).embed(
        table, tmp_path / "f.arrow"
    )
    values, times = found.frames_of("test3")
    assert times == pytest.approx(np.arange(11) * 0.2)
    # Windows of 4 frames every 2; frame 4 is at place 2 of the window that starts at frame 2.
    dense = EmbedConfig(num_clips=1, hop=2, num_workers=0)
    windows = Embedder(encoder, dense).embed(table, tmp_path / "g.arrow")
    moments = windows.frames(2)[
        0
    ]  # starts at source frame 4 = sampled frame 2; moments at 0.5, 2.5
    np.testing.assert_allclose(values[3], 0.75 * moments[0] + 0.25 * moments[1], atol=1e-5)
    np.testing.assert_allclose(values[0], windows.frames(0)[0][0], atol=1e-5)
    np.testing.assert_allclose(values[10], windows.frames(len(windows) - 1)[0][1], atol=0.2)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(0, 2**31))
def test_interpolation_is_numpys(count, seed):
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.uniform(0, 10, count)) + np.arange(count)
    moments, at = rng.normal(size=(count, 3)), np.arange(12)
    expected = np.stack([np.interp(at, positions, column) for column in moments.T], axis=1)
    np.testing.assert_allclose(features_at(moments, positions, at), expected, atol=1e-12)


def test_a_window_every_so_many_seconds(videos, tmp_path):
    table = Table.open(videos / "train.arrow").select([3])  # 21 frames at 10 a second
    config = EmbedConfig(stride_sec=0.5, num_workers=0)
    found = Embedder(pixels(frame_stride=2), config).embed(table, tmp_path / "f.arrow")
    assert found.table["start_sec"].to_pylist() == pytest.approx([0.0, 0.5, 1.0, 1.4])
    at_rate = EmbedConfig(stride_sec=0.5, fps=5.0, num_workers=0)
    found = Embedder(pixels(frame_stride=7), at_rate).embed(table, tmp_path / "g.arrow")
    assert found.frames(0)[1] == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_inner_layers_and_poolings(videos, tmp_path):
    table = Table.open(videos / "test.arrow").select([0])
    encoder = vit(cls_token=True)
    clip = torch.rand(2, 3, 4, 16, 16)
    whole, frames = encoder.features(clip)
    torch.testing.assert_close(encoder.features(clip, layer=None)[0], whole)
    inner, inner_frames = encoder.features(clip, layer=1)
    taps = encoder.taps(clip, 1)
    torch.testing.assert_close(inner, taps.mean((1, 2)))
    torch.testing.assert_close(inner_frames, taps.mean(2))
    torch.testing.assert_close(encoder.features(clip, pooling="cls")[0], encoder(clip)[:, 0])
    torch.testing.assert_close(encoder.features(clip, pooling="cls")[1], frames)
    largest = encoder.tokens(clip).amax(1)
    torch.testing.assert_close(encoder.features(clip, pooling="max")[0], largest)
    stored = Embedder(encoder, EmbedConfig(num_clips=1, layer=-1, num_workers=0)).embed(
        table, tmp_path / "f.arrow"
    )
    assert stored.metadata["layer"] == -1
    assert np.abs(stored.features).max() > 0
    last = Embedder(encoder, EmbedConfig(num_clips=1, num_workers=0)).embed(
        table, tmp_path / "g.arrow"
    )
    assert np.abs(stored.features - last.features).max() > 1e-3  # one has the final norm


def test_class_tokens_of_frames():
    torch.manual_seed(0)
    config = ImageViTConfig(
        preset=None, embed_dim=32, depth=2, num_heads=2, image_size=16, patch_size=8
    )
    encoder = ready(ImageViT(config), num_frames=4)
    clip = torch.rand(2, 3, 4, 16, 16)
    clips, frames = encoder.features(clip, pooling="cls")
    single = torch.stack([encoder(clip[:, :, t : t + 1])[:, 0] for t in range(4)], dim=1)
    torch.testing.assert_close(frames, single)
    torch.testing.assert_close(clips, single.mean(1))


@pytest.mark.parametrize(
    ("settings_", "encoder", "text"),
    [
        ({"layer": 3}, vit, r"layer=3 of 3 blocks: give 0 to 2, or -1"),
        ({"pooling": "cls"}, vit, "no class token: use mean or max"),
        ({"layer": 1}, pixels, "layer=1, but the encoder offers only its output"),
        ({"num_frames": 3}, vit, r"does not take such clips: num_frames=3 is not a multiple"),
        ({"pooling": "cls", "cells": 2}, vit, "cells=2 are means"),
        ({"overlap": 0.5}, vit, "overlap=0.5 belongs to per_frame"),
        ({"per_frame": True, "hop": 3}, vit, "hop and per_frame are given together"),
        ({"stride_sec": 0.0}, vit, "stride_sec=0.0 must be more than 0"),
        ({"per_frame": True, "frames": False}, vit, "per_frame asks for frame features"),
    ],
)
def test_what_cannot_be_embedded_is_told(settings_, encoder, text):
    with pytest.raises((EmbeddingError, ValueError), match=text):
        Embedder(encoder(), EmbedConfig(**settings_))


def test_a_single_file_is_a_source_and_a_second_call_changes_nothing(videos, tmp_path, caplog):
    out, source = tmp_path / "f.arrow", str(videos / "train3.mp4")
    caplog.set_level("INFO")
    options = {"device": "cpu", "num_workers": 0}
    first = embed_table("pixels:4", source, out, **options)
    assert set(first.ids) == {"train3.mp4"}
    written = out.stat().st_mtime_ns
    embed_table("pixels:4", source, out, **options)
    assert out.stat().st_mtime_ns == written
    assert "is complete already" in caplog.text
    with pytest.raises(EmbeddingError, match=r"other features.*\n  settings.num_clips: 3 <- 2"):
        embed_table("pixels:4", source, out, num_clips=3, **options)
    assert len(embed_table("pixels:4", source, out, num_clips=3, restart=True, **options)) == 3
    with pytest.raises(EmbeddingError, match=r"f.npz must end in .arrow"):
        embed_table("pixels:4", source, tmp_path / "f.npz", **options)
