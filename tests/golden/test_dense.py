"""Propagation of labels and its metrics against the references: RVM and 4DS's notebook, DINO, DAVIS, JHMDB, VIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from frozen_protocols import files_of, read

from video_ssl.evaluate.dense import label_maps, mask_metrics, poses
from video_ssl.evaluate.dense.propagation import PropagationConfig, propagate


def cases_of(golden):
    """Names before the first stroke that are numbers."""
    return sorted({name.split("/")[0] for name in golden.arrays if name.split("/")[0].isdigit()})


@pytest.mark.parametrize("path", files_of("label_propagation"))
def test_propagation_of_the_notebook(path):
    golden = read(path)
    assert not golden.setting("norm_mask")
    config = PropagationConfig(
        context=golden.setting("n_context"),
        topk=golden.setting("topk"),
        temperature=golden.setting("temperature"),
        radius=float(golden.setting("radius")) if golden.setting("restrict_neighborhood") else None,
    )
    features, first = (torch.from_numpy(golden[name]) for name in ("features", "heatmap"))
    golden.check("predictions", propagate(features, first, config), atol=1e-5)
    golden.done("features", "heatmap")


@pytest.mark.parametrize("path", files_of("dino_propagation"))
def test_propagation_of_dino(path):
    golden = read(path)
    config = PropagationConfig(
        rule="dino",
        context=golden.setting("n_last_frames"),
        topk=golden.setting("topk"),
        temperature=golden.setting("temperature"),
        radius=float(golden.setting("radius")) or None,
    )
    mask, features = golden["first_segmentation"], torch.from_numpy(golden["features"])
    first = label_maps.dino_map_of_mask(mask, features.shape[1:3])
    golden.check("first_one_hot", first.transpose(2, 0, 1))
    soft = propagate(features, torch.from_numpy(first), config)
    golden.check("soft", soft[1:].permute(0, 3, 1, 2), atol=1e-5)
    masks = label_maps.dino_masks_of_maps(soft.numpy(), golden.setting("patch_size"), mask.shape)
    masks[0] = mask
    golden.check("labels", masks)
    golden.done("features", "first_segmentation", "class_tokens")


@pytest.mark.parametrize("path", files_of("dino_sizes"))
def test_sizes_of_dino(path):
    golden = read(path)
    found = []
    for h, w, patch, *_ in golden["h_w_patch_th_tw_segh_segw"].tolist():
        th, tw = label_maps.dino_size(h, w)
        # Of square frames the grid of the labels is the other way round there.
        grid = (tw // patch, th // patch) if h == w else (th // patch, tw // patch)
        found.append([h, w, patch, th, tw, *grid])
    golden.check("h_w_patch_th_tw_segh_segw", found)
    golden.check("mean", label_maps.DINO_MEAN, atol=1e-12)
    golden.check("std", label_maps.DINO_STD, atol=1e-12)
    red = np.subtract([1.0, 0, 0], label_maps.DINO_MEAN) / label_maps.DINO_STD
    golden.check("normalised_pure_red_rgb", red, atol=1e-6)
    golden.done()


@pytest.mark.parametrize("path", files_of("mask_heatmap"))
def test_masks_to_label_maps_and_back(path):
    golden, inputs = read(path), []
    for case in cases_of(golden):
        mask = golden[f"{case}/mask"]
        height, width, patch = golden[f"{case}/height_width_patch"].tolist()
        grid = (height // patch, width // patch)
        found, labels = label_maps.map_of_mask(mask, (height, width), grid)
        golden.check(f"{case}/heatmap", found, atol=1e-6)
        golden.check(f"{case}/label_map", labels)
        soft = golden[f"{case}/soft"]
        masks = label_maps.masks_of_maps(soft, labels, (height, width), mask.shape)
        golden.check(f"{case}/labels", masks)
        inputs += [f"{case}/{part}" for part in ("mask", "height_width_patch", "soft")]
    assert inputs
    golden.done(*inputs)


@pytest.mark.parametrize("path", files_of("tubelets_to_frames"))
def test_a_feature_for_every_frame(path):
    golden = read(path)
    tokens = golden["tokens_window_tubelet_h_w_c"]
    assert golden.setting("window") // golden.setting("tubelet") == tokens.shape[1]
    for name in ("linear", "cubic"):
        found = label_maps.frames_of_tubelets(
            tokens, golden.setting("n_frames"), golden.setting("window"), cubic=name == "cubic"
        )
        golden.check(name, found, atol=1e-6)
    golden.done("tokens")


@pytest.mark.parametrize("path", files_of("pose"))
def test_poses_and_their_score(path):
    golden, inputs, distances = read(path), [], []
    for case in cases_of(golden):
        truth = golden[f"{case}/pose"]
        height, width, h, w = golden[f"{case}/height_width_grid"].tolist()
        first = poses.map_of_pose(truth[0], (height, width), (h, w))
        golden.check(f"{case}/heatmap", first, atol=1e-6)
        soft, topk = golden[f"{case}/soft"], golden.setting("readout_topk")
        found, there = poses.poses_of_maps(soft, (height, width), topk=topk)
        golden.check(f"{case}/coordinates", found, atol=1e-4)
        golden.check(f"{case}/visible", there)
        golden.check(f"{case}/box", poses.box_size(truth, there), rtol=1e-6)
        distances.append(poses.joint_distances(found, truth, there))
        inputs += [f"{case}/{part}" for part in ("pose", "height_width_grid", "soft")]
    joints = [np.concatenate(own) for own in zip(*distances, strict=True)]
    golden.check("distances_per_joint", [len(own) for own in joints])
    golden.check("distances_concatenated", np.concatenate(joints), rtol=1e-5)
    shares = 100 * poses.correct_joints(joints, golden["thresholds"])
    golden.check("pck_per_joint", shares, rtol=1e-12)
    golden.check("pck", shares.mean(1), rtol=1e-12)
    golden.done("thresholds", *inputs)


@pytest.mark.parametrize("path", files_of("davis_metrics"))
def test_metrics_of_davis(path):
    golden, inputs, regions, boundaries = read(path), [], [], []
    for case in sorted({name.split("/")[0] for name in golden.arrays if name.endswith("/gt")}):
        truth, found = (unpacked(golden, f"{case}/{part}") for part in ("gt", "result"))
        # Objects that were not found are empty.
        lacking = len(truth) - len(found)
        found = np.concatenate([found, np.zeros((lacking, *truth.shape[1:]), bool)])
        j = mask_metrics.region_similarity(found, truth)
        f = mask_metrics.boundary_accuracy(found, truth)
        golden.check(f"{case}/J", j, atol=1e-12)
        golden.check(f"{case}/F", f, atol=1e-12)
        own = [[mask_metrics.statistics_of(row) for row in values] for values in (j, f)]
        golden.check(f"{case}/statistics_JF_object_MRD", np.array(own), atol=1e-12)
        regions += own[0]
        boundaries += own[1]
        name = f"{case}/boundary_gt_object0_frame0"
        golden.check(name, mask_metrics.boundary(truth[0, 0]))
        golden.check(f"{case}/bound_pixels", mask_metrics.boundary_radius(*truth.shape[2:]))
        inputs += [f"{case}/{part}" for part in ("gt", "gt_shape", "result", "result_shape")]
    total = mask_metrics.summed_up(regions, boundaries)
    golden.check("global", [total[name] for name in golden["global_names"]], atol=1e-12)
    for name in [n for n in golden.arrays if n.startswith("decay/") and n.endswith("/values")]:
        out = name.replace("values", "MRD")
        golden.check(out, mask_metrics.statistics_of(golden[name]), atol=1e-12)
        inputs.append(name)
    golden.done("global_names", *inputs)


def unpacked(golden, name):
    shape = golden[f"{name}_shape"]
    return np.unpackbits(golden[name], count=int(np.prod(shape))).reshape(shape).astype(bool)


@pytest.mark.parametrize("path", files_of("vip_miou"))
def test_mean_iou_of_vip(path):
    golden = read(path)
    histogram = mask_metrics.class_histogram(
        golden["ground_truth"], golden["prediction"], golden.setting("num_classes")
    )
    golden.check("histogram", histogram)
    found = mask_metrics.class_ious(histogram)
    golden.check("iou_per_class", found, atol=1e-12)
    golden.check("mean_iou", np.nanmean(found), atol=1e-12)
    golden.done("ground_truth", "prediction")
