"""Encoders of flax: written to the same folders as torch's, and read from them.

`model.safetensors` always has torch's names and order of axes, so `video_ssl.load_encoder` gives a torch encoder of
what flax has trained, and `load_flax_encoder` the flax twin of what torch has trained.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from video_ssl.models import NETWORKS, Network, architecture_of, with_flax
from video_ssl.models.config import settings_of
from video_ssl.models.contract import CLIP, MOMENTS, TOKENS, BaseEncoder, Precision, input_problem
from video_ssl.models.encoder_folder import (
    CONFIG,
    WEIGHTS,
    EncoderError,
    check_unchanged,
    fill_report,
    find_encoder,
    read_config,
    read_preprocess,
    write_encoder_folder,
)
from video_ssl.models.networks.bridges import BridgeError, shapes_of
from video_ssl.models.networks.maps_flax import spatial_cells
from video_ssl.models.preprocess_config import Preprocess, VideoPreprocess
from video_ssl.progress import compiling
from video_ssl.recipes import ConfigError, build_config, to_plain

Floats = NDArray[np.float32]
Variables = Mapping[str, Any]


class FlaxNetwork(Protocol):
    """What a linen module of `NETWORKS` offers.

    Its config has `width`, `grid(T, H, W)` and `frame_positions(T)`, as `contract.Encoder` has them.
    """

    config: Any
    dtype: Any

    def __call__(self, inputs: jax.Array, *, train: bool = False) -> Any:
        """Makes all weights when it is initialised."""

    def feature_map(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Returns (B, t, h, w, D), what all outputs are made of.

        A module whose config has `output_widths`, name -> width, has more: in place of this its `named_outputs(inputs)`
        gives "tokens" (B, L, D), "clip" (B, D) and the others by name; such an encoder has no cells, its "moments" are
        D wide.  `config.check_input(shape, largest=...)` then refuses inputs that do not fit.
        """

    def smallest_input(self) -> jax.Array:
        """Returns the smallest batch that shows all weights."""


