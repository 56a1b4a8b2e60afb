"""AVA v2.2 and AVA-Kinetics: who does what, once a second of films or once in a clip, at boxes of people.

The files are AVA's own; what they hold is from memory where papers/const_cl.md section 6.1 does not say it
(unverified).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.datasets.lists.text_files import numbered_lines, read_text
from video_ssl.datasets.paths import VIDEO_SUFFIXES
from video_ssl.datasets.public.annotations import Annotations, Split, find_annotation
from video_ssl.datasets.table import TableError

_SOURCE = (
    "https://research.google.com/ava/download.html (annotation files, list of videos); detections: the person boxes "
    "that action recognition codes publish beside them"
)
_LAYOUT = "videos of the names in the lists, VIDEO_ID.mp4 or .mkv, .webm, in any folder."

#: Of the annotation files: 1 to 80.
NUM_ACTIONS = 80
_ENTRY = re.compile(r"(?:item|label)\s*\{(.*?)\}", re.DOTALL)
_NAME = re.compile(r"\bname:\s*[\"'](.*?)[\"']")
_CLIP = re.compile(r"(.{11})_(\d{6})_(\d{6})")
_NUMBER = re.compile(r"\b(?:id|label_id):\s*(\d+)")

Box = tuple[float, float, float, float]
#: second -> box -> numbers of actions from 0
Truth = dict[float, dict[Box, set[int]]]
#: second -> box -> score
Found = dict[float, dict[Box, float]]


def read_ava(root: Path, video_starts_at_sec: float = 0.0, kinetics: bool = False) -> Annotations:
    """Returns the splits train and val of `ava_{train,val}_v2.2.csv`, a record for every video.

    With `kinetics` those of `kinetics_{train,val}_v1.0.csv` too (AVA-Kinetics), in files of Kinetics' names,
    ID_START_END, or ID for whole videos; their seconds are those of the whole video, in both files.

    Moments are all seconds of the lists, also those with nobody in them, but for excluded ones
    (`ava_SPLIT_excluded_timestamps_v2.2.csv`); where `ava_SPLIT_predicted_boxes.csv` is there, its moments and boxes
    too.  True boxes have labels and no score, detections a score and no label; a box that a detector names for several
    actions is one, with the highest of its scores.  Labels count from 0: action N of AVA is N - 1.  Actions that the
    label map does not name (20 of 80 are left out by the evaluation's map) are left out of the truth, and counted.

    Args:
        root: of the data set.
        video_starts_at_sec: where the files begin in the films: 0 for whole films, 900 for those cut to 15 minutes.
        kinetics: with the clips of AVA-Kinetics.

    Raises:
        TableError: no annotation file or label map; a line with other fields, numbers or actions than there can be; a
            detection without a score.
    """
    names = ["ava_action_list_v2.2_for_activitynet_2019.pbtxt", "ava_action_list_v2.2.pbtxt"]
    label_map = find_annotation(root, names, source=_SOURCE)
    actions = _actions(label_map)
    files, notes, splits = [label_map], [], {}
    clips = _kinetics_files(root) if kinetics else {}
    for split in ("train", "val"):
        lists = [(f"ava_{split}_v2.2.csv", f"ava_{split}", False)]
        if kinetics:
            lists.append((f"kinetics_{split}_v1.0.csv", f"kinetics_{split}", True))
        parts = []
        for name, prefix, of_kinetics in lists:
            listed = find_annotation(root, [name], source=_SOURCE)
            beside = [
                root / f"{prefix}_{what}.csv"
                for what in ("excluded_timestamps_v2.2", "predicted_boxes")
            ]
            files += [listed, *beside]
            truth, left_out = _truth(listed, actions)
            if left_out:
                notes.append(
                    f"{name}: {sum(left_out.values())} boxes of {len(left_out)} actions that {label_map.name} does not "
                    "name are left out"
                )
            excluded = _seconds(beside[0]) if beside[0].is_file() else set()
            found = _detections(beside[1]) if beside[1].is_file() else {}
            places = {
                video: clips.get(video, (video, 0.0))
                if of_kinetics
                else (video, video_starts_at_sec)
                for video in truth
            }
            parts.append(_split(truth, found, excluded, places))
        splits[split] = _joined(parts)
    return Annotations(
        splits=splits,
        files=files,
        class_names=[actions.get(n, f"action {n + 1}") for n in range(NUM_ACTIONS)],
        source=_SOURCE,
        layout=_LAYOUT,
        notes=notes,
    )


def _actions(file: Path) -> dict[int, str]:
    """Number from 0 -> name, of a label map in text form."""
    found = {}
    for entry in _ENTRY.findall(read_text(file)):
        name, number = _NAME.search(entry), _NUMBER.search(entry)
        if name is None or number is None or not 1 <= int(number[1]) <= NUM_ACTIONS:
            raise TableError(
                f"{file} has an entry {' '.join(entry.split())!r}: a name and an id from 1 to {NUM_ACTIONS} are needed."
            )
        found[int(number[1]) - 1] = name[1]
    if not found:
        raise TableError(
            f'{file} names no action: it must have entries like item {{ name: "stand" id: 12 }}. Get it again.'
        )
    return found


def _fields(file: Path, counts: Sequence[int], what: str) -> Any:
    """Yields (place of the line, its fields)."""
    for number, line in numbered_lines(file):
        fields = [field.strip() for field in line.split(",")]
        if len(fields) not in counts:
            raise TableError(
                f"{file}, line {number} has {len(fields)} fields, not {what}: {line[:80]!r}."
            )
        yield f"{file}, line {number}", fields


def _truth(file: Path, actions: Mapping[int, str]) -> tuple[dict[str, Truth], Counter[int]]:
    videos: dict[str, Truth] = {}
    left_out: Counter[int] = Counter()
    wanted = "VIDEO, second, x1, y1, x2, y2, action, person"
    for where, fields in _fields(file, (2, 7, 8), wanted):
        moments = videos.setdefault(fields[0], {})
        boxes = moments.setdefault(_number(fields[1], where, "second"), {})
        if len(fields) == 2 or not any(fields[2:7]):
            continue  # a second with nobody in it
        box, action = _box(fields[2:6], where), _number(fields[6], where, "action")
        if action != int(action) or not 1 <= action <= NUM_ACTIONS:
            raise TableError(f"{where} has the action {fields[6]!r}: AVA's are 1 to {NUM_ACTIONS}.")
        own = boxes.setdefault(box, set())
        if int(action) - 1 in actions:
            own.add(int(action) - 1)
        else:
            left_out[int(action)] += 1
    return videos, left_out


def _detections(file: Path) -> dict[str, Found]:
    """Detected boxes; one that is there again, for another action, is the same one, as sure as at best."""
    videos: dict[str, Found] = {}
    for where, fields in _fields(file, (7, 8), "VIDEO, second, x1, y1, x2, y2, (action,) score"):
        if not fields[-1]:
            raise TableError(f"{where} is a detection without a score: the last field must be one.")
        score = _number(fields[-1], where, "score")
        moments = videos.setdefault(fields[0], {})
        second = _number(fields[1], where, "second")
        boxes, box = moments.setdefault(second, {}), _box(fields[2:6], where)
        boxes[box] = max(score, boxes.get(box, 0.0))
    return videos


def _seconds(file: Path) -> set[tuple[str, float]]:
    return {
        (fields[0], _number(fields[1], where, "second"))
        for where, fields in _fields(file, (2,), "VIDEO, second")
    }


def _number(text: str, where: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < 1e6:
        raise TableError(f"{where} has the {what} {text!r}: a number from 0 on is needed.")
    return value


def _box(fields: Sequence[str], where: str) -> Box:
    x0, y0, x1, y1 = (_number(field, where, "coordinate") for field in fields)
    if max(x1, y1) > 2 or x0 > x1 or y0 > y1:
        raise TableError(
            f"{where} has the box {', '.join(fields)}: left, top, right, bottom as shares of width and "
            "height are needed."
        )
    return x0, y0, x1, y1


def _split(
    truth: Mapping[str, Truth],
    found: Mapping[str, Found],
    excluded: set[tuple[str, float]],
    places: Mapping[str, tuple[str, float]],
) -> Split:
    """A split; `places` says of a video the name of its file and where that begins."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("boxes", "box_times_sec", "box_labels", "box_scores")
    }
    for name in truth:
        start_sec = places[name][1]
        own, detected = truth[name], found.get(name, {})
        moments = sorted(s for s in own.keys() | detected.keys() if (name, s) not in excluded)
        rows: list[tuple[list[Any], list[Any], list[Any]]] = []
        for second in moments:
            true, near = own.get(second, {}), detected.get(second, {})
            boxes = [list(box) for box in (*true, *near)]
            labels = [sorted(actions) for actions in true.values()] + [[] for _ in near]
            scores = [float("nan")] * len(true) + list(near.values())
            rows.append((boxes, labels, scores))
        columns["box_times_sec"].append([second - start_sec for second in moments])
        for column, values in zip(
            ("boxes", "box_labels", "box_scores"),
            zip(*rows, strict=True) if rows else ([], [], []),
            strict=True,
        ):
            columns[column].append(list(values))
    return Split(names=[places[name][0] for name in truth], columns=columns)


def _joined(parts: Sequence[Split]) -> Split:
    names = [name for part in parts for name in part.names]
    columns = {
        key: [value for part in parts for value in part.columns[key]] for key in parts[0].columns
    }
    return Split(names=names, columns=columns)


def _kinetics_files(root: Path) -> dict[str, tuple[str, float]]:
    """ID -> (name of its file without suffix, second of the video at which it begins), of files ID_START_END."""
    found = {}
    for path in sorted(root.rglob("*")):
        match = _CLIP.fullmatch(path.stem)
        if match and path.suffix.lower() in VIDEO_SUFFIXES:
            found[match[1]] = (path.stem, float(match[2]))
    return found
