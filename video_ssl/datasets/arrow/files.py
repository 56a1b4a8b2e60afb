"""Arrow files of tables: written atomically, with sources relative to them; whole columns at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from video_ssl.datasets.arrow.checks import remember, seal, sealed
from video_ssl.datasets.parts import each_part_of
from video_ssl.files import written_aside


def write_arrow(data: pa.Table, path: Path) -> None:
    """Writes an Arrow IPC file atomically, with a digest in it (see `arrow.checks`)."""
    data = data.combine_chunks()
    schema = sealed(data.schema)
    with written_aside(path) as aside:
        with pa.OSFile(str(aside), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(data.replace_schema_metadata(schema.metadata))
        seal(aside, schema)
    remember(path, "arrow")


def relative_sources(sources: Any, root: Path, folder: Path) -> pa.Array:
    """Returns sources relative to `folder` where they lie below it, absolute otherwise; URIs as they are.

    So does every part of a source of several files.

    Args:
        sources: strings; relative ones are relative to `root`.
        root: an absolute path.
        folder: an absolute path.
    """
    return each_part_of(sources, lambda parts: _relative(parts, root, folder))


def _relative(sources: Any, root: Path, folder: Path) -> pa.Array:
    fixed = _stand_alone(sources)
    whole = _below(sources, str(root))
    odd = pc.match_substring_regex(whole, r"^/.*(/\.{0,2}(/|$))")
    odd = pc.and_(odd, pc.invert(fixed))
    if pc.any(odd).as_py():  # few tables have `..` and the like
        chosen = [
            os.path.normpath(source) if strange else source
            for source, strange in zip(whole.to_pylist(), odd.to_pylist(), strict=True)
        ]
        whole = pa.array(chosen, pa.string())
    prefix = str(folder).rstrip("/") + "/"
    rest = pc.utf8_slice_codeunits(whole, len(prefix))
    return pc.if_else(pc.starts_with(whole, prefix), rest, whole)


def below(sources: Any, parent: str) -> Any:
    """Returns the sources with relative ones, or their parts, put below a folder or URI."""
    return each_part_of(sources, lambda parts: _below(parts, parent))


def _below(sources: Any, parent: str) -> Any:
    joined = pc.binary_join_element_wise(parent, sources, "/")
    return pc.if_else(_stand_alone(sources), sources, joined)


def _stand_alone(sources: Any) -> Any:
    return pc.match_substring_regex(sources, r"^/|://")
