"""Memory of the data workers over many clips; a measurement, not a test:

    python tests/clips/worker_memory.py [CLIPS] [WORKERS]

Prints, at 1000, 5000, 10000, ... clips, what the workers hold: USS (theirs alone) and PSS (with their share of common
pages), and what lies in /dev/shm.  Many kinds of files take part, among them one that cannot be read.
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent))

import video_maker

from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.datasets.table import Table
from video_ssl.objectives import OBJECTIVES
from video_ssl.pretrain.recipe import load_pretrain_recipe

BATCH = 20
MARKS = (1000, 5000, 10000, 20000, 50000, 100000)


def main(clips: int = 20000, workers: int = 2) -> None:
    recipe = load_pretrain_recipe("videomae/demo", ["objective.clip.num_clips=1"])
    plan = OBJECTIVES["videomae"].main_plan(recipe.objective)
    with tempfile.TemporaryDirectory() as folder:
        video_maker.make_all(Path(folder))
        Path(folder, "broken.mp4").write_bytes(b"not a video" * 99)
        sources = [str(path) for path in sorted(Path(folder).iterdir())]
        table = Table.from_columns({"source": sources})
        config = LoaderConfig(num_workers=workers, max_bad_share=1.0)
        start = time.perf_counter()
        print(f"{'clips':>7} {'clips/s':>8} {'USS MiB':>16} {'PSS MiB':>16} {'shm MiB':>8}")
        with Pipeline([(table, 1.0)], plan, seed=0, global_batch_size=BATCH, num_steps=clips // BATCH,
                      config=config) as batches:  # fmt: skip
            for step, _ in enumerate(batches, 1):
                if step * BATCH in MARKS or step * BATCH == clips - BATCH * 8:
                    report(step * BATCH, time.perf_counter() - start, batches.worker_pids)


def report(clips, seconds, pids):
    memory = [psutil.Process(pid).memory_full_info() for pid in pids if psutil.pid_exists(pid)]
    uss, pss = (" ".join(f"{getattr(m, kind) / 2**20:7.1f}" for m in memory) for kind in ("uss", "pss"))  # fmt: skip
    shm = sum(path.stat().st_size for path in Path("/dev/shm").glob("video_ssl_*")) / 2**20
    print(f"{clips:7} {clips / seconds:8.0f} {uss:>16} {pss:>16} {shm:8.1f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
