"""What encoders of torch share: from clips as they are read to outputs as arrays."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

import video_ssl
from video_ssl.models.config import settings_of
from video_ssl.models.contract import Arrays, BaseEncoder, Precision, input_problem
from video_ssl.models.layers import depth_by_names, layer_by_name
from video_ssl.models.preprocess import model_input, tensor_of
from video_ssl.models.preprocess_config import Preprocess


class TorchEncoder(BaseEncoder):
    """Base of the encoders of torch, beside `nn.Module`; `load_encoder` sets the first three."""

    preprocess: Preprocess
    architecture: str
    source: dict[str, Any]
    config: Any

    def __call__(self, video: Any, *args: Any, **settings: Any) -> Any:
        """Returns the `VideoFeatures` of a video, or of a batch with a point what the network makes of it.

        Args:
            video: as `Encoder.__call__` takes it; or float (B, 3, T, H, W), which goes into `forward` with the rest.
            settings: of `features_of_video`.
        """
        if isinstance(video, Tensor) and video.is_floating_point():
            if self.modality == "video" and video.ndim == 5 and video.shape[1] != 3:
                self.check_input(video)
            return nn.Module.__call__(cast(nn.Module, self), video, *args, **settings)
        return video_ssl.features_of_video(self, video, *args, **settings)  # type: ignore[arg-type]

    def check_input(self, video: Tensor) -> None:
        """Raises ValueError for a batch that no encoder of videos takes; the text says how to make it right.

        Numbers are looked at where that costs nothing: on a CPU, outside training.
        """
        plain = video.device.type == "cpu" and not torch.compiler.is_compiling()
        looked_at = plain and not self.training and video.numel()  # type: ignore[attr-defined]
        problem = input_problem(
            video.shape,
            str(video.dtype).removeprefix("torch."),
            channels_last=False,
            largest=float(video.detach().abs().amax()) if looked_at else None,
        )
        if problem:
            raise ValueError(problem)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        tensors: Iterator[Tensor] = itertools.chain(self.parameters(), self.buffers())  # type: ignore[attr-defined]
        return next(tensors).device

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any weight or setting."""
        digest = hashlib.sha256()
        plain = [self.architecture, settings_of(self.config), settings_of(self.preprocess)]
        digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
        state: Mapping[str, Tensor] = self.state_dict()  # type: ignore[attr-defined]
        for name, value in sorted(state.items()):
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(data.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def num_layers(self) -> int:
        """How many layers `layer_of` tells apart, beside the embedding and what comes after them; 0 = none."""
        return depth_by_names(name for name, _ in self.named_parameters())  # type: ignore[attr-defined]

    def layer_of(self, name: str) -> int:
        """Returns how deep a parameter lies: 0 the embedding, 1 .. num_layers, or num_layers + 1.

        For `optimizer.layer_decay`; by default the layers are the blocks, `blocks.N.`.
        """
        return layer_by_name(name, self.num_layers)

    def weights_from(self, source: Any) -> dict[str, Tensor]:
        """Returns the weights of another encoder of this architecture as this one takes them, maybe with some that it
        has no place for.  Settings that it makes up for are those that its config calls `adaptable`."""
        return dict(source.state_dict())

    def model_input(self, clips: np.ndarray) -> Tensor:
        """Returns what `outputs` takes, on the encoder's device, of a batch of clips as they are read."""
        raw = tensor_of(clips).to(self.device, non_blocking=True)
        return model_input(raw, self.preprocess)

    @torch.inference_mode()
    def outputs_of_arrays(
        self,
        clips: np.ndarray,
        names: Sequence[str],
        *,
        precision: Precision = "float32",
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> Arrays:
        """Returns float32 arrays for clips as they are read, see `Encoder.outputs_of_arrays`."""
        with self.products(precision):
            found = self.outputs(
                self.model_input(clips), names, cells=cells, layer=layer, pooling=pooling
            )
        return as_arrays(found)

    def products(self, precision: Precision) -> torch.autocast:
        """Returns the context in which matrix products have this precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bfloat16")


def as_arrays(outputs: Mapping[str, Tensor]) -> Arrays:
    """Returns outputs as float32 arrays on the host."""
    return {name: value.float().cpu().numpy() for name, value in outputs.items()}
