"""The default reader, and the reference for every other one: PyAV, one thread, exact on every index.

In mp4, mov, mkv and webm with a codec of `SEEKABLE_CODECS` the presentation times of all frames are listed, from the
index of a plain mp4 or by demultiplexing (nothing is decoded), and a frame is found by seeking to the key frame before
it and decoding until its time comes out.  Everywhere else (AVI with packed B frames, MPEG-TS, ...) packet times do not
identify frames, so the file is decoded from its start and output frames are counted.  The same happens when a listed
frame does not come out.
"""

from __future__ import annotations

import array
import functools
import os
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.error import ExitError, FFmpegError
from av.video.reformatter import VideoReformatter

from video_ssl.clips.crops import Frames, ViewRequest, check_region
from video_ssl.clips.decoders.files.checks import ffmpeg_address, refuse_unreadable_file
from video_ssl.clips.decoders.orientation import Orientation, Tilt, orientation_of
from video_ssl.clips.decoders.pyav.audio import Sound, ignore_other_streams
from video_ssl.clips.decoders.pyav.frame_lists import FrameList, list_of_packets, steady_times
from video_ssl.clips.decoders.pyav.mp4_index import Mp4Index, read_mp4_index
from video_ssl.clips.decoders.pyav.transport_breaks import Breaks, read_breaks
from video_ssl.clips.decoders.pyav.views import RegionScaler
from video_ssl.clips.decoders.reader import BadVideo, SlowVideo, VideoInfo, check_indices
from video_ssl.clips.decoders.streams import video_stream

SEEKABLE_FORMATS = {"mov", "mp4", "matroska", "webm"}
SEEKABLE_CODECS = {"h264", "hevc", "av1", "libdav1d", "vp9", "libvpx-vp9", "mjpeg", "prores"}
# Decoders that leave out pictures which no other picture is predicted from, with `skip_frame`.  By the
# standards such a picture changes nothing about the others, so those that are not requested are never decoded.
SKIPPING_CODECS = {"h264", "hevc"}


# Formats in which every picture says how long it is shown, the last one too.
_TELLING_DURATIONS = {"gif", "apng"}
# Formats whose packets carry a clock that may start anew in the middle, and that are often joined end to end.
_JUMPING_CLOCKS = {"mpegts", "mpeg"}


class _IndexMismatch(Exception):
    """A listed frame did not come out of the decoder: the list is wrong, decode from the start."""


