from coloured_videos import one_thread, videos  # noqa: F401
