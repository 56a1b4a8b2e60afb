"""URIs that cannot be fetched: told as what they are; an outage makes no video a bad one; secrets stay out of texts."""

import http.server
import json
import logging
import socket
import threading

import numpy as np
import pytest

from video_ssl.clips.decoders.reader import BadVideo
from video_ssl.clips.pipeline import LoaderConfig, Pipeline
from video_ssl.clips.reading import open_video
from video_ssl.clips.upkeep.config import ScanConfig, TranscodeConfig
from video_ssl.clips.upkeep.isolated import AwayError
from video_ssl.clips.upkeep.scan import scan_table
from video_ssl.clips.upkeep.transcode import transcode_table
from video_ssl.datasets import open_table
from video_ssl.datasets.remote import fetching as remote
from video_ssl.datasets.remote.errors import FetchError, Unreachable, explained, redacted
from video_ssl.datasets.table import Table, TableError

pytest.importorskip("aiohttp")


class _Handler(http.server.BaseHTTPRequestHandler):
    """/CODE/... answers with the code, as often as `server.down` says; then with the video."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        asked = self.server.asked[path] = self.server.asked.get(path, 0) + 1
        code = int(path.split("/")[1]) if asked <= self.server.down else 200
        self.send_response(code)
        if code in (429, 503) and self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        content = self.server.content if code == 200 else b""
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def server(videos, tmp_path, monkeypatch):
    monkeypatch.setenv("VIDEO_SSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAITS_SEC", (0.01, 0.01, 0.02, 0.02))
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    found.content = (videos / "gop12.mp4").read_bytes()
    found.asked, found.down, found.retry_after = {}, 10**9, None
    threading.Thread(target=found.serve_forever, daemon=True).start()
    found.uri = f"http://127.0.0.1:{found.server_port}"
    yield found
    found.shutdown()
    found.server_close()


@pytest.fixture
def nobody():
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (403, r"may not be read: HTTP 403 \(forbidden\)\. Is a signature or a login"),
        (401, r"may not be read: HTTP 401 \(unauthorized\)"),
        (404, r"does not exist \(HTTP 404 \(not found\)\)"),
        (410, r"does not exist \(HTTP 410"),
        (418, r"cannot be fetched: HTTP 418"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_and_not_tried_again(server, code, text):
    """Was wrong: every status was "does not exist"."""
    with pytest.raises(BadVideo, match=text):
        open_video(f"{server.uri}/{code}/a.mp4", timeout_sec=20)
    assert server.asked == {f"/{code}/a.mp4": 2}  # HEAD and GET


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_server_that_is_down_is_asked_again_and_is_no_fault_of_the_file(server, code):
    """Was wrong: "does not exist", at once."""
    with pytest.raises(
        Unreachable, match=rf"/{code}/a\.mp4 cannot be reached now: the server answers HTTP {code} "
    ):
        open_video(f"{server.uri}/{code}/a.mp4", timeout_sec=20)
    assert server.asked == {f"/{code}/a.mp4": 10}
    server.down = 15
    with open_video(f"{server.uri}/{code}/a.mp4", timeout_sec=20) as reader:
        assert reader.info.num_frames > 0


@pytest.mark.parametrize(("asked", "tries"), [("0", 5), ("300", 1), ("soon", 5), (None, 5)])
def test_a_server_may_ask_for_a_longer_wait_within_the_limit(server, asked, tries, monkeypatch):
    server.retry_after = asked
    waits = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    with pytest.raises(Unreachable):
        remote.fetch(f"{server.uri}/429/a.mp4", timeout_sec=400)
    assert server.asked == {"/429/a.mp4": 2 * tries}
    server.retry_after = "7"
    with pytest.raises(Unreachable):
        remote.fetch(f"{server.uri}/503/a.mp4", timeout_sec=400)
    assert waits[-4:] == [7.0] * 4
    with pytest.raises(Unreachable):  # not longer than a video may take
        remote.fetch(f"{server.uri}/503/b.mp4", timeout_sec=5)
    assert server.asked["/503/b.mp4"] == 2


def test_silence_is_the_fault_of_the_file_only_where_its_server_answers():
    """Was wrong: a network that swallows everything made every video a bad one, after its time."""
    with socket.socket() as mute:  # takes connections, and never says a word
        mute.bind(("127.0.0.1", 0))
        mute.listen(50)
        uri = f"http://127.0.0.1:{mute.getsockname()[1]}/a.mp4"
        with pytest.raises(
            Unreachable, match="takes longer than 1 s to fetch, and nothing came for 1 s"
        ):
            open_video(uri, timeout_sec=1)


def test_nobody_listens_and_no_such_host(server, nobody):
    with pytest.raises(Unreachable, match="cannot be reached now: connection refused"):
        open_video(f"{nobody}/a.mp4", timeout_sec=20)
    with pytest.raises(Unreachable, match="cannot be reached now: no such host"):
        open_video("http://no-such-host.invalid/a.mp4", timeout_sec=20)
    with pytest.raises(Unreachable, match="connection refused"):
        open_table(f"{nobody}/list.csv")


class _OfBotocore(Exception):
    def __init__(self, status):
        super().__init__("An error occurred (SlowDown)")
        self.response = {
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {"retry-after": "3"}}
        }


class EndpointConnectionError(Exception):
    """Called as botocore calls it."""


class HttpError(Exception):
    """As gcsfs has it."""

    def __init__(self, code):
        super().__init__("quota")
        self.code = code


@pytest.mark.parametrize(
    ("err", "kind", "reason"),
    [
        (_OfBotocore(503), Unreachable, "HTTP 503"), (_OfBotocore(403), FetchError, "HTTP 403"),
        (EndpointConnectionError("Could not connect to https://h/?X-Sig=s3cret"), Unreachable, "no connection"),
        (HttpError(429), Unreachable, "HTTP 429"),
        (socket.gaierror(-2, "Name or service not known"), Unreachable, "no such host"),
        (ConnectionResetError(104, "reset"), Unreachable, "reset"), (TimeoutError(), Unreachable, "no answer in time"),
        (OSError(101, "Network is unreachable"), Unreachable, "network is unreachable"),
        (FileNotFoundError("k"), FetchError, "does not exist"), (PermissionError("k"), FetchError, "permission denied"),
        (ValueError("bad"), FetchError, r"cannot be fetched (ValueError: bad)"),
    ],
)  # fmt: skip
def test_errors_of_other_file_systems(err, kind, reason):
    for given in (err, _caused(err)):
        found = explained("s3://bucket/a.mp4", given)
        assert type(found) is kind
        if given is err:
            assert reason in found.reason
        assert "s3cret" not in str(found)
    assert getattr(explained("s3://b", _OfBotocore(503)), "retry_after_sec", None) == 3


def _caused(err):
    """As s3fs and fsspec hide it."""
    try:
        try:
            raise err
        except Exception as inner:
            raise FileNotFoundError("s3://bucket/a.mp4") from inner
    except FileNotFoundError as outer:
        return outer if not isinstance(err, (PermissionError, ValueError)) else err


# What an outage does to the work


def first_frame(record, reader, rng, progress):
    return {"video": reader.frames([0])}


def test_training_stops_at_an_outage_and_counts_no_bad_video(server, nobody, tmp_path, videos):
    """Was wrong: every video elsewhere became a bad one, in the skip list for good."""
    for uri in (f"{nobody}/a.mp4", f"{server.uri}/503/b.mp4"):
        table = Table.from_columns({"source": [str(videos / "gop12.mp4"), uri]})
        pipeline = Pipeline(
            [(table, 1.0)], first_frame, seed=0, global_batch_size=2, num_steps=3,
            config=LoaderConfig(num_workers=0, max_bad_share=1.0), skip_log=tmp_path / "skipped.jsonl",
        )  # fmt: skip
        with (
            pytest.raises(Unreachable, match="The file is not counted as broken"),
            pipeline as batches,
        ):
            list(batches)
        assert (pipeline.stats.bad_samples, pipeline.stats.bad_videos) == (0, {})
        assert not (tmp_path / "skipped.jsonl").exists()


@pytest.mark.slow
def test_training_with_workers_stops_at_an_outage_too(server, nobody, videos):
    table = Table.from_columns({"source": [f"{nobody}/a.mp4"] * 2, "id": ["a", "b"]})
    config = LoaderConfig(num_workers=1, video_timeout_sec=1)
    pipeline = Pipeline(
        [(table, 1.0)], first_frame, seed=0, global_batch_size=2, num_steps=3, config=config
    )
    with pytest.raises(Exception, match="connection refused"), pipeline as batches:
        list(batches)
    assert pipeline.stats.bad_samples == 0


def test_embedding_does_not_skip_what_cannot_be_reached(nobody, server):
    from video_ssl.embed.window_workers import WindowJob, record_pieces

    table = Table.from_columns({"source": [f"{nobody}/a.mp4"]})
    job = WindowJob.__new__(WindowJob)
    values = {
        "table": table,
        "first_record": 0,
        "first_window": 0,
        "backend": "pyav",
        "video_timeout_sec": 20.0,
    }
    for name, value in (values | {"windows": None, "check": False}).items():
        object.__setattr__(job, name, value)
    with pytest.raises(Unreachable, match="connection refused"):
        list(record_pieces(job, table.record(0)))


@pytest.mark.parametrize("codes", [(200, 404, 503), (503, 404, 200)])
@pytest.mark.parametrize("verb", ["scan", "transcode"])
def test_what_cannot_be_reached_is_looked_at_again_by_the_same_command(
    server, verb, codes, tmp_path
):
    """Were wrong: it stood in the skip list as a file that does not exist; and a skip list that began with it was taken
    for somebody else's file, so that the same command was refused."""
    rows = [f"{server.uri}/{code}/v.mp4" for code in codes]
    table = Table.from_columns({"source": rows})

    def run():
        if verb == "scan":
            return scan_table(
                table,
                tmp_path / "o.arrow",
                ScanConfig(num_workers=1, timeout_sec=2),
                progress=False,
            )
        return transcode_table(
            table, tmp_path / "o", TranscodeConfig(num_workers=1, timeout_sec=2), progress=False
        )

    with pytest.raises(
        AwayError,
        match=r"without 1 records .*503/v\.mp4.*same command again",
    ):
        run()
    name = "o.skipped.jsonl" if verb == "scan" else "o/skipped.jsonl"
    lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
    assert [(line["source"][-9:], line.get("away")) for line in lines] == [
        (f"{code}/v.mp4", True if code == 503 else None) for code in codes if code != 200
    ]
    assert len(open_table(tmp_path / ("o.arrow" if verb == "scan" else "o/table.arrow"))) == 1
    asked = dict(server.asked)
    server.down = 0
    result = run()
    assert (len(result.table), len(result.skipped)) == (2, 1)
    assert {path for path in server.asked if server.asked[path] != asked[path]} == {"/503/v.mp4"}


