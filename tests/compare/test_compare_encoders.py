"""`compare`: encoders on the same videos by one command, with intervals, pairs and classes; its page and report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from browser import Browser, needs_browser
from typer.testing import CliRunner
from untrained_run import untrained_run

from video_ssl.cli import app
from video_ssl.compare import encoders
from video_ssl.compare.encoders import compare
from video_ssl.evaluate import metrics
from video_ssl.evaluate.comparison import class_rows, compared, markdown, verdicts
from video_ssl.files import OutputError
from video_ssl.recipes import ConfigError

QUICK = [
    "embed.num_workers=0",
    "embed.num_clips=1",
    "device=cpu",
    "evaluators.probe={poolings: [clip], epochs: 20, learning_rates: [0.01]}",
    "evaluators.knn={poolings: [clip]}",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("runs") / "toy <b>")


@pytest.fixture(scope="module")
def told(run, videos, tmp_path_factory):
    """(folder, what was printed) of the command."""
    out = tmp_path_factory.mktemp("out") / "compared"
    tables = [f"train={videos / 'train.arrow'}", f"test={videos / 'broken.arrow'}", f"out={out}"]
    words = ["compare", str(run), "pixels:", f"hog_frame:{run}", *tables, *QUICK]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    done = CliRunner().invoke(app, words)
    torch.set_num_threads(before)
    assert done.exit_code == 0, done.output
    return out, done.output


def test_one_command_writes_json_markdown_and_a_page(told, run, videos):
    out, output = told
    assert output.rstrip().endswith("compare.html")
    found = json.loads((out / "compare.json").read_text())
    assert list(found["specs"]) == ["toy <b>", "pixels", "hog_frame"]
    assert found["specs"]["pixels"] == f"pixels:{run}"
    assert list(found["evaluators"]) == ["probe", "knn"]
    probe = found["evaluators"]["probe"]
    assert probe["class_names"] == ["red", "green", "blue"]
    assert probe["num_videos"] == 4  # two of six are broken
    assert (probe["chance"], probe["majority"]) == (1 / 3, 0.5)
    assert found["skipped"]["pixels"] == {"train": 0, "test": 2}
    pixels = probe["encoders"]["pixels"]
    assert (pixels["right"], pixels["total"], pixels["top1"]) == (4, 4, 1.0)
    assert pixels["interval"] == pytest.approx(metrics.wilson_interval(4, 4))
    assert [own["total"] for own in pixels["classes"]] == [2, 0, 2]
    text = (out / "compare.md").read_text()
    assert "| pixels | 100.0 (51–100) | 100.0 |" in text
    assert "| guessing | 33.3 |  |" in text
    assert "| green | 0 | - | - | - |" in text
    assert "| the most frequent class | 50.0 |  |" in text
    assert text.count("| class | videos | toy <b> | pixels | hog_frame |") == 2
    results = json.loads((out / "results.json").read_text())
    predictions = results["encoders"]["pixels"]["results"]["knn"]["details"]["predictions"]
    assert predictions["id"] == ["broken0", "broken2", "broken3", "broken5"]
    assert predictions["true"] == predictions["predicted"]


def test_the_report_of_the_folder_is_its_page(told):
    out, _ = told
    done = CliRunner().invoke(app, ["report", str(out)])
    assert done.exit_code == 0, done.output
    page = (out / "report.html").read_text()
    assert "What pixels takes for what" in page
    assert "toy &lt;b&gt;" in page
    assert "<b>" not in page


@needs_browser
def test_the_page_fits_its_window_and_says_no_error(told):
    for width in (1280, 390):
        with Browser(width, 1000) as browser:
            browser.open(told[0] / "compare.html")
            assert browser.eval("document.documentElement.scrollWidth") <= width
            assert browser.eval("document.querySelectorAll('.interval').length") == 6
            assert browser.eval("document.querySelectorAll('section').length") == 3
            assert browser.errors == []
            assert browser.requests[1:] == []


def entry(right, classes=(0, 1)):
    """Results of an encoder: which of 40 videos of two classes it names."""
    true = np.arange(40) % 2
    predicted = np.where(right, true, 1 - true)
    confusion = metrics.confusion_matrix(predicted, true, 2)
    details = {
        "top1_interval_95": list(metrics.wilson_interval(int(right.sum()), 40)),
        "majority": 0.5,
        "classes": list(classes),
        "confusion": confusion.tolist(),
        "predictions": {
            "id": [f"v{i}" for i in range(40)],
            "true": true.tolist(),
            "predicted": predicted.tolist(),
        },
    }
    found = {"top1": float(right.mean()), "mean_class": metrics.mean_class_accuracy(confusion)}
    result = {
        "metrics": found, "correct": int(right.sum()), "total": 40, "chance": 0.5, "details": details, "notes": [],
    }  # fmt: skip
    return {"spec": "runs/x", "skipped": {"train": [], "test": []}, "results": {"probe": result}}


def results_of(**entries):
    return {
        "name": "c",
        "recipe": {"train": "a", "test": "b"},
        "seed": 0,
        "date": "2026-01-01T00:00",
        "class_names": ["down", "up|left"],
        "encoders": entries,
    }


def test_pairs_are_compared_video_by_video():
    """36 and 30 of 40 right: as two samples no difference; where one is right on all that the other is, a sure one."""
    first, second = np.arange(40) < 36, np.arange(40) < 30
    nested = compared(results_of(a=entry(first), b=entry(second)))["evaluators"]["probe"]
    (pair,) = nested["differences"]
    assert (pair["only_a"], pair["only_b"], pair["num_videos"]) == (6, 0, 40)
    assert pair["difference"] == pytest.approx(0.15)
    assert pair["p"] == pytest.approx(2 * 0.5**6)
    assert pair["interval"][0] > 0
    assert verdicts(nested)[0].startswith("a is 15.0 points above b (95 %: ")
    crossed = compared(results_of(a=entry(first), b=entry(second[::-1])))["evaluators"]["probe"]
    assert crossed["differences"][0]["interval"][0] < 0
    assert "no more than chance may give" in verdicts(crossed)[0]
    turned = compared(results_of(b=entry(second), a=entry(first)))["evaluators"]["probe"]
    assert verdicts(turned) == verdicts(nested)
    same = compared(results_of(a=entry(first), b=entry(first)))["evaluators"]["probe"]
    assert verdicts(same)[0].startswith("a and b are level, no more than chance may give")


def test_classes_are_the_same_where_their_names_are():
    """Was wrong: feature files number their classes as they like, and one's "sit" stood beside another's "run"."""
    first, second = (
        entry(np.arange(40) % 2 == 0),
        entry(np.arange(40) % 2 == 0),
    )  # all of class 0, none of 1
    first["class_names"], second["class_names"] = ["sit", "run"], ["eat", "run", "sit"]
    second["results"]["probe"]["details"]["classes"] = [1, 2]
    found = compared(results_of(a=first, b=second))["evaluators"]["probe"]
    assert found["class_names"] == ["sit", "run"]
    assert class_rows(found) == [["sit", "20", "100.0", "0.0"], ["run", "20", "0.0", "100.0"]]
    assert found["encoders"]["a"]["confusion"] == [[20, 0], [20, 0]]
    assert found["encoders"]["b"]["confusion"] == [[0, 20], [0, 20]]


def test_an_encoder_that_has_learned_fewer_classes():
    """Was wrong: IndexError, after all had been embedded and evaluated."""
    first, second = entry(np.arange(40) < 36, (0, 1)), entry(np.arange(40) < 40)
    details = second["results"]["probe"]["details"]
    details["classes"], details["confusion"] = [1], [[20]]
    found = compared(results_of(b=second, a=first))["evaluators"]["probe"]
    assert found["class_names"] == ["up|left", "down"]
    assert class_rows(found)[1] == ["down", "20", "-", "90.0"]
    assert "| down | 20 | - | 90.0 |" in markdown(compared(results_of(b=second, a=first)))


def test_names_that_stand_twice_are_no_names():
    named = results_of(a=entry(np.arange(40) < 36), b=entry(np.arange(40) < 40))
    named["class_names"] = ["up", "up"]
    found = compared(named)["evaluators"]["probe"]
    assert found["class_names"] == ["up (0)", "up (1)"]


def test_pairs_are_compared_on_the_videos_that_both_have_read():
    """One encoder could not read the first ten videos, which the other one had all wrong: they count for nobody."""
    first, second = entry(np.arange(40) >= 10), entry(np.arange(40) < 36)
    predictions = second["results"]["probe"]["details"]["predictions"]
    for key, values in predictions.items():
        predictions[key] = values[10:]
    found = compared(results_of(a=first, b=second))["evaluators"]["probe"]
    (pair,) = found["differences"]
    assert (pair["only_a"], pair["only_b"], pair["num_videos"]) == (4, 0, 30)
    assert pair["difference"] == pytest.approx(4 / 30)
    for key, values in predictions.items():
        predictions[key] = values[:0]
    found = compared(results_of(a=first, b=second))["evaluators"]["probe"]
    assert verdicts(found) == ["a and b have read no test video in common"]


def test_the_interval_of_a_paired_difference_holds_what_it_promises():
    """Of many pairs of equally good encoders that agree much, 95 in 100 intervals hold no difference."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        easy, coin = rng.random(60) < 0.7, rng.random((2, 60)) < 0.5
        _, low, high = metrics.paired_difference(easy | coin[0], easy | coin[1])
        held += low <= 0 <= high
    assert 0.92 < held / 400 <= 1.0


