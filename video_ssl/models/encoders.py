"""Encoder folders: how a trained encoder leaves a run, and how it comes back.

A folder holds `model.safetensors` (the weights), `config.json` (architecture, preprocessing, where
it comes from) and `README.md` (the model card).  Nothing here ever unpickles.  `load_encoder` also
understands two baselines that every evaluation needs beside a trained encoder:

    RUN or RUN/encoder      the encoder that a run has left
    untrained:PATH[@SEED]   the same architecture and preprocessing, fresh weights (SEED: default 0)
    pixels[:SIZE]           raw pixels averaged down to SIZE x SIZE (default 16); default clips
    pixels:PATH[@SIZE]      raw pixels of exactly the clips that the encoder in PATH sees
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_ssl import __version__
from video_ssl.clips.config import Sampling
from video_ssl.models.model_card import model_card
from video_ssl.models.pixels import PixelEncoder, PixelsConfig
from video_ssl.recipes import ConfigError, build_config, nearest, to_plain

FORMAT = "video_ssl.encoder"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


class EncoderError(ValueError):
    """An encoder that cannot be read or written; the text says what was found and expected."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What an encoder expects of a clip: its sampling, its size, and the statistics of its pixels.

    Args:
        num_frames: frames of a clip.
        frame_stride: source frames from one sampled frame to the next.
        fps: rate at which source frames are counted (frames are chosen by time); None counts the
            frames of the file.
        size: side of the square frames in pixels.
        sampling: how training chose the frames, as in `ClipConfig`.
        mean: RGB mean that is subtracted, in the range 0..1.
        std: RGB standard deviation to divide by, in the range 0..1.
    """

    num_frames: int = 16
    frame_stride: int = 4
    fps: float | None = None
    size: int = 224
    sampling: Sampling = "constant"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        for name in ("num_frames", "frame_stride", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps={self.fps} must be positive, or null to count frames.")
        if min(self.std) <= 0:
            raise ValueError(f"std={self.std} must be positive: pixels are divided by it.")


class Encoder(Protocol):
    """What every encoder offers after `load_encoder`.

    D is `embed_dim`, T' the number of frame features of a clip.
    """

    config: Any
    embed_dim: int
    num_frames: int
    preprocess: Preprocess
    architecture: str
    source: dict[str, Any]

    def frame_features(self, video: Tensor) -> Tensor:
        """Returns (B, T', D) for a normalised `video` (B, C, T, H, W)."""

    def clip_features(self, video: Tensor) -> Tensor:
        """Returns (B, D) for a normalised `video` (B, C, T, H, W)."""

    def features(self, video: Tensor, cells: int = 1) -> tuple[Tensor, Tensor]:
        """Returns clip and frame features, (B, D') and (B, T', D'), of one forward pass; `cells`
        asks for the means of cells x cells parts of the frame, side by side."""

    def feature_dim(self, cells: int = 1) -> int:
        """Returns D', the width of what `features` gives."""

    def frame_positions(self, num_frames: int) -> np.ndarray:
        """Returns float64 (T',): where each frame feature lies, in units of sampled frames."""

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the weights by name."""

    def to(self, device: torch.device) -> Any:
        """Moves the weights and returns the encoder."""


def save_encoder(
    folder: str | Path,
    encoder: nn.Module,
    *,
    architecture: str,
    preprocess: Preprocess,
    source: dict[str, Any],
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Returns the folder into which weights, configuration and model card were written.

    The folder appears complete or not at all: it is written under a temporary name beside its
    place, then renamed. An encoder folder that is already there is replaced; any other folder with
    content is refused.

    Args:
        folder: where to; usually RUN/encoder.
        encoder: a module of `ENCODERS` with a `config` dataclass.
        architecture: its name in `ENCODERS`.
        preprocess: how clips must be made for it.
        source: where it comes from, as JSON: `objective`, `data`, `steps`, `recipe`, and whatever
            else is known.
        beside: file name -> tensors of other parts of the model (a head, decoders) kept with it.

    Raises:
        EncoderError: unknown architecture, weights that are not finite, a place that is taken by
            something else.
    """
    folder = Path(folder)
    _encoder_class(architecture, str(folder))
    _refuse_foreign_folder(folder)
    weights = _plain_weights(encoder)
    content = {
        "format": FORMAT,
        "version": 1,
        "architecture": architecture,
        "config": to_plain(encoder.config),
        "preprocess": to_plain(preprocess),
        "num_parameters": sum(p.numel() for p in encoder.parameters()),
        "embed_dim": encoder.embed_dim,
        "source": source,
        "versions": {"video_ssl": __version__, "torch": torch.__version__},
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_file(weights, temporary / WEIGHTS, metadata={"format": "pt"})
        for name, tensors in (beside or {}).items():
            plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
            save_file(plain, temporary / name, metadata={"format": "pt"})
        (temporary / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(model_card(content), encoding="utf-8")
        _sync(temporary)
        _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_encoder(path_or_run: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Returns a frozen encoder in evaluation mode with `preprocess`, `architecture` and `source`.

    Args:
        path_or_run: RUN, RUN/encoder, `untrained:PATH[@SEED]`, `pixels[:SIZE]` or
            `pixels:PATH[@SIZE]`.
        device: where the weights go.

    Raises:
        EncoderError: nothing there, not an encoder folder, an unknown architecture, broken weights,
            or weights that do not fit the configuration (missing, unexpected and mismatched names
            are listed).
    """
    spec = str(path_or_run)
    kind, _, rest = spec.partition(":")
    if kind == "pixels":
        module, preprocess, content = _pixels(rest)
    elif kind == "untrained":
        path, seed = _split_number(rest, default=0)
        if not path:
            raise EncoderError(
                f"{spec!r} names no encoder: write untrained:RUN or untrained:RUN@SEED."
            )
        folder = find_encoder(path)
        content = read_config(folder)
        module, preprocess = _build(content, folder, seed=seed)
        content["source"] = {"objective": "none (untrained)", "seed": seed, "architecture of": path}
    else:
        folder = find_encoder(spec)
        content = read_config(folder)
        module, preprocess = _build(content, folder, seed=0)
        _fill(module, folder)
    module.requires_grad_(False).eval().to(device)
    for name, value in (
        ("preprocess", preprocess),
        ("architecture", content["architecture"]),
        ("source", content["source"]),
    ):
        setattr(module, name, value)
    return typing.cast(Encoder, module)


def build_encoder(config: Any) -> Any:
    """Returns a new encoder of the class that its config's `architecture` names in `ENCODERS`."""
    return _encoder_class(config.architecture, type(config).__name__)(config)


def fingerprint(encoder: Encoder) -> str:
    """Returns 16 hexadecimal digits that change with any weight or setting of the encoder."""
    digest = hashlib.sha256()
    plain = [encoder.architecture, to_plain(encoder.config), to_plain(encoder.preprocess)]
    digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
    for name, value in sorted(encoder.state_dict().items()):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(data.numpy().tobytes())
    return digest.hexdigest()[:16]


def find_encoder(path: str | Path) -> Path:
    """Returns the encoder folder named by a run (the folder above `encoder/`) or by itself.

    Raises:
        EncoderError: nothing there, a file, or a folder without an encoder; the text lists what is
            there.
    """
    path = Path(path)
    if not path.exists():
        raise EncoderError(_not_there(path))
    if path.is_file():
        raise EncoderError(
            f"{path} is a file, but an encoder is a folder with {WEIGHTS} and {CONFIG}; give the "
            f"folder. "
            "Weights of other projects are converted with `video-ssl convert`."
        )
    for folder in (path, path / "encoder"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return folder
    there = sorted(p.name + ("/" if p.is_dir() else "") for p in path.iterdir())
    listing = ", ".join(there[:12]) + (" ..." if len(there) > 12 else "") if there else "nothing"
    hint = (
        " The run has checkpoints but no encoder/ yet: it is written when training ends."
        if "checkpoints/" in there
        else ""
    )
    raise EncoderError(
        f"{path} holds no encoder: expected {WEIGHTS} and {CONFIG} in it or in its sub-folder "
        f"encoder/; there is {listing}.{hint}"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the content of an encoder's `config.json`.

    Raises:
        EncoderError: not JSON, or not the configuration of an encoder of this library.
    """
    file = folder / CONFIG
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise EncoderError(f"{file} is not readable as JSON: {err}") from err
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EncoderError(
            f'{file} does not describe a video_ssl encoder (it has no "format": "{FORMAT}"). '
            "Weights of other projects are converted with `video-ssl convert`."
        )
    lacking = [k for k in ("architecture", "config", "preprocess") if k not in content]
    if lacking:
        raise EncoderError(f"{file} lacks {lacking}; save the encoder again with save_encoder.")
    content.setdefault("source", {})
    return content


def _not_there(path: Path) -> str:
    parent = next((p for p in path.parents if p.is_dir()), Path("."))
    names = sorted(p.name for p in parent.iterdir() if p.is_dir())
    rest = path.relative_to(parent) if parent in path.parents else path
    hint = nearest(rest.parts[0], names) if rest.parts else ""
    words = "RUN, RUN/encoder, untrained:PATH[@SEED], pixels[:SIZE] or pixels:PATH[@SIZE]"
    kind = nearest(str(path).partition(":")[0], ["untrained", "pixels"]) if ":" in str(path) else ""
    lacking = rest.parts[0] if rest.parts else path
    return f"no encoder {str(path)!r}: {parent} has no {lacking}.{hint}{kind} Allowed are {words}."


def _encoder_class(architecture: str, where: str) -> Any:
    from video_ssl.models import ENCODERS

    if architecture not in ENCODERS:
        raise EncoderError(
            f"{where}: unknown architecture {architecture!r}; there are "
            f"{sorted(ENCODERS)}.{nearest(architecture, ENCODERS)}"
        )
    module, name = ENCODERS[architecture].split(":")
    return getattr(import_module(module), name)


def _build(content: dict[str, Any], folder: Path, *, seed: int) -> tuple[nn.Module, Preprocess]:
    """Builds the module with weights drawn from `seed`; the global generator is left alone."""
    file = str(folder / CONFIG)
    cls = _encoder_class(content["architecture"], file)
    config_class = typing.get_type_hints(cls.__init__)["config"]
    try:
        config = build_config(config_class, content["config"], "config")
        preprocess = build_config(Preprocess, content["preprocess"], "preprocess")
    except ConfigError as err:
        raise EncoderError(f"{file}: {err}") from err
    # Not torch.manual_seed, which would also seed the accelerators.
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        module = cls(config)
    finally:
        torch.default_generator.set_state(before)
    return module, preprocess


def _fill(module: nn.Module, folder: Path) -> None:
    """Loads the weights of the folder into the module: all of them, and nothing else."""
    file = folder / WEIGHTS
    try:
        found = load_file(file)
    except (SafetensorError, OSError, ValueError) as err:
        raise EncoderError(
            f"{file} is not a complete safetensors file ({err}; {file.stat().st_size} bytes): "
            f"copy or save it again."
        ) from err
    wanted = module.state_dict()
    missing = sorted(set(wanted) - set(found))
    unexpected = sorted(set(found) - set(wanted))
    mismatched = [
        f"{k} {list(found[k].shape)} instead of {list(wanted[k].shape)}"
        for k in sorted(set(wanted) & set(found))
        if found[k].shape != wanted[k].shape
    ]
    if missing or unexpected or mismatched:
        lists = (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched))
        told = "; ".join(
            f"{len(names)} {word}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
            for word, names in lists
            if names
        )
        raise EncoderError(f"{file} does not fit {folder / CONFIG}: {told}.")
    module.load_state_dict(found, strict=True)


def _pixels(rest: str) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """Reads what follows `pixels:`; the encoder named there, if any, lends its clip sampling."""
    path, size = ("", int(rest)) if rest.isdigit() else _split_number(rest, default=16)
    if path:
        folder = find_encoder(path)
        content = read_config(folder)
        preprocess = build_config(
            Preprocess, content["preprocess"], f"{folder / CONFIG}: preprocess"
        )
    else:
        preprocess = Preprocess()
    if not 1 <= size <= preprocess.size:
        raise EncoderError(
            f"pixels of size {size} cannot be made of clips of {preprocess.size} px: give 1 to "
            f"{preprocess.size}."
        )
    module = PixelEncoder(PixelsConfig(num_frames=preprocess.num_frames, size=size))
    source = {"objective": "none (raw pixels)", **({"clips of": path} if path else {})}
    return module, preprocess, {"architecture": "pixels", "source": source}


def _split_number(text: str, *, default: int) -> tuple[str, int]:
    """`runs/a@3` -> (`runs/a`, 3); without a number after the last @, the text is all path."""
    path, at, number = text.rpartition("@")
    return (path, int(number)) if at and number.isdigit() else (text, default)


def _plain_weights(encoder: nn.Module) -> dict[str, Tensor]:
    """The state dict as independent CPU tensors, without the prefix that torch.compile adds."""
    weights = {
        name.replace("_orig_mod.", ""): value.detach().to("cpu", copy=True).contiguous()
        for name, value in encoder.state_dict().items()
    }
    broken = [k for k, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise EncoderError(
            f"{len(broken)} weights are not finite, first {broken[0]!r}: such an encoder is not "
            f"saved."
        )
    return weights


def _refuse_foreign_folder(folder: Path) -> None:
    if folder.is_file():
        raise EncoderError(f"{folder} is a file; an encoder needs a folder of its own.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / CONFIG).is_file():
        raise EncoderError(
            f"{folder} has content but is no encoder folder: it is not overwritten. Name a new "
            f"folder."
        )


def _sync(folder: Path) -> None:
    # safetensors writes for the owner alone; a folder that others may read is read whole.
    mode = (folder / CONFIG).stat().st_mode
    for file in folder.iterdir():
        file.chmod(mode)
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())


def _swap(temporary: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        os.replace(folder, old)
    os.replace(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)
