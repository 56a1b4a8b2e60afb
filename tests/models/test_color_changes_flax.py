"""Color in jax is color in torch: the same parameters give the same pixels to 1e-5, for every law."""

import functools

import jax
import numpy as np
import pytest
import torch

from video_ssl.clips.color_changes import LAWS, NUM_PARAMETERS, sample_color, unchanged
from video_ssl.clips.config import ColorConfig
from video_ssl.models import color_changes, color_changes_flax
from video_ssl.models.config import Normalization

#: Everything happens often, so that a dozen views see all of it.
OFTEN = {
    "probability": 1.0,
    "brightness": 0.5,
    "contrast": 0.7,
    "saturation": 0.9,
    "hue": 0.3,
    "offset": 0.1,
    "grey_probability": 0.2,
    "grey_first_probability": 0.2,
    "blur_probability": 0.5,
    "blur_each_probability": 0.3,
    "solarize_probability": 0.4,
}


def videos(count):
    # 40 rows give a blur of five taps; grey pixels and ties of two colors are hard for HSV.
    x = np.random.default_rng(0).integers(0, 256, (count, 2, 40, 24, 3), np.uint8)
    x[:, :, :4] = x[:, :, :4, :, :1]
    x[:, :, 4:8, :, 1] = x[:, :, 4:8, :, 0]
    x[:, :, 8:10] = 0
    return x


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("law", {value: name for name, value in LAWS.items()}.values())
def test_every_law_is_the_same_in_torch_and_in_jax(law, one_by_one):
    rng = np.random.default_rng(1)
    config = ColorConfig(law=law, **OFTEN)
    rows = np.stack([unchanged()] + [sample_color(config, rng) for _ in range(11)])
    pixels = videos(len(rows)).astype(np.float32) / 255
    change = functools.partial(color_changes_flax.apply_color, law=law, one_by_one=one_by_one)
    found = jax.jit(change)(pixels, rows)
    clip = torch.from_numpy(pixels).permute(0, 4, 1, 2, 3)
    wanted = (
        color_changes.apply_color(clip, torch.from_numpy(rows), law).permute(0, 2, 3, 4, 1).numpy()
    )
    assert np.abs(wanted - pixels).max() > 0.1
    # Where a value is 0.5 up to rounding, solarization may go either way.
    near = np.abs(wanted - 0.5) < 1e-5
    np.testing.assert_allclose(np.where(near, 0, found), np.where(near, 0, wanted), atol=1e-5)
    np.testing.assert_array_equal(found[0], pixels[0])


@pytest.mark.parametrize("color", [None, ColorConfig(law="cvrl_second")])
def test_the_input_of_the_model_is_the_same(color):
    video = videos(6).reshape(3, 2, 2, 40, 24, 3)
    parameters = None
    if color is not None:
        rng = np.random.default_rng(3)
        rows = [[sample_color(color, rng) for _ in range(2)] for _ in range(3)]
        parameters = np.array(rows, np.float32).reshape(3, 2, NUM_PARAMETERS)
    normalization = Normalization()
    found = jax.jit(lambda v, p: color_changes_flax.augmented_input(v, p, normalization, color))(
        video, parameters
    )
    assert found.shape == video.shape
    tensors = [None if x is None else torch.from_numpy(x) for x in (video, parameters)]
    wanted = color_changes.augmented_input(*tensors, normalization, color).permute(0, 2, 3, 4, 1)
    np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=5e-5)


@pytest.mark.parametrize("devices", [1, 8])
def test_one_cpu_takes_the_views_one_by_one_and_a_mesh_takes_all_at_once(devices, monkeypatch):
    # On one CPU every view went through all sixteen operations: 40 % of a training step of CVRL.
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    pixels, rows = jax.numpy.ones((4, 2, 8, 8, 3)), jax.numpy.stack([unchanged()] * 4)
    program = str(
        jax.make_jaxpr(lambda x, p: color_changes_flax.apply_color(x, p, "cvrl"))(pixels, rows)
    )
    assert ("scan" in program) == (devices == 1)


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("law", ["cvrl", "carl"])
def test_blurs_that_no_view_asks_for_may_be_left_out(law, one_by_one):
    rng = np.random.default_rng(2)
    config = ColorConfig(law=law, **OFTEN | {"blur_probability": 0.0, "blur_each_probability": 0.0})
    rows = np.stack([sample_color(config, rng) for _ in range(6)])
    pixels = videos(6).astype(np.float32) / 255
    change = functools.partial(color_changes_flax.apply_color, law=law, one_by_one=one_by_one)
    spared = change(pixels, rows, blur_each=False, blur_last=False)
    np.testing.assert_allclose(spared, change(pixels, rows), atol=1e-6)


def test_parameters_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="do not belong together"):
        color_changes_flax.apply_color(
            np.zeros((2, 1, 4, 4, 3)), np.zeros((3, NUM_PARAMETERS)), "cvrl"
        )
