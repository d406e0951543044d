"""Whether the router beats every published policy: arrivals, ladders, baselines, statistics.

    python -m benchmarks.routing --trace FILE… --profiles FILE… [--json]

Map
---
- `traces.py`, `processes.py`, `windows.py`   arrivals: recorded, synthetic, cut and rescaled
- `profiles.py`                               which file is which; one file for each kind of it
- `ladder.py`     a model's variants: what is believed and what runs really take
- `mix.py`        what the requests ask for
- `baselines/`    one file for each published policy
- `play.py`       one policy over one window; `cells.py` all of them in a cell, tuned first
- `bound.py`      what nobody can beat
- `metrics.py`    what a run was worth; `statistics.py` whether a difference is one
- `proof.py`     every cell, run and compared; `ablations.py`, `quick.py` parts of it
- `report.py`    tables and plots; `cli.py` the command
"""

from typing import Any


def table(result: dict[str, Any]) -> str:
    """The result in Markdown, for `benchmarks.tables`."""
    from benchmarks.routing import report

    return report.table(result)
