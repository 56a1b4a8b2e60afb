"""What can go wrong with a URI, with its cause, and without the secrets that URIs hold.

Three kinds are kept apart, since they ask for different things: a file that is not there or may not be read
(`FetchError`); a network or server that is down, whatever the file is (`Unreachable`); a package that is
not installed (`MissingPackage`).
"""

from __future__ import annotations

import datetime
import errno
import http
import re
import socket
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from video_ssl.datasets.parts import SIGN, each_part

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IN_TEXT = re.compile(r"""[A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>]+""")
_USER = re.compile(r"(://)[^/?#\s]*@")
_QUERY = re.compile(r"([?#])(\S*)")
# What servers say that are overloaded, being restarted, or behind a gateway that is.
_TRY_AGAIN = (408, 421, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
_NETWORK = (
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT,
)  # fmt: skip
# Errors of libraries that cannot be imported here, by name, with what they mean.
_CONNECTION = {
    "ClientConnectorDNSError": "no such host",
    "ClientConnectorCertificateError": "the certificate of the server is not trusted",
    "ClientConnectorSSLError": "no secure connection",
    "ClientConnectorError": "no connection",
    "ServerDisconnectedError": "the server closed the connection",
    "ServerTimeoutError": "no answer in time",
    "EndpointConnectionError": "no connection",
    "ConnectTimeoutError": "no answer in time",
    "ReadTimeoutError": "no answer in time",
    "ConnectionClosedError": "the server closed the connection",
}


class FetchError(ValueError):
    """A URI that cannot be fetched.  `uri` names it, `reason` is the rest of the sentence."""

    def __init__(self, uri: str, reason: str) -> None:
        super().__init__(uri, reason)
        self.uri = uri
        self.reason = reason

    def __str__(self) -> str:
        return f"{redacted(self.uri)}: {self.reason}"


class SlowFetch(FetchError):
    """A URI that is there and takes longer than it may."""


class Unreachable(ConnectionError):
    """A URI that cannot be reached now: the network or the server is down; the file may be fine.

    `retry_after_sec` is what the server asks for, if it does.
    """

    def __init__(self, uri: str, reason: str, retry_after_sec: float | None = None) -> None:
        super().__init__(reason)
        self.uri = uri
        self.reason = reason
        self.retry_after_sec = retry_after_sec

    def __str__(self) -> str:
        return (
            f"{redacted(self.uri)} cannot be reached now: {self.reason} The file is not counted as broken: look at the "
            "network and the server, then give the same command again; where only this address fails, take it out of "
            "the table."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.uri, self.reason, self.retry_after_sec)


class MissingPackage(ValueError):
    """A package for this kind of URI is not installed: not the fault of one video."""


def redacted(text: str) -> str:
    """Returns a source as logs and lists show it: a URI without password, and without the values of its query.

    >>> redacted("https://me:secret@host/a.mp4?X-Amz-Signature=abc&part=2")
    'https://***@host/a.mp4?X-Amz-Signature=***&part=***'
    >>> redacted("/videos/what?.mp4")
    '/videos/what?.mp4'
    """
    if SIGN in text:
        return each_part(text, redacted)
    if not URI.match(text) or text.startswith("file://"):
        return text
    return _QUERY.sub(_hidden, _USER.sub(r"\1***@", text), count=1)


def _hidden(query: re.Match[str]) -> str:
    parts = (part.partition("=") for part in re.split("[&;]", query[2]))
    shown = [f"{name}=***" if sign else "***" for name, sign, _ in parts if name or sign]
    return query[1] + "&".join(shown)


def redacted_text(text: str) -> str:
    """Returns a text with all URIs in it as `redacted` shows them."""
    return _IN_TEXT.sub(lambda found: redacted(found[0]), text)


def explained(uri: str, err: BaseException) -> FetchError | Unreachable | MissingPackage:
    """Returns what an error of a file system means.

    Libraries hide the reason in what caused their error (fsspec calls every HTTP error of `open` a file that is not
    there), so the causes are looked at first.
    """
    chain = list(_causes(err))
    for cause in chain:
        if isinstance(cause, (FetchError, Unreachable, MissingPackage)):
            return cause
    for cause in chain:
        status = _status(cause)
        if status is not None:
            return _of_status(uri, status, cause)
    for cause in chain:
        what = _connection_problem(cause)
        if what:
            return Unreachable(uri, f"{what}.")
    if any(isinstance(cause, FileNotFoundError) for cause in chain):
        return FetchError(uri, "does not exist.")
    if any(isinstance(cause, PermissionError) for cause in chain):
        return FetchError(uri, "may not be read (permission denied).")
    text = redacted_text(str(err)).strip().rstrip(".") or "no reason given"
    return FetchError(uri, f"cannot be fetched ({type(err).__name__}: {text}).")


def _causes(err: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, the deepest first."""
    chain: list[BaseException] = []
    current: BaseException | None = err
    while current is not None and len(chain) < 20:
        chain.append(current)
        current = current.__cause__ or current.__context__
    yield from reversed(chain)


def _status(err: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, botocore, gcsfs or urllib carries."""
    response = getattr(err, "response", None)
    if isinstance(response, dict):  # botocore
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(err, "status", None) or getattr(err, "code", None)
    return found if isinstance(found, int) and 300 <= found < 600 else None


def _of_status(uri: str, status: int, err: BaseException) -> FetchError | Unreachable:
    try:
        phrase = http.HTTPStatus(status).phrase.lower()
    except ValueError:
        phrase = "unknown"
    answer = f"HTTP {status} ({phrase})"
    if status in _TRY_AGAIN or status >= 500:
        return Unreachable(uri, f"the server answers {answer}.", _retry_after(err))
    if status in (404, 410):
        return FetchError(uri, f"does not exist ({answer}).")
    if status in (401, 403, 407):
        return FetchError(
            uri, f"may not be read: {answer}. Is a signature or a login missing or expired?"
        )
    return FetchError(uri, f"cannot be fetched: {answer}.")


def _retry_after(err: BaseException) -> float | None:
    """Seconds of the header Retry-After, which is a number or a date."""
    headers = getattr(err, "headers", None)
    if headers is None and isinstance(getattr(err, "response", None), dict):
        headers = err.response.get("ResponseMetadata", {}).get("HTTPHeaders")  # type: ignore[attr-defined]
    text = (
        "" if headers is None else str(headers.get("Retry-After", headers.get("retry-after", "")))
    )
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, (moment - datetime.datetime.now(moment.tzinfo)).total_seconds())


def _connection_problem(err: BaseException) -> str:
    """What is wrong with the connection, or "" for an error that is about something else."""
    if isinstance(err, socket.gaierror):
        return f"no such host ({err.strerror or err})"
    if isinstance(err, ConnectionRefusedError):
        return "connection refused"
    if isinstance(err, (ConnectionResetError, ConnectionAbortedError, BrokenPipeError)):
        return "the connection was reset"
    if isinstance(err, TimeoutError):
        return "no answer in time"
    names = {cls.__name__ for cls in type(err).__mro__}
    for name, meaning in _CONNECTION.items():
        if name in names:
            text = redacted_text(str(err)).strip().rstrip(".")
            return f"{meaning} ({text})" if text else meaning
    if isinstance(err, OSError) and err.errno in _NETWORK:
        return (err.strerror or "no connection").lower()
    return ""
