"""Queues and worker processes: requests wait here, models run there.

- `engine.py`          late binding over the lanes, and leases on variants
- `pool.py`            the workers, and which variants each of them opens
- `lane.py`            one model's queue, and what is known of its variants
- `batch.py`           requests that run together, and how outputs become their answers
- `refusals.py`        why a request gets no answer
- `expiry.py`          one timer for the earliest of many deadlines
- `slot.py`            one place for a worker: starts it, loads what is wanted, replaces it
- `worker.py`          the `Worker` protocol and the local process behind it
- `worker_process.py`  the child: holds sessions, runs one batch at a time
- `process.py`         starting that child, before anything heavy is imported
- `limits.py`          the cores, memory and open files that a worker may have
- `residency.py`       what should be open on which worker, within a budget of memory
- `quarantine.py`      variants that broke their workers again and again
- `frames.py`          what travels between them: a JSON header and raw tensor bytes
- `leases.py`          how many admitted requests may still use a variant
- `watchdog.py`        ends a worker that is silent for too long
- `cpu.py`             what a process has had of the processors, and whether it wants more
- `overhead.py`        what the gateway itself adds to a request
"""