class FlaxEncoder(BaseEncoder):
    """A frozen encoder of flax with the methods of a torch one; arrays go in and come out, videos are (B, T, H, W, 3).

    Its tokens are the cells of the feature map.

    Args:
        module: of `NETWORKS`, see `FlaxNetwork`.
        variables: {"params": ..., "batch_stats": ...}, on a device or not.
        architecture: its name in `NETWORKS`.
        preprocess: how clips must be made for it.
        source: where it comes from, as JSON.
        device: of jax, where it computes; None = the first one.
    """

    framework = "flax"
    output_names: tuple[str, ...] = (CLIP, MOMENTS, TOKENS)

    def __init__(
        self,
        module: Any,
        variables: Variables,
        *,
        architecture: str,
        preprocess: Preprocess,
        source: dict[str, Any],
        device: Any = None,
    ) -> None:
        self.module, self.config = module, module.config
        self.variables = jax.device_put(jax.tree.map(jnp.asarray, dict(variables)), device)
        self.architecture, self.preprocess, self.source = architecture, preprocess, source
        self.modality = preprocess.modality
        self.embed_dim: int = self.config.width
        self.output_names = output_names_of(self.config)
        self._forward = jax.jit(self._outputs, static_argnames=("cells", "dtype", "with_tokens"))
        self._compiled = False

    def outputs(
        self,
        inputs: ArrayLike,
        names: Sequence[str],
        *,
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
        precision: Precision | None = None,
    ) -> dict[str, Floats]:
        """Returns float32 "clip" (B, D'), "moments" (B, T', D') and "tokens" (B, L, D) of one forward pass.

        Args:
            inputs: a batch, of video normalised (B, T, H, W, 3).
            names: of these three.
            cells: D' = cells * cells * D: the means of so many parts of the frame, side by side.
            layer, pooling: None and "mean", as a convolution has no others.
            precision: of the activations; None = that of the module.
        """
        self.check_outputs(names, layer=layer, pooling=pooling)
        batch = jnp.asarray(inputs)
        if self.modality == "video":
            self._check_input(batch)
        if hasattr(self.config, "check_input"):
            largest = int(batch.max()) if batch.size and self.modality == "text" else None
            self.config.check_input(batch.shape, largest=largest)
        with contextlib.nullcontext() if self._compiled else compiling("the encoder"):
            found = self._forward(
                self.variables,
                batch,
                cells=cells,
                dtype=precision,
                with_tokens=TOKENS in names,
            )
        self._compiled = True  # for other shapes too, but nobody waits long a second time
        return {name: np.asarray(found[name]) for name in names}

    def outputs_of_arrays(
        self,
        clips: NDArray[Any],
        names: Sequence[str],
        *,
        precision: Precision = "float32",
        cells: int = 1,
        layer: int | None = None,
        pooling: str = "mean",
    ) -> dict[str, Floats]:
        """Returns `outputs` of clips as they are read, see `Encoder.outputs_of_arrays`."""
        pre = self.preprocess
        if isinstance(pre, VideoPreprocess) and clips.dtype != np.uint8:
            raise ValueError(f"video is {clips.dtype}, but pixels must be uint8 (B, T, H, W, 3).")
        batch = jnp.asarray(clips)
        inputs = normalize_pixels(batch, pre) if isinstance(pre, VideoPreprocess) else batch
        return self.outputs(
            inputs, names, cells=cells, layer=layer, pooling=pooling, precision=precision
        )

    def _check_input(self, video: jax.Array) -> None:
        """Raises ValueError for a batch that no encoder of videos takes; the text says how to make it right."""
        on_host = video.size and {device.platform for device in video.devices()} == {"cpu"}
        problem = input_problem(
            video.shape,
            str(video.dtype),
            channels_last=True,
            largest=float(jnp.abs(video).max()) if on_host else None,
        )
        if problem:
            raise ValueError(problem)

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        """Returns the width of an output."""
        widths = output_widths_of(self.config)
        if widths is not None:
            self.check_outputs([name], layer=layer)
            return widths[name]
        return super().output_dim(name, layer=layer) * (1 if name == TOKENS else cells * cells)

    def token_grid(self, shape: Sequence[int], *, layer: int | None = None) -> tuple[int, int, int]:
        """Returns the (t, h, w) of the feature map of a clip of shape (T, H, W, 3)."""
        grid: tuple[int, int, int] = self.config.grid(*shape[:3])
        return grid

    def frame_positions(self, num_frames: int) -> NDArray[np.float64]:
        """Returns float64 (T',): where each frame feature lies, in units of sampled frames."""
        positions: NDArray[np.float64] = self.config.frame_positions(num_frames)
        return positions

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any weight or setting; those of torch's twin differ."""
        digest = hashlib.sha256(b"flax")
        plain = [self.architecture, to_plain(self.config), settings_of(self.preprocess)]
        digest.update(json.dumps(plain, sort_keys=True, default=str).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name}{value.shape}{value.dtype}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()[:16]

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Returns the weights under torch's names."""
        bridge = NETWORKS[self.architecture].bridge_module()
        state: dict[str, NDArray[Any]] = bridge.to_torch_state(jax.device_get(self.variables))
        return state

    def to(self, device: Any) -> FlaxEncoder:
        """Moves the weights to a device of jax and returns the encoder."""
        self.variables = jax.device_put(self.variables, device)
        return self

    def _outputs(
        self,
        variables: Variables,
        video: jax.Array,
        *,
        cells: int,
        dtype: str | None,
        with_tokens: bool,
    ) -> dict[str, jax.Array]:
        module = self.module if dtype is None else self.module.clone(dtype=jnp.dtype(dtype))
        if output_widths_of(self.config) is not None:
            named = module.apply(variables, video, method="named_outputs")
            named = {name: value.astype(jnp.float32) for name, value in named.items()}
            grid = self.token_grid(video.shape[1:])
            cut = named[TOKENS].reshape(len(video), *grid, -1)
            return {**named, MOMENTS: spatial_cells(cut, 1)}
        feature_map = module.apply(variables, video, method="feature_map").astype(jnp.float32)
        moments = spatial_cells(feature_map, cells)
        found = {CLIP: moments.mean(1), MOMENTS: moments}
        if with_tokens:
            found[TOKENS] = feature_map.reshape(len(video), -1, feature_map.shape[-1])
        return found


