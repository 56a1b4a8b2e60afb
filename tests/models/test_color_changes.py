"""Color on the device: against slow versions and against what must not change.

The numbers of the references are in tests/golden/test_color_changes.py.
"""

import colorsys

import numpy as np
import pytest
import torch

from video_ssl.clips import color_changes as parameters
from video_ssl.clips.config import ColorConfig
from video_ssl.models import color_changes
from video_ssl.models.config import Normalization
from video_ssl.models.preprocess import to_model_input

LAWS = sorted(parameters.LAWS)


def clips(n=3, t=2, h=12, w=14, seed=0):
    return torch.rand(n, 3, t, h, w, generator=torch.Generator().manual_seed(seed))


def rows(law, n, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack([parameters.sample_color(ColorConfig(law=law), rng) for _ in range(n)])
    )


def only(**values):
    row = parameters.unchanged()
    for name, value in values.items():
        row[getattr(parameters, name)] = value
    return torch.from_numpy(row)[None]


@pytest.mark.parametrize("law", LAWS)
def test_unchanged_parameters_change_no_bit(law):
    x = clips()
    row = torch.from_numpy(parameters.unchanged()).repeat(3, 1)
    assert torch.equal(color_changes.apply_color(x, row, law), x)
    assert torch.equal(color_changes._all_views(x, row, parameters.LAWS[law]), x)


@pytest.mark.parametrize("law", LAWS)
def test_the_way_of_a_device_equals_the_way_of_a_cpu(law):
    x, row = clips(32, 1), rows(law, 32)
    one_by_one = color_changes.apply_color(x, row, law)
    together = color_changes._all_views(x, row, parameters.LAWS[law])
    torch.testing.assert_close(together, one_by_one, atol=2e-6, rtol=0)
    assert one_by_one.min() >= 0
    assert one_by_one.max() <= 1
    assert (one_by_one - x).abs().mean() > 0.05


@pytest.mark.parametrize("law", LAWS)
def test_a_view_does_not_depend_on_its_neighbours_in_the_batch(law):
    x, row = clips(4), rows(law, 4, seed=3)
    whole = color_changes.apply_color(x, row, law)
    for i in range(4):
        assert torch.equal(
            color_changes.apply_color(x[i : i + 1], row[i : i + 1], law)[0], whole[i]
        )


@pytest.mark.parametrize("law", [law for law in LAWS if not law.startswith("cvrl")])
def test_frames_change_alike(law):
    still = clips(6, 1).expand(6, 3, 4, 12, 14)
    changed = color_changes.apply_color(still, rows(law, 6, seed=1), law)
    torch.testing.assert_close(changed, changed[:, :, :1].expand_as(changed), atol=1e-6, rtol=0)


def test_the_operations_follow_the_order():
    x = clips(1)
    first = only(BRIGHTNESS=0.5, CONTRAST=1.8)
    second = first.clone()
    second[0, parameters.ORDER] = torch.tensor([1.0, 0.0, 2.0, 3.0])
    law = parameters.LAWS["hico"]
    dark = (x * 0.5).clamp(0, 1)
    torch.testing.assert_close(
        color_changes.apply_color(x, first, "hico"), color_changes.adjust_contrast(dark, 1.8, law)
    )
    torch.testing.assert_close(
        color_changes.apply_color(x, second, "hico"),
        color_changes.adjust_contrast(x, 1.8, law) * 0.5,
    )


def test_only_some_laws_cut_between_the_operations():
    x = clips(1)
    row = only(OFFSET=0.4, CONTRAST=0.5)
    bright = x + 0.4
    per_frame = (-2, -1)
    uncut = bright.mean(per_frame, keepdim=True) * 0.5 + bright * 0.5
    torch.testing.assert_close(color_changes.apply_color(x, row, "vatt"), uncut.clamp(0, 1))
    cut = color_changes.adjust_contrast(bright.clamp(0, 1), 0.5, parameters.LAWS["hico"])
    torch.testing.assert_close(color_changes.apply_color(x, row, "hico"), cut)


