"""The real gateway under recorded arrivals, beside the simulator on the same arrivals.

python -m benchmarks.live --data-dir DIR --trace FILE…    # policies side by side, and simulated
python -m benchmarks.live --data-dir DIR --step           # a fivefold step in load, and a picture

- `ladder.py`  a data folder of its own, profiled on this host right before
- `client.py`  requests sent at given times over kept connections, whatever the server does
- `play.py`    one policy under one series of arrivals, and what came of each request
- `replay.py`  the same arrivals in the simulator, with the service times that were seen
- `step.py`    the step in load and its figure
- `report.py`  tables

Latency counts from when a request was to be sent, so a slow server hides nothing.
"""

from benchmarks.live.report import table

__all__ = ["table"]
