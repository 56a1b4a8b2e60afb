"""The groups `video-ssl data`, `bench` and `jobs`: one short function a verb, no logic."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from video_ssl.bench.config import (
    AllBench,
    EmbedBench,
    EvaluateBench,
    LoaderBench,
    ReadersBench,
    RetrieveBench,
    StartBench,
    StepBench,
)
from video_ssl.cli_flags import Flags, example, with_flags
from video_ssl.clips.upkeep.config import VocabularyConfig
from video_ssl.datasets.build.config import BuildConfig
from video_ssl.datasets.demo.config import DemoConfig
from video_ssl.recipes import ROOMS, list_recipes

data_app = typer.Typer(
    help="Make or check data sets.",
    epilog=example("data build demo:train packed"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
bench_app = typer.Typer(
    help="Measure steps, the loader, decoders or evaluators.",
    epilog=example("bench step mvd/demo"),
    no_args_is_help=True,
    rich_markup_mode=None,
)
jobs_app = typer.Typer(
    help="Jobs that were launched, by the folder of their run.",
    epilog=example("jobs status runs/mine"),
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _recipes_of(*rooms: str) -> Callable[[str], list[str]]:
    """What the shell may complete the name of a recipe to."""

    def complete(incomplete: str) -> list[str]:
        known = (name for room in rooms for name in list_recipes(room))
        return [name for name in known if name.startswith(incomplete)]

    return complete


any_recipe = _recipes_of(*ROOMS)

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or its name: mvd/demo.", autocompletion=_recipes_of("pretrain")
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that win over the recipe: optimizer.base_lr=1e-4."),
]
EvaluateRecipe = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or its name: probe.", autocompletion=_recipes_of("evaluate")
    ),
]
EvaluateOverrides = Annotated[
    list[str] | None,
    typer.Argument(help="Settings that win over the recipe: encoder=RUN train=TABLE test=TABLE."),
]
TableArgument = Annotated[str, typer.Argument(help="A folder, list, table or data set: demo:val.")]
_LOADER_FLAGS = {"num_batches": "--batches", "num_records": "--records", "json_path": "--json"}
RunArgument = Annotated[str, typer.Argument(help="The folder of a run or grid, or a feature file.")]


@data_app.command(epilog=example("data demo data/demo-tiny --size tiny"))
@with_flags
def demo(
    config: DemoConfig,
    out: Annotated[
        Path | None, typer.Argument(help="Folder to fill; that of the dataset recipe if not given.")
    ] = None,
) -> None:
    """Generate the default videos.  Figures that move, with every kind of label."""
    from video_ssl.datasets.demo.build import build_demo
    from video_ssl.datasets.opening import resolve_recipe

    place = resolve_recipe(config.world)[1] if out is None else out
    folder = build_demo(place, **vars(config))
    typer.echo(f"{folder} is complete: {shlex.quote(f'data.table={place}:train')} and the like")


@data_app.command(epilog=example("data check ucf101"))
def check(
    name: Annotated[str, typer.Argument(help="A dataset recipe: ucf101, kinetics400, ...")],
) -> None:
    """Say what a public data set lacks.  Exit code 1 if anything is missing."""
    from video_ssl.datasets.opening import check_data

    lines, complete = check_data(name)
    typer.echo("\n".join(lines))
    raise typer.Exit(0 if complete else 1)


@data_app.command(epilog=example("data build demo:train packed --shards 4"))
@with_flags
def build(
    source: Annotated[str, typer.Argument(help="A folder, list, table or data set: demo:train.")],
    out: Annotated[Path, typer.Argument(help="Folder for shards and tables.")],
    config: Annotated[BuildConfig, Flags(names={"num_shards": "--shards", "check": "--check"})],
) -> None:
    """Pack videos as ArrayRecord.  With all that is known about them, for grain, tfds and OUT:SPLIT."""
    from video_ssl.datasets.build.array_record import build_array_records
    from video_ssl.datasets.opening import open_splits

    build_array_records(open_splits(source), out, **vars(config))


@data_app.command(epilog=example("data vocabulary demo:train words.txt --max-words 5000"))
@with_flags
def vocabulary(
    source: TableArgument,
    out: Annotated[Path, typer.Argument(help="File for the words, one a line.")],
    config: VocabularyConfig,
) -> None:
    """Make a vocabulary of captions.  For encoders of text; most frequent words first."""
    from video_ssl.clips.vocabulary import save_vocabulary
    from video_ssl.datasets.opening import open_table

    table = open_table(source).named(source)
    typer.echo(save_vocabulary(table, out, sources=[source], **vars(config)))


@bench_app.command(epilog=example("bench step mvd/demo --batch-size 4"))
@with_flags
def step(
    recipe: RecipeArgument,
    config: Annotated[StepBench, Flags(leave_out=("warmup",), names={"compile_too": "--compile"})],
    overrides: Overrides = None,
    twins: Annotated[
        bool, typer.Option("--twins", help="Instead: the encoder alone, in flax and in torch.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file with the numbers.")] = None,
) -> None:
    """Time of a training step.  Share of the frozen networks, memory, share of the chip's rate."""
    from video_ssl.bench.step import bench_step, bench_twins
    from video_ssl.pretrain.recipe import load_pretrain_recipe

    loaded = load_pretrain_recipe(recipe, overrides or [])
    if twins:
        bench_twins(loaded, batch_size=config.batch_size, steps=config.steps, json_path=out)
    else:
        bench_step(loaded, **vars(config), json_path=out)


