"""The report of a run, opened in a browser: what is drawn, what is missing, and that nothing is fetched."""

from __future__ import annotations

import base64
import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_recipes import small_recipe

from video_ssl.datasets.opening import resolve_recipe
from video_ssl.datasets.table import Table, TableError
from video_ssl.embed.config import EmbedConfig
from video_ssl.embed.features import features_from_arrays
from video_ssl.evaluate.recipe import EvaluateRecipe
from video_ssl.evaluate.run import evaluate
from video_ssl.evaluate.videos import videos_of
from video_ssl.explore.config import ReportConfig
from video_ssl.explore.pages import rendering
from video_ssl.explore.pages.charts import confusion_chart, line_chart
from video_ssl.explore.pages.neighbours_section import _chosen
from video_ssl.explore.pages.pictures import hide, outline
from video_ssl.explore.pages.report_page import RunNotFound, _tiles, write_report
from video_ssl.explore.pages.results_section import evaluations_of
from video_ssl.explore.pages.topics_section import _ranked
from video_ssl.explore.run_data import RunData
from video_ssl.models.config import ViTConfig
from video_ssl.models.encoders import save_encoder
from video_ssl.models.networks.vit import VideoViT
from video_ssl.models.preprocess_config import VideoPreprocess
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_to_dict
from video_ssl.pretrain.run_folder import settle_recipe
from video_ssl.pretrain.torch_loop.run import run_torch

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)
OVERRIDES = [
    "objective.clip.num_frames=4",
    "objective.clip.num_clips=2",
    "objective.clip.frame_stride=2",
    "objective.crop.size=32",
    "objective.encoder.num_frames=4",
    "objective.encoder.image_size=32",
]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, videos):
    """A run with a recipe, an environment and half of its metrics."""
    folder = tmp_path_factory.mktemp("runs") / "half <way>"
    folder.mkdir()
    recipe = load_pretrain_recipe(
        "videomae/demo", [f"data.table={videos / 'train.arrow'}", f"run={folder}", *OVERRIDES]
    )
    settle_recipe(folder, recipe_to_dict(recipe), allow_changes=False)
    rng = np.random.default_rng(0)
    lines = [
        {
            "step": 10 * n,
            "progress": n / 40,
            "loss": float(np.exp(-n / 9) + rng.uniform(0, 0.02)),
            "lr": 1e-3,
            "grad_norm": float("nan") if n == 3 else 1 / n,
            "data_wait_share": 0.1,
            "feature_std": 0.5,
            "effective_rank": 7.0,
            "clips_per_sec": 30.0,
            "a_figure_of_its_own": n,
            "time": 1000.0 + n,
        }
        for n in range(1, 21)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 210, "lo')  # cut off by a crash
    start = {
        "time": "2026-01-01T00:00:00",
        "step": 0,
        "command": ["video-ssl", "<b>"],
        "versions": {"av": "1"},
    }
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    skipped = {"id": "x", "source": "/data/lost & found.mp4", "reason": "is empty (0 bytes)."}
    (folder / "skipped.jsonl").write_text(json.dumps(skipped) + "\n")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, unfinished, videos):
    """The same run with an encoder, an evaluation and its end."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    shutil.copytree(unfinished, folder)
    (folder / "finished.json").write_text("{}")
    torch.manual_seed(0)
    config = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    preprocess = VideoPreprocess(num_frames=4, frame_stride=2, size=16)
    save_encoder(
        folder / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=preprocess,
        source={"objective": "videomae"},
    )
    recipe = EvaluateRecipe(
        name="quick",
        encoder=str(folder),
        train=str(videos / "train.arrow"),
        test=str(videos / "broken.arrow"),
        evaluators={"probe": {"poolings": ["clip"], "epochs": 3}, "retrieval": {"ks": [1, 5]}},
        embed=EmbedConfig(num_workers=0),
        device="cpu",
    )
    evaluate(recipe, quiet=True)
    return folder


def browse(page: Path, *options: str) -> str:
    assert BROWSER is not None
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sections(page: str) -> dict[str, str]:
    return dict(re.findall(r'<section id="(\w+)">(.*?)</section>', page, re.DOTALL))


@needs_browser
def test_a_browser_shows_curves_and_pictures_without_an_error(finished, tmp_path):
    page = write_report(finished, tmp_path / "report.html")
    dom = browse(page, "--dump-dom")
    assert 'data-ready="yes"' in dom  # the script came to its end
    assert "data-errors" not in dom
    found = sections(dom)
    assert list(found) == ["curves", "clips", "results", "neighbours", "recipe", "skipped"]
    assert found["curves"].count("<polyline") >= 8
    assert found["clips"].count("<img") == 16  # 4 videos, 2 clips, as they are and as seen
    assert (
        found["neighbours"].count("data:image/jpeg") == 4 * 6
    )  # queries that could be read, and 5 each
    shot = tmp_path / "shot.png"
    browse(page, f"--screenshot={shot}", "--window-size=1200,5000")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (5000, 1200, 3)
    curve = np.abs(pixels - (0x2A, 0x6F, 0xDB)).sum(-1) < 12
    assert curve.sum() > 2000  # curves are drawn
    # The videos of the fixture are red, green and blue: their pictures are really shown.
    for color in range(3):
        others = np.delete(pixels, color, axis=-1).max(-1)
        assert (pixels[..., color] - others > 100).sum() > 20_000


def test_everything_is_inside(finished, tmp_path):
    text = write_report(finished, tmp_path / "report.html").read_text(encoding="utf-8")
    for attribute in re.findall(r'(?:src|href|action)="([^"]*)"', text):
        assert attribute.startswith(("data:image/", "#")), attribute
    assert not re.search(r"url\((?!data:image/)", text)
    assert "@import" not in text
    assert "<link" not in text
    assert "default-src 'none'" in text
    for uri in set(re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", text)):
        assert min(Image.open(io.BytesIO(base64.b64decode(uri))).size) >= 64


def test_it_tells_the_results(finished, tmp_path):
    found = sections(write_report(finished, tmp_path / "r.html").read_text(encoding="utf-8"))
    results = json.loads((finished / "evaluate" / "quick" / "results.json").read_text())
    probe = results["encoders"]["encoder"]["results"]["probe"]
    assert f"{100 * probe['metrics']['top1']:.1f}" in found["results"]
    assert "names the class of" in found["results"]
    assert "R@5" in found["results"]
    assert found["results"].count("<rect") >= 9  # the confusion of three classes
    assert "Over all 4 test videos" in found["neighbours"]
    assert found["skipped"].count("broken") >= 2
    assert "lost &amp; found.mp4" in found["skipped"]
    assert "is empty (0 bytes)" in found["skipped"]
    assert "videomae" in found["recipe"]


def test_numbers_stand_in_the_units_of_their_evaluator(monkeypatch):
    """Was wrong: a number that is not defined, null in results.json, ended the report."""
    from video_ssl.evaluate.contract import RECOGNITION, Figure
    from video_ssl.evaluate.knn import NearestNeighbours

    figures = {**RECOGNITION, "offset": Figure(title="offset", unit="px", digits=2)}
    monkeypatch.setattr(NearestNeighbours, "figures", figures)
    result = {
        "metrics": {"offset": 0.5, "top1": None},
        "details": {"offset_interval_95": [0.25, 1.0], "top1_interval_95": [0.1, 0.9]},
    }
    empty = {"metrics": {"tau": None}, "details": {}}
    results = {"name": "n", "encoders": {"e": {"results": {"knn": result, "kendalls_tau": empty}}}}
    (found,) = evaluations_of(SimpleNamespace(evaluations=[results]))
    offset, tau = found.tables
    assert offset.metrics == ["offset (px)", "top-1"]
    assert offset.rows[0].cells == [("0.50", "0.25–1.00"), ("-", "10–90")]
    assert offset.rows[0].bar == ""
    assert tau.rows[0].cells == [("-", "")]


def test_what_an_evaluation_has_drawn_is_on_the_page(tmp_path):
    """Tracks and boxes lay in a folder that nobody was told of."""
    own = tmp_path / "files" / "encoder"
    (own / "tracks").mkdir(parents=True)
    Image.new("RGB", (80, 64)).save(own / "boxes.png")
    for number in range(6):
        (own / "tracks" / f"00000{number}_figure.mp4").write_bytes(b"film %d" % number)
    (own / "tracks" / "000000_figure.mp4").write_bytes(bytes(2 * 2**20))
    (own / "tracks" / "000001_figure.txt").write_text("0,0,1,1")
    entry = {"results": {"knn": {"metrics": {"top1": 0.9}, "details": {}}}}
    results = {"name": "n", "encoders": {"pixels": entry, "encoder": entry}}
    (found,) = evaluations_of(SimpleNamespace(evaluations=[{**results, "folder": tmp_path}]))
    assert found.seen.encoder == "encoder"
    (sheet,) = found.seen.sheets
    assert base64.b64decode(sheet.partition(",")[2]) == (own / "boxes.png").read_bytes()
    # A film of two MiB is left where it is, and so are those behind the fourth.
    titles = [f"tracks: 00000{number}_figure" for number in range(1, 5)]
    assert [title for title, _ in found.seen.films] == titles
    assert base64.b64decode(found.seen.films[0][1].partition(",")[2]) == b"film 1"
    template = rendering._environment().get_template("report_parts.html.j2")
    page = str(template.module.evaluation_part(found))
    assert page.count('<video src="data:video/mp4;base64,') == 4
    assert f'<img src="{sheet}"' in page
    (nothing,) = evaluations_of(SimpleNamespace(evaluations=[{**results, "folder": own}]))
    assert nothing.seen is None


def test_the_cells_of_a_confusion_have_the_names_of_its_own_encoder():
    """Feature files number their classes as they like: those of the encoder that is drawn count, and in results that
    tell none those of the first file that has names."""
    details = {"classes": [2, 0], "confusion": [[3, 1], [0, 4]]}
    entry = {"results": {"knn": {"metrics": {"top1": 0.9}, "details": details}}}

    def drawn(entry):
        results = {"name": "n", "encoders": {"e": entry}}
        data = SimpleNamespace(
            evaluations=[results], class_names=lambda _: ["walk", "<run>", "swim"]
        )
        return evaluations_of(data)[0].confusion.drawing

    names = ["jump", "bow", "<sit>"]
    assert drawn({**entry, "class_names": names}) == confusion_chart(
        details["confusion"], ["<sit>", "jump"]
    )
    older = confusion_chart(details["confusion"], ["swim", "walk"])
    assert drawn({**entry, "class_names": []}) == drawn(entry) == older


def test_an_unfinished_run_says_what_is_missing(unfinished, tmp_path):
    page = write_report(unfinished, tmp_path / "report.html").read_text(encoding="utf-8")
    found = sections(page)
    assert "unfinished, at 50 %" in page
    assert "<b>Health: fine</b>" in page
    assert found["curves"].count("<svg") == 8
    assert "a_figure_of_its_own" in found["curves"]
    assert found["clips"].count("<img") == 16  # 4 videos, 2 clips, as they are and as seen
    assert "No evaluation yet" in found["results"]
    assert "No feature files" in found["neighbours"]
    assert "<b>" not in found["recipe"]  # the command holds one: it is shown, not obeyed
    assert "&lt;b&gt;" in found["recipe"]


class Tags(HTMLParser):
    """The tags of a page and its text, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_comment(self, data):
        self.tags.append("comment")

    def handle_data(self, data):
        self.text += data


