"""`video-ssl pretrain RECIPE --dry-run`: what a run would do, told without doing any of it.

Tables are opened as the run would open them, so a path that is wrong is an error here too; data that the run would make
first are only named.  Nothing is built, no folder is made.
"""

from __future__ import annotations

from collections.abc import Iterator

from video_ssl.datasets.opening import lacks_tables
from video_ssl.objectives import OBJECTIVES
from video_ssl.objectives.shared.sources import EncoderSource
from video_ssl.pretrain.checkpoint_folders import newest_checkpoint
from video_ssl.pretrain.durations import parse_duration, scaled_steps
from video_ssl.pretrain.lengths import Lengths, Streams, lengths_of, lr_schedule
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_to_dict, stage_recipe
from video_ssl.pretrain.run import (
    fit_batch,
    open_streams,
    settled_recipe,
    stage_folder,
    stage_path,
)
from video_ssl.pretrain.run_folder import (
    CHECKPOINTS,
    ENCODER,
    FINISHED,
    changes_since_start,
    has_begun,
    serious,
)
from video_ssl.recipes import to_yaml


def describe_start(recipe: PretrainRecipe, *, evaluate: bool = False) -> Iterator[str]:
    """Yields the lines about a run that would be started now: its recipe, its stages and itself, what it would write.

    Args:
        recipe: of the run.
        evaluate: whether the evaluations that it names would follow.

    Raises:
        RunError, EncoderError, TableError: as the run would, before its first step.
    """
    recipe = _with_its_data(recipe)
    yield to_yaml(recipe_to_dict(recipe)).rstrip()
    yield ""
    yield from _run(recipe)
    if evaluate:
        yield f"then the evaluations {', '.join(recipe.evaluations) or '(the recipe names none)'}"
    yield "nothing was started or written (--dry-run)"


def _with_its_data(recipe: PretrainRecipe) -> PretrainRecipe:
    """The recipe as the run would record it; as it is where its data are not made yet."""
    return recipe if any(map(lacks_tables, recipe.data.tables_of())) else settled_recipe(recipe)


def _run(recipe: PretrainRecipe) -> Iterator[str]:
    """The stages of a run, which come first, and the run."""
    for name, source in recipe.objective.stages().items():
        if isinstance(source, EncoderSource) and source.recipe is not None:
            yield from _run(stage_recipe(recipe, name, source))
        elif isinstance(source, EncoderSource) and source.stage is not None:
            yield f"{name} of {recipe.name}: {stage_folder(recipe, name, source)}"
        else:
            yield f"{name} of {recipe.name}: {stage_path(recipe, name, source)}"
    yield f"{recipe.name}: {recipe.objective_name} ({OBJECTIVES[recipe.objective_name].framework}) in {recipe.folder}"
    yield from (f"  {line}" for line in (*_state(recipe), *_data(recipe), _written(recipe)))


def _state(recipe: PretrainRecipe) -> Iterator[str]:
    """Where the run would go on, or why not."""
    folder = recipe.folder
    refused = serious(changes_since_start(folder, recipe_to_dict(recipe)))
    if refused and has_begun(folder):
        yield f"would be refused: {folder} was started with another recipe (now <- before)"
        yield from (f"  {line}" for line in refused)
    elif (folder / FINISHED).is_file():
        yield "is finished: it would not be trained again"
    else:
        checkpoint = newest_checkpoint(folder / CHECKPOINTS)
        yield f"goes on after step {checkpoint.step}" if checkpoint else "begins at step 0"


def _data(recipe: PretrainRecipe) -> Iterator[str]:
    tables = [t for name in (None, *recipe.data.streams) for t in recipe.data.tables_of(name)]
    lacking = [table for table in dict.fromkeys(tables) if lacks_tables(table)]
    if lacking:
        yield f"data: {', '.join(lacking)} would be made first; how much that is is not known before"
        yield from _lengths(recipe, None)
        return
    recipe, streams = fit_batch(recipe, open_streams(recipe))
    for name, stream in streams.items():
        parts = ", ".join(
            f"{len(table):,} of {spec}"
            for (table, _), spec in zip(stream.tables, _specs(recipe, name, streams), strict=True)
        )
        yield f"data{'' if len(streams) == 1 else f' of stream {name}'}: {parts}"
    yield from _lengths(recipe, lengths_of(recipe, streams))


def _specs(recipe: PretrainRecipe, stream: str, streams: Streams) -> list[str]:
    """What the recipe calls the tables of a stream."""
    return list(recipe.data.tables_of(None if stream == next(iter(streams)) else stream))


def _lengths(recipe: PretrainRecipe, lengths: Lengths | None) -> Iterator[str]:
    training = recipe.training
    batch = f"batches of {training.global_batch_size} records"
    batch += f", {recipe.objective.clips_per_record} clips of each"
    if training.accumulation > 1:
        batch += f", in {training.accumulation} micro-batches"
    if lengths is None:
        yield f"{_told(training.duration, training.scale)} of {batch}"
        return
    peak = lr_schedule(recipe, lengths).max()
    epochs = lengths.num_steps * training.global_batch_size / lengths.num_examples
    kept = f" (one every {lengths.keep_steps:,} stays)" if lengths.keep_steps else ""
    yield (
        f"{lengths.num_steps:,} steps ({epochs:.3g} epochs) of {batch}; warm-up {lengths.warmup_steps:,} steps to "
        f"lr {peak:.3g}, a checkpoint every {lengths.checkpoint_steps:,}{kept}, a line of metrics every "
        f"{lengths.log_steps:,}"
    )


def _told(duration: str | int, scale: float) -> str:
    """A duration whose steps are not known yet."""
    length = parse_duration(duration)
    if length.unit == "steps":
        return f"{scaled_steps(int(length.amount), scale):,} steps"
    return f"{float(length.amount) * scale:,g} {length.unit}"


def _written(recipe: PretrainRecipe) -> str:
    keep = recipe.training.keep
    return (
        f"writes {recipe.folder}/: recipe.yaml, metrics.jsonl, logs/, the newest {keep} {CHECKPOINTS}/, and at the "
        f"end {ENCODER}/"
    )
