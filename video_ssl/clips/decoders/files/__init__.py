"""What a video file says of itself, without a decoder."""
