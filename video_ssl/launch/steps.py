"""From a verb and its arguments to jobs: which tasks, in which folders, which job after which."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from video_ssl.files import text_mark, write_atomically
from video_ssl.launch.batch import Batch, TaskSpec
from video_ssl.launch.errors import LaunchError
from video_ssl.launch.grid import expand
from video_ssl.launch.profile import LaunchProfile
from video_ssl.recipes import nearest, to_yaml, unprintable

if TYPE_CHECKING:
    from video_ssl.clips.pipeline import LoaderConfig
    from video_ssl.evaluate.recipe import EvaluateRecipe
    from video_ssl.pretrain.recipe import PretrainRecipe

#: In RUN/launch of a run of a grid: what differs there, key -> value.
SETTINGS = "grid.yaml"
LAUNCHED = ("pretrain", "evaluate", "embed")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One job or job array.

    Attributes:
        name: of the job.
        tasks: of its elements.
        profile: with what it runs.
        after: names of steps that must have ended before.
        how: of sbatch's dependencies: afterok, aftercorr (element by element), afterany.
    """

    name: str
    tasks: tuple[TaskSpec, ...]
    profile: LaunchProfile
    after: tuple[str, ...] = ()
    how: str = "afterok"


def batch_of(step: Step) -> Batch:
    """Returns the batch of a step."""
    profile = step.profile
    return Batch(
        tasks=step.tasks,
        max_requeues=profile.max_requeues,
        max_failures=profile.max_failures,
        lost_after_sec=profile.lost_after_sec,
    )


@dataclass(frozen=True)
class LaunchPlan:
    """What a launch does: its folder, its steps, and recipe files to write before (path -> content)."""

    home: Path
    steps: list[Step]
    files: dict[Path, Any]


def plan_launch(
    verb: str, arguments: Sequence[str], profile: LaunchProfile, *, chain: bool = False
) -> LaunchPlan:
    """Returns what `launch PROFILE VERB ARGUMENTS` does.

    Args:
        verb: of `LAUNCHED`.
        arguments: what the verb takes on the command line.
        profile: of all jobs; those that cannot use several processes get one.
        chain: stages of a training and its evaluation become jobs of their own.

    Raises:
        LaunchError, ConfigError: unknown verb, bad recipe, arguments that do not go with a launch.
    """
    if verb not in LAUNCHED:
        raise LaunchError(
            f"launch {verb!r}: allowed are {list(LAUNCHED)}.{nearest(verb, LAUNCHED)}"
        )
    if not arguments:
        raise LaunchError(f"launch {verb}: say what, as for `video-ssl {verb}`; see its --help.")
    if verb == "pretrain":
        return _pretrain(arguments[0], arguments[1:], profile, chain=chain)
    if chain:
        raise LaunchError("--chain goes with pretrain: it makes jobs of its stages and evaluation.")
    if verb == "evaluate":
        return _evaluate(arguments, profile)
    return _embed(list(arguments), profile)


def _one_process(profile: LaunchProfile) -> LaunchProfile:
    gpus = min(profile.gpus_per_node, 1) if profile.gpus_per_node is not None else None
    return dataclasses.replace(profile, nodes=1, tasks_per_node=1, gpus_per_node=gpus)


def _pretrain(
    name: str, overrides: Sequence[str], profile: LaunchProfile, *, chain: bool
) -> LaunchPlan:
    from video_ssl.pretrain.recipe import load_pretrain_recipe, recipe_to_dict

    runs = expand(overrides)
    recipes = [load_pretrain_recipe(name, run.overrides) for run in runs]
    home = recipes[0].folder
    _refuse_equal(recipes, [run.name for run in runs])
    files: dict[Path, Any] = {}
    tasks = []
    for point, recipe in zip(runs, recipes, strict=True):
        run = home / point.name if point.name else home
        recipe = recipe.replace(run=str(run))
        files[run / "launch" / "pretrain.yaml"] = recipe_to_dict(recipe)
        if point.settings:
            files[run / "launch" / SETTINGS] = point.settings
        tasks.append(_task("pretrain", "pretrain", [str(run / "launch" / "pretrain.yaml")], run))
    before: list[Step] = []
    if chain and len(runs) == 1:
        before = _stages(recipes[0], profile, files)
    steps = [
        *before,
        Step(
            name="pretrain",
            tasks=tuple(tasks),
            profile=_asking_for(profile, recipes),
            after=tuple(step.name for step in before),
        ),
    ]
    read = _evaluations(recipes[0]) if chain else []
    for name, (evaluation, own) in zip(_names_of([e for e, _ in read]), read, strict=True):
        evaluations = [
            _task(name, "evaluate", [evaluation, f"encoder={task.run}"], Path(task.run))
            for task in tasks
        ]
        steps.append(
            Step(
                name=name,
                tasks=tuple(evaluations),
                profile=profile.asking_for(
                    readers=own.embed.num_workers, gpus=recipes[0].made_for_gpus
                ),
                after=("pretrain",),
                how="aftercorr" if len(runs) > 1 else "afterok",
            )
        )
    if len(runs) > 1:
        steps.append(
            Step(
                name="results",
                tasks=(_task("results", "results", [], home),),
                profile=_one_process(profile),
                after=tuple(_names_of([e for e, _ in read])) or ("pretrain",),
                how="afterany",
            )
        )
    return LaunchPlan(home, steps, files)