def test_no_text_of_a_run_becomes_a_tag(finished, tmp_path):
    """Names, messages, metrics: each is shown letter by letter."""
    evil = """<bad onclick='x'>"&</script><!--"""
    clean, folder = write_report(finished, tmp_path / "clean.html"), tmp_path / "run"
    shutil.copytree(finished, folder)
    swaps = {
        "recipe.yaml": [("name: videomae/demo", f"name: {json.dumps(evil)}")],
        "environment.json": [('"<b>"', json.dumps(evil)), ('"av"', json.dumps(evil))],
        "skipped.jsonl": [("is empty (0 bytes).", json.dumps(evil)[1:-1])],
        "metrics.jsonl": [("a_figure_of_its_own", json.dumps(evil)[1:-1])],
        "encoder/config.json": [('"videomae"', json.dumps(evil))],
        "evaluate/quick/results.json": [
            (f'"{old}":', json.dumps(evil + old) + ":") for old in ("retrieval", "R@5")
        ],
    }
    for name, changes in swaps.items():
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text, (name, old)
            text = text.replace(old, new)
        (folder / name).write_text(text)
    page = write_report(folder, tmp_path / "report.html")
    found, expected = (Tags(p.read_text(encoding="utf-8")) for p in (page, clean))
    assert sorted(set(found.tags)) == sorted(set(expected.tags))
    assert found.tags.count("script") == 1
    assert evil + "retrieval" in found.text
    assert evil + "R@5" in found.text


