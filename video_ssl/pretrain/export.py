"""The encoder of a checkpoint, finished run or not: `video-ssl export RUN`, and `RUN@STEP` where an encoder is named.

    RUN/exports/step_N/         the encoder of the run, as RUN/encoder is that of its end
    RUN/exports/step_N_NAME/    further encoders of the training

A checkpoint is only read, so the run may be training meanwhile.  What was exported stays when the run removes the
checkpoint; when another one takes its place, it is exported anew.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from video_ssl.locks import wait_for_lock
from video_ssl.models.encoder_folder import (
    EncoderError,
    claim_encoder_folder,
    find_encoder,
    read_config,
)
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.checkpoint_folders import checkpoint_at, fingerprint, read_meta
from video_ssl.pretrain.errors import CheckpointError, RunError, missing_jax
from video_ssl.pretrain.recipe import PretrainRecipe, recipe_from_dict
from video_ssl.pretrain.run_folder import (
    CHECKPOINTS,
    EXPORTS,
    RECIPE,
    claim_export,
    run_digest,
)
from video_ssl.pretrain.start import LOOPS
from video_ssl.recipes import ConfigError, load_yaml

logger = logging.getLogger(__name__)


def export_encoders(
    run: str | Path, *, step: int | None = None, out: str | Path | None = None
) -> dict[str, Path]:
    """Returns the folders of the encoders of a checkpoint by their names, the encoder of the run first; writes them.

    Args:
        run: its folder.
        step: of the checkpoint; None = the newest.
        out: where the first goes, others beside it with _NAME behind; None = RUN/exports/step_N.  An export of the same
            run that is there is replaced, and no other encoder.

    Raises:
        RunError: no folder of a run.
        CheckpointError: no checkpoint of that step (those that are there are named), or it is damaged.
        EncoderError: a stage that the objective needs is not there, or a place is taken by something else.
    """
    folder = Path(run)
    if out is not None:  # before anything is read
        claim_encoder_folder(out)
    recipe = _recipe_of(folder)
    checkpoint = checkpoint_at(folder / CHECKPOINTS, step)
    meta = read_meta(checkpoint)
    source = {
        "objective": recipe.objective_name,
        "data": recipe.data.table,
        "steps": checkpoint.step,
        "of steps": meta["num_steps"],
        "recipe": recipe.name,
        "seed": recipe.seed,
        "checkpoint": fingerprint(checkpoint),
        "run": run_digest(folder),
    }
    place = Path(out) if out is not None else folder / EXPORTS / checkpoint.folder.name
    claim_export(folder, place, source)
    framework = OBJECTIVES[recipe.objective_name].framework
    with missing_jax(f"objective.name={recipe.objective_name}"):
        loop = import_module(LOOPS[framework])
    made: dict[str, Path] = loop.export_checkpoint(recipe, checkpoint, place, source)
    return made


def encoder_of_step(run: Path, step: int) -> Path:
    """Returns RUN/exports/step_N, exported now if it is not there or the checkpoint is another one than it was made of.

    Raises:
        EncoderError: as `export_encoders`, whatever is wrong.
    """
    place = run / EXPORTS / f"step_{step}"
    try:
        _recipe_of(run)  # before anything is written into a folder that is no run
        (run / EXPORTS).mkdir(exist_ok=True)
        with open(run / EXPORTS / ".lock", "ab") as lock:
            wait_for_lock(lock)  # several processes may ask for it at once
            if not _is_made_of(place, run / CHECKPOINTS, step):
                export_encoders(run, step=step)
                logger.info("%s@%d: exported to %s", run, step, place)
    except (RunError, ConfigError) as err:
        raise EncoderError(str(err)) from err
    except PermissionError as err:
        raise EncoderError(
            f"{run} cannot be written, where {run}@{step} is exported to: `video-ssl export {shlex.quote(str(run))} "
            f"--step {step} --out "
            "FOLDER` puts it elsewhere."
        ) from err
    return place


def _is_made_of(place: Path, checkpoints: Path, step: int) -> bool:
    """Whether an exported encoder is that of the checkpoint, or of one that is gone."""
    try:
        source: Mapping[str, Any] = read_config(find_encoder(place))["source"]
    except EncoderError:
        return False
    try:
        return bool(source.get("checkpoint") == fingerprint(checkpoint_at(checkpoints, step)))
    except CheckpointError:
        return True


def _recipe_of(run: Path) -> PretrainRecipe:
    """The recipe of a run, which may have been moved since."""
    try:
        content = load_yaml(run / RECIPE)
    except FileNotFoundError as err:
        raise RunError(
            f"{run} is no run: it has no {RECIPE}. Give the folder that was run=... of a training."
        ) from err
    return recipe_from_dict(content).replace(run=str(run))
