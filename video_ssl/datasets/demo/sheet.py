"""Contact sheets: strips of frames with boxes, phases and captions, for documentation and for looking at data."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from video_ssl.datasets.table import Record, Table

_BOX_COLORS = ((255, 60, 60), (255, 230, 0), (0, 220, 255))
_TEXT_PX = 14


def contact_sheet(
    table: Table,
    indices: Sequence[int],
    columns: int = 1,
    frames_per_row: int = 8,
    *,
    frame_px: int = 112,
) -> np.ndarray:
    """Returns a picture, uint8 (H, W, 3): one strip of frames per record, `columns` strips side by side.

    Every frame carries the outlines of its boxes and the name of its frame label; above a strip stand the id, the
    class and the first caption.  Frames are spread evenly over the record, first and last included.

    Args:
        table: any table of readable videos; labels, boxes and captions are shown where it has them.
        indices: rows of the table, in reading order.
        columns: strips side by side.
        frames_per_row: frames in a strip.
        frame_px: height and width of a frame on the sheet.

    Raises:
        ValueError: no indices, or columns or frames_per_row below 1.
    """
    if not len(indices) or columns < 1 or frames_per_row < 1:
        raise ValueError(
            f"indices={list(indices)}, columns={columns}, frames_per_row={frames_per_row}: "
            "give at least one index, column and frame."
        )
    strips = [_strip(table, table.record(int(i)), frames_per_row, frame_px) for i in indices]
    strips += [np.zeros_like(strips[0])] * (-len(strips) % columns)
    rows = [np.concatenate(strips[i : i + columns], axis=1) for i in range(0, len(strips), columns)]
    return np.concatenate(rows, axis=0)


def _strip(table: Table, record: Record, count: int, frame_px: int) -> np.ndarray:
    frames = _read(record)
    chosen = np.linspace(0, len(frames) - 1, count).round().astype(int)
    header = Image.new("RGB", (count * frame_px + 6, _TEXT_PX + 2), (25, 25, 25))
    ImageDraw.Draw(header).text((3, 1), _title(table, record), fill="white", font=_font())
    pictures = [_annotate(table, record, frames[i], int(i), frame_px) for i in chosen]
    strip = np.concatenate(pictures, axis=1)
    edged = np.pad(strip, ((0, 6), (0, 6), (0, 0)), constant_values=25)
    return np.concatenate([np.asarray(header), edged], axis=0)


def _read(record: Record) -> list[np.ndarray]:
    """The frames of a record: those with start_sec <= time < end_sec where it is a segment."""
    start = 0.0 if record.start_sec is None else record.start_sec - 5e-4
    end = np.inf if record.end_sec is None else record.end_sec - 5e-4
    with av.open(record.source) as container:
        decoded = [f for f in container.decode(video=0) if start <= (f.time or 0.0) < end]
        return [frame.to_ndarray(format="rgb24") for frame in decoded]


def _title(table: Table, record: Record) -> str:
    parts = [record.id]
    if record.label is not None:
        parts.append(table.class_names[record.label] if table.class_names else str(record.label))
    if record.captions:
        parts.append(record.captions[0].text)
    return "   ".join(parts)


def _annotate(
    table: Table, record: Record, frame: np.ndarray, index: int, frame_px: int
) -> np.ndarray:
    image = Image.fromarray(frame).resize((frame_px, frame_px), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    if record.boxes is not None and index < len(record.boxes):
        for number, box in enumerate(record.boxes[index]):
            color = _BOX_COLORS[number % len(_BOX_COLORS)]
            draw.rectangle([float(v) for v in box * (frame_px - 1)], outline=color)
    if record.frame_labels is not None and index < len(record.frame_labels):
        value = int(record.frame_labels[index])
        name = table.phase_names[value] if table.phase_names and value >= 0 else str(value)
        name = "-" if value < 0 else name.rpartition("/")[2]
        draw.text((3, 1), name, fill="white", font=_font(), stroke_width=2, stroke_fill="black")
    return np.asarray(image)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=_TEXT_PX - 3)
