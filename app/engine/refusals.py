"""Why a request that was admitted, or would have been, gets no answer."""


class DeadlinePassed(Exception):
    """The work could no longer make its deadline and was dropped before it ran."""


class QueueFull(Exception):
    """The queues hold as many bytes as they may, or too many for a body of this size."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("too many bytes wait already")
        self.retry_after_s = retry_after_s


class Shed(Exception):
    """The queue was full, and a more urgent request took this one's place."""

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__("a more urgent request took this one's place in the full queue")
        self.retry_after_s = retry_after_s


class Draining(Exception):
    """The gateway is shutting down and takes no new work."""
