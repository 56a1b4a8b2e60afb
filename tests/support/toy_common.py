"""Three small networks of one run that share spaces: what is seen, heard and told is red, green or blue.

A video is its mean color, a text the colors that it names, a sound the loudness of three tones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from torch import Tensor, nn

from video_ssl import models
from video_ssl.datasets.table import Table
from video_ssl.models import Network
from video_ssl.models.encoders import save_encoder
from video_ssl.models.preprocess_config import SoundPreprocess, TextPreprocess, VideoPreprocess
from video_ssl.models.torch_encoder import TorchEncoder

COLORS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
TONES = {"red": 500.0, "green": 1000.0, "blue": 2000.0}
WORDS = ("<pad>", "<unk>", "red", "green", "blue", "a", "square")
RATE = 8000


@dataclass(frozen=True, kw_only=True)
class SeenConfig:
    architecture: Literal["toy_seen"] = "toy_seen"


@dataclass(frozen=True, kw_only=True)
class HeardConfig:
    architecture: Literal["toy_heard"] = "toy_heard"


@dataclass(frozen=True, kw_only=True)
class ToldConfig:
    architecture: Literal["toy_told"] = "toy_told"
    num_words: int = len(WORDS)


class Spaces(TorchEncoder, nn.Module):
    """What the three have in common: three numbers, a clip feature of four, and a space of width 3."""

    embed_dim = 4
    space: str

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(3, 3, bias=False)

    def output_dim(self, name: str, *, cells: int = 1, layer: int | None = None) -> int:
        self.check_outputs([name])
        return 4 if name == "clip" else 3

    def outputs(self, inputs, names, *, cells=1, layer=None, pooling="mean") -> dict[str, Tensor]:
        self.check_outputs(names, layer=layer, pooling=pooling)
        common = self.linear(self.three(inputs))
        found = {"clip": torch.cat([common, common[:, :1]], 1)}
        return {name: found.get(name, common) for name in names}

    def three(self, inputs: Tensor) -> Tensor:
        raise NotImplementedError

    def frame_positions(self, num_frames: int) -> np.ndarray:
        return np.zeros(0)


class Seen(Spaces):
    output_names = ("clip", "common_sound", "common_text")

    def three(self, inputs: Tensor) -> Tensor:
        mean = inputs.mean((2, 3, 4))
        return mean - mean.mean(1, keepdim=True)


class Heard(Spaces):
    modality = "sound"
    output_names = ("clip", "common_sound")

    def three(self, inputs: Tensor) -> Tensor:
        power = torch.fft.rfft(inputs).abs()
        bins = [round(tone * inputs.shape[1] / RATE) for tone in TONES.values()]
        found = torch.stack([power[:, b - 2 : b + 3].amax(1) for b in bins], 1)
        return found - found.mean(1, keepdim=True)


class Told(Spaces):
    modality = "text"
    output_names = ("clip", "common_text")

    def __init__(self, config: ToldConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.num_words, 3)

    def three(self, inputs: Tensor) -> Tensor:
        return self.words(inputs).sum(1)


NETWORKS = {
    "toy_seen": Network(config="toy_common:SeenConfig", torch="toy_common:Seen"),
    "toy_heard": Network(
        config="toy_common:HeardConfig", torch="toy_common:Heard", modality="sound"
    ),
    "toy_told": Network(config="toy_common:ToldConfig", torch="toy_common:Told", modality="text"),
}


def register(put: Callable[..., None]) -> None:
    """Makes the toys known; `put` is the `setitem` of a monkeypatch, with which they go again."""
    for name, network in NETWORKS.items():
        put(models.NETWORKS, name, network)


def write_run(run: Path) -> Path:
    """The folder of a run with the three encoders; the networks must be in the table."""
    seen, heard, told = Seen(SeenConfig()), Heard(HeardConfig()), Told(ToldConfig())
    with torch.no_grad():
        for encoder in (seen, heard, told):
            encoder.linear.weight.copy_(torch.eye(3))
        told.words.weight.zero_()
        for place, name in enumerate(COLORS):
            told.words.weight[WORDS.index(name), place] = 1.0
    source = {"objective": "toy"}
    video = VideoPreprocess(num_frames=4, frame_stride=2, size=16)
    sound = SoundPreprocess(rate=RATE, num_samples=1600)
    text = TextPreprocess(vocabulary=WORDS, length=4)
    for place, encoder, preprocess in (
        ("encoder", seen, video),
        ("encoders/sound", heard, sound),
        ("encoders/text", told, text),
    ):
        name = encoder.config.architecture
        save_encoder(run / place, encoder, architecture=name, preprocess=preprocess, source=source)
    return run


def write_square(path: Path, color: str, *, tone: str | None, number: int = 0) -> None:
    """Twelve frames of a color, a little lighter with every number, and a tone for as long."""
    picture = np.full((32, 48, 3), COLORS[color], np.uint8) + np.uint8(number)
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        sound = out.add_stream("pcm_s16le", rate=RATE, layout="mono") if tone else None
        for _ in range(12):
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        out.mux(video.encode())
        if sound is not None and tone is not None:
            write_tone(out, sound, tone)


def write_tone(out, stream, tone: str, *, seconds: float = 1.2) -> None:
    """A tone into an open file."""
    wave = np.sin(2 * np.pi * TONES[tone] * np.arange(int(RATE * seconds)) / RATE)
    frame = av.AudioFrame.from_ndarray((8000 * wave).astype(np.int16)[None], "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
    out.mux(stream.encode(frame))
    out.mux(stream.encode())


def write_wav(path: Path, tone: str) -> None:
    with av.open(str(path), "w") as out:
        write_tone(out, out.add_stream("pcm_s16le", rate=RATE, layout="mono"), tone)


def squares_table(folder: Path) -> Path:
    """Six videos, two of each color; the last is mute and untold."""
    rows = []
    for number, color in enumerate((*COLORS, *COLORS)):
        told = number < 5
        path = folder / f"{color}{number}.mkv"
        write_square(path, color, tone=color if told else None, number=number)
        captions = [{"text": f"A {color} square."}, {"text": color.title()}] if told else None
        rows.append(
            {
                "id": path.stem,
                "source": str(path),
                "label": list(COLORS).index(color),
                "captions": captions,
            }
        )
    table = Table.from_rows(rows, class_names=list(COLORS))
    return Path(table.save(folder / "squares.arrow").path)
