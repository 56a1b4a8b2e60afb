"""Recipes: inheritance, overrides, and errors that name the nearest key."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from video_ssl.compare.recipe import load_comparison
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.launch.profile import load_profile
from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_from_dict, recipe_to_dict
from video_ssl.recipe_text import read_yaml
from video_ssl.recipes import (
    ROOMS,
    ConfigError,
    build_config,
    find_recipe,
    list_recipes,
    nearest,
    read_recipe,
    to_plain,
    to_yaml,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, ...] = (0.9, 0.95)


@dataclass(frozen=True, kw_only=True)
class Mixed:
    """Keys of every type that an override can meet."""

    text: str = ""
    maybe: str | None = "x"
    both: str | int = 0
    number_or_text: str | float | None = 0.0
    listed: str | tuple[str, ...] = ()
    choice: Literal["none", "off", "1"] | None = "none"
    number: float = 0.0
    flag: bool = False
    table: dict[str, float] = field(default_factory=dict)
    anything: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    optimizer: Inner = Inner()
    extra: tuple[Inner, ...] = ()
    other: Inner | None = None

    def __post_init__(self) -> None:
        if self.name == "":
            raise ValueError("name must not be empty: give the run a name.")


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_file_wins_over_base_and_override_over_both(tmp_path):
    write(tmp_path / "base.yaml", "name: base\noptimizer: {lr: 0.1, betas: [0.8, 0.9]}\n")
    child = write(tmp_path / "child.yaml", "base: base.yaml\noptimizer: {lr: 0.2}\n")
    assert read_recipe(child) == {"name": "base", "optimizer": {"lr": 0.2, "betas": [0.8, 0.9]}}
    overridden = read_recipe(child, ["optimizer.lr=1e-4", "name=mine"])
    assert overridden == {"name": "mine", "optimizer": {"lr": 1e-4, "betas": [0.8, 0.9]}}


def test_build_and_plain_are_inverse():
    config = build_config(Outer, {"name": "x", "optimizer": {"lr": 2}, "extra": [{"lr": 3}]})
    assert config.optimizer == Inner(lr=2.0)
    assert config.extra == (Inner(lr=3.0),)
    assert build_config(Outer, to_plain(config)) == config


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "x", "optimiser": {}}, "unknown key 'optimiser'.*Did you mean 'optimizer'"),
        ({"name": "x", "optimizer": {"l": 1}}, r"unknown key 'optimizer.l'.*Did you mean 'lr'"),
        ({"name": "x", "extra": [{"beta": 1}]}, r"unknown key 'extra.beta'.*Did you mean 'betas'"),
        ({"name": "x", "other": {"lrr": 1}}, r"unknown key 'other.lrr'"),
        ({}, "name is not set"),
        ({"name": "x", "optimizer": {"lr": "fast"}}, r"optimizer.lr='fast'.*number"),
        ({"name": ""}, "name must not be empty: give the run a name"),
    ],
)
def test_what_cannot_be_built_is_named(mapping, message):
    with pytest.raises(ConfigError, match=message):
        build_config(Outer, mapping)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not readable as YAML"),
        ("- 1\n", "must hold keys and values"),
        ("", "must hold|^$"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = write(tmp_path / "r.yaml", text)
    if text == "":
        assert read_recipe(path) == {}
    else:
        with pytest.raises(ConfigError, match=message):
            read_recipe(path)


def test_circular_and_missing_base(tmp_path):
    a = write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="circular base"):
        read_recipe(a)
    with pytest.raises(ConfigError, match=r"no recipe file .*gone.yaml, named as base by"):
        read_recipe(write(tmp_path / "c.yaml", "base: gone.yaml\n"))


def test_override_without_value(tmp_path):
    path = write(tmp_path / "a.yaml", "x: 1\n")
    with pytest.raises(ConfigError, match="'fast' has no key and value"):
        read_recipe(path, ["fast"])


def test_unknown_recipe_names_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"no recipe 'mvd/dmeo'.*Did you mean 'mvd/demo'"):
        find_recipe("mvd/dmeo", "pretrain")
    # Was wrong: the name of a recipe that its folder lacks was answered with a hundred others.
    with pytest.raises(ConfigError, match=r"There are tcc/[a-z0-9_]+, [^.]*\.$") as caught:
        find_recipe("tcc/demo", "pretrain")
    assert "mvd" not in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"folders of them, bevt, carl,.*`video-ssl recipes` lists"
    ):
        find_recipe("sound", "pretrain")
    # Was wrong: "Did you mean 'retrieval'?"
    with pytest.raises(
        ConfigError, match="'vatt/demo' is a recipe of pretrain, and one of evaluate"
    ):
        find_recipe("vatt/demo", "evaluate")
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "recipe.yaml").write_text("name: x")
    with pytest.raises(
        ConfigError, match=r"is the folder of a run.*evaluate RECIPE encoder='.*my run'"
    ):
        find_recipe(str(tmp_path / "my run"), "evaluate")
    assert find_recipe("mvd/demo", "pretrain") == list_recipes("pretrain")["mvd/demo"]
    assert find_recipe("pretrain/mvd/demo.yaml", "pretrain").name == "demo.yaml"


def test_recipe_folders_are_not_packages(tmp_path):
    """`datasets` and `evaluate` are also names of other people's packages: ours must never be imported."""
    root = Path(__file__).resolve().parent.parent
    assert not [r for r in ROOMS if (root / r / "__init__.py").exists()]
    code = (
        "import video_ssl, importlib.util as u, sys\n"
        f"specs = [u.find_spec(n) for n in {ROOMS!r}]\n"
        f"sys.exit(any(s and s.origin and {str(root)!r} in s.origin for s in specs))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_importing_the_package_stays_light():
    code = "import video_ssl, sys; sys.exit(bool({'torch', 'jax', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(list_recipes("pretrain")))
def test_every_pretraining_recipe_builds_and_survives_a_round_trip(name):
    recipe = load_pretrain_recipe(name)
    assert recipe_from_dict(recipe_to_dict(recipe)) == recipe


# Values of overrides

ODD = [
    *(
        "my #1 vids",
        "[new] vids",
        "[a",
        "*.tar",
        "@x",
        "&y",
        "!z",
        "%d",
        "`x`",
        "'q'",
        '"q"',
        "it's",
    ),
    *(
        "20241129",
        "2024-11-29",
        "1e-3",
        "0x10",
        "007",
        "1_000",
        "yes",
        "No",
        "on",
        "null",
        "~",
        "nan",
        ".inf",
    ),
    *(
        " led and trailed ",
        "a: b",
        "a:",
        "- a",
        "? x",
        "{a: 1}",
        "{",
        "a,b",
        "x=y",
        "|",
        ">",
        "=",
        "<<",
        "---",
    ),
    *("ümläut 猫", "a\\nb", "$HOME", "a$b", "#"),
]


@pytest.mark.parametrize(
    "value", ["my #1 vids", "[new] vids", "20241129", "@x", " yes ", "a,'b': {"]
)
def test_a_key_of_type_text_takes_the_text_as_typed(value):
    """Was wrong: `my #1 vids` trained on the folder `my`, `run=20241129` was refused, `[new] vids` a traceback."""
    words = [f"data.table={value}", f"run={value}", f"name={value}"]
    recipe = load_pretrain_recipe("mae/demo", words)
    assert (recipe.data.table, recipe.run, recipe.name) == (value, value, value)
    assert load_evaluate_recipe("demo", [f"test={value}", f"encoder={value}x"]).test == value
    kept = read_yaml(to_yaml(recipe_to_dict(recipe)))  # as in recipe.yaml
    assert recipe_from_dict(kept) == recipe


@pytest.mark.parametrize("value", ODD)
def test_text_of_every_kind_is_taken_as_typed(tmp_path, value):
    content = read_recipe(write(tmp_path / "r.yaml", ""), [f"text={value}"], as_typed=True)
    assert build_config(Mixed, content).text == value


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("text=null", "null"),
        *((f"maybe={text}", None) for text in ("null", "~", "")),
        ("maybe=nullx", "nullx"),
        ("maybe=1e-3", "1e-3"),
        ("both=2000", 2000),
        ("both=10 epochs", "10 epochs"),
        ("both=yes", "yes"),  # a truth value, which this key does not take
        ("both=1.5", "1.5"),
        ("number_or_text=1e-3", 1e-3),
        ("number_or_text=null", None),
        ("number_or_text=2024-11-29", "2024-11-29"),
        ("listed=[a, b]", ("a", "b")),
        ("listed=[new] vids", "[new] vids"),
        *((f"choice={word}", word) for word in ("none", "off", "1")),
        ("choice=null", None),
        ("number=1e-3", 1e-3),
        ("flag=yes", True),
        ("table={a: 1, 'b c': 2}", {"a": 1.0, "b c": 2.0}),
        ("table.demo:val=2", {"demo:val": 2.0}),
        ("table[./a.b/c]=2", {"./a.b/c": 2.0}),
    ],
)
def test_the_type_of_a_key_says_how_its_value_is_read(tmp_path, override, expected):
    content = read_recipe(write(tmp_path / "r.yaml", ""), [override], as_typed=True)
    found = getattr(
        build_config(Mixed, content), override.partition("=")[0].partition(".")[0].partition("[")[0]
    )
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("text=", "text= is empty"),
        ("text=  ", "text= is empty"),
        ("number=[1", r"number='\[1' is not readable as YAML"),
        ("number=nan", "number=nan is no number"),
        ("number=-.inf", "number=-inf is not finite: give a finite number"),
        ("number=1e400", "number=inf is not finite"),
        ("number=inf", "number=inf is not finite"),  # a text for YAML
        ("table.a=.inf", "table.a=inf is not finite"),
        ("anything={a: [0, .inf]}", r"anything\.a\.1=inf is not finite"),
        ("choice=of", "choice='of'"),
        ("=x", "no key and value"),
        ("videos", r"no key and value.*put both into quotes: 'data.table=my videos'"),
    ],
)
def test_an_override_that_cannot_be_is_explained(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        build_config(Mixed, read_recipe(write(tmp_path / "r.yaml", ""), [override], as_typed=True))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.distance_sec=[0,.inf]", r"objective\.distance_sec\.1=inf is not finite"),
        ("objective.distance_sec=[.nan,1]", r"objective\.distance_sec\.0=nan is no number"),
        ("objective.distance_sec=[inf,1]", r"objective\.distance_sec\.0=inf is not finite"),
        ("objective.topical_weight=.inf", r"objective\.topical_weight=inf is not finite"),
        ("objective.focus=.inf", r"objective\.focus=inf is not finite"),
        ("objective.color.brightness=nan", r"objective\.color\.brightness=nan is no number"),
        ("training.scale=.inf", r"training\.scale=inf is not finite"),
    ],
)
def test_a_number_of_a_recipe_that_is_not_finite_is_refused_by_its_key(override, message):
    """Was wrong: an infinite weight stopped at step 0, an infinite distance was a traceback, and NaN "negative"."""
    with pytest.raises(ConfigError, match=message):
        load_pretrain_recipe("hico/small", [override])


