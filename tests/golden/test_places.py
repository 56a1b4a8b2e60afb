"""Evaluators of places: AVA's head and mean average precision, OTB's metrics, against the references' numbers."""

import numpy as np
import pytest
import torch
from test_const_cl import decoder_config, local_names, state_of_tf, xyxy
from test_r3d import head_state, layers_below

from video_ssl.evaluate.places import frame_map, track_metrics
from video_ssl.evaluate.places.heads import ActionTransformerHead, action_loss


def head_of_tf(golden):
    """The torch state of the reference's head, and the width of its hidden layers."""
    local = {k: v for k, v in golden.below("param/").items() if not k.startswith("_classifier/")}
    layers = layers_below(golden, "_classifier/_layers/")
    state, hidden = state_of_tf(local, local_names), None
    for key, value in head_state(layers).items():
        layer, _, leaf = key.partition(".")
        if layer == "dense_out":
            state[f"classifier.{leaf}"] = value
        else:
            state[f"hidden.{layer[-1]}.{layer[:-1]}.{leaf}"] = value
            hidden = value.shape[0] if value.ndim == 2 else hidden
    return state, hidden


@pytest.mark.golden("const_cl/ava_head")
def test_head_of_ava(golden):
    settings, features = golden.settings, golden["features"]
    assert settings["roi_source"] == "mean over time"
    assert settings["roi_pool"] == "max over the crop"
    assert settings["classifier_bn_eps"] == 1e-5
    state, hidden = head_of_tf(golden)
    head = ActionTransformerHead(
        features.shape[-1],
        settings["num_classes"],
        decoder=decoder_config(settings),
        crop_size=settings["crop_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        hidden_dim=hidden,
    ).eval()
    head.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    boxes = torch.from_numpy(xyxy(golden["boxes_normalized"]).copy())
    with torch.no_grad():
        logits = head(golden.tensor("features"), boxes)
        golden.check("logits", logits)
        golden.check("loss", action_loss(logits, golden.tensor("targets"), golden.tensor("mask")))


@pytest.mark.golden("const_cl/ava_map")
def test_mean_average_precision_of_ava(golden):
    """By the reference's rule: false detections in key frames with nobody in them are not counted."""
    ids = golden[golden.settings["class_ids"].partition(",")[0]]
    classes = ids - 1
    frames = []
    for boxes, scores, truth, labels in zip(
        golden["boxes"],
        golden["scores"],
        golden["gt_boxes"],
        golden["gt_classes_zero_based"],
        strict=True,
    ):
        there = (truth[:, 2:] > truth[:, :2]).all(1) & np.isin(labels, classes)
        own = np.searchsorted(classes, labels[there])
        frames.append(frame_map.KeyFrame(boxes, scores[:, classes], truth[there], own))
    found = frame_map.average_precisions(
        frames, len(classes), iou=golden.settings["iou"], rule="reference"
    )
    golden.check("mAP", frame_map.mean_average_precision(found))
    by_id = np.full(golden["per_class_ap_by_id"].shape, np.nan)
    by_id[ids] = found
    golden.check("per_class_ap_by_id", by_id)


@pytest.mark.golden("const_cl/otb_metrics")
def test_tracks_of_otb(golden):
    settings = golden.settings
    pairs = [[golden[f"{name}/{kind}"] for kind in ("pred", "anno")] for name in golden.cases]
    for name, (found, truth) in zip(golden.cases, pairs, strict=True):
        overlap = track_metrics.track_overlaps(found, truth)
        errors = track_metrics.center_errors(found, truth)
        golden.check(f"{name}/iou", overlap)
        golden.check(f"{name}/center_error", errors)
        golden.check(f"{name}/success_curve", track_metrics.success_curve(overlap))
        golden.check(f"{name}/precision_curve", track_metrics.precision_curve(errors))
    assert settings["precision_score_at_px"] == track_metrics.PRECISION_AT_PX
    assert settings["success_rate_at_iou"] == track_metrics.SUCCESS_AT
    scores = track_metrics.track_scores(*zip(*pairs, strict=True))
    golden.check("success_score", scores.success)
    golden.check("precision_score", scores.precision)
    golden.check("success_rate", scores.success_rate)
