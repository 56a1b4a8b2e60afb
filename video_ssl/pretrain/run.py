"""One pre-training run from recipe to encoder, whatever the framework: stages, build, resume, train, export.

From the command to a step:
    cli.pretrain                  reads the recipe
    start.run_recipe              chooses the framework of the objective
    torch_loop/run.run_torch      joins the processes and brings its `Framework` (flax_loop/run.run_flax alike)
    run.run (here)                locks the folder, trains stages, opens data, builds, resumes; at the end exports
    session.Session.run           the loop over steps: batches, figures, checkpoints, stopping
    torch_loop/loop._Session      one step: forward, backward, optimizer (flax_loop/loop alike)

Free of torch and jax.  What the frameworks fill in is `Framework`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np

from video_ssl.clips.pipeline import Pipeline
from video_ssl.clips.streams import Stream
from video_ssl.datasets import open_table
from video_ssl.datasets.opening import lacks_tables
from video_ssl.datasets.table import Table
from video_ssl.files import write_json
from video_ssl.limits import parse_json
from video_ssl.models.encoder_folder import EncoderError, claim_encoder_folder, find_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.sources import EncoderSource, Source
from video_ssl.pretrain.checkpoint_folders import (
    Checkpoint,
    read_meta,
    sound_checkpoint,
    sweep_unfinished,
)
from video_ssl.pretrain.errors import CheckpointError, RunError
from video_ssl.pretrain.foresight import held_gib, warnings_before
from video_ssl.pretrain.lengths import Streams, check_data, lengths_of, lr_schedule
from video_ssl.pretrain.mute_videos import without_mute
from video_ssl.pretrain.probe import probe_videos
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_to_dict, stage_recipe
from video_ssl.pretrain.reporting import read_metrics
from video_ssl.pretrain.run_folder import (
    CHECKPOINTS,
    ENCODER,
    FINISHED,
    METRICS,
    changes_since_start,
    encoder_folders,
    forget_attempt,
    has_begun,
    hold,
    log_to_file,
    note_start,
    serious,
    settle_recipe,
    take_recipe,
)
from video_ssl.pretrain.run_processes import RunProcesses
from video_ssl.pretrain.session import BaseJob, J, OpenBatches
from video_ssl.pretrain.short_videos import without_short
from video_ssl.pretrain.table_digest import describe_tables, table_changes
from video_ssl.progress import duration_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run has left.

    Attributes:
        folder: RUN.
        steps: optimizer steps of the whole run.
        metrics: the last row of metrics.jsonl.
        encoders: folders for `video_ssl.load_encoder` by the names that the objective has for them; the first is
            RUN/encoder, others are RUN/encoders/NAME.
    """

    folder: Path
    steps: int
    metrics: Mapping[str, Any]
    encoders: Mapping[str, Path]

    @property
    def encoder(self) -> Path:
        """RUN/encoder."""
        return next(iter(self.encoders.values()))


@dataclass(frozen=True, kw_only=True)
class Framework(Generic[J]):
    """What a framework does of a run.

    Attributes:
        check: raises for a recipe that it does not train, or not with these processes; nothing is built for it.
        build: (recipe, streams, stages) -> everything the loop needs to train from the start.
        load: puts a checkpoint into a job.
        train: trains to the end and returns the last row of metrics.
        encoder_names: of what leaves the training, the first is the encoder of the run.
        export: (job, folder of every encoder by name, source) writes them; called by every process.
        sizes: trained and frozen parameters.
        weights: what is exported, in words.
    """

    check: Callable[[PretrainRecipe], None]
    build: Callable[[PretrainRecipe, Streams, Mapping[str, Path]], J]
    load: Callable[[J, Checkpoint], None]
    train: Callable[[J], dict[str, Any]]
    encoder_names: Callable[[J], list[str]]
    export: Callable[[J, Mapping[str, Path], dict[str, Any]], None]
    sizes: Callable[[J], tuple[int, int]]
    weights: Callable[[J], str]


