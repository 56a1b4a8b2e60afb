"""How often `video-ssl search` finds the video that a clip was cut from (not a test).

    python tests/explore/measure_search.py RUN ... [--videos demo:phases_val] [--clips 12] [--sec 2] [--seed 0]

RUN is anything that `video-ssl embed` takes: a run, `no_positions:RUN`, `pixels:RUN@12`; `windows:RUN` embeds
archive and clip in windows of as many frames as the clip has.  Clips are stretches of so many seconds at random,
out of as many videos spread over the table, encoded again (H.264, crf 28).  Printed: the share of clips whose own
video has the best moment, and one of the five best; and how far, in seconds, the best moment in their own video
is from where they were cut, the median.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import av
import numpy as np

import video_ssl


def cut(source: str, target: Path, start: float, seconds: float) -> int:
    """Writes a stretch, encoded again; returns its number of frames."""
    count = 0
    with av.open(source) as video, av.open(str(target), "w") as made:
        stream = video.streams.video[0]
        rate = stream.average_rate
        out = made.add_stream("libx264", rate=rate, options={"crf": "28"})
        out.width, out.height, out.pix_fmt = stream.width, stream.height, "yuv420p"
        for frame in video.decode(stream):
            if start <= frame.time < start + seconds:
                picture = av.VideoFrame.from_ndarray(
                    frame.to_ndarray(format="rgb24"), format="rgb24"
                )
                made.mux(out.encode(picture))
                count += 1
        made.mux(out.encode(None))
    return count


def clips_of(table: video_ssl.Table, folder: Path, count: int, seconds: float, seed: int) -> list:
    rng, found = np.random.default_rng(seed), []
    for row in np.linspace(0, len(table) - 1, count).round().astype(int):
        record = table.record(int(row))
        with av.open(record.source) as video:
            length = float(video.streams.video[0].duration * video.streams.video[0].time_base)
        start = float(rng.uniform(0, length - seconds))
        path = folder / f"clip_{row:03}.mp4"
        frames = cut(record.source, path, start, seconds)
        found.append((record.id, path, start, frames))
    return found


def measure(spec: str, videos: str, clips: list, folder: Path) -> tuple[float, float, float]:
    windows = spec.startswith("windows:")
    encoder = spec.removeprefix("windows:")
    settings = {"num_frames": min(frames for *_, frames in clips)} if windows else {}
    archive = folder / f"{abs(hash(spec))}.arrow"
    video_ssl.embed(encoder, videos, archive, per_frame=True, **settings)
    first, five, off = [], [], []
    for name, path, start, _ in clips:
        found = video_ssl.search(str(path), archive, encoder=encoder, k=1000, quiet=True)
        order = list(dict.fromkeys(moment["id"] for moment in found["moments"]))
        first.append(order[:1] == [name])
        five.append(name in order[:5])
        own = [m["start_sec"] for m in found["moments"] if m["id"] == name]
        if own:
            off.append(abs(own[0] - start))
    return float(np.mean(first)), float(np.mean(five)), float(np.median(off)) if off else np.nan


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--videos", default="demo:phases_val")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--sec", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    table = video_ssl.open_table(given.videos)
    clips = clips_of(table, folder, given.clips, given.sec, given.seed)
    print(f"{len(clips)} clips of {given.sec} s, {len(table)} videos")
    for spec in given.encoders:
        first, five, off = measure(spec, given.videos, clips, folder)
        print(f"| {spec} | {100 * first:.0f} | {100 * five:.0f} | {off:.2f} |", flush=True)


if __name__ == "__main__":
    main()
