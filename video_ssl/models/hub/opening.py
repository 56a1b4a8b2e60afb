"""Towers of `transformers` by what a user writes: `hub:FOLDER`, `hub:NAME`, and `hub_text:` of either."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from video_ssl.models.encoder_folder import EncoderError
from video_ssl.models.hub.config import HubConfig, HubTextConfig
from video_ssl.models.hub.families import FAMILIES, TEXT_FAMILIES, Family, supported
from video_ssl.models.hub.folder import HubFolder, find_hub_folder
from video_ssl.models.hub.kinds import HUB, HUB_TEXT
from video_ssl.models.hub.library import complete_settings, config_of, library, quiet
from video_ssl.models.hub.network import HubEncoder, class_of
from video_ssl.models.hub.processing import read_processing
from video_ssl.models.hub.text import HubText, read_tokenizer
from video_ssl.models.preprocess_config import TokenizerPreprocess, VideoPreprocess
from video_ssl.recipes import nearest

logger = logging.getLogger(__name__)

#: What stands before the number of a block in the name of one of its weights.
_BLOCK = re.compile(r"(.*?\blayers?\.)\d+\.")
_PROJECTION = "visual_projection.weight"
#: Models that another way leads to.
_ELSEWHERE = {
    "vit_mae": "it hides patches where none should be hidden: `video-ssl convert FOLDER NEW` makes an encoder of it."
}


def open_hub(
    named: str, *, seed: int | None = None
) -> tuple[HubEncoder, VideoPreprocess, dict[str, Any]]:
    """Returns the tower of images or clips of a model, how its clips are made, and its `architecture` and `source`, and
    of trained weights the names that it has no use for (`unused`).

    Args:
        named: a folder or a name, see `find_hub_folder`.
        seed: of fresh weights in place of the trained ones.

    Raises:
        EncoderError: see `find_hub_folder`; an architecture that is not known, or weights that do not fit.
        ImportError: transformers is not installed.
    """
    folder = find_hub_folder(named)
    config = tower_config(folder)
    preprocess = read_processing(folder, config)
    _check_room(folder, config)
    encoder = _fresh(HubEncoder, config, 0 if seed is None else seed)
    grid = _clip_grid(encoder, preprocess, folder)
    logger.info("%s: %s, tokens of a clip %d x %d x %d", named, config.family.title, *grid)
    about: dict[str, Any] = {"architecture": HUB, "source": _source(folder, seed)}
    if seed is None:
        about["unused"] = _fill(encoder, folder, config.family, config.settings, class_of(config))
    return encoder, preprocess, about


def open_hub_text(
    named: str, *, seed: int | None = None
) -> tuple[HubText, TokenizerPreprocess, dict[str, Any]]:
    """Returns the tower of texts of a model, how it reads, and its `architecture` and `source`; as `open_hub`."""
    folder = find_hub_folder(named)
    config = text_config(folder)
    preprocess = read_tokenizer(folder, config)
    most = max(preprocess.ids(["a"]).max(), preprocess.num_words - 1)
    if most >= int(config.settings["vocab_size"]):
        raise EncoderError(
            f"the tokenizer in {folder.path} has {most + 1} tokens, the model knows {config.settings['vocab_size']}: "
            "they do not belong together."
        )
    _check_room(folder, config)
    encoder = _fresh(HubText, config, 0 if seed is None else seed)
    if seed is None:
        _fill(encoder, folder, config.family, config.settings, config.family.model)
    return encoder, preprocess, {"architecture": HUB_TEXT, "source": _source(folder, seed)}


def tower_config(folder: HubFolder) -> HubConfig:
    """Returns the settings of the tower of images or clips of a folder.

    Raises:
        EncoderError: an architecture that is not known, or settings that no network has.
    """
    name, family, given = _tower(folder, FAMILIES)
    try:
        settings = complete_settings(family, given)
        return HubConfig(
            model_type=name, settings=settings, projected=_is_projected(folder, family)
        )
    except (ValueError, TypeError, AttributeError, KeyError) as err:
        raise EncoderError(f"{folder.path / 'config.json'}: {_short(err)}") from err


def text_config(folder: HubFolder) -> HubTextConfig:
    """Returns the settings of the tower of texts of a folder; errors as `tower_config`."""
    name, family, given = _tower(folder, TEXT_FAMILIES)
    try:
        settings = complete_settings(family, given)
        return HubTextConfig(model_type=name, settings=settings)
    except (ValueError, TypeError, AttributeError, KeyError) as err:
        raise EncoderError(f"{folder.path / 'config.json'}: {_short(err)}") from err


def _tower(folder: HubFolder, families: Mapping[str, Family]) -> tuple[str, Family, dict[str, Any]]:
    """Model type, what is known of it, and settings of the tower that a configuration describes."""
    config = folder.config
    said = config.get("model_type")
    for name, family in families.items():
        if said == name:
            return name, family, config
        # A model of two towers is called as they are, without their endings.
        if family.whole and said == name.removesuffix("_vision_model").removesuffix("_text_model"):
            inside = config.get(family.whole) or {}
            if not isinstance(inside, dict):
                raise EncoderError(
                    f"{folder.path / 'config.json'}: {family.whole} must hold keys and values."
                )
            shared = {k: config[k] for k in ("projection_dim",) if k in config}
            return name, family, {**inside, **shared}
    if families is TEXT_FAMILIES:
        raise EncoderError(
            f"{folder.name} ({said}) has no tower of texts: only CLIP and SigLIP models are asked by text."
        )
    why = _ELSEWHERE.get(str(said), f"known are {supported()}.{nearest(str(said), families)}")
    raise EncoderError(
        f"{folder.name} is a {said!r} of transformers, which is no encoder here: {why}"
    )


def _is_projected(folder: HubFolder, family: Family) -> bool:
    return family.common == "projected" and any(k.endswith(_PROJECTION) for k in folder.shapes)


def _check_room(folder: HubFolder, config: HubConfig | HubTextConfig) -> None:
    """Compares how large the network is with the files, before it takes memory."""
    cls: Any = HubEncoder if isinstance(config, HubConfig) else HubText
    try:
        with torch.device("meta"):
            wanted = sum(value.numel() for value in cls(config).state_dict().values())
    except (ValueError, TypeError, RuntimeError, KeyError, ZeroDivisionError) as err:
        raise EncoderError(
            f"{folder.path / 'config.json'} describes no network that can be built: {_short(err)}"
        ) from err
    if wanted > folder.num_numbers:
        raise EncoderError(
            f"{folder.path}: config.json describes a network of {wanted:,} numbers, the weights are "
            f"{folder.num_numbers:,}: they do not belong together, or a file is missing."
        )


def _fresh(cls: Any, config: Any, seed: int) -> Any:
    """A network with weights drawn from `seed`; the global generator is left alone."""
    before = torch.default_generator.get_state()
    try:
        torch.default_generator.manual_seed(seed)
        return cls(config)
    finally:
        torch.default_generator.set_state(before)


def _fill(
    encoder: nn.Module, folder: HubFolder, family: Family, settings: dict[str, Any], name: str
) -> list[str]:
    """Fills a network by the library's own reader, which knows under which names its versions kept what; returns the
    names that have no place in it."""
    there = folder.shapes  # a damaged file is named
    model, unused = _read_into(encoder, family, settings, name, str(folder.path))
    silent = getattr(model, "_keys_to_ignore_on_load_unexpected", None) or ()
    quietly = [key for key in there if any(re.search(pattern, key) for pattern in silent)]
    inner = f"{family.trunk}." if family.trunk else ""
    own = f"{model.base_model_prefix}."
    outside = [key for key in there if not key.removeprefix(own).startswith(inner)]
    return sorted({*unused, *quietly, *outside})


def _read_into(
    encoder: nn.Module,
    family: Family,
    settings: dict[str, Any],
    name: str,
    where: str,
    state: dict[str, torch.Tensor] | None = None,
) -> tuple[Any, list[str]]:
    """Fills a network with the weights of a folder, or with `state`; returns the library's model, and the names that it
    has no place for."""
    cls = getattr(library(), name)
    given: dict[str, Any] = {"use_safetensors": True} if state is None else {"state_dict": state}
    try:
        with quiet():
            model, told = cls.from_pretrained(
                where if state is None else None,
                config=config_of(family, settings),
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                attn_implementation="sdpa",
                dtype=torch.float32,
                **given,
                **family.options,
            )
    except (ValueError, RuntimeError, OSError, KeyError, TypeError) as err:
        raise EncoderError(f"{where} cannot be read by transformers: {_short(err)}") from err
    trunk = f"{family.trunk}." if family.trunk else ""
    lacking = sorted(str(key) for key in told["missing_keys"] if str(key).startswith(trunk))
    wrong = sorted(
        str(key[0] if isinstance(key, tuple) else key) for key in told["mismatched_keys"]
    )
    if lacking or wrong:
        raise EncoderError(
            f"the weights in {where} are not whole for {family.title}: {len(lacking)} missing "
            f"({', '.join(lacking[:5])}), {len(wrong)} of another shape ({', '.join(wrong[:5])})."
        )
    strange = _strange(told["unexpected_keys"], model)
    if strange:
        raise EncoderError(
            f"{where} has {len(strange)} weights in blocks that are not used by the {family.title} of its config.json: "
            f"{', '.join(strange[:4])}. Its features would differ."
        )
    filled = getattr(model, family.trunk) if family.trunk else model
    encoder.model.load_state_dict(filled.state_dict(), strict=True)  # type: ignore[union-attr]
    return model, [str(key) for key in told["unexpected_keys"]]


def _strange(unused: Iterable[str], model: Any) -> list[str]:
    """Weights without a place that lie among the blocks of a tower; those of other towers and heads are none."""
    own = {_BLOCK.match(name) for name in model.state_dict()}
    blocks = {match[1] for match in own if match}
    found = []
    for key in sorted(map(str, unused)):
        match = _BLOCK.match(key.removeprefix(f"{model.base_model_prefix}."))
        if match and match[1] in blocks:
            found.append(key)
    return found


def encoder_of_state(
    config: HubConfig, state: Mapping[str, torch.Tensor], where: str
) -> HubEncoder:
    """Returns a tower with weights under the names that they have on the hub.

    Args:
        config: of the tower.
        state: the weights.
        where: what an error names.

    Raises:
        EncoderError: weights that are missing, or of another shape.
    """
    encoder: HubEncoder = _fresh(HubEncoder, config, 0)
    _read_into(encoder, config.family, config.settings, class_of(config), where, state=dict(state))
    return encoder


def _clip_grid(
    encoder: HubEncoder, preprocess: VideoPreprocess, folder: HubFolder
) -> tuple[int, int, int]:
    side = preprocess.size
    try:
        return encoder.token_grid((preprocess.num_frames, side, side, 3))
    except ValueError as err:
        raise EncoderError(
            f"the processor in {folder.path} makes frames that its model does not take: {err}"
        ) from err


def _source(folder: HubFolder, seed: int | None) -> dict[str, Any]:
    path = (
        str(folder.path.absolute())
        if folder.path.exists() and folder.name == str(folder.path)
        else folder.name
    )
    about: dict[str, Any] = {
        "objective": str(folder.config.get("model_type")),
        "hub": path,
        "license": folder.licence or "unknown",
        "transformers": library().__version__,
    }
    if seed is not None:
        about |= {"objective": "none (untrained)", "seed": seed, "architecture of": path}
        del about["license"]
    return about


def _short(err: Exception) -> str:
    return " ".join(str(err).split())[:400] or type(err).__name__