def run(
    given: PretrainRecipe,
    processes: RunProcesses,
    framework: Framework[J],
    *,
    allow_changes: bool,
    run_stage: Callable[[PretrainRecipe], RunResult],
) -> RunResult:
    """Returns the result of a run; see `start.run_recipe`.  Every process calls it."""
    folder = given.folder
    with contextlib.ExitStack() as stack:

        def claim() -> tuple[PretrainRecipe, bool, dict[str, Any] | None]:
            stack.enter_context(hold(folder))
            claim_encoder_folder(folder / ENCODER)  # now, not after the training
            whole = settled_recipe(given)
            return whole, *_settle(whole, allow_changes=allow_changes)

        recipe, changed, finished = processes.on_main(claim)
        stack.enter_context(log_to_file(folder, processes.rank))
        if finished is not None:
            steps, metrics = finished["steps"], finished["metrics"]
            logger.info("%s is already finished: %d steps", folder, steps)
            return RunResult(folder, steps, metrics, _finished_encoders(folder, finished))
        if _trained_stages(recipe):
            processes.on_main(lambda: _check_ahead(recipe, framework.check))
        stages = prepare_stages(recipe, run_stage)
        asked = recipe_to_dict(recipe)
        recipe, streams = fit_batch(recipe, open_streams(recipe))
        job = framework.build(recipe, streams, stages)
        encoders = encoder_folders(folder, framework.encoder_names(job))
        processes.on_main(lambda: [claim_encoder_folder(place) for place in encoders.values()])
        checkpoint = processes.on_main(lambda: sound_checkpoint(folder / CHECKPOINTS))
        if checkpoint is not None:
            meta = read_meta(checkpoint)
            check_resumable(job, checkpoint, meta, allow_changes=allow_changes)
            framework.load(job, checkpoint)
            job.start_step, job.averages = checkpoint.step, meta.get("averages")
            job.owed = meta.get("owed")
        if changed:  # not before: a start that is refused leaves the folder as it was
            processes.on_main(lambda: take_recipe(folder, asked))
        processes.on_main(lambda: note_start(folder, processes, step=job.start_step))
        sizes = framework.sizes(job)
        _announce(recipe, job, processes, sizes)
        if processes.is_main:
            _warn(recipe, job, streams, processes, trained=sizes[0])
        begin = time.perf_counter()
        metrics = framework.train(job) or _last_metrics(folder)
        source = {
            "objective": recipe.objective_name,
            "data": recipe.data.table,
            "steps": job.num_steps,
            "recipe": recipe.name,
            "seed": recipe.seed,
            "weights": framework.weights(job),
        }
        framework.export(job, encoders, source)
        content = {
            "steps": job.num_steps,
            "metrics": dict(metrics),
            "encoders": {n: place.relative_to(folder).as_posix() for n, place in encoders.items()},
        }
        processes.on_main(lambda: write_json(folder / FINISHED, content))
        logger.info(
            "finished %d steps in %s: encoder in %s",
            job.num_steps - job.start_step,
            duration_text(time.perf_counter() - begin),
            ", ".join(map(str, encoders.values())),
        )
        return RunResult(folder, job.num_steps, metrics, encoders)


def prepare_stages(
    recipe: PretrainRecipe, run_stage: Callable[[PretrainRecipe], RunResult]
) -> dict[str, Path]:
    """Returns name -> encoder folder or file for what the objective needs; trains the stages that are missing.

    What is in a file or folder is the objective's business.

    Raises:
        RunError: a file that does not exist.
        EncoderError: a run without an encoder.
    """
    found = {}
    trained = _trained_stages(recipe)
    for name, source in recipe.objective.stages().items():
        if name in trained:
            inner = trained[name]
            logger.info(
                "stage %s of %s, %d of %d: %s, %s; then %s, %s",
                name,
                recipe.name,
                list(trained).index(name) + 1,
                len(trained),
                inner.name,
                _length(inner),
                recipe.name,
                _length(recipe),
            )
            found[name] = run_stage(inner).encoder
        else:
            found[name] = _given(recipe, name, source)
    return found


def _given(recipe: PretrainRecipe, name: str, source: Source) -> Path:
    """What the objective needs and the run does not train; errors as of `prepare_stages`."""
    place = stage_path(recipe, name, source)
    if not place.exists():
        raise RunError(
            f"{recipe.name} needs {name!r} before it starts, but there is no file {source.file}: correct the path, "
            "or put the file there."
        )
    return place


def _check_ahead(recipe: PretrainRecipe, check: Callable[[PretrainRecipe], None]) -> None:
    """Raises what would refuse a run after its stages have been trained, as far as it can be seen without them.

    Data that the run makes first are not looked at.
    """
    parts = list(_to_train(recipe))
    if len(parts) == 1:  # no stage is left to train, and the run comes to all of this at once
        return
    for part in parts:
        for name, source in part.objective.stages().items():
            if not _comes_later(source, recipe.folder):
                _given(part, name, source)
        tables = [t for name in (None, *part.data.streams) for t in part.data.tables_of(name)]
        if not any(map(lacks_tables, tables)):
            whole = settled_recipe(part)
            part, streams = fit_batch(whole, open_streams(whole))
            lr_schedule(part, lengths_of(part, streams))
        check(part)
        probe = part.training.probe
        if probe is not None and not lacks_tables(probe.table):
            probe_videos(probe)
        if part.validation is not None and not lacks_tables(part.validation.table):
            open_table(part.validation.table)


