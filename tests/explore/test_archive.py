"""An archive, as its owner walks through it: embed a folder, look, move it, search it, cut what was found."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, needs_browser
from colored_videos import write_video
from PIL import Image
from typer.testing import CliRunner

from video_ssl.cli import app
from video_ssl.clips.reading import open_video
from video_ssl.datasets.table import Table
from video_ssl.embed.features import FeatureError, FeatureFile, open_features
from video_ssl.explore.alignment import align
from video_ssl.explore.alignment_video import write_side_by_side
from video_ssl.explore.cutting import claim_new_folder
from video_ssl.explore.exploration import frame_pictures
from video_ssl.explore.pages.links import clock
from video_ssl.explore.pages.pictures import moving_picture
from video_ssl.explore.tracks import record_of, track_of
from video_ssl.explore.whereabouts import whereabouts
from video_ssl.files import OutputError
from video_ssl.models.encoders import EncoderError, load_encoder, save_encoder
from video_ssl.models.networks.frame_config import FrameTransformerConfig
from video_ssl.models.networks.frame_transformer import FrameTransformer
from video_ssl.models.preprocess_config import VideoPreprocess

NAMES = ("röt 1.mp4", "grün.mp4", "sub/blau #2.mp4")
COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def run(*words: object) -> str:
    """What a command prints; it must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 2
    return done.output


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """videos/ of three files in folders and features.arrow of their frames, 10 a second."""
    folder = tmp_path_factory.mktemp("archive")
    for number, (name, color) in enumerate(zip(NAMES, COLORS, strict=True)):
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / "videos" / name, 30 + 6 * number, color, seed=number)
    run("embed", "pixels:4", folder / "videos", folder / "features.arrow", "--per-frame",
        "--num-workers", 0, "--frame-stride", 1, "--num-frames", 8)  # fmt: skip
    return folder


def pictures_of(page: Path) -> list[object]:
    data = json.loads(
        re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1]
    )
    return [video["frames"] for video in data["videos"]]


@pytest.mark.parametrize("kind", ["folder", "list", "csv"])
def test_features_of_a_folder_a_list_and_a_csv_show_pictures(archive, tmp_path, kind):
    """Was wrong: no pictures, as if the videos had moved."""
    paths = [archive / "videos" / name for name in NAMES]
    source = archive / "videos"
    if kind == "list":
        source = tmp_path / "list.txt"
        source.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    if kind == "csv":
        source = tmp_path / "table.csv"
        source.write_text("source\n" + "".join(f'"{p}"\n' for p in paths), encoding="utf-8")
    features = tmp_path / "f.arrow"
    run("embed", "pixels:4", source, features, "--per-frame", "--num-workers", 0)
    run("explore", features, tmp_path / "page.html", "--max-frames", 5)
    assert all(pictures_of(tmp_path / "page.html"))


def test_a_moved_archive_is_pointed_to(archive, tmp_path):
    moved = tmp_path / "disk" / "new place"
    shutil.copytree(archive / "videos", moved)
    features = tmp_path / "f.arrow"
    shutil.copytree(archive / "videos", tmp_path / "old")
    run("embed", "pixels:4", tmp_path / "old", features, "--per-frame", "--num-workers", 0)
    shutil.rmtree(tmp_path / "old")
    run("explore", features, tmp_path / "page.html", "--max-frames", 4)
    assert not any(pictures_of(tmp_path / "page.html"))
    assert "--root FOLDER" in (tmp_path / "page.html").read_text(encoding="utf-8")
    for root in (moved, moved.parent / "new place"):
        run("explore", features, tmp_path / "page.html", "--max-frames", 4, "--root", root)
        assert all(pictures_of(tmp_path / "page.html"))
    ids = open_features(features).ids
    run("align", ids[0], ids[1], "--in", features, "--out", tmp_path / "aligned", "--root", moved)
    assert (tmp_path / "aligned" / "aligned.mp4").exists()
    assert "no folder nowhere: root is" in refused("explore", features, "--root", "nowhere")
    # Another file under the name of one that was embedded is not taken for it.
    shutil.copy(moved / NAMES[0], moved / NAMES[1])
    found = open_features(features, root=moved)
    assert record_of(found, NAMES[1]) is None
    assert record_of(found, NAMES[0]).source == str(moved / NAMES[0])