class PyAVReader:
    """Reads one video with PyAV; see `video_ssl.clips.decoders.reader.Reader` for the promises.

    With `size`, frames are resized by libswscale's bilinear filter, whose support grows with the scale when shrinking
    (each output pixel averages what it covers, so there is no aliasing), in the same pass as the conversion to RGB.
    """

    READS_BYTE_RANGES = True

    def __init__(
        self,
        path: str,
        *,
        timeout_sec: float | None = None,
        byte_range: tuple[int, int] | None = None,
        name: str | None = None,
    ) -> None:
        """
        Args:
            path: a local file.
            timeout_sec: life time of the reader.
            byte_range: (offset, size) of the video within the file; the whole of it if None.
            name: what errors call the video, `path` if None.
        """
        self.path = path if name is None else name
        self._address = ffmpeg_address(path, byte_range)
        self._place = (path, byte_range)
        self._from_index = False
        self._timeout_sec = timeout_sec
        self._deadline = None if timeout_sec is None else time.monotonic() + timeout_sec
        self._reformatter = VideoReformatter()
        self._container: Any = None
        self._first_frame: Any = None
        self._sound: Sound | None = None
        self._last_sec: float | None = None
        self._clock_offsets: tuple[float, ...] = (0.0,)
        refuse_unreadable_file(path, byte_range=byte_range, name=name)
        try:
            self._open()
            self._list = self._list_frames()
        except FFmpegError as err:
            self.close()
            raise self._fault("cannot be opened as a video", err) from err
        except BaseException:
            self.close()
            raise

    # The interface

    @functools.cached_property
    def orientation(self) -> Orientation:
        """What is done to decoded pictures to bring them upright."""
        return orientation_of(self._picture())

    @functools.cached_property
    def info(self) -> VideoInfo:
        first = self._picture()
        width, height = self.orientation.upright_size(first.width, first.height)
        times = self._times
        fps = self._fps(times)
        return VideoInfo(
            num_frames=len(times),
            fps=fps,
            width=width,
            height=height,
            duration_sec=float(times[-1] - times[0]) + (self._last_sec or 1 / fps),
            codec=self._stream.codec_context.codec.name,
            rotation=self.orientation.rotation,
            mirrored=self.orientation.mirrored,
            pixel_aspect=self._pixel_aspect(),
            has_audio=bool(self._container.streams.audio),
        )

    def frames(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Returns uint8 (T, H, W, 3); see `Reader.frames`."""
        info = self.info
        wanted = check_indices(indices, info)
        height, width = size if size is not None else (info.height, info.width)
        out = np.empty((len(wanted), height, width, 3), np.uint8)
        places: dict[int, list[int]] = {}
        for place, index in enumerate(wanted.tolist()):
            places.setdefault(index, []).append(place)
        for index, frame in self._decode(np.array(sorted(places), np.int64)):
            picture = self._to_rgb(frame, height, width)
            for place in places[index]:
                out[place] = picture
        return out

    def views(self, requests: Sequence[ViewRequest]) -> None:
        """Fills the requested views; frames that several of them show are decoded once.

        Scaled by libswscale's bilinear filter with averaging, as in `frames(size=...)`: see `pyav_views`.
        """
        info = self.info
        scaler = RegionScaler(width=info.width, height=info.height, orientation=self.orientation)
        shown: dict[int, list[tuple[ViewRequest, int]]] = {}
        copies: list[tuple[Frames, int, int]] = []
        for request in requests:
            check_region(request.region, info.height, info.width)
            first: dict[int, int] = {}
            for place, index in enumerate(check_indices(request.indices, info).tolist()):
                if index in first:
                    copies.append((request.out, place, first[index]))
                else:
                    first[index] = place
                    shown.setdefault(index, []).append((request, place))
        for index, frame in self._decode(np.array(sorted(shown), np.int64)):
            for request, place in shown[index]:
                scaler.show(frame, request.region, request.out[place])
        for out, place, same in copies:
            out[place] = out[same]

    def stream(
        self, indices: Sequence[int] | np.ndarray, size: tuple[int, int] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, picture) for increasing indices in one pass over the file, however many there are.

        Decoding goes on from frame to frame and seeks only over gaps.  The time limit counts anew with every frame, so
        that a file of any length can be read.
        """
        info = self.info
        height, width = size if size is not None else (info.height, info.width)
        for index, frame in self._decode(check_indices(indices, info)):
            yield index, self._to_rgb(frame, height, width)
            if self._timeout_sec is not None:
                self._deadline = time.monotonic() + self._timeout_sec

    def times(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns float64 (T,) seconds since the first frame."""
        times = self._times
        return np.asarray(times[check_indices(indices, self.info)])

    def audio(self, start_sec: float, end_sec: float, rate: int) -> np.ndarray:
        """Returns float32 (S,); see `Reader.audio`."""
        origin_sec = self._origin_sec
        if self._sound is None:
            self._sound = Sound(
                self._address,
                name=self.path,
                can_seek=self._list is not None,
                check=self._check_time,
                clock_offsets=self._clock_offsets,
            )
        try:
            return self._sound.read(start_sec + origin_sec, end_sec + origin_sec, rate)
        except FFmpegError as err:
            raise self._fault("its sound cannot be decoded", err) from err

    def close(self) -> None:
        if self._sound is not None:
            self._sound.close()
            self._sound = None
        self._close_video()

    def _close_video(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def __enter__(self) -> PyAVReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Opening and listing

    def _open(self) -> None:
        self._close_video()
        self._check_time()
        container = av.open(self._address, timeout=self._timeout_sec)
        self._container = container
        stream = video_stream(container, self.path)
        # More than one thread hangs when a reader is freed in a forked child, and gains nothing beside other workers.
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        ignore_other_streams(container, stream)
        self._stream = stream

    def _list_frames(self) -> FrameList | None:
        """The list of frames, or None where packets do not identify frames."""
        formats = self._formats
        if not formats & SEEKABLE_FORMATS or self._stream.codec.name not in SEEKABLE_CODECS:
            return None
        if "mp4" in formats and len(self._container.streams.video) == 1:
            index = read_mp4_index(*self._place)
            if index is not None and self._agrees(index):
                self._from_index = True
                return FrameList(pts=index.pts, key_pts=index.key_pts, key_dts=index.key_dts)
            self._open()
        return self._list_by_demuxing()

    @property
    def _formats(self) -> set[str]:
        return set(self._container.format.name.split(","))

    def _agrees(self, index: Mp4Index) -> bool:
        """Whether the index is that of the stream and its first key frame; keeps the picture of this frame."""
        stream = self._stream
        if stream.time_base != Fraction(1, index.timescale) or stream.frames != len(index.pts):
            return False
        packet = next(self._container.demux(stream))
        if (packet.pts, packet.dts) != (index.key_pts[0], index.key_dts[0]) or packet.is_corrupt:
            return False
        self._first_frame = self._decode_alone(packet)
        return True

    def _list_by_demuxing(self) -> FrameList | None:
        packets = array.array("q")  # four numbers each: hours of video must stay small
        for packet in self._container.demux(self._stream):
            self._check_time()
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                raise BadVideo(self.path, f"is cut off: packet {len(packets) // 4} is incomplete.")
            if packet.pts is None or packet.dts is None:
                return None
            if not packets and packet.is_keyframe:
                self._first_frame = self._decode_alone(packet)
            packets.extend((packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
        if not packets:
            raise BadVideo(self.path, "has a video stream without a frame.")
        return list_of_packets(np.frombuffer(packets, np.int64).reshape(-1, 4))

    def _decode_alone(self, packet: Any) -> Any:
        """The picture of a first key frame, decoded without waiting for the packets that follow it."""
        context = self._stream.codec_context
        try:
            frames = [*context.decode(packet), *context.decode(None)]
        except FFmpegError as err:
            raise self._fault("frame 0 cannot be decoded", err) from err
        context.flush_buffers()
        return frames[0] if frames else None

    def _picture(self) -> Any:
        """Any decoded frame, for the size and the rotation that containers do not have."""
        if self._first_frame is None:
            self._first_frame = next(self._decode(np.zeros(1, np.int64)))[1]
        return self._first_frame

    @functools.cached_property
    def _tilt(self) -> Tilt:
        return Tilt(self.orientation)

    def _pixel_aspect(self) -> float:
        """Width of a pixel of the upright picture over its height."""
        stated = self._stream.sample_aspect_ratio
        if not stated or stated < 0:
            return 1.0
        return float(1 / stated if self.orientation.quarter_turns % 2 else stated)

    @functools.cached_property
    def _raw_times(self) -> np.ndarray:
        """Seconds on the clock of the container, one for every frame."""
        if self._list is None:
            return self._count_frames()
        return np.asarray(self._list.pts * float(self._stream.time_base))

    @property
    def _times(self) -> np.ndarray:
        return np.asarray(self._raw_times - self._raw_times[0])

    @property
    def _origin_sec(self) -> float:
        return float(self._raw_times[0])

    def _fps(self, times: np.ndarray) -> float:
        if len(times) > 1 and times[-1] > 0:
            return float((len(times) - 1) / times[-1])
        return float(self._stream.average_rate or self._stream.guessed_rate or 25)

    def _count_frames(self) -> np.ndarray:
        """Decodes everything once and returns the times of what came out."""
        times: list[float | None] = []
        for _, frame in self._decode_from_start(None):
            times.append(frame.time)
            if frame.duration and _TELLING_DURATIONS & self._formats:
                self._last_sec = float(frame.duration * frame.time_base)
            if self._first_frame is None:
                self._first_frame = frame
        if not times:
            raise BadVideo(self.path, "has a video stream without a frame that can be decoded.")
        if self._breaks is not None and self._breaks.other_video:
            raise BadVideo(
                self.path,
                "holds videos one after the other under different stream numbers, of which only one would be shown: "
                "join them with `ffmpeg -f concat`.",
            )
        known = np.array([np.nan if t is None else t for t in times])
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 25)
        steady, self._clock_offsets = steady_times(
            known, rate, may_jump=bool(_JUMPING_CLOCKS & self._formats)
        )
        return steady

    # Decoding

    def _decode(self, wanted: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yields (index, frame) for the sorted, unique indices, in this order."""
        done = 0
        if self._list is not None:
            try:
                for index, frame in self._decode_by_seeking(self._list, wanted):
                    done += 1
                    yield index, frame
                return
            except _IndexMismatch:
                self._refuse_wrong_index()
                listed = len(self._list.pts)
                self._refuse_if_listed_frames_are_missing(listed)
        if done < len(wanted):
            yield from self._decode_from_start(wanted[done:])

    def _refuse_wrong_index(self) -> None:
        """After a mismatch: an index that was read instead of the packets must at least list the same frames."""
        if not self._from_index:
            return
        self._from_index, index = False, self._list
        self._open()
        listing = self._list_by_demuxing()
        if listing is None or not np.array_equal(listing.pts, index.pts):  # type: ignore[union-attr]
            raise BadVideo(self.path, "the frames that its index lists are not those in the file.")

    def _refuse_if_listed_frames_are_missing(self, listed: int) -> None:
        """After a mismatch: reads on by counting if as many frames come out as are listed, else the file is damaged."""
        times = self._count_frames()
        if len(times) != listed:
            raise BadVideo(
                self.path,
                f"lists {listed} frames, but only {len(times)} come out of the decoder.",
            )
        self._list = None

    def _decode_by_seeking(
        self, listing: FrameList, wanted: np.ndarray
    ) -> Iterator[tuple[int, Any]]:
        for key, run in listing.runs(wanted):
            place, pts = 0, None
            try:
                for frame in self._frames_after_seek(listing, key, run):
                    pts = frame.pts
                    if pts is None or pts < listing.key_pts[key]:
                        continue
                    index = int(run[place])
                    if pts == listing.pts[index]:
                        self._refuse_damaged(frame, index)
                        yield index, frame
                        place += 1
                    if place == len(run) or pts > listing.pts[run[place]]:
                        break
            except FFmpegError as err:
                last = listing.key_pts[key] if pts is None else pts
                near = int(np.searchsorted(listing.pts, last))
                raise self._fault(f"cannot be decoded beyond frame {near}", err) from err
            if place < len(run):
                raise _IndexMismatch

    def _frames_after_seek(self, listing: FrameList, key: int, run: np.ndarray) -> Iterator[Any]:
        """Yields decoded frames from key frame `key` on, or from an earlier one, until all of `run` have come out.

        Pictures that are neither requested nor needed by others are left out; once the last packet that is requested
        has been decoded, the frames that the decoder holds back are drained instead of pushed out by more packets.
        """
        container, context = self._container, self._stream.codec_context
        may_skip = context.codec.name in SKIPPING_CODECS
        wanted, left, skipping = listing.pts[run], len(run), False
        try:
            for packet in self._packets_from(listing, key):
                self._check_time()
                self._refuse_damaged_packet(listing, packet)
                place = int(np.searchsorted(wanted, packet.pts)) if packet.size else len(wanted)
                is_wanted = place < len(wanted) and wanted[place] == packet.pts
                if may_skip and skipping == is_wanted:
                    skipping = not is_wanted
                    context.skip_frame = "NONREF" if skipping else "DEFAULT"
                yield from context.decode(packet)
                left -= is_wanted
                if left == 0:
                    break
            if left == 0:
                yield from context.decode(None)
        finally:
            if self._container is container:  # a closed one has freed its decoder
                context.skip_frame = "DEFAULT"
                context.flush_buffers()

    def _refuse_damaged_packet(self, listing: FrameList, packet: Any) -> None:
        """What listing by demultiplexing checks for all packets in advance, and an index is not trusted to know."""
        if not self._from_index or packet.size == 0:
            return
        if packet.is_corrupt:
            raise BadVideo(self.path, "is cut off: a packet is incomplete.")
        if packet.is_discard or not listing.holds(packet.pts):
            raise _IndexMismatch

    def _packets_from(self, listing: FrameList, key: int) -> Iterator[Any]:
        """Yields the packets from key frame `key` on, or from an earlier one."""
        targets = (listing.key_pts[key], listing.key_dts[key], listing.key_dts.min())
        for target in targets:
            self._container.seek(int(target), stream=self._stream, backward=True)
            packets = self._container.demux(self._stream)
            first = next(packets)
            if first.size and first.is_keyframe and first.dts <= listing.key_dts[key]:
                break
        else:
            raise _IndexMismatch
        yield first
        yield from packets

    def _decode_from_start(self, wanted: np.ndarray | None) -> Iterator[tuple[int, Any]]:
        """Yields (index, frame) counted from the start; every frame if `wanted` is None."""
        index, place = 0, 0
        try:
            self._open()
            for packet in self._container.demux(self._stream):
                self._check_time()
                if packet.size == 0 and packet.dts is not None:
                    continue  # "show the last one longer" (Theora, AVI), and no end of the file
                if packet.is_corrupt and packet.size:
                    self._refuse_lost_packets(index)
                for frame in self._stream.decode(packet):
                    if wanted is None or (place < len(wanted) and index == wanted[place]):
                        self._refuse_damaged(frame, index)
                        yield index, frame
                        place += 1
                    index += 1
                if wanted is not None and place == len(wanted):
                    return
        except FFmpegError as err:
            raise self._fault(f"frame {index} cannot be decoded", err) from err
        if wanted is not None and place < len(wanted):
            raise BadVideo(
                self.path, f"ends after {index} frames, frame {wanted[place]} is missing."
            )

    @functools.cached_property
    def _breaks(self) -> Breaks | None:
        """What breaks the order of packets, where the format may be joined end to end."""
        if "mpegts" not in self._formats or "://" in self._place[0]:
            return None
        return read_breaks(*self._place, self._stream.id)

    def _refuse_lost_packets(self, index: int) -> None:
        """At a packet that FFmpeg marks: raises unless the file is made of pieces and nothing is missing between."""
        breaks = self._breaks
        if breaks is None or breaks.losses or not breaks.joints:
            raise BadVideo(self.path, f"is damaged or cut off after frame {index - 1}.")

    def _refuse_damaged(self, frame: Any, index: int) -> None:
        if frame.is_corrupt:
            raise BadVideo(self.path, f"frame {index} is damaged.")

    def _to_rgb(self, frame: Any, height: int, width: int) -> np.ndarray:
        width, height = self.orientation.upright_size(width, height)
        if self.orientation.is_tilted:
            frame = self._tilt.turned(frame)
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", threads=1
        )
        return self.orientation.apply(rgb.to_ndarray())

    def _check_time(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise self._too_slow()

    def _too_slow(self) -> SlowVideo:
        return SlowVideo(self.path, f"takes longer than {self._timeout_sec:g} s to read.")

    def _fault(self, what: str, err: FFmpegError) -> BadVideo:
        """The error to raise for one of FFmpeg, whose words for a lack of time mean nothing to a user.

        Where the time is up while a file is probed, it may call the file invalid.
        """
        late = self._deadline is not None and time.monotonic() > self._deadline
        if late or isinstance(err, ExitError):
            return self._too_slow()
        return BadVideo(self.path, f"{what} ({_text(err)}).")


def _text(err: FFmpegError) -> str:
    text = err.strerror or str(err)
    return os.strerror(err.errno) if not text and err.errno else text
