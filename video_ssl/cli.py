"""The `video-ssl` command: one short function a verb, no logic."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from video_ssl.cli_groups import (
    EvaluateOverrides,
    EvaluateRecipe,
    Overrides,
    RecipeArgument,
    bench_app,
    data_app,
    jobs_app,
)
from video_ssl.errors import one_sentence, take_debug
from video_ssl.recipes import ROOMS, list_recipes


class _Commands(TyperGroup):
    """Ends errors here and not in typer, which takes a broken pipe between processes for the end of its output."""

    def invoke(self, ctx: Any) -> Any:
        told_by_typer: Exception | None = None
        with one_sentence():
            try:
                return super().invoke(ctx)
            except Exception as err:
                if not isinstance(err, (typer.Exit, typer.Abort)) and not hasattr(err, "show"):
                    raise
                told_by_typer = err
        raise told_by_typer


app = typer.Typer(
    cls=_Commands,
    help="Self-supervised video representation learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(jobs_app, name="jobs")


@app.command()
def pretrain(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    allow_changes: Annotated[
        bool, typer.Option(help="Resume although the recipe of the run has changed.")
    ] = False,
) -> None:
    """Train an objective, resuming by itself, and export its encoder to RUN/encoder."""
    from video_ssl.pretrain.recipe import load_pretrain_recipe
    from video_ssl.pretrain.start import pretrain as run

    run(load_pretrain_recipe(recipe, overrides or []), allow_changes=allow_changes)


@app.command()
def evaluate(recipe: EvaluateRecipe, overrides: EvaluateOverrides = None) -> None:
    """Embed videos once with frozen encoders and run the evaluators of a recipe on the features."""
    from video_ssl.evaluate.recipe import load_evaluate_recipe
    from video_ssl.evaluate.run import evaluate as run

    run(load_evaluate_recipe(recipe, overrides or []))


@app.command()
def embed(
    encoder: Annotated[
        str,
        typer.Argument(help="A run, an encoder folder, untrained:PATH, pixels:PATH, flax:PATH."),
    ],
    source: Annotated[
        str, typer.Argument(help="A video, folder, list, table or data set: demo:val.")
    ],
    out: Annotated[Path, typer.Argument(help="The feature file to write (.arrow).")],
    num_clips: Annotated[int, typer.Option(help="Clips spread evenly over each video.")] = 2,
    stride_sec: Annotated[
        float | None, typer.Option(help="Instead: a clip every so many seconds, over all of it.")
    ] = None,
    hop: Annotated[int | None, typer.Option(help="Instead: a clip every so many frames.")] = None,
    per_frame: Annotated[
        bool, typer.Option("--per-frame", help="Instead: a feature for every sampled frame.")
    ] = False,
    overlap: Annotated[
        float | None, typer.Option(help="Of the clips of --per-frame, 0 to 1.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Sampled frames per second.")] = None,
    frame_stride: Annotated[
        int | None, typer.Option(help="Source frames between sampled ones.")
    ] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of a clip.")] = None,
    layer: Annotated[
        int | None, typer.Option(help="Block to take, from 0; or from -1, the last.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="Clip feature: mean, max or cls.")] = "mean",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Clips per forward pass.")] = 16,
    num_workers: Annotated[int, typer.Option(help="Decoding processes.")] = 2,
    timeout_sec: Annotated[
        float, typer.Option(help="Time to open a video, or for one frame of it.")
    ] = 120.0,
    strict: Annotated[bool, typer.Option(help="Stop at an unreadable video.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Throw away what is there, complete or not.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare all bytes of the videos, not sizes and times.")
    ] = False,
    shard: Annotated[str | None, typer.Option(help="Only part k of n: 0/4. Then merge.")] = None,
) -> None:
    """Write features of videos, per clip and per moment, with times; goes on where it was stopped."""
    from video_ssl.embed.command import embed_from_command

    embed_from_command(
        encoder,
        source,
        out,
        device=device,
        restart=restart,
        shard=shard,
        num_clips=num_clips,
        stride_sec=stride_sec,
        hop=hop,
        per_frame=per_frame,
        overlap=overlap,
        fps=fps,
        frame_stride=frame_stride,
        num_frames=num_frames,
        layer=layer,
        pooling=pooling,
        precision=precision,
        batch_size=batch_size,
        num_workers=num_workers,
        video_timeout_sec=timeout_sec,
        strict=strict,
        check=check,
    )


@app.command()
def merge(out: Annotated[Path, typer.Argument(help="As it was given to embed --shard.")]) -> None:
    """Put the shards of a feature file together."""
    from video_ssl.embed.shards import merge_shards

    merge_shards(out)


@app.command()
def retrieve(
    queries: Annotated[Path, typer.Argument(help="Feature file of the queries.")],
    gallery: Annotated[Path, typer.Argument(help="Feature file of what is searched.")],
    out: Annotated[
        Path | None, typer.Option(help="JSON to write, with the nearest of every query.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="clip, mean, max, mean_std, concat_S.")] = "clip",
    ks: Annotated[str, typer.Option(help="R@k for these k.")] = "1,5,10,20",
    mean_ap: Annotated[bool, typer.Option("--map", help="Mean average precision too.")] = False,
) -> None:
    """Nearest videos by cosine: R@k, the share of queries with their class among the nearest k."""
    from video_ssl.evaluate.retrieval import retrieve_files

    retrieve_files(queries, gallery, out=out, pooling=pooling, ks=ks, mean_ap=mean_ap)


@app.command()
def align(
    query: Annotated[str, typer.Argument(help="A video file, or an id of the feature file.")],
    key: Annotated[str, typer.Argument(help="The video that is brought into step with it.")],
    out: Annotated[Path, typer.Option(help="Folder for video, picture and path.")] = Path(
        "aligned"
    ),
    features: Annotated[
        Path | None,
        typer.Option("--in", help="A feature file that has the videos, or one like it."),
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="A run; embeds video files.")] = None,
    method: Annotated[str, typer.Option(help="dtw, nearest, or linear.")] = "dtw",
    height: Annotated[int, typer.Option(help="Of the video, in pixels.")] = 240,
) -> None:
    """Bring two videos into step: side-by-side mp4, and the path as picture and data."""
    from video_ssl.explore.align import align_videos

    align_videos(query, key, out, features=features, encoder=encoder, method=method, height=height)


@app.command()
def search(
    clip: Annotated[str, typer.Argument(help="A video file, or an id of the feature file.")],
    features: Annotated[Path, typer.Option("--in", help="The archive: a feature file.")],
    encoder: Annotated[str | None, typer.Option(help="That made it; embeds a video file.")] = None,
    start_sec: Annotated[float | None, typer.Option(help="Part of the clip: from.")] = None,
    end_sec: Annotated[float | None, typer.Option(help="Part of the clip: to.")] = None,
    k: Annotated[int, typer.Option("-k", help="Moments, and frames for each query frame.")] = 10,
    own_video: Annotated[bool, typer.Option(help="Find the clip in its own video too.")] = False,
    method: Annotated[str, typer.Option(help="exact, ann, or auto.")] = "auto",
    ann_frames: Annotated[int, typer.Option(help="auto: above so many, ann.")] = 5_000_000,
    out: Annotated[Path | None, typer.Option(help="JSON with moments and frames.")] = None,
) -> None:
    """Find the frames and moments of an archive that are like a clip."""
    from video_ssl.explore.search import SearchConfig, search_archive

    config = SearchConfig(k=k, own_video=own_video, method=method, ann_frames=ann_frames)
    search_archive(
        clip,
        features,
        encoder=encoder,
        start_sec=start_sec,
        end_sec=end_sec,
        config=config,
        out=out,
    )


@app.command()
def explore(
    source: Annotated[
        str, typer.Argument(help="A feature file, a run, an encoder folder, untrained:RUN.")
    ],
    out: Annotated[
        Path | None, typer.Argument(help="HTML file; beside the features, or RUN/explore.html.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Videos that the encoder embeds; demo:phases_val.")
    ] = None,
    videos: Annotated[str | None, typer.Option(help="Ids with commas between them.")] = None,
    max_videos: Annotated[int, typer.Option(help="Otherwise: so many, of all classes.")] = 12,
    max_frames: Annotated[int, typer.Option(help="Of a video; longer ones are thinned.")] = 120,
    height: Annotated[int, typer.Option(help="Of the pictures, in pixels.")] = 160,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
) -> None:
    """One HTML page on which videos move together: alignments, map of the frames, nearest frames."""
    from video_ssl.explore.pages.explore_page import explore_to_html

    page = explore_to_html(
        source, out, table=table, videos=videos, device=device, height=height, max_videos=max_videos,
        max_frames=max_frames,
    )  # fmt: skip
    typer.echo(page)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run, finished or not.")],
    out: Annotated[Path | None, typer.Argument(help="HTML file; RUN/report.html.")] = None,
    max_clips: Annotated[int, typer.Option(help="Training videos of which clips are shown.")] = 4,
    max_queries: Annotated[int, typer.Option(help="Videos whose neighbours are shown.")] = 8,
) -> None:
    """One HTML file about a run: curves, masked clips, nearest neighbours, results, settings."""
    from video_ssl.explore.pages.report_page import write_report

    typer.echo(write_report(run, out, max_clips=max_clips, max_queries=max_queries))


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(help="A checkpoint, a Hugging Face folder, a run or encoder folder.")
    ],
    out: Annotated[
        Path, typer.Argument(help="Folder (ours, huggingface), .pth (original) or .pt2 (export).")
    ],
    to: Annotated[str, typer.Option(help="ours, original, huggingface or export.")] = "ours",
    size: Annotated[int | None, typer.Option(help="Side of clips in pixels.")] = None,
    num_frames: Annotated[int | None, typer.Option(help="Frames of clips.")] = None,
    trained_size: Annotated[
        int | None, typer.Option(help="Side it was trained on; 224 if the file is silent.")
    ] = None,
    trained_frames: Annotated[
        int | None, typer.Option(help="Frames it was trained on; 16 if the file is silent.")
    ] = None,
    table: Annotated[
        str, typer.Option(help="Positions at another size: reference, interpolate, recompute.")
    ] = "reference",
    family: Annotated[
        str, typer.Option(help="auto, mae, videomae, videomae_v2, mvd, carl, hico or pytorchvideo.")
    ] = "auto",
    num_heads: Annotated[int | None, typer.Option(help="Where the width has no usual one.")] = None,
    min_share: Annotated[
        float, typer.Option(help="Least share of the weights that must be filled.")
    ] = 1.0,
    frame_stride: Annotated[int | None, typer.Option(help="Stated in the result; 4.")] = None,
) -> None:
    """Weights in and out: published checkpoints, Hugging Face, our folders, torch.export."""
    from video_ssl.models.exchange.convert import convert_and_print

    convert_and_print(
        source,
        out,
        to=to,
        sizes=(size, num_frames, trained_size, trained_frames, table),
        family=family,
        num_heads=num_heads,
        min_share=min_share,
        frame_stride=frame_stride,
    )


@app.command()
def scan(
    table: Annotated[str, typer.Argument(help="A folder, list, table or data set: demo:val.")],
    out: Annotated[Path, typer.Argument(help="The table to write (.arrow).")],
    num_workers: Annotated[
        int | None, typer.Option(help="Processes; all cores if not given.")
    ] = None,
    timeout_sec: Annotated[float, typer.Option(help="Time limit for one file.")] = 60.0,
    decode: Annotated[
        str, typer.Option(help="Frames to decode of each file: ends or all.")
    ] = "ends",
    exact: Annotated[bool, typer.Option(help="Prove which optional decoders are exact.")] = False,
    retry: Annotated[bool, typer.Option(help="Look again at what was broken.")] = False,
) -> None:
    """Look at every file once: frames, size, codec, sound as columns; what is broken as a list."""
    from video_ssl.clips.upkeep.scan import scan_table
    from video_ssl.datasets.opening import open_table

    scan_table(
        open_table(table), out, num_workers=num_workers, timeout_sec=timeout_sec, decode=decode,
        exact=exact, retry=retry,
    )  # fmt: skip


@app.command()
def transcode(
    table: Annotated[str, typer.Argument(help="A folder, list, table or data set: demo:val.")],
    out: Annotated[Path, typer.Argument(help="Folder for the videos and table.arrow.")],
    short_side: Annotated[int, typer.Option(help="Pixels; smaller videos keep theirs.")] = 256,
    gop: Annotated[int, typer.Option(help="Largest distance of key frames.")] = 12,
    fps: Annotated[float | None, typer.Option(help="Frame rate; kept if not given.")] = None,
    crf: Annotated[int, typer.Option(help="Quality of x264, lower is better.")] = 20,
    audio: Annotated[bool, typer.Option(help="Keep the sound.")] = True,
    cut: Annotated[bool, typer.Option(help="One file per segment instead of per source.")] = False,
    num_workers: Annotated[
        int | None, typer.Option(help="Processes; all cores if not given.")
    ] = None,
    retry: Annotated[bool, typer.Option(help="Try again what could not be read.")] = False,
) -> None:
    """Write every video as H.264 for fast random access, with the table carried over."""
    from video_ssl.clips.upkeep.transcode import transcode_table
    from video_ssl.clips.upkeep.transcode_file import VideoFormat
    from video_ssl.datasets.opening import open_table

    transcode_table(
        open_table(table), out, cut=cut, num_workers=num_workers, retry=retry,
        format=VideoFormat(short_side=short_side, gop=gop, fps=fps, crf=crf, audio=audio),
    )  # fmt: skip


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
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
    """Run a verb as jobs on a cluster, or as several processes here; a,b makes a grid."""
    from video_ssl.launch.launching import launch as run

    typer.echo(
        run(profile, verb, context.args, overrides=settings or [], chain=chain, dry_run=dry_run)
    )


@app.command()
def recipes() -> None:
    """List every recipe by room."""
    for room in ROOMS:
        for name, file in list_recipes(room).items():
            typer.echo(f"{room:10} {name:28} {file}")


@app.callback()
def every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where an error comes from (a traceback).")
    ] = False,
) -> None:
    """Self-supervised video representation learning."""


def main() -> None:
    """Runs the command; a mistake ends in one clear sentence and exit code 2 (see `video_ssl.errors`)."""
    logging.basicConfig(format="%(message)s", level=os.environ.get("VIDEO_SSL_LOG", "INFO"))
    sys.argv[1:] = take_debug(sys.argv[1:])
    app()
