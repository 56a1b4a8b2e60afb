"""Color parameters: what is drawn, how often, and what a plan puts into a sample."""

import numpy as np
import pytest

from video_ssl.clips import color_changes
from video_ssl.clips.config import COLOR_PRESETS, ColorConfig
from video_ssl.recipes import ConfigError, build_config, to_plain

LAWS = sorted(COLOR_PRESETS)


def draws(config, count=4000, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([color_changes.sample_color(config, rng) for _ in range(count)])


def test_every_law_has_operations_and_defaults():
    assert set(color_changes.LAWS) == set(COLOR_PRESETS)


@pytest.mark.parametrize("law", LAWS)
def test_amounts_fill_their_ranges_and_events_happen_as_often_as_asked(law):
    config = ColorConfig(law=law)
    rows = draws(config)
    assert rows.dtype == np.float32
    assert (np.sort(rows[:, color_changes.ORDER], axis=1) == np.arange(4)).all()
    for place, name in (
        (color_changes.BRIGHTNESS, "brightness"),
        (color_changes.CONTRAST, "contrast"),
        (color_changes.SATURATION, "saturation"),
    ):
        strength = config.setting(name)
        low, high = max(0.0, 1 - strength), 1 + strength
        found = rows[:, place]
        assert found.min() == pytest.approx(low, abs=0.01)
        assert found.max() == pytest.approx(high, abs=0.01)
        if strength:
            changed = found[found != 1]
            assert len(changed) / len(rows) == pytest.approx(config.probability, abs=0.03)
            assert changed.mean() == pytest.approx((low + high) / 2, abs=0.03)
    for place, name in ((color_changes.HUE, "hue"), (color_changes.OFFSET, "offset")):
        assert np.abs(rows[:, place]).max() == pytest.approx(config.setting(name), rel=0.01)
        assert rows[:, place].mean() == pytest.approx(0, abs=0.01)
    jitter = config.probability
    for place, chance in (
        (color_changes.GREY, config.grey_probability),
        (color_changes.GREY_FIRST, config.grey_first_probability),
        (color_changes.BLUR, config.blur_probability),
        (color_changes.BLUR_EACH, config.blur_each_probability * jitter),
        (color_changes.SOLARIZE, config.solarize_probability),
    ):
        assert (rows[:, place] > 0).mean() == pytest.approx(chance, abs=0.03)
    sigma = rows[:, [color_changes.BLUR, color_changes.BLUR_EACH]]
    sigma = sigma[sigma > 0]
    if len(sigma):
        assert sigma.min() >= np.float32(0.1)
        assert sigma.max() <= 2.0


def test_orders_are_equally_likely_unless_fixed():
    orders = draws(ColorConfig(law="hico"))[:, color_changes.ORDER].astype(int)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert counts.min() > 100
    fixed = draws(ColorConfig(law="vatt"), 50)[:, color_changes.ORDER]
    assert (fixed == [0, 2, 1, 3]).all()  # brightness, saturation, contrast, hue
    own = draws(ColorConfig(law="hico", order=(3, 2, 1, 0)), 5)[:, color_changes.ORDER]
    assert (own == [3, 2, 1, 0]).all()


def test_one_setting_does_not_shift_the_draws_of_others():
    plain = draws(ColorConfig(law="hico"), 40)
    other = draws(ColorConfig(law="hico", grey_probability=0.0, blur_probability=1.0), 40)
    same = [
        p
        for p in range(color_changes.NUM_PARAMETERS)
        if p not in (color_changes.GREY, color_changes.BLUR)
    ]
    assert np.array_equal(plain[:, same], other[:, same])
    assert not other[:, color_changes.GREY].any()
    assert other[:, color_changes.BLUR].all()


def test_nothing_asked_for_is_nothing_changed():
    config = ColorConfig(law="hico", probability=0.0, grey_probability=0.0)
    keep = slice(4, None)
    assert (draws(config, 20)[:, keep] == color_changes.unchanged()[keep]).all()


def test_fields_of_a_sample():
    rng = np.random.default_rng(0)
    assert color_changes.color_fields(None, 3, rng) == {}
    assert rng.random() == np.random.default_rng(0).random()  # no color, no draw
    fields = color_changes.color_fields(ColorConfig(), 3, np.random.default_rng(0))
    assert fields["color"].shape == (3, color_changes.NUM_PARAMETERS)
    assert len({row.tobytes() for row in fields["color"]}) == 3
    again = color_changes.color_fields(ColorConfig(), 3, np.random.default_rng(0))
    assert np.array_equal(fields["color"], again["color"])


def test_a_filled_config_comes_back_from_a_recipe():
    config = ColorConfig(law="cvrl_second", hue=0.1)
    assert config.solarize_probability == 0.2
    assert config.hue == 0.1
    assert build_config(ColorConfig, to_plain(config)) == config


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"law": "moco"}, "Input should be 'hico'"),
        ({"hue": 0.6}, "at most 0.5, half a turn"),
        ({"brightness": -0.1}, "brightness=-0.1 must not be negative"),
        ({"grey_probability": 1.2}, r"grey_probability=1.2 must lie in \[0, 1\]"),
        ({"blur_sigma": [0, 1]}, "blur_sigma"),
        ({"order": [0, 1, 2, 2]}, r"must hold 0 \(brightness\)"),
        ({"contrst": 1}, "Did you mean 'contrast'"),
    ],
)
def test_refused_settings_say_why(settings, text):
    with pytest.raises(ConfigError, match=text):
        build_config(ColorConfig, settings, "color")


def test_tcc_changes_brightness_and_contrast_alone():
    """Brightness by up to 32 of 255 levels, then contrast by up to a half, always, and nothing else."""
    drawn = draws(ColorConfig(law="tcc"), count=400)
    assert (drawn[:, color_changes.ORDER] == [0, 1, 2, 3]).all()
    for place, strength in ((color_changes.BRIGHTNESS, 32 / 255), (color_changes.CONTRAST, 0.5)):
        assert np.abs(drawn[:, place] - 1).max() <= strength + 1e-6
        assert drawn[:, place].std() == pytest.approx(strength / np.sqrt(3), rel=0.1)
    rest = drawn.copy()
    rest[:, [color_changes.BRIGHTNESS, color_changes.CONTRAST]] = 1
    assert (rest == color_changes.unchanged()).all()
