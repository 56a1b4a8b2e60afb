"""Objectives that two encoders leave, the trained one and a moving average of it: VideoMAE in torch, CVRL in flax."""
