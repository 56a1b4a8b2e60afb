"""What CARL sees of a record: two views of many sorted frames, with their time stamps; the label may be missing."""

from video_ssl.objectives.shared.frame_plan import FrameSetPlan as Plan

__all__ = ["Plan"]
