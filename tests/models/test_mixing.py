"""Mixup and CutMix: what is drawn, and what it does to clips and labels.  The references' numbers: tests/golden."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from video_ssl.clips.mixing import Mix, MixConfig, boxed_mix, cut_mix, sample_mix
from video_ssl.models import mixing


def marked(n=4, t=3, h=10, w=12):
    """Clips whose every pixel is the number of the clip."""
    return torch.arange(float(n)).view(n, 1, 1, 1, 1).expand(n, 3, t, h, w)


def mix_videos(video, mix, **settings):
    return mixing.mix_videos(video, torch.from_numpy(mix.row), **settings)


def mix_labels(label, num_classes, mix, **settings):
    return mixing.mix_labels(label, num_classes, torch.from_numpy(mix.row), **settings)


def draws(config, count=2000, size=(24, 32)):
    rng = np.random.default_rng(0)
    return [sample_mix(config, *size, rng) for _ in range(count)]


@given(st.floats(0, 1), st.integers(0, 9), st.integers(0, 11))
def test_the_share_in_the_label_is_the_share_of_the_pixels(lam, row, column):
    mix = cut_mix(lam, (row, column), 10, 12)
    mixed = mix_videos(marked(), mix)
    for clip, own in zip(mixed, range(4), strict=True):
        assert (clip == own).float().mean().item() == pytest.approx(mix.lam)
        assert (clip == clip[:, :1]).all()  # the same box in every frame
    labels = mix_labels(torch.arange(4), 4, mix)
    assert labels.diagonal().numpy() == pytest.approx([mix.lam] * 4)


def test_mixup_is_the_weighted_sum_with_the_batch_reversed():
    video = torch.rand(4, 3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    before = video.clone()
    mixed = mix_videos(video, Mix(lam=0.3))
    for i in range(4):
        torch.testing.assert_close(mixed[i], 0.3 * video[i] + 0.7 * video[3 - i])
    assert torch.equal(video, before)


def test_smoothed_targets_sum_to_one():
    targets = mix_labels(torch.tensor([1, 0]), 5, Mix(lam=0.6), label_smoothing=0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(2))
    expected = [0.4 * 0.92 + 0.6 * 0.02, 0.6 * 0.92 + 0.4 * 0.02, 0.02, 0.02, 0.02]
    torch.testing.assert_close(targets[0], torch.tensor(expected))


def test_the_slip_of_mvd_cuts_time_and_height():
    mix = boxed_mix((1, 3, 4, 9), 10, 12)
    changed = mix_videos(marked(), mix, cut="time_and_height")[0] != 0
    assert changed[0].any(2).any(1).tolist() == [False, True, True]
    assert changed[0].any(2).any(0).tolist() == [4 <= row < 9 for row in range(10)]
    # A box that begins below the last frame changes nothing, and its share counts all the same.
    below = boxed_mix((4, 9, 2, 8), 10, 12)
    assert torch.equal(mix_videos(marked(), below, cut="time_and_height"), marked())
    assert below.lam == 0.75


def test_half_of_the_batches_are_cut_and_lam_follows_its_law():
    found = draws(MixConfig())
    boxes = [mix for mix in found if mix.box is not None]
    assert len(boxes) / len(found) == pytest.approx(0.5, abs=0.05)
    mixups = np.array([mix.lam for mix in found if mix.box is None])
    assert mixups.mean() == pytest.approx(0.5, abs=0.04)
    # Variance of Beta(a, a) is 1 / (4 (2 a + 1)).
    assert mixups.var() == pytest.approx(1 / (4 * 2.6), abs=0.015)


def test_each_alone_and_none():
    assert all(mix.box is None for mix in draws(MixConfig(cutmix_alpha=0), 100))
    assert all(mix.box is not None for mix in draws(MixConfig(mixup_alpha=0), 100))
    left_alone = draws(MixConfig(probability=0.25))
    assert np.mean([mix == Mix() for mix in left_alone]) == pytest.approx(0.75, abs=0.04)


def test_boxes_reach_every_pixel():
    hit = np.zeros((24, 32), int)
    for mix in draws(MixConfig(mixup_alpha=0)):
        top, bottom, left, right = mix.box
        hit[top:bottom, left:right] += 1
    assert hit.min() > 0.15 * hit.max()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: MixConfig(mixup_alpha=0, cutmix_alpha=0), "leave the whole setting out"),
        (lambda: MixConfig(probability=1.5), r"probability=1.5 must lie in \[0, 1\]"),
        (lambda: MixConfig(cut="width"), "cut='width' must be one of"),
        (lambda: Mix(lam=-0.1), r"lam=-0.1 must lie in \[0, 1\]"),
        (lambda: mix_videos(marked(3), Mix(lam=0.5)), "a batch of 3 clips .* even batch size"),
    ],
)
def test_refusals_say_why(call, text):
    with pytest.raises(ValueError, match=text):
        call()
