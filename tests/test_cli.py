"""The command line: one screen of help, and mistakes that end in one sentence, no traceback."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer

import video_ssl
from video_ssl.cli import app
from video_ssl.cli_flags import Flags, with_flags
from video_ssl.cli_recipe_sheets import read_head, recipe_sheet
from video_ssl.evaluate.recipe import load_evaluate_recipe
from video_ssl.pretrain.durations import parse_duration
from video_ssl.pretrain.recipe import load_pretrain_recipe
from video_ssl.recipe_text import read_yaml
from video_ssl.recipes import ROOMS, ConfigError, list_recipes

ROOT = typer.main.get_command(app)


def commands(group=ROOT, before=()) -> dict[str, Any]:
    """Every command by its words: "embed", "data build"."""
    found = {}
    for name, command in group.commands.items():
        words = (*before, name)
        found |= (
            commands(command, words) if hasattr(command, "commands") else {" ".join(words): command}
        )
    return found


COMMANDS = commands()


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "video_ssl", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_help_is_one_screen_and_names_every_verb():
    done = run("--help")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert "..." not in done.stdout.replace("[ARGS]...", "")  # what each does is not cut off
    assert [verb for verb in ROOT.commands if f"\n  {verb} " not in done.stdout] == []


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_help_has_an_example_that_parses(verb):
    """Flags with types, keys of recipes that exist; nothing is run."""
    command = COMMANDS[verb]
    context = typer.Context(command, info_name=verb)
    told = command.get_help(context)
    example = re.search(r"\n  Example:\n    video-ssl (.+)$", told)[1]
    assert f"{example} ".startswith(f"{verb} ")
    words = shlex.split(example)[len(verb.split()) :]
    given = command.make_context(verb, words, resilient_parsing=False).params
    for option in command.params:
        if option.param_type_name == "option" and option.default not in (None, False):
            own = told.split(f"\n  {option.opts[0]} ")[1].split("\n  -")[0]
            assert "[default:" in own
    if "recipe" in given:
        load = load_evaluate_recipe if verb == "evaluate" else load_pretrain_recipe
        load(given["recipe"], given["overrides"] or [])


def test_an_example_that_does_not_parse_would_be_seen():
    with pytest.raises(Exception, match="No such option: --per-frames"):
        COMMANDS["embed"].make_context("embed", ["a", "b", "c.arrow", "--per-frames"])


FUNCTIONS = {
    "data demo": "video_ssl.datasets.demo.build:build_demo",
    "data build": "video_ssl.datasets.build.array_record:build_array_records",
    "bench step": "video_ssl.bench.step:bench_step",
    "bench loader": "video_ssl.bench.loader:bench_loader",
    "bench readers": "video_ssl.bench.readers:bench_readers",
    "convert": "video_ssl.models.exchange.convert:convert",
}


@pytest.mark.parametrize("verb", FUNCTIONS)
def test_functions_that_take_keywords_default_to_what_the_flags_do(verb):
    module, name = FUNCTIONS[verb].split(":")
    function = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    shared = [
        o for o in COMMANDS[verb].params if o.param_type_name == "option" and o.name in function
    ]
    assert shared
    for option in shared:
        assert option.default == function[option.name].default, option.name


@dataclass(frozen=True, kw_only=True)
class Cooking:
    """How to cook.

    Attributes:
        heat, minutes: of the stove.  Not more than that.
        fuel: what burns; with `heat_loss` more.
        heat_loss: a share.
        herbs: what goes in, with commas between.
        times: when.
        wine: with it.
        secret: not a flag.

    More about it: nothing.
    """

    heat: int = 3
    minutes: float | None = None
    fuel: Literal["gas", "wood"] = "gas"
    heat_loss: float = 0.5
    herbs: tuple[str, ...] = ("salt", "dill")
    times: tuple[int, ...] = (1, 5)
    wine: str = "red"
    secret: tuple[float, ...] = ()


def test_flags_are_the_fields_of_the_dataclass():
    given = []
    kitchen = typer.Typer(rich_markup_mode=None)

    @kitchen.command()
    @with_flags
    def cook(
        dish: str,
        config: Annotated[
            Cooking,
            Flags(
                leave_out=("secret",),
                names={"heat": "--fire"},
                choices={"wine": ("red", "white")},
            ),
        ],
        salt: bool = True,
    ) -> None:
        given.append((dish, config, salt))

    command = typer.main.get_command(kitchen)
    words = ["soup", "--fire", "7", "--fuel", "wood", "--no-salt", "--herbs", "thyme, mint"]
    words += ["--times", "2, 3"]
    command.main(words, standalone_mode=False)
    assert given == [
        ("soup", Cooking(heat=7, fuel="wood", herbs=("thyme", "mint"), times=(2, 3)), False)
    ]
    told = " ".join(command.get_help(typer.Context(command)).split())
    assert "--fire <int> Of the stove. [default: 3]" in told
    assert "--fuel gas|wood What burns; with --heat-loss more. [default: gas]" in told
    assert "--herbs <str> What goes in, with commas between. [default: salt,dill]" in told
    assert "--times <str> When. [default: 1,5]" in told
    assert "--wine red|white With it. [default: red]" in told
    assert "secret" not in told
    with pytest.raises(ConfigError, match=r"times='2;3' must be whole numbers with commas"):
        command.main(["soup", "--times", "2;3"], standalone_mode=False)
    with pytest.raises(ConfigError, match=r"fuel='coal'.*'gas' or 'wood'"):
        command.main(["soup", "--fuel", "coal"], standalone_mode=False)
    with pytest.raises(TypeError, match=r"Cooking\.secret cannot be a flag: name it in"):
        with_flags(_all_of_it)


def _all_of_it(config: Cooking) -> None:
    """A command whose configuration has something that is no flag."""


def test_a_field_that_is_not_described_is_no_flag():
    with pytest.raises(ValueError, match="the docstring of Bare does not describe size"):
        with_flags(_bare)


@dataclass(frozen=True, kw_only=True)
class Bare:
    """Says nothing."""

    size: int = 1


def _bare(config: Bare) -> None:
    """A command."""


def test_help_starts_without_torch():
    code = (
        "import sys\nsys.argv = ['video-ssl', '--help']\n"
        "try:\n    from video_ssl.cli import main; main()\n"
        "except SystemExit:\n    pass\nsys.exit(3 * ('torch' in sys.modules or 'jax' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0


def test_ctrl_c_while_the_command_is_loaded_ends_in_a_sentence():
    """Was wrong: loading takes a second or more, and Ctrl-C in it printed the traceback of an import."""
    code = (
        "import runpy, sys\n"
        "class CtrlC:\n"
        "    def find_spec(name, *_):\n"
        "        if name == 'pydantic': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, CtrlC)\n"
        "runpy.run_module('video_ssl', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.startswith("stopped by Ctrl-C")
    assert "Traceback" not in done.stderr


def test_the_installed_command_begins_where_the_module_does():
    script = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert script == {"video-ssl": "video_ssl.__main__:main"}


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("pretrain", ["optimizer.base_lr=0.00015", "peak learning rate", "training.duration=..."]),
        ("evaluate", ["probe", "encoder=RUN", "embed.num_clips=2"]),
        ("bench", ["step", "loader", "readers", "decoders", "embed"]),
        ("convert", ["pytorchvideo"]),
    ],
)
def test_help_speaks_of_this_verb(verb, words):
    """Was wrong: `evaluate` offered a recipe and a setting of `pretrain`, `convert` left out a family."""
    command = ROOT.commands[verb]
    told = command.get_help(typer.Context(command, info_name=verb))
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "mvd/dmeo"], "Did you mean 'mvd/demo'?"),
        (["pretrain", "mvd/demo", "optimizer.base_lrr=1"], "Did you mean 'base_lr'?"),
        (["pretrain", "mvd/demo", "objective.name=mvdd"], "Did you mean 'mvd'?"),
        (["pretrain", "mvd/demo", "fast"], "'fast' has no key and value"),
        (["pretrain", "mvd/demo", "data.table=/no/such/folder"], "/no/such/folder"),
        (["evaluate", "demo", "encoder=/no/such/run"], "/no/such/run"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, tmp_path):
    extra = [f"run={tmp_path / 'run'}"] if arguments[0] == "pretrain" else [f"out={tmp_path}"]
    done = run(*arguments, *extra)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_recipes_lists_every_room():
    listed = run("recipes").stdout
    assert "mvd/demo" in listed
    assert "demo" in listed


def test_an_unknown_recipe_is_answered_with_the_nearest_before_all_others():
    for arguments in (["pretrain", "mvd/dmeo"], ["recipes", "mvd/dmeo"]):
        told = run(*arguments).stderr
        assert told.startswith("error: no recipe 'mvd/dmeo'")
        assert told.index("Did you mean 'mvd/demo'?") < 90


def test_recipes_are_listed_in_one_line_each_with_what_they_need():
    lines = run("recipes").stdout.splitlines()
    of = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert "MVD ViT-S with ViT-B teachers" in of["mvd/vit_s_k400"]
    assert "[224 px x 16 (S); data/kinetics400/train.csv; many GPUs" in of["mvd/vit_s_k400"]
    assert max(map(len, lines)) < 240
    stated = [name for name in list_recipes("pretrain") if of[name].count(";") < 2]
    assert stated == []


def test_every_recipe_has_a_description():
    files = [file for room in ROOMS for file in list_recipes(room).values()]
    assert [str(file) for file in files if not read_head(file).description] == []


def test_a_recipe_is_explained_key_by_key():
    """Value, where it comes from, meaning, default: file, base, command line and what no file says."""
    told = "\n".join(recipe_sheet("mvd/vit_s_k400", ["optimizer.base_lr=1e-3"]))
    assert told.startswith("# MVD ViT-S with ViT-B teachers.")
    assert "\n# pretrain: mvd/vit_s_k400 <- mvd/vit_b_k400\n" in told
    assert "\nobjective.encoder.preset=S    [mvd/vit_s_k400]\n" in told
    assert "\nobjective.mask.ratio=0.9    [mvd/vit_b_k400]\n" in told
    rate = told.split("\noptimizer.base_lr=0.001    [command line]\n")[1].splitlines()[0]
    assert rate == "    Peak learning rate before scaling. Default: 0.00015."
    assert "\ntraining.grad_clip=null    [default]\n" in told
    assert "\nobjective.encoder.image_size=224    [follows from the others]\n" in told
    assert "\nobjective.image.source.recipe=mae/vit_b_frames    [mvd/vit_b_k400]\n" in told


@pytest.mark.parametrize("room", ROOMS)
def test_every_recipe_can_be_explained(room):
    for name in list_recipes(room):
        lines = list(recipe_sheet(f"{room}/{name}"))
        meanings = [line for line in lines if line.startswith("    ")]
        assert len(meanings) > 5 or room == "datasets"
        assert sum("follows from the others" in line for line in lines) < len(lines) / 4


def test_a_name_in_several_rooms_must_be_told_apart():
    with pytest.raises(ConfigError, match="evaluate/demo or datasets/demo"):
        list(recipe_sheet("demo"))
    assert "# evaluate: demo <- probe" in list(recipe_sheet("evaluate/demo"))


def test_the_version_is_shown():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"video-ssl {video_ssl.__version__}\n")


def test_the_shell_completes_verbs_and_recipes():
    words = {"_VIDEO_SSL_COMPLETE": "complete_bash", "COMP_CWORD": "2"}
    done = subprocess.run(
        ["video-ssl"],
        executable=Path(sys.executable).with_name("video-ssl"),
        env={**os.environ, **words, "COMP_WORDS": "video-ssl pretrain mvd/demo"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.stdout.split() == ["mvd/demo", "mvd/demo_published"]


def test_groups_have_an_example_too():
    for words in ([], ["data"], ["bench"], ["jobs"]):
        group = ROOT.commands[words[0]] if words else ROOT
        told = group.get_help(typer.Context(group, info_name=" ".join(words)))
        assert re.search(rf"\n  Example:\n    video-ssl {' '.join(words)}", told)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path, monkeypatch):
    """The user's recipe on the user's table, stages included, in a folder that is then as it was."""
    (tmp_path / "videos.csv").write_text("path\n" + "".join(f"{i}.mp4\n" for i in range(40)))
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    words = ["data.table=videos.csv", "run=r", "training.scale=0.1", "training.duration=10 epochs"]
    words += ["training.global_batch_size=4", "optimizer.base_lr=2e-3"]
    command = [sys.executable, "-m", "video_ssl", "pretrain", "mvd/demo", *words, "--dry-run"]

    def dry_run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert "warmup of 13 steps does not fit into 10 steps" in dry_run("optimizer.warmup=130").stderr
    done = dry_run("optimizer.warmup=40")
    assert (done.returncode, done.stderr) == (0, "")
    recipe, _, told = done.stdout.partition("\n\n")
    assert read_yaml(recipe)["training"]["scale"] == 0.1
    parts = re.split(r"\n(?=mvd/demo)", told)
    assert [part.split(":")[0] for part in parts] == [
        "mvd/demo/image",
        "mvd/demo/video",
        "mvd/demo",
    ]
    assert all("  data: 40 of videos.csv\n" in part for part in parts)
    tenth = math.ceil(
        parse_duration(load_pretrain_recipe("mae/demo").training.duration).amount / 10
    )
    assert re.search(
        rf"\n  {tenth} steps \(\S+ epochs\) of batches of \d+ records, 8 clips", parts[0]
    )
    assert re.search(
        r"\n  10 steps \(1 epochs\) of batches of 4 records, \d+ clips of each; warm-up 4 steps to lr 0.002,",
        parts[2],
    )
    assert "writes r/stages/video/: recipe.yaml" in parts[1]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == ["videos.csv"]


def test_libraries_do_not_speak_where_a_command_is_stopped_early():
    """Was wrong: Ctrl-C while torch was being loaded ended in the statistics of its caches."""
    code = (
        "import logging, sys\nsys.argv = ['video-ssl', '--version']\nfrom video_ssl.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(logging.getLogger('torch._subclasses.fake_tensor').isEnabledFor(logging.INFO))\n"
        "print(logging.getLogger('video_ssl').isEnabledFor(logging.INFO))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["False", "True"]
