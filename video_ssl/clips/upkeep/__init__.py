"""Upkeep of video files: look at every file once, make them fast to read, prove which decoders are exact."""