def test_a_run_that_has_just_begun_and_videos_that_are_gone(unfinished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    recipe = load_pretrain_recipe("videomae/demo", ["data.table=/nowhere/a.arrow", *OVERRIDES])
    settle_recipe(folder, recipe_to_dict(recipe), allow_changes=False)
    found = sections(write_report(folder).read_text(encoding="utf-8"))
    assert (folder / "report.html").is_file()
    assert "metrics.jsonl has no line yet" in found["curves"]
    assert "/nowhere/a.arrow are not here" in found["clips"]


def test_the_data_of_a_run_are_those_that_their_name_means(tmp_path, monkeypatch):
    """Was wrong: a folder that is called like a data set was taken for the data that a run had been trained on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "data"))
    root = resolve_recipe("demo")[1]
    Path("demo/val").mkdir(parents=True)
    Path("demo/val/other.mp4").touch()
    Table.from_columns({"source": ["a.mp4"]}, root=root).save(root / "val.arrow")
    table = RunData(folder=Path("run")).table("demo:val")
    assert table.column("id").tolist() == ["a.mp4"]


def test_results_at_the_head_of_the_page_are_written_as_their_evaluators_say():
    results = {"phases": {"metrics": {"accuracy": None}}, "knn": {"metrics": {"top1": 0.25}}}
    evaluation = {"encoders": {"encoder": {"results": results}}}
    tiles = list(_tiles(RunData(folder=Path("run"), evaluations=[evaluation])))
    assert tiles == [("-", "phases accuracy"), ("25.0 %", "knn top1")]


def test_a_demo_table_that_was_never_made_is_not_made_for_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDEO_SSL_DATA", raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    settle_recipe(folder, recipe_to_dict(load_pretrain_recipe("mvd/demo")), allow_changes=False)
    found = sections(write_report(folder).read_text(encoding="utf-8"))
    assert "demo:train are not here" in found["clips"]
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "text"), [("no", "no run"), ("other", "is not the folder of a run")]
)
def test_what_is_not_a_run_is_told(tmp_path, name, text):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "holiday.mp4").touch()
    with pytest.raises(RunNotFound, match=text):
        write_report(tmp_path / name)


@pytest.mark.parametrize(("grid", "size"), [((2, 2, 4), 16), ((4, 2, 2), 20), ((1, 3, 3), 9)])
def test_what_is_hidden_is_what_the_mask_says(grid, size):
    rng = np.random.default_rng(0)
    video = rng.integers(0, 200, (4, size, size, 3), np.uint8)
    mask = rng.random(np.prod(grid)) < 0.5
    shown = hide(video, mask.reshape(grid))
    t, h, w = grid
    for frame in range(4):
        for y in range(size):
            for x in range(size):
                token = (frame * t // 4 * h + y * h // size) * w + x * w // size
                same = np.array_equal(shown[frame, y, x], video[frame, y, x])
                assert same != mask[token]


def test_boxes_are_outlined_where_they_are():
    """One thing in both frames, a second one only in the second."""
    video = np.zeros((2, 20, 40, 3), np.uint8)
    nowhere = [np.nan] * 4
    left, right = [0.25, 0.1, 0.5, 0.5], [0.75, 0.5, 0.9, 0.9]
    boxes = np.array([[left, nowhere], [left, right]])
    shown = outline(video, boxes)
    left, right = shown[:, :, :25].any((1, 2, 3)), shown[:, :, 25:].any((1, 2, 3))
    assert left.tolist() == [True, True]
    assert right.tolist() == [False, True]
    assert shown[0, 2:11, 10].any(-1).all()
    assert not shown[0, 5, 13:17].any()


def test_an_objective_shows_what_its_plan_says(tmp_path, videos):
    """TeG has no masks and no array `video`."""
    overrides = ["crop.size=32", "long_frames=4", "short_frames=2", "long_stride=1"]
    recipe = load_pretrain_recipe(
        "teg/demo",
        [f"data.table={videos / 'train.arrow'}", f"run={tmp_path}"]
        + [f"objective.{text}" for text in overrides],
    )
    settle_recipe(tmp_path, recipe_to_dict(recipe), allow_changes=False)
    page = write_report(tmp_path, config=ReportConfig(max_clips=3)).read_text()
    assert page.count('alt="frames of the long clip"') == 3
    assert page.count('alt="frames of the short clip"') == 3
    assert "seen by the encoder" not in page
    assert "of every clip is hidden" not in page


def points_of(svg):
    data = re.search(r'data-points="(.*?)"', svg)[1]
    return json.loads(html.unescape(data))


def test_curves_keep_their_extremes_and_leave_out_what_is_not_finite():
    values = np.sin(np.arange(5000) / 500)
    values[1234], values[4000] = 7.5, np.nan
    series = points_of(line_chart({"a": list(enumerate(values.tolist()))}))[0]["points"]
    assert len(series) < 450
    assert "7.5" in [p[3] for p in series]
    assert [p[2] for p in series] == sorted(p[2] for p in series)
    assert 4000 not in [p[2] for p in series]
    heights = {p[2]: p[1] for p in series}
    assert heights[1234] == min(heights.values())  # the top of the drawing
    assert line_chart({"a": [(1, float("inf"))]}) == ""
    assert "<circle" in line_chart({"a": [(5, 1.0)]})


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e7])
def test_axes_hold_all_values(scale, log):
    rng = np.random.default_rng(0)
    for spread in (0.0, 1e-3, 0.5, 2.0, 6.0):
        values = scale * np.exp(spread * rng.normal(size=30))
        points = points_of(line_chart({"a": list(enumerate(values))}, log=log))[0]["points"]
        heights = np.array([p[1] for p in points])
        assert heights.min() >= 11.9
        assert heights.max() <= 192.1
        order = np.argsort(values)
        assert (np.diff(heights[order]) <= 0.11).all()


def test_confusions_name_their_cells():
    svg = confusion_chart([[3, 1], [0, 4]], ["<sit>", "stand"])
    assert "&lt;sit&gt; → stand: 1 of 4" in svg
    assert svg.count("<rect") == 4


def test_unlabelled_videos_have_neighbours_too():
    rng = np.random.default_rng(0)
    given = {"features": rng.normal(size=(6, 3)), "ids": ["b", "b", "a", "a", "c", "c"]}
    found = videos_of(features_from_arrays(given), labelled=False)
    assert found.ids.tolist() == ["b", "a", "c"]
    assert found.labels.tolist() == [-1] * 3
    assert _chosen(found, 2) == [0, 2]


@pytest.mark.parametrize("recipe", ["videomae/demo_published", "mae/demo_published"])
def test_what_the_network_makes_of_hidden_patches_is_shown(recipe, tmp_path, videos):
    settings = [
        *(
            "objective.encoder.embed_dim=16",
            "objective.encoder.depth=1",
            "objective.encoder.num_heads=2",
        ),
        *(
            "objective.decoder.embed_dim=16",
            "objective.decoder.num_heads=2",
            "objective.crop.size=32",
        ),
        *("training.duration=2 steps", "training.global_batch_size=2", "training.device=cpu"),
        *("loader.num_workers=0", "optimizer.warmup=1 steps", "training.checkpoint_every=2 steps"),
    ]
    run = tmp_path / "run"
    run_torch(
        load_pretrain_recipe(
            recipe, [f"data.table={videos / 'train.arrow'}", f"run={run}", *settings]
        )
    )
    page = write_report(run, config=ReportConfig(max_clips=1)).read_text()
    assert "what it makes of the rest" in page
    assert "with its hidden patches predicted" in page
    for file in (run / "checkpoints").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    page = write_report(run, config=ReportConfig(max_clips=1)).read_text()
    assert "seen by the encoder" in page
    assert "what it makes of the rest" not in page


def test_who_belongs_together_is_shown_beside_the_truth(tmp_path, videos):
    recipe = small_recipe("hico/demo", tmp_path, str(videos / "train.arrow"))
    training = replace(recipe.training, duration="2 steps", checkpoint_every="2 steps")
    run = tmp_path / "run"
    optimizer = replace(recipe.optimizer, warmup="1 steps")
    run_torch(recipe.replace(run=str(run), training=training, optimizer=optimizer, evaluate=None))
    page = write_report(run, config=ReportConfig(max_clips=1)).read_text()
    assert 'id="topics"' in page
    assert "A pair of one label is judged surer than a pair of two in" in page
    table = Table.open(videos / "train.arrow")
    assert page.count(" and ") >= 2 * len(table)
    # Was wrong: only videos that it was trained on could be looked at.
    config = ReportConfig(max_clips=1, topics=str(videos / "test.arrow"), max_topics=4)
    page = write_report(run, config=config).read_text()
    assert f"two videos of {videos / 'test.arrow'} are of one topic" in page
    assert "test5" in page
    assert "test1 ·" not in page
    with pytest.raises(TableError, match="no table"):
        write_report(run, config=ReportConfig(topics=str(videos / "nowhere.arrow")))


def test_the_network_is_that_of_the_folder_that_was_given(tmp_path, videos):
    """Was wrong: that of the folder in which the run had been trained; of a moved run none, of a copy another one's."""
    recipe = small_recipe("hico/demo", tmp_path, str(videos / "train.arrow"))
    training = replace(recipe.training, duration="1 steps", checkpoint_every="1 steps")
    run, optimizer = tmp_path / "run", replace(recipe.optimizer, warmup=0)
    run_torch(recipe.replace(run=str(run), training=training, optimizer=optimizer, evaluate=None))
    config = ReportConfig(max_clips=1, topics=str(videos / "test.arrow"))
    empty = Path(shutil.copytree(run, tmp_path / "copy"))
    shutil.rmtree(empty / "checkpoints")
    with pytest.raises(TableError, match="does not judge"):
        write_report(empty, config=config)
    moved = run.rename(tmp_path / "moved")
    assert 'id="topics"' in write_report(moved, config=config).read_text()
    # What cannot be used is named; was left out without a word.
    page = write_report(
        moved, config=ReportConfig(max_clips=1, topics=str(videos / "broken.arrow"))
    ).read_text()
    assert "2 more cannot be used: broken1 (" in page
    table = Table.open(videos / "broken.arrow").select([0, 1, 4])
    table.save(tmp_path / "one.arrow")
    with pytest.raises(
        TableError, match=r"two videos are needed, and of 3 fewer can be used\.\n  b"
    ):
        write_report(moved, config=ReportConfig(topics=str(tmp_path / "one.arrow")))


def test_topics_are_asked_of_who_judges_them(tmp_path, videos):
    recipe = small_recipe("hico/demo", tmp_path, str(videos / "train.arrow"))
    training = replace(recipe.training, duration="1 steps", checkpoint_every="1 steps")
    objective = replace(recipe.objective, topical_weight=0.0)
    run = tmp_path / "run"
    optimizer = replace(recipe.optimizer, warmup=0)
    run_torch(
        recipe.replace(
            run=str(run), training=training, optimizer=optimizer, objective=objective, evaluate=None
        )
    )
    with pytest.raises(TableError, match="does not judge which videos belong together"):
        write_report(run, config=ReportConfig(topics=str(videos / "test.arrow")))


def test_pairs_of_one_topic_are_ranked():
    same = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    sure = np.array([[0.0, 0.9, 0.2], [0.8, 0.0, 0.3], [0.1, 0.9, 0.0]])
    # 0.9 is above 0.2, 0.3 and 0.1 and level with 0.9; 0.8 is above three of the four.
    assert _ranked(sure, same) == pytest.approx((3.5 + 3) / 8)
    assert _ranked(sure, np.ones((3, 3), bool)) is None
