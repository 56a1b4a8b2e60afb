"""Pictures of every mode are right or refused; animated ones are videos with their own times; covers are no videos."""

import shutil
import subprocess
from types import SimpleNamespace

import av
import numpy as np
import pytest
import video_maker
from PIL import Image

from video_ssl.clips.decoders.files.facts import file_facts
from video_ssl.clips.decoders.pictures.picture import PictureProblem, to_rgb
from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.decoders.streams import video_stream
from video_ssl.clips.reading import open_video
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.datasets.table import Table

RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
GREY = np.repeat(RAMP[..., None], 3, axis=2)


def shown(path):
    with open_video(path) as reader:
        return reader.frames([0])[0]


SIXTEEN = {
    "png": lambda p: Image.fromarray(RAMP.astype(np.uint16) * 257).save(p),
    "tif": lambda p: Image.fromarray(RAMP.astype(np.uint16) * 257).save(p),
    "ppm": lambda p: p.write_bytes(b"P5 64 32 65535\n" + (RAMP.astype(">u2") * 257).tobytes()),
}


@pytest.mark.parametrize("suffix", SIXTEEN)
def test_sixteen_bits_are_scaled(tmp_path, suffix):
    """Was wrong: cut at 255, so the picture was white."""
    SIXTEEN[suffix](tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(shown(tmp_path / f"a.{suffix}"), GREY)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("L", "png"), ("LA", "png"), ("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("1", "png"), ("CMYK", "tif"),
     ("L", "jpg"), ("CMYK", "jpg"), ("YCbCr", "jpg"), ("RGBA", "webp")],
)  # fmt: skip
def test_modes_of_eight_bits_and_fewer(tmp_path, mode, suffix):
    path = tmp_path / f"a.{suffix}"
    whole = Image.fromarray(RAMP if mode != "1" else np.where(RAMP > 127, 255, 0).astype(np.uint8))
    image = (whole if mode in ("1", "L", "LA") else whole.convert("RGB")).convert(mode)
    image.save(path, **({"lossless": True} if suffix == "webp" else {}))
    expected = np.repeat(np.asarray(whole)[..., None], 3, axis=2).astype(int)
    found = shown(path).astype(int)
    if mode == "P":  # the web's palette, dithered
        expected = np.asarray(image.convert("RGB")).astype(int)
        assert np.abs(expected.mean() - whole.convert("L").getextrema()[1] / 2) < 10
    assert np.abs(found - expected).max() <= (12 if suffix == "jpg" else 0)


@pytest.mark.parametrize(("mode", "said"), [("F", "floating-point numbers"), ("I", "32-bit integers")])  # fmt: skip
def test_numbers_without_a_white_are_refused(tmp_path, mode, said):
    kind = np.float32 if mode == "F" else np.int32
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(BadVideo, match=f"a.tif: holds {said}, and does not say which is white"):
        open_video(tmp_path / "a.tif")


def test_a_mode_without_a_way_to_rgb_is_refused():
    class Strange:
        mode = "XYZ"

        def convert(self, mode):
            raise ValueError(f"conversion from XYZ to {mode} not supported")

    with pytest.raises(PictureProblem, match="is in mode XYZ, which has no way to RGB"):
        to_rgb(Strange(), "TIFF")


# Animations

DURATIONS = [40, 40, 200, 40, 40, 500]


def animation(path, *, duration=DURATIONS, **more):
    images = [Image.fromarray(video_maker.draw(k, (96, 128))) for k in range(6)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=duration, **more)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif", "a.apng", "gif_named.png"])
