"""MAE against the numbers of its reference: every array of `given` in every file of a kind, within its tolerance."""

import fnmatch
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from video_ssl.clips.config import CropConfig, MaskConfig
from video_ssl.models.config import DecoderConfig, ImageViTConfig, Normalization
from video_ssl.models.preprocess import to_model_input
from video_ssl.models.weights import load_weights, renamed_keys
from video_ssl.objectives.mae.config import Config
from video_ssl.objectives.mae.objective import PUBLISHED_KEYS, Objective
from video_ssl.pretrain.optimizers import build_optimizer, set_lr
from video_ssl.pretrain.recipe import OptimizerConfig
from video_ssl.pretrain.schedules import cosine_schedule, scaled_lr

ROOT = Path(os.environ.get("VIDEO_SSL_GOLDEN", Path(__file__).parent / "data"))


class Case:
    """A golden file: its settings, its arrays, and what has been compared."""

    def __init__(self, path):
        self.arrays = np.load(path, allow_pickle=False)
        self.settings = json.loads(str(self.arrays["settings_json"]))
        self.left = set(self.settings["given"])

    def __getitem__(self, name):
        array = self.arrays[name]
        return array if array.dtype.kind == "U" else torch.from_numpy(np.array(array))

    def params(self):
        return {k[6:]: self[k] for k in self.arrays.files if k.startswith("param/")}

    def expect(self, name, found):
        """Compares an array that is given; one that is not given has nothing to be compared with."""
        if name not in self.settings["given"]:
            return
        self.left.discard(name)
        bound = next(b for p, b in self.settings["tolerance"].items() if fnmatch.fnmatch(name, p))
        expected = np.asarray(self.arrays[name])
        found = np.asarray(found.detach() if torch.is_tensor(found) else found)
        if bound.get("exact"):
            np.testing.assert_array_equal(found, expected, err_msg=name)
            return
        atol = bound.get("atol", 0) + bound.get("of_max", 0) * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(
            found, expected, rtol=bound.get("rtol", 0), atol=atol, err_msg=name
        )


def cases(kind):
    for path in sorted(ROOT.rglob("*.npz")):
        with np.load(path, allow_pickle=False) as data:
            stored = json.loads(str(data["settings_json"])) if "settings_json" in data else {}
        if stored.get("kind") == kind:
            yield pytest.param(path, id=f"{path.parent.name}/{path.stem}")


@pytest.fixture
def case(request):
    found = Case(request.param)
    yield found
    assert not found.left, f"given, but not compared: {sorted(found.left)}"


def each(kind):
    return pytest.mark.parametrize("case", list(cases(kind)), indirect=True)


def objective_of(settings, params):
    encoder, decoder = settings["encoder"], settings["decoder"]
    assert encoder["qkv_bias"]
    assert settings["target"]["variance"].startswith("unbiased, over all colours")
    config = Config(
        crop=CropConfig(kind="random_resized", size=encoder["image_size"]),
        mask=MaskConfig(kind=settings["mask"]["kind"], ratio=settings["mask"]["ratio"]),
        encoder=ImageViTConfig(
            preset=None,
            embed_dim=encoder["embed_dim"],
            depth=encoder["depth"],
            num_heads=encoder["num_heads"],
            mlp_ratio=encoder["mlp_ratio"],
            patch_size=encoder["patch_size"],
            cls_token=encoder["cls_token"],
            positions=encoder["positions"],
            drop_path=encoder["drop_path"],
        ),
        decoder=DecoderConfig(
            embed_dim=decoder["embed_dim"],
            depth=decoder["depth"],
            num_heads=decoder["num_heads"],
            mlp_ratio=decoder["mlp_ratio"],
        ),
        normalization=Normalization(
            mean=tuple(settings["normalization"]["mean"]),
            std=tuple(settings["normalization"]["std"]),
        ),
        target="normalized" if settings["target"]["norm_pix_loss"] else "raw",
    )
    objective = Objective(config)
    report = load_weights(objective, params, rename=PUBLISHED_KEYS)
    assert not report.missing
    assert not report.unused
    return objective


