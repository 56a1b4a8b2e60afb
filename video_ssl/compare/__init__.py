"""`video-ssl compare RECIPE`: objectives on the same videos with the same budget, told on one page."""