def test_an_animated_picture_is_a_video_with_its_own_times(tmp_path, name):
    """Was wrong: an animated WebP or PNG was one frame without a word; a GIF lost how long its last frame is shown."""
    path = tmp_path / name
    kinds = {
        "a.webp": {"lossless": True},
        "a.apng": {"format": "PNG"},
        "gif_named.png": {"format": "GIF"},
    }
    animation(path, **kinds.get(name, {}))
    with open_video(path) as reader:
        assert reader.info.num_frames == 6
        np.testing.assert_allclose(reader.times(range(6)), np.cumsum([0, *DURATIONS[:-1]]) / 1000)
        assert reader.info.duration_sec == pytest.approx(sum(DURATIONS) / 1000)
        assert reader.info.fps == pytest.approx(5 / 0.36)
        order = [3, 0, 5, 5, 1]
        pictures = reader.frames(order)
        assert [video_maker.read_index(p) for p in pictures] == order
        assert reader.frames([2], (48, 64)).shape == (1, 48, 64, 3)
        assert not reader.audio(0, 0.5, 100).any()
        if "gif" not in name:
            np.testing.assert_array_equal(pictures[0], video_maker.draw(3, (96, 128)))


def test_a_scan_describes_an_animated_picture(tmp_path):
    animation(tmp_path / "a.webp", lossless=True)
    rows = [{"source": str(tmp_path / "a.webp")}]
    record = scan_table(Table.from_rows(rows), tmp_path / "s.arrow", progress=False).table.record(0)
    assert (record.num_frames, record.codec, record.variable_fps) == (6, "webp", True)


def test_pillow_and_ffmpeg_show_the_same_animation(tmp_path):
    """Frames that hold only what changes are put onto those before them by both."""
    images = [Image.new("RGBA", (64, 48), (20, 30, 40, 255)) for _ in range(8)]
    for k, image in enumerate(images):
        image.paste((250, 10 * k, 0, 255), (4 * k, 8, 4 * k + 12, 20))
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:], duration=40)
    shutil.copy(tmp_path / "a.png", tmp_path / "a.apng")  # by its name it goes to FFmpeg
    with open_video(tmp_path / "a.png") as ours, open_video(tmp_path / "a.apng") as theirs:
        np.testing.assert_array_equal(ours.frames(range(8)), theirs.frames(range(8)))


def test_the_picture_before_an_animation_is_no_frame_of_it(tmp_path):
    animation(tmp_path / "a.png", default_image=True, duration=40)
    with open_video(tmp_path / "a.png") as reader:
        assert [video_maker.read_index(p) for p in reader.frames(range(5))] == [1, 2, 3, 4, 5]
        assert reader.info.num_frames == 5


def test_a_frame_that_says_no_time_is_shown_for_a_tenth(tmp_path):
    animation(tmp_path / "a.webp", duration=0, lossless=True)
    with open_video(tmp_path / "a.webp") as reader:
        np.testing.assert_allclose(reader.times(range(6)), np.arange(6) / 10)


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif"])
def test_an_animation_that_was_cut_off_is_refused(tmp_path, name):
    path = tmp_path / name
    animation(path)
    content = path.read_bytes()
    for share in (0.4, 0.7):
        path.write_bytes(content[: round(share * len(content))])
        with pytest.raises(BadVideo, match=r"cannot be|cut off"):
            open_video(path)


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_an_animated_picture_is_no_frame_of_a_folder(tmp_path, suffix):
    for k in range(3):
        Image.fromarray(video_maker.draw(k, (96, 128))).save(tmp_path / f"{k}.{suffix}")
    animation(tmp_path / f"1.{suffix}")
    with (
        open_video(tmp_path) as reader,
        pytest.raises(BadVideo, match=r"frame 1 \(1.\w+\) is an animated picture of 6 frames"),
    ):
        reader.frames([1])


def test_pages_are_no_frames_but_smaller_copies_are_no_pages(tmp_path):
    images = [Image.fromarray(video_maker.draw(k, (96, 128))) for k in range(3)]
    images[0].save(tmp_path / "pages.tif", save_all=True, append_images=images[1:])
    with pytest.raises(BadVideo, match="holds 3 pages, where one picture is expected"):
        open_video(tmp_path / "pages.tif")
    thumbnail = images[1].resize((32, 24))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    images[0].save(tmp_path / "one.tif", save_all=True, append_images=[thumbnail])
    with Image.open(tmp_path / "one.tif") as image:
        assert image.n_frames == 2
        image.seek(1)
        if image.tag_v2.get(254) != 1:
            pytest.skip("this version of Pillow does not write the kind of a page")
    assert video_maker.read_index(shown(tmp_path / "one.tif")) == 0