def batch_of(images, mask):
    return {"video": images[:, None, None], "mask": mask[:, None]}


def places_of(objective, names):
    """Name in the reference -> parameter."""
    named = dict(objective.named_parameters())
    places = renamed_keys([str(n) for n in names], PUBLISHED_KEYS)
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


@each("mae/pretrain")
def test_one_step(case):
    objective = objective_of(case.settings, case.params())
    batch = batch_of(case["images"], case["mask"])
    video = to_model_input(batch["video"], objective.config.normalization)
    everywhere = torch.arange(case["mask"].shape[1]).expand(case["mask"].shape)
    case.expect("imgs", video[:, :, 0])
    case.expect("target", objective.targets(video, everywhere))
    case.expect("pred", all_predictions(objective, video, case["mask"]))
    case.expect("encoder_out", objective.loss_of(video, case["mask"])[1])
    case.expect(
        "pos_embed", with_class_row(objective.encoder.positions(objective.encoder.config.grid))
    )
    case.expect("decoder_pos_embed", with_class_row(objective.decoder.positions()))
    loss, _ = objective.train()(batch)
    case.expect("loss", loss)
    loss.backward()
    for name, parameter in places_of(objective, case.params()).items():
        case.expect(f"grad/{name}", parameter.grad)
    double = objective.double()
    pixels = case["images"].permute(0, 3, 1, 2).double() / case.settings["normalization"]["scale"]
    mean, std = (
        torch.tensor(case.settings["normalization"][part], dtype=torch.float64).view(3, 1, 1)
        for part in ("mean", "std")
    )
    case.expect("f64/loss", double.loss_of(((pixels - mean) / std)[:, :, None], case["mask"])[0])


@each("mae/mask_counts")
def test_mask_counts(case):
    configs = [
        MaskConfig(kind="random", ratio=ratio, rounding="visible")
        for ratio in case["ratio"].tolist()
    ]
    masked = [
        config.num_masked((1, 1, tokens))
        for config, tokens in zip(configs, case["tokens"].tolist(), strict=True)
    ]
    case.expect("masked", np.array(masked))
    case.expect("visible", case["tokens"].numpy() - masked)


def schedule_of(settings):
    steps = settings["steps_per_epoch"]
    return cosine_schedule(
        settings["peak_lr"],
        settings["min_lr"],
        settings["epochs"] * steps,
        warmup_steps=settings["warmup_epochs"] * steps,
        ramp_reaches_peak=False,
    )


@each("mae/schedule")
def test_schedule(case):
    for name, settings in case.settings["cases"].items():
        case.expect(name, schedule_of(settings))


@each("mae/steps")
def test_steps(case):
    settings = case.settings
    objective = objective_of(settings, case.params())
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
    places = places_of(objective, case["param_names"])
    decayed = {
        id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]
    }
    case.expect("decayed", np.array([id(p) in decayed for p in places.values()]))
    plan = settings["schedule"]
    assert plan["peak_lr"] == scaled_lr(
        plan["base_lr"], scaling="linear_256", global_batch_size=plan["effective_batch"]
    )
    rates = schedule_of(plan)[plan["first_step"] :][: len(case["images"])]
    case.expect("lr", rates)
    losses, norms = [], []
    for images, mask, rate in zip(case["images"], case["mask"], rates, strict=True):
        set_lr(optimizer, rate)
        loss, _ = objective.train()(batch_of(images, mask))
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.stack([p.grad.norm() for p in places.values()]).norm().item())
        optimizer.step()
    case.expect("loss", np.array(losses))
    case.expect("grad_norm", np.array(norms))
    for name, parameter in places.items():
        case.expect(f"final/{name}", parameter)
    case.expect("final_norms", np.array([norm_without_keys(n, p) for n, p in places.items()]))


def norm_without_keys(name, parameter):
    """Of a qkv bias the key third is left out: its gradient is 0 but for rounding, which AdamW turns into noise."""
    if name.endswith("qkv.bias"):
        query, _, value = parameter.chunk(3)
        parameter = torch.cat([query, value])
    return parameter.detach().norm().item()
