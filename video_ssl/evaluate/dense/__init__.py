"""Labels of the first frame of a video, carried to the others by what a frozen encoder says about places."""