def _to_train(recipe: PretrainRecipe) -> Iterator[PretrainRecipe]:
    """The stages of a run that are not finished, in their order, then the run."""
    for stage in _trained_stages(recipe).values():
        if _finished(stage.folder) is None:
            yield from _to_train(stage)
    yield recipe


def _comes_later(source: Source, folder: Path) -> bool:
    """Whether something that an objective needs may be made by the run of a folder."""
    if not isinstance(source, EncoderSource):
        return False
    if source.run is not None:
        return Path(source.run).resolve().is_relative_to(folder.resolve())
    return source.file is None


def _trained_stages(recipe: PretrainRecipe) -> dict[str, PretrainRecipe]:
    """Name -> recipe of the stages that the run trains itself."""
    return {
        name: stage_recipe(recipe, name, source)
        for name, source in recipe.objective.stages().items()
        if isinstance(source, EncoderSource) and source.recipe is not None
    }


def refuse_other_recipe(recipe: PretrainRecipe) -> None:
    """Refuses, before a run is started elsewhere, a folder in which another recipe has trained something; those of the
    stages that the run trains too.

    What only data or encoders can tell that are not here, the run will refuse itself.

    Raises:
        RunError: every difference is listed.
    """
    folder = recipe.folder
    if has_begun(folder):
        try:
            recipe = settled_recipe(recipe, check=False)
        except (ValueError, OSError):
            return
        lines = serious(changes_since_start(folder, recipe_to_dict(recipe)))
        if lines:
            listed = "\n  ".join(lines)
            raise RunError(
                f"{folder} has been trained with another recipe (now <- before):\n  {listed}\n"
                "Undo the change, or give this run another folder: run=..."
            )
        if _finished(folder) is not None:
            return
    for inner in _trained_stages(recipe).values():
        refuse_other_recipe(inner)


def _length(recipe: PretrainRecipe) -> str:
    """How long a recipe trains, as it says it."""
    duration, scale = recipe.training.duration, recipe.training.scale
    text = duration if isinstance(duration, str) else f"{duration} steps"
    return text if scale == 1 else f"{scale:g} of {text}"


def existing_stages(recipe: PretrainRecipe) -> dict[str, Path]:
    """Returns name -> encoder folder or file; stages must have been trained already.

    Raises:
        EncoderError: a stage without an encoder.
    """
    sources = recipe.objective.stages()
    return {name: stage_path(recipe, name, source) for name, source in sources.items()}


def stage_path(recipe: PretrainRecipe, name: str, source: Source) -> Path:
    """Returns where something that the objective needs is, a file or the folder of an encoder.

    Raises:
        EncoderError: a run, or a stage that a recipe trains, without an encoder.
    """
    if source.file is not None:
        return Path(source.file)
    return find_encoder(source.run or stage_folder(recipe, name, source))


def stage_folder(recipe: PretrainRecipe, name: str, source: EncoderSource) -> Path:
    """Returns where a stage is, trained or not: in the folder of the run, or in that of the run it is a stage of.

    Raises:
        RunError: the run is a stage of none.
    """
    if source.stage is None:
        return recipe.folder / "stages" / name
    if recipe.folder.parent.name != "stages":
        raise RunError(
            f"{recipe.name} takes {name!r} from the stage {source.stage!r} of the run that it is a stage of, but "
            f"{recipe.folder} is no stage: name it by run, file or recipe."
        )
    return recipe.folder.parent / source.stage


def open_streams(recipe: PretrainRecipe) -> Streams:
    """Returns the streams of a recipe with their tables opened; plans know these by what the recipe calls them."""
    main, *others = OBJECTIVES[recipe.objective_name].plans(recipe.objective).items()
    data = recipe.data
    least_sec = getattr(recipe.objective, "least_sec", 0.0)
    needs_sound = getattr(recipe.objective, "needs_sound", False)
    streams = {
        main[0]: Stream(
            tables=[
                (without_short(without_mute(table) if needs_sound else table, least_sec), weight)
                for table, weight in _open_all(recipe, data.tables_of())
            ],
            plan=main[1],
            records=recipe.training.global_batch_size,
            balance=data.balance,
        )
    }
    for name, plan in others:
        tables = _open_all(recipe, data.tables_of(name))
        streams[name] = Stream(tables=tables, plan=plan, records=data.streams[name].records)
    return streams


