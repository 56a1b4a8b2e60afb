"""BEVT: prediction of visual tokens that are hidden, on pictures and on clips at once."""
