"""The sound of a clip: in step with its frames, of one length, and whether there is any.  Numpy only.

Source: papers/vatt.md section 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.sampling.dmvr import offset_in_step

Samples = NDArray[np.float32]
#: Sound that never exceeds this (-80 dB, three steps of 16 bits) is silence: codecs and dither leave as much of zeros.
SILENCE = 1e-4


def sound_of_clip(
    reader: Reader, first_frame: int, *, rate: int, num_samples: int
) -> tuple[Samples, bool]:
    """Returns the sound from the beginning of a frame on, float32 (num_samples,) in -1..1, and whether there is any.

    It begins at the share of the video's length at which the frame is shown.  Where the video ends, the sound goes on
    at its beginning, as frames that loop do.  There is none, and all samples are 0, where the file has no sound or
    what it has is silent (`SILENCE`): silence says nothing about a video, and that of one is as that of another.

    Args:
        reader: of the video or segment; files of other rates and with several channels or tracks are heard as
            `Reader.audio` says.
        first_frame: of the clip.
        rate: samples a second.
        num_samples: of the result, whatever the clip shows.

    Raises:
        BadVideo: the sound cannot be decoded.

    Source: papers/vatt.md section 2 (one offset for both); that silence counts as no sound is ours.
    """
    if not reader.info.has_audio:
        return np.zeros(num_samples, np.float32), False
    duration = reader.info.duration_sec
    total = max(round(duration * rate), 1)
    share = float(reader.times([first_frame])[0]) / duration if duration > 0 else 0.0
    begin = min(offset_in_step(share, total), total - 1)
    sound = looped_sound(reader, begin, total, rate=rate, num_samples=num_samples)
    if float(np.abs(sound).max()) <= SILENCE:
        return np.zeros(num_samples, np.float32), False
    return sound, True


def looped_sound(reader: Reader, begin: int, total: int, *, rate: int, num_samples: int) -> Samples:
    """Returns samples begin, begin + 1, ... of a sound of `total`, each modulo its length, float32 (num_samples,).

    Every one is decoded once.

    Raises:
        BadVideo: the sound cannot be decoded.
    """
    if begin + num_samples <= total:
        return _read(reader, begin, begin + num_samples, rate)
    if num_samples >= total:
        whole = _read(reader, 0, total, rate)
        return whole[(begin + np.arange(num_samples)) % total]
    rest = begin + num_samples - total
    return np.concatenate([_read(reader, begin, total, rate), _read(reader, 0, rest, rate)])


def _read(reader: Reader, begin: int, end: int, rate: int) -> Samples:
    found = np.asarray(reader.audio(begin / rate, end / rate, rate), np.float32)
    assert len(found) == end - begin
    return found


def add_noise(sound: Samples, share: float, rng: np.random.Generator) -> Samples:
    """Returns the sound with Gaussian noise whose standard deviation is `share` of its largest magnitude.

    Nothing is cut off at -1 and 1.  Silence stays silence.  As many numbers are drawn whatever the sound is.

    Args:
        sound: float32 (N,).
        share: 0.01 in the reference code; 0 = no noise.
        rng: draws N numbers.

    Source: papers/vatt.md section 2 (code only).
    """
    noise = rng.standard_normal(len(sound), np.float32)
    return sound + noise * np.float32(share * np.abs(sound).max(initial=0.0))
