"""Where something is in a frame: actions at boxes, and tracks."""
