import sys
from pathlib import Path

import pytest

# Helper modules that worker processes import too (spawned processes inherit the path).
sys.path.insert(0, str(Path(__file__).parent))

import video_maker
from odd_video_folder import odd_videos  # noqa: F401


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder with small videos whose frames carry their index; name -> what is odd about it."""
    folder = tmp_path_factory.mktemp("videos")
    video_maker.make_all(folder)
    return folder
