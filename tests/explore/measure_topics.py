"""How often `video-ssl search` finds moments of the topic of a video in other videos (not a test).

    python tests/explore/measure_topics.py ENCODER ... [--archive VIDEOS] [--queries VIDEOS]

ENCODER is anything that `video-ssl embed` takes: a run, `untrained:RUN@0`, `hog:RUN`.  Of every query video the stretch
of so many seconds in its middle is searched for among all moments of the archive.  Printed: the share of the queries
whose best moment lies in a video of their label, and the share of such among their five best in different videos;
guessing is the mean share of the archive that has the label of a query.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

import video_ssl
from video_ssl.explore.archive import Archive
from video_ssl.explore.config import SearchConfig
from video_ssl.explore.search import search_track
from video_ssl.explore.tracks import track_of


def measure(spec: str, archive: str, queries: str, seconds: float, folder: Path) -> list[float]:
    labels = {}
    for name, videos in (("archive", archive), ("queries", queries)):
        table = video_ssl.open_table(videos)
        labels[name] = dict(zip(table.column("id"), table.column("label"), strict=True))
        video_ssl.embed(spec, videos, folder / f"{name}.arrow", stride_sec=1.0)
    first, five = [], []
    config = SearchConfig(k=200, moments_per_video=1, candidates=5)
    found = Archive(video_ssl.open_features(folder / "archive.arrow"))
    features = video_ssl.open_features(folder / "queries.arrow")
    for name, label in labels["queries"].items():
        query = track_of(features, name)
        inside = np.abs(query.times - query.times[-1] / 2) <= seconds / 2
        part = replace(
            query, embs=query.embs[inside], times=query.times[inside], labels=query.labels[inside]
        )
        moments, _ = search_track(part, found, config)
        same = [labels["archive"][moment.id] == label for moment in moments[:5]]
        first.append(same[0])
        five.append(np.mean(same))
    shares = [
        np.mean([other == label for other in labels["archive"].values()])
        for label in labels["queries"].values()
    ]
    return [100 * float(np.mean(x)) for x in (first, five, shares)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--archive", default="sessions:sessions_train")
    parser.add_argument("--queries", default="sessions:sessions_val")
    parser.add_argument("--sec", type=float, default=3.0)
    given = parser.parse_args()
    print("| encoder | best moment | five best | guessing |")
    for spec in given.encoders:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(spec, given.archive, given.queries, given.sec, Path(folder))
        print(f"| {spec} | " + " | ".join(f"{number:.1f}" for number in found) + " |", flush=True)


if __name__ == "__main__":
    main()
