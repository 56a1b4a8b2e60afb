"""The training loop for flax objectives: one jitted step over a mesh of devices, whose state is given back to itself.

What happens around a step is `session.Session`, the same as torch's.  A step: micro-batches -> gradients -> clip ->
optimizer.  Arrays are global, so batch norms and negatives see all devices.  The host waits for the device only where a
line of metrics or a checkpoint is due.  On one kind and number of devices the sequence of weights is a function of the
recipe alone: killed and resumed runs end in the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from video_ssl.files import write_json
from video_ssl.models import architecture_of
from video_ssl.models.contract import CLIP
from video_ssl.models.encoders_flax import FlaxEncoder
from video_ssl.models.health_flax import effective_rank, feature_std
from video_ssl.objectives.shared.flax_objective import FlaxObjective, StepOutput
from video_ssl.pretrain.errors import NonFiniteLoss
from video_ssl.pretrain.evidence import evidence_folder, nonfinite_loss
from video_ssl.pretrain.flax_loop.checkpoints import save_flax, write_state
from video_ssl.pretrain.flax_loop.devices import FlaxProcesses, FlaxStop, put_batch
from video_ssl.pretrain.reporting import host_memory
from video_ssl.pretrain.session import BaseJob, Session
from video_ssl.progress import compiling

State = dict[str, Any]
Batch = dict[str, jax.Array]
#: Steps that the host may be ahead of the devices.
AHEAD = 2


@dataclass(kw_only=True)
class FlaxJob(BaseJob):
    """Everything a training needs, built and loaded.

    Attributes:
        state: {"params", "optimizer", "step", "failed"} and the objective's other variables, on the devices.
        shardings: the same tree, how each array lies on the devices.
    """

    processes: FlaxProcesses
    objective: FlaxObjective
    optimizer: optax.GradientTransformation
    state: State
    shardings: State

    def variables(self) -> State:
        """The variables of the objective."""
        return variables_of(self.state)


def variables_of(state: State) -> State:
    """Returns the variables of the objective in a state."""
    return {k: v for k, v in state.items() if k not in ("optimizer", "step", "failed")}


def train(job: FlaxJob) -> dict[str, Any]:
    """Runs steps job.start_step .. job.num_steps and returns the last row of metrics ({} if no step was left).

    Raises: as `Session.run`.
    """
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        stop = enter(FlaxStop(job.processes))
        batches = enter(job.open_batches(job.start_step))
        session = enter(_FlaxSession(job))
        return session.run(_feed(iter(batches), job.processes), stop)


def _feed(batches: Iterator[dict[str, np.ndarray]], processes: FlaxProcesses) -> Iterator[Batch]:
    """Batches on their way to the devices; copies and steps run behind the host's back."""
    for batch in batches:
        yield put_batch(batch, processes)