def test_an_outage_of_everything_is_told_as_one(nobody, server, tmp_path):
    table = Table.from_columns({"source": [f"{nobody}/a.mp4"]})
    with pytest.raises(
        TableError, match=r"not one of 1 .* cannot be reached now: connection refused"
    ):
        scan_table(
            table, tmp_path / "o.arrow", ScanConfig(num_workers=1, timeout_sec=4), progress=False
        )


# Secrets


SECRETS = ("s3cret", "hunter2", "AKIA")


def test_secrets_of_uris_stay_out_of_errors_logs_and_lists(server, tmp_path, caplog):
    host = server.uri.removeprefix("http://")
    rows = [
        f"http://me:hunter2@{host}/{code}/v.mp4?X-Sig=s3cret&Key=AKIA" for code in (200, 403, 503)
    ]
    table = Table.from_columns({"source": rows})
    assert table.column("id").tolist()[1] == f"http://***@{host}/403/v.mp4?X-Sig=***&Key=***"
    texts = []
    with caplog.at_level(logging.DEBUG, "video_ssl"):
        for row in rows[1:]:
            with pytest.raises((BadVideo, Unreachable)) as caught:
                open_video(row, timeout_sec=20)
            texts.append(str(caught.value))
        with pytest.raises(AwayError) as away:
            scan_table(
                table,
                tmp_path / "o.arrow",
                ScanConfig(num_workers=1, timeout_sec=4),
                progress=False,
            )
        with pytest.raises(TableError) as wrong:
            open_table(f"http://me:hunter2@{host}/200/v.txtx?X-Sig=s3cret")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("video_ssl")]
    texts += [str(away.value), str(wrong.value), *ours, (tmp_path / "o.skipped.jsonl").read_text()]
    assert any("HTTP 403" in text for text in texts)
    assert not [text for text in texts if any(secret in text for secret in SECRETS)]
    np.testing.assert_array_equal(
        open_table(tmp_path / "o.arrow").arrow["source"].to_pylist(), rows[:1]
    )


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("https://host/a.mp4?sig=s3cret#s3cret", "https://host/a.mp4?sig=***"),
        ("https://host/a.mp4?s3cret", "https://host/a.mp4?***"),
        ("https://me:p@ss:hunter2@host/a.mp4", "https://***@host/a.mp4"),
        ("https://host/who@home.mp4", "https://host/who@home.mp4"),
        ("file:///a%3F.mp4", "file:///a%3F.mp4"), ("/a?b@c.mp4", "/a?b@c.mp4"), ("C:?x", "C:?x"),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_uri(given, shown):
    assert redacted(given) == shown
