import sys
from pathlib import Path

import pytest

# Helper modules that worker processes import too (spawned processes inherit the path).
sys.path.insert(0, str(Path(__file__).parent))

import video_maker


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with small videos whose frames carry their index; name -> what is odd about it."""
    folder = tmp_path_factory.mktemp("videos")
    video_maker.make_all(folder)
    return folder


@pytest.fixture(scope="session")
def odd_videos(tmp_path_factory):
    """A folder with every video of `video_ssl.bench.odd_videos`."""
    from video_ssl.bench.odd_videos import ODD_VIDEOS, write_odd_video

    folder = tmp_path_factory.mktemp("odd_videos")
    for name in ODD_VIDEOS:
        write_odd_video(folder, name)
    return folder