def test_a_table_of_markdown_survives_its_names():
    text = markdown(compared(results_of(a=entry(np.arange(40) < 36))))
    assert "| up\\|left | 20 | " in text


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["runs/a"], "two encoders or more"),
        (["pixels:", "untrained:"], "name no encoder"),
        (["runs/a", "runs/a"], "named twice"),
        (["runs/a", "runs/b", "trian=x"], "unknown key 'trian'"),
    ],
)
def test_mistakes_end_in_one_sentence(words, text):
    with pytest.raises(ConfigError, match=text):
        compare(words)


def test_weights_of_one_name_are_not_one_encoder(tmp_path, monkeypatch):
    """Was wrong: a/checkpoint.pth and b/checkpoint.pth became one folder, and one that was overwritten stayed what it
    had been: an encoder was compared with itself, and nothing said so."""
    made = []

    def convert(file, folder):
        folder.mkdir(parents=True)
        made.append(file.read_text())

    monkeypatch.setattr(encoders, "convert", convert)
    files = [tmp_path / name / "checkpoint.pth" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"weights of {file.parent.name}")

    def folders():
        named = {f"{file.parent.name}/checkpoint.pth": str(file) for file in files}
        return [encoders._converted(name, spec, tmp_path) for name, spec in named.items()]

    first = folders()
    assert len(set(first)) == 2
    assert folders() == first  # made once
    files[1].write_text("others")
    assert folders()[0] == first[0]
    assert folders()[1] not in first
    assert made == ["weights of a", "weights of b", "others"]


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "video_preprocessor_config.json"]
)
def test_other_settings_beside_the_same_weights_are_another_encoder(tmp_path, monkeypatch, name):
    """Was wrong: a folder of Hugging Face whose processor was mended (another mean) was compared as it had been."""
    monkeypatch.setattr(encoders, "convert", lambda _, folder: folder.mkdir(parents=True))
    file = tmp_path / "hub" / "model.safetensors"
    file.parent.mkdir()
    file.write_text("weights")
    told = [encoders._converted("hub/model.safetensors", str(file), tmp_path)]
    for content in ("{}", '{"image_mean": [0, 0, 0]}'):
        (file.parent / name).write_text(content)
        told.append(encoders._converted("hub/model.safetensors", str(file), tmp_path))
    (file.parent / "README.md").write_text("what is not read changes nothing")
    assert encoders._converted("hub/model.safetensors", str(file), tmp_path) == told[-1]
    assert len(set(told)) == 3


