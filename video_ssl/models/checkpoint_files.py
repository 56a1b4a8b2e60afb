"""Reading weight files that come from elsewhere, without ever running what they say.

Two readers are used: safetensors, and PyTorch's `weights_only` unpickler, which gives a meaning to
no name but those of an allow-list.  Checkpoints of the field carry more than tensors (their command
line, numbers of numpy, the loss scaler); the names in `HARMLESS` are therefore mapped onto an inert
stand-in of ours, so that neither the library they name is imported nor its code run.  Every other
name refuses the file, and the error lists them all.

Why not a reader that replaces *every* unknown name by a stand-in: it would be as safe, but a hostile
file would load as if nothing were wrong with it.  A file that names `os.system` should be thrown
away, not converted.
"""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from video_ssl.limits import archive_problem, parse_json, read_json
from video_ssl.models.encoder_folder import EncoderError, check_unchanged, read_config
from video_ssl.models.pickled_modules import MODULES, is_known, read_module

log = logging.getLogger(__name__)

#: Repeated values that a tensor may have beyond what is stored, as small buffers do.
_SPARE_BYTES = 2**24


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the text says what was found and expected."""


class Inert:
    """Stands where a checkpoint has an object that is not a tensor; takes anything, keeps nothing."""

    def __new__(cls, *_args: object, **_kwargs: object) -> Inert:
        return object.__new__(cls)

    def __init__(self, *_args: object, **_kwargs: object) -> None: ...

    def __setstate__(self, _state: object) -> None: ...

    def __repr__(self) -> str:
        return "(not a tensor, not read)"


class Arguments:
    """Stands for a command line; `options` keeps what has a plain value: a number, a text, a list of such."""

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        self.options: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.options = plain_options(state)


def plain_options(content: object) -> dict[str, Any]:
    """Returns the entries of a mapping whose names are texts and whose values are plain; {} if it is no mapping."""
    if not isinstance(content, Mapping):
        return {}
    return {k: v for k, v in content.items() if isinstance(k, str) and _is_plain(v)}


def _is_plain(value: object) -> bool:
    # One level, since a hostile list may hold itself.
    items = value if isinstance(value, list | tuple) else [value]
    return all(item is None or isinstance(item, bool | int | float | str) for item in items)


class PlainSettings:
    """Stands for a configuration that is a dictionary with attributes: what is made of it is an `OrderedDict`, the
    only kind besides `dict` that the reader of PyTorch fills with items."""

    def __new__(cls, *_args: object, **_kwargs: object) -> OrderedDict[str, Any]:  # type: ignore[misc]
        return OrderedDict()


#: Configurations of the field that are dictionaries (CARL's checkpoints hold the first one).
SETTINGS = ("easydict.EasyDict", "yacs.config.CfgNode")

#: What training scripts keep of their command line.
COMMAND_LINE = "argparse.Namespace"

#: Names that checkpoints of the field are known to hold beside their tensors.
HARMLESS = (
    COMMAND_LINE,
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{name}DType" for name in ("Float64", "Float32", "Int64", "Int32", "Bool")),
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.Path",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
    "datetime.datetime",
    "datetime.timedelta",
    "torch.torch_version.TorchVersion",
    # DeepSpeed's fine-tuned files and mmaction2's (unverified: none was opened here).
    "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler",
    "deepspeed.runtime.zero.config.ZeroStageEnum",
    "mmengine.logging.history_buffer.HistoryBuffer",
)

#: As the library of safetensors has it.
MAX_HEADER_BYTES = 100_000_000

#: What a reader of a damaged file may raise; nothing here is a mistake of ours.
BROKEN = (
    SafetensorError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)


def read_content(path: str | Path) -> Mapping[str, Any]:
    """Returns what a weights file holds, on the CPU; its first bytes decide its kind.

    Args:
        path: a `.safetensors` file, a PyTorch checkpoint of any age, or the `.index.json` of a model
            that is split over several files beside it.

    Raises:
        WeightsError: no such file, a broken or truncated one, something else under that name, or one
            that would have to run code to be read; one sentence says which.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file {path}.")
    if path.name.endswith(".index.json"):
        return _read_split(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
    _refuse_other_kinds(path, start, size)
    if _is_safetensors(start, size):
        _check_if_ours(path)
        return _read_safetensors(path, start, size)
    if start[:2] == b"PK":
        _check_archive(path, size)
        _refuse_changed(path)
    elif start[:1] != b"\x80":
        raise WeightsError(
            f"{path} is no checkpoint: it begins with {start[:8]!r}, where a safetensors file, a PyTorch "
            "archive or a pickle was expected."
        )
    return _read_torch(path)


def _refuse_other_kinds(path: Path, start: bytes, size: int) -> None:
    """Names what people have instead of weights: empty files, web pages, pointers, archives."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    reason = None
    if size == 0:
        reason = "is empty (0 bytes)"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        reason = (
            "is a web page, not weights: the server sent a page (sign-in, consent, quota) instead of "
            "the file"
        )
    elif text.startswith(b"version https://git-lfs"):
        reason = "is a pointer of git-lfs, not the weights (git lfs pull fetches them)"
    elif text.startswith((b"{", b"[")) and path.suffix != ".safetensors":
        reason = "is JSON text, not weights"
    elif start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")) or (
        start[257:262] == b"ustar"
    ):
        reason = "is a packed archive: unpack it and give the weights file inside"
    if reason:
        raise WeightsError(f"{path} {reason}. Download or copy it again.")


# Safetensors ---------------------------------------------------------------------------------------


def _is_safetensors(start: bytes, size: int) -> bool:
    """Eight bytes of header length, then the header, a JSON object."""
    return len(start) > 8 and start[8:9] == b"{" and size > 8


def _read_safetensors(path: Path, start: bytes, size: int) -> dict[str, Tensor]:
    length = int.from_bytes(start[:8], "little")
    if MAX_HEADER_BYTES < length <= size:
        raise WeightsError(
            f"{path} has a safetensors header of {length:,} bytes: more than {MAX_HEADER_BYTES:,}, the most there is."
        )
    wanted = 8 + length
    if wanted <= size:
        try:
            with path.open("rb") as file:
                file.seek(8)
                header = parse_json(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            wanted += max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as err:
            raise WeightsError(f"{path} has a broken safetensors header: {err}.") from err
    if wanted > size:
        raise WeightsError(
            f"{path} is truncated: its safetensors header announces {wanted:,} bytes, the file has "
            f"{size:,}. Download or copy it again."
        )
    try:
        return load_file(path)
    except BROKEN as err:
        raise WeightsError(f"{path} is not a readable safetensors file: {err}.") from err


def _check_if_ours(path: Path) -> None:
    """A file of an encoder folder of ours, named by itself, is checked as the folder is."""
    try:
        read_config(path.parent)
    except EncoderError:
        return
    check_unchanged(path.parent, path.name)


def _read_split(index: Path) -> dict[str, Tensor]:
    """The files named in an index, one state dict."""
    try:
        names = sorted(set(read_json(index, max_bytes=MAX_HEADER_BYTES)["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as err:
        raise WeightsError(f"{index} is no index of split weights: {err!r}.") from err
    state: dict[str, Tensor] = {}
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise WeightsError(f"{index} names {name!r}, which is not a file beside it: refused.")
        state.update(read_content(index.parent / name))
    return state


# PyTorch -------------------------------------------------------------------------------------------


def _is_archive(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # the end of an archive that is none in the middle
        return False


def _check_archive(path: Path, size: int) -> None:
    """A zip archive ends with its directory, so a truncated one is no archive."""
    if not _is_archive(path):
        raise WeightsError(
            f"{path} is truncated: it begins as a PyTorch archive but has no end ({size:,} bytes). "
            "Download or copy it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as err:
        raise WeightsError(
            f"{path} is a damaged archive ({err}). Download or copy it again."
        ) from err
    tails = {name.partition("/")[2] for name in names}
    if "constants.pkl" in tails or "code" in {tail.partition("/")[0] for tail in tails}:
        raise WeightsError(
            f"{path} is a TorchScript program, not weights: save the state_dict() of the model instead."
        )
    if any(tail.startswith("models/") for tail in tails) and "data.pkl" not in tails:
        raise WeightsError(
            f"{path} is a program of torch.export: torch.export.load runs it, but there are no named "
            "weights to convert."
        )
    problem = archive_problem(path)
    if problem:
        raise WeightsError(
            f"{path} is no PyTorch archive, or a damaged one: {problem}. PyTorch stores tensors as they are. Download "
            "or copy it again."
        )
    if "data.pkl" not in tails:
        raise WeightsError(
            f"{path} is a zip archive without data.pkl, so no PyTorch checkpoint; it holds "
            f"{', '.join(names[:5])}."
        )


def _refuse_changed(path: Path) -> None:
    """PyTorch writes the checksum of every entry and does not look at it again; half a second a GiB."""
    changed, fine = [], 0
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            try:
                with archive.open(entry) as file:
                    while file.read(2**22):
                        pass
                fine += 1
            except (zipfile.BadZipFile, EOFError, OSError, ValueError, NotImplementedError):
                changed.append(entry.filename)
    if changed and fine:
        raise WeightsError(
            f"{path} is damaged: {changed[0]} is not what was written, says its checksum. Download or copy it again."
        )
    if changed:  # torch.serialization.set_crc32_options(False)
        log.warning(
            "%s was written without checksums: whether it is damaged cannot be checked", path
        )


def _read_torch(path: Path) -> Mapping[str, Any]:
    stand_ins: list[Any] = [(Inert, name) for name in HARMLESS if name != COMMAND_LINE]
    stand_ins.append((Arguments, COMMAND_LINE))
    stand_ins += [(PlainSettings, name) for name in SETTINGS]
    try:
        # An open file, so that the suffix does not decide; our errors contain the name.
        with torch.serialization.safe_globals(stand_ins), path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except BROKEN as err:
        refused = foreign_names(path)
        if is_known(refused):
            return _read_module(path)
        if MODULES[0] in refused:
            refused = [name for name in refused if not is_known([MODULES[0], name])]
        if refused:
            raise WeightsError(
                f"{path} names {', '.join(refused)}, which only code could turn into an object: it is "
                "refused, nothing of it was run. If you trust its origin, load it there and keep the tensors: "
                "torch.save(checkpoint['model'], 'new.pth')."
            ) from err
        raise _damaged(path, err) from err
    if not isinstance(content, Mapping):
        raise WeightsError(f"{path} holds a {type(content).__name__}, expected a state dict.")
    _refuse_unstored(path, content)
    return content


def _read_module(path: Path) -> Mapping[str, Any]:
    try:
        content = read_module(path)
    except BROKEN as err:
        raise _damaged(path, err) from err
    _refuse_unstored(path, content)
    return content


def _damaged(path: Path, err: Exception) -> WeightsError:
    first = str(err).strip().splitlines()[0] if str(err).strip() else type(err).__name__
    return WeightsError(
        f"{path} is a damaged or truncated PyTorch checkpoint ({path.stat().st_size:,} bytes): {first[:200]}"
    )


def _refuse_unstored(path: Path, content: Any, place: str = "", depth: int = 0) -> None:
    """A tensor may repeat what is stored, by strides of 0; whoever copies it takes memory for all it claims."""
    if depth > 20:
        raise WeightsError(f"{path} is nested deeper than any state dict at {place[:100]!r}.")
    if isinstance(content, Tensor):
        claimed, stored = (
            content.numel() * content.element_size(),
            content.untyped_storage().nbytes(),
        )
        if claimed > stored + _SPARE_BYTES:
            raise WeightsError(
                f"{path}: {place} claims {claimed:,} bytes and stores {stored:,}: refused, since a copy would take all."
            )
    elif isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_unstored(path, value, f"{place}.{key}" if place else str(key), depth + 1)
    elif isinstance(content, (list, tuple)):
        for number, value in enumerate(content):
            _refuse_unstored(path, value, f"{place}.{number}", depth + 1)


def foreign_names(path: Path) -> list[str]:
    """Returns the names in a checkpoint that neither PyTorch nor `HARMLESS` knows, by looking at the
    opcodes of its pickles; nothing is executed.  Empty if there are none, or no pickle was found."""
    known = set(torch._weights_only_unpickler._get_allowed_globals())
    known |= {*HARMLESS, *SETTINGS}
    found: dict[str, None] = {}
    for stream in _pickles(path):
        for name in _names(stream):
            if name not in known:
                found[name] = None
    return list(found)


def _pickles(path: Path) -> Iterator[BinaryIO]:
    if _is_archive(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with contextlib.suppress(zipfile.BadZipFile, EOFError, OSError, ValueError):
                    if name.endswith(".pkl"):
                        yield io.BytesIO(archive.read(name))
    else:
        with path.open("rb") as file:
            yield file


def _names(stream: BinaryIO) -> Iterator[str]:
    """`module.name` of every GLOBAL, STACK_GLOBAL and INST of the pickles that follow one another."""
    strings: list[str] = []
    while True:
        try:
            for opcode, arg, _ in pickletools.genops(stream):
                if opcode.name in ("GLOBAL", "INST"):
                    yield _modern(*str(arg).split(" ", 1))
                elif opcode.name == "STACK_GLOBAL" and len(strings) > 1:
                    yield _modern(strings[-2], strings[-1])
                elif isinstance(arg, str):
                    strings.append(arg)
        except (ValueError, IndexError, EOFError, struct.error, OverflowError, MemoryError):
            return  # the end of the pickles, or of what can be understood


def _modern(module: str, name: str) -> str:
    """The spelling of Python 3, as PyTorch looks names up."""
    renamed = torch._weights_only_unpickler.NAME_MAPPING.get((module, name))
    if renamed:
        return ".".join(renamed)
    return f"{torch._weights_only_unpickler.IMPORT_MAPPING.get(module, module)}.{name}"
