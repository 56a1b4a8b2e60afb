"""A small SLURM on this one machine for the tests: a controller and two nodes that are daemons on ports of their own.

    python tests/launch/slurm_cluster.py up      installs what is missing (apt, as root), starts, waits for the nodes
    python tests/launch/slurm_cluster.py down    cancels jobs, stops exactly what `up` has started, removes its files
    python tests/launch/slurm_cluster.py running exit code 0 if it is up
    python tests/launch/slurm_cluster.py kill NODE | start NODE     a node that dies, and comes back

Only the standard library.  Exit code 3: SLURM cannot be brought up here (no root, no apt, a SLURM that is not ours).
No cgroups and no accounting: memory limits are not enforced and sacct has nothing to say.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

STATE = Path(os.environ.get("VIDEO_SSL_SLURM_STATE", "/tmp/video_ssl_test_slurm"))
CONFIG = Path("/etc/slurm/slurm.conf")
HOSTS = Path("/etc/hosts")
MARK = "# made by tests/launch/slurm_cluster.py"
NODES = ("n1", "n2")
PORT = 27817
PACKAGES = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
LIMIT_SEC = 120


class NotHere(Exception):
    """SLURM cannot be brought up on this machine."""


def configuration() -> str:
    """The least that makes two pretended nodes of 4 CPUs, quick to notice what happens."""
    host = socket.gethostname().split(".")[0]
    settings = {
        "ClusterName": "video_ssl_tests",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmctldPort": PORT,
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        "AuthInfo": "cred_expire=5",  # also how long a job that was queued again must wait
        "StateSaveLocation": STATE / "controller",
        "SlurmdSpoolDir": STATE / "spool-%n",
        "SlurmctldPidFile": STATE / "slurmctld.pid",
        "SlurmdPidFile": STATE / "slurmd-%n.pid",
        "SlurmctldLogFile": STATE / "slurmctld.log",
        "SlurmdLogFile": STATE / "slurmd-%n.log",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SwitchType": "switch/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/none",
        "AccountingStorageType": "accounting_storage/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "SlurmdParameters": "config_overrides",
        "SlurmctldParameters": "preempt_send_user_signal",
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "JobRequeue": 1,
        "KillWait": 5,
        "MinJobAge": 3600,
        "InactiveLimit": 0,
        "ReturnToService": 2,
        "SlurmdTimeout": 10,
        "MessageTimeout": 10,
    }
    lines = [MARK, *(f"{key}={value}" for key, value in settings.items())]
    for i, node in enumerate(NODES):
        lines.append(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={PORT + 10 + i} CPUs=4 RealMemory=8000"
        )
    common = "Nodes=ALL MaxTime=60 DefaultTime=10 State=UP"
    lines.append(f"PartitionName=main {common} Default=YES PriorityTier=1 GraceTime=20")
    lines.append(f"PartitionName=high {common} PriorityTier=10 PreemptMode=OFF")
    return "\n".join(lines) + "\n"


def run(*command: str, limit_sec: float = 20, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_sec)
    if check and done.returncode:
        raise NotHere(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout


def install() -> None:
    missing = sorted({package for tool, package in PACKAGES.items() if not shutil.which(tool)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NotHere(f"{missing} are not installed, and there is no apt-get")
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    wanted = ("apt-get", "install", "-y", "--no-install-recommends", *missing)
    try:
        run(*wanted, limit_sec=LIMIT_SEC)
    except NotHere:
        run("apt-get", "update", limit_sec=LIMIT_SEC)
        run(*wanted, limit_sec=LIMIT_SEC)


def daemon(*command: str) -> None:
    with open(STATE / "starts.log", "ab") as log:
        subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=20, check=False
        )


def start_munge() -> None:
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    for folder, mode in (
        ("/run/munge", 0o755),
        ("/var/log/munge", 0o700),
        ("/var/lib/munge", 0o700),
    ):
        os.makedirs(folder, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
        os.chmod(folder, mode)
    key = Path("/etc/munge/munge.key")
    if not key.is_file():
        key.write_bytes(os.urandom(1024))
        shutil.chown(key, "munge", "munge")
        key.chmod(0o400)
    daemon("runuser", "-u", "munge", "--", shutil.which("munged") or "munged", "--force")
    (STATE / "munge_is_ours").touch()


def name_nodes() -> None:
    """The first node's name is the address at which processes meet."""
    for node in NODES:
        try:
            socket.gethostbyname(node)
        except OSError:
            with open(HOSTS, "a", encoding="utf-8") as file:
                file.write(f"127.0.0.1 {node} {MARK}\n")


