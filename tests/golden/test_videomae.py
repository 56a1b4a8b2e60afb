"""VideoMAE, with the dual masking of V2, against the numbers of its reference."""

from dataclasses import replace

import pytest
import torch
from golden_models import (
    adamw_of,
    check_mask_count,
    decoder_config,
    encoder_config,
    gradient_norm,
    mask_config,
    normalization,
)
from reference_keys import VIDEOMAE_KEYS

from video_ssl.clips import masks
from video_ssl.clips.config import ClipConfig, CropConfig
from video_ssl.models.config import Normalization
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.videomae.config import Config
from video_ssl.objectives.videomae.objective import Objective

TARGETS = {"normalised": "normalized", "raw": "raw"}


def pixels_of(video, norm=None):
    """Undoes the input normalisation, as the reference does."""
    norm, shape = norm or Normalization(), (1, 3, 1, 1, 1)
    return video * torch.tensor(norm.std).view(shape) + torch.tensor(norm.mean).view(shape)


def objective_of(g, mask, decoder_mask=None, target="normalized", norm=None):
    """The objective with the weights of a file."""
    encoder = encoder_config(g)
    config = Config(
        clip=ClipConfig(num_frames=encoder.num_frames),
        crop=CropConfig(size=encoder.image_size),
        mask=mask_config(mask),
        decoder_mask=None if decoder_mask is None else mask_config(decoder_mask),
        encoder=encoder,
        decoder=decoder_config(g),
        target=target,
        normalization=norm or Normalization(),
    )
    objective = Objective(config)
    report = load_weights(objective, g.tensors(), rename=VIDEOMAE_KEYS)
    assert not report.missing
    assert not report.unused
    return objective


def run(objective, video, mask, decoder_mask=None):
    prediction, wanted, encoded = objective.predict(video, mask, decoder_mask)
    pixels = pixels_of(video, objective.config.normalization)
    target = objective.targets(pixels, wanted)
    return objective.pixel_loss(prediction, target, mask, wanted), prediction, target, encoded


def gradients(objective, names):
    named = dict(objective.named_parameters())
    places = renamed_keys([str(n) for n in names], VIDEOMAE_KEYS)
    assert set(places.values()) == set(named)
    return {name: named[place].grad for name, place in places.items()}


@pytest.mark.golden("videomae/pretrain")
def test_forward_targets_and_latent(golden):
    video, mask, norm = (
        golden.tensor("video"),
        golden.tensor("mask"),
        normalization(golden, "target"),
    )
    objective = objective_of(golden, mask, norm=norm)
    check_mask_count(golden.settings["mask"], objective.config.encoder.grid)
    _, prediction, target, encoded = run(objective, video, mask)
    golden.check("latent", encoded)
    golden.check("pred", prediction)
    golden.check("label_normalised", target)
    raw = objective_of(golden, mask, target="raw", norm=norm)
    golden.check("label_raw", run(raw, video, mask)[2])


@pytest.mark.golden("videomae/pretrain")
def test_forward_in_float64(golden):
    objective = objective_of(golden, golden.tensor("mask")).double()
    prediction, _, encoded = objective.predict(
        golden.tensor("video").double(), golden.tensor("mask")
    )
    golden.check("f64/pred", prediction)
    golden.check("f64/latent", encoded)


@pytest.mark.golden("videomae/pretrain")
def test_loss_and_gradients(golden):
    video, mask, norm = (
        golden.tensor("video"),
        golden.tensor("mask"),
        normalization(golden, "target"),
    )
    rows = []
    for target in golden.settings["rows_of_loss_gradnorm"]:
        objective = objective_of(golden, mask, target=TARGETS[target], norm=norm)
        loss = run(objective, video, mask)[0]
        loss.backward()
        figures = {"loss": loss.detach(), "gradient_norm": gradient_norm(objective)}
        rows.append(torch.stack([figures[k] for k in golden.settings["columns_of_loss_gradnorm"]]))
        if target == golden.settings["gradients_of"]:
            found = gradients(objective, golden["grad_names"])
            golden.check("grad_norms", torch.stack([grad.norm() for grad in found.values()]))
            golden.check_all({f"grad/{name}": grad for name, grad in found.items()})
    golden.check("loss_gradnorm_normalised_then_raw", torch.stack(rows))


@pytest.mark.golden("videomae/steps")
def test_three_steps(golden):
    settings, videos, hidden = golden.settings, golden.tensor("video"), golden.tensor("mask")
    assert settings["optimizer"] == "AdamW"
    start = golden.companion("start")
    objective = objective_of(
        start,
        hidden[0],
        target=TARGETS[settings["target"]],
        norm=normalization(start, "target"),
    )
    optimizer, decayed = adamw_of(objective, settings)
    places = renamed_keys([str(n) for n in golden["final_param_names"]], VIDEOMAE_KEYS)
    golden.check("decayed", [place in decayed for place in places.values()])
    losses, norms = [], []
    for lr, video, mask in zip(settings["lr"], videos, hidden, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = run(objective, video, mask)[0]
        optimizer.zero_grad()
        loss.backward()
        most = settings["clip_grad"] or float("inf")
        norms.append(torch.nn.utils.clip_grad_norm_(objective.parameters(), most))
        optimizer.step()
        losses.append(loss.detach())
    golden.check("loss", losses)
    golden.check("grad_norm_before_clip", norms)
    named = dict(objective.named_parameters())
    golden.check("final_param_norms", [named[place].detach().norm() for place in places.values()])


@pytest.mark.golden("videomae/v2")
def test_dual_masking(golden):
    hidden, skipped = golden.tensor("encoder_mask"), golden.tensor("decoder_mask")
    objective = objective_of(golden, hidden, skipped)
    loss, prediction, _, _ = run(objective, golden.tensor("video"), hidden, skipped)
    golden.check("pred", prediction)
    golden.check("loss", loss)
    loss.backward()
    golden.check("grad_norm", gradient_norm(objective))


@pytest.mark.golden("videomae/v2")
def test_running_cells(golden):
    """The decoder's mask is one of the maps that we draw from, and they are the reference's."""
    cell = golden.settings["running_cell"]
    maps = masks.running_cell_masks(tuple(cell["grid"]), cell["mask_ratio"])
    golden.check("all_running_cell_maps", maps.reshape(len(maps), cell["grid"][0], -1))
    drawn = golden["decoder_mask"] if golden.setting("decoder_mask.rule") == "running cell" else []
    for mask in drawn:
        assert any((mask == candidate).all() for candidate in maps)


@pytest.mark.golden("videomae/v2")
def test_dual_masking_without_skips_is_the_plain_loss(golden):
    """Decoding exactly the hidden tokens makes both formulas one."""
    mask, video = golden.tensor("encoder_mask"), golden.tensor("video")
    plain, dual = objective_of(golden, mask), objective_of(golden, mask, ~mask)
    torch.testing.assert_close(run(plain, video, mask)[0], run(dual, video, mask, ~mask)[0])


@pytest.mark.golden("videomae/v2")
def test_the_mask_token_is_not_decayed(golden):
    objective = objective_of(golden, golden.tensor("encoder_mask"))
    config = objective.config
    for with_class in (False, True):
        encoder = replace(config.encoder, cls_token=with_class)
        names = Objective(replace(config, encoder=encoder)).no_weight_decay()
        assert names == {"decoder.mask_token"} | ({"encoder.cls_token"} if with_class else set())
