"""WHAT of a video: reading, sampling, views, masks and the pipeline (numpy only)."""
