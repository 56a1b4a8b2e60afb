import pytest
from odd_video_folder import odd_videos  # noqa: F401
from tiny_runs import helpers, one_thread, videos  # noqa: F401

from video_ssl.bench import figures


@pytest.fixture(autouse=True)
def small_yardstick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of the full size take seconds a measurement, and nobody looks at how fast the machine is."""
    monkeypatch.setitem(figures.MATMUL_SIDE, "cpu", 256)
