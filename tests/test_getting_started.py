"""The notebook for a start: a folder of two classes, from the files to the probe."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from colored_videos import write_video
from PIL import Image

from notebooks import committed

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "getting_started.ipynb"


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("nbclient", "ipykernel", "matplotlib")),
    reason="nbclient, ipykernel and matplotlib are not all installed",
)
def test_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    from nbclient import NotebookClient

    videos, out = tmp_path / "my vidéos", tmp_path / "out"
    for number in range(16):
        red = number % 2
        folder = videos / ("dark red" if red else "grün")
        folder.mkdir(parents=True, exist_ok=True)
        color = (90 + 9 * number, 30, 30) if red else (30, 90 + 9 * number, 30)
        write_video(folder / f"{number:02}.mp4", 45, color, number)
    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_FOLDER", str(videos))
    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_STEPS", "10")
    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_OUT", str(out))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    ran = NotebookClient(
        committed(NOTEBOOK),
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    told = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "16 videos of 2 classes: dark red, grün" in told
    assert "10 steps, loss " in told
    assert "VideoFeatures(clip (128,), frames (" in told
    assert told.count(" s   cosine ") == 5
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
        for output in outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) == 2
    greens = (np.abs(pictures[1][..., :3].astype(int) - (0x2F, 0x9E, 0x6E)).sum(-1) < 40).sum()
    assert greens > 50  # a neighbour of the same class, titled in green
    assert any(
        "<iframe srcdoc=" in output.get("data", {}).get("text/html", "") for output in outputs
    )
    results = json.loads((out / "probe" / "results.json").read_text())
    assert list(results["encoders"]) == ["encoder", "untrained", "edges"]
