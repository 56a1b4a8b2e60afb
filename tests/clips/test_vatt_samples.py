"""What reaches a batch of VATT from files: frames, sound in step with them, words; and what is not there."""

import dataclasses
import json
import wave

import av
import numpy as np
import pytest
import video_maker
from video_maker import chirp, read_index

from video_ssl.clips.captions import late_captions
from video_ssl.clips.config import CropConfig
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.text import is_outside
from video_ssl.datasets import open_table
from video_ssl.datasets.record import Caption
from video_ssl.datasets.table import Table
from video_ssl.objectives.vatt.config import Config
from video_ssl.objectives.vatt.plan import Plan
from video_ssl.objectives.vatt.sample_config import TableRate

RATE, SECONDS = 8000, 0.6
SMALL = {
    "num_frames": 6,
    "frame_stride": 1,
    "fps": 10.0,
    "crop": CropConfig(kind="whole", size=128),
    "color": None,
    "rate": RATE,
    "num_samples": round(RATE * SECONDS),
    "noise": 0.0,
}


def config_of(table=None, **settings):
    config = Config(**(SMALL | settings))
    return config.settled([table]) if table is not None else config


def write_table(folder, rows, name="t.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_table(folder / name)


def batches_of(*tables, config, num_workers=0, steps=6, start_step=0, size=4, mix=1.0):
    weighted = [(tables[0], 1.0), *((table, mix) for table in tables[1:])]
    loader = LoaderConfig(num_workers=num_workers)
    settings = {"seed": 3, "global_batch_size": size, "num_steps": steps, "start_step": start_step}
    with Pipeline(weighted, Plan(config), config=loader, **settings) as pipeline:
        return list(pipeline)


def samples_of(table, config, steps=6):
    """Every sample of some batches, as a mapping."""
    batches = batches_of(table, config=config, steps=steps)
    return [{k: v[i] for k, v in batch.items()} for batch in batches for i in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Films of 2 s at 25 frames a second: with sound, without, with zeros, and with a track of half the length."""
    place = tmp_path_factory.mktemp("films")
    sounds = {"loud": chirp, "mute": None, "zeros": np.zeros_like}
    for name, audio in sounds.items():
        video_maker.make_video(
            place / f"{name}.mkv", num_frames=50, audio=audio, audio_codec="pcm_s16le"
        )
    video_maker.make_video(
        place / "half.mkv",
        num_frames=50,
        audio=lambda at: np.where(at < 1, chirp(at), 0),
        audio_codec="pcm_s16le",
    )
    return place


# Sound in step with the frames --------------------------------------------------------------------


def test_sound_begins_with_the_first_frame(folder):
    table = write_table(folder, [{"path": "loud.mkv"}])
    starts = set()
    for sample in samples_of(table, config_of(table)):
        shown = [read_index(frame) for frame in sample["video"]]
        at = shown[0] / 25 + np.arange(sample["sound"].size) / RATE
        # 10 frames a second of 25: the source frames nearest to k / 10 s.
        assert np.abs(np.diff(shown) - 2.5).max() <= 0.5
        assert (sample["sound"].dtype, sample["sound"].shape) == (np.float32, (4800,))
        inside = at < 1.99
        np.testing.assert_allclose(sample["sound"][inside], chirp(at)[inside], atol=0.03)
        assert sample["has_sound"]
        starts.add(shown[0])
    assert len(starts) > 6


def test_sound_goes_on_at_the_beginning_where_the_frames_do(folder):
    """3 s of frames and of sound from a video of 2 s."""
    table = write_table(folder, [{"path": "loud.mkv"}])
    config = config_of(table, num_frames=30, num_samples=3 * RATE)
    sample = samples_of(table, config, steps=1)[0]
    shown = [read_index(frame) for frame in sample["video"]]
    assert shown[:20] == sorted(shown[:20])
    assert shown[20:] == shown[:10]
    assert shown[0] == 0
    at = np.arange(3 * RATE) / RATE % 2.0
    seam = np.minimum(at, 2.0 - at) < 0.01  # the filter of the resampling
    np.testing.assert_allclose(sample["sound"][~seam], chirp(at)[~seam], atol=0.03)


def test_a_clip_at_the_end_hears_the_beginning(folder):
    """More sound than frames, as AudioSet has it: 0.6 s of frames, 1.5 s of sound."""
    table = write_table(folder, [{"path": "loud.mkv"}])
    config = config_of(table, num_samples=round(1.5 * RATE))
    late = [s for s in samples_of(table, config) if read_index(s["video"][0]) > 20]
    assert late
    for sample in late:
        at = (read_index(sample["video"][0]) / 25 + np.arange(sample["sound"].size) / RATE) % 2.0
        seam = np.minimum(at, 2.0 - at) < 0.01
        np.testing.assert_allclose(sample["sound"][~seam], chirp(at)[~seam], atol=0.03)


def test_a_stretch_hears_itself_only(folder):
    """Of the second from 0.8 to 1.8 s, looped."""
    table = write_table(folder, [{"path": "loud.mkv", "start": 0.8, "end": 1.8}])
    config = config_of(table, num_frames=20, num_samples=2 * RATE)
    sample = samples_of(table, config, steps=1)[0]
    shown = [read_index(frame) for frame in sample["video"]]
    assert 20 <= min(shown) <= max(shown) <= 45
    assert shown[10:] == shown[:10]
    at = 0.8 + np.arange(2 * RATE) / RATE % 1.0
    seam = np.minimum(at - 0.8, 1.8 - at) < 0.01
    np.testing.assert_allclose(sample["sound"][~seam], chirp(at)[~seam], atol=0.03)


def test_noise_is_a_share_of_the_largest_sample(folder):
    table = write_table(folder, [{"path": "loud.mkv"}])
    quiet, noisy = (samples_of(table, config_of(table, noise=noise)) for noise in (0.0, 0.05))
    for a, b in zip(quiet, noisy, strict=True):
        np.testing.assert_array_equal(a["video"], b["video"])
        noise = b["sound"] - a["sound"]
        assert noise.std() == pytest.approx(0.05 * np.abs(a["sound"]).max(), rel=0.05)
        assert abs(noise.mean()) < 0.002
        assert np.abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.06
    assert np.abs(noisy[0]["sound"] - noisy[1]["sound"]).max() > 0.05


# Sound that is odd or missing ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mute", "zeros"])
def test_no_sound_and_silence_are_zeros_and_false(folder, name):
    """Also with noise."""
    table = write_table(folder, [{"path": f"{name}.mkv"}])
    for sample in samples_of(table, config_of(table, noise=0.1), steps=2):
        assert not sample["has_sound"]
        assert sample["has_sound"].dtype == bool
        assert not sample["sound"].any()


def test_a_track_that_ends_early(folder):
    """Clips of the silent half have no sound, others have it and are silent where the track ended."""
    table = write_table(folder, [{"path": "half.mkv"}])
    seen = set()
    for sample in samples_of(table, config_of(table)):
        begin = read_index(sample["video"][0]) / 25
        if abs(begin - 1) < 0.05:  # the filter of the resampling
            continue
        assert sample["has_sound"] == (begin < 1)
        at = begin + np.arange(sample["sound"].size) / RATE
        assert not sample["sound"][(at > 1.01)].any()
        seen.add(bool(sample["has_sound"]))
    assert seen == {True, False}


@pytest.mark.parametrize(("rate", "codec"), [(8000, "pcm_s16le"), (44100, "pcm_s16le"), (48000, "aac")])  # fmt: skip
def test_files_of_other_rates(tmp_path, rate, codec):
    video_maker.make_video(
        tmp_path / "film.mkv", num_frames=50, audio=chirp, audio_codec=codec, audio_rate=rate
    )
    table = write_table(tmp_path, [{"path": "film.mkv"}])
    for sample in samples_of(table, config_of(table, rate=16000, num_samples=9600), steps=1):
        at = read_index(sample["video"][0]) / 25 + np.arange(9600) / 16000
        inside = (at > 0.05) & (at < 1.9)
        heard, wanted = sample["sound"][inside], chirp(at)[inside]
        assert np.corrcoef(heard, wanted)[0, 1] > 0.98  # half a millisecond off would be 0.5
        assert heard.std() == pytest.approx(wanted.std(), rel=0.05)


def make_with_track(target, wave, *, audio=None, rate=16000):
    """A film of 2 s with one track of sound more, float (N,) in -1..1."""
    source = target.with_suffix(".first.mkv")
    video_maker.make_video(source, num_frames=50, b_frames=0, audio=audio, audio_codec="pcm_s16le")
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        copies = [new.add_stream_from_template(stream) for stream in old.streams]
        tone = new.add_stream("pcm_s16le", rate=rate, layout="mono")
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = copies[packet.stream.index]
                new.mux(packet)
        samples = (32000 * wave).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate, frame.pts = rate, 0
        new.mux(tone.encode(frame))
        new.mux(tone.encode())


def test_a_track_that_is_longer_than_its_video(tmp_path):
    """What is heard behind the last frame belongs to no clip: sound loops where the frames do."""
    make_with_track(tmp_path / "long.mkv", chirp(np.arange(5 * 16000) / 16000))
    table = write_table(tmp_path, [{"path": "long.mkv"}])
    for sample in samples_of(table, config_of(table, num_samples=round(1.5 * RATE)), steps=2):
        begin = read_index(sample["video"][0]) / 25
        at = (begin + np.arange(sample["sound"].size) / RATE) % 2.0
        seam = np.minimum(at, 2.0 - at) < 0.01
        np.testing.assert_allclose(sample["sound"][~seam], chirp(at)[~seam], atol=0.03)


def test_of_several_tracks_one_is_heard(tmp_path):
    """The same one in every sample."""
    make_with_track(tmp_path / "two.mkv", np.sin(np.arange(32000) / 3) / 4, audio=chirp)
    table = write_table(tmp_path, [{"path": "two.mkv"}])
    for sample in samples_of(table, config_of(table), steps=2):
        at = read_index(sample["video"][0]) / 25 + np.arange(sample["sound"].size) / RATE
        inside = at < 1.99
        np.testing.assert_allclose(sample["sound"][inside], chirp(at)[inside], atol=0.03)


def test_sound_that_cannot_be_decoded_costs_its_record(folder, tmp_path):
    """The next one takes its place, and the record is named as of a broken video."""
    from video_ssl.clips.decoders.pyav import reader as pyav_reader
    from video_ssl.clips.decoders.reader import BadVideo

    class Deaf(pyav_reader.PyAVReader):
        def audio(self, start_sec, end_sec, rate):
            if "zeros" in self.path:
                raise BadVideo(self.path, "its sound cannot be decoded (told).")
            return super().audio(start_sec, end_sec, rate)

    table = write_table(folder, [{"path": "loud.mkv"}, {"path": "zeros.mkv"}])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pyav_reader, "PyAVReader", Deaf)
        skipped = tmp_path / "skipped.jsonl"
        settings = {"seed": 1, "global_batch_size": 2, "num_steps": 2, "skip_log": skipped}
        loader = LoaderConfig(num_workers=0)
        with Pipeline([(table, 1.0)], Plan(config_of(table)), config=loader, **settings) as made:
            rows = np.concatenate([batch["record_index"] for batch in made])
    assert set(rows.tolist()) == {0}
    assert "its sound cannot be decoded" in skipped.read_text()


def test_a_recording_without_pictures_is_a_bad_video(folder, tmp_path):
    with wave.open(str(folder / "alone.wav"), "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes((8000 * chirp(np.arange(2 * RATE) / RATE)).astype(np.int16).tobytes())
    table = write_table(folder, [{"path": "loud.mkv"}, {"path": "alone.wav"}])
    skipped = tmp_path / "skipped.jsonl"
    settings = {"seed": 1, "global_batch_size": 2, "num_steps": 3, "skip_log": skipped}
    loader = LoaderConfig(num_workers=0)
    with Pipeline([(table, 1.0)], Plan(config_of(table)), config=loader, **settings) as made:
        rows = np.concatenate([batch["record_index"] for batch in made])
    assert set(rows.tolist()) == {0}
    assert "has no pictures, only sound" in skipped.read_text()


# Words --------------------------------------------------------------------------------------------


def words_of(sample, config):
    """The captions of a sample as texts."""
    words = config.text_preprocess.vocabulary
    return [" ".join(words[i] for i in row if i) for row in sample["words"]]


def test_captions_nearest_in_time(folder):
    captions = [
        {"text": f"Caption number {i}.", "start": i / 10, "end": (i + 1) / 10} for i in range(20)
    ]
    table = write_table(folder, [{"path": "mute.mkv", "captions": captions[::-1]}])
    config = config_of(table, num_captions=4, num_words=3, num_frames=4)
    firsts = set()
    for sample in samples_of(table, config):
        assert sample["words"].dtype == np.int32
        assert sample["words"].shape == (4, 3)
        first = read_index(sample["video"][0]) / 25
        last = read_index(sample["video"][-1]) / 25
        found = [int(text.split()[-1]) for text in words_of(sample, config)]
        spans = np.array([[i / 10, (i + 1) / 10] for i in range(20)])
        gaps = np.maximum(np.maximum(spans[:, 0] - last, first - spans[:, 1]), 0)
        away = np.abs(spans.mean(1) - (first + last) / 2)
        near = sorted(range(20), key=lambda i: (gaps[i].round(9), away[i].round(9)))[:4]
        assert sorted((gaps[i].round(6), away[i].round(6)) for i in found) == sorted(
            (gaps[i].round(6), away[i].round(6)) for i in near
        )
        assert sample["has_words"]
        firsts.add(found[0])
    assert len(firsts) > 5


def test_times_of_captions_are_those_of_the_source(folder):
    """Of a stretch too; a neighbour outside the stretch is one of the nearest, if the row has it."""
    captions = [{"text": str(i), "start": i / 2, "end": (i + 1) / 2} for i in range(4)]
    table = write_table(
        folder, [{"path": "mute.mkv", "start": 1.0, "end": 1.5, "captions": captions}]
    )
    config = config_of(table, num_captions=2, num_frames=4)
    for sample in samples_of(table, config, steps=2):
        assert words_of(sample, config)[0] == "2"
        assert words_of(sample, config)[1] in ("1", "3")


def test_of_captions_without_times_any_are_taken(folder):
    table = write_table(folder, [{"path": "mute.mkv", "captions": [f"c{i}" for i in range(9)]}])
    config = config_of(table, num_captions=3)
    seen = [tuple(words_of(sample, config)) for sample in samples_of(table, config)]
    assert all(len(set(found)) == 3 for found in seen)
    assert {text for found in seen for text in found} == {f"c{i}" for i in range(9)}


def test_few_captions_are_followed_by_padding(folder):
    table = write_table(folder, [{"path": "mute.mkv", "captions": ["Sits down; slowly!", "waits"]}])
    config = config_of(table)
    for sample in samples_of(table, config, steps=2):
        assert sorted(words_of(sample, config)) == ["", "", "", "sits down slowly", "waits"]
        assert sample["words"].shape == (5, 16)
        assert not sample["words"][2:].any()
        assert sample["has_words"]


@pytest.mark.parametrize("captions", [None, [], [""], ["   ", "?!...", "\t"]])
def test_no_words_are_zeros_and_false(folder, captions):
    """Among captions with words they are passed over."""
    rows = [{"path": "mute.mkv", "captions": captions or []}, {"path": "loud.mkv", "captions": ["x", ""]}]  # fmt: skip
    table = write_table(folder, rows)
    config = config_of(table)
    for sample in samples_of(table, config, steps=2):
        has = sample["record_index"] == 1
        assert sample["has_words"] == has
        assert sample["words"].any() == has
        if has:
            assert words_of(sample, config) == ["x", "", "", "", ""]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Она садится на пол.", "она садится на пол"),
        ("彼女は床に座ります。", "彼女は床に座ります。"),
        ("تجلس على الأرض", "تجلس على الأرض"),
        ("jumps 🎉🎉 👩‍👩‍👧 up", "jumps 🎉🎉 👩‍👩‍👧 up"),
        ("ÄPFEL İstanbul STRASSE", "äpfel i̇stanbul strasse"),
        (" ".join(f"w{i}" for i in range(10_000)), " ".join(f"w{i}" for i in range(16))),
        ("so" + 300_000 * "o" + " long", "<unk> long"),
    ],
    ids=["cyrillic", "japanese", "arabic", "emoji", "capitals", "10,000 words", "one long word"],
)
def test_captions_of_all_kinds(folder, text, expected):
    table = write_table(folder, [{"path": "mute.mkv", "captions": [text]}])
    config = config_of(table, max_vocabulary=12_000)
    sample = samples_of(table, config, steps=1)[0]
    assert words_of(sample, config)[0] == expected


def test_words_that_the_vocabulary_lacks_are_unknown(folder, tmp_path):
    (tmp_path / "words.txt").write_text("<pad>\n<bos>\n<eos>\n<unk>\nsits\n")
    table = write_table(folder, [{"path": "mute.mkv", "captions": ["Sits 座 down 🎉"]}])
    config = config_of(table, vocabulary=str(tmp_path / "words.txt"))
    sample = samples_of(table, config, steps=1)[0]
    assert sample["words"][0, :5].tolist() == [4, 3, 3, 3, 0]


def test_captions_outside_the_video_are_not_used_and_told(folder, caplog):
    captions = [
        {"text": "late", "start": 2.5, "end": 3.0},
        {"text": "before", "start": -2.0, "end": -1.0},
        {"text": "inside", "start": 1.0, "end": 9.0},
    ]
    rows = [
        {"id": "a", "path": "mute.mkv", "duration_sec": 2.0, "captions": captions},
        {"id": "b", "path": "loud.mkv", "duration_sec": 2.0, "captions": captions[:2]},
    ]
    table = write_table(folder, rows)
    config = config_of(table)
    assert "4 captions lie outside their videos and are not used; the first is of record 'a'" in (
        caplog.text
    )
    for sample in samples_of(table, config, steps=2):
        has = sample["record_index"] == 0
        assert words_of(sample, config) == (["inside"] if has else [""]) + [""] * 4
        assert sample["has_words"] == has


def test_late_captions_by_hand():
    """Against every caption alone, over rows with and without lengths, stretches and captions."""
    rng = np.random.default_rng(5)
    rows, late = [], []
    for number in range(300):
        times = [None, *np.round(rng.uniform(-3, 12, 3), 1).tolist()]
        captions = []
        for _ in range(int(rng.integers(4))):
            begin, end = (times[i] for i in rng.integers(4, size=2))
            if begin is not None and end is not None and end < max(begin, 0):
                begin, end = begin, None
            if begin is None and end is not None and end < 0:
                end = None
            captions.append(Caption(text="a", start_sec=begin, end_sec=end))
        row = {"id": f"r{number}", "source": "a.mp4", "captions": captions}
        row["duration_sec"] = [None, 4.0, 8.0][int(rng.integers(3))]
        row["start_sec"] = 1.0 if rng.random() < 0.3 else None
        rows.append(row)
        if row["duration_sec"] and row["start_sec"] is None:
            late += [row["id"]] * sum(is_outside(c, row["duration_sec"]) for c in captions)
    table = Table.from_rows(rows)
    assert len(late) > 20
    assert late_captions(table) == (len(late), late[0])
    chosen = table.select(np.arange(299, 100, -1))
    ours = [name for name in late if int(name[1:]) > 100]
    assert late_captions(chosen) == (len(ours), ours[-1])
    bare = Table.from_rows([{"source": "a.mp4", "captions": [Caption(text="a", start_sec=9.0)]}])
    assert late_captions(bare) == (0, "")


# Tables ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(folder):
    """A table with sound and words, and one with neither."""
    rows = [{"path": "loud.mkv", "id": f"l{i}", "captions": [f"loud {i}"]} for i in range(3)]
    return (
        write_table(folder, rows, "first.jsonl").named("first"),
        write_table(folder, [{"path": "mute.mkv"}], "second.jsonl").named("second"),
    )


def mixed_config(mixed, **settings):
    rates = {"second": TableRate(frame_stride=3)}
    return Config(**(SMALL | {"table_rates": rates, "noise": 0.01} | settings)).settled(mixed)


def test_tables_of_other_modalities_strides_and_rates_in_one_batch(mixed):
    config = mixed_config(mixed)
    tables = []
    for batch in batches_of(*mixed, config=config, mix=0.5, steps=9):
        for i, table in enumerate(batch["table_index"].tolist()):
            steps = np.diff([read_index(frame) for frame in batch["video"][i]])
            if table == 0:
                assert np.abs(steps - 2.5).max() <= 0.5
            else:  # of the file's 25 frames a second every third
                assert set(steps.tolist()) == {3}
            assert batch["has_sound"][i] == batch["has_words"][i] == (table == 0)
            tables.append(table)
    assert np.mean(tables) == pytest.approx(1 / 3, abs=0.05)


def test_the_same_bits_for_any_number_of_workers_and_on_resume(mixed):
    config = mixed_config(mixed)
    alone = batches_of(*mixed, config=config, steps=5)
    for workers, start in ((2, 0), (1, 3), (0, 2)):
        again = batches_of(*mixed, config=config, steps=5, num_workers=workers, start_step=start)
        assert len(again) == 5 - start
        for a, b in zip(alone[start:], again, strict=True):
            assert set(a) == set(b)
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_rates_of_a_table_that_is_not_there(mixed):
    with pytest.raises(
        ValueError, match=r"table_rates names 'secnd'.*\['first', 'second'\].*'second'"
    ):
        mixed_config(mixed, table_rates={"secnd": TableRate(fps=5)})


# The vocabulary of a run ----------------------------------------------------------------------------


def test_the_vocabulary_is_made_of_the_captions_of_all_tables(folder):
    tables = [
        write_table(folder, [{"path": "mute.mkv", "captions": ["b a", "a C."]}], "1.jsonl"),
        write_table(folder, [{"path": "loud.mkv", "captions": "a c"}], "2.jsonl"),
        write_table(folder, [{"path": "loud.mkv"}], "3.jsonl"),
    ]
    config = Config(**SMALL, max_vocabulary=6)
    assert not config.is_settled
    settled = config.settled(tables)
    assert settled.words == ("<pad>", "<bos>", "<eos>", "<unk>", "a", "c")
    assert settled.is_settled
    assert settled.settled(tables) == settled
    assert config.settled(tables[::-1]) == settled


def test_no_captions_anywhere_are_told(folder, caplog):
    config = config_of(write_table(folder, [{"path": "mute.mkv"}]))
    assert "no record has a caption: nothing is learned about words" in caplog.text
    assert len(config.words) == 4


def test_a_run_does_not_go_on_with_other_words(folder, tmp_path):
    table = write_table(folder, [{"path": "mute.mkv"}])
    file = tmp_path / "words.txt"
    file.write_text("<pad>\n<bos>\n<eos>\n<unk>\na\nb\n")
    config = config_of(table, vocabulary=str(file))
    assert config.settled([table]) == config
    file.write_text("<pad>\n<bos>\n<eos>\n<unk>\nb\na\n")
    with pytest.raises(ValueError, match="are others than when this run began"):
        config.settled([table])


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"noise": -0.1}, "noise=-0.1 must not be negative"),
        ({"num_samples": 0}, "num_samples=0 must be at least 1"),
        ({"fps": 0.0}, r"fps=0.0 must be positive, or null"),
        ({"frame_stride": 0}, "frame_stride=0 must be at least 1"),
        ({"max_vocabulary": 4}, "max_vocabulary=4 must be more than the 4 special words"),
        (
            {"max_vocabulary": 20_000},
            "at most 12,000, which the recipe of a run keeps. Of more words",
        ),
        ({"words": ("<pad>", "a")}, "words lacks <bos>, <eos>, <unk>"),
        ({"words": ("<pad>",), "vocabulary": "a.txt"}, "are given together"),
    ],
)
def test_settings_that_make_no_sample(settings, told):
    with pytest.raises(ValueError, match=told):
        config_of(**settings)


def test_a_plan_without_a_vocabulary_says_so(folder):
    table = write_table(folder, [{"path": "mute.mkv", "captions": ["a"]}])
    with pytest.raises(Exception, match="the vocabulary is made of captions when a run begins"):
        samples_of(table, config_of())


def test_views_are_never_mirrored_where_the_table_forbids_it(folder):
    crop = dataclasses.replace(SMALL["crop"], flip_probability=1.0)
    table = write_table(folder, [{"path": "mute.mkv"}])
    first = samples_of(table, config_of(table, crop=crop), steps=1)[0]["video"]
    plain = samples_of(table, config_of(table), steps=1)[0]["video"]
    np.testing.assert_array_equal(first[:, :, ::-1], plain)