def test_settings_of_a_profile_and_of_an_evaluator_follow_their_types():
    assert load_profile("slurm", ["partition=1e3", "nodes=2"]).partition == "1e3"
    assert load_profile("slurm", ["account=null"]).account is None
    recipe = load_evaluate_recipe("demo", ["evaluators.probe.epochs=5", "encoder=x"])
    assert recipe.evaluators["probe"]["epochs"] == 5
    assert type(recipe.evaluators["probe"]["epochs"]) is int


def test_an_override_of_a_section_keeps_what_it_does_not_name():
    recipe = load_pretrain_recipe(
        "mae/demo", ["optimizer={base_lr: 0.5}", "objective={seed: 1}"][:1]
    )
    assert recipe.optimizer.base_lr == 0.5
    assert recipe.optimizer.name == load_pretrain_recipe("mae/demo").optimizer.name


def test_a_number_where_a_file_must_have_text_says_so(tmp_path):
    with pytest.raises(
        ConfigError, match="run=20241129 is a number for YAML, but must be text: write it in quotes"
    ):
        load_pretrain_recipe(
            write(
                tmp_path / "r.yaml", f"base: {find_recipe('mae/demo', 'pretrain')}\nrun: 20241129\n"
            )
        )


# What a stranger's recipe may not do


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:SECRET}",
        "${oc.env:SECRET,none}",
        "${oc.${x}:SECRET}",
        "${oc.decode:'${oc.env:SECRET}'}",
        "${oc.create:{a: 1}}",
        "${env:SECRET}",
        "${SECRET}",
        "${x",
        "${}",
        "${a b}",
        "a ${",
    ],
)
@pytest.mark.parametrize("by", ["file", "override"])
def test_no_recipe_reads_the_environment(tmp_path, monkeypatch, value, by):
    """Was wrong: `http://host/${oc.env:KEY}` sent the key to the host and wrote it into recipe.yaml."""
    monkeypatch.setenv("SECRET", "s3cret")
    overrides = [f"data.table=http://host/{value}"] if by == "override" else []
    text = {"x": "env", "data": {"table": "" if overrides else f"http://host/{value}"}}
    path = write(tmp_path / "r.yaml", to_yaml(text))
    with pytest.raises(ConfigError, match=r"\$\{") as told:
        read_recipe(path, overrides)
    assert "s3cret" not in str(told.value)
    assert "Nothing in a recipe reads the environment" in str(told.value)


