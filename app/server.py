"""The server: one uvicorn process over one data folder."""

import asyncio
import contextlib
import functools
import math
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog
import uvicorn

from app import logs
from app.engine.process import Process
from app.factory import create_app
from app.http_edge import SECURITY
from app.protocol import CLOSE, limited
from app.services import Services
from app.settings import Options
from variants.errors import Invalid

log = structlog.get_logger()

BACKLOG = 2048
THREADS = 32
"""For what waits on disk or database: admins who wait for one that is slow hold up nobody else."""

LOCK_S = 0.0005
"""The event loop waits so long at most for the interpreter's lock while a thread computes, at each
system call of a request; by default it is 5 ms."""

LOOK_S = 1.0
"""How often callers that take in nothing are looked for, at least."""

ABANDON_S = 0.5
"""Between giving up what waits and what runs: for what is nearly done."""


def run(
    options: Options, processes: Sequence[Process], on_listening: Callable[[str], None]
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was admitted and return.

    `processes` are workers that were started already. `on_listening` is told the address once
    connections are taken. Raises `Invalid` when the address cannot be bound.
    """
    settings = options.now
    sys.setswitchinterval(LOCK_S)
    lines = logs.configure(settings.log_level)
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stderr(lines))
        data = stack.enter_context(settings.open_data())
        listeners = [stack.enter_context(_listen(settings.host, settings.port, "port"))]
        if settings.admin_port is not None:
            inner = _listen(settings.host, settings.admin_port, "admin_port")
            listeners.append(stack.enter_context(inner))
            settings = settings.model_copy(update={"admin_port": inner.getsockname()[1]})
            options.now = settings
        app = create_app(options, data, processes)
        services: Services = app.state.services
        services.metrics.count_dropped_logs(lambda: lines.dropped)
        if settings.require_keys:
            key = services.keys.create_first(
                "first admin",
                frozenset({"infer", "read", "admin", "metrics"}),
                actor="first start",
            )
            if key is not None:
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
            timeout_graceful_shutdown=math.ceil(settings.drain_s + ABANDON_S) + 1,
            backlog=BACKLOG,
        )
        server = _Server(config, services)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)  # uvicorn's own comes later
        signal.signal(signal.SIGHUP, server.handle_reload)
        on_listening(f"http://{host}:{port}")
        if settings.admin_port is not None:
            print(f"admin routes at http://{host}:{settings.admin_port}", file=sys.stderr)
        server.run(sockets=listeners)


class _Server(uvicorn.Server):
    """Is not ready from the signal on, serves what still arrives, and ends in time.

    SIGTERM: `/readyz` says 503 and every answer ends its connection at once; after `drain_delay_s`
    no connection is taken any more; `drain_s` later what is left is answered with 503 `draining`.
    SIGINT, or a second SIGTERM, leaves out the delay. SIGHUP reads options, keys, peppers and
    models anew.
    """

    def __init__(self, config: uvicorn.Config, services: Services) -> None:
        super().__init__(config)
        self._services = services
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leaves = False
        self._looking: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop: signals come in between."""
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS))
        await super().startup(sockets)
        self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Leave callers that do not take in their answers, also while the server ends."""
        while True:
            limit_s = self._services.settings.body_timeout_s
            await asyncio.sleep(min(LOOK_S, limit_s / 4))
            for connection in list(self.server_state.connections):
                connection.look(limit_s)  # type: ignore[union-attr]  # all are of `protocol.py`

    def handle_exit(self, sig: int, frame: object) -> None:
        """Begin to leave."""
        delay_s = self._services.settings.drain_delay_s
        waits = sig == signal.SIGTERM and delay_s > 0 and not self._leaves
        self._leaves = True
        self._services.engine.drain()
        self.config.encoded_headers.append(CLOSE)
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        end = functools.partial(super().handle_exit, sig, frame)  # type: ignore[arg-type]
        if waits and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, end)
        else:
            end()

    def handle_reload(self, sig: int, frame: object) -> None:
        """Read anew what may change while it runs."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._reload)

    def _reload(self) -> None:
        log.info("reloads", what="options, keys, peppers and models")
        try:
            found = self._services.options.reload()
        except (Invalid, OSError) as error:
            log.error("options_refused", error=str(error))
        else:
            logs.show_from(self._services.settings.log_level)
            self._services.metrics.reloaded()
            log.info("options_reloaded", changed=found.changed, at_restart=found.at_restart)
        self._services.changes.look_anew()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, finish, and give up what is not done in time.

        Whoever only waits for a registration is answered at once, for it will not end here.
        """
        loop, drain_s = asyncio.get_running_loop(), self._services.settings.drain_s
        self._services.registration.leave()
        loop.call_later(drain_s, self._give_up, "waiting", self._services.engine.close)
        loop.call_later(drain_s + ABANDON_S, self._end)
        await super().shutdown(sockets)
        if self._looking is not None:
            self._looking.cancel()

    def _end(self) -> None:
        """Answer whatever is left: what the engine runs, and every other request."""
        self._give_up("running", self._services.engine.abandon)
        for connection in list(self.server_state.connections):
            connection.give_up()  # type: ignore[union-attr]  # all are of `protocol.py`
        for task in self.server_state.tasks:
            task.cancel()

    def _give_up(self, what: str, end: Callable[[], dict[str, int]]) -> None:
        if left := end():
            log.warning("drain_cut_short", what=what, requests=left)


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
