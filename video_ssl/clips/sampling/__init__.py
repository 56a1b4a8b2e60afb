"""Which frames of a video: pure functions of lengths, settings and uniform numbers."""