@pytest.mark.parametrize("turns", [-0.5, -0.13, 0.2, 0.5])
def test_hue_equals_the_standard_library(turns):
    x = clips(1, 1, 5, 5)
    x[0, :, 0, 0, 0] = 0.4  # a grey has no hue
    found = color_changes.apply_color(x, only(HUE=turns), "hico")[0, :, 0]
    for i in range(5):
        for j in range(5):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, 0, i, j].tolist())
            expected = colorsys.hsv_to_rgb((h + turns) % 1, s, v)
            assert found[:, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def test_saturation_of_hsv_equals_the_standard_library():
    x = clips(1, 1, 5, 5)
    x[0, :, 0, 0, 0] = 0.0
    found = color_changes.apply_color(x, only(SATURATION=1.5), "cvrl")[0, :, 0]
    for i in range(5):
        for j in range(5):
            h, s, v = colorsys.rgb_to_hsv(*x[0, :, 0, i, j].tolist())
            expected = colorsys.hsv_to_rgb(h, min(1.5 * s, 1), v)
            assert found[:, i, j].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("law", ["simclr", "cvrl"])
def test_a_blur_keeps_the_inside_and_its_law_says_what_lies_beyond_the_border(law):
    flat = torch.ones(1, 3, 1, 40, 60)
    blurred = color_changes.apply_color(flat, only(BLUR=2.0), law)
    torch.testing.assert_close(blurred[..., 8:-8, 8:-8], flat[..., 8:-8, 8:-8])
    taps = np.exp(-(np.arange(-2, 3) ** 2) / 8)  # 5 taps for 40 rows
    kept = {"simclr": 1.0, "cvrl": taps[2:].sum() / taps.sum()}
    assert blurred[0, 0, 0, 20, 0].item() == pytest.approx(kept[law], abs=1e-6)


def test_a_blur_is_the_gaussian_of_its_sigma():
    x = torch.zeros(1, 3, 1, 61, 61)
    x[..., 30, 30] = 1
    law = parameters.LAWS["simclr"]
    spot = color_changes.blur(x, torch.tensor([1.3]), law, radius=9)[0, 0, 0].double()
    place = torch.arange(61) - 30.0
    assert spot.sum().item() == pytest.approx(1, abs=1e-5)
    assert (spot.sum(0) * place**2).sum().item() == pytest.approx(1.3**2, rel=1e-3)
    torch.testing.assert_close(spot, spot.T)


def test_greys_and_solarized():
    x = clips(1)
    bright = color_changes.apply_color(x, only(SOLARIZE=1.0), "cvrl_second")
    assert torch.equal(bright, torch.where(x >= 0.5, 1 - x, x))
    for when in ("GREY", "GREY_FIRST"):
        plain = color_changes.apply_color(x, only(**{when: 1.0}), "hico")
        assert torch.equal(plain[:, 0], plain[:, 2])
        expected = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
        torch.testing.assert_close(plain[:, 0], expected)


def test_half_precision_around_it_changes_nothing():
    x, row = clips(4), rows("simclr", 4)
    expected = color_changes.apply_color(x, row, "simclr")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(color_changes.apply_color(x, row, "simclr"), expected)


def test_one_graph_without_a_look_at_the_parameters():
    x, row = clips(2), rows("hico", 2)
    torch._dynamo.reset()
    compiled = torch.compile(color_changes.apply_color, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(x, row, "hico"), color_changes.apply_color(x, row, "hico"), atol=2e-6, rtol=0
    )


def test_the_input_of_an_objective():
    normalization = Normalization()
    video = torch.randint(0, 256, (2, 3, 4, 8, 8, 3), dtype=torch.uint8)
    color = rows("hico", 6).reshape(2, 3, -1)
    plain = color_changes.augmented_input(video, None, normalization, None)
    assert torch.equal(plain, to_model_input(video, normalization))
    changed = color_changes.augmented_input(video, color, normalization, ColorConfig(law="hico"))
    assert changed.shape == plain.shape
    for record, view in ((0, 2), (1, 0), (1, 2)):  # rows and views stay together
        here = video[record, view][None, None], color[record, view][None, None]
        alone = color_changes.augmented_input(*here, normalization, ColorConfig(law="hico"))
        assert torch.equal(changed[3 * record + view], alone[0])
    with pytest.raises(ValueError, match=r"changes colors, and the batch has no parameters"):
        color_changes.augmented_input(video, None, normalization, ColorConfig(law="hico"))


def test_parameters_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"do not belong together: give \(N, 3, T, H, W\)"):
        color_changes.apply_color(clips(3), rows("hico", 2), "hico")
