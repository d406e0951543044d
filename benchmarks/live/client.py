"""Open-loop load: each request leaves when its time has come, over connections that are kept."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer; `latency_s` counts from the time at which the request was to be sent."""

    status: int
    headers: dict[str, str]
    body: bytes
    latency_s: float
    sent_late_s: float


class _Connection(asyncio.Protocol):
    def __init__(self, free: "list[_Connection]") -> None:
        self._free = free
        self._buffer = bytearray()
        self._head_end = -1
        self._length = 0
        self.transport: asyncio.Transport | None = None
        self.answer: asyncio.Future[tuple[int, dict[str, str], bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, dict[str, str], bytes]]":
        assert self.transport is not None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._head_end < 0:
            self._head_end = self._buffer.find(b"\r\n\r\n")
            if self._head_end < 0:
                return
            head = bytes(self._buffer[: self._head_end]).decode("latin-1").split("\r\n")
            self._status = int(head[0].split()[1])
            pairs = (line.partition(":") for line in head[1:])
            self._headers = {name.lower(): value.strip() for name, _, value in pairs}
            self._length = int(self._headers.get("content-length", "0"))
        end = self._head_end + 4 + self._length
        if len(self._buffer) < end:
            return
        body = bytes(self._buffer[self._head_end + 4 : end])
        del self._buffer[:end]
        self._head_end = -1
        answer, self.answer = self.answer, None
        if answer is None:  # such as the 408 of a connection that was never used
            return
        self._free.append(self)
        answer.set_result((self._status, self._headers, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._free:
            self._free.remove(self)
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, {}, b""))


async def replay(
    port: int, requests: Sequence[tuple[float, bytes]], *, connections: int = 32
) -> list[Reply]:
    """Send each request at its second, in order; returns the replies in that order.

    More connections are opened when all are waiting. Status 0 means that the connection broke.
    """
    loop = asyncio.get_running_loop()
    free: list[_Connection] = []

    async def connect() -> None:
        _, made = await loop.create_connection(lambda: _Connection(free), "127.0.0.1", port)
        free.append(made)

    await asyncio.gather(*(connect() for _ in range(connections)))
    began = time.monotonic() + 0.2
    replies: list[Reply | None] = [None] * len(requests)

    async def one(index: int, at_s: float, request: bytes) -> None:
        while not free:
            await connect()
        late_s = time.monotonic() - began - at_s
        status, headers, body = await free.pop().send(request)
        replies[index] = Reply(
            status=status,
            headers=headers,
            body=body,
            latency_s=time.monotonic() - began - at_s,
            sent_late_s=late_s,
        )

    tasks = []
    for index, (at_s, request) in enumerate(requests):
        wait_s = began + at_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(index, at_s, request)))
    await asyncio.gather(*tasks)
    for connection in free:
        assert connection.transport is not None
        connection.transport.close()
    return [reply for reply in replies if reply is not None]
