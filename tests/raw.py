"""Bytes on a socket, answers as they come back, and what every refusal must look like.

answer = ask(port, b"GET /nope HTTP/1.1\r\nhost: x\r\n\r\n")
assert_problem(answer, 404, "not-found")
"""

import json
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from app.http_edge import SECURITY

TIMEOUT_S = 20.0
LEAKS = (b"Traceback", b'File "', b"/site-packages/", b"/blobs/", b".py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """A connection that sends bytes as they are and reads whole answers."""

    def __init__(self, port: int, *, receive_bytes: int | None = None) -> None:
        """`receive_bytes`: what the kernel may hold for it; None leaves that to the kernel."""
        self._socket = socket.socket()
        self._socket.settimeout(TIMEOUT_S)
        if receive_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.connect(("127.0.0.1", port))
        self._buffer = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close at once."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send, whether or not the other side still listens."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return

    def pour(self, data: bytes, pause_s: float = 0.5) -> None:
        """Send until the other side takes nothing more for a while."""
        left = memoryview(data)
        while left and select.select([], [self._socket], [], pause_s)[1]:
            left = left[self._socket.send(left[: 1 << 16]) :]

    def readable(self, within_s: float) -> bool:
        """Wait this long, or until something arrives."""
        return bool(select.select([self._socket], [], [], within_s)[0])

    def finish(self) -> None:
        """Say that nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self) -> Answer | None:
        """The next answer, interim ones skipped; None where the connection ended before one."""
        while True:
            head = self._until(b"\r\n\r\n")
            if head is None:
                return None
            first, *lines = head.decode("latin-1").split("\r\n")
            headers: dict[str, str] = {}
            for name, _, value in (line.partition(":") for line in lines if line):
                known = headers.get(name.lower())
                headers[name.lower()] = value.strip() if known is None else f"{known}, {value}"
            status = int(first.split()[1])
            if status >= 200:
                return Answer(status=status, headers=headers, body=self._body(headers))

    def line(self) -> bytes | None:
        """The next line as it comes."""
        return self._until(b"\r\n")

    def ended(self, within_s: float) -> bool:
        """Whether the other side closes within this time."""
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._socket.recv(1 << 16):
                    return True
            except TimeoutError:
                return False
            except ConnectionResetError:
                return True
        return False

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            parts = []
            while size := int(self._until(b"\r\n") or b"0", 16):
                parts.append(self._exactly(size + 2)[:-2])
            self._until(b"\r\n")
            return b"".join(parts)
        return self._exactly(int(headers.get("content-length", 0)))

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size and self._more():
            pass
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    def _more(self) -> bool:
        try:
            chunk = self._socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._buffer += chunk
        return bool(chunk)


def request(
    method: str,
    target: str,
    body: bytes = b"",
    *,
    key: str = "",
    headers: Iterable[tuple[str, str]] = (),
    version: str = "1.1",
) -> bytes:
    """One request with `Host`, `Content-Length` and the key, unless `headers` has its own."""
    given = [(name.lower(), value) for name, value in headers]
    names = {name for name, _ in given}
    default = [("host", "gearshift"), ("authorization", f"Bearer {key}")]
    if body or method in ("POST", "PUT"):
        default += [("content-type", "application/json"), ("content-length", str(len(body)))]
    if "transfer-encoding" in names:
        names.add("content-length")
    lines = [f"{method} {target} HTTP/{version}"]
    lines += [f"{name}: {value}" for name, value in default if name not in names]
    lines += [f"{name}: {value}" for name, value in given]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def ask(port: int, data: bytes) -> Answer:
    """Send on a new connection and return the answer; there must be one."""
    with Connection(port) as connection:
        connection.send(data)
        answer = connection.answer()
    assert answer is not None, f"no answer to {data[:200]!r}"
    return answer


def assert_problem(answer: Answer, status: int, code: str) -> dict[str, Any]:
    """Hold a refusal against RFC 9457, with its headers, and nothing inside may leak."""
    assert (answer.status, answer.body[:0]) == (status, b""), (answer.status, answer.body[:400])
    assert answer.headers["content-type"] == "application/problem+json"
    for name, value in SECURITY:
        assert answer.headers.get(name) == value, (name, answer.headers)
    problem: dict[str, Any] = answer.json()
    assert problem["type"] == f"urn:gearshift:problem:{problem['code']}"
    assert problem["status"] == status
    assert problem["code"] == code, problem
    for member in ("title", "detail", "request_id"):
        assert isinstance(problem[member], str) and problem[member], (member, problem)
    assert not any(leak in answer.body for leak in LEAKS), answer.body[:400]
    return problem