def test_encoders_of_the_same_names_have_a_folder_of_their_own(tmp_path, monkeypatch):
    """Was wrong: another call with other runs of these names went on in the folder of the first."""
    seen = []
    monkeypatch.setattr(encoders, "evaluate", seen.append)
    monkeypatch.setattr(encoders, "_write", lambda _, out: out)
    monkeypatch.chdir(tmp_path)
    words = ["train=a.csv", "test=b.csv"]
    places = [["x/a", "x/b"], ["y/a", "y/b"], [str(tmp_path / "x/a"), "x/b"], ["x/a", "pixels:"]]
    one, two, same, other = (encoders.compare([*place, *words]) for place in places)
    assert one == same
    assert len({one, two, other}) == 3
    assert one.name.startswith("a-b-")


def test_a_step_of_a_run_is_no_size(tmp_path, monkeypatch):
    """Was wrong: `compare RUN@300 pixels: untrained:` compared with pixels of 300 x 300 and with seed 300."""
    run = tmp_path / "run"
    (run / "exports" / "step_300").mkdir(parents=True)
    monkeypatch.setattr(encoders, "find_encoder", lambda spec: run / "exports" / "step_300")
    folder = f"{run}/exports/step_300"
    found = encoders._with_first([f"{run}@300", "pixels:", "untrained:"])
    assert found == [f"{run}@300", f"pixels:{folder}", f"untrained:{folder}"]
    found = encoders._with_first([f"untrained:{run}@3", "pixels:", f"{run}@300"])
    assert found == [f"untrained:{run}@3", f"pixels:{run}", f"{run}@300"]
    assert encoders._with_first([f"flax:{run}", "pixels:"])[1] == f"pixels:{run}"


def test_nothing_of_others_is_replaced(tmp_path, run, videos):
    (tmp_path / "compare.md").write_text("# mine")
    tables = [f"train={videos / 'train.arrow'}", f"test={videos / 'test.arrow'}"]
    with pytest.raises(OutputError, match=r"compare\.md"):
        compare([str(run), "pixels:", f"out={tmp_path}", *tables])
    assert (tmp_path / "compare.md").read_text() == "# mine"
    assert not (tmp_path / "features").exists()
