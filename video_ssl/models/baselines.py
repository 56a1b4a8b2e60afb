"""Encoders without weights, which every evaluation needs beside a trained one.  Free of torch and jax."""

from __future__ import annotations

HOG = "hog_"

#: What stands before the colon of `pixels:PATH` and its like -> what it is called in a sentence.
BASELINES: dict[str, str] = {
    "pixels": "raw pixels",
    "hog_frame": "HOG of one frame",
    "hog_bag": "HOG of frames without their order",
    "hog_order": "HOG of frames in order",
    "hog_differences": "HOG of frame differences",
    "hog_each": "HOG of each frame",
    "hog_window": "HOG of frames with their neighbours",
}
