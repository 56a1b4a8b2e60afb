"""Exploring frame features: what is computed, the page in a browser, and the notebook from top to bottom."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser import Browser, needs_browser
from PIL import Image

from notebooks import committed
from video_ssl.datasets.table import Table
from video_ssl.embed.embed_videos import embed_table
from video_ssl.embed.embedding import Embedder
from video_ssl.embed.feature_writer import FeatureWriter
from video_ssl.embed.features import FeatureError, open_features
from video_ssl.explore.chapters import chapters
from video_ssl.explore.exploration import (
    COLORS,
    Exploration,
    color,
    frame_map,
    frame_pictures,
)
from video_ssl.explore.exploration_maker import explore, open_exploration
from video_ssl.explore.pages.explore_page import explore_to_html, write_exploration
from video_ssl.explore.scrubber import scrubber
from video_ssl.explore.tracks import Track, embed_video

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "frame_embeddings.ipynb"
# An id that would end the script it stands in, if it were not written as JSON for a page.
LATE = "late </script><!-- <b> \"'&"
# The place in the action (0 .. 1) that each frame of each video shows; its feature and its brightness.
PLACES = {
    "slow": np.linspace(0, 1, 41),
    "fast": np.linspace(0, 1, 21),
    LATE: np.concatenate([np.zeros(10), np.linspace(0, 1, 21)]),
    "other": np.linspace(0, 1, 15),
}
KINDS = {"slow": 0, "fast": 0, LATE: 0, "other": 1}


def feature(places: np.ndarray, kind: int) -> np.ndarray:
    angle = 2.5 * places
    return np.stack([np.cos(angle), np.sin(angle), np.full(len(angle), 0.3 * kind)], 1)


def grey(place: float) -> int:
    return round(30 + 190 * float(place))


def write_features(path: Path, videos=PLACES, table: Path | None = None, **changes) -> Path:
    about = {"class_names": ["wave", "bow"]}
    if table is not None:
        about["table"] = {"path": str(table)}
    with FeatureWriter(path, embed_dim=3, metadata=about) as writer:
        for name, places in videos.items():
            values = feature(places, KINDS[name]).astype(np.float32)
            row = {
                "id": name,
                "clip": 0,
                "label": KINDS[name],
                "feature": values.mean(axis=0),
                "frame_features": values,
                "frame_times_sec": (np.arange(len(places)) / 10).tolist(),
                "frame_labels": np.where(
                    places < 0.1, -1, 2 * KINDS[name] + (places > 0.5)
                ).tolist(),
            }
            writer.write([{**row, **changes}])
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """features.arrow of four videos whose frames have one grey each, with the table beside it."""
    folder = tmp_path_factory.mktemp("explore")
    rows = []
    for number, (name, places) in enumerate(PLACES.items()):
        path = folder / f"{number}.mp4"
        write_greys(path, [grey(place) for place in places])
        rows.append({"id": name, "source": str(path), "label": KINDS[name], "fps": 10.0})
    phases = ["wave/up", "wave/down", "bow/down", "bow/up"]
    Table.from_rows(rows, class_names=["wave", "bow"], phase_names=phases).save(
        folder / "table.arrow"
    )
    write_features(folder / "features.arrow", table=folder / "table.arrow")
    return folder


def write_greys(path, greys):
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for number, value in enumerate(greys):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), value, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def page(made):
    return explore_to_html(str(made / "features.arrow"), made / "page.html")


def shown(browser: Browser) -> list[float]:
    """The mean grey of the two pictures on the page."""
    found = []
    for which in "ab":
        uri = browser.eval(f"document.querySelector('#shot-{which} img').src")
        found.append(decoded(uri).mean())
    return found


def decoded(uri: str) -> np.ndarray:
    assert uri.startswith("data:image/jpeg;base64,"), uri[:60]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))), float)


def steps(browser: Browser) -> tuple[int, int]:
    a, b = browser.eval("document.documentElement.dataset.frames").split(",")
    return int(a), int(b)


@needs_browser
def test_the_scrubber_moves_both_videos_in_step(page):
    with Browser() as browser:
        browser.open(page, "#a=slow&b=fast&t=0")
        np.testing.assert_allclose(shown(browser), [30, 30], atol=4)
        before = browser.screenshot()
        x, y = browser.middle("#scrub")
        width = browser.eval("document.querySelector('#scrub').clientWidth")
        seen = []
        browser.mouse("mousePressed", x - 0.49 * width, y)
        for share in (-0.2, 0.1, 0.3):
            browser.mouse("mouseMoved", x + share * width, y)
            a, b = steps(browser)
            greys = shown(browser)
            np.testing.assert_allclose(
                greys, [grey(PLACES["slow"][a]), grey(PLACES["fast"][b])], atol=4
            )
            assert abs(greys[0] - greys[1]) < 12  # both videos show the same moment
            seen.append(a)
        browser.mouse("mouseReleased", x + 0.3 * width, y)
        assert seen == sorted(set(seen))
        assert seen[-1] > 25
        # The drawing has followed: pictures, matrix, bars and map are other pixels now.
        one, two = (
            np.asarray(Image.open(io.BytesIO(s)).convert("RGB")).astype(int)
            for s in (before, browser.screenshot())
        )
        assert (np.abs(one - two).max(axis=-1) > 40).mean() > 0.05
        # One press of an arrow key on the slider is one step.
        at = browser.eval("+document.documentElement.dataset.step")
        browser.key("ArrowRight", 39)
        assert browser.eval("+document.documentElement.dataset.step") == at + 1
        assert browser.eval("location.hash").endswith(f"&t={at + 1}")
        assert browser.errors == []
        assert [r for r in browser.requests if not r.startswith(("data:", "file:", "about:"))] == []


@needs_browser
def test_matrix_map_neighbours_and_menus_answer(page):
    with Browser() as browser:
        browser.open(page)
        assert browser.eval("document.querySelector('#pick-a').selectedOptions[0].text") == "slow"
        x, y = browser.middle("#matrix")
        browser.drag((x - 40, y - 60), (x, y))
        a, b = steps(browser)
        assert (abs(a - 20), abs(b - 10)) <= (2, 1)
        assert "distance 0.0" in browser.eval("document.querySelector('#near-by').textContent")
        # Nearest frames: the other wavers first, in the same phase; a click makes one B.
        names = browser.eval(
            "[...document.querySelectorAll('#near small')].map(e => e.textContent)"
        )
        assert [n.split("\n")[1] for n in names][2] == "other"
        assert browser.eval("document.querySelectorAll('#near .hit').length") == 2
        assert browser.eval("document.querySelectorAll('#near .miss').length") == 1
        for place, uri in enumerate(
            browser.eval("[...document.querySelectorAll('#near img')].map(e => e.src)")
        ):
            assert abs(decoded(uri).mean() - grey(PLACES["slow"][a])) < (14 if place < 2 else 40)
        browser.click("#near button:nth-child(3)")
        assert browser.eval("document.querySelector('#pick-b').selectedOptions[0].text") == "other"
        assert steps(browser)[0] == a
        assert "no phase in common" in browser.eval("document.querySelector('#agree').textContent")
        assert browser.eval("document.querySelector('#scope').value") == "all"
        assert browser.eval("document.querySelectorAll('#map .dot').length") == sum(
            map(len, PLACES.values())
        )
        # A point of the map: A goes there.
        browser.eval(
            'document.querySelector(\'.dot[data-v="1"][data-f="12"]\')'
            ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        )
        assert browser.eval("document.querySelector('#pick-a').selectedOptions[0].text") == "fast"
        assert steps(browser)[0] == 12
        browser.click("#swap")
        assert steps(browser)[1] == 12
        # Ids are shown, not obeyed.
        browser.open(page, f"#a={quote(LATE)}&b=slow&t=5")
        assert browser.eval("document.querySelector('#shot-a + .cap b').textContent") == LATE
        browser.eval("document.querySelector('#play').click()")
        browser.wait("+document.documentElement.dataset.step > 7")
        assert browser.errors == []


def test_everything_is_inside(page):
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'" in text
    for attribute in re.findall(r'(?:src|href|action)="([^"]*)"', text):
        assert attribute.startswith("data:image/"), attribute
    assert not re.search(r"url\((?!data:image/)|@import|<link|fetch\(|XMLHttpRequest", text)
    content = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1]
    assert "<" not in content
    data = json.loads(content)
    assert [v["id"] for v in data["videos"]] == list(PLACES)
    assert [len(v["frames"]) for v in data["videos"]] == [len(p) for p in PLACES.values()]
    for video, places in zip(data["videos"], PLACES.values(), strict=True):
        greys = [decoded(uri).mean() for uri in video["frames"]]
        np.testing.assert_allclose(greys, [grey(p) for p in places], atol=4)


def test_pairs_agreement_and_neighbours(made):
    found = explore(open_features(made / "features.arrow"))
    assert found.start() == (0, 1)
    path = found.pair(LATE, "fast")
    assert path.path_j[path.path_i == 10].tolist() == [0]  # waits until the action begins
    assert found.agreement(LATE, "fast").aligned == 1
    assert found.agreement(LATE, "fast").stretched < 0.8
    assert np.isnan(found.agreement("slow", "other").aligned)  # no phase in common
    near = found.nearest("fast", 10, count=2)
    assert [(n.video, n.frame) for n in near] == [(0, 20), (2, 20)]
    assert near[0].cosine == pytest.approx(1, abs=1e-6)
    frames, cosines = found.like("fast", "slow")
    assert frames.tolist() == (2 * np.arange(21)).tolist()
    np.testing.assert_allclose(cosines, 1, atol=1e-6)
    assert [found.phase_name(k) for k in (0, 3, 9, -1)] == ["up", "up", "phase 9", "no phase"]
    assert len(set(found.phase_colors.values())) == 4
    with pytest.raises(FeatureError, match=r"no video 'slov' among the 4.*'slow'"):
        found.pair("slov", "fast")


def test_the_map_is_that_of_the_principal_components():
    rng = np.random.default_rng(0)
    for shape in ((40, 5), (6, 30), (7, 1), (1, 4)):
        x = rng.normal(size=shape) * np.linspace(1, 3, shape[1])
        parts, shares = frame_map([x[: shape[0] // 2], x[shape[0] // 2 :]])
        places = np.concatenate(parts)
        centred = x - x.mean(axis=0)
        _, singular, rows = np.linalg.svd(centred, full_matrices=False)
        count = min(2, len(singular))
        expected = centred @ rows[:count].T
        np.testing.assert_allclose(np.abs(places[:, :count]), np.abs(expected), atol=1e-9)
        if singular.sum() > 0:
            expected_shares = (singular**2 / (singular**2).sum())[:count]
            np.testing.assert_allclose(shares[:count], expected_shares, atol=1e-9)
    assert not np.isnan(frame_map([np.ones((5, 3))])[1]).any()


def test_videos_are_chosen_in_turn_and_long_ones_thinned(made):
    features = open_features(made / "features.arrow")
    few = explore(features, max_videos=2, max_frames=20)
    assert [t.id for t in few.tracks] == ["slow", "other"]
    assert [len(t.embs) for t in few.tracks] == [14, 15]
    assert few.notes == [
        "2 of 4 videos are shown.",
        "1 videos are long (slow): of each, every second, third, ... frame is shown, at most 20.",
    ]
    asked = explore(features, videos=["other", "fast"])
    assert [t.id for t in asked.tracks] == ["other", "fast"]
    greys = [p.mean() for p in frame_pictures(few.tracks[0], height=24)]
    np.testing.assert_allclose(greys, [grey(p) for p in PLACES["slow"][::3]], atol=4)
    with pytest.raises(FeatureError, match=r"no record 'fasst' among 4.*'fast'"):
        explore(features, videos=["fasst"])


def test_every_frame_that_is_shown_is_aligned():
    """Was wrong: above 4 million cells every second frame was aligned, and its number taken for that of the frame."""
    rows = np.arange(2001, dtype=np.float32)[:, None]
    tracks = [
        Track(id=n, embs=rows[:k], times=np.arange(k) / 10, labels=np.arange(k) // 1000)
        for n, k in (("a", 2001), ("b", 2000))
    ]
    found = Exploration(name="n", tracks=tracks, classes=np.array([-1, -1]))
    pair = found.pair("a", "b")
    assert (pair.stride, pair.path_i[-1], pair.path_j[-1]) == (1, 2000, 1999)
    assert found.agreement("a", "b").aligned == pytest.approx(2000 / 2001)


def test_phases_have_the_names_that_were_embedded(made, tmp_path):
    """Was wrong: names came from the table at its old place, which may be another one by now."""
    features = open_features(write_features(tmp_path / "f.arrow", table=made / "table.arrow"))
    assert explore(features).phase_name(0) == "up"
    features.metadata["phase_names"] = ["wave/rise", "wave/fall", "bow/fall", "bow/rise"]
    assert explore(features).phase_name(0) == "rise"


def test_a_video_alone_is_its_own_partner(tmp_path, made):
    videos = {"fast": PLACES["fast"]}
    path = write_features(tmp_path / "one.arrow", videos, table=made / "table.arrow")
    found = explore(open_features(path))
    assert found.start() == (0, 0)
    assert found.nearest(0, 3) == []
    assert found.pair(0, 0).match.tolist() == list(range(21))
    text = write_exploration(found, tmp_path / "one.html").read_text(encoding="utf-8")
    assert "There is one video only" in text


def test_videos_that_are_gone_are_shown_without_pictures(tmp_path):
    rows = [{"id": n, "source": str(tmp_path / f"{n[0]}.mp4"), "fps": 10.0} for n in PLACES]
    Table.from_rows(rows).save(tmp_path / "table.arrow")
    for name, table in (("lost", tmp_path / "table.arrow"), ("nowhere", None)):
        path = write_features(tmp_path / f"{name}.arrow", table=table)
        text = write_exploration(explore(open_features(path)), tmp_path / "p.html").read_text()
        assert text.count("No pictures of ") == 4
        assert '"frames":null' in text
    assert "is not where it was when it was embedded" in text


@needs_browser
def test_a_page_without_pictures_phases_times_or_classes_works(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "bare.npz",
        features=rng.normal(size=(2, 4)),
        frame_features=rng.normal(size=(2, 9, 4)),
    )
    page = explore_to_html(str(tmp_path / "bare.npz"))
    assert page == tmp_path / "bare.html"
    with Browser() as browser:
        browser.open(page, "#t=4")
        assert steps(browser) != (0, 0)
        assert (
            browser.eval("document.querySelector('#shot-a .none').textContent") == "no picture of 0"
        )
        assert "frame " in browser.eval("document.querySelector('#shot-a + .cap time').textContent")
        assert browser.eval("document.querySelector('#tint').value") == "time"
        assert browser.errors == []


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    """A long video of three scenes, and a short one, without classes or phases; and no pictures."""
    rng = np.random.default_rng(0)
    scenes = [rng.normal(size=6) for _ in range(3)]
    folder = tmp_path_factory.mktemp("unlabelled")
    with FeatureWriter(folder / "long.arrow", embed_dim=6, metadata={}) as writer:
        for name, counts, step in (
            ("a very long file of the archive.mp4", (200, 100, 300), 6.0),
            ("b.mp4", (20, 10, 20), 0.2),
        ):
            values = np.concatenate(
                [np.tile(s, (n, 1)) for s, n in zip(scenes, counts, strict=True)]
            )
            values = (values + 0.1 * rng.normal(size=values.shape)).astype(np.float32)
            row = {"id": name, "clip": 0, "feature": values[0], "frame_features": values}
            writer.write([{**row, "frame_times_sec": (step * np.arange(len(values))).tolist()}])
    return folder / "long.arrow"


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_long_video_without_labels_is_leafed_through(unlabelled, tmp_path, width, dark):
    page = explore_to_html(str(unlabelled), tmp_path / "long.html")
    with Browser(width, 1400, dark=dark) as browser:
        browser.open(page)
        assert browser.eval("document.documentElement.scrollWidth") <= width
        paper = browser.eval("getComputedStyle(document.querySelector('.card')).backgroundColor")
        assert paper == ("rgb(26, 34, 46)" if dark else "rgb(255, 255, 255)")
        # Nothing is said about phases where there are none.
        assert browser.eval("[...document.querySelectorAll('.chip')].every(e => e.hidden)")
        assert browser.eval("document.querySelector('#near b').hidden")
        assert "phase" not in browser.eval("document.querySelector('#legend').textContent")
        assert browser.eval("document.querySelector('#agree').hidden")
        # Names and times on the axes; how dense the frames are.
        assert "very long file" in browser.eval("document.querySelector('#name-y').textContent")
        times = browser.eval(
            "[...document.querySelectorAll('#times-a span')].map(e => e.textContent)"
        )
        assert times[0] == "0 s"
        assert re.fullmatch(r"(\d+:)?\d+:\d\d", times[-1])
        assert "one every 30.00 s" in browser.eval("document.querySelector('#density').textContent")
        # Chapters: where the scenes change, 20 and 10 minutes on.
        leaves = browser.eval(
            "[...document.querySelectorAll('#leaves button')].map(e => e.textContent)"
        )
        assert [leaf.rpartition(".mp4")[2] for leaf in leaves] == ["0.00 s", "20:00.00", "30:00.00"]
        browser.click("#leaves button:nth-child(3)")
        assert steps(browser)[0] == 60
        assert browser.eval(
            "document.querySelector('#leaves .now') === document.querySelectorAll('#leaves button')[2]"
        )
        # Closer: the same step in the middle, finer times; the end of the part that is seen moves on.
        browser.click("#closer")
        browser.click("#closer")
        closer = browser.eval(
            "[...document.querySelectorAll('#times-a span')].map(e => e.textContent)"
        )
        assert closer != times
        assert "4 times closer" in browser.eval("document.querySelector('#density').textContent")
        cross = "+document.querySelector('#cross').getAttribute('cy')"
        assert browser.eval(cross) == pytest.approx(200, abs=12)
        browser.click("#leaves button:nth-child(1)")
        assert steps(browser)[0] == 0
        assert 0 <= browser.eval(cross) <= 60
        browser.click("#whole")
        assert browser.eval("document.querySelector('#wider').disabled")
        assert browser.errors == []


@needs_browser
def test_fingers_do_what_the_pointer_does(unlabelled, tmp_path):
    page = explore_to_html(str(unlabelled), tmp_path / "long.html")
    with Browser(390, 1400) as browser:
        browser.send("Emulation.setTouchEmulationEnabled", enabled=True)
        browser.open(page)

        def tap(x: float, y: float) -> None:
            browser.send(
                "Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}]
            )
            browser.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

        x, y = browser.middle("#links")
        tap(x, y - 50)
        assert steps(browser)[0] == pytest.approx(60, abs=3)
        x, y = browser.middle("#matrix")
        tap(x + 60, y + 60)
        assert steps(browser)[0] > 70
        box = browser.eval(
            "(e => { e.scrollIntoView({block: 'center', behavior: 'instant'}); const r = e.getBoundingClientRect();"
            "return [r.left, r.top, r.width]; })(document.querySelector('#map'))"
        )
        point = """document.querySelector('.dot[data-v="1"][data-f="25"]')"""
        spot = browser.eval(f"(e => [+e.getAttribute('cx'), +e.getAttribute('cy')])({point})")
        scale = box[2] / 640
        tap(
            box[0] + spot[0] * scale + 5, box[1] + spot[1] * scale
        )  # beside the point, as fingers are
        browser.wait("document.querySelector('#pick-a').selectedOptions[0].text === 'b.mp4'")
        assert browser.errors == []


def test_a_stretch_of_long_videos_is_shown_densely(unlabelled, tmp_path):
    found = explore(open_features(unlabelled), start_sec=1200, end_sec=1500)
    assert [len(track.embs) for track in found.tracks] == [51]
    assert (found.tracks[0].times[0], found.tracks[0].times[-1]) == (1200, 1500)
    assert "1 videos have no frame between 1200 s and 1500 s." in found.notes
    with pytest.raises(FeatureError, match="none of the videos has a frame between 90000 s"):
        explore(open_features(unlabelled), start_sec=90_000)
    command = [
        sys.executable,
        "-m",
        "video_ssl",
        "explore",
        str(unlabelled),
        str(tmp_path / "p.html"),
    ]
    done = subprocess.run(
        [*command, "--start-sec", "9", "--end-sec", "3"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "must be after start_sec=9.0" in done.stderr) == (2, True)


def test_chapters_against_all_divisions():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=4) + 0.2 * rng.normal(size=(n, 4)) for n in (5, 4, 6)])

    def within(begins: tuple[int, ...]) -> float:
        parts = np.split(x, begins)
        return sum(float(((p - p.mean(0)) ** 2).sum()) for p in parts)

    divisions = [(i, j) for i in range(2, 14) for j in range(i + 2, 14)]
    assert chapters(x) == [0, *min(divisions, key=within)]
    assert chapters(x, most=2) == [0, *min(((i,) for i in range(2, 14)), key=within)]
    for nothing in (np.ones((9, 3)), np.ones((1, 3)), rng.normal(size=(60, 32))):
        assert chapters(nothing) == [0]


def test_frames_that_are_not_finite_are_left_out(tmp_path, made, monkeypatch):
    monkeypatch.setattr("video_ssl.embed.feature_writer._check_row", lambda *_: None)
    broken = feature(PLACES["fast"], 0).astype(np.float32)
    broken[3] = np.nan
    path = write_features(
        tmp_path / "nan.arrow",
        {"fast": PLACES["fast"]},
        made / "table.arrow",
        frame_features=broken,
    )
    found = explore(open_features(path))
    assert len(found.tracks[0].embs) == 20
    assert "1 frames not finite are left out." in found.notes
    write_exploration(found, tmp_path / "nan.html")
    path = write_features(
        tmp_path / "all.arrow", {"fast": PLACES["fast"]}, frame_features=broken * np.nan
    )
    with pytest.raises(FeatureError, match="no frame with finite numbers: embed the videos again"):
        explore(open_features(path))
    np.savez(
        tmp_path / "n.npz", features=np.zeros((2, 3)), frame_features=np.full((2, 4, 3), np.nan)
    )
    with pytest.raises(FeatureError, match="frame_features is not finite in 2 of 2 rows"):
        open_exploration(tmp_path / "n.npz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explore", "plain.npz"], "has no frame features; embed again with frames=true"),
        (["explore", "nothing.arrow"], "no feature file nothing.arrow"),
        (["explore", "plain.npz", "--table", "demo:val"], "goes with an encoder only"),
        (["explore", "runs/none"], "no encoder 'runs/none'"),
        (["explore", "untrained:runs/none"], "say where the page of untrained:runs/none"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, arguments, message):
    np.savez(tmp_path / "plain.npz", features=np.zeros((3, 2)))
    command = [sys.executable, "-m", "video_ssl", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [
        "plain.npz"
    ]  # no videos were made for a wrong name


def test_colors_do_not_run_out():
    assert len({color(rank) for rank in range(60)}) >= 55
    assert all(re.fullmatch("#[0-9a-f]{6}", color(rank)) for rank in range(60))
    assert color(3) == COLORS[3]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """An encoder that was never trained, and three videos with phases that it has not seen."""
    import torch

    from video_ssl.models.config import ViTConfig
    from video_ssl.models.encoders import save_encoder
    from video_ssl.models.networks.vit import VideoViT
    from video_ssl.models.preprocess_config import VideoPreprocess

    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    config = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    save_encoder(
        folder / "encoder",
        VideoViT(config),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=1, size=16),
        source={"objective": "videomae"},
    )
    rows = []
    for number in range(3):
        path = folder / f"{number}.mp4"
        write_greys(path, 60 + 5 * number + 4 * np.arange(16 + 2 * number))
        labels = np.repeat([0, 1], [8, 8 + 2 * number])
        rows.append(
            {
                "id": str(number),
                "source": str(path),
                "label": 0,
                "fps": 10.0,
                "frame_labels": labels,
            }
        )
    Table.from_rows(rows, class_names=["a"], phase_names=["up", "down"]).save(folder / "t.arrow")
    return folder


def test_an_encoder_embeds_what_is_shown(small_run, tmp_path):
    found = open_exploration(
        small_run / "encoder", table=str(small_run / "t.arrow"), keep=tmp_path / "k.arrow"
    )
    assert [len(t.embs) for t in found.tracks] == [16, 18, 20]
    assert [t.labels.max() for t in found.tracks] == [1, 1, 1]
    assert len(frame_pictures(found.tracks[2])) == 20
    fewer = open_exploration(
        small_run / "encoder",
        table=str(small_run / "t.arrow"),
        keep=tmp_path / "k.arrow",
        videos=["1"],
    )
    assert [t.id for t in fewer.tracks] == ["1"]
    assert len(open_features(tmp_path / "k.arrow")) < 10


def test_a_file_is_compared_with_an_archive_that_has_tokens(small_run, tmp_path):
    """Was wrong: of the file only tokens were made, and it had "no frame features"."""
    encoder = str(small_run / "encoder")
    kept = embed_table(
        encoder, str(small_run / "t.arrow"), tmp_path / "f.arrow", per_frame=True, num_workers=0,
        outputs=("clip", "moments", "tokens"), tokens_side=1,
    )  # fmt: skip
    track = embed_video(small_run / "1.mp4", encoder, like=kept.metadata)
    np.testing.assert_allclose(track.embs, kept.frames_of("1")[0], rtol=1e-4, atol=1e-5)


def test_what_an_interrupted_call_began_of_other_videos_is_in_nobodys_way(
    small_run, tmp_path, monkeypatch
):
    """Every later call ended, and advised a flag that `explore` does not have."""

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    words = {"table": str(small_run / "t.arrow"), "keep": tmp_path / "k.arrow"}
    with monkeypatch.context() as patch:
        patch.setattr(Embedder, "forward", stopped)
        with pytest.raises(KeyboardInterrupt):
            open_exploration(small_run / "encoder", **words)
    assert (tmp_path / "k.arrow.partial").is_dir()
    found = open_exploration(small_run / "encoder", **words, videos=["1"])
    assert [t.id for t in found.tracks] == ["1"]


@pytest.mark.skipif(
    any(importlib.util.find_spec(n) is None for n in ("nbclient", "ipykernel", "matplotlib")),
    reason="nbclient, ipykernel and matplotlib are not all installed",
)
def test_the_notebook_runs_from_top_to_bottom(small_run, tmp_path, monkeypatch):
    from nbclient import NotebookClient

    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_SOURCE", str(small_run / "encoder"))
    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_TABLE", str(small_run / "t.arrow"))
    monkeypatch.setenv("VIDEO_SSL_NOTEBOOK_KEEP", str(tmp_path / "kept.arrow"))
    notebook = committed(NOTEBOOK)
    ran = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = [output for cell in ran.cells for output in cell.get("outputs", [])]
    assert "3 videos, 54 frames" in "".join(o.text for o in outputs if o.output_type == "stream")
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(o.data["image/png"]))).convert("RGB"))
        for o in outputs
        if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 4
    red = [(np.abs(p.astype(int) - (230, 40, 40)).sum(-1) < 40).sum() for p in pictures]
    assert min(red[:2]) > 200  # the alignment is drawn on both kinds of matrices
    blue = np.abs(pictures[2].astype(int) - (0x2A, 0x6F, 0xDB)).sum(-1) < 60
    orange = np.abs(pictures[2].astype(int) - (0xE0, 0x7B, 0x39)).sum(-1) < 60
    assert min(blue.sum(), orange.sum()) > 200  # the map has both phases
    (both,) = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert both.startswith("<iframe srcdoc=")  # the scrubber
    assert both.count("data:image/jpeg;base64,") >= 20


@needs_browser
def test_the_scrubber_of_notebooks_needs_no_kernel(made, tmp_path):
    """As in a notebook exported to HTML: the output of the cell on a page, and nothing else."""
    found = explore(open_features(made / "features.arrow"))
    path, both = found.pair("slow", LATE), scrubber(found, "slow", LATE)
    page = tmp_path / "exported.html"
    page.write_text(
        f"<html><body>{both._repr_html_()}<script>onmessage = (e) => 0;"
        "document.documentElement.dataset.ready = 'yes'</script></body></html>"
    )
    with Browser() as browser:
        browser.open(page)  # a frame of a sandbox can only be looked at
        until = time.monotonic() + 300  # it is painted when it likes
        while np.unique(np.asarray(Image.open(io.BytesIO(browser.screenshot())))).size < 20:
            assert time.monotonic() < until, "nothing is seen of the scrubber"
        assert browser.errors == []
        browser.open(both.save(tmp_path / "both.html"))
        for step in (0, 15, len(path.path_i) - 1):
            browser.eval(
                f"(() => {{ const s = document.querySelector('#step'); s.value = '{step}';"
                "s.dispatchEvent(new Event('input')); })()"
            )
            greys = [
                decoded(browser.eval(f"document.querySelector('#{n}').src")).mean() for n in "ab"
            ]
            expected = [PLACES["slow"][path.path_i[step]], PLACES[LATE][path.path_j[step]]]
            np.testing.assert_allclose(greys, [grey(p) for p in expected], atol=4)
        assert LATE in browser.eval("document.querySelector('#about-b').textContent")
        assert "down" in browser.eval("document.querySelector('#about-a').textContent")
        browser.click("#play")  # at the end: from the beginning
        browser.wait("Number(document.documentElement.dataset.step) > 2")
        assert browser.requests == [(tmp_path / "both.html").as_uri()] or not [
            url for url in browser.requests if url.startswith("http")
        ]
        assert browser.errors == []
