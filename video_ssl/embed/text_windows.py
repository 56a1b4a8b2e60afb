"""The captions of a record as an encoder of text reads them: a row of the feature file for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.windows import Window
from video_ssl.datasets.table import Record
from video_ssl.models.preprocess_config import PADDING, AnyText


@dataclass(frozen=True, kw_only=True)
class TextWindows:
    """All captions of a record that have a word, in their order.

    Attributes:
        words: turns them into places in a vocabulary, or into tokens.
    """

    words: AnyText
    num_crops: ClassVar[int] = 1
    whole: ClassVar[bool] = False


def iterate_text_windows(
    record: Record, windows: TextWindows, *, first: int = 0
) -> Iterator[Window]:
    """Yields a window for each caption of a record with a word, from number `first` on; the video is not opened.

    Its `clips` are int64 (1, length), valid where there are words.  A caption without one ("...") says nothing about
    its video, as in training, and is left out.

    Raises:
        BadVideo: the record has no caption, or none with a word.
    """
    if not record.captions:
        raise BadVideo(record.source, "it has no caption")
    told = [caption for caption in record.captions if windows.words.has_words(caption.text)]
    if not told:
        raise BadVideo(record.source, "it has no caption with a word")
    for caption in told[first:]:
        places = windows.words.ids([caption.text])
        unknown = np.full(places.shape[1], np.nan)
        yield Window(
            clips=places,
            times=unknown,
            valid=places[0] != PADDING,
            indices=np.zeros(places.shape[1], np.int64),
            num_source=0,
            span=(caption.start_sec, caption.end_sec),
        )