def fit_batch(recipe: PretrainRecipe, streams: Streams) -> tuple[PretrainRecipe, Streams]:
    """Returns recipe and streams with the batch halved until the data fill it, where `training.shrink_batch` is set.

    Raises:
        RunError: the data are too few for the objective, whatever the batch.
    """
    training = recipe.training
    (name, main), *others = streams.items()
    check_data(recipe, main)
    batch = training.global_batch_size
    while (
        training.shrink_batch
        and batch > main.num_examples
        and batch % (2 * training.accumulation) == 0
    ):
        batch //= 2
    if batch == training.global_batch_size:
        return recipe, streams
    logger.info(
        "%s holds %d records: %d make a step in place of training.global_batch_size=%d, and the learning rate %s",
        recipe.data.table,
        main.num_examples,
        batch,
        training.global_batch_size,
        "stays (optimizer.lr_scaling=none)"
        if recipe.optimizer.lr_scaling == "none"
        else f"goes down as much (optimizer.lr_scaling={recipe.optimizer.lr_scaling})",
    )
    fitted = recipe.replace(training=dataclasses.replace(training, global_batch_size=batch))
    return fitted, {name: dataclasses.replace(main, records=batch), **dict(others)}


def settled_recipe(recipe: PretrainRecipe, *, check: bool = True) -> PretrainRecipe:
    """Returns the recipe with what its objective takes from the data and from encoders that are there; the same again
    for a recipe that has all of it.

    Args:
        recipe: of any objective.
        check: look whether data and encoders agree also where nothing is open; else neither needs to be there.

    Raises:
        RunError: the settings, the data and the encoders contradict each other.
    """
    if not hasattr(recipe.objective, "settled") or (not check and recipe.objective.is_settled):
        return recipe
    tables = [table for table, _ in _open_all(recipe, recipe.data.tables_of())]
    try:
        return recipe.replace(objective=recipe.objective.settled(tables))
    except EncoderError:
        raise
    except ValueError as err:
        raise RunError(f"{recipe.name}: {err}") from err


def _open_all(recipe: PretrainRecipe, weights: Mapping[str, float]) -> list[tuple[Table, float]]:
    """The tables of a stream and their weights."""
    tables = [(open_table(spec).named(spec), weight) for spec, weight in weights.items()]
    for spec, (opened, _) in zip(weights, tables, strict=True):
        if opened.no_flip:
            logger.info("%s says no_flip: its views are never mirrored", spec)
    return tables


def job_settings(recipe: PretrainRecipe, streams: Streams, host: tuple[int, int]) -> dict[str, Any]:
    """Returns the fields of `BaseJob` that follow from the recipe and the data.

    Args:
        host: this process and how many there are.
    """
    training = recipe.training
    lengths = lengths_of(recipe, streams)
    return {
        "name": recipe.name,
        "folder": recipe.folder,
        "seed": recipe.seed,
        "training": training,
        "lrs": lr_schedule(recipe, lengths),
        "open_batches": batch_source(recipe, streams, lengths.num_steps, host),
        "log_steps": lengths.log_steps,
        "checkpoint_steps": lengths.checkpoint_steps,
        "keep_steps": lengths.keep_steps,
        "validate_steps": lengths.validate_steps,
        "probe_steps": lengths.probe_steps,
        "num_examples": lengths.num_examples,
        "clips_per_record": recipe.objective.clips_per_record,
        "tables": describe_tables([table for s in streams.values() for table in s.only_tables]),
        "stream_records": {name: recipe.data.streams[name].records for name in list(streams)[1:]},
    }


def batch_source(
    recipe: PretrainRecipe, streams: Streams, num_steps: int, host: tuple[int, int]
) -> OpenBatches:
    """Returns a function that opens this process's part of the batches from a step on."""
    main, *_ = streams.values()
    others = dict(list(streams.items())[1:])

    @contextlib.contextmanager
    def open_batches(start_step: int) -> Iterator[Iterator[dict[str, np.ndarray]]]:
        with Pipeline(
            main.tables,
            main.plan,
            seed=recipe.seed,
            global_batch_size=main.records,
            num_steps=num_steps,
            start_step=start_step,
            host=host,
            config=recipe.loader,
            skip_log=recipe.folder / "skipped.jsonl",
            balance=main.balance,
            others=others,
            compares=hasattr(recipe.objective, "check_records"),
        ) as pipeline:
            yield iter(pipeline)

    return open_batches


