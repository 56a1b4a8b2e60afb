"""Public data sets: one file each, read from their own annotation files."""
