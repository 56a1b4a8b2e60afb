"""MAE against the numbers of its reference."""

import numpy as np
import pytest
import torch
from golden_models import decoder_config, encoder_config
from reference_keys import MAE_KEYS

from video_ssl.clips.config import CropConfig, MaskConfig
from video_ssl.models.config import Normalization
from video_ssl.models.preprocess import to_model_input
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mae.config import Config
from video_ssl.objectives.mae.objective import Objective
from video_ssl.pretrain.optimizers import OptimizerConfig
from video_ssl.pretrain.schedules import cosine_schedule, scaled_lr
from video_ssl.pretrain.torch_loop.optimizers import build_optimizer, set_lr


def objective_of(golden):
    settings = golden.settings
    assert settings["target"]["variance"].startswith("unbiased, over all colours")
    assert settings["target"]["eps_on_variance"] == 1e-6
    config = Config(
        crop=CropConfig(kind="random_resized", size=settings["encoder"]["image_size"]),
        mask=MaskConfig(kind=settings["mask"]["kind"], ratio=settings["mask"]["ratio"]),
        encoder=encoder_config(golden, drop_path=settings["encoder"]["drop_path"]),
        decoder=decoder_config(golden),
        normalization=Normalization(
            mean=tuple(settings["normalization"]["mean"]),
            std=tuple(settings["normalization"]["std"]),
        ),
        target="normalized" if settings["target"]["norm_pix_loss"] else "raw",
    )
    objective = Objective(config)
    report = load_weights(objective, golden.tensors(), rename=MAE_KEYS)
    assert not report.missing
    assert not report.unused
    return objective


def batch_of(images, mask):
    return {"video": images[:, None, None], "mask": mask[:, None]}


def places_of(objective, names):
    """Name in the reference -> parameter."""
    named = dict(objective.named_parameters())
    places = renamed_keys([str(n) for n in names], MAE_KEYS)
    return {name: named[place] for name, place in places.items() if place is not None}


def all_predictions(objective, video, mask):
    """(N, L, E) at every patch in order; the objective itself reads the decoder at the hidden ones only."""
    outputs = []
    last = objective.decoder.blocks[-1]
    hook = last.register_forward_hook(lambda *args: outputs.append(args[-1]))
    objective.loss_of(video, mask)
    hook.remove()
    (x,) = outputs
    found = objective.decoder.head(objective.decoder.norm(x[:, objective.encoder.num_prefix :]))
    order = torch.argsort(mask.int(), dim=1, stable=True)[..., None].expand_as(found)
    return torch.empty_like(found).scatter(1, order, found)


def with_class_row(table):
    """The reference stores a row of zeros for the class token, (1, 1+L, D)."""
    return torch.cat([torch.zeros_like(table[:1]), table])[None]


@pytest.mark.golden("mae/pretrain")
def test_one_step(golden):
    objective = objective_of(golden)
    batch = batch_of(golden.tensor("images"), golden.tensor("mask"))
    video = to_model_input(batch["video"], objective.config.normalization)
    everywhere = torch.arange(golden.tensor("mask").shape[1]).expand(golden.tensor("mask").shape)
    golden.check("imgs", video[:, :, 0])
    golden.check("target", objective.targets(video, everywhere))
    golden.check("pred", all_predictions(objective, video, golden.tensor("mask")))
    golden.check("encoder_out", objective.loss_of(video, golden.tensor("mask"))[1])
    golden.check(
        "pos_embed", with_class_row(objective.encoder.positions(objective.encoder.config.grid))
    )
    golden.check("decoder_pos_embed", with_class_row(objective.decoder.positions()))
    loss = objective.train()(batch).loss
    golden.check("loss", loss)
    loss.backward()
    for name, parameter in places_of(objective, golden.tensors()).items():
        golden.check(f"grad/{name}", parameter.grad)
    double = objective.double()
    pixels = (
        golden.tensor("images").permute(0, 3, 1, 2).double()
        / golden.settings["normalization"]["scale"]
    )
    mean, std = (
        torch.tensor(golden.settings["normalization"][part], dtype=torch.float64).view(3, 1, 1)
        for part in ("mean", "std")
    )
    golden.check(
        "f64/loss", double.loss_of(((pixels - mean) / std)[:, :, None], golden.tensor("mask"))[0]
    )


@pytest.mark.golden("mae/mask_counts")
def test_mask_counts(golden):
    configs = [
        MaskConfig(kind="random", ratio=ratio, rounding="visible")
        for ratio in golden.tensor("ratio").tolist()
    ]
    masked = [
        config.num_masked((1, 1, tokens))
        for config, tokens in zip(configs, golden.tensor("tokens").tolist(), strict=True)
    ]
    golden.check("masked", np.array(masked))
    golden.check("visible", golden.tensor("tokens").numpy() - masked)


def schedule_of(settings):
    steps = settings["steps_per_epoch"]
    return cosine_schedule(
        settings["peak_lr"],
        settings["min_lr"],
        settings["epochs"] * steps,
        warmup_steps=settings["warmup_epochs"] * steps,
        ramp_reaches_peak=False,
    )


@pytest.mark.golden("mae/schedule")
def test_schedule(golden_case):
    golden_case.file.check(golden_case.name, schedule_of(golden_case.settings))


@pytest.mark.golden("mae/steps")
def test_steps(golden):
    settings = golden.settings
    objective = objective_of(golden)
    wanted = settings["optimizer"]
    optimizer = build_optimizer(
        objective,
        OptimizerConfig(
            name=wanted["name"].lower(),
            betas=tuple(wanted["betas"]),
            eps=wanted["eps"],
            weight_decay=wanted["weight_decay"],
        ),
    )
    places = places_of(objective, golden["param_names"])
    decayed = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    golden.check("decayed", np.array([id(p) in decayed for p in places.values()]))
    plan = settings["schedule"]
    assert plan["peak_lr"] == scaled_lr(
        plan["base_lr"], scaling="linear_256", global_batch_size=plan["effective_batch"]
    )
    rates = schedule_of(plan)[plan["first_step"] :][: len(golden.tensor("images"))]
    golden.check("lr", rates)
    losses, norms = [], []
    for images, mask, rate in zip(
        golden.tensor("images"), golden.tensor("mask"), rates, strict=True
    ):
        set_lr(optimizer, rate)
        loss = objective.train()(batch_of(images, mask)).loss
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.stack([p.grad.norm() for p in places.values()]).norm().item())
        optimizer.step()
    golden.check("loss", np.array(losses))
    golden.check("grad_norm", np.array(norms))
    for name, parameter in places.items():
        golden.check(f"final/{name}", parameter)
    golden.check("final_norms", np.array([norm_without_keys(n, p) for n, p in places.items()]))


def norm_without_keys(name, parameter):
    """Of a qkv bias the key third is left out: its gradient is 0 but for rounding, which AdamW turns into noise."""
    if name.endswith("qkv.bias"):
        query, _, value = parameter.chunk(3)
        parameter = torch.cat([query, value])
    return parameter.detach().norm().item()
