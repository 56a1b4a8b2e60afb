"""Many videos in one file: tars, ArrayRecord shards, and arrays of strangers."""
