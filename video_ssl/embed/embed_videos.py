"""`video-ssl embed`: encoder, videos and output by name; a finished file is not made twice."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from video_ssl.datasets import open_table
from video_ssl.datasets.paths import SOUND_SUFFIXES, VIDEO_SUFFIXES, at_home
from video_ssl.datasets.table import Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.embedding import Embedder, EmbeddingError
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.embed.jobs import changed_contents, job_changes, listed, make_job
from video_ssl.embed.open_encoder import open_encoder
from video_ssl.embed.partial import claim_features, discard
from video_ssl.embed.senses import SensesEmbedder, make_embedder
from video_ssl.recipes import known_settings

logger = logging.getLogger(__name__)

_NAMED = 5


def embed_table(
    encoder: str,
    table: str,
    out: str | Path,
    *,
    device: str = "auto",
    restart: bool = False,
    senses: str | Sequence[str] | None = None,
    **settings: Any,
) -> FeatureFile:
    """Returns the features of videos named by a text, written to `out`.

    A complete file that the same job has written is left as it is.

    Args:
        encoder: see `open_encoder`.
        table: a video file, or what `open_table` takes.
        out: ends in .arrow.
        restart: write anew what is there, complete or not.
        senses: "sound", "text", or both: what is heard and told is embedded into the same file by the encoders of the
            same run; "all": by those that it has.
        settings: fields of `EmbedConfig`.

    Raises:
        EmbeddingError: another name than .arrow, senses that there are not (see `make_embedder`), or `out` has features
            of another job (with `check`: or of other contents).
        OutputError: `out` is no feature file, or cannot be written.

    >>> features = embed_table("runs/mine", "videos", "clips.arrow", num_clips=2, device="cpu")
    >>> features.features.shape
    (6, 32)
    """
    config, out = EmbedConfig(**known_settings(EmbedConfig, settings, "embedding")), Path(out)
    if out.suffix != ".arrow":
        raise EmbeddingError(f"{out} must end in .arrow: that is the only kind that is written.")
    out = claim_features(out, sources=[table])
    embedder = make_embedder(encoder, config, device, senses)
    videos = open_source(table)
    if out.exists() and not restart:
        found = finished_features(out, embedder, videos)
        logger.info("%s is complete already (%d clips); --restart writes it anew", out, len(found))
        discard(out)
        return found
    return embedder.embed(videos, out, restart=restart)


def open_source(spec: str) -> Table:
    """Returns the table of a single file of a video or of sound, or whatever `open_table` understands."""
    path = Path(at_home(spec))
    if path.is_file() and path.suffix.lower() in (*VIDEO_SUFFIXES, *SOUND_SUFFIXES):
        return Table.from_rows([{"id": path.name, "source": os.path.abspath(path)}])
    return open_table(spec)


def finished_features(
    out: Path,
    embedder: Embedder | SensesEmbedder,
    videos: Table,
    *,
    part: Table | None = None,
    in_parts: bool = False,
) -> FeatureFile:
    """Returns the features that are there, if they are those of this job.

    Args:
        out: a file.
        embedder, videos: of the job.
        part: of the videos, whose contents are compared; None = all.
        in_parts: the job is one of several that make the file, see `read_finished`.

    Raises:
        EmbeddingError: they are of another job (or, with `check`, of other contents), or damaged.
    """
    check = embedder.config.check
    found = read_finished(out, in_parts=in_parts)
    changes = job_changes(found.metadata.get("job", {}), embedder.job(videos))
    touched = changes.pop("table.files", None) if check else None
    refuse_other_features(out, changes, in_parts=in_parts)
    if check:
        compared = videos if part is None else part
        refuse_changed_contents(found, compared, in_parts=in_parts)
        if touched:
            logger.info("%s: times of videos have changed, what they hold has not", out)
    return found


def read_finished(out: Path, *, in_parts: bool) -> FeatureFile:
    """Returns the features of a file that is in the way.

    Args:
        out: the file.
        in_parts: it is made by several jobs, of which none knows of the others: --restart of one of them replaces its
            part only, so the file itself has to be removed.

    Raises:
        EmbeddingError: it is damaged.
    """
    try:
        return open_features(out)
    except FeatureError as err:
        way = "Remove it first." if in_parts else "Remove it, or replace it with --restart."
        raise EmbeddingError(f"{err} {way}") from err


def refuse_other_features(out: Path, changes: Mapping[str, str], *, in_parts: bool) -> None:
    """Raises EmbeddingError if a file has other features than those that are to be written there.

    Args:
        out: the file.
        changes: as `job_changes` gives them.
        in_parts: see `read_finished`.
    """
    if changes:
        way = "remove that one" if in_parts else "replace it with --restart"
        touched_only = list(changes) == ["table.files"]
        advice = " If they were only copied or touched, --check compares what they hold."
        raise EmbeddingError(
            f"{out} is there already and has other features (now <- there):\n  {listed(changes)}\n"
            f"Give another output file, or {way}.{advice if touched_only else ''}"
        )


def refuse_other_source(encoder: str, source: str, out: Path, *, check: bool) -> None:
    """Raises EmbeddingError if a file that is there has features of another encoder or of other videos.

    For those who will embed elsewhere: settings are compared there, and so is all of it where the encoder or the videos
    cannot be opened here.

    Args:
        encoder, source: as given to `embed_table`.
        out: a file.
        check: videos that were only touched count as the same.
    """
    found = read_finished(out, in_parts=True)
    try:
        now = make_job(open_encoder(encoder).fingerprint, {}, open_source(source))
    except (ValueError, OSError, ImportError) as err:
        logger.debug("%s is not compared with %s here: %s", out, encoder, err)
        return
    compared = {"encoder", "table.records", "table.rows"} | (set() if check else {"table.files"})
    changes = job_changes(found.metadata.get("job", {}), now)
    known = {key: line for key, line in changes.items() if key in compared}
    refuse_other_features(out, known, in_parts=True)


def refuse_changed_contents(found: FeatureFile, videos: Table, *, in_parts: bool = False) -> None:
    """Raises EmbeddingError, naming them, if videos do not hold what they held when they were embedded.

    Args:
        found: the features.
        videos: those that are compared.
        in_parts: of the file of the features, see `read_finished`.
    """
    changed, full = changed_contents(found, videos)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        way = "Remove it, and embed them again" if in_parts else "Embed them again with --restart"
        raise EmbeddingError(
            f"{found.path} has features of what these videos held before: {', '.join(changed[:_NAMED])}{more}. {way}, "
            "or into another file."
        )
    if full < len(videos):
        text = (
            "%s: of %d of %d videos all bytes were compared, of the others size, beginning and end"
        )
        logger.info(text, found.path, full, len(videos))
