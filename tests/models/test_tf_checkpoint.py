"""TensorFlow's checkpoints of R3D: read without TensorFlow, brought into encoder folders, refused where broken."""

import numpy as np
import pytest
import torch
from tf_checkpoint_maker import write_checkpoint

from video_ssl.models.encoders import load_encoder
from video_ssl.models.exchange.convert import convert
from video_ssl.models.exchange.r3d_weights import load_tf_r3d
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.exchange.tf_checkpoint import (
    TFCheckpointError,
    checkpoint_prefix,
    read_tf_checkpoint,
)
from video_ssl.models.networks.r3d import R3D
from video_ssl.models.networks.r3d_bridge import tf_layer_names
from video_ssl.models.networks.r3d_config import R3DConfig
from video_ssl.models.weights import WeightsError

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
LEAVES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def network(**changes):
    settings = {"preset": None, "blocks": (2, 1, 3, 1), "filters": (4, 6, 8, 10), "stem_width": 8}
    torch.manual_seed(1)
    encoder = R3D(R3DConfig(**{**settings, **changes}))
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and "conv" not in name:
            value.uniform_(0.5, 1.5)
    return encoder.eval()


def tf_arrays(encoder, *, named=False):
    """The weights under TensorFlow's names (which golden files check) and with its axes."""
    names = {ours: theirs for theirs, ours in tf_layer_names(encoder.config, named).items()}
    arrays = {}
    for key, value in encoder.state_dict().items():
        layer, _, leaf = key.rpartition(".")
        array = value.numpy()
        if leaf == "num_batches_tracked":
            continue
        if array.ndim == 5:
            array, leaf = np.moveaxis(array, (0, 1), (4, 3)), "kernel"
        elif array.ndim == 2:
            leaf = "kernel"
            array = array.T[None, None] if "se_" in layer else array.T[None, None, None]
        elif "norm" in layer:
            leaf = LEAVES[leaf]
        arrays[f"{names[layer]}/{leaf}"] = array
    return arrays


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, False),
        ({"stem": "v1", "se_ratio": 0.25, "self_gating": True}, False),
        ({"second_branch": True}, True),
    ],
)
def test_a_checkpoint_becomes_an_encoder_folder(tmp_path, changes, named):
    encoder = network(**changes)
    arrays = {f"backbone/{k}{SUFFIX}": v for k, v in tf_arrays(encoder, named=named).items()}
    stem = next(k for k in arrays if "stem" in k or "weights-0/kernel" in k)
    slot = stem.replace(SUFFIX, f"/.OPTIMIZER_SLOT/optimizer/momentum{SUFFIX}")
    others = {
        slot: np.zeros_like(arrays[stem]),
        f"save_counter{SUFFIX}": np.array(3, np.int64),
        f"optimizer/iter{SUFFIX}": np.array(3, np.int64),
        "global_step": np.array(3, np.int64),
        f"head/kernel{SUFFIX}": np.ones((4, 2), np.float32),
    }
    (tmp_path / "tf").mkdir()
    write_checkpoint(tmp_path / "tf" / "ckpt-1", {**arrays, **others})
    sizes = Sizes(num_frames=8, image_size=32)
    done = convert(tmp_path / "tf", tmp_path / "encoder", family="cvrl", sizes=sizes)
    # Was wrong: the list of what was left out was empty, whatever heads the file held.
    assert done.report.unused == (f"head/kernel{SUFFIX}",)
    found = load_encoder(tmp_path / "encoder")
    config = {**vars(found.config), "num_frames": None, "moving_variance": "biased"}
    assert config == vars(encoder.config)
    video = torch.rand(2, 3, 8, 32, 32)
    torch.testing.assert_close(found.features(video), encoder.features(video))
    assert found.preprocess.mean == (0, 0, 0)
    assert found.preprocess.std == (1, 1, 1)


@pytest.mark.parametrize(("family", "mean"), [("cvrl", 0.0), ("const_cl", 0.5)])
def test_the_command_reads_a_checkpoint_whose_family_is_said(tmp_path, family, mean):
    encoder = network()
    arrays = {f"backbone/{k}{SUFFIX}": v for k, v in tf_arrays(encoder).items()}
    (tmp_path / "tf").mkdir()
    write_checkpoint(tmp_path / "tf" / "ckpt-1", arrays)
    sizes = Sizes(num_frames=8, image_size=32)
    convert(tmp_path / "tf", tmp_path / "e", family=family, sizes=sizes, frame_stride=3)
    found = load_encoder(tmp_path / "e")
    assert found.preprocess.mean == (mean,) * 3
    assert (found.preprocess.size, found.preprocess.frame_stride) == (32, 3)
    video = torch.rand(1, 3, 8, 32, 32)
    torch.testing.assert_close(found.features(video), encoder.features(video))


