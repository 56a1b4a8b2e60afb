from tiny_runs import helpers, one_thread, videos  # noqa: F401
