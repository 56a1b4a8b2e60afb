"""Encoder folders: how a trained encoder leaves a run, and how it comes back.

A folder holds `model.safetensors` (the weights), `config.json` (what the encoder sees, architecture,
preprocessing, where it comes from), `README.md` (the model card) and, for text, `vocabulary.txt`.
Nothing here ever unpickles.  `load_encoder` also
understands the baselines that every evaluation needs beside a trained encoder:

    RUN or RUN/encoder      the encoder that a run has left
    RUN@STEP                that of a checkpoint, also while the run is training
    untrained:PATH[@SEED]   the same architecture and preprocessing, fresh weights (SEED: default 0)
    no_positions:PATH       the trained encoder, whose frames are not told where in the video they lie
    pixels[:SIZE]           raw pixels averaged down to SIZE x SIZE (default 16); default clips
    pixels:PATH[@SIZE]      raw pixels of exactly the clips that the encoder in PATH sees
    hub:FOLDER, hub:NAME    a tower of a model of Hugging Face's transformers, see `models/hub`; behind untrained: and
                            pixels: too
    hub_text:FOLDER|NAME    its tower of texts
    hog_SHOWS:PATH[@SIZE]   histograms of oriented gradients of those clips, of frames averaged down to SIZE x SIZE
                            (default 64, or the frames as they are where they are smaller); SHOWS = frame, bag, order,
                            differences, each or window, see `HogConfig`
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from video_ssl.models import NETWORKS, Network, architecture_of
from video_ssl.models.baselines import BASELINES, HOG
from video_ssl.models.classifier_folder import Protocol, write_protocol
from video_ssl.models.contract import Encoder
from video_ssl.models.encoder_folder import (
    CONFIG,
    FORMAT,
    WEIGHTS,
    EncoderError,
    check_unchanged,
    fill_report,
    find_encoder,
    read_config,
    read_preprocess,
    write_encoder_folder,
)
from video_ssl.models.hub.kinds import HUB, HUB_KINDS
from video_ssl.models.networks.hog import HogConfig, HogEncoder
from video_ssl.models.networks.pixels import PixelEncoder, PixelsConfig
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess
from video_ssl.recipes import ConfigError, build_config, nearest

__all__ = [
    "CONFIG",
    "FORMAT",
    "Encoder",
    "EncoderError",
    "Preprocess",
    "build_encoder",
    "find_encoder",
    "load_encoder",
    "read_beside",
    "read_config",
    "save_encoder",
]


#: What stands before the colon where a trained encoder is to do without its positions.
NO_POSITIONS = "no_positions"
#: What the library of safetensors says of a file that is none, or of a dtype that it does not know.
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError)


def save_encoder(
    folder: str | Path,
    encoder: nn.Module,
    *,
    architecture: str,
    preprocess: Preprocess,
    source: dict[str, Any],
    beside: Mapping[str, Mapping[str, Tensor]] | None = None,
    protocol: Protocol | None = None,
) -> Path:
    """Returns the folder into which weights, configuration and model card were written.

    The folder appears complete or not at all: it is written under a temporary name beside its
    place, then renamed. An encoder folder that is already there is replaced; any other folder with
    content is refused.

    Args:
        folder: where to; usually RUN/encoder.
        encoder: a network of `NETWORKS`.
        architecture: its name there.
        preprocess: how clips must be made for it.
        source: where it comes from, as JSON: `objective`, `data`, `steps`, `recipe`, and whatever
            else is known.
        beside: file name -> tensors of other parts of the model (a head, decoders) kept with it.
        protocol: of the classifier that is among these, see `classifier_folder`.

    Raises:
        EncoderError: unknown architecture, weights that are not finite, a place that is taken by
            something else.
    """
    network_of(architecture, str(folder))
    if encoder.modality != preprocess.modality:
        raise EncoderError(
            f"{architecture!r} sees {encoder.modality}, but its preprocess is one of {preprocess.modality}."
        )
    weights = _plain_weights(encoder)

    def write(place: Path) -> None:
        save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
        for name, tensors in (beside or {}).items():
            plain = {k: v.detach().to("cpu", copy=True).contiguous() for k, v in tensors.items()}
            save_file(plain, place / name, metadata={"format": "pt"})
        if protocol is not None:
            write_protocol(place, protocol)

    return write_encoder_folder(
        folder,
        write,
        architecture=architecture,
        config=encoder.config,
        preprocess=preprocess,
        source=source,
        num_parameters=sum(p.numel() for p in encoder.parameters()),
        embed_dim=typing.cast(int, encoder.embed_dim),
        output_names=typing.cast(tuple[str, ...], encoder.output_names),
        versions={"torch": torch.__version__},
    )


def load_encoder(path_or_run: str | Path, device: str | torch.device = "cpu") -> Encoder:
    """Returns a frozen encoder in evaluation mode with `preprocess`, `architecture` and `source`.

    Args:
        path_or_run: RUN, RUN@STEP, RUN/encoder, RUN/encoders/NAME, `untrained:PATH[@SEED]`, `no_positions:PATH`,
            `pixels[:SIZE]`, `pixels:PATH[@SIZE]`, `hog_SHOWS:PATH[@SIZE]`, `hub:FOLDER` or `hub:NAME`.
        device: where the weights go.

    Raises:
        EncoderError: nothing there, not an encoder folder, an unknown architecture, broken weights,
            or weights that do not fit the configuration (missing, unexpected and mismatched names
            are listed).

    >>> encoder = load_encoder("runs/mine")
    >>> encoder.preprocess.num_frames, encoder.preprocess.size
    (4, 16)
    >>> clip, moments = encoder.features(torch.zeros(2, 3, 4, 16, 16))
    >>> clip.shape, moments.shape
    (torch.Size([2, 32]), torch.Size([2, 2, 32]))
    """
    spec = str(path_or_run)
    kind, _, rest = spec.partition(":")
    if kind == "pixels":
        module, preprocess, content = _pixels(rest)
    elif kind in BASELINES:
        module, preprocess, content = _hog(kind, rest)
    elif kind in HUB_KINDS:
        module, preprocess, content = _of_hub(kind, rest, seed=None)
    elif kind == "untrained":
        module, preprocess, content = _untrained(spec, rest)
    else:
        folder = find_encoder(rest if kind == NO_POSITIONS else spec)
        content = read_config(folder)
        if kind == NO_POSITIONS:
            _leave_out_positions(content, spec)
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


def _untrained(spec: str, rest: str) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """Reads what follows `untrained:`."""
    path, seed = _split_number(rest, default=0)
    if not path:
        raise EncoderError(f"{spec!r} names no encoder: write untrained:RUN or untrained:RUN@SEED.")
    kind, _, named = path.partition(":")
    if kind in HUB_KINDS:
        return _of_hub(kind, named, seed=seed)
    folder = find_encoder(path)
    content = read_config(folder)
    module, preprocess = _build(content, folder, seed=seed)
    check_unchanged(folder)
    content["source"] = {"objective": "none (untrained)", "seed": seed, "architecture of": path}
    return module, preprocess, content


def _of_hub(
    kind: str, named: str, *, seed: int | None
) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """Reads what follows `hub:` or `hub_text:`."""
    # Where it is used: without it nobody needs transformers.
    from video_ssl.models.hub.opening import open_hub, open_hub_text

    if not named:
        raise EncoderError(f"'{kind}:' names no model: write {kind}:FOLDER or {kind}:NAME.")
    return (open_hub if kind == HUB else open_hub_text)(named, seed=seed)


def read_beside(folder: Path, name: str) -> dict[str, Tensor]:
    """Returns the tensors of another part of a model that an encoder folder keeps; {} where it keeps none.

    Raises:
        EncoderError: it is damaged.
    """
    if not (folder / name).is_file():
        return {}
    check_unchanged(folder, name)
    try:
        return load_file(folder / name)
    except _UNREADABLE as err:
        raise EncoderError(_incomplete(folder / name, err)) from err


def _leave_out_positions(content: dict[str, Any], spec: str) -> None:
    """Changes the settings of an encoder so that its frames are not told where in the video they lie.

    Raises:
        EncoderError: the network has no such setting, or its positions are left out already.
    """
    network, settings = network_of(content["architecture"], spec), content["config"]
    changed = {**settings, "positions": "none"}
    try:
        build_config(network.config_class(), changed, "config")
    except ConfigError as err:
        raise EncoderError(
            f"{spec}: {content['architecture']} cannot do without positions; they are those within a clip, and say "
            "nothing about the video. Leave out no_positions."
        ) from err
    if settings.get("positions") == "none":
        raise EncoderError(f"{spec}: the encoder sees no positions. Leave out no_positions.")
    content["config"] = changed


def build_encoder(config: Any) -> Any:
    """Returns a new encoder of the network in `NETWORKS` that the config belongs to."""
    return NETWORKS[architecture_of(config)].torch_class()(config)


def network_of(architecture: str, where: str) -> Network:
    """Returns the network of a name.

    Raises:
        EncoderError: the table has none of this name; `where` says who asks.
    """
    if architecture not in NETWORKS:
        raise EncoderError(
            f"{where}: unknown architecture {architecture!r}; there are "
            f"{sorted(NETWORKS)}.{nearest(architecture, NETWORKS)}"
        )
    return NETWORKS[architecture]


def _build(content: dict[str, Any], folder: Path, *, seed: int) -> tuple[nn.Module, Preprocess]:
    """Builds the module with weights drawn from `seed`; the global generator is left alone."""
    file = str(folder / CONFIG)
    network = network_of(content["architecture"], file)
    try:
        config = build_config(network.config_class(), content["config"], "config")
    except ConfigError as err:
        raise EncoderError(f"{file}: {err}") from err
    preprocess = read_preprocess(content, folder)
    cls = network.torch_class()
    _refuse_misfit(cls, config, folder)
    # Not torch.manual_seed, which would also seed the accelerators.
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        module = cls(config)
    finally:
        torch.default_generator.set_state(before)
    return module, preprocess


def _refuse_misfit(cls: Any, config: Any, folder: Path) -> None:
    """Compares the shapes that the file names with those of the network, before either takes memory."""
    file = folder / WEIGHTS
    try:
        with safe_open(file, "pt") as content:
            found = {name: tuple(content.get_slice(name).get_shape()) for name in content.keys()}  # noqa: SIM118
    except _UNREADABLE as err:
        raise EncoderError(_incomplete(file, err)) from err
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in cls(config).state_dict().items()}
    problem = fill_report(found, wanted)
    if problem:
        raise EncoderError(f"{file} does not fit {folder / CONFIG}: {problem}.")


def _incomplete(file: Path, err: Exception) -> str:
    return f"{file} is not a complete safetensors file ({err}; {file.stat().st_size} bytes): copy or save it again."


def _fill(module: nn.Module, folder: Path) -> None:
    """Loads the weights of the folder into the module: all of them, and nothing else."""
    file = folder / WEIGHTS
    try:
        found = load_file(file)
    except _UNREADABLE as err:
        raise EncoderError(_incomplete(file, err)) from err
    check_unchanged(folder, WEIGHTS)
    module.load_state_dict(found, strict=True)


def _pixels(rest: str) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """Reads what follows `pixels:`; the encoder named there, if any, lends its clip sampling."""
    path, size = ("", int(rest)) if rest.isdigit() else _split_number(rest, default=16)
    preprocess = _lent("pixels", path) if path else VideoPreprocess()
    if not 1 <= size <= preprocess.size:
        raise EncoderError(
            f"pixels of size {size} cannot be made of clips of {preprocess.size} px: give 1 to "
            f"{preprocess.size}."
        )
    module = PixelEncoder(PixelsConfig(num_frames=preprocess.num_frames, size=size))
    return module, preprocess, _described("pixels", path)


def _hog(kind: str, rest: str) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """Reads what follows `hog_SHOWS:`; the encoder named there lends its clip sampling."""
    path, size = _split_number(rest, default=0)
    if not path:
        raise EncoderError(
            f"'{kind}:{rest}' names no encoder: write {kind}:RUN or {kind}:RUN@SIZE."
        )
    preprocess = _lent(kind, path)
    if size > preprocess.size:
        raise EncoderError(
            f"{kind} of size {size} cannot be made of clips of {preprocess.size} px: give at most that."
        )
    shows: Any = kind.removeprefix(HOG)
    size = size or min(HogConfig.size, preprocess.size)
    try:
        config = HogConfig(shows=shows, num_frames=preprocess.num_frames, size=size)
    except ValueError as err:
        raise EncoderError(f"{kind}:{rest}: {err}") from err
    return HogEncoder(config), preprocess, _described(kind, path)


def _lent(kind: str, path: str) -> VideoPreprocess:
    """Returns how clips are made for the encoder in `path`, for a baseline beside it."""
    if path.startswith(f"{HUB}:"):
        _, lent, _ = _of_hub(HUB, path.removeprefix(f"{HUB}:"), seed=0)
        assert isinstance(lent, VideoPreprocess)
        return lent
    folder = find_encoder(path)
    content = read_config(folder)
    preprocess = read_preprocess(content, folder)
    if not isinstance(preprocess, VideoPreprocess):
        raise EncoderError(
            f"{kind}:{path} needs an encoder of videos, but {folder} is one of {content['modality']}."
        )
    check_unchanged(folder)
    return preprocess


def _described(kind: str, path: str) -> dict[str, Any]:
    source = {"objective": f"none ({BASELINES[kind]})", **({"clips of": path} if path else {})}
    return {"architecture": "pixels" if kind == "pixels" else "hog", "source": source}


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
