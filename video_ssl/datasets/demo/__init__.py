"""The generated videos: worlds in which a figure moves, written as real mp4 files with labels of every kind."""
