"""Weights in and out: published checkpoints, their names and files, and ours in theirs."""