def test_videos_are_looked_for_below_the_root(tmp_path):
    for place in ("b/c.mp4", "c.mp4", "x.tar"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"-")
    assert whereabouts("/gone/a/b/c.mp4", root=tmp_path) == str(tmp_path / "b/c.mp4")
    assert whereabouts("/gone/a/d/c.mp4", root=tmp_path) == str(tmp_path / "c.mp4")
    assert whereabouts("/gone/x.tar!/a/1.mp4", root=tmp_path) == f"{tmp_path}/x.tar!/a/1.mp4"
    parts = "/gone/b/c.mp4||/gone/c.mp4"
    assert whereabouts(parts, root=tmp_path) == f"{tmp_path}/b/c.mp4||{tmp_path}/c.mp4"
    assert whereabouts("/gone/d.mp4", root=tmp_path) is None
    assert whereabouts("s3://bucket/c.mp4", root=tmp_path) is None
    assert whereabouts(str(tmp_path / "c.mp4"), root=None) == str(tmp_path / "c.mp4")


def test_ids_of_others_that_are_paths_lead_to_the_videos(archive, tmp_path, monkeypatch):
    ours = open_features(archive / "features.arrow")
    values, times = ours.frames_of(NAMES[0])
    arrays = {
        "features": np.stack([values.mean(0)] * 2),
        "ids": list(NAMES[:2]),
        "frame_features": np.stack([values[:20]] * 2),
        "frame_times_sec": np.stack([times[:20]] * 2),
    }
    beside, elsewhere = archive / "videos" / "theirs.npz", tmp_path / "theirs.npz"
    for path in (beside, elsewhere):
        np.savez(path, **arrays)
    run("explore", beside, tmp_path / "page.html")
    assert all(pictures_of(tmp_path / "page.html"))
    beside.unlink()
    run("explore", elsewhere, tmp_path / "page.html")
    assert not any(pictures_of(tmp_path / "page.html"))
    run("explore", elsewhere, tmp_path / "page.html", "--root", archive / "videos")
    assert all(pictures_of(tmp_path / "page.html"))
    monkeypatch.chdir(archive / "videos")
    run("explore", elsewhere, tmp_path / "page.html")
    assert all(pictures_of(tmp_path / "page.html"))


def test_a_file_is_found_as_itself_among_ids_that_are_paths(archive, tmp_path):
    """Was wrong: a video file asked of an archive of others was its own best answer, though it is left out."""
    ours = open_features(archive / "features.arrow")
    parts = [ours.frames_of(name) for name in NAMES[:2]]
    np.savez(
        tmp_path / "theirs.npz",
        features=np.stack([values.mean(0) for values, _ in parts]),
        ids=list(NAMES[:2]),
        frame_features=np.stack([values[:20] for values, _ in parts]),
        frame_times_sec=np.stack([times[:20] for _, times in parts]),
    )
    out = tmp_path / "found.json"
    words = ("search", archive / "videos" / NAMES[0], "--in", tmp_path / "theirs.npz",
             "--encoder", "pixels:4", "--root", archive / "videos", "--out", out)  # fmt: skip
    run(*words)
    assert {moment["id"] for moment in json.loads(out.read_text())["moments"]} == {NAMES[1]}
    run(*words, "--own-video")
    assert json.loads(out.read_text())["moments"][0]["id"] == NAMES[0]


