"""`encoder(video)`, `read_clip` and the verbs in Python: the same numbers as the command line gives."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from example_folder import make_example_folder

import video_ssl
from video_ssl.clips.reading import open_video
from video_ssl.embed.embedding import EmbeddingError
from video_ssl.models.preprocess_config import VideoPreprocess


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("python")
    make_example_folder(found)
    return found


@pytest.fixture(autouse=True)
def inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def encoder(folder):
    return video_ssl.load_encoder(folder / "runs" / "mine")


def whole(path):
    """All frames of a video."""
    with open_video(path) as reader:
        return reader.frames(np.arange(reader.info.num_frames)), reader.info.fps


def test_a_path_gives_what_embed_writes(encoder, tmp_path):
    found = encoder("videos/wave2.mp4")
    file = video_ssl.embed(
        "runs/mine", "videos/wave2.mp4", tmp_path / "a.arrow", per_frame=True, num_workers=0
    )
    frames, times = file.frames_of("wave2.mp4")
    np.testing.assert_array_equal(found.frames, frames)
    np.testing.assert_array_equal(found.times_sec, times)
    np.testing.assert_allclose(found.clip, file.features.mean(0), rtol=1e-6)
    assert found.frames.shape == (16, 32)
    assert repr(found) == "VideoFeatures(clip (32,), frames (16, 32), 0.00 to 1.50 s)"


def test_settings_are_those_of_embed(encoder, tmp_path):
    found = encoder("videos/wave2.mp4", num_clips=3, layer=0)
    file = video_ssl.embed(
        "runs/mine", "videos/wave2.mp4", tmp_path / "a.arrow", num_clips=3, layer=0, num_workers=0
    )
    np.testing.assert_allclose(found.clip, file.features.mean(0), rtol=1e-6)
    assert found.frames.shape == (6, 32)  # two moments a clip
    with pytest.raises(ValueError, match=r"no setting 'num_clip' .* mean 'num_clips'\?"):
        encoder("videos/wave2.mp4", num_clip=3)
    with pytest.raises(ValueError, match=r"no setting 'per_frme' .* mean 'per_frame'\?"):
        video_ssl.embed("runs/mine", "videos/wave2.mp4", tmp_path / "b.arrow", per_frme=True)
    with pytest.raises(ValueError, match=r"no setting 'kk' of search"):
        video_ssl.search("videos/wave2.mp4", tmp_path / "a.arrow", kk=3)


def test_a_batch_with_its_colors_last_is_told_how_it_is_made_right(encoder):
    """Was wrong: its 16 rows were taken for colors, and the text was about tokens that do not divide."""
    with pytest.raises(
        ValueError, match=r"seems to be \(B, T, H, W, 3\); video\.permute\(0, 4, 1, 2, 3\)"
    ):
        encoder(torch.zeros(2, 4, 16, 16, 3))


def test_all_frames_in_memory_are_the_file(encoder):
    frames, fps = whole("videos/wave2.mp4")
    file, array = encoder("videos/wave2.mp4"), encoder(frames, video_fps=fps)
    np.testing.assert_array_equal(array.frames, file.frames)
    np.testing.assert_array_equal(array.clip, file.clip)
    np.testing.assert_allclose(array.times_sec, file.times_sec, atol=1e-9)
    assert np.isnan(encoder(frames).times_sec).all()  # nobody knows them
    np.testing.assert_array_equal(encoder(torch.from_numpy(frames)).frames, file.frames)


@pytest.mark.parametrize("fps", [None, 5.0])
def test_a_clip_keeps_its_frames_and_times(encoder, fps):
    """Of encoders that sample by time too, which lay out what they are given by their own rate."""
    made_for = VideoPreprocess(num_frames=4, frame_stride=1, fps=fps, size=16)
    before, encoder.preprocess = encoder.preprocess, made_for
    try:
        clip = video_ssl.read_clip("videos/wave2.mp4", encoder, start_sec=0.5)
        found = encoder(clip)
    finally:
        encoder.preprocess = before
    assert clip.frames.shape == (4, 16, 16, 3)
    assert clip.valid.all()
    assert clip.times_sec[0] >= 0.5
    np.testing.assert_allclose(np.diff(clip.times_sec), 0.2 if fps else 0.1)
    np.testing.assert_allclose(found.times_sec, clip.times_sec)
    expected = encoder.outputs_of_arrays(clip.frames[None], ["clip"])["clip"][0]
    np.testing.assert_allclose(found.clip, expected, rtol=1e-5, atol=1e-6)


def test_a_tensor_with_a_point_still_goes_through_the_network(encoder):
    batch = torch.randn(2, 3, 4, 16, 16)
    assert torch.equal(encoder(batch), encoder.forward(batch))


def test_flax_takes_the_same(folder):
    pytest.importorskip("flax")
    ours = video_ssl.load_flax_encoder(folder / "runs" / "teg")("videos/wave2.mp4")
    twin = video_ssl.load_encoder(folder / "runs" / "teg")("videos/wave2.mp4")
    np.testing.assert_allclose(ours.frames, twin.frames, atol=1e-4)
    np.testing.assert_array_equal(ours.times_sec, twin.times_sec)


def test_a_video_that_cannot_be_read_is_named(encoder, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(EmbeddingError, match=r"broken\.mp4: "):
        encoder(tmp_path / "broken.mp4")


VIDEO = np.zeros((8, 20, 24, 3), np.uint8)
WRONG = [
    (np.moveaxis(VIDEO, -1, 0), "np.moveaxis(video, 0, -1)"),
    (np.moveaxis(VIDEO, -1, 1), "np.moveaxis(video, 1, -1)"),
    (VIDEO.astype(np.float32), "(255 * video).round().astype(np.uint8)"),
    (VIDEO.astype(np.float32) + 200, "video.astype(np.uint8)"),
    (VIDEO.astype(np.float32) - 2, "normalised already"),
    (VIDEO[None], "encoder.outputs_of_arrays"),
    (VIDEO[0], "video[None]"),
    (VIDEO[..., 0], "np.repeat(video[..., None], 3, axis=-1)"),
    (np.zeros((8, 20, 24, 4), np.uint8), "video[..., :3]"),
    (VIDEO[:0], "no frames"),
    (VIDEO.astype("U1"), "give numbers"),
]


@pytest.mark.parametrize(("given", "advice"), WRONG)
def test_a_wrong_array_gets_a_sentence_with_the_right_one(encoder, given, advice):
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        encoder(given)
    assert str(given.shape) in str(caught.value)
    assert "uint8 (T, H, W, 3), RGB in 0..255" in str(caught.value)


@pytest.mark.parametrize("given", [given for given, advice in WRONG if "video" in advice])
def test_the_advice_is_right(encoder, given):
    with pytest.raises(ValueError) as caught:
        encoder(given)
    said = str(caught.value).rpartition("0..255: ")[2].rstrip(".")
    advice = re.search(r"video[.\[].*?(?= makes| leaves)|np\..*\)(?= puts| makes)|\(255.*\)", said)
    assert advice, said
    assert encoder(eval(advice[0], {"video": given, "np": np})).clip.shape == (32,)


BATCH = torch.zeros(2, 3, 4, 16, 16)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (BATCH[0], "video[None]"),
        (BATCH.permute(0, 2, 3, 4, 1), "video.permute(0, 4, 1, 2, 3)"),
        (BATCH.transpose(1, 2), "video.transpose(1, 2)"),
        (BATCH.to(torch.uint8), "encoder.outputs_of_arrays"),
        (BATCH + 255, "divide by 255"),
        (BATCH[:, :2], "no axis holds three colors"),
    ],
)
@pytest.mark.parametrize("spec", ["runs/mine", "pixels:runs/mine@8", "hog_frame:runs/mine"])
def test_a_wrong_batch_gets_a_sentence_with_the_right_one(spec, given, advice):
    encoder = video_ssl.load_encoder(spec)
    with pytest.raises(ValueError, match=re.escape(advice)) as caught:
        encoder.features(given)
    assert "torch encoders take normalised float (B, 3, T, H, W)" in str(caught.value)


def test_flax_says_that_its_layout_is_another(folder):
    pytest.importorskip("flax")
    encoder = video_ssl.load_flax_encoder(folder / "runs" / "teg")
    with pytest.raises(ValueError, match=re.escape("np.moveaxis(video, 1, -1)")) as caught:
        encoder.features(np.zeros((1, 3, 8, 32, 32), np.float32))
    assert "flax encoders take normalised float (B, T, H, W, 3)" in str(caught.value)
    card = (folder / "runs" / "teg" / "encoder" / "README.md").read_text()
    assert "load_flax_encoder" in card
    assert "(B, T, H, W, 3); torch's takes (B, 3, T, H, W)" in card
    assert (
        "load_flax_encoder" not in (folder / "runs" / "mine" / "encoder" / "README.md").read_text()
    )


def test_rooms_are_verbs_and_stay_rooms():
    import video_ssl.embed.config

    assert video_ssl.embed.config.EmbedConfig is not None
    assert {"embed", "search", "pretrain", "evaluate", "read_clip"} <= set(dir(video_ssl))
    assert "shard" in inspect.signature(video_ssl.embed).parameters
    for name in ("embed", "pretrain", "evaluate"):
        assert callable(getattr(video_ssl, name))


def test_pretrain_and_evaluate_take_the_keys_of_the_command_line(folder, tmp_path):
    with pytest.raises(video_ssl.recipes.ConfigError, match=r"base_lr"):
        video_ssl.pretrain("videomae/demo", {"optimizer.bse_lr": 1}, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    found = video_ssl.evaluate(
        "probe",
        {"embed.num_workers": 0, "embed.num_clips": 1},
        encoder="runs/mine",
        train="train.csv",
        test="val.csv",
        evaluators={"knn": {"ks": [1]}},
        out=tmp_path / "out",
        quiet=True,
    )
    assert (tmp_path / "out" / "results.json").is_file()
    assert found["recipe"]["embed"]["num_clips"] == 1


def test_a_clip_that_is_too_short_says_what_fills_it_up(encoder):
    clip = video_ssl.read_clip("videos/wave1.mp4", num_frames=16, frame_stride=1, size=16)
    assert clip.valid.tolist() == [True] * 12 + [False] * 4
    assert clip.frames.shape == (16, 16, 16, 3)
    short = replace(clip, frames=clip.frames[:12], times_sec=clip.times_sec[:12])
    assert encoder(short).frames.shape == (12, 32)