def test_a_reference_is_not_merged_into(tmp_path):
    path = write(tmp_path / "r.yaml", "a: {b: 1}\nc: ${a}\n")
    with pytest.raises(ConfigError, match=r"c is the reference \$\{a\}; set that"):
        read_recipe(path, ["c.b=2"])


def test_a_key_may_refer_to_another_one(tmp_path):
    path = write(
        tmp_path / "r.yaml", "a: {b: 2, c: [1, x]}\nd: ${a.b}\ne: n-${a.b}\nf: ${g}\ng: ${a}\n"
    )
    content = read_recipe(path, ["a.b=3"])
    assert content["d"] == 3
    assert content["e"] == "n-3"
    assert content["f"] == content["g"] == {"b": 3, "c": [1, "x"]}
    with pytest.raises(ConfigError, match="refers to itself"):
        read_recipe(write(path, "a: ${b}\nb: ${a}\n"))


def bomb_of_references():
    return "a0: lol\n" + "".join(f"a{i}: ${{a{i - 1}}}${{a{i - 1}}}\n" for i in range(1, 40))


def bomb_of_sections():
    return "a0: {x: 1}\n" + "".join(
        f"a{i}: {{x: '${{a{i - 1}}}', y: '${{a{i - 1}}}'}}\n" for i in range(1, 40)
    )


