"""The test cluster leaves the machine's hosts file as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


def test_the_lines_added_to_the_hosts_file_are_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Was wrong: `down` left them."""
    spec = importlib.util.spec_from_file_location(
        "slurm_cluster", Path(__file__).with_name("slurm_cluster.py")
    )
    assert spec is not None
    assert spec.loader is not None
    cluster = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cluster)
    hosts, before = tmp_path / "hosts", "127.0.0.1 localhost\n# a comment\n10.0.0.1 n10\n"
    hosts.write_text(before)
    monkeypatch.setattr(cluster, "HOSTS", hosts)
    monkeypatch.setattr(cluster, "NODES", ("no-such-node-1.invalid", "no-such-node-2.invalid"))
    cluster.name_nodes()
    assert len(hosts.read_text().splitlines()) == 5
    hosts.write_text(hosts.read_text() + "10.0.0.2 added later\n")
    cluster.forget_nodes()
    assert hosts.read_text() == before + "10.0.0.2 added later\n"
