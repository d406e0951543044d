"""Many requests at once on kept connections: a small asyncio HTTP client, lighter than a library's.

async with Caller(gateway.port, gateway.key) as caller:
    reply = await caller.infer({"model": "tiny", "inputs": [1, 2, 3, 4]}, {"Infer-Max-Cost": "3"})
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back, and when."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_s: float
    done_s: float

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def variant(self) -> str:
        """The variant that answered."""
        return self.headers["infer-variant"].strip('"')

    @property
    def seconds(self) -> float:
        """From sending to the last byte."""
        return self.done_s - self.sent_s


class Caller:
    """One kept connection; it is opened anew when the gateway has closed it."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def infer(self, body: Any, headers: Mapping[str, str] | None = None) -> Reply:
        """POST to /infer."""
        return await self.ask("POST", "/infer", body, headers)

    async def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request and its reply. Raises `OSError` where the connection breaks."""
        content = b"" if body is None else json.dumps(body).encode()
        lines = [
            f"{method} {path} HTTP/1.1",
            "host: gateway",
            f"authorization: Bearer {self._key}",
            "content-type: application/json",
            f"content-length: {len(content)}",
            *(f"{name}: {value}" for name, value in (headers or {}).items()),
        ]
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        assert self._reader is not None
        sent = time.monotonic()
        try:
            self._writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            found = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head[1:] if line)
            }
            answer = await self._reader.readexactly(int(found["content-length"]))
        except (asyncio.IncompleteReadError, OSError) as error:
            await self.close()
            raise ConnectionError(f"{method} {path}: {error}") from error
        if found.get("connection") == "close":
            await self.close()
        return Reply(
            status=int(head[0].split()[1]),
            headers=found,
            body=answer,
            sent_s=sent,
            done_s=time.monotonic(),
        )


async def spread(
    port: int, key: str, *, concurrency: int, act: Callable[[Caller], Awaitable[None]]
) -> None:
    """Run `act` on that many connections at once, until all have returned."""

    async def one() -> None:
        async with Caller(port, key) as caller:
            await act(caller)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(one())
