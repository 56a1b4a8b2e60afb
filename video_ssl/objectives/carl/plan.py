"""What CARL sees of a record: two views of many sorted frames, with their time stamps."""

from __future__ import annotations

from video_ssl.objectives.shared.frame_plan import FrameSetPlan


class Plan(FrameSetPlan):
    """See `FrameSetPlan`; the label is carried for the weakly supervised version and may be missing."""
