"""A tower of `transformers` as an encoder: its tokens, their grid, and where they are in time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.contract import CLIP, COMMON_TEXT, MOMENTS, TOKENS
from video_ssl.models.hub.config import HubConfig
from video_ssl.models.hub.library import empty_model
from video_ssl.models.networks.token_features import TokenFeatures, tubelet_middles

Grid = tuple[int, int, int]
#: CLIP's tower without the layer behind it.
_WITHOUT_PROJECTION = "CLIPVisionModel"


class HubEncoder(TokenFeatures, nn.Module):
    """A tower of `transformers`; see `HubConfig` for its settings.

    Videos are float (B, 3, T, H, W), normalised.  A tower of images sees the frames one by one: "moments" are those of
    the frames, "clip" is their mean.  Tokens are those of the patches as the library gives them (`last_hidden_state`);
    class, distillation and register tokens are none of them.  `pooling="cls"` takes the class token, of CLIP and SigLIP
    what the library calls `pooler_output`.

    Towers that were trained with texts also give "common_text": the library's `get_image_features` of each frame at
    length 1, and their mean over the frames of the clip.

    Raises:
        ImportError: transformers is not installed.
    """

    config: HubConfig

    def __init__(self, config: HubConfig) -> None:
        super().__init__()
        self.config = config
        model = empty_model(config.family, config.settings, class_of(config))
        #: The library's own model.
        self.model: nn.Module = (
            getattr(model, config.family.trunk) if config.family.trunk else model
        )
        self.embed_dim = config.width
        self.frames_stand_alone = config.family.sees == "frames"
        self.num_prefix = int(config.family.pooled or config.family.first > 0)
        common = (COMMON_TEXT,) if config.common_width else ()
        self.output_names = (CLIP, MOMENTS, TOKENS, *common)
        self._blocks = _blocks(self.model, int(config.settings["num_hidden_layers"]))

    @property
    def num_blocks(self) -> int:
        return len(self._blocks)

    @property
    def num_frames(self) -> int:
        """Frames of the clips that it was made for; of single frames one is the least."""
        return self.config.num_frames or 1

    @property
    def num_layers(self) -> int:
        return len(self._blocks)

    def layer_of(self, name: str) -> int:
        """Returns how deep a parameter lies, see `TorchEncoder.layer_of`."""
        if "embeddings." in name:
            return 0
        block = re.search(r"\.layers?\.(\d+)\.", f".{name}")
        return self.num_layers + 1 if block is None else int(block[1]) + 1

    def check_outputs(
        self, names: Sequence[str], *, layer: int | None = None, pooling: str = "mean"
    ) -> None:
        super().check_outputs(names, layer=layer, pooling=pooling)
        if layer is None:
            return
        if COMMON_TEXT in names:
            raise ValueError(
                f"layer={layer}: only the encoder's own output has a {COMMON_TEXT}. Leave one of them out."
            )
        if pooling == "cls" and self.config.family.first == 0:
            raise ValueError(
                f"layer={layer} with pooling='cls': this encoder has no class token, only a head behind its last "
                "layer. Use mean or max."
            )

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        if name == COMMON_TEXT:
            self.check_outputs([name], layer=layer)
            return int(self.config.common_width or 0)
        return super().output_dim(name, cells=cells, layer=layer)

    def grid(self, video: Tensor) -> Grid:
        """Returns (t, h, w) of the tokens of a video (B, 3, T, H, W).

        Raises:
            ValueError: the clip does not divide into tokens, or the network takes one size only.
        """
        frames, height, width = video.shape[2:]
        patch, tubelet = self.config.patch_px, self.config.tubelet_size
        if height % patch or width % patch or frames % tubelet:
            raise ValueError(
                f"a clip of {frames} frames of {height}x{width} pixels does not divide into tokens of {tubelet} frames "
                f"of {patch}x{patch} pixels: give multiples."
            )
        side, family = self.config.side_px, self.config.family
        if family.sizes == "never" and (height, width) != (side, side):
            raise ValueError(
                f"frames of {height}x{width} pixels: {family.title} of transformers takes {side}x{side}. Scale frames "
                "to that."
            )
        if self.config.model_type == "videomae" and frames != self.num_frames:
            raise ValueError(
                f"a clip of {frames} frames: this VideoMAE of transformers takes {self.num_frames}. Leave num_frames "
                "out, or convert it (`video-ssl convert`), which makes positions for other clips."
            )
        return frames // tubelet, height // patch, width // patch

    def forward(self, video: Tensor) -> Tensor:
        """Returns the tokens, (B, L, D)."""
        return self.tokens(video)

    def tokens(self, video: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Returns (B, L, D).

        Raises:
            ValueError: `keep`: the library's towers see all of a clip.
        """
        if keep is not None:
            raise ValueError(
                "a tower of transformers sees all of a clip: it cannot keep only some tokens."
            )
        return self.layer_outputs(video)[1]

    def layer_outputs(self, video: Tensor, layer: int | None = None) -> tuple[Tensor, Tensor]:
        """Returns what stands for class tokens (B, P, D) and tokens (B, L, D); see `TokenFeatures`."""
        return self._seen(video, layer)[:2]

    def taps(self, video: Tensor, layer: int = -1) -> Tensor:
        """Returns (B, t, h*w, D) behind block `layer` (-1 = the last), BEFORE the final norm and without the class
        token: what a teacher gives."""
        t, h, w = self.grid(video)
        return self.layer_outputs(video, layer)[1].unflatten(1, (t, h * w))

    def outputs(
        self,
        inputs: Tensor,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Tensor]:
        """Returns the outputs of these names of one pass, see `TokenFeatures.outputs`; and "common_text" (B, D')."""
        self.check_outputs(names, layer=layer, pooling=pooling)
        self.check_input(inputs)
        prefix, tokens, pooled = self._seen(inputs, layer)
        of_tokens = [name for name in names if name != COMMON_TEXT]
        found = self.outputs_of_tokens(
            prefix, tokens, self.grid(inputs), of_tokens, cells=cells, pooling=pooling
        )
        if COMMON_TEXT in names:
            assert pooled is not None
            # Each frame counts alike, as where frames are searched one by one.
            found[COMMON_TEXT] = F.normalize(pooled.float(), dim=-1).mean(1)
        return {name: found[name] for name in names}

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): every frame, or the middle of each tubelet in units of sampled frames.

        Raises:
            ValueError: `num_frames` is not a multiple of the tubelet.
        """
        return tubelet_middles(num_frames, self.config.tubelet_size)

    def _seen(self, video: Tensor, layer: int | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class tokens (B, P, D), tokens (B, L, D), and vectors in the common space (B, T, D') where there is one."""
        self.grid(video)
        frames = self.frames_stand_alone
        # The library has time before color.
        inputs = video.transpose(1, 2)
        inputs = inputs.flatten(0, 1) if frames else inputs
        hidden, pooled, common = self._run(inputs, layer)
        first = self.config.num_first
        prefix, tokens = hidden[:, : min(first, 1)], hidden[:, first:]
        if pooled is not None and layer is None:
            prefix = pooled[:, None]
        if frames:
            prefix, tokens = (
                x.unflatten(0, (len(video), -1)).flatten(1, 2) for x in (prefix, tokens)
            )
            common = None if common is None else common.unflatten(0, (len(video), -1))
        return prefix, tokens, common

    def _run(
        self, inputs: Tensor, layer: int | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Last hidden states (N, P+L, D) or those behind a block, the library's pooled output, the common vector."""
        kept: list[Any] = []
        hook = None
        if (
            layer is not None
        ):  # asked of the block: what the library calls hidden states differs by version
            hook = self._blocks[layer].register_forward_hook(lambda _, __, out: kept.append(out))
        side = self.config.side_px
        moved = self.config.model_type == "vjepa2" and tuple(inputs.shape[-2:]) != (side, side)
        try:
            with places_told(self._blocks, inputs, self.config) if moved else nullcontext():
                found = self.model(**self._arguments(inputs))
        finally:
            if hook is not None:
                hook.remove()
        pooled = getattr(found, "pooler_output", None) if self.config.family.pooled else None
        common = pooled if self.config.family.common == "text" else None
        if self.config.projected:
            common = found.image_embeds
            # Not given beside the projected one; it is made of the class token by one norm.
            pooled = self.model.vision_model.post_layernorm(found.last_hidden_state[:, 0])  # type: ignore[union-attr, operator]
        hidden = found.last_hidden_state
        if kept:
            hidden = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
        return hidden, pooled, common if self.config.common_width else None

    def _arguments(self, inputs: Tensor) -> dict[str, Any]:
        family, side = self.config.family, self.config.side_px
        if self.config.model_type == "siglip2_vision_model":
            return _patches(inputs, self.config.patch_px)
        given: dict[str, Any] = {family.argument: inputs}
        if family.sizes == "asked" and tuple(inputs.shape[-2:]) != (side, side):
            given["interpolate_pos_encoding"] = True
        return given


@contextmanager
def places_told(blocks: Sequence[Any], clips: Tensor, config: HubConfig) -> Iterator[None]:
    """Tells the blocks of V-JEPA 2 where the tokens of clips (B, T, 3, H, W) are, whose frames have another size than
    those it was made for: like its own code, and unlike the library, which counts in rows of the trained size."""
    t, h, w = (
        clips.shape[1] // config.tubelet_size,
        clips.shape[3] // config.patch_px,
        clips.shape[4] // config.patch_px,
    )
    row = max(h, w)  # of a square grid that holds the frame
    grid = torch.arange(t * row * row, device=clips.device).reshape(t, row, row)
    places = grid[:, :h, :w].flatten().expand(len(clips), -1)
    before = [block.attention.grid_size for block in blocks]
    hooks = [
        block.register_forward_pre_hook(lambda _, given: (given[0], places)) for block in blocks
    ]
    try:
        for block in blocks:
            block.attention.grid_size = row
        yield
    finally:
        for block, size, hook in zip(blocks, before, hooks, strict=True):
            block.attention.grid_size = size
            hook.remove()


def class_of(config: HubConfig) -> str:
    """Returns the name of the library's class of a tower."""
    alone = config.family.common == "projected" and not config.projected
    return _WITHOUT_PROJECTION if alone else config.family.model


def _blocks(model: nn.Module, depth: int) -> list[nn.Module]:
    """The blocks of the library's model: its only list of modules that is as long as it is deep."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    assert len(lists) == 1, f"{type(model).__name__} has {len(lists)} lists of {depth} modules"
    return list(lists[0])


def _patches(frames: Tensor, patch: int) -> dict[str, Tensor]:
    """What NaFlex takes of frames (N, 3, H, W): rows of pixels of each patch, colors innermost, and the grid."""
    n, _, height, width = frames.shape
    h, w = height // patch, width // patch
    cut = frames.reshape(n, 3, h, patch, w, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": cut.reshape(n, h * w, -1),
        "pixel_attention_mask": torch.ones(n, h * w, dtype=torch.int64, device=frames.device),
        "spatial_shapes": torch.tensor([[h, w]], device=frames.device).expand(n, 2),
    }
