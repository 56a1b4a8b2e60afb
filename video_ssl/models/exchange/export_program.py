"""Encoders as programs of `torch.export`: features without any code of this library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from video_ssl.files import output_aside
from video_ssl.models.classifier import VideoClassifier
from video_ssl.models.weights import WeightsError

#: Largest difference that the program may show against the encoder, relative to the largest feature.
TOLERANCE = 1e-5
#: Name of the JSON beside the program inside the file: what clips must look like.
NOTE = "video_ssl.json"


class Features(nn.Module):
    """What is exported: video (B, 3, T, H, W), normalised float32 -> clip features (B, D), frame
    features (B, T', D) and, of a fine-tuned model, logits (B, K), or "pooled" (B, D) if it has only
    the norm of a classifier."""

    def __init__(self, encoder: nn.Module, classifier: VideoClassifier | None = None) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier
        linear = classifier is not None and isinstance(classifier.head, nn.Linear)
        self.last = "logits" if linear else "pooled"

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        if self.classifier is None:
            clip, frames = self.encoder.features(video)  # type: ignore[operator]
            return {"clip": clip, "frames": frames}
        # The classifier's own encoder, once for all outputs.
        prefix, tokens = self.classifier.encoder.layer_outputs(video)
        frames = tokens.unflatten(1, self.classifier.encoder.grid(video)).mean((2, 3))
        logits = self.classifier.head(self.classifier.read(prefix, tokens))
        return {"clip": frames.mean(1), "frames": frames, self.last: logits}


def write_program(
    path: Path,
    encoder: nn.Module,
    *,
    clip_shape: tuple[int, int, int],
    note: dict[str, Any],
    classifier: VideoClassifier | None = None,
) -> dict[str, float]:
    """Returns by output the largest difference of the written program against the encoder.

    The file is a `.pt2` of `torch.export.save`, for clips of one size and any batch.  It is loaded
    back and compared on a batch of another size than the one it was traced with; a program that
    differs is not left behind.

    Args:
        path: the file.
        encoder: with `features`, in evaluation mode.
        clip_shape: (T, H, W).
        note: what else the file says about itself, as JSON.
        classifier: a fine-tuned model with that encoder, for its logits.

    Raises:
        WeightsError: the encoder cannot be exported, or the program gives something else.
    """
    module = Features(encoder if classifier is None else classifier.encoder, classifier).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, 3, *clip_shape, generator=generator)
    try:
        with torch.no_grad():
            batch = torch.export.Dim("batch")
            program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        text = json.dumps({"clip": list(clip_shape), "outputs": _outputs(module, example), **note})
        with output_aside(path) as temporary:  # the archive repeats the name of its file inside
            torch.export.save(program, temporary, extra_files={NOTE: text})
            differences = compare(temporary, module, clip_shape)
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, TypeError) as err:
        first = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
        raise WeightsError(f"torch.export cannot write this encoder: {first[:300]}") from err
    return differences


def compare(path: Path, module: nn.Module, clip_shape: tuple[int, int, int]) -> dict[str, float]:
    """Returns by output the largest absolute difference of a stored program against `module`, over
    batches of 1 and 3.

    Raises:
        WeightsError: one exceeds `TOLERANCE` times the largest value.
    """
    program = torch.export.load(path).module()
    generator = torch.Generator().manual_seed(1)
    worst: dict[str, float] = {}
    for size in (1, 3):
        video = torch.randn(size, 3, *clip_shape, generator=generator)
        with torch.no_grad():
            found, wanted = program(video), module(video)
        for name, value in wanted.items():
            difference = float((found[name] - value).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(value.abs().max())):
                raise WeightsError(
                    f"the exported program's {name!r} differs by {difference:.2e} from the encoder's on a batch of "
                    f"{size}: it is not written."
                )
            worst[name] = max(worst.get(name, 0.0), difference)
    return worst


def _outputs(module: nn.Module, example: Tensor) -> dict[str, list[int | str]]:
    with torch.no_grad():
        return {name: ["batch", *value.shape[1:]] for name, value in module(example).items()}
