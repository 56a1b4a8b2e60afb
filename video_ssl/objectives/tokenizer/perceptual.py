"""How far pictures made again are from the true ones in the eyes of a frozen network.

Source: PeCo's idea (papers/bevt.md section 11 A); the distance is our own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from video_ssl.models.config import Normalization
from video_ssl.models.contract import TOKENS
from video_ssl.models.exchange.published import load_teacher
from video_ssl.models.preprocess import normalize
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.objectives.shared.frozen import FrozenNetwork
from video_ssl.objectives.tokenizer.config import PerceptualConfig

#: Side of the pictures and frames of a clip for which a published file is opened, which says neither.
_FILE_PX, _FILE_FRAMES = 224, 16


class PerceptualNetwork(FrozenNetwork):
    """Features of pictures, float (N, 3, S, S) in [0, 1]: of every layer asked for float32 (N, L, D), of length 1.

    Pictures are scaled to the side that the network was made for and normalised as it was trained.  They are scaled
    whole, also where its own preprocessing would cut out the middle: no rim may be left out of the comparison.

    Args:
        module: an encoder of video that gives tokens, as `load_encoder` returns it.
        config: which layers, and at what side.
        preprocess: how clips are made for it.

    Raises:
        TypeError: it sees something else than video, or gives no tokens.
        ValueError: a layer that it does not have, or a side that does not divide into tokens.
    """

    def __init__(
        self, module: nn.Module, config: PerceptualConfig, preprocess: VideoPreprocess
    ) -> None:
        super().__init__(module)
        self.weight = config.weight
        self.layers: tuple[int | None, ...] = config.layers or (None,)
        self.size = config.size or preprocess.size
        self.normalization = Normalization(mean=preprocess.mean, std=preprocess.std)
        self.mode = "bicubic" if preprocess.kernel == "bicubic" else "bilinear"
        encoder: Any = module
        for layer in self.layers:
            try:
                encoder.check_outputs((TOKENS,), layer=layer)
            except ValueError as err:
                raise ValueError(f"objective.perceptual.layers: {err}") from err
        self.num_frames = _num_frames(encoder, self.size, preprocess.num_frames)

    def compute(self, inputs: Tensor) -> tuple[Tensor, ...]:
        clips = self._clips(inputs)
        outputs: Any = self.module.outputs
        found = [outputs(clips, (TOKENS,), layer=layer)[TOKENS] for layer in self.layers]
        return tuple(F.normalize(tokens.float(), dim=-1) for tokens in found)

    def with_gradient(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Returns the same as a call, with a gradient that reaches the pictures and no weight of the network."""
        return self.compute(inputs)

    def distance(self, pictures: Tensor, again: Tensor) -> Tensor:
        """Returns 1 - the cosine of the tokens of pictures and of the pictures made again, 0-d, in [0, 2].

        It is the mean over tokens, pictures and layers; a token's length has no part in it, so that a weight means the
        same for every network.  What of `again` is outside [0, 1] is cut off, as where people look at it.
        """
        true, seen = self(pictures), self.with_gradient(again.clamp(0, 1))
        with torch.autocast(pictures.device.type, enabled=False):
            # Half the square of the difference: the same number, exact where it is small.
            parts = [(a - b).square().sum(-1).mean() / 2 for a, b in zip(true, seen, strict=True)]
            return torch.stack(parts).mean()

    def _clips(self, pictures: Tensor) -> Tensor:
        """(N, 3, T, size, size), normalised: every picture as a clip in which nothing moves."""
        with torch.autocast(pictures.device.type, enabled=False):
            if pictures.shape[-1] != self.size:
                side = (self.size, self.size)
                pictures = F.interpolate(pictures, side, mode=self.mode, antialias=True)
            clips = normalize(pictures[:, :, None], self.normalization)
        return clips.expand(-1, -1, self.num_frames, -1, -1)


def load_perceptual(path: Path | None, config: PerceptualConfig) -> PerceptualNetwork:
    """Returns the frozen network of an encoder folder (or run), or of a published file.

    Raises:
        EncoderError, WeightsError: nothing there, or nothing that can be read as an encoder.
        TypeError, ValueError: none was given, or it cannot compare pictures, see `PerceptualNetwork`.
    """
    if path is None:
        raise ValueError(
            "objective.perceptual is set, but no encoder was given for it: set objective.perceptual.source.run, file "
            "or recipe, or objective.perceptual=null."
        )
    module = load_teacher(path, image_size=config.size or _FILE_PX, num_frames=_FILE_FRAMES)
    preprocess = getattr(module, "preprocess", None)
    if preprocess is None:  # a file, whose pixels were those of ImageNet, as the defaults are
        preprocess = VideoPreprocess(num_frames=_FILE_FRAMES, size=config.size or _FILE_PX)
    encoder: Any = module
    lacks = None
    if encoder.modality != "video":
        lacks = f"sees {encoder.modality}, no pictures"
    elif TOKENS not in encoder.output_names:
        lacks = f"gives no tokens, only {' and '.join(encoder.output_names)}"
    if lacks:
        raise TypeError(
            f"objective.perceptual.source: {path} holds a {type(module).__name__}, which {lacks}. Name an encoder of "
            "video with tokens, such as a run of mae, videomae or mvd."
        )
    return PerceptualNetwork(module, config, preprocess)


def _num_frames(encoder: Any, size: int, most: int) -> int:
    """How often a picture is repeated: as often as the first moment of the network's tokens has frames, 1 where frames
    stand alone.

    Raises:
        ValueError: no clip of such frames divides into tokens.
    """
    if encoder.frames_stand_alone:
        most = 1
    moments: dict[int, int] = {}
    problem: Exception | None = None
    for frames in range(1, most + 1):
        try:
            grid = encoder.token_grid((frames, size, size, 3))
        except ValueError as err:
            problem = err
            continue
        if min(grid) > 0:
            moments[frames] = grid[0]
    if not moments:
        raise ValueError(
            f"the network of objective.perceptual.source cannot see pictures of {size} pixels"
            f"{f': {problem}' if problem else '.'} Set objective.perceptual.size to a side that it takes, or to null "
            "for its own."
        ) from problem
    fewest = min(moments.values())
    return max(frames for frames, count in moments.items() if count == fewest)