def greys_of(path: Path) -> list[float]:
    """The grey of the left half of every frame of a video."""
    with open_video(path) as reader:
        frames = reader.frames(np.arange(reader.info.num_frames))
    return frames[:, :, : frames.shape[2] // 2 - 4].mean(axis=(1, 2, 3)).tolist()


@pytest.mark.parametrize("rates", [(10.0, 10.0), (10.0, 5.0)])
def test_folders_of_frames_are_shown_at_the_rate_of_their_table(tmp_path, rates):
    """Was wrong: the rate was forgotten, and at 10 pictures a second second 1 showed frame 25 in place of frame 10."""
    names = ("a", "b")
    for name in names:
        (tmp_path / "old" / name).mkdir(parents=True)
        for number in range(30):
            Image.new("RGB", (32, 32), (8 * number,) * 3).save(
                tmp_path / "old" / name / f"{number:03d}.png"
            )
    rows = [
        {"id": n, "source": str(tmp_path / "old" / n), "fps": rate}
        for n, rate in zip(names, rates, strict=True)
    ]
    Table.from_rows(rows).save(tmp_path / "table.arrow")
    run("embed", "pixels:4", tmp_path / "table.arrow", tmp_path / "f.arrow", "--per-frame",
        "--num-workers", 0, "--frame-stride", 2, "--num-frames", 4)  # fmt: skip
    expected = 8.0 * np.arange(0, 30, 2)

    def check(features: FeatureFile) -> None:
        a, b = (track_of(features, name) for name in names)
        for track in (a, b):
            greys = [picture.mean() for picture in frame_pictures(track)]
            np.testing.assert_allclose(greys, expected, atol=1)
        assert a.record is not None
        assert b.record is not None
        write_side_by_side(
            tmp_path / "both.mp4", align(a.embs, b.embs), query=a.record, key=b.record,
            query_sec=a.times, key_sec=b.times, height=32,
        )  # fmt: skip
        np.testing.assert_allclose(greys_of(tmp_path / "both.mp4"), 8.0 * np.arange(30), atol=4)
        moving = moving_picture(a.record, 1.0, 2.0, count=2)
        assert moving is not None
        content = io.BytesIO(base64.b64decode(moving.uri.partition(",")[2]))
        sides = np.split(np.asarray(Image.open(content), float), 2, axis=1)
        np.testing.assert_allclose([side.mean() for side in sides], [80, 160], atol=3)

    check(open_features(tmp_path / "f.arrow"))
    shutil.move(tmp_path / "old", tmp_path / "new")
    moved = open_features(tmp_path / "f.arrow", root=tmp_path / "new")
    check(moved)
    (tmp_path / "table.arrow").unlink()
    if rates[0] == rates[1]:
        check(moved)
        moved.metadata["table"].pop("fps")  # as it was in older files
    assert record_of(moved, "a") is None
    with pytest.raises(FeatureError, match="how fast they follow"):
        frame_pictures(track_of(moved, "a"))


def test_retrieve_without_labels_lists_the_nearest(archive, tmp_path):
    """Was an error: the nearest videos need no labels, only R@k does."""
    features = archive / "features.arrow"
    out = run("retrieve", features, features, "--out", tmp_path / "r.json", "--keep", 2)
    assert "nearest of 3 queries in 3 videos" in out
    assert "R@k needs labels for all" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["metrics"] == {}
    near = {query["id"]: [n["id"] for n in query["nearest"]] for query in found["nearest"]}
    assert {key: sorted(ids) for key, ids in near.items()} == {
        key: sorted(set(NAMES) - {key}) for key in NAMES
    }
    assert "keep=0 must be at least 1" in refused("retrieve", features, features, "--keep", 0)


def test_search_says_why_there_are_few_moments(archive, tmp_path):
    out = run("search", NAMES[0], "--in", archive / "features.arrow", "-k", 1000,
              "--start-sec", 1, "--end-sec", 2, "--out", tmp_path / "found.json")  # fmt: skip
    found = json.loads((tmp_path / "found.json").read_text())
    count = len(found["moments"])
    assert 2 <= count <= 6
    (note,) = found["notes"]
    assert f"{count} moments instead of 1000: 2 videos are searched" in note
    assert "at most 3 that do not overlap are looked for (--moments-per-video)" in note
    assert "own video is left out (--own-video)" in note
    assert "moments instead of 1000" in out
    run("search", NAMES[0], "--in", archive / "features.arrow", "-k", 1,
        "--out", tmp_path / "one.json")  # fmt: skip
    assert json.loads((tmp_path / "one.json").read_text())["notes"] == []


def test_moments_are_cut_exactly_and_never_over_a_file(archive, tmp_path):
    words = ("search", NAMES[0], "--in", archive / "features.arrow", "-k", 2,
             "--start-sec", 0.5, "--end-sec", 1.5, "--own-video")  # fmt: skip
    run(*words, "--cut", tmp_path / "clips", "--out", tmp_path / "found.json")
    first, second = json.loads((tmp_path / "found.json").read_text())["moments"]
    assert (first["id"], first["start_sec"], first["end_sec"]) == (NAMES[0], 0.5, 1.5)
    names = sorted(path.name for path in (tmp_path / "clips").iterdir())
    assert names[0] == "1_röt_1_0.50-1.50.mp4"
    assert len(names) == 2
    with (
        open_video(archive / "videos" / NAMES[0]) as source,
        open_video(first["file"]) as clip,
        open_video(second["file"]) as other,
    ):
        assert clip.info.num_frames == 11
        assert (clip.info.height, clip.info.width) == (32, 48)
        # Every frame is noise of its own: each of the clip is that of its place, by its pattern.
        there, here = patterns(source.frames(np.arange(30))), patterns(clip.frames(np.arange(11)))
        nearest = np.abs(here[:, None] - there[None]).mean(axis=(2, 3, 4)).argmin(axis=1)
        assert nearest.tolist() == list(range(5, 16))
        length = round(10 * (second["end_sec"] - second["start_sec"])) + 1
        assert other.info.num_frames == length
    before = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    told = refused(*words, "--cut", tmp_path / "clips", "--out", tmp_path / "again.json")
    assert "no clip is ever written over a file" in told
    assert {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()} == before
    assert not (tmp_path / "again.json").exists()
    with pytest.raises(OutputError, match="is no empty folder"):
        claim_new_folder(tmp_path / "found.json")


def patterns(frames: np.ndarray) -> np.ndarray:
    return frames.astype(float) - frames.mean(axis=(1, 2), keepdims=True)


@needs_browser
def test_the_page_of_a_search_plays_its_moments(archive, tmp_path):
    run("search", NAMES[0], "--in", archive / "features.arrow", "-k", 4, "--start-sec", 0.5,
        "--end-sec", 1.5, "--page", tmp_path / "found.html", "--cut", tmp_path / "clips")  # fmt: skip
    for width in (1280, 390):
        with Browser(width, 1000) as browser:
            browser.open(tmp_path / "found.html")
            assert browser.eval("document.querySelectorAll('button.moving').length") == 5
            assert browser.eval("document.documentElement.scrollWidth") <= width
            frame = "document.querySelector('.moment .moving').dataset.frame"
            before = browser.eval(frame)
            browser.click(".moment .moving")
            browser.wait(f"{frame} !== '{before}' && {frame} !== '0'")
            assert browser.eval("document.querySelectorAll('[aria-pressed=true]').length") == 1
            browser.click(".query .moving")  # one plays at a time
            assert browser.eval("document.querySelectorAll('[aria-pressed=true]').length") == 1
            browser.click(".query .moving")
            assert browser.eval("document.querySelectorAll('[aria-pressed=true]').length") == 0
            links = browser.eval("[...document.querySelectorAll('.links a')].map(a => a.href)")
            assert len(links) == 8
            assert all(link.startswith("file:///") for link in links)
            assert links[0].endswith(".mp4#t=" + links[0].rpartition("#t=")[2])
            assert (tmp_path / "clips").as_uri() in links[1]
            assert browser.errors == []
            assert [
                r for r in browser.requests if not r.startswith(("data:", "file:", "about:"))
            ] == []


def test_a_search_page_without_pictures_says_so(tmp_path):
    frames = np.random.default_rng(0).normal(size=(3, 9, 4))
    np.savez(
        tmp_path / "a.npz", features=frames[:, 0], ids=["a", "<b>", "c"], frame_features=frames
    )
    run("search", "a", "--in", tmp_path / "a.npz", "--page", tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "no pictures. If they were moved" in text
    assert "time unknown" in text
    assert "&lt;b&gt;" in text
    assert "<b>c" not in text


def test_times_are_written_as_people_do():
    assert [clock(s) for s in (0, 59.994, 60, 3600)] == [
        "0.00 s",
        "59.99 s",
        "1:00.00",
        "1:00:00.00",
    ]


def save_frame_encoder(folder: Path, **changes) -> Path:
    torch.manual_seed(0)
    config = FrameTransformerConfig(
        backbone="small", small_width=4, num_frames=8, fc_dims=(16,), hidden_dim=16, num_layers=1,
        num_heads=2, ffn_dim=16, embed_dim=8, **changes,
    )  # fmt: skip
    return save_encoder(
        folder,
        FrameTransformer(config),
        architecture="frame_transformer",
        preprocess=VideoPreprocess(num_frames=8, frame_stride=1, size=32),
        source={"objective": "carl"},
    )


def test_search_warns_of_an_encoder_whose_features_depend_on_the_place_in_the_video(
    archive, tmp_path
):
    encoder = save_frame_encoder(tmp_path / "enc", position_dropout=0.5)
    assert "depends on where in its video the frame lies" in (encoder / "README.md").read_text()
    clip = tmp_path / "clip.mp4"
    shutil.copy(archive / "videos" / NAMES[1], clip)

    def notes(spec: str, *asked: object, settings: tuple[object, ...] = ()) -> str:
        name = tmp_path / f"{abs(hash((spec, settings)))}.arrow"
        if not name.exists():
            run(
                "embed",
                spec,
                archive / "videos",
                name,
                "--per-frame",
                "--num-workers",
                0,
                *settings,
            )
        return run("search", *asked, "--in", name, "--encoder", spec, "-k", 1)

    told = notes(str(encoder), clip)
    assert "may miss its own place" in told.replace("\n", " ")
    assert f"no_positions:{encoder}" in told.replace("\n", "")
    assert "--num-frames 36" in told
    assert "may miss" in notes(str(encoder), NAMES[0], "--start-sec", 1)
    assert "may miss" not in notes(str(encoder), NAMES[0])  # a whole video, as it was embedded
    windows = ("--num-frames", 8, "--overlap", 0.5)
    assert "may miss" not in notes(str(encoder), clip, settings=windows)
    assert "all other frames" in notes(f"no_positions:{encoder}", clip)
    never = save_frame_encoder(tmp_path / "never")
    assert "no_positions" not in notes(str(never), clip)  # it was never trained without
    assert "may miss" not in notes("pixels:4", clip)


def test_an_encoder_without_its_positions(tmp_path):
    encoder = save_frame_encoder(tmp_path / "enc")
    video = torch.rand(1, 3, 8, 32, 32)
    with_them, without = load_encoder(encoder), load_encoder(f"no_positions:{encoder}")
    assert with_them.fingerprint != without.fingerprint
    assert without.config.depends_on_video == ("other frames",)
    # Without positions attention does not know any order: frames turned around give features turned around.
    kept = {name: e.frame_features(video) for name, e in (("a", with_them), ("b", without))}
    turned = {
        name: e.frame_features(video.flip(2)).flip(1)
        for name, e in (("a", with_them), ("b", without))
    }
    torch.testing.assert_close(turned["b"], kept["b"], atol=1e-5, rtol=1e-4)
    assert (turned["a"] - kept["a"]).abs().max() > 1e-2
    again = save_frame_encoder(tmp_path / "none", positions="none")
    with pytest.raises(EncoderError, match="sees no positions"):
        load_encoder(f"no_positions:{again}")
    from video_ssl.models.config import ViTConfig
    from video_ssl.models.networks.vit import VideoViT

    vit = ViTConfig(
        preset=None, embed_dim=32, depth=1, num_heads=2, image_size=16, num_frames=4, patch_size=8
    )
    save_encoder(
        tmp_path / "vit",
        VideoViT(vit),
        architecture="vit",
        preprocess=VideoPreprocess(num_frames=4, frame_stride=1, size=16),
        source={},
    )
    with pytest.raises(EncoderError, match="vit cannot do without positions"):
        load_encoder(f"no_positions:{tmp_path / 'vit'}")
    with pytest.raises(FeatureError, match="no folder"):
        open_features(tmp_path / "x.arrow", root=tmp_path / "nowhere")
