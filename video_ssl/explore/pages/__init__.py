"""HTML pages: the report of a run, and the explorer of frame features."""
