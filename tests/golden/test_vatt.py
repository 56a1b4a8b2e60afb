"""VATT against the numbers of its reference: what the optimizer needs so far."""

import numpy as np
import pytest

from video_ssl.pretrain.schedules import SCHEDULES


@pytest.mark.golden("vatt/misc", cases=lambda settings: "peak" in settings)
def test_learning_rates(golden_case):
    settings = golden_case.settings
    rates = SCHEDULES["cosine_once"].rates(
        settings["total_steps"],
        base_lr=settings["peak"],
        min_lr=settings["end"],
        warmup_lr=0.0,
        warmup_steps=settings["warmup_steps"],
        steps_per_epoch=1.0,
    )
    # The reference is asked for its end too, which no step has.
    golden_case.check("lr", np.append(rates, settings["end"])[golden_case["step"]])
