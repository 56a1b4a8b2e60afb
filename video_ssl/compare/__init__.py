"""`video-ssl compare`: encoders on the same videos, or objectives with the same budget, told on one page."""
