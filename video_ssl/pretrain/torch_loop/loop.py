"""The training loop for torch objectives.  It never asks which objective runs.

A step: take a batch (already on the device) -> seed torch from (seed, step, rank) -> forward and backward over the
micro-batches -> clip -> optimizer -> average -> `after_step`.  The host waits for the device only where a line of
metrics or a checkpoint is due.  On the CPU, the sequence of weights is a function of the recipe alone: killed and
resumed runs end in the same bits.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from video_ssl.models.classifier_folder import Protocol
from video_ssl.models.contract import CLIP
from video_ssl.models.health import effective_rank, feature_std
from video_ssl.models.preprocess import model_input, tensor_of
from video_ssl.objectives.shared.torch_objective import StepOutput, TorchObjective
from video_ssl.pretrain.processes import Processes, StopRequest
from video_ssl.pretrain.recipe import TrainingConfig
from video_ssl.pretrain.reporting import host_memory
from video_ssl.pretrain.session import BaseJob, Session
from video_ssl.pretrain.torch_loop.averages import WeightAverage
from video_ssl.pretrain.torch_loop.checkpoints import HostCopy, save_checkpoint
from video_ssl.pretrain.torch_loop.device_feed import Batch, DeviceFeed, split_batch, to_tensors
from video_ssl.pretrain.torch_loop.nonfinite import FiniteGuard, save_evidence
from video_ssl.pretrain.torch_loop.optimizers import (
    kind_of,
    leaves_nonfinite_alone,
    optimizer_state,
    set_lr,
)
from video_ssl.pretrain.torch_loop.sharded_checkpoints import ShardWriter
from video_ssl.pretrain.torch_loop.sharding import is_sharded, sync_gradients, whole
from video_ssl.pretrain.torch_loop.validation import Validation

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Job(BaseJob):
    """Everything a training needs, built and loaded; `objective` is on its device, not wrapped."""

    processes: Processes
    objective: TorchObjective
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    validation: Validation | None = None
    protocol: Protocol | None = None

    def state(self) -> dict[str, Any]:
        """The tensors of a checkpoint; of a divided run, this process's parts of them.  Called by every process."""
        state: dict[str, Any] = {
            "objective": self.objective.state_dict(),
            "optimizer": optimizer_state(self.optimizer),
        }
        if self.average is not None:
            state["average"] = self.average.state()
        return state

    def exported_weights(self) -> AbstractContextManager[None]:
        """Within it the objective holds the weights that leave the training: their average, where there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.in_place()

    def whole_state(self) -> dict[str, Any]:
        """The tensors of a checkpoint in one piece, gathered from all processes, which must all call this."""
        return _whole(self.state()) if is_sharded(self.objective) else self.state()


def _whole(state: Any) -> Any:
    if isinstance(state, Tensor):
        return whole(state)
    return {name: _whole(value) for name, value in state.items()}


@dataclass
class Outcome:
    """What a step has computed; all on the device.  `scalars` are 0-d, `features` and `clips` as in `StepOutput`."""

    loss: Tensor
    grad_norm: Tensor
    scalars: dict[str, Tensor]
    features: Tensor | None
    clips: int | None


def train(job: Job) -> dict[str, Any]:
    """Runs steps job.start_step .. job.num_steps and returns the last row of metrics ({} if no step was left).

    Raises:
        Interrupted: SIGINT or SIGTERM; a checkpoint of the last whole step exists.
        NonFiniteLoss: see `nonfinite.py`.
        CheckpointError: a checkpoint could not be written.
    """
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(deterministic(job.processes.device))
        stop = enter(StopRequest(job.processes))
        batches = enter(job.open_batches(job.start_step))
        feed = enter(DeviceFeed(iter(batches), job.processes.device))
        session = enter(_Session(job))
        job.objective.train()
        return session.run(feed, stop)


class _Session(Session[Job]):
    """The loop of torch: wrapped module, guard and optimizer."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.processes)
        self._module = wrap(job.objective, job.processes, compile=job.training.compile)
        self._guard = FiniteGuard(job.optimizer, job.processes)
        self._shards = ShardWriter(job.processes) if is_sharded(job.objective) else None
        self._host_copy = HostCopy()
        self._means = _Means(job.averages, job.processes)
        self._outcome: Outcome | None = None

    def _step(self, step: int, batch: Batch) -> int:
        job = self._job
        lr = float(job.lrs[step])
        set_lr(job.optimizer, lr)
        seed_step(job.seed, step, job.processes.rank)
        job.optimizer.zero_grad(set_to_none=True)
        outcome = gradients_of(self._module, batch, job.training)
        self._guard.look(step, outcome.loss, outcome.grad_norm)
        if not leaves_nonfinite_alone(job.optimizer):
            self.check()
        job.optimizer.step()
        if job.processes.device.type == "cpu":  # nothing to wait for: stop at the very step
            self.check()
        if job.average is not None:
            job.average.update(step)
        job.objective.after_step((step + 1) / job.num_steps)
        self._outcome = outcome
        self._means.add({"loss": outcome.loss, "grad_norm": outcome.grad_norm, **outcome.scalars})
        if outcome.clips is None:
            return job.training.global_batch_size * job.clips_per_record
        return outcome.clips * job.processes.world_size

    def check(self) -> None:
        failed = self._guard.failed_step()
        if failed is None:
            return
        job = self._job
        with job.open_batches(failed) as batches:  # data are a function of the step
            batch = to_tensors(next(iter(batches)))
        raise save_evidence(
            job.folder,
            step=failed,
            seed=job.seed,
            processes=job.processes,
            batch=batch,
            state=job.whole_state,
            figures={"lr": float(job.lrs[failed])},
        )

    def _figures(self) -> dict[str, float]:
        assert self._outcome is not None
        processes = self._job.processes
        return {
            **self._means.read(processes),
            **health_figures(self._outcome.features, processes),
        }

    def _validate(self, done: int) -> dict[str, float]:
        job = self._job
        assert job.validation is not None
        with job.exported_weights():
            found = job.validation.run()
        logger.info("step %d: %s", done, job.validation.told())
        if done == job.num_steps:
            logger.info("%s", job.validation.yardsticks())
        return found

    def _encode(self, clips: np.ndarray) -> np.ndarray:
        job = self._job
        module, preprocess = next(iter(job.objective.encoders().values()))
        encoder: Any = module
        modes = {part: part.training for part in job.objective.modules()}
        job.objective.eval()
        try:
            with (
                torch.no_grad(),
                job.exported_weights(),
                autocast(job.processes.device, job.training.precision),
            ):
                inputs = model_input(tensor_of(clips).to(job.processes.device), preprocess)
                found: np.ndarray = encoder.outputs(inputs, (CLIP,))[CLIP].float().cpu().numpy()
        finally:  # frozen parts stay in evaluation mode
            for part, training in modes.items():
                part.training = training
        return found

    def _averages(self) -> dict[str, Any]:
        return self._means.kept(self._job.processes)

    def _memory(self) -> dict[str, float]:
        figures, device = host_memory(), self._job.processes.device
        if device.type == "cuda":
            figures["device_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return figures

    def _snapshot(self, done: int, meta: dict[str, Any]) -> Callable[[], None]:
        job, folder = self._job, self._job.folder / "checkpoints"
        meta["optimizer"] = kind_of(job.optimizer)
        if self._shards is not None:
            return self._shards.save(folder, done, job.state(), meta)
        state = job.state()
        if not job.processes.is_main:
            return lambda: None
        copy = self._host_copy.take(state)

        def write() -> None:
            save_checkpoint(folder, done, copy, meta)

        return write

    def _versions(self) -> dict[str, str]:
        return {"torch": torch.__version__}

    def _wait(self) -> None:
        if self._job.processes.device.type == "cuda":
            torch.cuda.synchronize(self._job.processes.device)


class _Means:
    """Means of scalars over steps, added up on the device and read at once.

    Args:
        kept: what `kept` gave when the checkpoint that is gone on from was made.
        processes: of this run; where there were as many, each goes on with its own sums, otherwise with their mean.
    """

    def __init__(self, kept: Mapping[str, Any] | None, processes: Processes) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = int(kept["count"]) if kept else 0
        if kept and self._count:
            rows = torch.tensor(kept["sums"], dtype=torch.float32)
            own = rows[processes.rank] if len(rows) == processes.world_size else rows.mean(0)
            self._sums = dict(zip(kept["names"], own.to(processes.device), strict=True))

    def kept(self, processes: Processes) -> dict[str, Any]:
        """Returns the sums so far of every process, as JSON; float32 survives that to the bit."""
        names, count = list(self._sums), self._count
        if not count:
            return {"count": 0}
        sums = processes.gather(torch.stack(list(self._sums.values()))[None])
        return {"count": count, "names": names, "sums": sums.tolist()}

    def add(self, scalars: dict[str, Tensor]) -> None:
        if (
            self._sums and self._sums.keys() != scalars.keys()
        ):  # the objective reports other figures now
            self._sums, self._count = {}, 0
        for name, value in scalars.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def read(self, processes: Processes) -> dict[str, float]:
        """Returns the means over steps and processes, and starts again."""
        values = processes.mean(torch.stack(list(self._sums.values())) / self._count).tolist()
        means = dict(zip(self._sums, values, strict=True))
        self._sums, self._count = {}, 0
        return means


def gradients_of(module: nn.Module, batch: Batch, training: TrainingConfig) -> Outcome:
    """Runs forward and backward over the micro-batches of a batch and clips; the gradients are left in the parameters.

    The loss is the mean over micro-batches.  Gradients are averaged over processes once, with the last one.
    """
    parts = split_batch(batch, training.accumulation)
    losses: list[Tensor] = []
    outputs: list[StepOutput] = []
    for i, part in enumerate(parts):
        lone = isinstance(module, DistributedDataParallel) and i < len(parts) - 1
        sync_gradients(module, i == len(parts) - 1)
        with module.no_sync() if lone else contextlib.nullcontext():  # type: ignore[operator]
            with autocast(next(iter(part.values())).device, training.precision):
                output: StepOutput = module(part)
            loss = output.loss.float()
            (loss / len(parts)).backward()
        losses.append(loss.detach())
        outputs.append(output._replace(loss=losses[-1]))  # without the graph
    parameters = [p for p in module.parameters() if p.grad is not None]
    grad_norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters]))  # type: ignore[misc]
    if training.grad_clip is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, training.grad_clip, grad_norm)
    features = [output.features.detach() for output in outputs if output.features is not None]
    clips = [output.clips for output in outputs if output.clips is not None]
    scalars = {
        name: torch.stack([output.figures[name].detach().float() for output in outputs]).mean()
        for name in outputs[0].figures
    }
    return Outcome(
        loss=torch.stack(losses).mean(),
        grad_norm=grad_norm,
        scalars=scalars,
        features=torch.cat(features) if features else None,
        clips=sum(clips) if clips else None,
    )


def wrap(objective: nn.Module, processes: Processes, *, compile: bool) -> nn.Module:
    """Returns the objective, compiled if requested, under DDP if there are several processes and it is not sharded."""
    if compile:
        objective.compile()
    if processes.world_size == 1 or is_sharded(objective):
        return objective
    return DistributedDataParallel(objective, gradient_as_bucket_view=True)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Returns the context of a forward pass: bfloat16 products for "bf16", nothing for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds torch for a step, so that the state of its generators never needs to be saved."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def health_figures(features: Tensor | None, processes: Processes) -> dict[str, float]:
    """Returns feature_std and effective_rank of the features (B, D) of all processes."""
    if features is None:
        return {}
    rows = processes.gather(features.float())
    return {"feature_std": feature_std(rows).item(), "effective_rank": effective_rank(rows).item()}


@contextlib.contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """On the CPU, operations that could differ from run to run are exchanged for those that cannot."""
    if device.type != "cpu":
        yield
        return
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = before[2]