class _FlaxSession(Session[FlaxJob]):
    """The loop of flax: the jitted step and what has come out of the last ones."""

    def __init__(self, job: FlaxJob) -> None:
        super().__init__(job, job.processes)
        self._train_step = make_step(
            job.objective,
            job.optimizer,
            shardings=job.shardings,
            processes=job.processes,
            seed=job.seed,
            accumulation=job.training.accumulation,
        )
        self._health = jax.jit(
            lambda x: {"feature_std": feature_std(x), "effective_rank": effective_rank(x)},
            out_shardings=job.processes.whole,
        )
        self._rows: list[dict[str, jax.Array]] = []
        self._clips: int | None = None
        kept = job.averages or {}
        self._count: int = kept.get("count", 0)
        self._sums: dict[str, float] = dict(kept.get("sums", {}))
        self._features: jax.Array | None = None
        self._encoder: FlaxEncoder | None = None

    def _step(self, step: int, batch: Batch) -> int:
        job = self._job
        first = self._clips is None and job.processes.is_main
        with compiling("the step") if first else contextlib.nullcontext():
            job.state, outcome = self._train_step(job.state, batch)
        self._features = outcome.features
        self._rows.append(outcome.scalars)
        if job.processes.platform == "cpu":  # nothing to wait for: stop at the very step
            self.check()
        elif len(self._rows) > AHEAD:
            jax.block_until_ready(self._rows[-1 - AHEAD])
        if self._clips is None:  # a constant of the compiled step, so looked at once
            self._clips = (
                job.training.global_batch_size * job.clips_per_record
                if outcome.clips is None
                else int(outcome.clips)
            )
        return self._clips

    def check(self) -> None:
        failed = int(self._job.state["failed"])
        if failed >= 0:
            raise save_evidence(self._job, failed)

    def _figures(self) -> dict[str, float]:
        self._fold()
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        health = {} if self._features is None else jax.device_get(self._health(self._features))
        return {**means, **{name: float(value) for name, value in health.items()}}

    def _encode(self, clips: np.ndarray) -> np.ndarray:
        trained = next(iter(self._job.objective.encoders().values()))
        # Copies on the host: the arrays of the state are given away by the next step.
        variables = trained.variables(jax.device_get(self._job.variables()))
        if self._encoder is None:  # compiled once
            self._encoder = FlaxEncoder(
                trained.module,
                variables,
                architecture=architecture_of(trained.module),
                preprocess=trained.preprocess,
                source={},
            )
        self._encoder.variables = variables
        found: np.ndarray = self._encoder.outputs_of_arrays(clips, (CLIP,))[CLIP]
        return found

    def _fold(self) -> None:
        """Adds the rows that have come to the sums, one after the other: when that happens does not matter to them."""
        rows, self._rows = jax.device_get(self._rows), []
        for row in rows:
            if (
                self._sums.keys() != row.keys()
            ):  # the first, or the objective reports other figures now
                self._sums, self._count = dict.fromkeys(row, 0.0), 0
            self._sums = {name: self._sums[name] + float(value) for name, value in row.items()}
            self._count += 1

    def _averages(self) -> dict[str, Any]:
        self._fold()
        return {"count": self._count, "sums": self._sums}

    def _memory(self) -> dict[str, float]:
        figures = host_memory()
        stats = jax.local_devices()[0].memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            figures["device_memory_gib"] = stats["peak_bytes_in_use"] / 2**30
        return figures

    def _snapshot(self, done: int, meta: dict[str, Any]) -> Callable[[], None]:
        """Writes all at once: a step gives the arrays of its state away, so a copy would double them on the device."""
        job = self._job
        meta["devices"] = job.processes.num_devices
        save_flax(job.folder / "checkpoints", done, job.state, meta, job.processes)
        return lambda: None

    def _versions(self) -> dict[str, str]:
        return {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__}

    def _wait(self) -> None:
        jax.block_until_ready(self._features if not self._rows else self._rows[-1])


class Outcome(NamedTuple):
    """What a step has computed, on the devices: 0-d float32 `scalars` in all of them, `features` and `clips` as in
    `StepOutput`."""

    scalars: dict[str, jax.Array]
    features: jax.Array | None
    clips: jax.Array | int | None


