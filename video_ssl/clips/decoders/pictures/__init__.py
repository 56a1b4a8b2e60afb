"""Pictures as videos: a folder of frames, a picture, an animated picture."""
