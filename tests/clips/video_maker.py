"""Small videos whose every frame carries its own index, in the containers and with the oddities that data sets have.

Frame i shows a drifting pattern and, in its upper left corner, i as ten black or white cells, least significant bit
first: `read_index` gets it back after lossy coding, so "is this the frame that I asked for" is an exact test.
"""

from fractions import Fraction

import av
import numpy as np

BITS, CELL = 10, 12
SIZE = (96, 128)  # height, width
NUM_FRAMES = 60


def draw(index, size):
    height, width = size
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + index / 5), np.sin(y / 7 - index / 8), np.sin((x + y) / 11 + index / 3)]
    image = 128 + 90 * np.stack(waves, axis=-1)
    image += np.random.default_rng(index).normal(0, 8, image.shape)
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (index >> bit & 1)
    return image.clip(0, 255).astype(np.uint8)


def read_index(frame):
    """The index drawn into an upright RGB frame of the original size."""
    cells = [frame[CELL // 2, bit * CELL + CELL // 2].mean() for bit in range(BITS)]
    return sum(int(cell > 127) << bit for bit, cell in enumerate(cells))


def make_video(path, *, num_frames=NUM_FRAMES, size=SIZE, gop=12, b_frames=3, codec="libx264", rate=25,
               times=None, audio=None, rotation=0,
               options=None, container=None, pix_fmt="yuv420p", aspect=None, audio_codec="aac", audio_rate=16000,
               audio_start=0.0, first=0):  # fmt: skip
    """Writes a video; `times` in units of 1/1000 s make the rate variable, `audio` is a function of time in s that is
    heard from `audio_start` on, `aspect` the shape of a pixel, `first` the index that is drawn first."""
    base = Fraction(1, rate) if times is None else Fraction(1, 1000)
    with av.open(str(path), "w", format=container, options=options or {}) as out:
        video = out.add_stream(codec, rate=rate)
        video.height, video.width = size
        video.pix_fmt = pix_fmt
        video.gop_size = gop
        video.codec_context.max_b_frames = b_frames
        video.codec_context.time_base = base
        if codec == "libx264":
            video.options = {
                "preset": "ultrafast",
                "bf": str(b_frames),
                "threads": "1",
                "crf": "20",
            }
        if aspect is not None:
            video.codec_context.sample_aspect_ratio = Fraction(aspect)
        if rotation:
            video.set_display_rotation(rotation)
        sound = None
        if audio is not None:
            sound = out.add_stream(audio_codec, rate=audio_rate, layout="mono")
            if audio_codec == "wmav2":  # has no default
                sound.codec_context.bit_rate = 96_000
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(draw(first + index, size), "rgb24")
            frame.time_base = base
            frame.pts = index if times is None else times[index]
            out.mux(video.encode(frame))
        out.mux(video.encode())
        if sound is not None:
            at = np.arange(num_frames * audio_rate // rate) / audio_rate
            wave = audio(at).astype(np.float32)
            late = round(audio_start * audio_rate)
            for begin in range(0, len(wave), 1024):
                piece = av.AudioFrame.from_ndarray(wave[None, begin : begin + 1024], "fltp", "mono")
                piece.sample_rate, piece.pts = audio_rate, late + begin
                piece.time_base = Fraction(1, audio_rate)
                out.mux(sound.encode(piece))
            out.mux(sound.encode())


def remux(source, target, *, container=None, options=None, skip_packets=0):
    """Copies the packets of `source`, without its first ones, into another container."""
    with (
        av.open(str(source)) as old,
        av.open(str(target), "w", format=container, options=options or {}) as new,
    ):
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        for number, packet in enumerate(old.demux(stream)):
            if packet.dts is not None and number >= skip_packets:
                packet.stream = copy
                new.mux(packet)


def chirp(at):
    """A tone that tells the time: its pitch rises with it."""
    return 0.5 * np.sin(2 * np.pi * (300 * at + 100 * at**2))


def make_all(folder):
    """Writes one video of every kind."""
    make_video(folder / "gop12.mp4")
    make_video(folder / "gop250.mp4", gop=250)
    make_video(folder / "intra.mp4", gop=1, b_frames=0, num_frames=20)
    make_video(folder / "odd_size.mp4", size=(97, 131), num_frames=20, pix_fmt="yuv444p")
    make_video(folder / "one_frame.mp4", num_frames=1)
    make_video(folder / "two_frames.mp4", num_frames=2)
    make_video(folder / "audio.mp4", audio=chirp)
    make_video(folder / "matroska.mkv")
    make_video(folder / "fragmented.mp4", options={"movflags": "frag_keyframe+empty_moov"})
    make_video(folder / "mpeg4.avi", codec="mpeg4", gop=250, b_frames=2)
    make_video(folder / "h264.avi", b_frames=0)
    make_video(folder / "mpeg4.mp4", codec="mpeg4", gop=15, b_frames=2)
    make_video(folder / "transport.ts", container="mpegts")
    make_video(folder / "rotated.mp4", rotation=90, num_frames=12)
    gaps = np.random.default_rng(0).choice([33, 33, 40, 100, 400], NUM_FRAMES)
    make_video(folder / "variable_rate.mp4", times=np.cumsum(gaps).tolist())
    remux(folder / "gop12.mp4", folder / "cut_in_gop.mkv", skip_packets=5)
    remux(folder / "gop12.mp4", folder / "cut_at_key.mp4", skip_packets=12)


def sequential(path):
    """Every frame by a plain decode from start to end, upright, and its time: what all reading is compared with."""
    pictures, times = [], []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.thread_type = "NONE"
        for frame in container.decode(stream):
            picture = frame.to_ndarray(format="rgb24")
            pictures.append(np.rot90(picture, k=(frame.rotation // 90) % 4))
            times.append(frame.time)
    return pictures, times
