"""Words of captions, and which captions belong to a clip.  Numpy only.

Words are those of DMVR's tokenizer: ASCII punctuation is taken out without a space for it, letters become small ones,
and what white space divides is a word, in whatever script.

Source: papers/vatt.md section 2.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from video_ssl.datasets.record import Caption

_BARE = str.maketrans("", "", string.punctuation)
#: Behind so many characters words are not looked for: a text of that length is no caption.
_MOST_CHARACTERS = 2**20


def split_words(text: str, *, lower_case: bool = True) -> list[str]:
    """Returns the words of a text, in its order.

    >>> split_words("Don't run, Anna! 12 ÄPFEL")
    ['dont', 'run', 'anna', '12', 'äpfel']
    """
    text = text[:_MOST_CHARACTERS]
    return (text.lower() if lower_case else text).translate(_BARE).split()


def nearest_captions(
    captions: Sequence[Caption],
    clip_sec: tuple[float, float],
    shown_sec: tuple[float, float],
    *,
    count: int,
    duration_sec: float,
    rng: np.random.Generator,
) -> list[Caption]:
    """Returns the captions nearest in time to a clip, at most `count`, the nearest first.

    Those come first that are said during the clip, then those with the shortest gap to it; of these the ones whose
    middle is nearer to that of the clip; of equal ones any.  Left out are captions without a word, and those whose
    times lie outside the video.  All times are seconds of the source.

    Args:
        captions: in any order.
        clip_sec: when the clip begins and ends.
        shown_sec: when the record does, which what has no times is about.
        count: at most so many.
        duration_sec: of the source; infinite where it is not known.
        rng: draws a number for every caption, which orders those that are equally near.

    Source: that there are the own caption and four neighbours in time: papers/vatt.md section 2.  How nearness is
    measured is ours, as the code of it is not public.
    """
    lots = rng.random(len(captions)).tolist()
    middle = sum(clip_sec) / 2
    found: list[tuple[float, float, float, Caption]] = []
    for caption, lot in zip(captions, lots, strict=True):
        begin = shown_sec[0] if caption.start_sec is None else caption.start_sec
        end = max(shown_sec[1], begin) if caption.end_sec is None else caption.end_sec
        if is_outside(caption, duration_sec) or not split_words(caption.text):
            continue
        gap = max(begin - clip_sec[1], clip_sec[0] - end, 0.0)
        found.append((gap, abs((begin + end) / 2 - middle), lot, caption))
    found.sort(key=lambda item: item[:3])
    return [caption for *_, caption in found[:count]]


def is_outside(caption: Caption, duration_sec: float) -> bool:
    """Returns whether a caption begins behind the end of a video of this length, or ends before its beginning.

    >>> is_outside(Caption(text="later", start_sec=9.0), 9.0)
    True
    """
    late = caption.start_sec is not None and caption.start_sec >= duration_sec
    return late or (caption.end_sec is not None and caption.end_sec < 0)
