"""Sound and captions reach a batch through a plan, in step with the pictures, whether a video has sound or not."""

import numpy as np
import pytest
import video_maker
from pipeline_plans import SoundTextPlan
from video_maker import chirp, read_index

from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.streams import Stream
from video_ssl.datasets import open_table
from video_ssl.pretrain.torch_loop.device_feed import to_tensors

LINES = """\
{"path": "loud.mkv", "captions": [{"text": "first", "start": 0.0, "end": 1.0}, {"text": "later", "start": 1.0}]}
{"path": "silent.mkv", "captions": [{"text": "nothing", "start": 0.0}]}
{"path": "loud.mkv", "start": 1.0, "end": 2.0, "captions": [{"text": "early", "start": 0.0}, {"text": "in it", "start": 1.2}]}
"""  # noqa: E501


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heard")
    for name, audio in (("loud", chirp), ("silent", None)):
        video_maker.make_video(
            folder / f"{name}.mkv", num_frames=50, audio=audio, audio_codec="pcm_s16le"
        )
    (folder / "t.jsonl").write_text(LINES)
    return open_table(folder / "t.jsonl")


def batches_of(table, num_workers):
    settings = {"seed": 1, "global_batch_size": 3, "num_steps": 4}
    stream = {"heard": Stream(tables=[(table, 1.0)], plan=SoundTextPlan(), records=3)}
    config = LoaderConfig(num_workers=num_workers)
    with Pipeline([(table, 1.0)], SoundTextPlan(), config=config, others=stream, **settings) as p:
        return list(p)


def test_sound_and_captions_in_a_batch(table):
    plan, batches = SoundTextPlan(), batches_of(table, num_workers=2)
    for batch, alone in zip(batches, batches_of(table, num_workers=0), strict=True):
        for name in alone:
            np.testing.assert_array_equal(batch[name], alone[name])
    texts = set()
    for batch in batches:
        for prefix in ("", "heard/"):
            sound, start = batch[f"{prefix}sound"], batch[f"{prefix}start"]
            assert (sound.dtype, sound.shape) == (np.float32, (3, plan.RATE * plan.SECONDS))
            for sample, row in enumerate(batch[f"{prefix}record_index"]):
                text = batch[f"{prefix}text"][sample].tobytes().rstrip(b"\0").decode()
                at = start[sample] + (1.0 if row == 2 else 0.0)
                texts.add(text)
                expected = {0: "first" if at < 0.5 else "later", 1: "nothing", 2: "in it"}
                assert text == expected[row]
                picture = batch[f"{prefix}video"][sample, 0]
                assert read_index(picture) == pytest.approx(at * 25, abs=0.51)
                assert batch[f"{prefix}has_sound"][sample] == (row != 1)
                heard = at + np.arange(len(sound[sample])) / plan.RATE
                wave = chirp(heard) if row != 1 else np.zeros_like(heard)
                inner = slice(200, -200)  # a resampler rings at the ends of a stretch
                np.testing.assert_allclose(sound[sample][inner], wave[inner], atol=5e-3)
    assert texts == {"first", "later", "nothing", "in it"}
    tensors = to_tensors(batches[0])
    assert (str(tensors["sound"].dtype), tuple(tensors["sound"].shape)) == (
        "torch.float32",
        (3, 4000),
    )
