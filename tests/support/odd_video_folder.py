"""A folder with every odd video that the project can write."""

from __future__ import annotations

from pathlib import Path

import pytest

from video_ssl.bench.odd_videos import ODD_VIDEOS, write_odd_video


@pytest.fixture(scope="session")
def odd_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every video of `video_ssl.bench.odd_videos`."""
    folder = tmp_path_factory.mktemp("odd_videos")
    for name in ODD_VIDEOS:
        write_odd_video(folder, name)
    return folder