def check_resumable(
    job: BaseJob, checkpoint: Checkpoint, meta: Mapping[str, Any], *, allow_changes: bool
) -> None:
    """Raises CheckpointError if a run cannot go on from a checkpoint: past its end; other data, seed or batch."""
    if checkpoint.step > job.num_steps:
        raise CheckpointError(
            f"{checkpoint.folder} is past the end: training.duration is {job.num_steps} steps. Lengthen it, or give "
            "this run another folder: run=..."
        )
    if allow_changes:
        return
    before = meta.get("num_examples", job.num_examples)
    if before != job.num_examples:
        raise CheckpointError(
            f"the data has {job.num_examples} records now and had {before} when {checkpoint.folder} was made: the "
            "order of the rest would be another one. Restore the data, or resume all the same with --allow-changes."
        )
    changes = table_changes(meta.get("tables"), job.tables)
    if changes:
        raise CheckpointError(
            f"the data holds other videos than when {checkpoint.folder} was made ({changes}): the rest would be "
            "trained on those. Restore the data, or resume all the same with --allow-changes."
        )
    for name, now in (
        ("seed", job.seed),
        ("global_batch_size", job.training.global_batch_size),
        ("stream_records", job.stream_records),
    ):
        if meta.get(name, now) != now:
            raise CheckpointError(
                f"{checkpoint.folder} was made with {name}={meta[name]}, now it is {now}: the records to come would "
                "be others. Undo the change, or resume all the same with --allow-changes."
            )


def _settle(recipe: PretrainRecipe, *, allow_changes: bool) -> tuple[bool, dict[str, Any] | None]:
    """Makes the folder ready for this recipe; returns whether that differs in earnest from the one that is there, and
    finished.json if there is nothing left to do."""
    folder, content = recipe.folder, recipe_to_dict(recipe)
    sweep_unfinished(folder / CHECKPOINTS)  # may bring a checkpoint back
    if not has_begun(folder):  # nothing to protect, and a corrected recipe is welcome
        forget_attempt(folder, content)
    changed = settle_recipe(folder, content, allow_changes=allow_changes)
    return changed, None if changed else _finished(folder)


def _finished(folder: Path) -> dict[str, Any] | None:
    """The content of finished.json where its encoders are there too; None if the run has work left."""
    try:
        content: dict[str, Any] = parse_json((folder / FINISHED).read_text(encoding="utf-8"))
        for encoder in _finished_encoders(folder, content).values():
            find_encoder(encoder)
    except (OSError, ValueError):
        return None
    return content


def _finished_encoders(folder: Path, finished: Mapping[str, Any]) -> dict[str, Path]:
    """What a finished run has exported; those of earlier versions had one encoder each."""
    places = finished.get("encoders", {"encoder": ENCODER})
    return {name: folder / place for name, place in places.items()}


def _announce(
    recipe: PretrainRecipe, job: BaseJob, processes: RunProcesses, sizes: tuple[int, int]
) -> None:
    trainable, frozen = sizes
    held = held_gib(trainable, frozen, recipe.optimizer, average=recipe.training.ema is not None)
    logger.info(
        "%s: %s on %d records of %s, %d steps of %d, peak lr %.3g, %.2fM parameters%s (with gradients "
        "and optimizer %.2f GiB, a batch comes on top), %s x %d, %s -> %s",
        recipe.name,
        recipe.objective_name,
        job.num_examples,
        recipe.data.table,
        job.num_steps,
        recipe.training.global_batch_size,
        job.lrs.max(),
        trainable / 1e6,
        f" (+ {frozen / 1e6:.2f}M frozen)" if frozen else "",
        held,
        processes.device,
        processes.world_size,
        recipe.training.precision,
        job.folder,
    )
    for name, stream in recipe.data.streams.items():
        tables = ", ".join(recipe.data.tables_of(name))
        logger.info("with every step %d records of stream %s: %s", stream.records, name, tables)
    if job.start_step:
        logger.info("resuming after step %d of %d", job.start_step, job.num_steps)


def _warn(
    recipe: PretrainRecipe,
    job: BaseJob,
    streams: Streams,
    processes: RunProcesses,
    *,
    trained: int,
) -> None:
    """Says what is odd about the training before it has cost anything."""
    steps = job.num_steps - job.start_step
    cpus = processes.world_size if processes.on_cpu else 0
    for line in warnings_before(recipe, streams, steps=steps, trained=trained, cpus=cpus):
        logger.warning("warning: %s", line)


def _last_metrics(folder: Path) -> dict[str, Any]:
    rows = read_metrics(folder / METRICS)
    return rows[-1] if rows else {}
