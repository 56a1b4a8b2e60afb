"""Search: exact against brute force, bounded memory, moments that were planted, and the index."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.explore import archive as archive_module
from video_ssl.explore import search as search_module
from video_ssl.explore import search_index
from video_ssl.explore.archive import Archive, nearest_frames
from video_ssl.explore.moments import best_stretches, subsequence_costs
from video_ssl.explore.search import SearchConfig, search, search_track
from video_ssl.explore.tracks import embed_video, track_of

WIDTH = 8


def write(path, videos, *, width=WIDTH, rows_of=50, batch=4, metadata=None):
    """A feature file; every video is cut into rows of `rows_of` frames, 10 frames a second."""
    rows = []
    for key, frames in videos.items():
        for clip, begin in enumerate(range(0, len(frames), rows_of)):
            part = np.asarray(frames[begin : begin + rows_of], np.float32)
            times = (begin + np.arange(len(part))) / 10
            rows.append(
                {
                    "id": key,
                    "clip": clip,
                    "feature": part[0],
                    "frame_features": part,
                    "frame_times_sec": times.tolist(),
                }
            )
    with FeatureWriter(path, embed_dim=width, metadata=metadata) as writer:
        for begin in range(0, len(rows), batch):
            writer.write(rows[begin : begin + batch])
    return open_features(path)


def walks(seed, lengths, width=WIDTH):
    """Videos in which neighbouring frames are alike."""
    rng = np.random.default_rng(seed)
    return {
        f"v{v}": np.cumsum(rng.normal(size=(length, width)), axis=0) * 0.3 + rng.normal(size=width)
        for v, length in enumerate(lengths)
    }


def slow_cosines(queries, videos):
    bank = [(key, t, f) for key, frames in videos.items() for t, f in enumerate(frames)]
    found = []
    for q in queries:
        scores = [
            float(np.float64(q) @ f / (np.linalg.norm(q) * np.linalg.norm(f))) for _, _, f in bank
        ]
        order = sorted(range(len(bank)), key=lambda n: -scores[n])
        found.append([(bank[n][0], bank[n][1], scores[n]) for n in order])
    return found


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_nearest_frames_against_brute_force(tmp_path, size):
    videos = walks(0, [120, 3, 1, 77])
    archive = Archive(write(tmp_path / "a.arrow", videos))
    assert archive.num_frames == 201
    queries = np.random.default_rng(1).normal(size=(5, WIDTH))
    found = nearest_frames(queries, archive, 9, size=size)
    for row, expected in enumerate(slow_cosines(queries, videos)):
        ids = archive.ids[archive.videos(found.frames[row])]
        times = archive.times(found.frames[row])
        got = list(zip(ids.tolist(), np.round(times * 10).astype(int).tolist(), strict=True))
        assert got == [(key, t) for key, t, _ in expected[:9]]
        np.testing.assert_allclose(found.similar[row], [s for *_, s in expected[:9]], atol=1e-6)
    for v, key in enumerate(videos):
        best = [max(s for k, _, s in e if k == key) for e in slow_cosines(queries, videos)]
        assert found.videos[v] == pytest.approx(np.mean(best), abs=1e-6)
    left_out = nearest_frames(queries, archive, 9, without=0, size=size)
    assert 0 not in archive.videos(left_out.frames.ravel())
    assert left_out.videos[0] == -np.inf


def test_frames_of_zeros_or_nan_are_like_nothing(tmp_path):
    videos = walks(0, [20])
    videos["v0"][3] = 0
    features = write(tmp_path / "a.arrow", videos)
    content = features.table.to_pydict()
    content["frame_features"][0][5][1] = float("nan")
    table = type(features.table).from_pydict(content, schema=features.table.schema)
    found = nearest_frames(videos["v0"][:1], Archive(FeatureFile(table)), 20)
    assert set(found.frames[0, :18].tolist()) == set(range(20)) - {3, 5}
    assert found.similar[0, 18:].tolist() == [-np.inf, -np.inf]
    with pytest.raises(FeatureError, match="a query has features that are not finite"):
        nearest_frames(np.full((1, WIDTH), np.nan), Archive(features), 3)
    with pytest.raises(FeatureError, match="do not fit an archive of width 8"):
        nearest_frames(np.ones((1, 3)), Archive(features), 3)


def test_an_archive_is_never_in_memory(tmp_path, monkeypatch):
    """16 MB of frames are searched holding blocks of 256 frames (64 KB)."""
    videos = {f"v{v}": np.random.default_rng(v).normal(size=(4000, 64)) for v in range(16)}
    features = write(tmp_path / "a.arrow", videos, width=64, rows_of=500)
    archive = Archive(features)
    sizes = []
    original = archive_module.unit_rows

    def counted(vectors):
        sizes.append(vectors.size)
        return original(vectors)

    monkeypatch.setattr(archive_module, "unit_rows", counted)
    monkeypatch.setattr(archive_module, "BLOCK", 256 * 64)
    queries = videos["v3"][:4]
    tracemalloc.start()
    found = nearest_frames(queries, archive, 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.frames[:, 0].tolist() == [12000, 12001, 12002, 12003]
    assert max(sizes) == 256 * 64
    assert sum(sizes) == 64_000 * 64 + queries.size
    assert peak < 2e6
    assert all(not b.vectors.flags.owndata for b in archive.blocks())


def slow_subsequence(cost):
    """Every allowed way: steps by one, by two, or a stay right after a step by one or the start."""
    n, m = cost.shape
    best = np.full(m, np.inf)

    def walk(i, j, may_stay, total):
        total += cost[i, j]
        if i == n - 1:
            best[j] = min(best[j], total)
            return
        for step in (0, 1, 2) if may_stay else (1, 2):
            if j + step < m:
                walk(i + 1, j + step, step == 1, total)

    for j in range(m):
        walk(0, j, True, 0.0)
    return best


@pytest.mark.parametrize("shape", [(1, 5), (2, 6), (5, 7), (6, 3), (3, 1)])
def test_subsequences_against_all_ways(shape):
    cost = np.random.default_rng(shape[0]).random(shape)
    np.testing.assert_allclose(subsequence_costs(cost)[0], slow_subsequence(cost))


@pytest.mark.parametrize("speed", [0.6, 1.0, 1.7])
def test_a_planted_moment_is_found(tmp_path, speed):
    videos = walks(3, [400, 300, 500])
    clip = walks(4, [40])["v0"]
    length = int(39 / speed) + 1
    places = np.arange(length) * speed
    low = np.floor(places).astype(int)
    share = (places - low)[:, None]
    planted = clip[low] * (1 - share) + clip[np.minimum(low + 1, 39)] * share
    videos["v1"][100 : 100 + length] = planted
    archive = Archive(write(tmp_path / "a.arrow", videos))
    query = track_of(write(tmp_path / "q.arrow", {"clip": clip}), "clip")
    moments, frames = search_track(query, archive, SearchConfig(k=3, query_frames=40))
    best = moments[0]
    assert best.id == "v1"
    assert best.start_sec == pytest.approx(10.0, abs=0.3)
    assert best.end_sec == pytest.approx(10 + (length - 1) / 10, abs=0.3)
    assert best.cost < 0.01
    assert best.first_frame == round(10 * best.start_sec)
    first = [hit for hit in frames if hit.query_sec == 0.0]
    assert (first[0].id, first[0].frame) == ("v1", 100)
    assert len(first) == 3


def test_long_videos_are_searched_in_pieces(tmp_path, monkeypatch):
    videos = walks(3, [900])
    archive = Archive(write(tmp_path / "a.arrow", videos))
    query = track_of(write(tmp_path / "q.arrow", {"clip": videos["v0"][500:520]}), "clip")
    whole = search_track(query, archive)[0]
    monkeypatch.setattr(search_module, "_PIECE", 128)
    monkeypatch.setattr(search_module, "_LAP", 60)
    pieces = search_track(query, archive)[0]
    assert (pieces[0].first_frame, pieces[0].last_frame) == (500, 519)
    assert pieces[0] == whole[0]
    assert len({m.first_frame for m in pieces}) == len(pieces)


def test_moments_do_not_overlap():
    cost = np.random.default_rng(0).random((4, 60))
    found = best_stretches(cost, 5)
    taken = np.concatenate([np.arange(s.first, s.last + 1) for s in found])
    assert len(found) == 5
    assert len(set(taken.tolist())) == len(taken)
    assert [s.cost for s in found] == sorted(s.cost for s in found)
    assert best_stretches(np.zeros((5, 2)), 3) == []  # too short even at half speed
    assert best_stretches(np.zeros((5, 0)), 3) == []


def test_frames_of_one_video_keep_apart_and_the_own_video_is_left_out(tmp_path):
    videos = walks(0, [200, 200])
    archive = Archive(write(tmp_path / "a.arrow", videos))
    query = track_of(archive.features, "v0")
    _, frames = search_track(query, archive, SearchConfig(k=4, query_frames=3, apart_sec=2.0))
    assert {hit.id for hit in frames} == {"v1"}
    for at in {hit.query_sec for hit in frames}:
        times = sorted(hit.time_sec for hit in frames if hit.query_sec == at)
        assert len(times) == 4
        assert np.diff(times).min() >= 2.0
    moments, _ = search_track(query, archive, SearchConfig(own_video=True, query_frames=1000))
    assert (moments[0].id, moments[0].first_frame, moments[0].last_frame) == ("v0", 0, 199)
    alone = Archive(write(tmp_path / "b.arrow", {"v0": videos["v0"]}))
    with pytest.raises(FeatureError, match="the only video of the archive"):
        search_track(query, alone)


def test_the_index_finds_nearly_all_and_is_kept(tmp_path, monkeypatch):
    pytest.importorskip("usearch", reason="usearch is not installed")
    videos = walks(0, [400] * 5)
    archive = Archive(write(tmp_path / "a.arrow", videos))
    queries = videos["v2"][::40]
    exact = nearest_frames(queries, archive, 10)
    index = search_index.open_index(archive, threads=1)
    found = search_index.probable_frames(queries, archive, index, 10)
    shared = [len(set(a) & set(b)) for a, b in zip(exact.frames, found.frames, strict=True)]
    assert np.mean(shared) >= 9.5
    np.testing.assert_allclose(found.similar[:, 0], 1.0, atol=1e-6)
    without = search_index.probable_frames(queries, archive, index, 10, without=2)
    assert 2 not in archive.videos(without.frames[np.isfinite(without.similar)])

    built = []
    original = Archive.blocks
    monkeypatch.setattr(Archive, "blocks", lambda self, *a: built.append(1) or original(self, *a))
    search_index.open_index(archive)
    assert built == []  # it lies beside the features
    query = track_of(archive.features, "v2")
    by_index, _ = search_track(query, archive, SearchConfig(k=1, ann_frames=100, own_video=True))
    assert built == []
    assert by_index == search_track(query, archive, SearchConfig(k=1, own_video=True))[0]
    other = Archive(write(tmp_path / "a.arrow", walks(1, [300])))
    built.clear()
    search_index.open_index(other)
    assert built == [1]  # the features have changed


def test_without_usearch(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(search_index, "available", lambda: False)
    archive = Archive(write(tmp_path / "a.arrow", walks(0, [30, 30])))
    query = track_of(archive.features, "v0")
    assert search_track(query, archive, SearchConfig(ann_frames=10))[0]
    assert "pip install 'video_ssl[search]'" in caplog.text
    with pytest.raises(FeatureError, match=r"pip install 'video_ssl\[search\]'"):
        search_track(query, archive, SearchConfig(method="ann"))


def test_search_archive_writes_and_prints(tmp_path, capsys):
    write(tmp_path / "a.arrow", walks(0, [60, 50, 40]))
    found = search(
        "v1", tmp_path / "a.arrow", start_sec=1.0, end_sec=2.0, out=tmp_path / "o" / "found.json"
    )
    assert json.loads((tmp_path / "o" / "found.json").read_text()) == found
    assert {hit["query_sec"] for hit in found["frames"]} == {t / 10 for t in range(10, 21)}
    assert found["moments"][0]["id"] in capsys.readouterr().out
    # Was wrong: "between 9.0 and None s".
    with pytest.raises(FeatureError, match=r"'v1' has no frame from 9 s: .* between 0.00 and 4.90"):
        search("v1", tmp_path / "a.arrow", start_sec=9.0)


def test_a_clip_of_another_encoder_is_refused(videos):
    like = {"encoder": {"fingerprint": "0" * 16, "name": "runs/a"}, "settings": {"num_clips": 1}}
    with pytest.raises(FeatureError, match=r"made by another encoder \(runs/a\) than pixels:4"):
        embed_video(videos / "test0.mp4", "pixels:4", like=like)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "v7", "--in", "FEATURES"], "no record 'v7' among 2"),
        (["search", "v0", "--in", "FEATURES", "--method", "best"], "method='best'"),
        (["search", "v0", "--in", "nowhere.arrow"], "no feature file nowhere.arrow"),
        (["align", "v0", "v1", "--in", "FEATURES", "--method", "best"], "method='best'"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, arguments, message):
    write(tmp_path / "a.arrow", walks(0, [20, 20]))
    given = [a.replace("FEATURES", str(tmp_path / "a.arrow")) for a in arguments]
    command = [sys.executable, "-m", "video_ssl", *given]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
