"""Queues and worker processes: requests wait here, models run there.

- `engine.py`          per-model queues, late binding, leases, supervision
- `worker.py`          the `Worker` protocol and the local process behind it
- `worker_process.py`  the child: holds sessions, runs one batch at a time
- `frames.py`          what travels between them: a JSON header and raw tensor bytes
- `correction.py`      service times corrected by what workers really take
"""
