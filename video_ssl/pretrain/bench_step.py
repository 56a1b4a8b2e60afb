"""`video-ssl bench step`: what one training step of a recipe costs, beside what the chip could do.

The batch is random pixels in the recipe's own shapes, so that nothing but the step is measured.  Frozen networks
(MVD's teachers) have random weights of the right size where the recipe would train them first.  Beside seconds and
memory stands a yardstick taken in the same run: the rate of a large matrix product in the same precision.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table as ScreenTable
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from video_ssl.clips.reading import VideoInfo
from video_ssl.datasets.table import Record
from video_ssl.models import ENCODERS
from video_ssl.models.encoders import save_encoder
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.optimizers import build_optimizer
from video_ssl.pretrain.recipe import PretrainRecipe, stage_recipe
from video_ssl.pretrain.run_common import architecture_of

log = logging.getLogger(__name__)

MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True, kw_only=True)
class StepFigures:
    """What one variant of a step cost.

    Attributes:
        step_sec: median time of a whole step.
        parts_sec: median time of `frozen` (teachers), `student` (the rest of the forward pass), `backward`,
            `optimizer`.  Measured in a separate pass with a wait after each part, so they add up to a little more.
        peak_gib: CUDA memory, or on a CPU the peak resident size of the process.
        flops: multiplications and additions of one step, counted by torch, backward pass included.
        chip_flops: rate of the yardstick in 1/s.
    """

    compiled: bool
    batch_size: int
    clips: int
    step_sec: float
    parts_sec: dict[str, float] = field(default_factory=dict)
    peak_gib: float
    flops: float
    chip_flops: float

    @property
    def clips_per_sec(self) -> float:
        return self.clips / self.step_sec

    @property
    def frozen_share(self) -> float:
        return self.parts_sec.get("frozen", 0.0) / max(sum(self.parts_sec.values()), 1e-12)

    @property
    def chip_share(self) -> float:
        return self.flops / self.step_sec / self.chip_flops


def bench_step(
    recipe: PretrainRecipe,
    *,
    batch_size: int = 8,
    steps: int = 5,
    warmup: int = 2,
    compile_too: bool = False,
) -> list[StepFigures]:
    """Times training steps of a recipe and prints a table; returns its rows.

    Args:
        recipe: any recipe; its precision and device are used.
        batch_size: records per step (the recipe's own batch is for many devices).
        steps: timed steps; the median is reported.
        warmup: steps before them, which also compile.
        compile_too: time the compiled step as well.
    """
    device = torch.device(_device(recipe.training.device))
    torch.manual_seed(recipe.seed)
    chip = _matmul_rate(device, _dtype(recipe))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        encoders = untrained_stages(recipe, Path(folder))
        objective = OBJECTIVES[recipe.objective_name].objective()(
            recipe.objective, encoders=encoders
        )
    objective.to(device).train()
    batch = random_batch(recipe, batch_size, device)
    for compiled in (False, True) if compile_too else (False,):
        rows.append(
            _measure(
                recipe,
                objective,
                batch,
                device,
                chip,
                compiled=compiled,
                steps=steps,
                warmup=warmup,
            )
        )
    _print(recipe, rows, device)
    return rows


def untrained_stages(recipe: PretrainRecipe, folder: Path) -> dict[str, Path]:
    """Returns an encoder for every stage of a recipe; those that a recipe would train have random weights."""
    found = {}
    for name, source in recipe.objective.stages().items():
        if source.recipe is None:
            found[name] = Path(source.run or source.file)
            continue
        inner = stage_recipe(recipe, name, source)
        built = OBJECTIVES[inner.objective_name].objective()(
            inner.objective, encoders=untrained_stages(inner, folder / name)
        )
        save_encoder(
            folder / name / "encoder",
            built.encoder,
            architecture=architecture_of(built.encoder, ENCODERS),
            preprocess=built.preprocess(),
            source={"objective": inner.objective_name, "untrained": True},
        )
        found[name] = folder / name / "encoder"
    return found


class _RandomReader:
    """Reads random frames, so that a recipe's plan makes a batch of the right shapes without a file."""

    def __init__(self, side: int, rng: np.random.Generator) -> None:
        self.info = VideoInfo(
            num_frames=300,
            fps=30.0,
            width=side,
            height=side,
            duration_sec=10.0,
            codec="random",
            rotation=0,
            has_audio=False,
        )
        self._rng = rng

    def frames(self, indices: Any, size: tuple[int, int] | None = None) -> np.ndarray:
        height, width = size or (self.info.height, self.info.width)
        return self._rng.integers(0, 256, (len(indices), height, width, 3), dtype=np.uint8)

    def times(self, indices: Any) -> np.ndarray:
        return np.asarray(indices) / self.info.fps


def random_batch(
    recipe: PretrainRecipe, batch_size: int, device: torch.device
) -> dict[str, Tensor]:
    """Returns a batch of random pixels made by the recipe's own plan, on the device."""
    plan = OBJECTIVES[recipe.objective_name].plan()(recipe.objective)
    rng = np.random.default_rng(recipe.seed)
    reader = _RandomReader(recipe.objective.crop.size, rng)
    record = Record(index=0, id="random", source="random", label=0, num_frames=300, fps=30.0)
    samples = [plan(record, reader, rng, 0.0) for _ in range(batch_size)]
    return {
        key: torch.from_numpy(np.stack([sample[key] for sample in samples])).to(device)
        for key in samples[0]
    }


def _measure(
    recipe: PretrainRecipe,
    objective: nn.Module,
    batch: Mapping[str, Tensor],
    device: torch.device,
    chip: float,
    *,
    compiled: bool,
    steps: int,
    warmup: int,
) -> StepFigures:
    optimizer = build_optimizer(objective, recipe.optimizer)
    forward: Callable[..., Any] = torch.compile(objective) if compiled else objective
    autocast = lambda: torch.autocast(  # noqa: E731
        device.type, dtype=torch.bfloat16, enabled=recipe.training.precision == "bf16"
    )

    def step() -> None:
        with autocast():
            loss, _ = forward(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    flops = _flops_of(objective, batch, autocast)
    for _ in range(warmup):
        step()
    _reset_peak(device)
    times = [_timed(step, device) for _ in range(steps)]
    peak = _peak_gib(device)
    parts = {} if compiled else _parts(objective, optimizer, batch, autocast, device, steps)
    video = batch["video"]
    return StepFigures(
        compiled=compiled,
        batch_size=len(video),
        clips=video.shape[0] * video.shape[1],
        step_sec=float(np.median(times)),
        parts_sec=parts,
        peak_gib=peak,
        flops=flops,
        chip_flops=chip,
    )


def _flops_of(objective: nn.Module, batch: Mapping[str, Tensor], autocast: Any) -> float:
    """Operations of a step.  Counted on one record and with explicit attention, because torch's counter does not
    know the fused attention of every device."""
    one = {name: values[:1] for name, values in batch.items()}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), autocast():
        objective(one)[0].backward()
    objective.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) * len(batch["video"])


