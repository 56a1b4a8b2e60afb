"""Color operations against the numbers of the references."""

import math
from dataclasses import replace

import pytest
import torch

from video_ssl.clips import color_changes as parameters
from video_ssl.models import color_changes


def row(**values):
    made = parameters.unchanged()
    for name, value in values.items():
        made[getattr(parameters, name)] = value
    return torch.from_numpy(made)[None]


@pytest.mark.golden("hico/color_ops")
def test_operations_of_hico(golden):
    law = parameters.LAWS["hico"]
    assert list(law.grey) == golden.settings["grey_weights"]
    x = golden.tensor("clip_uint8").permute(3, 0, 1, 2)[None].float() / 255
    for name in ("brightness", "contrast", "saturation", "hue"):
        found = [
            color_changes.apply_color(x, row(**{name.upper(): factor}), law)[0]
            for factor in golden.settings[name]
        ]
        golden.check(name, torch.stack(found))
    golden.check("gray", color_changes.apply_color(x, row(GREY=1), law)[0])
    # The reference's "blur" has a kernel of one pixel; here that is no blur.
    golden.check("blur_kernel1", x[0])


def brighter(x, factor, law):
    """Brightness without the cut to [0, 1] that ends every view: of a clip so dark that nothing is cut."""
    dark = 2.0 ** -math.ceil(math.log2(max(1.0, factor)))
    return color_changes.apply_color(x * dark, row(BRIGHTNESS=factor), law) / dark


@pytest.mark.golden("const_cl/augment_ops")
def test_operations_of_cvrl(golden):
    settings, law = golden.settings, parameters.LAWS["cvrl"]
    assert list(law.grey) == settings["grey_weights"]
    assert settings["chain_over"] == ["brightness", "contrast", "saturation", "hue"]
    x = golden.tensor("clip").permute(3, 0, 1, 2)[None]

    def check(name, found):
        golden.check(f"out_{name}", found[0].permute(1, 2, 3, 0))

    factors = {name: float(golden[name]) for name in settings["chain_over"]}
    single = {
        "brightness": brighter(x, factors["brightness"], law),
        "contrast": color_changes.adjust_contrast(
            x, factors["contrast"], replace(law, cut_each=False)
        ),
        "saturation": color_changes.adjust_saturation(x, factors["saturation"], law),
        "hue": color_changes.shift_hue(x, factors["hue"]),
    }
    for name, found in single.items():
        check(name, found)
        # The same through a view's parameters, which end in [0, 1].
        whole = color_changes.apply_color(x, row(**{name.upper(): factors[name]}), law)
        torch.testing.assert_close(whole, found.clamp(0, 1), atol=2e-6, rtol=0)
    check("gray", color_changes.apply_color(x, row(GREY=1), law))
    assert settings["solarize_threshold"] == 0.5
    check("solarize", color_changes.apply_color(x, row(SOLARIZE=1), law))
    sigma = torch.tensor([settings["sigma"]])
    check("blur", color_changes.blur(x, sigma, law, settings["blur_radius"]))
    chain = row(**{name.upper(): factor for name, factor in factors.items()})
    chain[0, parameters.ORDER] = torch.tensor(settings["chain_order"]).float()
    check("jitter_chain", color_changes.apply_color(x, chain, law))