def bomb_of_aliases():
    return "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)
    )


@pytest.mark.parametrize(
    "text",
    [
        bomb_of_references(),
        bomb_of_sections(),
        bomb_of_aliases(),
        "a: " + "[" * 100_000,
        "a: " + "{a: " * 1000,
        "a: &a [*a]\n",
        "a: x" * 2**19,
        "a: !!python/object/apply:os.system ['true']\n",
        "a: !!binary aGk=\n",
        "a: 1\na: 2\n",
        "? [a, b]\n: 1\n",
        "a: \udcff",
    ],
)
def test_a_hostile_recipe_is_refused_in_a_sentence(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as told:
        read_recipe(path)
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize(
    "value", [*ODD, "", "a ", "\xa0", 1, 1.0, 1e-7, 1e20, True, None, [], {}, [[1, "1e5"]]]
)
def test_what_is_written_as_yaml_is_read_back(value):
    assert read_yaml(to_yaml({"k": value})) == {"k": value}


@pytest.mark.parametrize("given", [True, 3, "text", [1], ""])
def test_what_should_be_keys_and_values_is_refused_otherwise(given):
    """Was wrong: `'bool' object is not iterable`; an empty text counted as empty."""
    with pytest.raises(ConfigError, match=r"loader=.* must be keys and values"):
        build_config(Inner, given, "loader")


def test_keys_that_are_numbers_have_neighbours_too():
    """Was wrong: `'int' object is not iterable` where a key was misspelt as a number."""
    assert nearest(1, ["10", "depth"]) == " Did you mean '10'?"
    assert nearest(True, ["depth"]) == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"),
        ("1:30", "1:30"),
        ("-1:30", "-1:30"),
        ("10", 10),
        ("-7", -7),
        ("0", 0),
        ("1_000", 1000),
    ]
    + [("0x1f", 31), ("+5", 5), ("00", "00"), ("1e3", 1000.0)],
)
def test_numbers_are_the_numbers_that_stand_there(text, value):
    """Was wrong: `training.duration=010` trained 8 steps (octal), and 1:30 was 90."""
    assert read_yaml(text) == value
    assert read_yaml(to_yaml({"key": value})) == {"key": value}


