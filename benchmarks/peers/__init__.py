"""Gearshift beside other Python model servers, on the same models and this host.

python -m benchmarks.peers [--peers litserve,mlserver] [--seconds 2] [--rounds 3] [--json]

Each peer is installed in an environment of its own (`NAME.txt`, under `--environments`) and started
by `NAME_server.py`; one that cannot be is listed with the reason. `inline.py` is the reference:
bare ASGI with the model in the same process. Every measurement of a server has one of the
reference right before it, and ratios are of the medians of such pairs: on a machine with other
work nothing else can be compared. Ours runs as it ships: keys, limits, metrics, decisions, and the
model in a worker process.

- `contestants.py`  what is compared, and how each wants to be asked
- `running.py`      environments, and servers that run
- `measure.py`      one measurement, and the rounds of all of them
- `overhead.py`     what our gateway adds to running the model alone
"""

from typing import Any

from benchmarks import tables


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        [
            row["server"],
            row["payload"],
            str(row["concurrency"]),
            f"{row['requests_per_s']:,.0f}",
            f"{row['ratio_to_inline']:.2f}× ({min(row['ratios']):.2f}–{max(row['ratios']):.2f})",
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['cpu_us_per_request']:,.0f}",
        ]
        for row in result["rows"]
    ]
    head = [
        "server",
        "payload",
        "connections",
        "requests/s",
        "to inline (pairs)",
        "p50 ms",
        "p99 ms",
    ]
    text = tables.markdown([*head, "CPU µs a request"], rows)
    own = result["overhead"]
    text += (
        f"\nWhat the gateway adds ({own.get('title', 'Gearshift')}): the decision "
        f"{own['decision_us']:.0f} µs; inside the gateway (JSON, validation, key, queue, worker, "
        f"metrics) {own['in_gateway_p50_ms']:.2f} ms at the median and "
        f"{own['in_gateway_p99_ms']:.2f} ms at p99, at half of its highest load "
        f"({own['rate_per_s']:,.0f} requests/s); seen by a single client "
        f"{own['client_ms']:.2f} ms more than the model alone.\n"
        f"The cnn behind the gateway answers {own['cnn_ratio']:.2f} times as many requests as the "
        "model alone on one core.\n"
    )
    for name, reason in result["failures"].items():
        text += f"\n{name} was left out: {reason}\n"
    return text
