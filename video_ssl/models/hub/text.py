"""A tower of texts of `transformers`, and how it reads: texts in, vectors in the space of its images out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from video_ssl.models.contract import CLIP, COMMON_TEXT
from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.hub.config import HubTextConfig
from video_ssl.models.hub.folder import HubFolder
from video_ssl.models.hub.library import empty_model, library, quiet
from video_ssl.models.preprocess_config import Modality, TokenizerPreprocess
from video_ssl.models.torch_encoder import TorchEncoder

#: Files that hold the words of a tokenizer.
_TOKENIZERS = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model")


class HubText(TorchEncoder, nn.Module):
    """A tower of texts; see `HubTextConfig` for its settings.  It gives "common_text" (B, D'), the library's
    `get_text_features`, which is its "clip" too.

    Raises:
        ImportError: transformers is not installed.
    """

    modality: Modality = "text"
    output_names = (CLIP, COMMON_TEXT)
    config: HubTextConfig

    def __init__(self, config: HubTextConfig) -> None:
        super().__init__()
        self.config = config
        self.model = empty_model(config.family, config.settings)
        self.embed_dim = config.width

    def forward(self, ids: Tensor) -> Tensor:
        """Returns (B, D') for tokens, int64 (B, L)."""
        found = self.model(input_ids=ids)
        vector = (
            found.text_embeds if self.config.family.common == "projected" else found.pooler_output
        )
        assert isinstance(vector, Tensor)
        return vector

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns "common_text" (B, D') and the same as "clip", for tokens, int64 (B, L)."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        if inputs.dtype != torch.int64 or inputs.dim() != 2 or inputs.shape[1] > self.config.length:
            raise ValueError(
                f"text is {inputs.dtype} {tuple(inputs.shape)}, but must be int64 with two axes, a text of at most "
                f"{self.config.length} tokens in each row: encoder.preprocess.ids([...]) makes it."
            )
        vector = self.forward(inputs)
        return dict.fromkeys(names, vector)

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (0,): a text has no moments."""
        return np.zeros(0)


def read_tokenizer(folder: HubFolder, config: HubTextConfig) -> TokenizerPreprocess:
    """Returns how texts are made for a tower.

    Raises:
        EncoderError: the folder has no tokenizer that can be read, or one that needs code of its own.
    """
    settings = folder.json("tokenizer_config.json") or {}
    if "auto_map" in settings:
        raise EncoderError(
            f"{folder.path / 'tokenizer_config.json'} asks for code of its own (auto_map), which is never run."
        )
    if not any((folder.path / name).is_file() for name in _TOKENIZERS):
        # Of a folder without, the library makes one that knows three words.
        raise EncoderError(
            f"{folder.path} has no tokenizer, so it cannot be asked by text: expected {' or '.join(_TOKENIZERS)}. "
            "Save the tokenizer of the model beside it (AutoTokenizer, save_pretrained)."
        )
    try:
        with quiet():
            tokenizer = library().AutoTokenizer.from_pretrained(
                str(folder.path), local_files_only=True, trust_remote_code=False
            )
    except ImportError:
        raise
    except Exception as err:  # of several libraries, about what they read
        said = " ".join(str(err).split())[:300]
        raise EncoderError(
            f"{folder.path} has no tokenizer that can be read, so it cannot be asked by text ({said}). Save the "
            "tokenizer of the model beside it (AutoTokenizer, save_pretrained)."
        ) from err
    if tokenizer.pad_token is None:
        raise EncoderError(
            f"the tokenizer in {folder.path} has no pad_token to fill up short texts with."
        )
    return TokenizerPreprocess(tokenizer=tokenizer, length=config.length)
