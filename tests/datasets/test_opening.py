from pathlib import Path
from types import SimpleNamespace

import pytest

from video_ssl.datasets import open_table, opening
from video_ssl.datasets.opening import lacks_tables, open_splits
from video_ssl.datasets.table import Table, TableError
from video_ssl.recipes import ConfigError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with every kind of data, as the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VIDEO_SSL_DATA", raising=False)
    Path("videos/x").mkdir(parents=True)
    Path("videos/y").mkdir()
    Path("videos/x/a.mp4").touch()
    Path("videos/y/b.mp4").touch()
    Path("list.txt").write_text("videos/x/a.mp4 3\n")
    for split in ("train", "val"):
        Table.from_columns({"source": [split]}).save(f"tables/{split}.arrow")
    return tmp_path


def fake_build(root, size="small", seed=0):
    folder = Path(root)
    Table.from_columns({"source": [f"{size}-{seed}"]}).save(folder / "train.arrow")
    return folder


@pytest.mark.parametrize(
    ("spec", "ids"),
    [
        ("tables:train", ["train"]),
        ("tables/val.arrow", ["val"]),
        ("list.txt", ["videos/x/a.mp4"]),
        ("videos", ["x/a.mp4", "y/b.mp4"]),
        ("videos:x", ["a.mp4"]),
    ],
)
def test_paths(data, spec, ids):
    assert open_table(spec).column("id").tolist() == ids


def test_relative_paths_of_a_list_can_have_another_root(data):
    Path("r/videos/x").mkdir(parents=True)
    Path("r/videos/x/a.mp4").touch()
    assert open_table("list.txt", root="r").record(0).source == str(data / "r/videos/x/a.mp4")


@pytest.mark.parametrize("spec", ["tables/train.arrow", "tables:train", "file://{}/tables:train"])
def test_relative_paths_of_a_table_can_have_another_root(data, spec, monkeypatch):
    """Was wrong: `root` was ignored for Arrow tables."""
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(data / "cache"))
    monkeypatch.setattr(opening, "is_remote", lambda uri: "://" in uri)
    monkeypatch.setattr(opening, "fetch", lambda uri: SimpleNamespace(path=uri[7:], release=int))
    Table.from_columns({"source": ["v.mp4"]}, root="tables").save("tables/train.arrow")
    spec = spec.format(data)
    assert open_table(spec, root="r").record(0).source == str(data / "r/v.mp4")
    beside = open_table(spec).record(0).source
    assert beside in (str(data / "tables/v.mp4"), f"file://{data}/tables/v.mp4")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tables", r"has the splits \['train', 'val'\]: write which one"),
        ("tables:trian", r"no split 'trian': it has \['train', 'val'\].* Did you mean 'train'"),
        ("videos:z", "neither z.arrow nor a sub-folder"),
        ("none.arrow", "no such file or folder"),
        ("./none:train", "no such file or folder"),
        ("dmo:train", r"no data 'dmo': neither a file, nor a folder, nor a dataset recipe \[.*'demo'"),
        ("list.txt:train", "one file without splits"),
        ("videos/x/a.mp4", "not a table"),
    ],
)  # fmt: skip
def test_wrong_specs_say_what_is_allowed(data, spec, message):
    with pytest.raises(TableError, match=message):
        open_table(spec)


@pytest.fixture
def recipe(data, monkeypatch):
    monkeypatch.setitem(opening.KINDS, "fake", "here:fake_build")
    here = SimpleNamespace(fake_build=fake_build)
    monkeypatch.setattr(opening.importlib, "import_module", lambda _: here)
    return Path("fake.yaml")


def test_a_recipe_makes_its_data_below_the_current_or_the_set_folder(recipe, tmp_path, monkeypatch):
    recipe.write_text("{kind: fake, size: tiny, seed: 5, root: data/fake-tiny}")
    assert open_table("fake.yaml:train").column("id").tolist() == ["tiny-5"]
    assert (tmp_path / "data/fake-tiny/train.arrow").is_file()
    monkeypatch.setenv("VIDEO_SSL_DATA", str(tmp_path / "big-disk"))
    open_table("fake.yaml:train")
    assert (tmp_path / "big-disk/fake-tiny/train.arrow").is_file()


def test_a_recipe_goes_before_a_folder_of_its_name(recipe, data, monkeypatch, caplog):
    """Was wrong: beside the data themselves (cd /data; VIDEO_SSL_DATA=/data) the name of a data set was taken for the
    folder of its videos, and nothing said so."""
    recipe.write_text("{kind: fake, root: videos}")
    monkeypatch.setattr(opening, "list_recipes", lambda _: {"videos": recipe})
    monkeypatch.setattr(opening, "find_recipe", lambda *_, **__: recipe)
    monkeypatch.setenv("VIDEO_SSL_DATA", str(data))
    assert lacks_tables("videos:train")
    for spec in ("videos:train", "videos:train"):
        assert open_table(spec).column("id").tolist() == ["small-0"]
    assert list(open_splits("videos")) == ["train"]
    assert not lacks_tables("videos:train")
    (told,) = [r.getMessage() for r in caplog.records if "data set recipe" in r.getMessage()]
    assert "write ./videos for the folder" in told
    Path("videos/train.arrow").unlink()
    for folder in ("./videos", str(data / "videos"), "videos/"):
        assert open_table(folder).column("id").tolist() == ["x/a.mp4", "y/b.mp4"]


def test_every_split_of_a_folder_that_is_called_like_a_recipe(recipe, data, monkeypatch, caplog):
    """Was wrong: `video-ssl data build ./tables OUT` packed the recipe of that name instead of the folder, and an error
    about `./tables` told to write what means the recipe."""
    recipe.write_text("{kind: fake, root: elsewhere}")
    monkeypatch.setattr(opening, "list_recipes", lambda _: {"tables": recipe})
    monkeypatch.setattr(opening, "find_recipe", lambda *_, **__: recipe)
    splits = open_splits("./tables")
    assert {split: table.column("id").tolist() for split, table in splits.items()} == {
        "train": ["train"],
        "val": ["val"],
    }
    with pytest.raises(TableError, match=r"for example \./tables:train\."):
        open_table("./tables")
    assert open_table("./tables:train").column("id").tolist() == ["train"]
    assert not caplog.records
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{kind: fakes, root: r}", "kind='fakes' is not one of .* Did you mean 'fake'"),
        ("{kind: fake}", "root=None must be the folder"),
        ("{kind: fake, root: r, sede: 1}", "unknown key 'sede'.* Did you mean 'seed'"),
    ],
)
def test_wrong_recipes_are_named(recipe, content, message):
    recipe.write_text(content)
    with pytest.raises(ConfigError, match=message):
        open_table("fake.yaml:train")
