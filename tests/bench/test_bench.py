"""The benchmarks measure what they say: operations counted by hand, shares that add up, clips that are counted."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import torch
from torch import nn

from video_ssl.bench import loader_advice, step_torch
from video_ssl.bench.config import StepBench
from video_ssl.bench.footage import FOOTAGE, Footage, make_footage
from video_ssl.bench.loader import STAGES, _Clock, bench_loader
from video_ssl.bench.loader_advice import advice
from video_ssl.bench.odd_videos import VideoStyle, write_video
from video_ssl.bench.step import bench_step, bench_twins
from video_ssl.bench.step_torch import _flops_of, random_batch
from video_ssl.bench.yardsticks import Files, Floor, RecordingReader, Shown, plain_loop
from video_ssl.clips.crops import Region, ViewRequest
from video_ssl.clips.reading import open_video
from video_ssl.clips.views import read_views
from video_ssl.datasets.table import Table
from video_ssl.objectives.shared.torch_objective import StepOutput
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.pretrain.torch_loop import sharding
from video_ssl.recipes import ConfigError

SMALL = ["training.device=cpu", "objective.clip.num_clips=2"]


class Product(nn.Module):
    """loss = sum of (B, 8) @ (8, 16): forward and both gradients are one product each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 16))

    def forward(self, batch):
        return StepOutput((batch["video"] @ self.weight).sum(), {})


def test_operations_are_those_of_the_products():
    batch = {"video": torch.randn(5, 8, requires_grad=True)}
    counted = _flops_of(Product(), batch, lambda: torch.autocast("cpu", enabled=False))
    assert counted == 3 * 2 * 5 * 8 * 16


@pytest.mark.parametrize(("name", "has_teachers"), [("mvd/demo", True), ("videomae/demo", False)])
def test_step_counts_clips_and_the_share_of_frozen_networks(name, has_teachers):
    recipe = load_pretrain_recipe(name, SMALL)
    (row,) = bench_step(recipe, batch_size=2, steps=2, warmup=1)
    assert row.clips == 4
    assert row.clips_per_sec == pytest.approx(4 / row.step_sec)
    assert (row.frozen_share > 0) == has_teachers
    assert 0 <= row.frozen_share < 1
    assert set(row.parts_sec) == {"frozen", "student", "backward", "optimizer"}
    assert row.flops > 0
    assert row.chip_flops > 0


def test_a_busy_machine_is_part_of_the_bench(monkeypatch, capsys):
    """Two OpenMP threads that spin on a busy core cost a factor of ten, and no figure of the bench showed it."""
    alive, real = [], step_torch.measure_step

    def measure(*args, **kw):
        own = psutil.Process().children()
        alive.append([p.pid for p in own if "getppid" in " ".join(p.cmdline())])
        return real(*args, **kw)

    monkeypatch.setattr(step_torch, "measure_step", measure)
    recipe = load_pretrain_recipe("videomae/demo", SMALL)
    plain, beside = bench_step(recipe, batch_size=2, steps=1, busy=2)
    assert (plain.variant, beside.variant) == ("eager", "eager +2 busy")
    assert "eager +2 busy" in capsys.readouterr().out
    assert [len(pids) for pids in alive] == [0, 2]
    assert not any(psutil.pid_exists(pid) for pid in alive[1])
    with pytest.raises(ValueError, match="busy=-1"):
        StepBench(busy=-1)


def test_recomputed_blocks_are_computed_again_and_counted_once(monkeypatch):
    (plain,) = bench_step(load_pretrain_recipe("videomae/demo", SMALL), batch_size=2, steps=1)
    again, real = [], sharding.checkpoint
    monkeypatch.setattr(
        sharding, "checkpoint", lambda *args, **kw: again.append(1) or real(*args, **kw)
    )
    settings = [*SMALL, "training.activation_checkpointing=true"]
    (row,) = bench_step(load_pretrain_recipe("videomae/demo", settings), batch_size=2, steps=1)
    assert again
    assert row.variant == "eager, recomputed"
    assert row.flops == plain.flops


@pytest.mark.parametrize(
    ("name", "architecture"), [("mvd/demo", "vit"), ("carl/demo", "frame_transformer")]
)
def test_an_encoder_without_a_twin_is_told(name, architecture):
    """Was wrong: settings that do not say their architecture, as only one is possible, ended in an AttributeError."""
    with pytest.raises(ConfigError, match=rf"architecture={architecture} has no twin.*'r3d'"):
        bench_twins(load_pretrain_recipe(name, ["training.device=cpu"]))


