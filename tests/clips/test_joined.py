"""Pieces joined end to end (`cat a.ts b.ts`): every frame once, times and sound that go on; lost packets are told."""

import numpy as np
import pytest
import video_maker
from video_maker import read_index

from video_ssl.clips.decoders.pyav.frame_lists import steady_times
from video_ssl.clips.decoders.pyav.transport_breaks import read_breaks
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.reading import open_video

FRAMES = 25
MPEG2 = {"codec": "mpeg2video", "b_frames": 2, "audio_codec": "mp2"}
KINDS = {
    "h264.ts": {"container": "mpegts"},
    "mpeg2.ts": {**MPEG2, "container": "mpegts"},
    "bluray.m2ts": {"container": "mpegts", "options": {"mpegts_m2ts_mode": "1"}},
    "mpeg2.mpg": MPEG2,
    "dvd.vob": MPEG2,
}
PACKET = 188


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """kind -> the bytes of three pieces of a second; piece k begins with frame 25 k and sounds at 400 + 300 k Hz."""
    folder = tmp_path_factory.mktemp("pieces")
    found = {}
    for name, style in KINDS.items():
        found[name] = []
        for k in range(3):
            path = folder / name
            video_maker.make_video(
                path,
                num_frames=FRAMES,
                first=FRAMES * k,
                audio=lambda at, k=k: 0.3 * np.sin(2 * np.pi * (400 + 300 * k) * at),
                audio_rate=44100,
                **style,
            )
            found[name].append(path.read_bytes())
    return found


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_once_and_times_and_sound_that_go_on(pieces, tmp_path, name):
    """Was wrong: joined transport streams were "damaged"; times of others lost the piece's own, and so did sound."""
    path = tmp_path / name
    path.write_bytes(b"".join(pieces[name]))
    with open_video(path) as reader:
        assert reader.info.num_frames == 3 * FRAMES
        order = np.random.default_rng(0).permutation(3 * FRAMES)
        assert [read_index(f) for f in reader.frames(order)] == order.tolist()
        times = reader.times(range(3 * FRAMES))
        np.testing.assert_allclose(times, np.arange(3 * FRAMES) / 25, atol=2e-3)
        for k in (0, 2, 1):
            wave = reader.audio(k + 0.2, k + 0.8, 16000)
            pitch = np.abs(np.fft.rfft(wave)).argmax() / 0.6
            assert pitch == pytest.approx(400 + 300 * k, abs=5)
            assert np.sqrt((wave**2).mean()) > 0.15


def test_lost_packets_stay_damage(pieces, tmp_path):
    content = b"".join(pieces["h264.ts"])
    path = tmp_path / "lost.ts"
    middle = len(content) // PACKET // 5 * PACKET
    path.write_bytes(content[:middle] + content[middle + 3 * PACKET :])
    with pytest.raises(BadVideo, match="damaged"), open_video(path) as reader:
        reader.frames(range(reader.info.num_frames))


def test_a_piece_that_was_cut_within_a_packet_is_damage(pieces, tmp_path):
    first, second, _ = pieces["h264.ts"]
    path = tmp_path / "cut.ts"
    path.write_bytes(first[: len(first) // 2 // PACKET * PACKET + 77] + second)
    with pytest.raises(BadVideo, match="damaged"), open_video(path) as reader:
        reader.frames(range(reader.info.num_frames))


def test_a_missing_piece_of_a_live_stream_is_a_loss(tmp_path):
    """Time goes on beyond the border by more than a picture: that is no joint."""
    content = {}
    for k, begin in enumerate((0, 1000, 2000)):
        path = tmp_path / "piece.ts"
        times = [begin + 40 * i for i in range(FRAMES)]
        video_maker.make_video(path, num_frames=FRAMES, times=times, container="mpegts", first=25 * k)  # fmt: skip
        content[k] = path.read_bytes()
    path = tmp_path / "live.ts"
    path.write_bytes(content[0] + content[1] + content[2])
    with open_video(path) as reader:
        assert reader.info.num_frames == 75
        assert [read_index(f) for f in reader.frames(range(75))] == list(range(75))
        np.testing.assert_allclose(reader.times(range(75)), np.arange(75) / 25, atol=1e-3)
    path.write_bytes(content[0] + content[2])
    identifier = 0x100
    breaks = read_breaks(str(path), None, identifier)
    assert (breaks.joints, breaks.losses) == (0, 1)


def test_pieces_with_other_stream_numbers_are_refused(pieces, tmp_path):
    """Was wrong: the second video was left out without a word."""
    other = tmp_path / "other.ts"
    video_maker.make_video(
        other, num_frames=FRAMES, container="mpegts", options={"mpegts_start_pid": "512"}
    )
    path = tmp_path / "both.ts"
    path.write_bytes(pieces["h264.ts"][0] + other.read_bytes())
    with pytest.raises(BadVideo, match="one after the other under different stream numbers"):
        open_video(path).frames([0])


def test_steady_times():
    regular = np.arange(5) / 25
    out, offsets = steady_times(regular, 25, may_jump=True)
    np.testing.assert_array_equal(out, regular)
    assert offsets == (0.0,)
    # A clock that starts anew, and one that steps ahead by more than ten seconds.
    for second in (0.0, 60.0):
        out, offsets = steady_times(np.concatenate([regular + 3, regular + second]), 25, may_jump=True)  # fmt: skip
        np.testing.assert_allclose(out, 3 + np.arange(10) / 25)
        assert offsets == (0.0, pytest.approx(3.2 - second))
    # Where a clock does not jump, a long step is a long step.
    slow = np.array([0.0, 1.0, 21.0])
    np.testing.assert_array_equal(steady_times(slow, 25, may_jump=False)[0], slow)
    # Disorder within half a second (packed B frames) and unknown times become even steps.
    out, _ = steady_times(np.array([0.0, 0.08, 0.04, 0.12]), 25, may_jump=True)
    np.testing.assert_allclose(out, np.arange(4) / 25)
    out, _ = steady_times(np.full(3, np.nan), 10, may_jump=False)
    np.testing.assert_allclose(out, [0, 0.1, 0.2])
