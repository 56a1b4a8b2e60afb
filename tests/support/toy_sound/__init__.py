"""The smallest torch objective with all that a seam must carry: two streams, one with sound, and two encoders."""
