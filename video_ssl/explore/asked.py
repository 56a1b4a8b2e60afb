"""What an archive is asked by that is no video: a text or a sound, as a vector in the space that it shares with video.

The vector comes from the encoder of text or sound that the archive's own encoder was trained with, or, for features of
others, from a file with vectors of texts that their model has made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from video_ssl.clips.audio import SILENCE
from video_ssl.clips.reading import open_record
from video_ssl.clips.sound_windows import SoundWindows, iterate_sound_windows
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.explore.clip_archive import ClipArchive
from video_ssl.files import temporary_folder
from video_ssl.models import NETWORKS
from video_ssl.models.contract import COMMON_WITH, Encoder
from video_ssl.models.preprocess_config import (
    Modality,
    TextPreprocess,
    TokenizerPreprocess,
    split_words,
)
from video_ssl.recipes import nearest

__all__ = ["Asked", "ask"]

Sense = Literal["text", "sound"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A question to an archive.

    Attributes:
        title: the text, or the name of the sound file.
        sense: what it is.
        vector: float32 (D,), of any length.
        record: the sound file, None of a text.
        notes: what to beware of.
    """

    title: str
    sense: Sense
    vector: np.ndarray
    record: Record | None = None
    notes: tuple[str, ...] = ()


def ask(
    features: FeatureFile,
    *,
    text: str | None = None,
    sound: str | None = None,
    vectors: str | Path | None = None,
    encoder: str | None = None,
    device: str = "auto",
) -> tuple[Asked, ClipArchive]:
    """Returns the question, and the archive by the output that answers it.

    Args:
        features: the archive.
        text, sound: one of them: words, or a file that has sound.
        vectors: a feature file of texts whose `ids` are the texts, of the same model as the archive: no encoder then.
        encoder: that made the archive; by default what the archive says.

    Raises:
        FeatureError: the archive has no vectors for this, the encoder is another one than the archive's, no word is
            known, or the sound cannot be read.
        EncoderError: no encoder of this sense beside that of the archive.
    """
    sense: Sense = "sound" if text is None else "text"
    if vectors is not None:
        if text is None:
            raise FeatureError("--vectors has vectors of texts: give --text, one of its ids.")
        asked = _from_file(text, open_features(vectors))
        return asked, ClipArchive(features, _output(features, sense, of_others=True))
    archive = ClipArchive(features, _output(features, sense, of_others=False))
    own = _partner(features, sense, encoder, device)
    found = _told(str(text), own, device) if sense == "text" else _heard(str(sound), own, device)
    return found, archive


def _output(features: FeatureFile, sense: Sense, *, of_others: bool) -> str:
    common = COMMON_WITH[sense]
    if common in features.outputs:
        return common
    if of_others and "job" not in features.metadata:
        return "clip"
    where = features.path or "the features"
    raise FeatureError(
        f"{where} has no vectors in a space shared with {sense} (only {', '.join(features.outputs)}): embed the "
        f"archive with an encoder that was trained with one of {sense}, such as vatt's. For features of others give "
        "--vectors, see docs/features.md."
    )


def _from_file(text: str, texts: FeatureFile) -> Asked:
    rows = np.flatnonzero(texts.ids == text)
    if not len(rows):
        known = [str(key) for key in dict.fromkeys(texts.ids.tolist())]
        raise FeatureError(
            f"{texts.path} has no vector of the text {text!r}: its ids are the texts, {len(known)} of them."
            f"{nearest(text, known)}"
        )
    output = COMMON_WITH["text"] if COMMON_WITH["text"] in texts.outputs else "clip"
    return Asked(title=text, sense="text", vector=texts.read(output, rows).mean(axis=0))


def _partner(features: FeatureFile, sense: Sense, encoder: str | None, device: str) -> str:
    """The encoder of text or sound of the run that embedded the archive."""
    from video_ssl.embed.open_encoder import open_encoder, partner_spec

    made = features.metadata.get("encoder", {})
    named = encoder or made.get("name")
    if not named:
        raise FeatureError(
            f"{features.path or 'the archive'} does not say which encoder made it: give the run (--encoder RUN), or "
            "for features of others --vectors, see docs/features.md."
        )
    network = NETWORKS.get(made.get("architecture", ""))
    sees: Modality = network.modality if network else "video"
    own = partner_spec(named, sees)
    if made.get("fingerprint") not in (None, open_encoder(own, device).fingerprint):
        raise FeatureError(
            f"the archive was embedded by another encoder ({made.get('name')}) than {own}: features of two encoders "
            "cannot be compared. Give that encoder (--encoder), or embed the archive again."
        )
    return partner_spec(own, sense)


