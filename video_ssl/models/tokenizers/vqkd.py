"""BEiT v2's tokenizer (VQ-KD): the tokens of a ViT, told by their nearest word.

Source: papers/bevt.md section 10 (arXiv:2208.06366 and its code, names of which are in `exchange/tokenizer_weights`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.networks.image_vit import ImageViT
from video_ssl.models.tokenizers.config import VQKDConfig
from video_ssl.models.tokenizers.pictures import PictureTokenizer


class VQKD(PictureTokenizer):
    """See `VQKDConfig` for its settings.  Its cells are patches of 16 pixels: it wants pictures twice as large as other
    tokenizers do.

    Attributes:
        codebook: (K, d), the words, of unit length.
    """

    codebook: Tensor

    def __init__(self, config: VQKDConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_dim, self.vocab_size, self.num_frames = config.dim, config.vocab_size, 1
        self.stride = config.vit.patch_size
        self.vit = ImageViT(config.vit)
        width = config.vit.width
        self.project = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.dim)
        )
        words = F.normalize(torch.randn(config.vocab_size, config.dim), dim=-1)
        self.register_buffer("codebook", words)

    def latents(self, pictures: Tensor) -> Tensor:
        frames = (2 * pictures - 1)[:, :, None]
        grid = self.vit.grid(frames)[1:]
        tokens = self.vit.tokens(frames)
        with torch.autocast(tokens.device.type, enabled=False):
            vectors = F.normalize(self.project(tokens.float()), dim=-1)
        return vectors.unflatten(1, grid).movedim(-1, 1)

    def words(self, pictures: Tensor) -> Tensor:
        vectors = self.latents(pictures).movedim(1, -1)
        with torch.autocast(vectors.device.type, enabled=False):
            return (vectors @ self.codebook.T).argmax(-1)
