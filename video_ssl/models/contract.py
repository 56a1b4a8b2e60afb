"""What every encoder offers, whatever it sees and whichever framework computes it.  Free of torch and jax.

An encoder turns a batch of clips of one modality into named outputs:

    "clip"     (B, D)      one vector for a clip
    "moments"  (B, T', D)  one for each of T' moments; `frame_positions` says where they lie
    "tokens"   (B, L, D)   one for each cell of a grid (t, h, w), L = t * h * w, time first; its t are the moments
    "common_sound", "common_text"  (B, D')  one vector for a clip in the space that encoders of one training share with
               that of sound, and with that of words; not normalised, compared by their cosine

Not every encoder has all of them: `output_names` lists what there is.

| modality | a clip as it is read, and its length n | what `outputs` takes |
|---|---|---|
| video | uint8 (T, H, W, 3), n = T sampled frames | float, normalised: torch (B, 3, T, H, W), flax (B, T, H, W, 3) |
| sound | float32 (N,), mono in -1..1, n = N samples | the same with a batch axis, (B, N) |
| text | int64 (L,), places of words in the vocabulary, n = L | the same with a batch axis, (B, L) |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np

import video_ssl
from video_ssl.models.preprocess_config import Modality, Preprocess

CLIP, MOMENTS, TOKENS = "clip", "moments", "tokens"
#: Outputs in a space that encoders of several modalities share: what belongs together is similar there.
COMMON_SOUND, COMMON_TEXT = "common_sound", "common_text"
#: Sense -> the output in the space that video shares with it.
COMMON_WITH: dict[str, str] = {"sound": COMMON_SOUND, "text": COMMON_TEXT}
COMMON: tuple[str, ...] = tuple(COMMON_WITH.values())
Precision = Literal["float32", "bfloat16"]
Arrays = dict[str, np.ndarray]
#: Beyond any pixel that is normalised by usual means and deviations, and well below 255.
MOST_NORMALISED = 50.0


class Encoder(Protocol):
    """What `load_encoder` and `load_flax_encoder` give.  Arrays are tensors of torch, or numpy's for flax.

    D is `embed_dim` if `output_dim` does not say otherwise, T' the number of moments of a clip.

    Attributes:
        config: of the network; its class stands in `NETWORKS`.
        architecture: its name there.
        modality: what it sees.
        preprocess: how clips must be made for it.
        source: where it comes from, as JSON.
        framework: "torch" or "flax".
        output_names: what `outputs` can give.
        max_frames: of encoders of whole videos, which are given all frames of a video at once where features of every
            frame are wanted: the most frames that see each other.  None = an encoder of clips.
        frames_stand_alone: the features of a frame depend on that frame alone.
        vocab_size: words of a tokenizer of pictures (`tokenizers/contract.py`); None = it is none.
        fingerprint: 16 hexadecimal digits that change with any weight or setting; those of the other framework differ.
    """

    config: Any
    architecture: str
    modality: Modality
    preprocess: Preprocess
    source: dict[str, Any]
    framework: str
    embed_dim: int
    output_names: tuple[str, ...]
    frames_stand_alone: bool
    vocab_size: int | None

    @property
    def max_frames(self) -> int | None: ...

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, video: Any, **settings: Any) -> Any:
        """Returns the `VideoFeatures` of one video: a file, a `Clip`, or all its frames, uint8 (T, H, W, 3).

        Of torch's encoders a tensor with a point goes through the network instead, as with every `nn.Module`.

        Args:
            video, settings: as `features_of_video` takes them.
        """

    def outputs(
        self,
        inputs: Any,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Any]:
        """Returns the outputs of these names, of one forward pass.

        Args:
            inputs: a batch, see the head of this file.
            names: some of `output_names`.
            cells: "clip" and "moments" are the means of cells x cells parts of the frame, side by side.
            layer: block whose output is taken, without the final norm, counted from 0, or from -1 = the last one; None
                = the encoder's output.
            pooling: what "clip" is made of: the "mean" or "max" over all tokens, or "cls", the class token.

        Raises:
            ValueError: a name, layer or pooling that the encoder does not have; inputs of another shape, layout, dtype
                or range (the text says which are right).
        """

    def check_outputs(
        self, names: Sequence[str], *, layer: int | None = None, pooling: str = "mean"
    ) -> None:
        """Raises ValueError where `outputs` would."""

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output, its last axis; `layer` as in `outputs`."""

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): where the moments of a clip of this length lie, in units of its frames (sound: of its
        samples, text: of its words); 0.5 is halfway between the first two."""

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns the (t, h, w) of "tokens" for a clip as it is read, of this shape: (T, H, W, 3), (N,) or (L,);
        `layer` as in `outputs`.

        Raises:
            ValueError: the encoder gives no tokens, or the clip does not divide into them.
        """

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
        """Returns `outputs` as float32 arrays, without gradients, for clips as they are read: with a batch axis, not
        normalised, of any device.  `precision` is that of the products."""

    def outputs_of_pieces(
        self, pieces: Iterable[np.ndarray], names: Sequence[str], *, precision: Precision
    ) -> Arrays:
        """Returns `outputs_of_arrays` for the pieces of clips, one behind the other in time, that only together would
        fill the memory."""

    def clip_features(self, inputs: Any) -> Any:
        """Returns "clip", (B, D)."""

    def frame_features(self, inputs: Any) -> Any:
        """Returns "moments", (B, T', D)."""

    def features(self, inputs: Any, cells: int = 1) -> tuple[Any, Any]:
        """Returns "clip" and "moments"."""

    def state_dict(self) -> dict[str, Any]:
        """Returns the weights under torch's names."""

    def to(self, device: Any) -> Any:
        """Moves the weights to a device of its framework and returns the encoder."""


