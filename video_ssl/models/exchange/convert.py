"""`video-ssl convert`: published weights in, our encoders out, and every other way round."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from rich.box import SIMPLE_HEAD
from rich.table import Table

from video_ssl.files import (
    MADE_BY,
    check_writable,
    claim_file,
    made,
    output_aside,
    remove_leftovers,
    write_json,
)
from video_ssl.limits import read_json
from video_ssl.models import published_families
from video_ssl.models.classifier import VideoClassifier, readout_of
from video_ssl.models.encoder_folder import REPORT, named_step
from video_ssl.models.encoders import CONFIG, FORMAT, find_encoder
from video_ssl.models.exchange.convert_config import ConvertConfig, To
from video_ssl.models.exchange.converted import read_folder, write_folder
from video_ssl.models.exchange.export_names import (
    lost_parts,
    original_form,
    reader_of_others,
    with_head,
    write_hugging_face,
    write_original,
    write_tensors,
)
from video_ssl.models.exchange.export_program import write_program
from video_ssl.models.exchange.published import PublishedViT
from video_ssl.models.exchange.published_encoder import usual_heads
from video_ssl.models.exchange.published_model import Published, Reader, Source
from video_ssl.models.exchange.sizes import Sizes
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.models.weights import LoadReport, WeightsError, load_weights
from video_ssl.progress import console_for_tables

SUFFIXES: dict[str, tuple[str, ...]] = {"original": (".pth", ".pt", ".bin"), "export": (".pt2",)}


@dataclass(frozen=True)
class Conversion:
    """What was converted, and what became of every key.

    Attributes:
        source, out, to: as given.
        model: what was read.
        parts: part of the model -> number of its parameters.
        written: files, relative to `out` where that is a folder.
        notes: sentences a reader must know.
        differences: of an exported program, by output.
    """

    source: str
    out: str
    to: str
    model: Published
    parts: Mapping[str, int]
    written: tuple[str, ...]
    notes: tuple[str, ...] = ()
    differences: Mapping[str, float] = field(default_factory=dict)

    @property
    def report(self) -> LoadReport:
        """What became of the keys of the source."""
        return self.model.report

    def as_json(self) -> dict[str, Any]:
        """Returns everything that the printed table says, and all keys in full."""
        report, model = self.report, self.model
        return {
            "source": self.source,
            "out": self.out,
            "to": self.to,
            "family": model.family,
            "layout": model.layout,
            "container": model.container,
            "parts": dict(self.parts),
            "num_classes": model.num_classes,
            "positions": model.table,
            "share": report.share,
            "matched": list(report.matched),
            "renamed": dict(report.renamed),
            "missing": list(report.missing),
            "mismatched": list(report.mismatched),
            "unused": list(report.unused),
            "computed": list(report.computed),
            "notes": list(self.notes),
            "differences": dict(self.differences),
            "written": list(self.written),
        }

    def table(self) -> Table:
        """Returns the report for the screen."""
        report, model = self.report, self.model
        table = Table(box=SIMPLE_HEAD, title=f"{self.source} -> {self.out}", title_justify="left")
        table.add_column("", no_wrap=True)
        table.add_column("number", justify="right")
        table.add_column("", overflow="fold")
        container = f" below {model.container!r}" if model.container else ""
        table.add_row("model", "", f"{model.family}, {model.layout} naming{container}")
        for part, size in self.parts.items():
            table.add_row(part, f"{size:,}", "parameters")
        table.add_row("positions", "", model.table)
        table.add_row(
            "matched", str(len(report.matched)), f"{report.share:.1%} of the model's keys"
        )
        renamed = [f"{old} -> {new}" for old, new in report.renamed.items()]
        rows = (
            ("renamed", renamed),
            ("missing", report.missing),
            ("mismatched", report.mismatched),
            ("unused", report.unused),
            ("computed", report.computed),
        )
        for name, keys in rows:
            table.add_row(name, str(len(keys)), _some(keys))
        for note in self.notes:
            table.add_row("note", "", note)
        if self.differences:
            listed = ", ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
            table.add_row("compared", "", f"largest difference of the written program: {listed}")
        table.add_row("written", str(len(self.written)), ", ".join(self.written))
        return table


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: To = ConvertConfig.to,
    sizes: Sizes | None = None,
    family: str = ConvertConfig.family,
    num_heads: int | None = ConvertConfig.num_heads,
    min_share: float = ConvertConfig.min_share,
    frame_stride: int | None = ConvertConfig.frame_stride,
) -> Conversion:
    """Returns what was converted; the same stands as JSON beside the result (`conversion.json` in a folder,
    `NAME.json` beside a file).

    Args:
        source: a checkpoint file, a folder of Hugging Face, or an encoder folder, run or RUN@STEP of ours.
        out: "ours" and "huggingface" write a folder, "original" a `.pth` file, "export" a `.pt2` file.  What exists
            is not overwritten.
        to: see `out`.
        sizes: what clips the result is for; the position table follows.
        family: whose the source is, one that a network of `NETWORKS` names; "auto" = what its keys say.  All but the
            ViTs can only be written as "ours".
        num_heads, min_share: as in `read_published`.
        frame_stride: source frames between two of a clip, for the preprocessing that the result states; empty = 4,
            or what an encoder of ours says.

    Raises:
        WeightsError, EncoderError: nothing readable there, too few weights, a model that the format
            cannot hold, or a place that is taken.
        OutputError: the note beside a file is taken, or the place cannot be written.
    """
    source, out = Path(source), Path(out)
    remove_leftovers(out.parent, [out.name])
    _check_choices(to, family, min_share, out)
    note = out.with_name(out.name + ".json") if to in SUFFIXES else out / REPORT
    claim_file(note, "convert", sources=[source])
    check_writable(out.parent, out)
    model = _read(source, sizes, family, num_heads, min_share)
    if frame_stride is not None:
        model = _with_stride(model, frame_stride)
    if to != "ours" and isinstance(model, PublishedViT):
        model = with_head(model)
    note_of_source = {
        "converted from": source.name,
        "share of weights": round(model.report.share, 4),
    }
    with output_aside(out) as place:  # the note first: a result that is there has its note
        differences = _write(place, model, to=to, note_of_source=note_of_source)
        written = sorted(p.name for p in place.iterdir()) if place.is_dir() else [out.name]
        conversion = Conversion(
            source=str(source),
            out=str(out),
            to=to,
            model=model,
            parts=_parts(model),
            written=tuple(dict.fromkeys([*written, note.name])),
            notes=(*model.report.notes, *_lost(model, to), *_unsaid(model, to)),
            differences=differences,
        )
        content = {MADE_BY: made("convert"), **conversion.as_json()}
        write_json(place / REPORT if place.is_dir() else note, content)
    return conversion


def _write(
    place: Path, model: Published, *, to: To, note_of_source: dict[str, Any]
) -> dict[str, float]:
    """Writes the model in a form; returns by how much an export differs from what it was made of."""
    if to == "ours":
        write_folder(place, model, source=note_of_source)
    elif to == "original" and (reader := reader_of_others(model.encoder)) is not None:
        container = model.container or reader.CONTAINER
        write_tensors(place, reader.original_state(model), container=container)
    elif not isinstance(model, PublishedViT):
        raise WeightsError(
            f"{note_of_source['converted from']} is a model of {model.family}, which has no such form here: "
            f"leave out --to {to}."
        )
    elif to == "huggingface":
        write_hugging_face(place, model, model.preprocess)
    elif to == "original":
        write_original(place, model, container=model.container or "model")
    else:
        return _export(place, model, note_of_source)
    return {}


def convert_and_print(
    source: Path,
    out: Path,
    *,
    sizes: Sizes,
    **options: Any,
) -> None:
    """Converts and prints the report; arguments as for `convert`."""
    console_for_tables().print(convert(source, out, sizes=sizes, **options).table())


def _check_choices(to: str, family: str, min_share: float, out: Path) -> None:
    for name, value, allowed in (
        ("--to", to, ("ours", "original", "huggingface", "export")),
        ("--family", family, ("auto", *published_families())),
    ):
        if value not in allowed:
            raise WeightsError(f"{name}={value} must be one of {', '.join(allowed)}.")
    if not 0 <= min_share <= 1:
        raise WeightsError(f"--min-share={min_share} must lie in [0, 1].")
    suffixes = SUFFIXES.get(to)
    if suffixes and out.suffix not in suffixes:
        raise WeightsError(
            f"--to {to} writes one file, {out} must end with {' or '.join(suffixes)}."
        )
    if not suffixes and out.suffix in (".pth", ".pt", ".bin", ".pt2", ".safetensors"):
        raise WeightsError(f"--to {to} writes a folder, but {out} is the name of a file.")
    if (os.path.lexists(out) and not out.is_dir()) or (
        out.is_dir() and (suffixes or any(out.iterdir()))
    ):
        raise WeightsError(f"{out} exists and is not overwritten: name another place.")


def _read(
    source: Path, sizes: Sizes | None, family: str, num_heads: int | None, min_share: float
) -> Published:
    if named_step(source) is not None:
        source = find_encoder(source)
    if not source.exists():
        raise WeightsError(f"there is no {source}: give a weights file or a folder with one.")
    # A file beside its config.json says less than the folder.
    if source.name in ("model.safetensors", "pytorch_model.bin") and (
        source.with_name(CONFIG).is_file()
    ):
        source = source.parent
    sizes = sizes or Sizes()
    given = {**vars(sizes), "family": family, "num_heads": num_heads, "min_share": min_share}
    if source.is_dir() and _is_ours(source):
        model = read_folder(source, sizes=sizes)
        _refuse_unheeded(source, "an encoder of ours", given, model.heeds)
        return model
    known, asked = published_families(), Source(source)
    places = dict.fromkeys(known.values() if family == "auto" else [known[family]])
    for place in places:
        reader = cast(Reader, import_module(place))
        found = reader.read(
            asked,
            family=family,
            sizes=sizes,
            num_heads=num_heads,
            min_share=min_share,
        )
        if found is not None:
            what = f"a model of the family {found.family}"
            _refuse_unheeded(source, what, given, ("family", *found.heeds))
            return found
    raise WeightsError(
        f"{source} has the keys of no family that is known here: it is not a checkpoint of {', '.join(known)}."
    )


def _refuse_unheeded(
    source: Path, what: str, given: Mapping[str, Any], heeds: Sequence[str]
) -> None:
    """Raises WeightsError for settings that were given and that the reading of a source does not follow."""
    usual = {**vars(Sizes()), **vars(ConvertConfig())}
    ignored = [name for name in given if given[name] != usual[name] and name not in heeds]
    if ignored:
        named = ", ".join(f"{_flag(name)}={given[name]}" for name in ignored)
        raise WeightsError(
            f"{named} would change nothing: {source.name} is {what}, whose reading follows "
            f"{', '.join(map(_flag, heeds)) or 'no such setting'}. Leave it out."
        )


def _flag(name: str) -> str:
    return "--size" if name == "image_size" else f"--{name.replace('_', '-')}"


def _with_stride(model: Published, frame_stride: int) -> Published:
    preprocess = model.preprocess
    if not isinstance(preprocess, VideoPreprocess):
        raise WeightsError(
            f"--frame-stride={frame_stride} is for encoders of video; this one sees {preprocess.modality}."
        )
    return model.with_clips(replace(preprocess, frame_stride=frame_stride))


def _is_ours(folder: Path) -> bool:
    if (folder / "encoder" / CONFIG).is_file() or (folder / "checkpoints").is_dir():
        return True
    try:
        content = read_json(folder / CONFIG, max_bytes=2**22)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _export(out: Path, model: PublishedViT, note_of_source: dict[str, Any]) -> dict[str, float]:
    classifier, preprocess = None, model.preprocess
    encoder = model.encoder.eval()
    if model.head:
        readout = readout_of(model.head)
        classifier = VideoClassifier(
            encoder.config, num_classes=model.num_classes, readout=readout
        ).eval()
        load_weights(classifier, model.state())
    shape = (preprocess.num_frames, preprocess.size, preprocess.size)
    note = {"source": note_of_source, "preprocess": vars(preprocess), "family": model.family}
    return write_program(out, encoder, clip_shape=shape, note=note, classifier=classifier)


def _parts(model: Published) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for key, value in model.state().items():
        part = ".".join(key.split(".")[: 2 if key.startswith("decoders.") else 1])
        sizes[part] = sizes.get(part, 0) + math.prod(value.shape)
    return sizes


def _lost(model: Published, to: To) -> list[str]:
    """What the requested format leaves out."""
    if to == "ours":
        return []
    if not isinstance(model, PublishedViT):
        reader = reader_of_others(model.encoder)
        lost = () if reader is None else reader.lost_parts(model)
    elif to == "export":
        parts = (*model.decoders, *(["classifier"] if model.classifier else []))
        lost = tuple(dict.fromkeys(key.split(".")[0] for key in parts))
    else:
        form = original_form(model) if to == "original" else to
        lost = tuple(part.rstrip(".") for part in lost_parts(model, form) if part != "-")
    return [f"{to} has no place for {', '.join(lost)}: left out."] if lost else []


def _unsaid(model: Published, to: To) -> list[str]:
    """What a reader of the requested format would take for something else."""
    if to != "original" or not isinstance(model, PublishedViT):
        return []
    config = model.encoder.config
    usual = usual_heads(config.width)
    if config.cosine_attention or usual in (None, config.heads):
        return []
    return [
        f"such a file does not say its heads, and this encoder has {config.heads}, not {usual} as others of width "
        f"{config.width}: --num-heads {config.heads} reads it back."
    ]


def _some(keys: Any, limit: int = 4) -> str:
    names = list(keys)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
