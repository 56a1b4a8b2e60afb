"""What TCC sees of a record: frames of the whole video in order, with their time stamps."""

from video_ssl.objectives.shared.frame_plan import FrameSetPlan as Plan

__all__ = ["Plan"]
