from colored_videos import one_thread, videos  # noqa: F401