def _names_of(evaluations: Sequence[str]) -> list[str]:
    """What the jobs of evaluations are called, each otherwise: their files are written under these names.

    >>> _names_of(["demo"]), _names_of(["a/x.yaml", "b/x.yaml", "c.yaml"])
    (['evaluate'], ['evaluate-x', 'evaluate-x-2', 'evaluate-c'])
    """
    if len(evaluations) == 1:
        return ["evaluate"]
    names: list[str] = []
    for evaluation in evaluations:
        plain = name = f"evaluate-{Path(evaluation).stem}"
        count = 1
        while name in names:
            count += 1
            name = f"{plain}-{count}"
        names.append(name)
    return names


def _evaluations(recipe: PretrainRecipe) -> list[tuple[str, EvaluateRecipe]]:
    """The evaluations that a recipe names, read: what is wrong with them is said now."""
    from video_ssl.evaluate.recipe import read_evaluations

    read = read_evaluations(recipe.evaluations, recipe.run)
    return list(zip(recipe.evaluations, read, strict=True))


def _refuse_equal(recipes: Sequence[Any], names: Sequence[str]) -> None:
    """Two runs of a grid must be two, in what they train and in where they write."""
    for i, recipe in enumerate(recipes):
        for j in range(i):
            if recipe == recipes[j] or names[i].casefold() == names[j].casefold():
                raise LaunchError(
                    f"two runs of the grid are one: {names[j]} and {names[i]}. A key must be given once, and its "
                    "values must differ in what they mean."
                )


def _stages(recipe: Any, profile: LaunchProfile, files: dict[Path, Any]) -> list[Step]:
    """Stages that are trained from recipes, in RUN/stages/NAME, where the run looks for them."""
    from video_ssl.objectives.shared.sources import EncoderSource
    from video_ssl.pretrain.recipe import recipe_to_dict, stage_recipe

    steps: list[Step] = []
    for stage, source in recipe.objective.stages().items():
        if not isinstance(source, EncoderSource) or source.recipe is None:
            continue
        inner = stage_recipe(recipe, stage, source)
        file = inner.folder / "launch" / "pretrain.yaml"
        files[file] = recipe_to_dict(inner)
        task = _task("pretrain", "pretrain", [str(file)], inner.folder)
        own = _asking_for(profile, [inner])
        needed = [
            s.stage for s in inner.objective.stages().values() if isinstance(s, EncoderSource)
        ]
        after = tuple(f"stage-{name}" for name in needed if name is not None)
        steps.append(Step(name=f"stage-{stage}", tasks=(task,), profile=own, after=after))
    return steps


def _asking_for(profile: LaunchProfile, recipes: Sequence[PretrainRecipe]) -> LaunchProfile:
    """The profile of a job that trains one of some recipes; those of an array ask for the same."""
    return profile.asking_for(
        readers=max(_of_loader(recipe.loader) for recipe in recipes),
        gpus=any(recipe.made_for_gpus for recipe in recipes),
    )


def _of_loader(loader: LoaderConfig) -> int:
    """Processes that a job asks CPUs for; of "auto" one, which then is as many as the job was given."""
    return 1 if loader.num_workers == "auto" else loader.num_workers


def _evaluate(arguments: Sequence[str], profile: LaunchProfile) -> LaunchPlan:
    from video_ssl.evaluate.recipe import load_evaluate_recipe

    recipe = load_evaluate_recipe(arguments[0], arguments[1:])
    home = recipe.folder()
    task = _task("evaluate", "evaluate", arguments, home)
    own = profile.asking_for(readers=recipe.embed.num_workers, gpus=False)
    return LaunchPlan(home, [Step(name="evaluate", tasks=(task,), profile=own)], {})


def _embed(arguments: list[str], profile: LaunchProfile) -> LaunchPlan:
    if len(arguments) < 3 or any(a.startswith("-") for a in arguments[:3]):
        raise LaunchError(
            "launch embed ENCODER VIDEOS OUT.arrow [options]: these three come first."
        )
    if "--shard" in arguments:
        raise LaunchError("launch embed divides by itself: --set shards=N, not --shard.")
    out = Path(arguments[2])
    from video_ssl.embed.shards import shards_folder

    home = shards_folder(out)
    single, count = _one_process(profile), profile.shards
    if "--restart" in arguments:
        raise LaunchError(f"--restart would start over after every interruption: remove {home}.")
    tasks = tuple(
        _task(f"embed {k}/{count}", "embed", [*arguments, "--shard", f"{k}/{count}"], home)
        for k in range(count)
    )
    merge = _task("merge", "merge", [str(out)], home)
    steps = [
        Step(
            name="embed",
            tasks=tasks,
            profile=single.asking_for(readers=_readers(arguments), gpus=False),
        ),
        Step(name="merge", tasks=(merge,), profile=single, after=("embed",)),
    ]
    return LaunchPlan(home, steps, {})


def _readers(arguments: Sequence[str]) -> int:
    """The decoding processes of `embed`, by its flag or by default; a wrong flag is the job's to refuse."""
    from video_ssl.embed.config import EmbedConfig

    flag = "--num-workers"
    given = [b for a, b in itertools.pairwise(arguments) if a == flag]
    given += [a.partition("=")[2] for a in arguments if a.startswith(f"{flag}=")]
    return int(given[-1]) if given and given[-1].isdigit() else EmbedConfig().num_workers


def _task(name: str, verb: str, arguments: Sequence[str], run: Path) -> TaskSpec:
    for text in (str(run), *arguments):
        if unprintable(text):
            raise LaunchError(f"{verb}: {text!r} holds {unprintable(text)}: use plain text.")
    return TaskSpec(name=name, verb=verb, arguments=tuple(arguments), run=str(run.absolute()))


def write_files(plan: LaunchPlan) -> None:
    """Writes the recipe files of a plan."""
    for path, content in plan.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text_mark("launch") + to_yaml(content))
