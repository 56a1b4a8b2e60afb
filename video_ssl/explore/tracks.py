"""Tracks: the frame features of one video, from a feature file or from an encoder, and where its pictures are."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from video_ssl.clips.upkeep.probe import is_folder
from video_ssl.datasets.paths import VIDEO_SUFFIXES, local_path, source_of_path
from video_ssl.datasets.table import Record, Table, TableError
from video_ssl.embed.features import FeatureError, FeatureFile
from video_ssl.embed.rates import VARIOUS
from video_ssl.evaluate.frames.frame_sequences import frame_sequences
from video_ssl.evaluate.identity import Origins, origins_of
from video_ssl.explore.whereabouts import is_here, whereabouts
from video_ssl.files import temporary_folder
from video_ssl.recipes import nearest


@dataclass(frozen=True, kw_only=True, eq=False)
class Track:
    """The frames of one video.

    Attributes:
        id: of the record.
        embs: float32 (L, D), in order of time.
        times: float64 (L,), seconds of the source; NaN where unknown.
        labels: int64 (L,), phases, -1 where unknown.
        record: where the pictures are; None where the feature file does not say it.
        origins: of this one video: by which an archive that holds it is recognised.
    """

    id: str
    embs: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    record: Record | None = None
    origins: Origins | None = None


def track_of(features: FeatureFile, key: str) -> Track:
    """Returns the frames of a record of a feature file; those that are not finite are left out.

    Raises:
        FeatureError: no such record (the nearest is named), or it has no usable frame.
    """
    rows = np.flatnonzero(features.ids == key)
    if not len(rows):
        known = sorted(set(features.ids.tolist()))
        name = features.path or "the features"
        raise FeatureError(f"{name} has no record {key!r} among {len(known)}.{nearest(key, known)}")
    own = FeatureFile(rows_of(features.table, rows), path=features.path)
    found = frame_sequences(own, labelled=False)
    return Track(
        id=key,
        embs=found.embs[0],
        times=found.times[0],
        labels=found.labels[0],
        record=record_of(features, key),
        origins=origins_of(features, rows[:1]),
    )


def rows_of(table: pa.Table, rows: np.ndarray) -> pa.Table:
    """Returns the rows as views; `take` would copy the whole column of features first."""
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return pa.concat_tables([table.slice(int(run[0]), len(run)) for run in runs])


def record_of(features: FeatureFile, key: str) -> Record | None:
    """Returns the record behind the features: that of the table that was embedded, where it is still the same one.

    A folder or a video that was embedded has no table, and a table may be gone or be another one by now: the features
    themselves note where every video lies, and those of others may have paths for ids.  Where the videos were moved,
    `features.root` says whereto.  None where nothing is noted, where it is not there any more, and of a folder of
    frames whose rate is not known any more: pictures of other moments would be worse than none.
    """
    row = int(np.argmax(features.ids == key))
    noted, content, start, end = (
        features.table[name][row].as_py()
        for name in ("source", "content", "record_start_sec", "record_end_sec")
    )
    listed = _listed(features, key)
    if listed is not None and noted in (None, listed.source):
        if features.root is None or is_here(listed.source):
            return listed
        noted = listed.source
    else:
        listed = None
    noted = noted or path_in_id(features, key)
    found = noted and whereabouts(noted, root=features.root, content=content)
    if not found:
        return None
    if listed is not None:
        # Moved: a copy may have been written later than the file that was scanned.
        return replace(listed, source=found, file_mtime=None)
    rate = _noted_rate(features)
    if rate == VARIOUS:
        if is_folder(found):
            return None
        rate = None
    return Record(index=row, id=key, source=found, start_sec=start, end_sec=end, fps=rate)


def _noted_rate(features: FeatureFile) -> Any:
    """The rate that the table gave its folders of frames, None where it gave none; `VARIOUS` where that is unknown."""
    about = features.metadata.get("table")
    if about is None:  # features of others
        return VARIOUS
    # Older files note no rate; without a path it was a folder or a list, which seldom has any.
    return about.get("fps", VARIOUS if about.get("path") else None)


def path_in_id(features: FeatureFile, key: str) -> str | None:
    """Returns the id as a source, in features of others: relative to their file, or else to the current folder.

    None where it is no path.
    """
    if features.ids_are_rows or "job" in features.metadata:
        return None
    path = local_path(key)
    if not (os.sep in path or path.lower().endswith(VIDEO_SUFFIXES)):
        return None
    folders = [features.path.parent] if features.path else []
    places = [os.path.abspath(os.path.join(folder, path)) for folder in (*folders, Path.cwd())]
    return source_of_path(next((place for place in places if os.path.exists(place)), places[0]))


def _listed(features: FeatureFile, key: str) -> Record | None:
    """The record in the table that was embedded, where that is a file and still there."""
    path = features.metadata.get("table", {}).get("path")
    if not path or not Path(path).is_file():
        return None
    try:
        table = Table.open(path)
    except TableError:
        return None
    rows = np.flatnonzero(table.column("id") == key)
    return table.record(int(rows[0])) if len(rows) else None


def embed_video(
    path: str | Path,
    encoder: str,
    *,
    like: Mapping[str, Any] | None = None,
    device: str = "auto",
    **changes: Any,
) -> Track:
    """Returns the frames of a video file, embedded now.

    Args:
        encoder: see `open_encoder`.
        like: metadata of a feature file whose features these are to be compared with: the same settings
            are used.  Without it, every frame that the encoder samples is embedded.
        changes: of `EmbedConfig`.

    Raises:
        FeatureError: the encoder is not that of the feature file, or the video cannot be read.
    """
    from video_ssl.embed.config import EmbedConfig
    from video_ssl.embed.embedding import Embedder
    from video_ssl.embed.open_encoder import open_encoder
    from video_ssl.pretrain.processes import choose_device

    where = choose_device(device)
    # Of an archive with tokens, only what is compared with it: its frame features.
    unused = {"outputs", "tokens_dtype", "tokens_side", "tokens_every"}
    known = {f.name for f in fields(EmbedConfig)} - unused
    settings = {k: v for k, v in (like or {}).get("settings", {}).items() if k in known}
    config = EmbedConfig(**settings) if like else EmbedConfig(per_frame=True)
    config = replace(config, num_workers=0, batch_size=4, strict=True, **changes)
    embedder = Embedder(open_encoder(encoder, device), config, device=where, name=encoder)
    expected = (like or {}).get("encoder", {}).get("fingerprint")
    if expected and expected != embedder.fingerprint:
        raise FeatureError(
            f"the features were made by another encoder ({(like or {})['encoder'].get('name')}) than "
            f"{encoder}: features of two encoders cannot be compared. Give that encoder, or embed the "
            "archive again."
        )
    table = Table.from_rows([{"id": Path(path).stem, "source": str(Path(path).absolute())}])
    with temporary_folder("track") as folder:
        features = embedder.embed(table, Path(folder) / "video.arrow", progress=False)
        found = track_of(features, Path(path).stem)
    return replace(found, record=table.record(0))


def refuse_unknown(name: str, *, features: FeatureFile | None, encoder: str | None) -> None:
    """Looks whether `find_track` can find a name, before anything is embedded.

    Raises:
        FeatureError: it is neither the id of a record of `features` nor a video file (the nearest is named), or a video
            file is given without an encoder.
    """
    if features is not None and (features.ids == name).any():
        return
    if Path(name).is_file():
        if encoder is None:
            raise FeatureError(
                f"{name} is a video file: give the encoder that embeds it (--encoder RUN)."
            )
        return
    if features is not None:
        track_of(features, name)  # raises, and names the nearest
    raise FeatureError(
        f"{name!r} is no video file; for the id of a record name the feature file too (--in FEATURES)."
    )


def find_track(
    name: str, *, features: FeatureFile | None, encoder: str | None, device: str = "auto"
) -> Track:
    """Returns the frames of `name`: the id of a record of `features`, or a video file.

    Raises:
        FeatureError: see `refuse_unknown` and `embed_video`.
    """
    refuse_unknown(name, features=features, encoder=encoder)
    if features is not None and (features.ids == name).any():
        return track_of(features, name)
    assert encoder is not None
    return embed_video(
        name, encoder, like=features.metadata if features is not None else None, device=device
    )