@bench_app.command(epilog=example("bench loader mvd/demo --footage easy"))
@with_flags
def loader(
    recipe: RecipeArgument,
    config: Annotated[LoaderBench, Flags(names=_LOADER_FLAGS)],
    overrides: Overrides = None,
) -> None:
    """Clips per second of the loader.  Beside a plain loop and decoding alone; what each stage costs."""
    from video_ssl.bench.loader import bench_loader
    from video_ssl.pretrain.recipe import load_pretrain_recipe

    bench_loader(load_pretrain_recipe(recipe, overrides or []), **vars(config))


@bench_app.command(epilog=example("bench readers --draws 5"))
@with_flags
def readers(
    config: Annotated[ReadersBench, Flags(leave_out=("num_frames", "seed"))],
    folder: Annotated[
        Path | None, typer.Argument(help="Where to make the files; a temporary one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file with the numbers.")] = None,
) -> None:
    """Which decoder is exact on which file.  And how fast each one is, on files made here."""
    from video_ssl.bench.readers import bench_readers

    bench_readers(folder, out=out, **vars(config))


@bench_app.command(epilog=example("bench start"))
@with_flags
def start(
    config: StartBench,
    out: Annotated[Path | None, typer.Option(help="JSON file with the numbers.")] = None,
) -> None:
    """What it takes to begin.  A small training from command to end, beside importing torch."""
    from video_ssl.bench.processes import bench_start

    bench_start(config, json_path=out)


@bench_app.command("retrieve", epilog=example("bench retrieve --gallery 20000"))
@with_flags
def bench_retrieval(
    config: RetrieveBench,
    out: Annotated[Path | None, typer.Option(help="JSON file with the numbers.")] = None,
) -> None:
    """Time and memory of `retrieve`.  Beside a short script of numpy, on random features."""
    from video_ssl.bench.processes import bench_retrieve

    bench_retrieve(config, json_path=out)


@bench_app.command("embed", epilog=example("bench embed --footage hard"))
@with_flags
def bench_embedding(
    config: Annotated[EmbedBench, Flags(names={"num_records": "--records"})],
    out: Annotated[Path | None, typer.Option(help="JSON file with the numbers.")] = None,
) -> None:
    """Reading for `embed` and `evaluate`.  Every frame, beside decoding alone and a plain loop."""
    from video_ssl.bench.embedding import bench_embed

    bench_embed(config, json_path=out)


@bench_app.command("evaluate", epilog=example("bench evaluate --rows 600 --repeats 3"))
@with_flags
def bench_evaluators(
    config: EvaluateBench,
    out: Annotated[
        Path | None, typer.Option("--out", "--json", help="JSON file with the numbers.")
    ] = None,
) -> None:
    """Probes and nearest neighbours.  Beside scikit-learn and numpy; how often videos are decoded."""
    from video_ssl.bench.evaluation import bench_evaluate

    bench_evaluate(config, json_path=out)


@bench_app.command("all", epilog=example("bench all --steps mvd/demo,carl/demo --out figures.md"))
@with_flags
def every_bench(
    config: AllBench,
    steps: Annotated[
        str | None, typer.Option(help="Time a step of these recipes too, with commas between.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Markdown file with the table.")] = None,
) -> None:
    """One table of all benches, as Markdown.  Ratios to floors and peers; exit code 1 if a bench fails."""
    from video_ssl.bench.whole_table import bench_all

    recipes = [name.strip() for name in (steps or "").split(",") if name.strip()]
    outcome = bench_all(config, steps=recipes, markdown_path=out)
    raise typer.Exit(1 if outcome.failed else 0)


@jobs_app.command(epilog=example("jobs status runs/mine"))
def status(run: RunArgument) -> None:
    """States of the jobs, why they wait, and every attempt so far."""
    from video_ssl.launch.jobs import status as status_of

    typer.echo(status_of(run))


@jobs_app.command(epilog=example("jobs logs runs/mine -f"))
def logs(
    run: RunArgument,
    follow: Annotated[bool, typer.Option("-f", help="Until the jobs have ended.")] = False,
    job: Annotated[str | None, typer.Option(help="Of this job, not of the newest.")] = None,
    rank: Annotated[int, typer.Option(help="Of this process.")] = 0,
) -> None:
    """What the processes say."""
    from video_ssl.launch.jobs import show_logs

    show_logs(run, job=job, rank=rank, follow=follow)


@jobs_app.command(epilog=example("jobs cancel runs/mine"))
def cancel(run: RunArgument) -> None:
    """End the jobs of a run."""
    from video_ssl.launch.jobs import cancel as end

    typer.echo(end(run))


@jobs_app.command(epilog=example("jobs requeue runs/mine"))
def requeue(run: RunArgument) -> None:
    """Save running jobs and queue them again; queue failed ones again."""
    from video_ssl.launch.jobs import requeue as again

    typer.echo(again(run))


@jobs_app.command(epilog=example("jobs results runs/grid"))
def results(run: RunArgument) -> None:
    """The table of a grid, as far as it has come."""
    from video_ssl.launch.results import write_results

    typer.echo(write_results(Path(run)))
