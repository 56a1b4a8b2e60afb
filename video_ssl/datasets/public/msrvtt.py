"""MSR-VTT: 10,000 clips from the web with 20 captions each, and the 1k split of text-to-video retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from video_ssl.datasets.errors import TableError, shown
from video_ssl.datasets.lists.text_files import csv_rows, read_json
from video_ssl.datasets.public.annotations import (
    Annotations,
    Split,
    find_annotation,
    shared_between,
    without_doubles,
)

_SOURCE = (
    "https://www.microsoft.com/en-us/research/publication/msr-vtt-a-large-video-description-dataset-for-bridging-video-"
    "and-language/ (videos), https://github.com/ArrowLuo/CLIP4Clip (MSRVTT_JSFUSION_test.csv, MSRVTT_train.9k.csv, "
    "MSRVTT_data.json; addresses unverified)"
)
_LAYOUT = "videoN.mp4 in any folder below the root."
_FOLDERS = ("annotations/", "msrvtt_data/", "")


def read_msrvtt(root: Path) -> Annotations:
    """Returns the split test1k of MSRVTT_JSFUSION_test.csv, and train9k where its files are there.

    The test file has the columns key, vid_key, video_id, sentence: a video and one caption a row.  The training split
    is that of MSRVTT_train.9k.csv (a column video_id), its captions those of MSRVTT_data.json (`sentences`: a list of
    {"video_id", "caption"}).  Forms of the files: (unverified).

    Raises:
        TableError: the test file is missing, or a file has another form.
    """
    test = find_annotation(root, [f"{f}MSRVTT_JSFUSION_test.csv" for f in _FOLDERS], source=_SOURCE)
    files, notes = [test], list[str]()
    splits = {"test1k": without_doubles("test1k", _test(test), notes)}
    further = [_beside(root, name) for name in ("MSRVTT_train.9k.csv", "MSRVTT_data.json")]
    files += further
    if all(file.is_file() for file in further):
        listed, captions = further
        splits = {"train9k": without_doubles("train9k", _train(listed, captions), notes), **splits}
    shared_between(splits, notes)
    return Annotations(
        splits=splits, files=files, class_names=(), source=_SOURCE, layout=_LAYOUT, notes=notes
    )


def _beside(root: Path, name: str) -> Path:
    """The file where it is, or where it would be looked for."""
    places = [root / f"{folder}{name}" for folder in _FOLDERS]
    return next((place for place in places if place.is_file()), places[0])


def _test(file: Path) -> Split:
    rows = csv_rows(file, ("video_id", "sentence"), "key,vid_key,video_id,sentence")
    names, captions = [], []
    for line, row in rows:
        if not row["video_id"] or not row["sentence"].strip():
            raise TableError(
                f"{file} line {line} has no video or no sentence: {shown(','.join(row.values()))}. Get the file again."
            )
        names.append(row["video_id"])
        captions.append([{"text": row["sentence"].strip()}])
    return Split(names=names, columns={"id": names, "captions": captions})


def _train(listed: Path, file: Path) -> Split:
    names = [row["video_id"] for _, row in csv_rows(listed, ("video_id",), "video_id")]
    captions: dict[str, list[dict[str, Any]]] = {}
    try:
        for sentence in read_json(file, dict)["sentences"]:
            own = captions.setdefault(str(sentence["video_id"]), [])
            own.append({"text": str(sentence["caption"]).strip()})
    except (KeyError, TypeError) as err:
        raise TableError(
            f"{file} must hold a list `sentences` of items with `video_id` and `caption` ({err!r})."
        ) from err
    without = [name for name in names if name not in captions]
    if without:
        raise TableError(
            f"{file} has no caption of {len(without)} of {len(names)} videos of {listed.name}, for example "
            f"{without[0]}: the two do not belong together."
        )
    return Split(names=names, columns={"id": names, "captions": [captions[name] for name in names]})
