"""The generated videos: a figure performs exercises, written as real mp4 files with labels of every kind."""
