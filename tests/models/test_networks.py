"""The table of networks, and a network that is put into it from outside."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_network

from video_ssl.embed.open_encoder import open_encoder
from video_ssl.models import NETWORKS, NetworkError, architecture_of
from video_ssl.models.encoder_config import choosable
from video_ssl.models.encoders import build_encoder, load_encoder, save_encoder
from video_ssl.models.encoders_flax import (
    build_flax_module,
    init_variables,
    load_flax_encoder,
    save_flax_encoder,
)
from video_ssl.models.exchange.convert import convert
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import WeightsError
from video_ssl.objectives.supervised.config import Config
from video_ssl.overrides import Typed
from video_ssl.recipes import ConfigError, build_config, read_typed

PREPROCESS = VideoPreprocess(num_frames=4, frame_stride=1, size=32)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "toy", toy_network.NETWORK)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_line_names_what_is_there(name):
    network = NETWORKS[name]
    config = network.config_class()
    assert network.torch_class().modality == network.modality
    assert architecture_of(config) == architecture_of(network.torch_class()) == name
    assert config.__dataclass_params__.frozen
    if network.flax:
        assert architecture_of(network.flax_class()) == name
        assert {"to_torch_state", "to_flax_variables"} <= set(dir(network.bridge_module()))
    field = next((f for f in dataclasses.fields(config) if f.name == "architecture"), None)
    assert (field is not None) == (name in choosable(network.modality))
    assert field is None or field.default == name


def test_the_table_and_its_configs_import_no_framework():
    code = (
        "import sys\n"
        "from video_ssl.models import NETWORKS\n"
        "assert not any(name.startswith('video_ssl.models.networks') for name in sys.modules)\n"
        "[network.config_class() for network in NETWORKS.values()]\n"
        "import video_ssl.models.encoder_config\n"
        "print(sorted({'torch', 'jax', 'flax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_network_that_is_not_listed_is_told():
    with pytest.raises(NetworkError, match=r"toy_network.config:ToyConfig belongs to no network"):
        architecture_of(toy_network.NETWORK.config_class())


def test_a_config_without_an_architecture_finds_its_network():
    config = FrameTransformerConfig(backbone="small", num_frames=4)
    assert type(build_encoder(config)) is NETWORKS["frame_transformer"].torch_class()


def recipe(encoder: dict) -> Config:
    content = {"num_classes": 2, "clip": {"num_frames": 4}, "crop": {"size": 32}}
    return build_config(Config, {**content, "encoder": encoder}, "objective")


def test_a_recipe_chooses_a_network_from_outside(toy):
    found = recipe({"architecture": "toy", "width": 5}).encoder
    assert found == toy_network.NETWORK.config_class()(width=5, num_frames=4)
    assert recipe({"preset": "Ti"}).encoder.architecture == "vit"
    typed = read_typed(Config, {"encoder": {"architecture": "toy", "width": Typed("7")}})
    assert typed["encoder"]["width"] == 7
    with pytest.raises(
        ConfigError, match=r"unknown key 'objective.encoder.widht'.*Did you mean 'width'"
    ):
        recipe({"architecture": "toy", "widht": 5})
    with pytest.raises(ConfigError, match=r"width='wide'"):
        recipe({"architecture": "toy", "width": "wide"})


def test_without_its_line_a_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match=r"architecture='toy': allowed are \['vit', .*'zoo'\]"):
        recipe({"architecture": "toy"})


def test_a_network_from_outside_is_saved_and_loaded_in_both_frameworks(toy, tmp_path: Path):
    config = toy_network.NETWORK.config_class()(num_frames=4)
    torch.manual_seed(0)
    save_encoder(
        tmp_path / "a", build_encoder(config), architecture="toy", preprocess=PREPROCESS, source={}
    )
    save_flax_encoder(
        tmp_path / "b",
        load_flax_encoder(tmp_path / "a").variables,
        architecture="toy",
        config=config,
        preprocess=PREPROCESS,
        source={},
    )
    ours, back = load_encoder(tmp_path / "a"), load_encoder(tmp_path / "b")
    assert ours.fingerprint == back.fingerprint
    clips = np.random.default_rng(0).integers(0, 256, (2, 4, 32, 32, 3), dtype=np.uint8)
    names = ("clip", "moments", "tokens")
    here, there = (
        open_encoder(spec).outputs_of_arrays(clips, names, cells=2)
        for spec in (str(tmp_path / "a"), f"flax:{tmp_path / 'b'}")
    )
    for name in names:
        assert here[name].std() > 0
        np.testing.assert_allclose(here[name], there[name], atol=1e-5)


def test_fresh_weights_of_a_flax_network_from_outside(toy):
    module = build_flax_module(toy_network.NETWORK.config_class()(width=3))
    assert init_variables(module, 0)["params"]["linear"]["kernel"].shape == (3, 3)


@pytest.mark.parametrize("family", ["auto", "toy"])
def test_its_published_files_are_converted(toy, tmp_path, family):
    weight, bias = torch.rand(5, 3), torch.rand(5)
    torch.save({"toy.weight": weight, "toy.bias": bias}, tmp_path / "toy.pth")
    done = convert(tmp_path / "toy.pth", tmp_path / "e", family=family, frame_stride=3)
    assert done.model.family == "toy"
    back = load_encoder(tmp_path / "e")
    assert torch.equal(back.linear.weight, weight)
    assert back.preprocess.frame_stride == 3
    with pytest.raises(WeightsError, match="a model of toy, which has no such form here"):
        convert(tmp_path / "toy.pth", tmp_path / "e.pt2", to="export")


def test_files_of_nobody_are_told(tmp_path):
    torch.save({"toy.weight": torch.rand(5, 3)}, tmp_path / "toy.pth")
    with pytest.raises(
        WeightsError, match=r"not a checkpoint of hub, videomae, .*mae, hico, bevt, .*cvrl, .*carl"
    ):
        convert(tmp_path / "toy.pth", tmp_path / "e")
    with pytest.raises(WeightsError, match="--family=toy must be one of auto, hub, videomae"):
        convert(tmp_path / "toy.pth", tmp_path / "e", family="toy")
