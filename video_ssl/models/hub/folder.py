"""Folders as `save_pretrained` writes them, and names of the hub: found, fetched, looked at before anything is built.

Weights are read from safetensors alone, and no code of a folder is ever run: a folder that has none of the one, or asks
for the other, is refused.  What lies in a folder is a stranger's: every size is bounded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from video_ssl.datasets.paths import at_home
from video_ssl.limits import read_json
from video_ssl.models.encoder_folder import EncoderError

CONFIG, CARD = "config.json", "README.md"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
#: What is fetched of a model of the hub: no pickles, no code.
WANTED = ("*.json", "*.safetensors", "*.txt", "*.model", "README.md")
#: Ends of files with weights that are not read, as only code could turn most of them into numbers.
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl")
_MOST_JSON, _MOST_CARD = 2**24, 2**16
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
#: What model cards say about a licence, as far as it may stand in ours.
_LICENCE = re.compile(r"[\w .,:/+()-]{1,200}")
_UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class HubFolder:
    """A folder with a model of `transformers`.

    Attributes:
        path: of the folder.
        name: how it was asked for.
    """

    path: Path
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its `config.json`.

        Raises:
            EncoderError: unreadable, or it asks for code, adapters or quantised weights.
        """
        content = self.json(CONFIG)
        if content is None:
            there = sorted(path.name for path in self.path.iterdir())[:12]
            raise EncoderError(
                f"{self.path} is no folder of transformers: expected {CONFIG} and {WEIGHTS}; there is "
                f"{', '.join(there) or 'nothing'}."
            )
        if "auto_map" in content:
            raise EncoderError(
                f"{self.path / CONFIG} asks for code of its own (auto_map), which is never run. Take a version of the "
                "model that transformers knows by itself."
            )
        if "quantization_config" in content:
            raise EncoderError(
                f"{self.path} holds quantised weights (quantization_config): take the model in full precision."
            )
        if (self.path / "adapter_config.json").exists():
            raise EncoderError(
                f"{self.path} holds an adapter (adapter_config.json), no model: merge it into its model and save that."
            )
        return content

    def json(self, name: str) -> dict[str, Any] | None:
        """Returns the content of one of its files, None where there is none.

        Raises:
            EncoderError: it is not readable, or not keys and values.
        """
        file = self.path / name
        if not file.is_file():
            return None
        try:
            content = read_json(file, max_bytes=_MOST_JSON)
        except (OSError, ValueError) as err:
            raise EncoderError(f"{file} is not readable as JSON: {err}") from err
        if not isinstance(content, dict):
            raise EncoderError(f"{file} must hold keys and values, not {json.dumps(content)[:40]}.")
        return content

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of its tensors by name, read from the heads of the files.

        Raises:
            EncoderError: there are no safetensors, or a damaged file.
        """
        found: dict[str, tuple[int, ...]] = {}
        for file in self._weights():
            try:
                with safe_open(file, "pt") as content:
                    names = list(content.keys())
                    found |= {name: tuple(content.get_slice(name).get_shape()) for name in names}
            except _UNREADABLE as err:
                raise EncoderError(
                    f"{file} is not a complete safetensors file ({err}; {file.stat().st_size} bytes): copy or fetch it "
                    "again."
                ) from err
        return found

    @property
    def num_numbers(self) -> int:
        """How many numbers its weights are."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def licence(self) -> str:
        """What its card or its configuration calls the licence; "" where neither does."""
        front = _front_matter(self.path / CARD)
        said = front.get("license_name") or front.get("license") or self.config.get("license")
        return said if isinstance(said, str) and _LICENCE.fullmatch(said) else ""

    def _weights(self) -> list[Path]:
        if (self.path / WEIGHTS).is_file():
            return [self.path / WEIGHTS]
        index = self.json(INDEX)
        if index is None:
            self._refuse_others()
        names = index.get("weight_map") if index is not None else None
        files = set(names.values()) if isinstance(names, Mapping) else set()
        if not files or not all(isinstance(f, str) and Path(f).name == f for f in files):
            raise EncoderError(f"{self.path / INDEX} names no files beside it: copy it again.")
        lacking = sorted(file for file in files if not (self.path / file).is_file())
        if lacking:
            raise EncoderError(
                f"{self.path} lacks {', '.join(lacking[:3])}, which {INDEX} names: copy it again."
            )
        return [self.path / file for file in sorted(files)]

    def _refuse_others(self) -> None:
        pickled = sorted(p.name for p in self.path.iterdir() if p.name.endswith(_PICKLED))
        if pickled:
            raise EncoderError(
                f"{self.path} has its weights in {', '.join(pickled[:3])} only, which can hold code: they are refused. "
                f"Take a version with {WEIGHTS}, or make one where you trust the file: "
                "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW)."
            )
        raise EncoderError(f"{self.path} has no weights: expected {WEIGHTS} or {INDEX}.")


def find_hub_folder(named: str) -> HubFolder:
    """Returns the folder that a path or a name of the hub means; a name is fetched, if it is not kept already.

    Args:
        named: a folder, or NAME, ORGANISATION/NAME, each with @REVISION.

    Raises:
        EncoderError: there is no such folder, and it is no name; or it cannot be fetched.
        ImportError: the package that fetches is not installed.
    """
    path = Path(at_home(named))
    if path.is_dir():
        return HubFolder(path, named)
    if path.is_file():
        raise EncoderError(
            f"{path} is a file: give the folder that it lies in, with {CONFIG} beside it."
        )
    name, _, revision = named.partition("@")
    if not _NAME.fullmatch(name):
        raise EncoderError(
            f"hub:{named}: there is no such folder, and it is no name of a model such as ORGANISATION/NAME."
        )
    return HubFolder(_fetched(name, revision or None, named), named)


def _fetched(name: str, revision: str | None, named: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as err:
        raise ImportError(
            "huggingface_hub is not installed: pip install 'video_ssl[hub]'."
        ) from err
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(WANTED)))
    except Exception as err:  # its errors are those of several libraries of the network
        said = " ".join(str(err).split())[:300]
        raise EncoderError(
            f"hub:{named}: there is no such folder, and the model cannot be fetched: {said or type(err).__name__}. "
            "Give a folder as save_pretrained writes it, or fetch it where there is a network."
        ) from err


def _front_matter(card: Path) -> Mapping[str, Any]:
    """What stands between the first two lines of dashes of a model card."""
    try:
        with open(card, encoding="utf-8", errors="replace") as file:
            text = file.read(_MOST_CARD)
    except OSError:
        return {}
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = yaml.safe_load(parts[1])
    except (yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}
