from odd_video_folder import odd_videos  # noqa: F401
from tiny_runs import helpers, one_thread, videos  # noqa: F401
