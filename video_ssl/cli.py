"""The `video-ssl` command: one short function a verb, no logic."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from video_ssl import __version__
from video_ssl.cli_flags import Flags, example, with_flags
from video_ssl.cli_groups import (
    EvaluateOverrides,
    EvaluateRecipe,
    Overrides,
    RecipeArgument,
    TableArgument,
    any_recipe,
    bench_app,
    data_app,
    jobs_app,
)
from video_ssl.cli_recipe_keys import EvaluateCommand, PretrainCommand
from video_ssl.clips.upkeep.config import (
    DedupConfig,
    ScanConfig,
    SplitConfig,
    TranscodeConfig,
    VideoFormat,
)
from video_ssl.embed.config import EmbedConfig
from video_ssl.errors import one_sentence, take_debug
from video_ssl.evaluate.predict_config import PredictConfig
from video_ssl.evaluate.retrieval_config import RetrieveConfig
from video_ssl.explore.config import (
    AlignConfig,
    ExploreConfig,
    ReportConfig,
    SearchConfig,
    SyncConfig,
)
from video_ssl.models import published_families
from video_ssl.models.exchange.convert_config import ConvertConfig
from video_ssl.models.exchange.sizes import Sizes

Device = Annotated[str, typer.Option(help="auto, cpu, cuda.")]
Root = Annotated[
    Path | None, typer.Option(help="The folder that the videos lie in now, if they were moved.")
]


class _Commands(TyperGroup):
    """Ends errors here and not in typer, which takes a broken pipe between processes for the end of its output."""

    def invoke(self, ctx: Any) -> Any:
        for_typer: Exception | None = None
        with one_sentence():
            try:
                return super().invoke(ctx)
            except Exception as err:
                if not isinstance(err, (typer.Exit, typer.Abort)) and not hasattr(err, "show"):
                    raise
                for_typer = err
        raise for_typer


def show_version(wanted: bool) -> None:
    """Prints the version and ends, where it is asked for."""
    if wanted:
        typer.echo(f"video-ssl {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=_Commands,
    help="Self-supervised video representation learning.",
    epilog=example("pretrain mvd/demo --evaluate"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes leave no room for what the flags mean
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(jobs_app, name="jobs")


@app.command(
    cls=PretrainCommand,
    epilog=example("pretrain videomae/demo run=runs/mine optimizer.base_lr=1e-3"),
)
def pretrain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    allow_changes: Annotated[
        bool, typer.Option(help="Resume although the recipe of the run has changed.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Then run the evaluations that the recipe names.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done and written; start nothing.")
    ] = False,
) -> None:
    """Train an objective and export its encoder.  Resumes by itself; the encoder is RUN/encoder."""
    from video_ssl.evaluate.after_training import pretrain_and_evaluate
    from video_ssl.pretrain.dry_run import describe_start
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.start import run_recipe as run

    loaded = load_pretrain_recipe(recipe, overrides or [])
    if dry_run:
        typer.echo("\n".join(describe_start(loaded, evaluate=evaluate)))
        return
    (pretrain_and_evaluate if evaluate else run)(loaded, allow_changes=allow_changes)


@app.command(
    cls=EvaluateCommand,
    epilog=example("evaluate probe encoder=runs/mine train=train.csv test=val.csv"),
)
def evaluate(recipe: EvaluateRecipe, overrides: EvaluateOverrides = None) -> None:
    """Compare frozen encoders.  Videos are embedded once, the evaluators of a recipe run on the features."""
    from video_ssl.evaluate.recipe import load_evaluate_recipe
    from video_ssl.evaluate.run import evaluate as run

    run(load_evaluate_recipe(recipe, overrides or []))


@app.command(epilog=example("compare runs/a runs/b pixels: train=parts:train test=parts:test"))
def compare(
    words: Annotated[
        list[str],
        typer.Argument(
            help="Encoders (runs, weights, pixels:, untrained:), and keys of an evaluation: train=TABLE test=TABLE. "
            "Or the recipe of a comparison of objectives, demo, and keys of it: seeds=[0,1].",
            metavar="ENCODERS|RECIPE... [key=value ...]",
        ),
    ],
    profile: Annotated[
        str | None,
        typer.Option(help="Of launch: trainings of a comparison of objectives as its jobs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of objectives: say what would be trained.")
    ] = False,
    page: Annotated[
        bool,
        typer.Option("--page", help="Of objectives: the page of what is there; train nothing."),
    ] = False,
    at_once: Annotated[
        int,
        typer.Option(
            help="Of objectives: so many trainings side by side, each on its share of the cores and a GPU of its own."
        ),
    ] = 1,
) -> None:
    """Compare encoders, or objectives with the same budget.  Intervals, differences; JSON, Markdown and a page."""
    from video_ssl.compare.recipe import is_comparison, load_comparison

    asked = profile is not None or dry_run or page or at_once != 1
    if is_comparison(words, asked=asked):
        from video_ssl.compare.objectives import compare_objectives

        recipe = load_comparison(words[0], words[1:])
        if page and (dry_run or profile is not None):
            raise typer.BadParameter("--page trains nothing: leave out --profile and --dry-run.")
        if at_once != 1 and profile is not None:
            raise typer.BadParameter("--at-once is for trainings here: leave out --profile.")
        settings: dict[str, Any] = {"dry_run": dry_run, "page": page, "at_once": at_once}
        typer.echo(compare_objectives(recipe, profile=profile, **settings))
        return
    from video_ssl.compare.encoders import compare as run

    if asked:
        raise typer.BadParameter(
            "--profile, --dry-run, --page and --at-once are for a comparison of objectives, by its recipe: "
            "compare demo."
        )
    typer.echo(run(words))


@app.command(epilog=example("embed runs/mine /my/videos features.arrow --per-frame"))
@with_flags
def embed(
    encoder: Annotated[
        str,
        typer.Argument(
            help="A run, an encoder folder, hub:NAME, untrained:PATH, no_positions:PATH, pixels:PATH, flax:PATH."
        ),
    ],
    source: Annotated[
        str, typer.Argument(help="A video, folder, list, table or data set: demo:val.")
    ],
    out: Annotated[Path, typer.Argument(help="The feature file to write (.arrow).")],
    config: Annotated[EmbedConfig, Flags(names={"video_timeout_sec": "--timeout-sec"})],
    device: Device = "auto",
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is there, complete or not.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="Only part k of n: 0/4. Then merge.")] = None,
    senses: Annotated[
        str | None,
        typer.Option(
            help="Into the same file what is heard and told: sound,text, or all that a run has."
        ),
    ] = None,
) -> None:
    """Write features of videos.  Per clip and per moment, with times; goes on where it was stopped."""
    from video_ssl.embed.command import embed

    embed(
        encoder,
        source,
        out,
        device=device,
        restart=restart,
        shard=shard,
        senses=senses,
        **vars(config),
    )


@app.command(epilog=example("predict runs/mine/evaluate/probe /my/videos labels.csv"))
@with_flags
def predict(
    head: Annotated[
        Path,
        typer.Argument(help="A head or evaluation (RUN/evaluate/probe), or a fine-tuned run."),
    ],
    source: Annotated[
        str, typer.Argument(help="A video, folder, list, table or data set, or features:FILE.")
    ],
    out: Annotated[Path, typer.Argument(help="The file to write: .json, .csv or .parquet.")],
    config: Annotated[PredictConfig, Flags(names={"video_timeout_sec": "--timeout-sec"})],
    encoder: Annotated[
        str | None, typer.Option(help="That the head was made for, if it was moved.")
    ] = None,
    device: Device = "auto",
    features: Annotated[
        Path | None, typer.Option(help="Keep the features there (.arrow), to go on with.")
    ] = None,
) -> None:
    """Name what new videos show.  Labels and scores with times, by a head that `evaluate` chose or fine-tuning made."""
    from video_ssl.evaluate.predict import predict

    predict(head, source, out, encoder=encoder, device=device, features=features, config=config)


@app.command(epilog=example("merge features.arrow"))
def merge(out: Annotated[Path, typer.Argument(help="As it was given to embed --shard.")]) -> None:
    """Put the shards of a feature file together."""
    from video_ssl.embed.shards import merge_shards

    merge_shards(out)


@app.command(epilog=example("retrieve queries.arrow gallery.arrow --ks 1,5"))
@with_flags
def retrieve(
    queries: Annotated[Path, typer.Argument(help="Feature file of the queries.")],
    gallery: Annotated[Path, typer.Argument(help="Feature file of what is searched.")],
    config: Annotated[
        RetrieveConfig,
        Flags(leave_out=("exclude", "center", "chunk"), names={"mean_ap": "--map"}),
    ],
    out: Annotated[
        Path | None, typer.Option(help="JSON to write, with the nearest of every query.")
    ] = None,
) -> None:
    """Nearest videos by cosine.  With labels R@k: the share of queries with their class among the nearest k."""
    from video_ssl.evaluate.retrieval import retrieve_files

    retrieve_files(queries, gallery, out=out, config=config)


@app.command(epilog=example("align squat1.mp4 squat2.mp4 --encoder runs/mine --out aligned"))
@with_flags
def align(
    query: Annotated[str, typer.Argument(help="A video file, or an id of the feature file.")],
    key: Annotated[str, typer.Argument(help="The video that is brought into step with it.")],
    config: AlignConfig,
    out: Annotated[Path, typer.Option(help="Folder for video, picture and path.")] = Path(
        "aligned"
    ),
    features: Annotated[
        Path | None,
        typer.Option("--in", help="A feature file that has the videos, or one like it."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="A run; embeds video files.")] = None,
    root: Root = None,
) -> None:
    """Bring two videos into step.  Side-by-side mp4, and the path as picture and data."""
    from video_ssl.explore.align import align_videos

    align_videos(query, key, out, features=features, encoder=encoder, config=config, root=root)


@app.command(epilog=example("sync left.mp4 right.mp4 --video both.mp4"))
@with_flags
def sync(
    recordings: Annotated[
        list[str], typer.Argument(help="Two or more files: videos, or sound alone.")
    ],
    config: SyncConfig,
    out: Annotated[Path | None, typer.Option(help="JSON to write: times, and all pairs.")] = None,
    video: Annotated[
        Path | None, typer.Option(help="mp4 to write: all recordings side by side, in step.")
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="A run, or pixels:; its frame features are compared.")
    ] = None,
    device: Device = "auto",
) -> None:
    """When recordings of one scene began.  By sound, motion or an encoder; exit code 1 if some cannot be placed."""
    from video_ssl.explore.sync import sync_recordings, told

    found = sync_recordings(
        recordings, out=out, video=video, encoder=encoder, config=config, device=device
    )
    typer.echo("\n".join(told(found)))
    raise typer.Exit(0 if found["complete"] else 1)


@app.command(epilog=example("search clip.mp4 --in features.arrow --encoder runs/mine -k 5"))
@with_flags
def search(
    features: Annotated[Path, typer.Option("--in", help="The archive: a feature file.")],
    config: Annotated[SearchConfig, Flags(names={"k": "-k"})],
    clip: Annotated[
        str | None, typer.Argument(help="A video file, or an id of the feature file.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(help="Words, in place of a clip: what is to be seen.")
    ] = None,
    sound: Annotated[Path | None, typer.Option(help="A sound file, in place of a clip.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="For features of others: their vectors of texts, whose ids are these."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="That made it; embeds a video file.")] = None,
    start_sec: Annotated[float | None, typer.Option(help="Part of the clip: from.")] = None,
    end_sec: Annotated[float | None, typer.Option(help="Part of the clip: to.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON with moments and frames.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file: the moments, to be looked at and played.")
    ] = None,
    cut: Annotated[
        Path | None, typer.Option(help="New folder: every moment as an mp4 file.")
    ] = None,
    root: Root = None,
) -> None:
    """Find the moments of an archive that are like a clip.  Or like words, or a sound; of a clip single frames too."""
    from video_ssl.explore.search import search

    search(
        clip,
        features,
        text=text,
        sound=sound,
        vectors=vectors,
        encoder=encoder,
        start_sec=start_sec,
        end_sec=end_sec,
        config=config,
        out=out,
        page=page,
        cut=cut,
        root=root,
    )


@app.command(epilog=example("explore runs/mine --table demo:phases_val --max-videos 6"))
@with_flags
def explore(
    source: Annotated[
        str, typer.Argument(help="A feature file, a run, an encoder folder, untrained:RUN.")
    ],
    config: ExploreConfig,
    out: Annotated[
        Path | None, typer.Argument(help="HTML file; beside the features, or RUN/explore.html.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Videos that the encoder embeds; demo:phases_val.")
    ] = None,
    root: Root = None,
    device: Device = "auto",
) -> None:
    """One HTML page on which videos move together.  Alignments, map of the frames, nearest frames."""
    from video_ssl.explore.pages.explore_page import explore_to_html

    typer.echo(explore_to_html(source, out, table=table, config=config, root=root, device=device))


@app.command(epilog=example("report runs/mine"))
@with_flags
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    config: ReportConfig,
    out: Annotated[Path | None, typer.Argument(help="HTML file; RUN/report.html.")] = None,
    root: Root = None,
) -> None:
    """One HTML file about a run.  Curves, training clips, nearest neighbours, results, settings."""
    from video_ssl.explore.pages.report_page import write_report

    typer.echo(write_report(run, out, config, root=root))


@app.command(epilog=example("export runs/mine --step 500"))
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    step: Annotated[int | None, typer.Option(help="Of this checkpoint; the newest.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; RUN/exports/step_N.")] = None,
) -> None:
    """Write the encoder of a checkpoint.  Where an encoder is named, RUN@STEP does the same by itself."""
    from video_ssl.pretrain.export import export_encoders

    for name, folder in export_encoders(run, step=step, out=out).items():
        typer.echo(f"{name}: {folder}")


@app.command(epilog=example("convert videomae_base.pth runs/base --family videomae"))
@with_flags
def convert(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint, a Hugging Face folder, a run or encoder folder.")
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder (ours, huggingface), .pth (original) or .pt2 (export).")
    ],
    sizes: Annotated[Sizes, Flags(names={"image_size": "--size"})],
    config: Annotated[ConvertConfig, Flags(choices={"family": ("auto", *published_families())})],
) -> None:
    """Weights in and out.  Published checkpoints, Hugging Face, our folders, torch.export."""
    from video_ssl.models.exchange.convert import convert_and_print

    convert_and_print(source, out, sizes=sizes, **vars(config))


@app.command(epilog=example("scan /my/videos videos.arrow"))
@with_flags
def scan(
    table: TableArgument,
    out: Annotated[Path, typer.Argument(help="The table to write (.arrow).")],
    config: ScanConfig,
) -> None:
    """Look at every file once.  Frames, size, codec, sound as columns; what is broken as a list."""
    from video_ssl.clips.upkeep.scan import scan_table
    from video_ssl.datasets.opening import open_table

    scan_table(open_table(table), out, config)


@app.command(epilog=example("split videos.arrow parts --test 0.2 --group subject"))
@with_flags
def split(
    table: TableArgument,
    config: SplitConfig,
    out: Annotated[
        Path | None, typer.Argument(help="Folder for train.arrow and test.arrow; TABLE-split.")
    ] = None,
) -> None:
    """Divide a table into training and test videos.  Every class alike; groups and copies stay together."""
    from video_ssl.clips.upkeep.split import split_from_command
    from video_ssl.datasets.opening import open_table

    typer.echo("\n".join(split_from_command(table, open_table(table), out, config)))


@app.command(epilog=example("dedup /my/videos copies --min-sec 3"))
@with_flags
def dedup(
    source: Annotated[
        str, typer.Argument(help="A folder, list, table or data set, or a feature file.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder for copies.json and copies.html.")],
    config: DedupConfig,
    root: Root = None,
) -> None:
    """Find copies and copied stretches among videos.  By what they show; no encoder is needed, nothing removed."""
    from video_ssl.explore.dedup import dedup as run
    from video_ssl.explore.dedup import told

    typer.echo("\n".join(told(run(source, out, config, root=root), out)))


@app.command(epilog=example("transcode videos.arrow fast --short-side 224"))
@with_flags
def transcode(
    table: TableArgument,
    out: Annotated[Path, typer.Argument(help="Folder for the videos and table.arrow.")],
    format: VideoFormat,
    config: TranscodeConfig,
) -> None:
    """Write every video as H.264 for fast access.  The table is carried over."""
    from video_ssl.clips.upkeep.transcode import transcode_table
    from video_ssl.datasets.opening import open_table

    transcode_table(open_table(table), out, config, format=format)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    epilog=example("launch local pretrain videomae/demo run=runs/grid seed=0,1"),
)
def launch(
    context: typer.Context,
    profile: Annotated[str, typer.Argument(help="local, slurm, slurm_array, or a file.")],
    verb: Annotated[str, typer.Argument(help="pretrain, evaluate or embed; then what it takes.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Of the profile: --set nodes=2.")
    ] = None,
    chain: Annotated[
        bool, typer.Option("--chain", help="Stages and evaluation as jobs of their own.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the sbatch scripts.")] = False,
) -> None:
    """Run a verb as jobs or as several processes.  On a cluster or here; a,b makes a grid."""
    from video_ssl.launch.launching import launch as run

    typer.echo(
        run(profile, verb, context.args, overrides=settings or [], chain=chain, dry_run=dry_run)
    )


@app.command(epilog=example("recipes mvd/demo"))
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Show every key of this one.", autocompletion=any_recipe)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """List every recipe, or explain one.  Every key with its meaning, its default and where its value comes from."""
    from video_ssl.cli_recipe_sheets import recipe_list, recipe_sheet

    for line in recipe_list() if name is None else recipe_sheet(name, overrides or []):
        typer.echo(line)


@app.callback()
def every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from (a traceback).")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=show_version),
    ] = False,
) -> None:
    """Self-supervised video representation learning."""


def main() -> None:
    """Runs the command; a mistake ends in one clear sentence and exit code 2 (see `video_ssl.errors`)."""
    logging.basicConfig(format="%(message)s", level=os.environ.get("VIDEO_SSL_LOG", "INFO"))
    # a Ctrl-C before torch has set its levels would end in statistics of its caches
    logging.getLogger("torch._subclasses").setLevel(logging.WARNING)
    sys.argv[1:] = take_debug(sys.argv[1:])
    app()
