"""A network that helps and never learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from video_ssl.objectives.shared.frozen import FrozenNetwork


class Doubling(FrozenNetwork):
    def compute(self, inputs: Tensor) -> Tensor:
        return self.module(inputs)


def test_no_gradient_goes_through_a_frozen_network_not_even_to_its_inputs() -> None:
    network = Doubling(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train())
    inputs = torch.ones(4, 3, requires_grad=True)
    found = network(inputs)
    assert not found.requires_grad
    assert not any(p.requires_grad for p in network.module.parameters())
    torch.testing.assert_close(network(inputs), found, rtol=0, atol=0)  # no dropout