def forget_nodes() -> None:
    """Takes the lines of `name_nodes` out again; in place, since containers mount the file."""
    lines = HOSTS.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.rstrip().endswith(MARK)]
    if kept != lines:
        HOSTS.write_text("".join(kept), encoding="utf-8")


def process_of(name: str, program: str) -> int | None:
    """The number in a pid file of ours, if such a process of that name is alive."""
    try:
        number = int((STATE / f"{name}.pid").read_text())
        alive = Path(f"/proc/{number}/comm").read_text().strip() == program
        zombie = ") Z " in Path(f"/proc/{number}/stat").read_text()
    except (OSError, ValueError):
        return None
    return number if alive and not zombie else None


def start_node(node: str) -> None:
    if process_of(f"slurmd-{node}", "slurmd") is None:
        (STATE / f"spool-{node}").mkdir(parents=True, exist_ok=True)
        daemon("slurmd", "-N", node)


def states() -> dict[str, str]:
    text = run("sinfo", "-h", "-p", "main", "-N", "-o", "%N %t", check=False)
    return dict(line.split()[:2] for line in text.splitlines() if line.strip())


def up() -> None:
    if os.geteuid() != 0:
        raise NotHere("only root can start it")
    if CONFIG.exists() and not CONFIG.read_text().startswith(MARK):
        raise NotHere(f"{CONFIG} is not ours: it is left alone")
    install()
    (STATE / "controller").mkdir(parents=True, exist_ok=True)
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(configuration())
    name_nodes()
    start_munge()
    if process_of("slurmctld", "slurmctld") is None:
        daemon("slurmctld")
    for node in NODES:
        start_node(node)
    end = time.monotonic() + 30
    while time.monotonic() < end:
        found = states()
        if set(found) == set(NODES) and set(found.values()) <= {"idle", "mix", "alloc", "comp"}:
            return
        time.sleep(0.2)
    raise NotHere(f"the nodes did not come up: {states()}; see {STATE}/*.log")


def end_process(name: str, program: str, number: int = signal.SIGTERM) -> None:
    pid = process_of(name, program)
    if pid is None:
        return
    os.kill(pid, number)
    end = time.monotonic() + 5
    while process_of(name, program) == pid and time.monotonic() < end:
        time.sleep(0.05)
    if process_of(name, program) == pid:
        os.kill(pid, signal.SIGKILL)


def down() -> None:
    if not STATE.is_dir() or not CONFIG.exists() or not CONFIG.read_text().startswith(MARK):
        return
    if process_of("slurmctld", "slurmctld") is not None:
        jobs = run("squeue", "-h", "-o", "%A", check=False).split()
        if jobs:
            run("scancel", *set(jobs), check=False)
            end = time.monotonic() + 10
            while run("squeue", "-h", check=False).strip() and time.monotonic() < end:
                time.sleep(0.2)
    for node in NODES:
        end_process(f"slurmd-{node}", "slurmd")
    end_process("slurmctld", "slurmctld")
    if (STATE / "munge_is_ours").exists():
        shutil.copy("/run/munge/munged.pid", STATE / "munged.pid")
        end_process("munged", "munged")
    forget_nodes()
    CONFIG.unlink()
    shutil.rmtree(STATE, ignore_errors=True)


def main(words: list[str]) -> int:
    actions = {"up": up, "down": down}
    try:
        if len(words) == 1 and words[0] in actions:
            actions[words[0]]()
        elif words == ["running"]:
            return 0 if process_of("slurmctld", "slurmctld") is not None else 1
        elif len(words) == 2 and words[0] == "kill":
            end_process(f"slurmd-{words[1]}", "slurmd", signal.SIGKILL)
        elif len(words) == 2 and words[0] == "start":
            start_node(words[1])
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (NotHere, OSError, subprocess.TimeoutExpired) as err:
        print(f"no SLURM here: {err}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
