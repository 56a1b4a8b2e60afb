"""Diving48 (V2 labels): about 17,000 clips of 48 kinds of competition dives; left and right matter."""

from __future__ import annotations

from pathlib import Path

from video_ssl.datasets.errors import TableError
from video_ssl.datasets.lists.text_files import read_json
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation

_SOURCE = "http://www.svcl.ucsd.edu/projects/resound/dataset.html (Diving48_rgb.tar.gz and the V2 json files)"
_LAYOUT = "rgb/NAME.mp4, or NAME.mp4 in any folder below the root."


def read_diving48(root: Path) -> Annotations:
    """Returns the splits train and test of Diving48_V2_train.json, Diving48_V2_test.json and Diving48_vocab.json.

    An item is {"vid_name", "label", "start_frame", "end_frame"}; the files hold the clips already, so the frame
    numbers are not used.  A class name joins the four parts of the dive: take-off, somersaults, twists, position.
    Tables say `no_flip`.

    Raises:
        TableError: a file is missing or has another form.
    """
    vocabulary = _find(root, "Diving48_vocab.json")
    class_names = [
        " ".join(part for part in parts if part) if isinstance(parts, list) else str(parts)
        for parts in read_json(vocabulary, list)
    ]
    files, splits = [vocabulary], {}
    for split in ("train", "test"):
        file = _find(root, f"Diving48_V2_{split}.json")
        files.append(file)
        splits[split] = _split(file, len(class_names))
    return Annotations(
        splits=splits,
        files=files,
        class_names=class_names,
        source=_SOURCE,
        layout=_LAYOUT,
        metadata={"no_flip": True},
    )


def _find(root: Path, name: str) -> Path:
    return find_annotation(root, [f"annotations/{name}", name], source=_SOURCE)


def _split(file: Path, classes: int) -> Split:
    items = read_json(file, list)
    try:
        names = [str(item["vid_name"]) for item in items]
        labels = [int(item["label"]) for item in items]
    except (KeyError, TypeError, ValueError) as err:
        raise TableError(f"{file}: every item must have `vid_name` and `label` ({err!r}).") from err
    if labels and not 0 <= min(labels) <= max(labels) < classes:
        raise TableError(f"{file}: labels {min(labels)}..{max(labels)} of {classes} classes.")
    return Split(names=names, columns={"label": labels})
