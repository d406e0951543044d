"""`gearshift serve`: the workers first, the gateway while they start.

Imports nothing heavy itself: the gateway's own imports take longer than a worker's, and on two
cores both go on at the same time.
"""

import gc
from collections.abc import Callable

from app.engine.process import spawn
from app.settings import Options


def serve(options: Options, on_listening: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGTERM or SIGINT; then finish what was admitted and return.

    `on_listening` is told the address once connections are taken. Raises `Invalid` when the
    address cannot be bound.
    """
    processes = [spawn(limits) for limits in options.now.worker_limits()]
    try:
        gc.disable()  # all that is imported stays: looking for garbage only takes time
        from app.server import run

        gc.enable()
        run(options, processes, on_listening)
    finally:
        for process in processes:
            process.end()
