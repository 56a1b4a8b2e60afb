"""Key frames as people look at them: boxes, what is done there, and what the head says of it, on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from video_ssl.files import written_aside

#: Width of a key frame on the sheet, and key frames in a row.
_WIDTH, _COLUMNS = 240, 4
_LINE_PX, _GAP_PX = 13, 6
#: Of the first box of a key frame, the second, ...: told apart also by those who see no red or green.
_COLORS = ((255, 176, 0), (100, 143, 255), (220, 38, 127), (120, 94, 240))
_PAPER, _INK = (255, 255, 255), (30, 34, 42)
#: Boxes of a key frame that are shown.
_MOST = len(_COLORS)


@dataclass(frozen=True, kw_only=True)
class ShownBoxes:
    """A key frame.

    Attributes:
        picture: uint8 (H, W, 3).
        boxes: (M, 4), left, top, right, bottom in shares of it; the first four are shown.
        lines: of every box, what is written of it below.
    """

    picture: NDArray[np.uint8]
    boxes: NDArray[np.floating]
    lines: Sequence[str]


def lines_of(
    targets: NDArray[np.bool_], scores: NDArray[np.floating], names: Sequence[str]
) -> list[str]:
    """Returns what is written of each box: what is done there, and what the head says first, and how surely.

    Args:
        targets: (M, K).
        scores: (M, K), shares.
        names: of the classes; those behind them have numbers.

    >>> lines_of(np.eye(2, dtype=bool), np.array([[0.9, 0.2], [0.6, 0.3]]), ["bow"])
    ['bow: bow 90 %', 'class 1: bow 60 %']
    """
    found = []
    for truth, row in zip(targets, scores, strict=True):
        done = ", ".join(_name(names, int(k)) for k in np.flatnonzero(truth)) or "nothing"
        first = int(row.argmax())
        found.append(f"{done}: {_name(names, first)} {100 * row[first]:.0f} %")
    return found


def write_boxes_sheet(path: Path, shown: Sequence[ShownBoxes]) -> None:
    """Writes a PNG of key frames in rows of four; the folder is made."""
    tiles = [_tile(one) for one in shown]
    columns = min(_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    size = columns * (_WIDTH + _GAP_PX) + _GAP_PX, sum(heights) + (len(rows) + 1) * _GAP_PX
    sheet, top = Image.new("RGB", size, _PAPER), _GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for number, tile in enumerate(row):
            sheet.paste(tile, (_GAP_PX + number * (_WIDTH + _GAP_PX), top))
        top += height + _GAP_PX
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside:
        sheet.save(aside, format="PNG")


def _tile(shown: ShownBoxes) -> Image.Image:
    height, width = shown.picture.shape[:2]
    scaled = max(1, round(height * _WIDTH / width))
    count = min(len(shown.boxes), _MOST)
    tile = Image.new("RGB", (_WIDTH, scaled + max(1, count) * _LINE_PX), _PAPER)
    tile.paste(Image.fromarray(shown.picture).resize((_WIDTH, scaled), Image.Resampling.BILINEAR))
    pen = ImageDraw.Draw(tile)
    for number in range(count):
        left, top, right, bottom = (min(max(float(side), 0.0), 1.0) for side in shown.boxes[number])
        corners = (left * _WIDTH, top * scaled, right * _WIDTH, bottom * scaled)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            pen.rectangle(tuple(map(math.floor, corners)), outline=_COLORS[number], width=2)
        line = scaled + number * _LINE_PX
        pen.rectangle((1, line + 3, 7, line + 9), fill=_COLORS[number])
        pen.text((11, line), _short(shown.lines[number]), fill=_INK)
    return tile


def _short(text: str) -> str:
    """As much as a line holds, of letters that the built-in font has."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return plain if len(plain) <= 38 else f"{plain[:36]}.."


def _name(names: Sequence[str], number: int) -> str:
    return names[number] if number < len(names) else f"class {number}"