# Covers


def song(path, codec, *, film=False):
    """A second of sound with a cover; with `film` a video too."""
    picture = Image.fromarray(video_maker.draw(0, (96, 128)))
    plain = path.with_name("plain.mp4")
    video_maker.make_video(
        plain, num_frames=25, audio=video_maker.chirp, audio_codec=codec, audio_rate=44100
    )
    jpeg = path.with_name("cover.jpg")
    picture.save(jpeg)
    with av.open(str(plain)) as old, av.open(str(jpeg)) as cover, av.open(str(path), "w") as new:
        kept = [s for s in old.streams if film or s.type == "audio"]
        copies = {s.index: new.add_stream_from_template(s) for s in kept}
        attached = new.add_stream_from_template(cover.streams.video[0])
        attached.disposition = av.stream.Disposition.attached_pic
        for packet in old.demux(kept):
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
        for packet in cover.demux(video=0):
            if packet.dts is not None:
                packet.stream = attached
                new.mux(packet)


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "aac"), ("a.mp3", "libmp3lame"), ("a.flac", "flac")]
)
def test_music_with_a_cover_is_no_video(tmp_path, name, codec):
    """Was wrong: one frame at 90,000 frames per second.  By its name it may be known as sound alone."""
    song(tmp_path / name, codec)
    with av.open(str(tmp_path / name)) as container:
        assert len(container.streams.video) == 1, "the cover is there"
    if name == "a.mp4":
        with pytest.raises(BadVideo) as caught:
            open_video(tmp_path / name)
        assert caught.value.reason == "has no video stream, only audio and a cover picture."
    else:
        with open_video(tmp_path / name) as reader:
            assert np.abs(reader.audio(0.0, 0.5, 8000)).max() > 0
            with pytest.raises(BadVideo, match="has no pictures, only sound"):
                reader.frames([0])
    with pytest.raises(BadVideo, match="only audio and a cover picture"):
        file_facts(str(tmp_path / name))


def test_a_film_with_a_cover_is_the_film(tmp_path):
    song(tmp_path / "a.mp4", "aac", film=True)
    with open_video(tmp_path / "a.mp4") as reader:
        assert reader.info.num_frames == 25
        assert [video_maker.read_index(f) for f in reader.frames([24, 3])] == [24, 3]
    assert file_facts(str(tmp_path / "a.mp4")).codec == "h264"


@pytest.mark.parametrize(
    ("brand", "frames", "is_one"),
    [("heic", 1, True), ("avif", 1, True), ("heic", 9, False), ("mp42", 1, False)],
)
def test_a_picture_in_tiles_is_no_video(brand, frames, is_one):
    """Was wrong: one tile of a HEIC was the video.  There is no encoder of such files here: only the rule is tested."""
    streams = [
        SimpleNamespace(
            disposition=av.stream.Disposition(0),
            type="video",
            frames=frames,
            codec_context=SimpleNamespace(width=64, height=48),
        )
        for _ in range(4)
    ]

    class Streams(list):
        video = streams

        def best(self, kind):
            return self[2]

    container = SimpleNamespace(streams=Streams(streams), metadata={"major_brand": brand})
    if is_one:
        with pytest.raises(BadVideo, match=r"a.heic: is a picture in 4 tiles or layers"):
            video_stream(container, "a.heic")
    else:
        assert video_stream(container, "a.heic") is streams[2]


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")
def test_times_of_a_gif_are_those_of_the_ffprobe_program(tmp_path):
    animation(tmp_path / "a.gif")
    command = ["ffprobe", "-v", "error", "-show_entries", "packet=pts_time", "-of", "csv=p=0"]
    said = subprocess.run([*command, tmp_path / "a.gif"], capture_output=True, check=True).stdout
    with open_video(tmp_path / "a.gif") as reader:
        times = reader.times(range(reader.info.num_frames))
    np.testing.assert_allclose(times, [float(line.strip(b",")) for line in said.split()], atol=1e-6)
