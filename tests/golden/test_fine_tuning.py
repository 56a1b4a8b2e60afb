"""What fine-tuning and its test do to batches and scores, against VideoMAE's and MVD's references."""

import numpy as np
import pytest
import torch

from video_ssl.clips.mixing import Mix, boxed_mix
from video_ssl.evaluate.metrics import merge_views, top_k_accuracy, top_k_hits
from video_ssl.models.mixing import mix_labels, mix_videos

#: What a box is cut out of in a file -> our setting.
CUTS = {("height", "width"): "space", ("time", "height"): "time_and_height"}


@pytest.mark.golden("mvd/mixup", "videomae/mixup")
def test_mixup_and_cutmix(golden_case):
    g, settings = golden_case.file, golden_case.settings
    video, label = g.tensor("x"), g.tensor("target")
    assert g.settings["partner"] == "the batch reversed"
    mix = Mix(lam=settings["lam"])
    if settings["cutmix"]:
        mix = boxed_mix(tuple(settings["box_yl_yh_xl_xh"]), *video.shape[-2:])
    row, cut = torch.from_numpy(mix.row), CUTS[tuple(g.settings["box_cut_in"])]
    golden_case.check("x", mix_videos(video, row, cut=cut))
    found = mix_labels(
        label, g.settings["num_classes"], row, label_smoothing=g.settings["label_smoothing"]
    )
    golden_case.check("target", found)


@pytest.mark.golden("mvd/merge_views", "videomae/merge_views")
def test_merging_of_views(golden):
    scores, labels = merge_views(golden["logits"]), golden["label"]
    golden.check("mean_probability", scores)
    golden.check("pred", scores.argmax(1))
    for k in (1, 5):
        golden.check(f"top{k}", top_k_hits(scores, labels, k).astype(np.float64))
        golden.check(f"final_top{k}_percent", 100 * top_k_accuracy(scores, labels, k))