def output_names_of(config: Any) -> tuple[str, ...]:
    """Returns the names of what the flax encoder of a config gives."""
    return tuple(output_widths_of(config) or FlaxEncoder.output_names)


def output_widths_of(config: Any) -> Mapping[str, int] | None:
    """Returns name -> width of a network with `named_outputs`; None where all is made of its feature map."""
    found: Mapping[str, int] | None = getattr(config, "output_widths", None)
    return found


def normalize_pixels(video: jax.Array, preprocess: VideoPreprocess) -> jax.Array:
    """Returns float32 (..., 3), pixels of uint8 (..., 3) in [0, 1] minus the mean, divided by the deviation."""
    pixels = video.astype(jnp.float32) / 255
    return (pixels - jnp.asarray(preprocess.mean)) / jnp.asarray(preprocess.std)


def save_flax_encoder(
    folder: str | Path,
    variables: Variables,
    *,
    architecture: str,
    config: Any,
    preprocess: Preprocess,
    source: dict[str, Any],
    beside: Mapping[str, Variables] | None = None,
) -> Path:
    """Returns the folder into which an encoder was written, for torch and flax alike; see `save_encoder` for the rules.

    Args:
        folder: where to; usually RUN/encoder.
        variables: {"params": ..., "batch_stats": ...} of the encoder alone, whole arrays on this process.
        architecture: its name in `NETWORKS`.
        config: of the encoder.
        preprocess, source: as in `save_encoder`.
        beside: file name -> variables of other parts (heads) kept with it.

    Raises:
        EncoderError: unknown architecture, weights that are not finite, a place that is taken by something else.
    """
    bridge = flax_network(architecture, str(folder)).bridge_module()
    weights = bridge.to_torch_state(jax.device_get(dict(variables)))
    broken = [k for k, v in weights.items() if not np.isfinite(v).all()]
    if broken:
        raise EncoderError(
            f"{len(broken)} weights are not finite, first {broken[0]!r}: such an encoder is not saved."
        )

    def write(place: Path) -> None:
        save_file(weights, place / WEIGHTS, metadata={"format": "pt"})
        for name, part in (beside or {}).items():
            state = bridge.to_torch_state(jax.device_get(dict(part)))
            save_file(state, place / name, metadata={"format": "pt"})

    counted = [v.size for k, v in weights.items() if "running_" not in k and v.dtype.kind == "f"]
    return write_encoder_folder(
        folder,
        write,
        architecture=architecture,
        config=config,
        preprocess=preprocess,
        source=source,
        num_parameters=sum(counted),
        embed_dim=config.width,
        output_names=output_names_of(config),
        versions={"jax": jax.__version__},
    )