@dataclass(frozen=True, kw_only=True)
class _Inner:
    share: float | None = None
    is_on: bool = False


@dataclass(frozen=True, kw_only=True)
class _Outer:
    count: int = 0
    either: bool | int = 0
    inner: _Inner = field(default_factory=_Inner)
    sides: tuple[int, int] = (1, 2)


@pytest.mark.parametrize(
    ("content", "place"),
    [({"count": True}, "x.count"), ({"inner": {"share": False}}, "x.inner.share")],
)
def test_a_truth_value_is_no_number(content, place):
    """Was wrong: `loader.num_workers=yes` was one worker, without a word."""
    with pytest.raises(
        ConfigError, match=f"{place}=(True|False) is a truth value, but must be a number"
    ):
        build_config(_Outer, content, "x")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"inner": None}, r"x\.inner=null must be keys and values, \{key: value\}; leave it out"),
        ({"inner": 7}, r"x\.inner=7 must be keys and values"),
        ({"count": None}, r"x\.count=null: Input should be a valid integer"),
        ({"sides": 3}, r"x\.sides=3 must be a list, \[a, b\]"),
    ],
)
def test_errors_speak_of_recipes_and_not_of_python(content, sentence):
    """Was wrong: `budget=null` was "budget=None: Input should be a dictionary or an instance of BudgetConfig"."""
    with pytest.raises(ConfigError, match=sentence):
        build_config(_Outer, content, "x")


def test_a_truth_value_stays_one_where_it_may_stand():
    config = build_config(_Outer, {"either": True, "inner": {"is_on": True}})
    assert config.either is True
    assert config.inner.is_on


#: Videos of the split that a published recipe is tried on.
TRIED = {
    "ucf101:test1": 3783,
    "hmdb51:test1": 1530,
    "kinetics400:val": 19881,
    "kinetics600:val": 29793,
    "ssv2:val": 24777,
    "diving48:test": 1970,
    "audioset:test": 20383,
}


@pytest.mark.parametrize("name", sorted(list_recipes("pretrain")))
def test_a_published_accuracy_is_of_all_videos(name: str) -> None:
    """Was wrong: fine-tuning on UCF101 and HMDB51 of CVRL and HiCo told the accuracy on 1,000 of their test videos."""
    validation = load_pretrain_recipe(name).validation
    if validation is None or validation.table.startswith("demo:"):
        return
    assert validation.max_videos >= TRIED[validation.table]


@pytest.mark.parametrize("name", sorted(list_recipes("pretrain")))
def test_one_key_of_a_section_leaves_the_others_as_they_are(name: str) -> None:
    """Was wrong: objective.crop.size=64 of hico/small replaced its whole crop by the usual one."""
    whole = recipe_to_dict(load_pretrain_recipe(name))
    for section, settings in whole["objective"].items():
        if isinstance(settings, dict) and settings:
            key = next((k for k, v in settings.items() if isinstance(v, (bool, float, int))), None)
            if key is not None:
                words = [f"objective.{section}.{key}={json.dumps(settings[key])}"]
                assert recipe_to_dict(load_pretrain_recipe(name, words)) == whole
    with_crop = whole["objective"].get("crop")
    if with_crop is not None and name in ("hico/small", "teg/r3d50_k400", "vatt/mbs"):
        found = recipe_to_dict(load_pretrain_recipe(name, ["objective.crop.size=128"]))
        assert found["objective"]["crop"] == {**with_crop, "size": 128}