def test_random_batch_has_the_shapes_of_the_recipe():
    recipe = load_pretrain_recipe("mvd/demo", SMALL)
    batch = random_batch(recipe, 3, torch.device("cpu"))
    assert batch["video"].shape == (3, 2, 8, 64, 64, 3)
    assert batch["mask"].shape == (3, 2, int(np.prod(recipe.objective.encoder.grid)))


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Small files of the kinds that are easy and hard."""
    folder = tmp_path_factory.mktemp("footage")
    easy = Footage(name="easy", size=(72, 96), gop=12, noise=0, num_files=1)
    hard = Footage(name="hard", size=(96, 128), gop=250, noise=10, num_files=1)
    return {kind.name: make_footage(kind, folder) for kind in (easy, hard)}


def test_footage_is_what_it_says_and_made_once(tmp_path):
    kind = Footage(name="k", size=(48, 64), gop=30, noise=0, num_files=1)
    record = make_footage(kind, tmp_path).record(0)
    with av.open(record.source) as container:
        keys = [f.key_frame for f in container.decode(video=0)]
        assert (container.streams.video[0].height, len(keys)) == (48, 300)
    assert np.flatnonzero(keys).tolist() == list(range(0, 300, 30))
    before = Path(record.source).stat().st_mtime_ns
    make_footage(kind, tmp_path)
    assert Path(record.source).stat().st_mtime_ns == before


@pytest.mark.parametrize("kind", ["easy", "hard"])
@pytest.mark.parametrize("necessary", [True, False])
def test_the_floor_decodes_every_frame_asked_for(footage, kind, necessary):
    floor = Floor(footage[kind].record(0).source)
    for indices in ([0], [299], [5, 9, 13, 17], [298, 3, 3, 40]):
        assert floor.decode(np.array(indices), necessary=necessary) == len(set(indices))


def test_the_plain_loop_shows_what_the_loader_shows(footage):
    """The same frames, region and size, so that times can be compared."""
    source = footage["hard"].record(0).source
    region = Region(left=10, top=4, width=80, height=70)
    out = np.zeros((3, 56, 64, 3), np.uint8)
    with open_video(source) as reader:
        recorder = RecordingReader(reader, lambda name: contextlib.nullcontext())
        read_views(recorder, [ViewRequest(indices=np.array([7, 30, 7]), region=region, out=out)])
        recorder.frames([3], (10, 20))
    (view, whole) = plain_loop(Files.of(source), recorder.asked)
    assert view.shape == (3, 3, 56, 64)
    assert whole.shape == (3, 1, 10, 20)
    assert view.dtype == torch.float32
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = 255 * (view.permute(1, 2, 3, 0) * std + mean)
    grey = (pixels.numpy() - out) @ [0.299, 0.587, 0.114]
    assert np.abs(grey).mean() < 3


@pytest.mark.parametrize(
    "style",
    [
        VideoStyle(size=(72, 128), rotation=90),
        VideoStyle(size=(72, 128), codec="libsvtav1", b_frames=0, codec_options={"preset": "12"}),
    ],
    ids=["phone", "av1"],
)
def test_files_that_decord_gives_up_on_are_compared_too(style, tmp_path):
    """Was wrong: `bench loader` ended in DECORDError, "a bug", for upright videos of phones and for AV1."""
    write_video(tmp_path / "a.mp4", style)
    whole = Shown(indices=np.array([0, 3, 3]), region=None, size=(16, 16))
    (view,) = plain_loop(Files.of(str(tmp_path / "a.mp4")), [whole])
    assert view.shape == (3, 3, 16, 16)
    assert torch.equal(view[:, 1], view[:, 2])
    assert not torch.equal(view[:, 0], view[:, 1])


def test_a_video_in_several_files_is_compared_too(tmp_path):
    """Was wrong: `bench loader` gave "a.mp4||b.mp4" to the decoder as a name, and ended in "a bug"."""
    names = [str(tmp_path / name) for name in ("a.mp4", "b b.mp4", "c.mp4")]
    for name, count in zip(names, (6, 7, 8), strict=True):
        write_video(Path(name), VideoStyle(size=(72, 128), num_frames=count))
    files = Files.of("||".join(names))
    assert files.counts == (6, 7, 8)

    def shown(*indices):
        return [Shown(indices=np.array(indices), region=None, size=None)]

    (found,) = plain_loop(files, shown(0, 5, 6, 12, 13, 20, 2))
    one, two, three = (Files.of(name) for name in names)
    parts = [(one, (0, 5)), (two, (0, 6)), (three, (0, 7)), (one, (2,))]
    wanted = [plain_loop(own, shown(*indices))[0] for own, indices in parts]
    assert torch.equal(found, torch.cat(wanted, 1))
    with pytest.raises(ValueError, match="no file by itself"):
        Files.of(f"{names[0]}||{tmp_path / 'd.tar!/e.mp4'}")


def test_a_segment_is_counted_from_the_start_of_the_file():
    shown = Shown(indices=np.array([0, 4]), region=None, size=None)
    assert shown.moved(10).indices.tolist() == [10, 14]


def test_time_within_a_stage_counts_once():
    clock = _Clock()
    start = time.process_time()
    with clock("outer"):
        burn(0.02)
        with clock("inner"):
            burn(0.04)
    assert clock.spent["inner"] >= 0.04
    assert clock.spent["outer"] >= 0.02
    assert sum(clock.spent.values()) <= time.process_time() - start


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_loader_figures_add_up_and_name_the_bottleneck(footage, tmp_path, monkeypatch, capsys):
    hard = Footage(name="hard", size=(96, 128), gop=250, noise=10, num_files=1)
    folder = Path(footage["hard"].record(0).source).parent
    monkeypatch.setitem(FOOTAGE, "hard", [hard])
    recipe = load_pretrain_recipe("videomae/demo", [*SMALL, "loader.num_workers=1"])
    (figures,) = bench_loader(recipe, footage="hard", folder=folder, num_batches=3, num_records=3, repeats=1,
                              json_path=tmp_path / "f.json")  # fmt: skip
    assert set(figures.stage_ms) == set(STAGES)
    assert set(figures.cpu_ms) == {"loader", "plain", "floor", "floor_all"}
    loader = sum(figures.stage_ms[name] for name in ("open", "decode", "resize", "plan"))
    assert loader == pytest.approx(figures.cpu_ms["loader"], rel=0.2)
    assert figures.bottleneck == "decode"
    assert figures.cpu_ms["floor"] > 0
    assert figures.clips_per_sec > 0
    assert 0 <= figures.wait_share <= 1
    assert figures.worker_mib > 5
    printed = " ".join(capsys.readouterr().out.split())
    assert "Bottleneck: decode" in printed
    assert "video-ssl transcode" in printed
    (line,) = json.loads((tmp_path / "f.json").read_text())["footage"]
    assert line["speedup"] == pytest.approx(figures.cpu_ms["plain"] / figures.cpu_ms["loader"])
    assert line["over_floor"] == pytest.approx(figures.cpu_ms["loader"] / figures.cpu_ms["floor"])


def test_unknown_footage_is_named():
    recipe = load_pretrain_recipe("videomae/demo", SMALL)
    with pytest.raises(
        ValueError, match=r"footage='soft' must be one of \['easy', 'hard', 'table'\]"
    ):
        bench_loader(recipe, footage="soft")


def test_advice_is_only_what_was_not_done(monkeypatch):
    """Was wrong: transcoded videos and several clips per visit were advised to be transcoded and read in several."""
    monkeypatch.setattr(loader_advice.os, "sched_getaffinity", lambda pid: {0, 1})
    columns = {"id": "a", "source": "a.mp4", "codec": "h264", "width": 340, "height": 256}
    fast, slow = (Table.from_rows([{**columns, "max_gop": gop}]) for gop in (12, 250))
    asked = ["objective.clip.num_clips=1", "loader.num_workers=1"]
    begin = load_pretrain_recipe("videomae/demo", asked)
    text = advice("decode", begin, slow)
    assert "transcode" in text
    assert "num_clips" in text
    assert "num_workers" in text
    assert "transcode" not in advice("decode", begin, fast)
    done = load_pretrain_recipe(
        "videomae/demo", ["loader.num_workers=2", "objective.clip.num_clips=4"]
    )
    assert advice("decode", done, fast) == (
        "Decoding takes longest: smaller clips or more cores are what is left."
    )