def _parts(
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, Tensor],
    autocast: Any,
    device: torch.device,
    steps: int,
) -> dict[str, float]:
    """Median seconds of the parts of a step, with a wait for the device after each."""
    seen: dict[str, list[float]] = {"frozen": [], "student": [], "backward": [], "optimizer": []}
    frozen: Callable[[], dict[str, nn.Module]] = getattr(objective, "frozen_networks", dict)
    networks = frozen()
    for _ in range(steps):
        loss = None

        def forward() -> None:
            nonlocal loss
            with autocast():
                loss, _ = objective(batch)

        with _stopwatch(networks, device) as spent:
            total = _timed(forward, device)
        assert loss is not None
        seen["frozen"].append(sum(spent))
        seen["student"].append(total - sum(spent))
        seen["backward"].append(_timed(loss.backward, device))
        seen["optimizer"].append(_timed(optimizer.step, device))
        optimizer.zero_grad(set_to_none=True)
    return {name: float(np.median(values)) for name, values in seen.items()}


@contextlib.contextmanager
def _stopwatch(networks: Mapping[str, nn.Module], device: torch.device) -> Iterator[list[float]]:
    """Collects the seconds spent inside the forward passes of the given networks."""
    spent: list[float] = []
    with contextlib.ExitStack() as stack:
        for module in networks.values():
            stack.enter_context(_timing(module, spent, device))
        yield spent


@contextlib.contextmanager
def _timing(module: nn.Module, spent: list[float], device: torch.device) -> Iterator[None]:
    inner: Any = (
        module.taps
    )  # what teachers are asked for: not `forward`, so hooks would not see it

    def timed(*args: Any, **kwargs: Any) -> Any:
        _wait(device)
        start = time.perf_counter()
        result = inner(*args, **kwargs)
        _wait(device)
        spent.append(time.perf_counter() - start)
        return result

    module.taps = timed  # type: ignore[assignment]
    try:
        yield
    finally:
        del module.taps


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _dtype(recipe: PretrainRecipe) -> torch.dtype:
    return torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32


def _matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large product, the yardstick for this chip and precision."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    repeats = 3 if device.type == "cpu" else 20

    def work() -> None:
        for _ in range(repeats):
            torch.mm(a, b)

    work()
    return repeats * 2 * side**3 / min(_timed(work, device) for _ in range(3))


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _print(recipe: PretrainRecipe, rows: list[StepFigures], device: torch.device) -> None:
    chip = (
        torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    screen = ScreenTable(
        title=f"{recipe.name}: one step, {recipe.training.precision}, {chip}", title_justify="left"
    )
    for column in (
        "variant",
        "batch",
        "ms",
        "clips/s",
        "peak GiB",
        "frozen",
        "TFLOP",
        "of yardstick",
    ):
        screen.add_column(column, justify="left" if column == "variant" else "right")
    for row in rows:
        screen.add_row(
            "compiled" if row.compiled else "eager",
            str(row.batch_size),
            f"{1e3 * row.step_sec:.0f}",
            f"{row.clips_per_sec:.2f}",
            f"{row.peak_gib:.2f}",
            f"{100 * row.frozen_share:.0f} %" if row.parts_sec else "",
            f"{row.flops / 1e12:.2f}",
            f"{100 * row.chip_share:.0f} % of {row.chip_flops / 1e12:.1f} TFLOP/s",
        )
    console = Console()
    console.print(screen)
    parts = rows[0].parts_sec
    console.print("  ".join(f"{name} {1e3 * sec:.0f} ms" for name, sec in parts.items()))
