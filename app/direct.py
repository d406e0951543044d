"""`POST /infer` straight from the connection, without ASGI: what most requests need, and no more.

ASGI costs a task, a scope, events and two writes for every request, which is more than all that
inference needs besides. A plain request (HTTP/1.1, a declared length, no encoding) is collected,
decided and answered by callbacks; any other one, and whatever is refused by its head alone, takes
the way through `routes/infer.py`. Both read and write with `inference.py`.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import structlog

from app.bad_keys import BadKeys
from app.decisions import DecisionRecord
from app.engine.batch import Answer
from app.engine.refusals import Draining
from app.errors import BodyTimeout, OverQuota, Problem, Unauthenticated, problem_for
from app.http_edge import MAX_HEADERS, RequestIds, problem_lines
from app.inference import Call, Head, Inference
from app.metrics import Metrics

log = structlog.get_logger()

_INDIRECT = frozenset({b"content-encoding", b"transfer-encoding", b"expect", b"upgrade"})


class Connection(Protocol):
    """What an exchange needs of the connection that it is on."""

    client: tuple[str, int] | None

    def write_answer(self, exchange: "Exchange", status: int, lines: bytes, body: bytes) -> None:
        """Write a whole answer, and go on with the next request."""
        ...


class Direct:
    """Makes the exchanges of every connection."""

    def __init__(
        self, *, inference: Inference, metrics: Metrics, ids: RequestIds, bad_keys: BadKeys
    ) -> None:
        self.inference = inference
        self._bad_keys = bad_keys
        self.metrics = metrics
        self.ids = ids

    def begin(
        self, connection: Connection, headers: Sequence[tuple[bytes, bytes]]
    ) -> "Exchange | None":
        """The exchange for a request with this head; None where it must go through ASGI."""
        length, request_id, others = -1, None, []
        for header in headers:
            name = header[0]
            if name == b"content-length":
                if length >= 0:
                    return None
                length = int(header[1])  # the parser took nothing but digits
            elif name == b"x-request-id":
                request_id = self.ids.of((header,))
            elif name in _INDIRECT:
                return None
            else:
                others.append(header)
        if not 0 <= length <= self.inference.settings.max_body_bytes or len(headers) > MAX_HEADERS:
            return None
        return self.again(connection, Known(tuple(others), request_id), length)

    def again(self, connection: Connection, known: "Known", length: int) -> "Exchange | None":
        """The exchange for a request with a known head and a body of this length."""
        if length > self.inference.settings.max_body_bytes:
            return None
        head: Head | None = None
        refusal: Exception | None = None
        held_bytes = 0
        try:
            head = self.inference.remembered_head(known.headers)
            held_bytes = self.inference.room.take(length)
            if head.caller.tenant is not None:
                head.caller.tenant.enter(paid=True)
        except OverQuota as error:
            refusal = error
        except Unauthenticated as error:
            refusal = self._bad_keys.judged(connection.client, error)
            self.metrics.auth_failed("key")
        except Exception:  # it is raised once more where refusals are answered
            return None
        request_id = known.request_id or self.ids.of(())
        return Exchange(
            direct=self,
            connection=connection,
            head=head,
            refusal=refusal,
            known=known,
            request_id=request_id,
            held_bytes=held_bytes,
        )


class Known(NamedTuple):
    """A head that was found plain: its headers but for the length, and the id that it gives."""

    headers: tuple[tuple[bytes, bytes], ...]
    request_id: str | None


class Exchange:
    """One request and its answer.

    It stands where uvicorn keeps its own `RequestResponseCycle`, so that pipelining, shutdown and
    lost connections are seen to as for any other request: hence `response_complete`, `keep_alive`,
    `more_body`, `disconnected`, and a `message_event` that is set when the caller is gone.
    """

    def __init__(
        self,
        *,
        direct: Direct,
        connection: Connection,
        head: Head | None,
        refusal: Exception | None,
        known: Known,
        request_id: str,
        held_bytes: int,
    ) -> None:
        self.known = known
        self.response_started = False
        self.response_complete = False
        self.keep_alive = True
        self.more_body = True
        self.disconnected = False
        self.message_event = self
        self.request_id = request_id
        self._direct = direct
        self._connection = connection
        self._head = head
        self._refusal = refusal
        self._arrival_s = time.monotonic()
        self._held_bytes = held_bytes
        self._pieces: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._call: Call | None = None
        self._record: DecisionRecord | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._decoding: asyncio.Task[None] | None = None
        direct.metrics.inflight(+1)

    def set(self) -> None:
        """The connection is lost: nobody waits for the answer any more."""
        if self.response_complete:
            return
        self.response_complete = True
        if self._decoding is not None:
            self._decoding.cancel()
        if self._answer is not None:
            self._answer.cancel()
        if self._record is not None:
            self._direct.inference.gateway.left(self._record)
        self._forget()
        self._direct.metrics.client_closed()
        self._count(499, "none")

    def begin(self) -> None:
        """The head is here; what it alone is refused for needs no body."""
        if self._refusal is not None:
            self._refuse(self._refusal)

    def feed(self, piece: bytes) -> None:
        """Take in a piece of the body."""
        if not self.response_complete:
            self._pieces.append(piece)

    def wait(self) -> None:
        """The body is not whole yet: it must be in time."""
        if self._timer is None and not self.response_complete:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(
                self._direct.inference.settings.body_timeout_s, self._too_slow
            )

    def give_up(self) -> None:
        """The server ends: a body that is still on its way comes too late."""
        if self.more_body:
            self._refuse(Draining())

    def run(self) -> None:
        """The request is whole: decode it, and hand it to the engine."""
        self.more_body = False
        self._stop_waiting()
        if self.response_complete:
            return
        if self._refusal is not None or self._head is None:
            self.begin()
            return
        raw = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces = []
        try:
            call = self._direct.inference.decode_small(self._head, raw)
            if call is not None:
                self._submit(call)
                return
        except Exception as error:
            self._refuse(error)
            return
        self._decoding = asyncio.create_task(self._decode(raw))

    async def _decode(self, raw: bytes) -> None:
        """What takes long is decoded on a thread, so that it does not hold up the others."""
        try:
            assert self._head is not None
            self._submit(await self._direct.inference.decode_large(self._head, raw))
        except Exception as error:
            self._refuse(error)

    def _submit(self, call: Call) -> None:
        assert self._head is not None
        self._give_room()
        self._call = call
        self._record, self._answer = self._direct.inference.gateway.submit(
            call.model,
            call.inputs,
            self._head.asked.constraints,
            arrival_s=self._arrival_s,
            caller=self._head.caller,
            headers=self._head.headers,
        )
        self._answer.add_done_callback(self._answered)

    def _answered(self, future: "asyncio.Future[Answer]") -> None:
        if self.response_complete or future.cancelled():
            return
        inference = self._direct.inference
        assert self._record is not None and self._call is not None and self._head is not None
        error = future.exception()
        try:
            if error is not None:
                inference.gateway.failed(self._record, error)
                raise error
            reply = inference.gateway.settle(self._record, future.result())
            lines, content = inference.answer(self._head, self._call, reply)
        except Exception as error:
            self._refuse(error)
            return
        self._write(200, "ok", lines, content)

    def _too_slow(self) -> None:
        limit_s = self._direct.inference.settings.body_timeout_s
        self._refuse(BodyTimeout(f"the body did not end within {limit_s:g} s"))

    def _refuse(self, error: Exception) -> None:
        if self.response_complete:
            return
        if isinstance(error, OverQuota):
            self._direct.metrics.over_quota(error.cause)
        problem: Problem = problem_for(error)
        if problem.status == 500:
            log.error("bug", exc_info=error, request_id=self.request_id)
        content = problem.body(self.request_id)
        self._write(problem.status, problem.code, problem_lines(problem), content)

    def _write(self, status: int, code: str, lines: bytes, content: bytes) -> None:
        if self._head is not None:
            lines += self._head.lines()
        self._forget()
        self.response_started = self.response_complete = True
        self._connection.write_answer(self, status, lines, content)
        self._count(status, code)

    def _give_room(self) -> None:
        """The body is no longer held, or nobody waits for it."""
        if self._held_bytes:
            self._direct.inference.room.give(self._held_bytes)
            self._held_bytes = 0

    def _count(self, status: int, code: str) -> None:
        self._give_room()
        metrics = self._direct.metrics
        metrics.inflight(-1)
        metrics.http("/infer", "POST", status, code, time.monotonic() - self._arrival_s)

    def _forget(self) -> None:
        """What has come of the body is of no more use."""
        self._stop_waiting()
        self._pieces = []

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