def make_step(
    objective: FlaxObjective,
    optimizer: optax.GradientTransformation,
    *,
    shardings: State,
    processes: FlaxProcesses,
    seed: int,
    accumulation: int = 1,
) -> Callable[[State, Batch], tuple[State, Outcome]]:
    """Returns the jitted step: (state, batch) -> (state, outcome); the state that goes in is gone afterwards.

    Where the loss or the norm of the gradient is not finite, in this step or before, the state stays as it is and
    `failed` keeps the first such step.

    Args:
        objective, optimizer, shardings, processes: as in `FlaxJob`.
        seed: of what is random in a step.
        accumulation: micro-batches of a step.
    """
    parts, whole = accumulation, processes.whole

    def step(state: State, batch: Batch) -> tuple[State, Outcome]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        variables = variables_of(state)
        gradients, changed, output = gradients_of(objective.forward, variables, batch, key, parts)
        norm = optax.tree.norm(gradients)
        fine = jnp.isfinite(output.loss) & jnp.isfinite(norm) & (state["failed"] < 0)
        updates, moments = optimizer.update(gradients, state["optimizer"], variables["params"])
        new = {
            **changed,
            "params": optax.apply_updates(variables["params"], updates),
            "optimizer": moments,
            "step": state["step"] + 1,
        }
        old = {name: state[name] for name in new}
        new = jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
        new["failed"] = jnp.where(fine | (state["failed"] >= 0), state["failed"], state["step"])
        scalars = {**output.figures, "loss": output.loss, "grad_norm": norm}
        scalars = jax.lax.with_sharding_constraint(scalars, whole)
        return new, Outcome(scalars, output.features, output.clips)

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def gradients_of(
    forward: Callable[..., tuple[StepOutput, Any]],
    variables: State,
    batch: Batch,
    key: jax.Array,
    parts: int,
) -> tuple[Any, State, StepOutput]:
    """Returns gradients of the mean loss over `parts` micro-batches, the changed variables, and the output: means of
    loss and figures, all features, the sum of clips.

    Micro-batch k holds rows k, k + parts, ..., so that every device keeps its rows.  Batch norms and negatives see a
    micro-batch only; moving statistics go through all of them in turn.
    """
    params = variables["params"]
    rest = {k: v for k, v in variables.items() if k != "params"}

    def loss(params: Any, rest: State, part: Batch, key: jax.Array) -> Any:
        output, changed = forward({"params": params, **rest}, part, key)
        figures = jax.tree.map(lambda x: x.astype(jnp.float32), output.figures)
        return output.loss, ({**rest, **changed}, output._replace(figures=figures))

    gradient = jax.grad(loss, has_aux=True)
    if parts == 1:
        gradients, (rest, output) = gradient(params, rest, batch, key)
        return gradients, rest, output

    def one(carry: tuple[State, Any], item: tuple[Batch, jax.Array]) -> Any:
        rest, total = carry
        part, number = item
        found, (rest, output) = gradient(params, rest, part, jax.random.fold_in(key, number))
        return (rest, jax.tree.map(jnp.add, total, found)), output

    pieces = {k: jnp.moveaxis(v.reshape(-1, parts, *v.shape[1:]), 1, 0) for k, v in batch.items()}
    zeros = jax.tree.map(jnp.zeros_like, params)
    (rest, total), rows = jax.lax.scan(one, (rest, zeros), (pieces, jnp.arange(parts)))
    output = StepOutput(
        loss=rows.loss.mean(0),
        figures={name: values.mean(0) for name, values in rows.figures.items()},
        features=None
        if rows.features is None
        else rows.features.reshape(-1, rows.features.shape[-1]),
        clips=None if rows.clips is None else rows.clips.sum(),
    )
    return jax.tree.map(lambda x: x / parts, total), rest, output


def save_evidence(job: FlaxJob, step: int) -> NonFiniteLoss:
    """Writes RUN/nonfinite and returns the error to raise.  Called by every process.

    RUN/nonfinite/report.json, state/ (of orbax, before that step) and batch_N.npz, what process N computed on.
    """
    processes, figures = job.processes, {"lr": float(job.lrs[step])}
    with job.open_batches(step) as batches:  # data are a function of the step
        batch = {k: v for k, v in next(iter(batches)).items() if v.dtype.kind in "biuf"}
    with evidence_folder(job.folder, step) as place:
        np.savez(place / f"batch_{processes.rank}.npz", **batch)  # type: ignore[arg-type]
        processes.on_main(lambda: _clear(place / "state"))
        write_state(place / "state", job.state)
        report = {"step": step, "seed": job.seed, "devices": processes.num_devices, **figures}
        processes.on_main(lambda: write_json(place / "report.json", report))
    return nonfinite_loss(place, step, figures)


def _clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
