"""How well `video-ssl sync` finds offsets, on real cameras and on the generated videos (not a test).

    python tests/explore/measure_sync.py [ENCODER ...] [--views demo:views_train] [--no-cameras]

Real cameras: two takes of 100 frames at 60 a second by four synchronous cameras, which the public package `pose2sim`
0.10.49 carries (BSD-3; folder Demo_Batch).  It is fetched with pip into a temporary folder and never kept: a person can
be recognised.  Of each of the 6 pairs of a take the starts are shifted 4 times by -30..30 frames (seed 0): 48 cases.
The shorter recordings are what an encoder gets: cut from features of whole ones, offsets could be read off where the
windows of an encoder begin.

Generated videos: the pairs of a table of two cameras (rows 2 k and 2 k + 1), whose true offset the event `sync` tells,
and as many pairs of different performances: what they reach is what a trust has to be above.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from video_ssl.datasets.opening import open_table
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.explore.config import SyncConfig
from video_ssl.explore.offsets import find_offset
from video_ssl.explore.sync import THRESHOLDS, _track, trust_of
from video_ssl.explore.sync_tracks import SOUND_RATE, SyncTrack, on_grid
from video_ssl.explore.tracks import track_of
from video_ssl.pretrain.processes import choose_device

PACKAGE = "pose2sim==0.10.49"
HAND_MADE = ("pixels", "motion", "hog", "sound")


def cameras(folder: Path) -> list[list[Path]]:
    """The recordings of each take."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    subprocess.run([*command, PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        names = [n for n in wheel.namelist() if "/Demo_Batch/" in n and n.endswith(".mp4")]
        wheel.extractall(folder, names)
    takes = itertools.groupby(sorted(names), key=lambda name: name.split("/")[2])
    return [[folder / name for name in group] for _, group in takes]


def grids(paths: list, spec: str, rate: float) -> list[np.ndarray]:
    hand_made = spec in HAND_MADE
    by, encoder = (spec, None) if hand_made else ("encoder", spec)
    rate = SOUND_RATE if by == "sound" else rate
    config = SyncConfig(frame_stride=None if hand_made else 1)
    return [on_grid(_track(str(path), by, encoder, config, "auto"), rate) for path in paths]


def by_of(spec: str) -> str:
    return spec if spec in HAND_MADE else "encoder"


def embedded(cuts: list[tuple[Path, int]], spec: str) -> list[np.ndarray]:
    """The features of recordings without their first frames, at 60 a second."""
    where = choose_device("auto")
    config = EmbedConfig(per_frame=True, frame_stride=1, num_workers=0, batch_size=4, strict=True)
    embedder = Embedder(open_encoder(spec, "auto"), config, device=where, name=spec)
    rows = [
        {"id": str(k), "source": str(path), "start_sec": (first - 0.25) / 60 if first else None}
        for k, (path, first) in enumerate(cuts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        table = Table.from_rows(rows)
        features = embedder.embed(table, Path(folder) / "f.arrow", progress=False)
        tracks = [track_of(features, str(k)) for k in range(len(rows))]
    return [
        on_grid(SyncTrack(times=t.times - t.times[0], values=t.embs, duration_sec=0.0), 60.0)
        for t in tracks
    ]


def on_cameras(takes: list[list[Path]], spec: str) -> None:
    rng, off, trusted = np.random.default_rng(0), [], []
    by = by_of(spec)
    cases = [
        (take[a], take[b], int(shift))
        for take in takes
        for a, b in itertools.combinations(range(len(take)), 2)
        for shift in rng.integers(-30, 31, 4)
    ]
    if by == "encoder":
        cuts = [(path, max(s, 0)) for path, _, s in cases] + [
            (path, max(-s, 0)) for _, path, s in cases
        ]
        found = embedded(cuts, spec)
        pairs = list(zip(found[: len(cases)], found[len(cases) :], strict=True))
    else:
        paths = [path for take in takes for path in take]
        whole = dict(zip(paths, grids(paths, spec, 60.0), strict=True))
        pairs = [(whole[a][max(s, 0) :], whole[b][max(-s, 0) :]) for a, b, s in cases]
    for (a, b), (_, _, shift) in zip(pairs, cases, strict=True):
        # Without its first frames a recording began later: frame i meets frame i + shift.
        found = find_offset(a, b, window=15)
        off.append(abs(found.subframe - shift))
        trusted.append(trust_of(found, by, 60.0) >= THRESHOLDS[by])
    off, trusted = np.array(off), np.array(trusted)
    held = f"{100 * (off <= 4)[trusted].mean():.0f} % right" if trusted.any() else "none"
    print(
        f"{spec:<24} within 4 frames: {100 * (off <= 4).mean():3.0f} %  "
        f"within 1: {100 * (off <= 1).mean():3.0f} %  median {np.median(off):5.1f} frames  "
        f"offset 0 would be: {100 * np.mean([abs(s) <= 4 for *_, s in cases]):.0f} %  "
        f"trusted: {trusted.sum()} of {len(off)}, {held}",
        flush=True,
    )


def on_views(table, spec: str) -> None:
    fps = table.record(0).fps
    rate = SOUND_RATE if spec == "sound" else fps
    features = grids([table.record(i).source for i in range(len(table))], spec, fps)
    sync = [table.record(i).events[0].time_sec for i in range(len(table))]
    window = round(0.25 * rate)
    off, trusts, others = [], [], []
    for k in range(0, len(table), 2):
        found = find_offset(features[k], features[k + 1], window=window)
        off.append(abs(found.subframe / rate - (sync[k + 1] - sync[k])) * fps)
        trusts.append(trust_of(found, by_of(spec), rate))
        other = find_offset(features[k], features[(k + 5) % len(table)], window=window)
        others.append(trust_of(other, by_of(spec), rate))
    off, trusts, others = np.array(off), np.array(trusts), np.array(others)
    threshold = THRESHOLDS.get(spec, THRESHOLDS["encoder"])
    right = off <= 4
    print(
        f"{spec:<24} within 4 frames: {100 * right.mean():3.0f} %  within 1: {100 * (off <= 1).mean():3.0f} %  "
        f"trusted: {100 * (trusts >= threshold)[right].mean():.0f} % of the right, "
        f"{100 * (trusts >= threshold)[~right].mean() if (~right).any() else 0:.0f} % of the wrong, "
        f"{100 * (others >= threshold).mean():.0f} % of other performances (95 % of them below "
        f"{np.quantile(others, 0.95):.3f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="*", help="beside the hand-made features: runs, pixels:")
    parser.add_argument("--views", help="table of two cameras: demo:views_train")
    parser.add_argument("--no-cameras", action="store_true")
    asked = parser.parse_args()
    if asked.views:
        table = open_table(asked.views)
        print(f"{len(table) // 2} pairs of {asked.views}")
        for spec in (*HAND_MADE, *asked.encoders):
            on_views(table, spec)
    if not asked.no_cameras:
        with tempfile.TemporaryDirectory() as folder:
            takes = cameras(Path(folder))
            print(f"{len(takes)} takes of {[len(take) for take in takes]} cameras")
            for spec in (*HAND_MADE[:3], *asked.encoders):
                on_cameras(takes, spec)


if __name__ == "__main__":
    main()
