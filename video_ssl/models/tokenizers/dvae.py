"""The encoder of OpenAI's discrete VAE (DALL-E): what BEiT and BEVT take their tokens from.

Source: papers/bevt.md section 10 (the code of openai/DALL-E).  Names of parameters are those of its files, `blocks.*`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.tokenizers.config import DalleConfig
from video_ssl.models.tokenizers.pictures import PictureTokenizer

#: Pixels in [0, 1] are squeezed into [EPS, 1 - EPS], which the logit-Laplace likelihood needs.
EPS = 0.1
GROUPS = 4


class Conv(nn.Module):
    """A convolution of odd kernel with zeros around, its parameters called `w` and `b`."""

    def __init__(self, width_in: int, width_out: int, kernel: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(width_out, width_in, kernel, kernel))
        self.b = nn.Parameter(torch.zeros(width_out))
        nn.init.normal_(self.w, std=1 / math.sqrt(width_in * kernel**2))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding=self.w.shape[-1] // 2)


class Residual(nn.Module):
    """id(x) + gain * four convolutions, a ReLU before each; `id` is 1x1 where the width changes."""

    def __init__(self, width_in: int, width_out: int, gain: float) -> None:
        super().__init__()
        hidden = width_out // 4
        self.gain = gain
        self.id_path = Conv(width_in, width_out, 1) if width_in != width_out else nn.Identity()
        widths = (
            (width_in, hidden, 3),
            (hidden, hidden, 3),
            (hidden, hidden, 3),
            (hidden, width_out, 1),
        )
        self.res_path = nn.ModuleDict({f"conv_{i}": Conv(*w) for i, w in enumerate(widths, 1)})

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.res_path.values():
            y = conv(F.relu(y))
        return self.id_path(x) + self.gain * y


class DalleEncoder(PictureTokenizer):
    """Four groups of residual blocks with a pool of 2 between them, then one logit for each word; `DalleConfig` has its
    settings.  As an encoder its vectors are what the logits are made of."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        width, blocks_per_group = config.width, config.blocks_per_group
        self.embed_dim, self.vocab_size, self.num_frames = 8 * width, config.vocab_size, 1
        gain = 1 / (GROUPS * blocks_per_group) ** 2
        widths = [width, *(width * 2**i for i in range(GROUPS))]
        blocks: dict[str, nn.Module] = {"input": Conv(3, width, 7)}
        for group in range(1, GROUPS + 1):
            before, after = widths[group - 1], widths[group]
            inside = [before, *[after] * blocks_per_group]
            blocks[f"group_{group}"] = nn.ModuleDict({
                f"block_{i + 1}": Residual(inside[i], inside[i + 1], gain) for i in range(blocks_per_group)
            })  # fmt: skip
        blocks["output"] = nn.ModuleDict({"conv": Conv(widths[-1], config.vocab_size, 1)})
        self.blocks = nn.ModuleDict(blocks)

    def latents(self, pictures: Tensor) -> Tensor:
        x = self.blocks["input"](squeezed(pictures))
        for group in range(1, GROUPS + 1):
            inside = self.blocks[f"group_{group}"]
            assert isinstance(inside, nn.ModuleDict)
            for block in inside.values():
                x = block(x)
            if group < GROUPS:
                x = F.max_pool2d(x, 2)
        return F.relu(x)

    def logits(self, pictures: Tensor) -> Tensor:
        """Returns (N, vocab_size, S / 8, S / 8) for pictures in [0, 1]."""
        output = self.blocks["output"]
        assert isinstance(output, nn.ModuleDict)
        latents = self.latents(pictures)
        # In the reference too: in bfloat16 many cells have several largest logits.
        with torch.autocast(latents.device.type, enabled=False):
            found: Tensor = output["conv"](latents.float())
        return found

    def words(self, pictures: Tensor) -> Tensor:
        return self.logits(pictures).argmax(1)


def squeezed(pictures: Tensor) -> Tensor:
    """Returns pixels in [EPS, 1 - EPS] for those in [0, 1]."""
    return (1 - 2 * EPS) * pictures + EPS