def test_null_leaves_out_an_entry_that_the_base_names() -> None:
    """Was wrong: `bevt/demo` could not be asked for its videos alone, since no override took a stream away."""
    alone = ["objective.streams=video", "objective.init=null", "data.streams.images=null"]
    assert load_pretrain_recipe("bevt/demo", alone).data.streams == {}
    assert load_pretrain_recipe("mvd/demo", ["data.mix={'demo:val': null}"]).data.mix == {}
    fewer = load_evaluate_recipe("demo", ["encoder=pixels", "encoders.hog_bag=null"])
    assert "hog_order" in fewer.encoders
    assert "hog_bag" not in fewer.encoders
    # Where null is a value it stays: an evaluator with its own settings.
    assert (
        load_evaluate_recipe("demo", ["encoder=pixels", "evaluators.knn=null"]).evaluators["knn"]
        is None
    )


@pytest.mark.parametrize(
    ("load", "recipe", "word", "text"),
    [
        (load_comparison, "bevt", "objectives.clisp=null", "but there are clips, .*mean 'clips'"),
        (load_evaluate_recipe, "demo", "encoders.pixles=null", "mean 'pixels'"),
        (load_pretrain_recipe, "bevt/demo", "data.streams.image=~", "there are images.*'images'"),
        (load_pretrain_recipe, "mvd/demo", "data.mix.typo=null", "mix, but there is nothing"),
        (
            load_pretrain_recipe,
            "bevt/demo",
            "data.streams={image: null}",
            "would leave out 'image'",
        ),
    ],
)
def test_a_null_that_leaves_out_nothing_is_refused(load, recipe, word, text):
    """Was wrong: a misspelt name was passed over without a word, and hours went into what was to be left out."""
    with pytest.raises(ConfigError, match=text):
        load(recipe, [word])


def test_an_evaluator_of_the_base_can_be_left_out():
    """Was wrong: null is an evaluator with its own settings, and nothing left one out."""
    words = ["encoder=pixels", "evaluators.knn=false"]
    assert list(load_evaluate_recipe("demo", words).evaluators) == ["probe"]
    with pytest.raises(ConfigError, match="must both name at least one"):
        load_evaluate_recipe("demo", [*words, "evaluators.probe=false"])


def test_features_of_others_take_the_place_of_the_encoder():
    """Was wrong: docs gave the first word alone, which the rows of the recipe itself refuse without saying how."""
    words = ['encoders={theirs: "features:a.arrow,b.arrow"}']
    with pytest.raises(ValueError, match=r"encoders.encoder=null encoders.untrained=null\."):
        load_evaluate_recipe("attentive", words).encoder_specs()
    words += ["encoders.encoder=null", "encoders.untrained=null"]
    assert list(load_evaluate_recipe("attentive", words).encoders) == ["theirs"]


def test_null_stays_a_value_where_anything_may_be_one() -> None:
    """Settings of others (a model of Hugging Face) may be null."""

    @dataclass(frozen=True, kw_only=True)
    class Others:
        settings: dict[str, Any] = field(default_factory=dict)
        shares: dict[str, float] = field(default_factory=dict)

    given = {"settings": {"rope": None, "depth": 2}, "shares": {"a": None, "b": 1.0}}
    assert build_config(Others, given) == Others(
        settings={"rope": None, "depth": 2}, shares={"b": 1.0}
    )


def test_null_is_refused_where_it_leaves_nothing() -> None:
    with pytest.raises(
        ConfigError, match=r"takes the streams \['images'\], but data.streams lacks"
    ):
        load_pretrain_recipe("bevt/demo", ["data.streams.images=null"])