def test_groups_of_equal_filters_must_be_told(tmp_path):
    encoder = network(filters=(4, 6, 8, 8), blocks=(1, 1, 1, 1))
    write_checkpoint(tmp_path / "ckpt", tf_arrays(encoder))
    with pytest.raises(
        WeightsError, match=r"filters \[4, 6, 8, 8\] are not four groups: give blocks="
    ):
        load_tf_r3d(tmp_path)
    found, report = load_tf_r3d(tmp_path, blocks=(1, 1, 1, 1))
    assert report.share == 1
    video = torch.rand(1, 3, 4, 32, 32)
    torch.testing.assert_close(found.eval()(video), encoder(video))


def test_a_weight_that_lacks_is_named(tmp_path):
    arrays = tf_arrays(network())
    del arrays["layer_with_weights-3/_norm2/gamma"]
    write_checkpoint(tmp_path / "ckpt", arrays)
    with pytest.raises(WeightsError, match=r"res2_block1\.norm2\.weight"):
        load_tf_r3d(tmp_path)


def test_another_model_is_named(tmp_path):
    write_checkpoint(tmp_path / "ckpt", {"model/dense/kernel": np.ones((2, 2), np.float32)})
    with pytest.raises(WeightsError, match="no backbone of the family R3D"):
        load_tf_r3d(tmp_path)


def test_all_numbers_are_read(tmp_path):
    arrays = {
        f"group/with/a/long/name/{i}": np.full((i + 1, 2), i, dtype)
        for i, dtype in enumerate(["float32", "float64", "int32", "int64"] * 3)
    }
    write_checkpoint(tmp_path / "ckpt-7", arrays, per_block=2)
    found = read_tf_checkpoint(tmp_path / "ckpt-7.data-00000-of-00001")
    assert found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_cut_index_is_refused(tmp_path, cut):
    write_checkpoint(tmp_path / "ckpt", {"a/b": np.ones(3, np.float32)})
    index = tmp_path / "ckpt.index"
    index.write_bytes(index.read_bytes()[:cut])
    with pytest.raises(TFCheckpointError, match="is cut"):
        read_tf_checkpoint(tmp_path / "ckpt")


def test_every_changed_byte_of_an_index_is_an_error_of_ours_or_harmless(tmp_path):
    write_checkpoint(tmp_path / "ckpt", {"a/b": np.ones(3, np.float32), "a/c": np.ones((2, 2))})
    index = tmp_path / "ckpt.index"
    whole = index.read_bytes()
    refused = 0
    for place in range(len(whole)):
        index.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_tf_checkpoint(tmp_path / "ckpt")
        except TFCheckpointError:
            refused += 1
    assert refused > len(whole) // 3


def test_cut_and_missing_data_are_named(tmp_path):
    write_checkpoint(tmp_path / "ckpt", {"a/b": np.ones(300, np.float32)})
    data = tmp_path / "ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(
        TFCheckpointError, match=r"is cut: a/b ends at byte 1,200, the file has 100"
    ):
        read_tf_checkpoint(tmp_path / "ckpt")
    data.unlink()
    with pytest.raises(TFCheckpointError, match="is missing: download all files"):
        read_tf_checkpoint(tmp_path / "ckpt")


def test_a_checkpoint_is_found_by_any_of_its_names(tmp_path):
    with pytest.raises(TFCheckpointError, match="holds 0 TensorFlow checkpoints"):
        checkpoint_prefix(tmp_path)
    with pytest.raises(TFCheckpointError, match=r"there is no ckpt\.index"):
        checkpoint_prefix(tmp_path / "ckpt")
    write_checkpoint(tmp_path / "ckpt", {"a/b": np.ones(3, np.float32)})
    for name in ("", "ckpt", "ckpt.index", "ckpt.data-00000-of-00001"):
        assert checkpoint_prefix(tmp_path / name) == tmp_path / "ckpt"
