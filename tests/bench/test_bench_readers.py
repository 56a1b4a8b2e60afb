"""`bench readers` compares with a plain decode and reports what differs; its numbers are not tested."""

import json

import pytest

from video_ssl.bench import readers as bench
from video_ssl.clips.decoders.backends import missing
from video_ssl.clips.decoders.reader import READERS, BadVideo


def test_compare_says_exact_or_what_differs(odd_videos):
    assert bench.compare((str(odd_videos / "packed_b.avi"), "pyav")) == "exact"
    if missing("decord"):
        pytest.skip(missing("decord"))
    assert bench.compare((str(odd_videos / "plain.mp4"), "decord")) == "exact"
    said = bench.compare((str(odd_videos / "transport.ts"), "decord"))
    assert "/60 in order" in said
    with pytest.raises(BadVideo, match="counts 48 frames instead of 45"):
        bench.compare((str(odd_videos / "edit_list.mp4"), "decord"))


def test_one_run_prints_and_writes_both_tables(tmp_path, monkeypatch, capsys):
    odd = {name: bench.ODD_VIDEOS[name] for name in ("plain.mp4", "transport.ts", "av1.mp4")}
    monkeypatch.setattr(bench, "ODD_VIDEOS", odd)
    monkeypatch.setattr(bench, "SIZES", {"128x96": (96, 128)})
    result = bench.bench_readers(tmp_path, out=tmp_path / "r.json", draws=2, num_frames=80)
    assert json.loads((tmp_path / "r.json").read_text()) == result
    assert result["exact_wherever_used"] is True
    usable = [name for name in READERS if missing(name) is None]
    for name in odd:
        assert result["exactness"][name]["pyav"] == {"result": "exact", "used": True}
        assert set(usable) <= set(result["exactness"][name])
    assert [(row["size"], row["gop"]) for row in result["speed"]] == [
        ("128x96", 12),
        ("128x96", 250),
    ]
    for row in result["speed"]:
        for name in usable:
            clip, whole = row[name]["clip"], row[name]["whole"]
            assert clip["frames_per_sec"] == pytest.approx(16 / clip["wall_ms"] * 1e3)
            assert whole["frames_per_sec"] == pytest.approx(80 / whole["wall_ms"] * 1e3)
    printed = capsys.readouterr().out
    assert "exact on every file that it is used on: True" in printed
    assert "16 frames" in printed
