"""How long a large table takes to open, and what it costs a worker process.  Not a test: prints a table.

    python tests/datasets/measure_tables.py --rows 10000000 --workers 4 --folder /tmp/measure

Private memory is what a process holds alone (USS), proportional memory (PSS) adds its share of the mapped pages.
Every worker gets the pickled table, draws random records, and is compared with a worker that gets none.
"""

import argparse
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

WORKER = """
import pickle, sys, time
import numpy as np
import video_ssl.datasets.table
rows, seed = int(sys.argv[1]), int(sys.argv[2])
begin = time.perf_counter()
table = pickle.load(sys.stdin.buffer)
took = time.perf_counter() - begin
drawn = np.random.default_rng(seed).integers(0, rows, 20000)
begin = time.perf_counter()
for index in drawn if table is not None else ():
    table.record(int(index))
per_record = (time.perf_counter() - begin) / len(drawn)
print(took, per_record, flush=True)
time.sleep(float(sys.argv[3]))
"""


def memory_mib(pid):
    """(USS, PSS) of a process in MiB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0]) / 1024
    return fields["Private_Clean"] + fields["Private_Dirty"], fields["Pss"]


def timed(what, function):
    begin = time.perf_counter()
    result = function()
    print(f"{what:58} {time.perf_counter() - begin:8.3f} s", flush=True)
    return result


def write_csv(path, rows):
    with open(path, "w") as file:
        file.write("path,class,num_frames\n")
        for begin in range(0, rows, 100_000):
            file.write("".join(
                f"videos/{i // 10_000:05d}/clip_{i:09d}.mp4,class {i % 400:03d},{i % 300 + 10}\n"
                for i in range(begin, min(begin + 100_000, rows))
            ))  # fmt: skip


def workers(what, table, rows, count):
    """Starts the workers, waits until all have drawn their records, and prints the mean of their memory."""
    content = pickle.dumps(table)
    command = [sys.executable, "-c", WORKER, str(rows)]
    processes = [
        subprocess.Popen([*command, str(n), "60"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for n in range(count)
    ]
    for process in processes:
        process.stdin.write(content)
        process.stdin.close()
    said = [[float(word) for word in process.stdout.readline().split()] for process in processes]
    memory = np.array([memory_mib(process.pid) for process in processes])
    for process in processes:
        process.kill()
        process.wait()
    took, per_record = np.array(said).mean(0)
    uss, pss = memory.mean(0)
    print(
        f"{what:34} pickled {len(content):11,} B  opens in {took * 1e3:7.2f} ms  "
        f"{per_record * 1e6:6.1f} us/record  private {uss:7.1f} MiB  proportional {pss:7.1f} MiB",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/measure_tables"))
    given = parser.parse_args()
    os.environ["VIDEO_SSL_CACHE"] = str(given.folder / "cache")
    from video_ssl.datasets import open_table

    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    csv = given.folder / "big.csv"
    print(f"{given.rows:,} rows, {given.workers} workers")
    timed("write the CSV (python)", lambda: write_csv(csv, given.rows))
    print(f"{'size of the CSV':58} {csv.stat().st_size / 2**20:8.0f} MiB")
    table = timed("open the CSV the first time (read, kept as Arrow)", lambda: open_table(csv))
    table = timed("open the CSV again (mapped)", lambda: open_table(csv))
    timed("save as .arrow", lambda: table.save(given.folder / "big.arrow"))
    table = timed("open the .arrow", lambda: open_table(given.folder / "big.arrow"))
    timed("draw one record", lambda: table.record(given.rows // 2))
    timed("read the column label", lambda: table.column("label"))
    chosen = np.random.default_rng(0).permutation(given.rows)[: given.rows // 2]
    half = timed("select half of the rows at random", lambda: table.select(chosen))
    timed("pickle the selection the first time (rows kept as file)", lambda: pickle.dumps(half))
    workers("no table", None, given.rows, given.workers)
    workers("the table", table, given.rows, given.workers)
    workers("the selection", half, len(half), given.workers)
    shutil.rmtree(given.folder)


if __name__ == "__main__":
    main()
