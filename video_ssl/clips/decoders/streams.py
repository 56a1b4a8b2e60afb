"""Which stream of a container is the video: never the cover of a piece of music, never one tile of a picture."""

from __future__ import annotations

from typing import Any

import av

from video_ssl.clips.decoders.reader import BadVideo

# A picture with its alpha plane; more streams of one frame each are the tiles of a large picture, and its thumbnail.
_MOST_STREAMS_OF_A_PICTURE = 2


def video_stream(container: Any, name: str) -> Any:
    """Returns the best video stream of an open container, by FFmpeg's judgement, but no attached picture.

    Args:
        container: av.container.InputContainer.
        name: what errors call the file.

    Raises:
        BadVideo: there is none, its codec is unknown, or the file is a picture in tiles (HEIC).
    """
    attached = av.stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & attached]
    if not videos:
        kinds = sorted({s.type for s in container.streams if s.type != "video"})
        if container.streams.video:
            kinds.append("a cover picture")
        raise BadVideo(name, f"has no video stream, only {_listed(kinds) or 'nothing'}.")
    if len(videos) > _MOST_STREAMS_OF_A_PICTURE and _is_picture(container):
        raise BadVideo(
            name,
            f"is a picture in {len(videos)} tiles or layers (HEIC, AVIF), no video: convert it to JPEG or PNG first.",
        )
    best = container.streams.best("video")
    chosen = best if best in videos else max(videos, key=_area)
    if chosen.codec_context is None:
        raise BadVideo(name, "its video codec is unknown to this build of FFmpeg.")
    return chosen


def _listed(kinds: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(kinds[:-1]), *kinds[-1:]]))


def _is_picture(container: Any) -> bool:
    brand = container.metadata.get("major_brand", "")
    is_still = brand in ("heic", "heix", "heim", "heis", "mif1", "avif")
    return is_still and all(stream.frames <= 1 for stream in container.streams.video)


def _area(stream: Any) -> int:
    context = stream.codec_context
    return 0 if context is None else context.width * context.height
