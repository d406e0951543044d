"""Connections to a PostgreSQL server that never wait for ever for an answer.

The server's own limits are of no use when its word does not arrive, and keepalives are answered by
a kernel whose programs have stopped. So each wait ends here too.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

SILENT = "the server does not answer"
STEP_S = 0.1
"""How long a wait goes on without a look at signals."""


def bounded(
    limit_s: float, on_silence: Callable[[float], None]
) -> "tuple[type[psycopg.Connection[Any]], type[psycopg.AsyncConnection[Any]]]":
    """A kind of connection, and one for asyncio.

    A wait of more than `limit_s` closes it, calls `on_silence` with the moment that it began and
    raises `psycopg.errors.ConnectionTimeout`. The timeout of `notifies` is no such wait.
    """
    from psycopg import AsyncConnection, Connection
    from psycopg.errors import ConnectionTimeout, _WaitTimeout

    class Session(Connection[Any]):
        def wait(self, gen: Any, interval: float = STEP_S, timeout: float | None = None) -> Any:
            begun_s = time.monotonic()
            try:
                return super().wait(gen, interval, limit_s if timeout is None else timeout)
            except _WaitTimeout:
                if timeout is not None:
                    raise
                self.close()
                on_silence(begun_s)
                raise ConnectionTimeout(SILENT) from None

    class AsyncSession(AsyncConnection[Any]):
        async def wait(
            self,
            gen: Any,
            interval: float = STEP_S,
            timeout: float | None = None,  # noqa: ASYNC109  (as psycopg calls it)
        ) -> Any:
            try:
                return await super().wait(gen, interval, limit_s if timeout is None else timeout)
            except _WaitTimeout:
                if timeout is not None:
                    raise
                await self.close()
                raise ConnectionTimeout(SILENT) from None

    return Session, AsyncSession
