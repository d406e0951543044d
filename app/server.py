"""The server: one uvicorn process over one data folder."""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Sequence

import uvicorn

from app import logs
from app.engine.process import Process
from app.factory import create_app
from app.http_edge import SECURITY
from app.protocol import limited
from app.services import Services
from app.settings import Settings
from variants.errors import Invalid

BACKLOG = 2048


def run(
    settings: Settings, processes: Sequence[Process], on_listening: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was admitted and return.

    `processes` are workers that were started already. `on_listening` is told the address once
    connections are taken. Raises `Invalid` when the address cannot be bound.
    """
    log = logs.configure()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(log))
        data = stack.enter_context(settings.open_data())
        listeners = [stack.enter_context(_listen(settings.host, settings.port, "port"))]
        if settings.admin_port is not None:
            inner = _listen(settings.host, settings.admin_port, "admin_port")
            listeners.append(stack.enter_context(inner))
            settings = settings.model_copy(update={"admin_port": inner.getsockname()[1]})
        app = create_app(settings, data, processes)
        services: Services = app.state.services
        services.metrics.count_dropped_logs(lambda: log.dropped)
        if not data.keys.all() and settings.require_keys:
            key = services.keys.create(
                "first admin",
                frozenset({"infer", "read", "admin", "metrics"}),
                actor="first start",
            )
            print(f"First start: the admin key, shown once: {key}", file=sys.stderr)
        host, port = listeners[0].getsockname()[:2]
        config = uvicorn.Config(
            app,
            http=limited(settings.head_timeout_s, app.state.direct),
            loop="uvloop",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=True,
            headers=list(SECURITY),
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(settings.drain_s) + 1,
            backlog=BACKLOG,
        )
        server = _Server(config, services)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)  # uvicorn's own comes later
        on_listening(f"http://{host}:{port}")
        if settings.admin_port is not None:
            print(f"admin routes at http://{host}:{settings.admin_port}", file=sys.stderr)
        server.run(sockets=listeners)


class _Server(uvicorn.Server):
    """Is not ready from the signal on, serves what still arrives, and ends in time."""

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services

    def handle_exit(self, sig: int, frame: object) -> None:
        self._services.engine.drain()
        super().handle_exit(sig, frame)  # type: ignore[arg-type]  # uvicorn narrows the frame

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._services.settings.drain_s, self._services.engine.close)
        await super().shutdown(sockets)


def _listen(host: str, port: int, option: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)  # whoever connects from now on waits for the app to start
    except OSError as error:
        listener.close()
        raise Invalid(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what holds the port or choose "
            f"another one ({option})",
            field=option,
        ) from error
    return listener
