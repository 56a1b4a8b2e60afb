"""What an evaluator gets that asks for more than feature files: the encoder, the videos, the other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from video_ssl.clips.decoders.reader import Reader
from video_ssl.clips.reading import open_record
from video_ssl.datasets.table import Record, Table
from video_ssl.embed.config import EmbedConfig
from video_ssl.evaluate.contract import Given
from video_ssl.evaluate.row_shares import ALONE
from video_ssl.models.contract import Encoder
from video_ssl.pretrain.processes import Processes, choose_device


@dataclass(frozen=True, kw_only=True, eq=False)
class Context(Given):
    """What every evaluator gets, and what only those get that ask for it in their `Needs`.

    Attributes:
        processes: that run this evaluator; `ALONE` if it does not need them.
        device: of the evaluation.
        encoder: frozen, on the device of the evaluation; None if nobody asks for it.
        tables: "train" and "test" -> the videos whose features these are; empty if nobody asks for them.
        settings: how videos were read for the features.
        folder: where it may leave files of its own about this encoder; None = nowhere.
    """

    processes: Processes = ALONE
    device: torch.device
    encoder: Encoder | None = None
    tables: Mapping[str, Table] = field(default_factory=dict)
    settings: EmbedConfig = field(default_factory=EmbedConfig)
    folder: Path | None = None

    def open(self, record: Record) -> Reader:
        """Returns a reader of a record of `tables`, to be used in a `with` statement.

        Raises:
            BadVideo: it cannot be opened.
        """
        return open_record(
            record, self.settings.backend, timeout_sec=self.settings.video_timeout_sec
        )


def device_of(setting: str, given: Given) -> str:
    """Returns where an evaluator computes, as torch names it.

    Args:
        setting: of the evaluator; "auto" is the device of the evaluation, and so is the name of its kind: of several
            processes each has its own.
        given: what the evaluator got; features alone say no device, "auto" is then CUDA where there is one.

    Raises:
        RunError: there is no such device.
    """
    if isinstance(given, Context) and setting in ("auto", given.device.type):
        return str(given.device)
    return str(choose_device(setting))