def load_flax_encoder(
    path_or_run: str | Path, *, dtype: Any = jnp.float32, device: str | None = None
) -> FlaxEncoder:
    """Returns the flax encoder of a run or an encoder folder, whichever framework has written it.

    Args:
        path_or_run: RUN, RUN@STEP, RUN/encoder, RUN/encoders/NAME, or `untrained:PATH[@SEED]`: the same architecture,
            fresh weights.
        dtype: of activations.
        device: platform whose first device computes: "cpu", "cuda", "tpu"; None = jax's own choice.

    Raises:
        EncoderError: nothing there, an architecture without a flax twin, weights that do not fit; jax sees no such
            device.

    >>> encoder = load_flax_encoder("runs/teg")
    >>> found = encoder.outputs(np.zeros((1, 8, 32, 32, 3), np.float32), ["clip"])
    >>> found["clip"].shape == (1, encoder.embed_dim)
    True
    """
    spec = str(path_or_run)
    untrained = spec.startswith("untrained:")
    path, _, seed = spec.removeprefix("untrained:").rpartition("@") if untrained else (spec, "", "")
    if untrained and not (path and seed.isdigit()):
        path, seed = spec.removeprefix("untrained:"), "0"
    folder = find_encoder(path)
    content = read_config(folder)
    network = flax_network(content["architecture"], str(folder / CONFIG))
    try:
        config = build_config(network.config_class(), content["config"], "config")
    except ConfigError as err:
        raise EncoderError(f"{folder / CONFIG}: {err}") from err
    preprocess = read_preprocess(content, folder)
    module = network.flax_class()(config, dtype=dtype)
    source = content["source"]
    if untrained:
        check_unchanged(folder)
        variables = init_variables(module, int(seed))
        source = {"objective": "none (untrained)", "seed": int(seed), "architecture of": path}
    else:
        variables = _read_variables(module, network.bridge_module(), folder)
    return FlaxEncoder(
        module,
        variables,
        architecture=content["architecture"],
        preprocess=preprocess,
        source=source,
        device=_first_device(device),
    )


def _first_device(platform: str | None) -> Any:
    if platform is None:
        return None
    try:
        return jax.devices(platform)[0]
    except RuntimeError as err:
        raise EncoderError(
            f"device={platform}, but jax sees no such device ({str(err).splitlines()[0]}). Use device=cpu, or install "
            "the jax of that platform: pip install 'jax[cuda12]' or 'jax[tpu]'."
        ) from err


def init_variables(
    module: Any, seed: int, inputs: ArrayLike | tuple[ArrayLike, ...] | None = None
) -> dict[str, Any]:
    """Returns fresh variables of a module, on one device.

    The generator is XLA's own: programs with hundreds of draws of jax's default one take minutes to compile.  Its
    numbers are the same for the same kind of device, but not under another sharding: shard what comes out.

    Args:
        module: linen.
        seed: of the draws.
        inputs: the smallest batch that shows all weights, a tuple where the module takes several arrays; None = what a
            network of `NETWORKS` says itself.
    """
    key = jax.random.key(seed, impl="rbg")
    example = module.smallest_input() if inputs is None else inputs
    arrays = example if isinstance(example, tuple) else (example,)
    return dict(jax.jit(module.init)(key, *arrays))


def build_flax_module(config: Any, *, dtype: Any = jnp.float32) -> Any:
    """Returns the linen module of the network that the config belongs to; weights come of its `init`."""
    network = flax_network(architecture_of(config), type(config).__name__)
    return network.flax_class()(config, dtype=dtype)


def flax_network(architecture: str, where: str) -> Network:
    """Returns the network of a name, which has a flax side.

    Raises:
        EncoderError: there is none, or for torch only; `where` says who asks.
    """
    network = NETWORKS.get(architecture)
    if network is None or network.flax is None:
        known = "is unknown" if network is None else "is for torch only"
        raise EncoderError(
            f"{where}: architecture {architecture!r} {known}; flax has {with_flax()}."
        )
    return network


def _read_variables(module: Any, bridge: Any, folder: Path) -> dict[str, Any]:
    file = folder / WEIGHTS
    try:
        variables: dict[str, Any] = bridge.to_flax_variables(load_file(file))
    except (SafetensorError, OSError, ValueError) as err:
        problem = (
            str(err) if isinstance(err, BridgeError) else f"not a complete safetensors file ({err})"
        )
        raise EncoderError(f"{file}: {problem}; copy or save it again.") from err
    wanted = jax.eval_shape(module.init, jax.random.key(0), module.smallest_input())
    problem = fill_report(shapes_of(variables), shapes_of(wanted))
    if problem:
        raise EncoderError(f"{file} does not fit {folder / CONFIG}: {problem}.")
    check_unchanged(folder, WEIGHTS)
    return variables
