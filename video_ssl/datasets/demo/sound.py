"""The audio track of the demo data: one timbre per kind of event, over hum and noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

RATE = 16000
"""Samples per second."""

EVENT_SEC = 0.25
"""Length of an event's sound; the sound starts at the event."""


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def _noise(rng: np.random.Generator, count: int, low_hz: float, high_hz: float) -> np.ndarray:
    """Noise limited to a band, float64 (count,), of unit power."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    frequency = np.fft.rfftfreq(count, 1 / RATE)
    spectrum[(frequency < low_hz) | (frequency > high_hz)] = 0
    wave = np.fft.irfft(spectrum, count)
    return wave / max(float(wave.std()), 1e-9)


def _thud(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    return np.sin(2 * np.pi * 75 * pitch * t * (1 - 0.8 * t)) * np.exp(-t / 0.06) * 1.6


def _clap(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    return _noise(rng, len(t), 1200 * pitch, 7000) * np.exp(-t / 0.03)


def _click(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    return np.sin(2 * np.pi * 2500 * pitch * t) * np.exp(-t / 0.012) * 1.8


def _knock(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    second = np.clip(t - 0.09, 0, None)
    hits = np.exp(-t / 0.02) + (t > 0.09) * np.exp(-second / 0.02)
    return np.sin(2 * np.pi * 420 * pitch * t) * hits * 1.3


def _whoosh(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    return _noise(rng, len(t), 250 * pitch, 1400 * pitch) * np.sin(np.pi * t / t[-1]) ** 2


def _creak(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    wobble = np.sin(2 * np.pi * 38 * t)
    return (
        np.sign(np.sin(2 * np.pi * 190 * pitch * t + 4 * wobble)) * np.sin(np.pi * t / t[-1]) * 0.7
    )


def _bell(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    partials = ((1, 1.0), (2.76, 0.6), (5.4, 0.3))
    return sum(a * np.sin(2 * np.pi * 640 * pitch * k * t) for k, a in partials) * np.exp(-t / 0.1)


def _chirp(rng: np.random.Generator, t: np.ndarray, pitch: float) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * (900 * t + 3500 * t * t)) * np.sin(np.pi * t / t[-1])


TIMBRES: dict[str, Callable[[np.random.Generator, np.ndarray, float], np.ndarray]] = {
    "thud": _thud, "clap": _clap, "click": _click, "knock": _knock,
    "whoosh": _whoosh, "creak": _creak, "bell": _bell, "chirp": _chirp,
}  # fmt: skip
"""Name of an event -> its sound: (rng, times, relative pitch) -> waveform in about -2..2."""


def render_sound(
    events: Sequence[tuple[str, float]],
    *,
    seconds: float,
    rng: np.random.Generator,
    nuisance: float = 1.0,
) -> np.ndarray:
    """Returns the mono track, float32 (S,) in -1..1 with S = seconds * RATE.

    Args:
        events: (name, seconds) pairs; a sound that would run past the end is cut.
        seconds: length of the track.
        rng: source of pitch, loudness, hum and noise.
        nuisance: loudness of hum and noise; 0 is silence between the events.
    """
    track = _ambience(rng, round(seconds * RATE), nuisance)
    for name, second in events:
        t = _time(EVENT_SEC)
        fade = np.minimum(1, (EVENT_SEC - t) / 0.03)
        pitch, loudness = np.exp(rng.uniform(-0.15, 0.15)), rng.uniform(0.22, 0.4)
        wave = loudness * fade * TIMBRES[name](rng, t, float(pitch))
        begin = round(second * RATE)
        end = min(begin + len(wave), len(track))
        track[begin:end] += wave[: end - begin]
    return np.clip(track, -1, 1).astype(np.float32)


def _ambience(rng: np.random.Generator, count: int, nuisance: float) -> np.ndarray:
    """Hum with its overtones, and slowly swelling noise: on average some 20 dB below an event."""
    t = np.arange(count) / RATE
    base = rng.uniform(45, 160)
    hum = sum(np.sin(2 * np.pi * base * k * t + rng.uniform(0, 6)) / k for k in (1, 2, 3))
    low = rng.uniform(50, 1500)
    noise = _noise(rng, count, low, low * rng.uniform(2, 5))
    swell = 1 + 0.5 * np.sin(2 * np.pi * rng.uniform(0.1, 0.5) * t + rng.uniform(0, 6))
    return nuisance * (rng.uniform(0, 0.012) * hum + rng.uniform(0.002, 0.015) * noise * swell)
