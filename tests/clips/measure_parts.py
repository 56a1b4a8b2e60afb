"""Reading a long video from one file, and from files of five seconds in a row (not a test).

    python tests/clips/measure_parts.py FOLDER [--videos 8]

Sessions of the generated videos are written again, by one encoder with one setting, as whole files and as files of five
seconds each, with a table for either.  Then the loader is measured on both:

    video-ssl bench loader hico/demo data.table=FOLDER/whole.arrow
    video-ssl bench loader hico/demo data.table=FOLDER/parts.arrow
"""

from __future__ import annotations

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_ssl.clips.picture_video import write_pictures
from video_ssl.clips.reading import open_record
from video_ssl.datasets import open_table
from video_ssl.datasets.parts import join_parts
from video_ssl.datasets.table import Table

_PART_SEC = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=int, default=8)
    given = parser.parse_args()
    sessions = open_table("sessions:sessions_train")
    rows: dict[str, list[dict[str, str]]] = {"whole": [], "parts": []}
    for name in ("whole", "parts"):
        (given.folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(given.videos):
        with open_record(sessions.record(number)) as reader:
            frames = reader.frames(np.arange(reader.info.num_frames))
            fps = Fraction(reader.info.fps).limit_denominator(1001)
        whole = given.folder / "whole" / f"{number}.mp4"
        write_pictures(whole, frames, fps)
        step, files = round(_PART_SEC * fps), []
        for begin in range(0, len(frames), step):
            files.append(given.folder / "parts" / f"{number}_{begin // step:03d}.mp4")
            write_pictures(files[-1], frames[begin : begin + step], fps)
        rows["whole"].append({"id": str(number), "source": str(whole)})
        rows["parts"].append({"id": str(number), "source": join_parts(list(map(str, files)))})
    for name, own in rows.items():
        table = Table.from_rows(own).save(given.folder / f"{name}.arrow")
        print(f"{table.path}: {len(table)} videos")


if __name__ == "__main__":
    main()
