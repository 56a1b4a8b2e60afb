"""The flax side of `bench step`: the jitted step of a run, and the encoder alone."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from video_ssl.bench.figures import (
    StepFigures,
    Timing,
    matmul_side,
    product_rate,
    random_clips,
    random_samples,
    resident_gib,
    tidy,
)
from video_ssl.models.contract import CLIP
from video_ssl.models.encoders_flax import build_flax_module, init_variables, output_widths_of
from video_ssl.models.networks.maps_flax import clip_features
from video_ssl.pretrain.flax_loop.devices import FlaxProcesses, join_flax_processes, put_batch
from video_ssl.pretrain.flax_loop.loop import make_step
from video_ssl.pretrain.flax_loop.run import check_supported, trained_parts
from video_ssl.pretrain.recipe import PretrainRecipe


def measure_step(
    recipe: PretrainRecipe, batch_size: int, timing: Timing, *, compile_too: bool = False
) -> list[StepFigures]:
    """Returns the figures of the step that a run of the recipe would take, on all devices.

    Args:
        recipe, batch_size, timing: see `bench_step`; the batch is that of all devices together.
        compile_too: without an effect, every step is compiled.
    """
    check_supported(recipe)
    training = dataclasses.replace(recipe.training, global_batch_size=batch_size)
    recipe = recipe.replace(training=training)
    with join_flax_processes(training.device) as processes:
        parts = trained_parts(recipe, None, processes, np.full(1, recipe.optimizer.base_lr))
        state, batch = parts.pop("state"), put_batch(random_samples(recipe, batch_size), processes)
        step = make_step(**parts, seed=recipe.seed, accumulation=training.accumulation)
        run = _Compiled(step, state, batch)

        def again() -> Any:
            nonlocal state
            state, outcome = run(state, batch)
            return outcome

        counted = again().clips
        clips = batch_size * recipe.objective.clips_per_record if counted is None else int(counted)
        known = {"variant": "jitted step", "batch_size": batch_size, "clips": clips}
        return [_figures(recipe, processes, run, again, timing, **known)]


def measure_encoder(recipe: PretrainRecipe, batch_size: int, timing: Timing) -> StepFigures:
    """Returns the figures of the encoder alone: forward pass, gradient of the mean square of the clip features."""
    config = recipe.objective.encoder
    module = build_flax_module(config, dtype=_dtype(recipe))
    named = output_widths_of(config) is not None
    with join_flax_processes(recipe.training.device) as processes:
        variables = jax.device_put(init_variables(module, recipe.seed), processes.whole)
        video = put_batch({"video": random_clips(recipe, batch_size)}, processes)["video"]

        def loss_of(params: Any, rest: Any, video: jax.Array) -> Any:
            found, changed = module.apply(
                {"params": params, **rest},
                video,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(recipe.seed)},
                method="__call__" if named else "feature_map",
            )
            features = found[CLIP] if named else clip_features(found)
            return jnp.square(features).mean(), changed

        rest = {name: value for name, value in variables.items() if name != "params"}
        args = (variables["params"], rest, video)
        run = _Compiled(jax.jit(jax.value_and_grad(loss_of, has_aux=True)), *args)
        known = {"variant": "flax", "batch_size": batch_size, "clips": batch_size}
        return _figures(recipe, processes, run, lambda: run(*args), timing, **known)


class _Compiled:
    """A jitted function compiled for given arguments, with the seconds that took and the operations of a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.flops = count_flops(function, *args)
        start = time.perf_counter()
        self._run = function.lower(*args).compile()
        self.compile_sec = time.perf_counter() - start

    def __call__(self, *args: Any) -> Any:
        return self._run(*args)


def _figures(
    recipe: PretrainRecipe,
    processes: FlaxProcesses,
    run: _Compiled,
    call: Callable[[], Any],
    timing: Timing,
    **known: Any,
) -> StepFigures:
    """Times calls of a program between two measurements of the yardstick."""
    last: list[Any] = []

    def step() -> None:
        last[:] = [call()]

    def wait() -> None:
        jax.block_until_ready(last)

    before = _matmul_rate(processes, _dtype(recipe))
    tidy()
    step_sec = timing.median_sec(step, wait)
    peak = _peak_gib()
    count, kind = processes.num_devices, processes.mesh.devices.flat[0].device_kind
    return StepFigures(
        chip=f"{count} x {kind} (jax)",
        step_sec=step_sec,
        compile_sec=run.compile_sec,
        peak_gib=peak,
        flops=run.flops,
        chip_flops=count * max(before, _matmul_rate(processes, _dtype(recipe))),
        **known,
    )


def count_flops(function: Callable[..., Any], *args: Any) -> float:
    """Returns multiplications and additions of the matrix products and convolutions of a call, without running it.

    Counted as torch's counter does: taps on padding count, element-wise operations do not.  A loop counts as often as
    it runs, a branch as its dearest way, a `while` of unknown length once.
    """
    return _flops_of(jax.make_jaxpr(function)(*args).jaxpr)


def _flops_of(program: Any) -> float:
    total = 0.0
    for equation in program.eqns:
        name, params = equation.primitive.name, equation.params
        shapes = [getattr(v.aval, "shape", ()) for v in (*equation.invars, *equation.outvars)]
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            depth = math.prod(shapes[0][axis] for axis in contracted)
            total += 2.0 * math.prod(shapes[-1]) * depth
        elif name == "conv_general_dilated":
            total += _convolution_flops(params, kernel=shapes[1], out=shapes[-1])
        else:
            inner = [_flops_of(part) for value in params.values() for part in _programs(value)]
            if inner:
                times = params.get("length", 1) if name == "scan" else 1
                total += max(inner) if name == "cond" else times * sum(inner)
    return total


def _convolution_flops(params: Any, *, kernel: tuple[int, ...], out: tuple[int, ...]) -> float:
    """Products of a convolution; zeros between the values of a dilated image are no operations."""
    spec = params["dimension_numbers"].rhs_spec
    per_value = kernel[spec[1]] * math.prod(kernel[axis] for axis in spec[2:])
    return 2.0 * math.prod(out) * per_value / math.prod(params["lhs_dilation"])


def _programs(value: Any) -> list[Any]:
    """The programs within a parameter of an operation."""
    values = value if isinstance(value, list | tuple) else (value,)
    inner = [getattr(x, "jaxpr", x) for x in values]
    return [x for x in inner if hasattr(x, "eqns")]


def _matmul_rate(processes: FlaxProcesses, dtype: Any) -> float:
    """The yardstick on one of the devices."""
    side = matmul_side(processes.platform)
    device = processes.mesh.devices.flat[0]
    a, b = (
        jax.device_put(jax.random.normal(jax.random.key(i), (side, side), dtype), device)
        for i in range(2)
    )
    multiply, last = jax.jit(jnp.matmul), [a]

    def once() -> None:
        last[0] = multiply(a, b)

    return product_rate(
        once, lambda: last[0].block_until_ready(), side=side, platform=processes.platform
    )


def _peak_gib() -> float:
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use")
    return resident_gib() if peak is None else peak / 2**30


def _dtype(recipe: PretrainRecipe) -> Any:
    return jnp.bfloat16 if recipe.training.precision == "bf16" else jnp.float32
