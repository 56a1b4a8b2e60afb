"""Everything that the documentation says of the generated videos and of the demo recipes, measured (not a test).

    python tests/evaluate/measure_demo.py [name ...] [--out runs/measured] [--at-once 1] [--list]

Each measurement trains a recipe and evaluates it, both by the installed command, with what they say in OUT/NAME.log.
What is finished is not done again, and what was killed goes on where it was: call it again with the same words.  At the
end, and with `--list` at once, a table of all numbers in OUT; beside a share p of n videos stands its standard error,
sqrt(p (1 - p) / n).

    world        baselines without learning on clips of the main job, and the supervised network on clips, on single
                 frames, and on clips whose frames are shuffled
    student      `mvd/demo`, three seeds, and with the losses of the paper
    others       every other demo; carl and teg with three seeds
    hico         HiCo on sessions, three seeds; SimCLR on the same clips; either term alone; a constant distance
    hico_tuned   HiCo's fine-tunings as published on the actions within sessions, of these three seeds and of untrained
                 networks: all weights, the head and the statistics ("linear"), the head of a frozen encoder
    places       `const_cl/demo` and `cvrl/demo` on the same clips, three seeds: recognition, actions at boxes, tracking
    vatt         `vatt/demo`, three seeds: recognition, and words and sounds that find their videos; with one
                 transformer for all three senses, and without dropping tokens
    again        `mvd/demo` of seed 0 once more: numbers and weights must be the same to the bit
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "video_ssl"]


#: One transformer in place of the three of `vatt/demo`, of the size of its video transformer.
VATT_AGNOSTIC = (
    "objective.video=null",
    "objective.audio=null",
    "objective.text=null",
    "objective.shared={preset: null, embed_dim: 96, depth: 3, ffn_dim: 384, num_heads: 3, projection_dim: 96, "
    "tubelet_size: 2, patch_size: 16, patch_samples: 512, word_dim: 64, freeze_words: false, dropout: 0.0}",
)


@dataclass(frozen=True)
class Measurement:
    """A training, and the evaluations of its encoder.

    `words` and `evaluate_words` are overrides of the recipes; `more` names further evaluations by `probe`, with theirs.
    `of` is the measurement whose encoder is fine-tuned.
    """

    name: str
    recipe: str
    seed: int = 0
    words: tuple[str, ...] = ()
    evaluations: tuple[str, ...] = ("demo",)
    evaluate_words: tuple[str, ...] = ()
    more: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    of: str | None = None

    def commands(self, out: Path) -> list[list[str]]:
        run = out / self.name
        seed = f"seed={self.seed}"
        untrained = f"encoders.untrained=untrained:{{encoder}}@{self.seed}"
        begun = [] if self.of is None else [f"objective.init.run={out / self.of}"]
        train = ["pretrain", self.recipe, seed, f"run={run}", *begun, *self.words]
        evaluations = [
            ["evaluate", name, f"encoder={run}", seed, untrained, *self.evaluate_words]
            for name in self.evaluations
        ]
        for name, words in self.more.items():
            folder = f"out={run / 'evaluate' / name}"
            evaluations.append(
                ["evaluate", "probe", f"encoder={run}", seed, untrained, folder, *words]
            )
        return [[*COMMAND, *words] for words in (train, *evaluations)]

    def results(self, out: Path) -> list[Path]:
        names = (*self.evaluations, *self.more)
        return [out / self.name / "evaluate" / name / "results.json" for name in names]


FRAMES = ("demo_frames",)
BOTH = ("demo", "demo_frames")
# The features of evaluate/demo without its baselines, which are measured with `clips` and the students.
AS_DEMO = ("embed.cells=2", "evaluators.probe.poolings=[mean, mean_std, concat_4]")
ALONE = {"evaluations": ("probe",), "evaluate_words": AS_DEMO}
SESSIONS = ("demo_segments", "demo_topics")
# What these two find of the encoder and of its untrained twin, without the baselines, which are the same for all.
RETRIEVED = "evaluators.retrieval.ks=[1, 5, 10, 20]"
SESSIONS_ALONE = {
    "segments": (
        *AS_DEMO,
        "train=sessions:segments_train",
        "test=sessions:segments_val",
        RETRIEVED,
    ),
    "topics": (
        *AS_DEMO,
        "train=sessions:sessions_train",
        "test=sessions:sessions_val",
        RETRIEVED,
        "embed.num_clips=10",
    ),
}
SIMCLR = ("objective.method=simclr", "objective.topical_weight=0", "objective.distance_sec=null")


def of_sessions(name: str, *words: str) -> list[Measurement]:
    """`hico/demo` with other words, three seeds."""
    return [
        Measurement(f"{name}-{seed}", "hico/demo", seed, words, (), more=SESSIONS_ALONE)
        for seed in range(3)
    ]


# HiCo's settings for UCF101 but for the videos, the clips of its demo, and the length.
TUNED = (
    "data.table=sessions:segments_train",
    "validation={table: sessions:segments_val, every: 15 epochs}",
    "objective.clip={num_frames: 8, frame_stride: 8}",
    "objective.crop.size=64",
    "training.duration=15 epochs",
    "training.checkpoint_every=15 epochs",
    "optimizer.warmup=1 epoch",
    "loader.num_workers=1",
)
UNTRAINED = (
    "objective.init=null",
    "objective.encoder={architecture: r2plus1d, preset: null, depth: 10, widths: [16, 16, 32, 64, 128], "
    "block: r2plus1d, stem: r2d3d}",
)
LEARNS = {
    "ft": ("supervised/hico_ft_ucf101", ()),
    "lft": ("supervised/hico_lft_ucf101", ()),
    "frozen": ("supervised/hico_lft_ucf101", ("objective.learns=head",)),
}


def fine_tuned(seed: int) -> list[Measurement]:
    """Every way to fine-tune, of `hico-SEED` and of the same network untrained."""
    found = []
    for way, (recipe, words) in LEARNS.items():
        for name, of, more in (("hico", f"hico-{seed}", ()), ("untrained", None, UNTRAINED)):
            words_of = (*TUNED, *words, *more)
            found.append(Measurement(f"{name}_{way}-{seed}", recipe, seed, words_of, (), of=of))
    return found


GROUPS: dict[str, list[Measurement]] = {
    "world": [
        Measurement(
            "clips",
            "videomae/demo",
            words=("training.duration=2 steps", "optimizer.warmup=1 steps"),
        ),
        Measurement("supervised", "supervised/demo_r2plus1d"),
        Measurement(
            "supervised_frame",
            "supervised/demo_r2plus1d_frame",
            evaluations=("probe",),
            evaluate_words=(*AS_DEMO, "embed.num_clips=1"),
        ),
        Measurement(
            "supervised_shuffled",
            "supervised/demo_r2plus1d_shuffled",
            **ALONE,
        ),
    ],
    "student": [
        *(Measurement(f"mvd-{seed}", "mvd/demo", seed) for seed in range(3)),
        Measurement("mvd_published", "mvd/demo_published", **ALONE),
    ],
    "others": [
        *(Measurement(f"carl-{seed}", "carl/demo", seed, evaluations=FRAMES) for seed in range(3)),
        *(Measurement(f"teg-{seed}", "teg/demo", seed, evaluations=BOTH) for seed in range(3)),
        Measurement("carl_weak", "carl/demo_weak", evaluations=FRAMES),
        Measurement("videomae", "videomae/demo", **ALONE),
        Measurement("mae", "mae/demo", **ALONE),
        Measurement("cvrl", "cvrl/demo", evaluations=BOTH),
        Measurement("tcn", "tcn/demo", evaluations=FRAMES),
    ],
    "hico": [
        Measurement("hico-0", "hico/demo", evaluations=SESSIONS),
        *of_sessions("hico")[1:],
        *of_sessions("hico_simclr", *SIMCLR),
        *of_sessions("hico_visual", "objective.topical_weight=0"),
        *of_sessions("hico_topical", "objective.visual_weight=0"),
        *of_sessions("hico_constant", "objective.distance_sec=[1.0, 1.0]"),
    ],
    "hico_tuned": [item for seed in range(3) for item in fine_tuned(seed)],
    # What the loss of regions is for, beside CVRL on the same frames for the same steps; the branch of regions is
    # evaluated by hand: `video-ssl evaluate demo_boxes encoder=RUN/encoders/local`.
    "places": [
        *(
            Measurement(
                f"const_cl-{seed}",
                "const_cl/demo",
                seed,
                evaluations=("demo", "demo_boxes"),
                evaluate_words=("encoders.regions={encoder}/encoders/local",),
            )
            for seed in range(3)
        ),
        *(
            Measurement(f"cvrl-{seed}", "cvrl/demo", seed, evaluations=("demo", "demo_boxes"))
            for seed in range(3)
        ),
    ],
    "vatt": [
        Measurement(
            f"vatt{name}-{seed}", "vatt/demo", seed, words, evaluations=("demo", "demo_text")
        )
        for seed in range(3)
        for name, words in (
            ("", ()),
            ("-agnostic", VATT_AGNOSTIC),
            ("-all_tokens", ("objective.drop_token=0",)),
        )
    ],
    "again": [Measurement("mvd-0-again", "mvd/demo")],
}


def measure(wanted: Measurement, out: Path) -> None:
    """Runs what is not finished; stops at the first command that fails."""
    log = out / f"{wanted.name}.log"
    train, *evaluations = wanted.commands(out)
    todo = [train] if not (out / wanted.name / "encoder").is_dir() else []
    for words, result in zip(evaluations, wanted.results(out), strict=True):
        if not result.is_file():
            todo.append(words)
    for words in todo:
        begin = time.monotonic()
        with log.open("a") as file:
            print(f"$ {shlex.join(words)}", file=file, flush=True)
            code = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT).returncode
            seconds = time.monotonic() - begin
            print(f"[{seconds:.0f} s, exit code {code}]", file=file)
        print(f"{wanted.name}: {words[3]} {words[4]} {seconds:.0f} s, exit code {code}", flush=True)
        if code:
            return


def told(wanted: Measurement, out: Path) -> list[str]:
    """The rows of what a measurement has found, one for each encoder."""
    rows = []
    for path in wanted.results(out):
        if not path.is_file():
            continue
        found = json.loads(path.read_text())
        for encoder, entry in found["encoders"].items():
            numbers = [f"{title} {_percent(result)}" for title, result in entry["results"].items()]
            rows.append(
                f"| {wanted.name} | {path.parent.name} | {encoder} | {', '.join(numbers)} |"
            )
    classifier = out / wanted.name / "encoder" / "classifier.json"
    if classifier.is_file():
        tried = json.loads(classifier.read_text())["validation"]
        rows.append(f"| {wanted.name} | {tried['table']} | top-1 | {100 * tried['val_top1']:.1f} |")
    weights = out / wanted.name / "encoder" / "model.safetensors"
    if weights.is_file():
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
        rows.append(f"| {wanted.name} | weights | SHA-256 | {digest} |")
    return rows


def _percent(result: Mapping[str, Any]) -> str:
    headline = result["details"].get("headline")
    value = result["metrics"].get(headline["metric"] if headline else "top1")
    if value is None:
        return "-"
    total = None if headline else result.get("total")
    if not total:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ± {100 * math.sqrt(value * (1 - value) / total):.1f}"


def chosen(names: Sequence[str]) -> list[Measurement]:
    every = {item.name: item for group in GROUPS.values() for item in group}
    wanted = []
    for name in names or GROUPS:
        wanted += GROUPS[name] if name in GROUPS else [every[name]]
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of measurements, or groups: {', '.join(GROUPS)}")
    parser.add_argument("--out", type=Path, default=Path("runs/measured"))
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--list", action="store_true", help="only the numbers that are there")
    given = parser.parse_args()
    wanted = chosen(given.names)
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.list:
        with ThreadPoolExecutor(given.at_once) as pool:
            list(pool.map(lambda item: measure(item, given.out), wanted))
    for item in wanted:
        print("\n".join(told(item, given.out)) or f"| {item.name} | | | not measured |")


if __name__ == "__main__":
    main()