class BaseEncoder:
    """What holds for most encoders: frames of a video, a feature for a clip and one for each moment, one layer."""

    modality: Modality = "video"
    framework = "torch"
    embed_dim: int
    output_names: tuple[str, ...] = (CLIP, MOMENTS)
    frames_stand_alone = False
    vocab_size: int | None = None

    def __call__(self, video: Any, **settings: Any) -> Any:
        """Returns the `VideoFeatures` of one video, see `Encoder.__call__`."""
        return video_ssl.features_of_video(self, video, **settings)  # type: ignore[arg-type]

    @property
    def max_frames(self) -> int | None:
        """None: an encoder of clips, not of whole videos."""
        return None

    @property
    def num_blocks(self) -> int:
        """How many blocks `layer` may name."""
        return 0

    @property
    def poolings(self) -> tuple[str, ...]:
        """What `pooling` may be."""
        return ("mean",)

    def check_outputs(
        self, names: Sequence[str], *, layer: int | None = None, pooling: str = "mean"
    ) -> None:
        """Raises ValueError for a name, a block or a pooling that the encoder does not have."""
        unknown = [name for name in names if name not in self.output_names]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} gives no {', '.join(unknown)}: it has {', '.join(self.output_names)}."
            )
        depth = self.num_blocks
        if layer is not None and not depth:
            raise ValueError(
                f"layer={layer}, but the encoder offers only its output: leave out layer."
            )
        if layer is not None and not -depth <= layer < depth:
            raise ValueError(
                f"layer={layer} of {depth} blocks: give 0 to {depth - 1}, or -1 for the last."
            )
        if pooling == "cls" and pooling not in self.poolings:
            raise ValueError(
                f"pooling='cls', but the encoder has no class token: use {' or '.join(self.poolings)}."
            )
        if pooling not in self.poolings:
            raise ValueError(
                f"pooling={pooling!r}, but the encoder offers {' or '.join(self.poolings)}: use that."
            )

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output; `cells` matters where there is a grid."""
        self.check_outputs([name], layer=layer)
        return self.embed_dim

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Raises ValueError: there are no tokens."""
        raise ValueError(f"{type(self).__name__} gives no tokens, so there is no grid of them.")

    def outputs(
        self,
        inputs: Any,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Any]:
        """Returns the outputs of these names, see `Encoder.outputs`."""
        raise NotImplementedError(f"{type(self).__name__} must say what its outputs are.")

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
        raise NotImplementedError("a base class of each framework does this.")

    def outputs_of_pieces(
        self, pieces: Iterable[np.ndarray], names: Sequence[str], *, precision: Precision
    ) -> Arrays:
        """Returns the outputs of clips that come in pieces; here they are joined first."""
        return self.outputs_of_arrays(
            np.concatenate(list(pieces), axis=1), names, precision=precision
        )

    def features(self, inputs: Any, cells: int = 1, **choice: Any) -> tuple[Any, Any]:
        """Returns "clip" and "moments" of one forward pass; `choice` as in `outputs`."""
        found = self.outputs(inputs, (CLIP, MOMENTS), cells=cells, **choice)
        return found[CLIP], found[MOMENTS]

    def clip_features(self, inputs: Any) -> Any:
        """Returns "clip", (B, D)."""
        return self.outputs(inputs, (CLIP,))[CLIP]

    def frame_features(self, inputs: Any) -> Any:
        """Returns "moments", (B, T', D)."""
        return self.outputs(inputs, (MOMENTS,))[MOMENTS]


def input_problem(
    shape: Sequence[int], dtype: str, *, channels_last: bool, largest: float | None
) -> str | None:
    """Returns what is wrong with a batch of videos for a network, and what makes it right; None where it fits.

    Args:
        shape: of the batch.
        dtype: its name; a framework's own, such as "float32" or "bfloat16".
        channels_last: (B, T, H, W, 3) as flax takes it, or (B, 3, T, H, W) as torch does.
        largest: magnitude in the batch, where it is known.
    """
    framework, layout = (
        ("flax", "(B, T, H, W, 3)") if channels_last else ("torch", "(B, 3, T, H, W)")
    )
    right = f"{framework} encoders take normalised float {layout}"
    given = f"video is {dtype} {tuple(shape)}, but {right}"
    if len(shape) == 4:
        return f"{given}: the batch axis is missing; video[None] adds it."
    if len(shape) != 5:
        return f"{given}: it has {len(shape)} axes."
    if not (dtype.startswith(("float", "bfloat"))):
        return (
            f"{given}: these are pixels; encoder.outputs_of_arrays takes uint8 (B, T, H, W, 3), and encoder(video) one "
            "video, uint8 (T, H, W, 3)."
        )
    if shape[4 if channels_last else 1] != 3:
        places = {1: "B, 3, T, H, W", 2: "B, T, 3, H, W", 4: "B, T, H, W, 3"}
        order = next((axis for axis in (4, 1, 2) if shape[axis] == 3), None)
        if order is None:
            return f"{given}: no axis holds three colors."
        axes = {
            False: {4: "video.permute(0, 4, 1, 2, 3)", 2: "video.transpose(1, 2)"},
            True: {1: "np.moveaxis(video, 1, -1)", 2: "np.moveaxis(video, 2, -1)"},
        }[channels_last][order]
        return f"{given}: this seems to be ({places[order]}); {axes} makes it right."
    if largest is not None and largest > MOST_NORMALISED:
        return (
            f"{given}: numbers up to {largest:.3g} are pixels of 0..255; divide by 255, subtract "
            "encoder.preprocess.mean and divide by encoder.preprocess.std, or give uint8 pixels to "
            "encoder.outputs_of_arrays."
        )
    return None
