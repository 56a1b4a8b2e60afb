"""Small plans for the tests of the pipeline.  In a module of their own, so that worker processes can import them."""

import ctypes
import os
import signal
import sys
import time

import numpy as np

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.joined import joined_indices, part_frames
from video_ssl.clips.sampling.seconds import segment_clip


class ClipPlan:
    """Four frames at a random start, and what else the tests look at."""

    def __init__(self, num_frames=4, size=(24, 32)):
        self.num_frames, self.size = num_frames, size

    def __call__(self, record, reader, rng, progress):
        start = int(rng.integers(reader.info.num_frames - self.num_frames + 1))
        frames = reader.frames(np.arange(start, start + self.num_frames), self.size)
        return {
            "video": frames[None],
            "start": np.int64(start),
            "draw": rng.random(3),
            "progress": np.float64(progress),
        }


class ModulesPlan:
    """Which heavy modules the worker has imported, and its settings."""

    def __call__(self, record, reader, rng, progress):
        heavy = [
            sys.modules.get(name) is not None for name in ("torch", "jax", "flax", "tensorflow")
        ]
        main = getattr(sys.modules["__main__"], "MARK_OF_THE_MAIN_PROGRAM", False)
        return {
            "heavy": np.array(heavy),
            "main": np.bool_(main),
            "threads": np.int64(os.environ.get("OMP_NUM_THREADS", 0)),
            "pid": np.int64(os.getpid()),
        }


class SlowPlan:
    """Takes its time."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, record, reader, rng, progress):
        time.sleep(self.seconds)
        return {"x": np.zeros(1000)}


class PickyPlan:
    """Refuses records by index."""

    def __init__(self, refused):
        self.refused = frozenset(refused)

    def __call__(self, record, reader, rng, progress):
        if record.index in self.refused:
            raise BadVideo(record.source, "is not to our taste.")
        return {"draw": rng.random(2)}


class BrokenPlan:
    """Has a bug."""

    def __call__(self, record, reader, rng, progress):
        raise ZeroDivisionError("a bug of the plan")


class DyingPlan:
    """Ends its process, one way or another, at some records: as a decoder does that crashes or hangs there."""

    def __init__(self, way, at):
        self.way, self.at = way, frozenset(at)

    def __call__(self, record, reader, rng, progress):
        if record.index in self.at:
            self._die()
        return {"draw": rng.random(2)}

    def _die(self):
        if self.way == "exit":
            os._exit(3)
        elif self.way == "hang":
            time.sleep(1000)
        elif self.way == "hang with the interpreter":
            ctypes.PyDLL(None).sleep(1000)
        else:
            os.kill(os.getpid(), getattr(signal, self.way))


class LateDyingPlan:
    """Crashes at one record, but only in the second half of the training."""

    def __init__(self, at):
        self.at = at

    def __call__(self, record, reader, rng, progress):
        if record.index == self.at and progress >= 0.5:
            os.kill(os.getpid(), signal.SIGSEGV)
        return {"draw": rng.random(2)}


class TablePlan:
    """Which table the record is of: its place, and how long its name is."""

    def __call__(self, record, reader, rng, progress):
        return {"index": np.int64(record.table_index), "name": np.int64(len(record.table))}


class HiCoPlan:
    """Frames of an interval of an untrimmed video that lies in files of one second."""

    def __call__(self, record, reader, rng, progress):
        counts = part_frames(reader)
        start = rng.random() * (reader.info.duration_sec - 1)
        files, frames = segment_clip(
            counts, reader.info.fps, (start, start + 1), num_frames=4, segment_sec=1
        )
        indices = joined_indices(reader, files, frames)
        return {"video": reader.frames(indices), "file": files, "frame": frames}


class SoundTextPlan:
    """Sound of half a second, the frame that goes with it, and the caption nearest to it, as VATT takes them."""

    RATE, SECONDS, BYTES = 8000, 0.5, 16

    def __call__(self, record, reader, rng, progress):
        start = rng.random() * (reader.info.duration_sec - self.SECONDS)
        start = np.floor(start * self.RATE) / self.RATE  # a whole number of samples
        at = start + (record.start_sec or 0.0)  # times of captions are those of the source
        nearest = min(record.captions, key=lambda caption: abs(caption.start_sec - at))
        text = np.zeros(self.BYTES, np.uint8)
        text[: len(nearest.text)] = np.frombuffer(nearest.text.encode(), np.uint8)
        times = reader.times(np.arange(reader.info.num_frames))
        frame = int(np.abs(times - start).argmin())
        return {
            "sound": reader.audio(start, start + self.SECONDS, self.RATE),
            "has_sound": np.bool_(reader.info.has_audio),
            "text": text,
            "start": np.float64(start),
            "video": reader.frames([frame]),
            "frame": np.int64(frame),
        }