def _told(text: str, encoder: str, device: str) -> Asked:
    from video_ssl.embed.open_encoder import open_encoder

    reader = open_encoder(encoder, device)
    words = reader.preprocess
    if isinstance(words, TokenizerPreprocess):
        return _told_in_tokens(text, reader, words)
    assert isinstance(words, TextPreprocess)
    found = split_words(text, lower_case=words.lower_case)
    ids = words.ids([text])
    if not found:
        raise FeatureError(f"the text {text!r} has no words: write what is to be seen.")
    read, known = found[: words.length], ids[0][: len(found)] != words.unknown
    unknown = [word for word, there in zip(read, known, strict=True) if not there]
    if len(unknown) == len(read):
        raise FeatureError(
            f"{encoder} knows none of the words of {text!r}: its vocabulary has {len(words.vocabulary)} words of the "
            "captions that it was trained with. Take some of these."
        )
    notes = []
    if unknown:
        notes.append(f"{', '.join(map(repr, unknown))} not in the vocabulary of the encoder")
    if len(found) > words.length:
        notes.append(f"only the first {words.length} of {len(found)} words are read")
    common = COMMON_WITH["text"]
    vector = reader.outputs_of_arrays(ids, [common])[common][0]
    return Asked(title=text, sense="text", vector=vector, notes=tuple(notes))


def _told_in_tokens(text: str, reader: Encoder, words: TokenizerPreprocess) -> Asked:
    if not text.strip():
        raise FeatureError(f"the text {text!r} has no words: write what is to be seen.")
    count, notes = words.num_tokens(text), []
    if count > words.length:
        notes.append(f"only the first {words.length} of {count} tokens of the text are read")
    common = COMMON_WITH["text"]
    vector = reader.outputs_of_arrays(words.ids([text]), [common])[common][0]
    return Asked(title=text, sense="text", vector=vector, notes=tuple(notes))


def _refuse_silence(record: Record, windows: SoundWindows) -> None:
    """Raises FeatureError where there is nothing to be heard in the windows: the nearest to silence mean nothing."""
    with open_record(record, sound_alone=True) as reader:
        for window in iterate_sound_windows(record, reader, windows):
            if float(np.abs(window.clips).max()) > SILENCE:
                return
        begin, end = (float(time) for time in (window.times[0], window.times[-1]))
    raise FeatureError(
        f"{record.source} is silent from {begin:.1f} to {end:.1f} s, which is what the encoder hears: give a recording "
        "in which something is to be heard there, or cut one out."
    )


def _heard(sound: str, encoder: str, device: str) -> Asked:
    from video_ssl.embed.config import EmbedConfig
    from video_ssl.embed.embedding import Embedder, EmbeddingError
    from video_ssl.embed.open_encoder import open_encoder
    from video_ssl.pretrain.processes import choose_device

    path = Path(sound)
    if not path.is_file():
        raise FeatureError(f"no sound file {sound}: give a recording, or a video with sound.")
    table = Table.from_rows([{"id": path.name, "source": str(path.absolute())}])
    settings: dict[str, Any] = {"num_clips": 1, "num_workers": 0, "frames": False, "strict": True}
    embedder = Embedder(
        open_encoder(encoder, device), EmbedConfig(**settings), device=choose_device(device)
    )
    with temporary_folder("sound") as folder:
        try:
            found = embedder.embed(table, Path(folder) / "sound.arrow", progress=False)
        except EmbeddingError as err:
            raise FeatureError(str(err)) from err
        vector = found.vectors(COMMON_WITH["sound"]).mean(axis=0)
    assert isinstance(embedder.windows, SoundWindows)
    _refuse_silence(table.record(0), embedder.windows)
    return Asked(title=path.name, sense="sound", vector=vector, record=table.record(0))
