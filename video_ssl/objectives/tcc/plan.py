"""What TCC sees of a record: frames of the whole video in order, with their time stamps."""

from __future__ import annotations

from video_ssl.objectives.shared.frame_plan import FrameSetPlan


class Plan(FrameSetPlan):
    """See `FrameSetPlan`."""
