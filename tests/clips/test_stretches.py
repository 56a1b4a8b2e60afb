"""Common stretches: planted runs are found where they lie, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from video_ssl.clips.stretches import FeatureTracks, PrintTracks, common_stretches, covered


def random_prints(rng, length):
    return rng.integers(1, 2**63, (length, 2), dtype=np.uint64)


def flipped(prints, count, rng):
    """The same with `count` of the 128 signs of every print turned."""
    found = prints.copy()
    for row in found:
        for sign in rng.choice(128, count, replace=False):
            row[sign // 64] ^= np.uint64(1) << np.uint64(sign % 64)
    return found


def test_a_planted_stretch_is_found_where_it_lies():
    rng = np.random.default_rng(0)
    a, b = random_prints(rng, 60), random_prints(rng, 40)
    b[5:25] = flipped(a[30:50], 5, rng)
    tracks = PrintTracks([a, b, random_prints(rng, 50)])
    assert list(tracks.candidates()) == [(0, 1)]
    (found,) = common_stretches(tracks, 0, 1, threshold=0.07, least=8)
    assert (found.first, found.other, found.length) == (30, 5, 20)
    assert found.distance == pytest.approx(5 / 128)
    assert common_stretches(tracks, 0, 1, threshold=0.07, least=21) == []
    assert common_stretches(tracks, 0, 1, threshold=0.03, least=8) == []


def test_several_stretches_and_a_picture_that_was_put_in():
    rng = np.random.default_rng(1)
    a, b = random_prints(rng, 80), random_prints(rng, 70)
    b[0:20], b[40:60] = a[50:70], a[10:30]
    b[50] = random_prints(rng, 1)[0]
    found = common_stretches(PrintTracks([a, b]), 0, 1, threshold=0.07, least=6)
    assert sorted((s.first, s.other, s.length) for s in found) == [(10, 40, 20), (50, 0, 20)]
    b[51] = random_prints(rng, 1)[0]  # two in a row are a cut
    found = common_stretches(PrintTracks([a, b]), 0, 1, threshold=0.07, least=6)
    assert sorted((s.first, s.length) for s in found) == [(10, 10), (22, 8), (50, 20)]


def test_the_table_may_be_looked_at_in_blocks(monkeypatch):
    rng = np.random.default_rng(2)
    a, b = random_prints(rng, 50), random_prints(rng, 50)
    b[10:30] = a[25:45]
    tracks = PrintTracks([a, b])
    whole = common_stretches(tracks, 0, 1, threshold=0.07, least=5)
    monkeypatch.setattr("video_ssl.clips.stretches._BLOCK", 120)
    assert common_stretches(tracks, 0, 1, threshold=0.07, least=5) == whole != []


def test_still_and_blank_videos():
    rng = np.random.default_rng(3)
    still = np.repeat(random_prints(rng, 1), 30, axis=0)
    found, *_ = common_stretches(PrintTracks([still, still[:20]]), 0, 1, threshold=0.07, least=5)
    assert (found.first - found.other, found.length) in [(k, 20) for k in range(11)]
    blank = np.zeros((30, 2), np.uint64)
    assert list(PrintTracks([blank, blank]).candidates()) == []
    assert common_stretches(PrintTracks([blank, blank]), 0, 1, threshold=0.07, least=5) == []
    faded = random_prints(rng, 30)
    faded[:10] = 0  # black at the start: part of the stretch, as more than half shows something
    (found,) = common_stretches(PrintTracks([faded, faded]), 0, 1, threshold=0.07, least=5)
    assert found.length == 30


def test_what_many_videos_share_does_not_make_all_pairs():
    rng = np.random.default_rng(4)
    title = random_prints(rng, 1)
    videos = [np.concatenate([title, random_prints(rng, 3)]) for _ in range(120)]
    videos[7][1:] = videos[90][1:]
    assert list(PrintTracks(videos).candidates()) == [(7, 90)]


def test_features_are_compared_by_cosine():
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=(40, 16)), rng.normal(size=(30, 16))
    b[5:20] = 3 * a[20:35]
    b[10] = 0
    tracks = FeatureTracks([a.astype(np.float32), b.astype(np.float32)])
    assert list(tracks.candidates()) == [(0, 1)]
    (found,) = common_stretches(tracks, 0, 1, threshold=0.02, least=5)
    assert (found.first, found.other, found.length) == (20, 5, 15)
    assert found.distance == pytest.approx(0, abs=1e-6)


def test_shares():
    assert covered([], 5) == 0
    assert covered([(0, 5)], 5) == 1
    assert covered([], 0) == 0
