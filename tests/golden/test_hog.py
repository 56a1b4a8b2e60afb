"""Histograms of oriented gradients against those of scikit-image."""

import pytest
import torch

from video_ssl.models.networks.hog import oriented_gradients


@pytest.mark.golden("hog/features")
def test_oriented_gradients(golden):
    for name, case in golden.cases.items():
        image = golden.tensor(f"{name}/image").float().permute(2, 0, 1) / 255
        pair = torch.stack([image.flip(-1), image])
        found = oriented_gradients(pair, grid=case["grid"], orientations=case["orientations"])
        golden.check(f"{name}/hog", found[1])
