"""A torch objective of two streams: VideoMAE on the clips of both, as if they were one batch."""
