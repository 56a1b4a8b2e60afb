"""Colour operations against the numbers of the references.  Tolerances are those of the files' README."""

import torch

from video_ssl.clips import colour as parameters
from video_ssl.models import colour


def row(**values):
    made = parameters.unchanged()
    for name, value in values.items():
        made[getattr(parameters, name)] = value
    return torch.from_numpy(made)[None]


def test_operations_of_hico(golden, hico_colour):
    g = hico_colour
    x = g["clip_uint8"].permute(3, 0, 1, 2)[None].float() / 255
    for name, atol in (
        ("brightness", 1e-6),
        ("contrast", 1e-6),
        ("saturation", 1e-6),
        ("hue", 1e-5),
    ):
        for factor, expected in zip(g[f"{name}_f"].tolist(), g[name], strict=True):
            found = colour.apply_colour(x, row(**{name.upper(): factor}), "hico")
            golden.close(found[0], expected, atol)
    grey = colour.apply_colour(x, row(GREY=1), "hico")
    golden.close(grey[0], g["gray"], 1e-6)
    # The reference's "blur" has a kernel of one pixel; here that is no blur.
    golden.close(x[0], g["blur_kernel1"], 1e-6)


def test_operations_of_cvrl(golden, cvrl_colour):
    g = cvrl_colour
    x = g["clip"].permute(3, 0, 1, 2)[None]
    law = parameters.LAWS["cvrl"]

    def expected(name):
        return g[f"out_{name}"].permute(3, 0, 1, 2)

    for name in ("brightness", "contrast", "saturation", "hue"):
        found = colour.apply_colour(x, row(**{name.upper(): float(g[name])}), "cvrl")
        golden.close(found[0], expected(name).clamp(0, 1), 2e-6)
    golden.close(colour.apply_colour(x, row(GREY=1), "cvrl")[0], expected("gray"), 2e-6)
    golden.close(colour.apply_colour(x, row(SOLARIZE=1), "cvrl")[0], expected("solarize"), 2e-6)
    radius = int(g["blur_kernel_arg"]) // 2
    golden.close(colour.blur(x, g["sigma"].reshape(1), law, radius)[0], expected("blur"), 2e-6)
    chain = row(**{n.upper(): float(g[n]) for n in ("brightness", "contrast", "saturation", "hue")})
    chain[0, parameters.ORDER] = g["perm"].float()
    golden.close(colour.apply_colour(x, chain, "cvrl")[0], expected("jitter_chain"), 2e-6)
