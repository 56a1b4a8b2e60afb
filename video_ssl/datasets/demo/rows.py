"""From the plans of videos to the rows of tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from video_ssl.datasets.demo.text import captions_of, session_captions
from video_ssl.datasets.demo.video import VideoPlan, World

SYNC = "sync"
"""Name of the event that recordings of one performance share."""


def clip_row(world: World, plan: VideoPlan) -> dict[str, Any]:
    """Returns the row of a clip; `group` is the figure, or the performance where several cameras film one.

    There the first event is `SYNC`: the moment in which the action begins, in seconds of this recording, the same
    moment for every recording of the group; no sound goes with it.

    Idle frames of `train` and `val` are the phases `ready` and `done`; those of `phases_train` and `phases_val` have no
    label (-1), as in Penn Action, whose labels run from the start to the end of the action.
    """
    (cut,) = plan.cuts
    phases = world.phase_labels(cut, 0, len(plan.joints))
    if plan.split.startswith("phases_"):
        phases[: cut.first] = phases[cut.last :] = -1
    captions = captions_of(
        cut.motion, world.words, plan.body, plan.stream("text"), seconds=plan.seconds,
        shift_sec=plan.offset_sec(cut),
    )  # fmt: skip
    events = plan.events()
    if plan.performance:
        events = [(SYNC, cut.motion.start_sec + plan.offset_sec(cut)), *events]
    return {
        **_common(plan),
        "label": world.class_names.index(cut.motion.action),
        "captions": captions,
        "frame_labels": phases,
        "boxes": plan.scene().boxes(),
        "events": _event_rows(events),
        "group": plan.performance or plan.figure,
    }


def session_row(world: World, plan: VideoPlan) -> dict[str, Any]:
    """Returns the row of a session: label = topic, frame labels = action or -1 where the figure is idle."""
    assert plan.topic is not None
    labels = np.full(len(plan.joints), -1, np.int16)
    for cut in plan.cuts:
        labels[cut.first : cut.last] = world.class_names.index(cut.motion.action)
    text = plan.stream("text")
    captions = session_captions(plan.topic, world.words, text, seconds=plan.seconds)
    return {
        **_common(plan),
        "label": tuple(world.topics).index(plan.topic),
        "captions": captions + [c for row in segment_rows(world, plan) for c in row["captions"]],
        "frame_labels": labels,
        "boxes": plan.scene().boxes(),
        "events": _event_rows(plan.events()),
        "group": plan.figure,
    }


def segment_rows(world: World, plan: VideoPlan) -> list[dict[str, Any]]:
    """Returns one row per action of a session; `group` is the session.

    Times (also those of captions and events) are in seconds of the source; frame labels (phases) and boxes have one
    entry per frame of the segment.
    """
    fps, text, boxes = plan.size.fps, plan.stream("text"), plan.scene().boxes()
    rows = []
    for number, cut in enumerate(plan.cuts):
        start, end = cut.first / fps, cut.last / fps
        captions = captions_of(cut.motion, world.words, plan.body, text, seconds=end)
        for caption in captions:
            full = caption["start_sec"] == 0 and caption["end_sec"] == end
            shift = plan.offset_sec(cut)
            caption["start_sec"] = start if full else caption["start_sec"] + shift
            caption["end_sec"] = end if full else min(caption["end_sec"] + shift, end)
        rows.append({
            **_common(plan),
            "id": f"{plan.id}-{number:02d}",
            "start_sec": start,
            "end_sec": end,
            "label": world.class_names.index(cut.motion.action),
            "captions": captions,
            "frame_labels": world.phase_labels(cut, cut.first, cut.last),
            "boxes": boxes[cut.first : cut.last],
            "events": _event_rows(plan.events_of(cut)),
            "group": plan.id,
            "num_frames": cut.last - cut.first,
        })  # fmt: skip
    return rows


def _common(plan: VideoPlan) -> dict[str, Any]:
    return {
        "id": plan.id,
        "source": plan.source,
        "num_frames": len(plan.joints),
        "fps": float(plan.size.fps),
    }


def _event_rows(events: list[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "time_sec": time} for name, time in events]
