#!/usr/bin/env python3
"""Writes `gearshift.json` beside this file: the Grafana dashboard, from the panels below.

Run it after a change; a test asks every query of a real Prometheus. For Grafana 10 and later
(Dashboards, New, Import), with the Prometheus that scrapes the gateways as the data source.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).with_name("gearshift.json")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
SHORT = {
    "HERE": 'instance=~"$instance"',
    "MODEL": 'instance=~"$instance",model=~"$model"',
    "INFER": 'instance=~"$instance",route="/infer"',
    "[R]": "[$__rate_interval]",
}
"""Words in the queries below, and what they stand for."""

VARIANT = "{{model}} {{variant}}"
REQUESTS = "sum(rate(gearshift_http_requests_total{INFER}[R]))"
FAILED = 'sum(rate(gearshift_http_requests_total{INFER,status_class="5xx"}[R]))'
SHED = 'sum(rate(gearshift_rejected_total{MODEL,cause=~"admission|queue_full|memory"}[R]))'
GOOD = 'sum by (le) (rate(gearshift_http_request_duration_seconds_bucket{INFER,outcome="ok"}[R]))'
WAIT = "sum by (le) (rate(gearshift_queue_wait_seconds_bucket{MODEL}[R]))"
RUN = "sum by (le) (rate(gearshift_inference_duration_seconds_bucket{MODEL}[R]))"
OWN = "sum by (le) (rate(gearshift_overhead_seconds_bucket{HERE}[R]))"
LAG = "sum by (instance, le) (rate(gearshift_event_loop_lag_seconds_bucket{HERE}[R]))"
WRITE = "sum by (op, le) (rate(gearshift_registry_write_duration_seconds_bucket{HERE}[R]))"
COST = "sum by (model, variant) (rate(gearshift_cost_usd_total{MODEL}[R]))"
ANSWERS = (
    'sum by (model, variant) (rate(gearshift_inference_requests_total{MODEL,outcome="ok"}[R]))'
)
MISSED = "sum by (model) (rate(gearshift_constraint_violations_total{MODEL}[R]))"
ROWS = "sum by (model, variant) (rate(gearshift_batch_size_sum{MODEL}[R]))"
BATCHES = "sum by (model, variant) (rate(gearshift_batch_size_count{MODEL}[R]))"
DEAREST = f"sum(sum by (model) ({ANSWERS}) * max by (model) ({COST} / {ANSWERS}))"
SAVED = f"3600 * ({DEAREST} - sum({COST}))"
SPENT = "sum(increase(gearshift_cost_usd_total{MODEL}[$__range]))"
SWITCHED = "sum by (model, outcome) (increase(gearshift_variant_switch_total{MODEL}[R]))"
USABLE = "min by (model, variant) (gearshift_variant_healthy{MODEL})"
OPEN = "sum by (model, variant) (gearshift_variant_workers{MODEL})"
LOST = "sum by (cause) (increase(gearshift_worker_restarts_total{HERE}[R]))"
OURS = "and on (job, instance) gearshift_ready"


class Panel(NamedTuple):
    """One panel: its title, its queries by legend, the unit, how it is drawn, its columns."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    columns: int = 8
    rows: int = 8


def number(title: str, query: str, unit: str = "short") -> Panel:
    """One large number."""
    return Panel(title, {"": query}, unit, "stat", columns=4, rows=4)


def p(rank: float, buckets: str) -> str:
    """A quantile of a histogram."""
    return f"histogram_quantile({rank}, {buckets})"


def by(label: str, metric: str, labels: str = "MODEL") -> dict[str, str]:
    """A counter's increase a second for each value of a label."""
    query = f"sum by ({label}) (rate(gearshift_{metric}_total{{{labels}}}[R]))"
    return {f"{{{{{label}}}}}": query}


DASHBOARD = {
    "Now": [
        number("Requests", REQUESTS, "reqps"),
        number("Not failed", f"1 - {FAILED} / {REQUESTS}", "percentunit"),
        number("Refused for want of capacity", f"{SHED} / {REQUESTS}", "percentunit"),
        number("p99 of good answers", p(0.99, GOOD), "s"),
        number("Usable variants", "sum(gearshift_variant_healthy{MODEL})"),
        number("Cost an hour", f"3600 * sum({COST})", "currencyUSD"),
        Panel("Requests by outcome", by("code", "http_requests", "INFER"), "reqps", "stacked"),
        Panel("Good answers", {f"p{100 * q:g}": p(q, GOOD) for q in (0.5, 0.95, 0.99)}, "s"),
        Panel(
            "Where the time goes (p95)",
            {"queue": p(0.95, WAIT), "worker": p(0.95, RUN), "gateway": p(0.95, OWN)},
            "s",
        ),
    ],
    "Router": [
        Panel("Answers by variant", {VARIANT: ANSWERS}, "reqps", "stacked"),
        Panel("Why it was chosen", by("reason", "router_decisions"), "reqps", "stacked"),
        Panel("No variant can, by binding bound", by("constraint", "router_infeasible"), "reqps"),
        Panel("Run time ÷ profile (median)", {VARIANT: "gearshift_latency_ratio{MODEL}"}),
        Panel("Hard bounds missed", {"": f"{MISSED} / sum by (model) ({ANSWERS})"}, "percentunit"),
        Panel("Overload (0 to 2)", {"{{instance}} {{model}}": "gearshift_overload_rung{MODEL}"}),
    ],
    "Variants": [
        Panel("Worker time of a batch", {"{{le}}": RUN}, "s", "heatmap"),
        Panel("Rows in a batch (mean)", {VARIANT: f"{ROWS} / {BATCHES}"}),
        Panel(
            "Waiting and in flight",
            {
                "waiting {{model}}": "sum by (model) (gearshift_queue_depth{MODEL})",
                "in flight": "sum(gearshift_inflight_requests{HERE})",
            },
        ),
        Panel("Usable", {VARIANT: USABLE}, kind="state-timeline"),
        Panel("Workers that have it open", {VARIANT: OPEN}),
        Panel("Switches", {"{{model}} {{outcome}}": SWITCHED}),
    ],
    "Workers and host": [
        Panel("Workers lost, by cause", {"{{cause}}": LOST}),
        Panel(
            "Resident memory",
            {
                "{{instance}} worker {{worker}}": "gearshift_worker_rss_bytes{HERE}",
                "{{instance}} gateway": f"process_resident_memory_bytes{{HERE}} {OURS}",
            },
            "bytes",
        ),
        Panel("Event loop lag (p99)", {"{{instance}}": p(0.99, LAG)}, "s"),
        Panel(
            "Disk",
            {
                "free {{instance}}": "gearshift_disk_free_bytes{HERE}",
                "store {{instance}}": "gearshift_artifact_store_bytes{HERE}",
            },
            "bytes",
        ),
        Panel(
            "Open files",
            {
                "{{instance}} worker {{worker}}": "gearshift_worker_open_files{HERE}",
                "{{instance}} gateway": f"process_open_fds{{HERE}} {OURS}",
            },
        ),
        Panel("Registry: duration of writes (p95)", {"{{op}}": p(0.95, WRITE)}, "s"),
    ],
    "Money": [
        Panel("Spent an hour, by variant", {VARIANT: f"3600 * {COST}"}, "currencyUSD", "stacked"),
        Panel("Saved an hour against the dearest variant", {"saved": SAVED}, "currencyUSD"),
        number("Spent in this time", SPENT, "currencyUSD"),
        number("A month at this pace", f"730 * 3600 * sum({COST})", "currencyUSD"),
    ],
}


def drawn(panel: Panel, id: int, x: int, y: int) -> dict[str, Any]:
    """A panel as Grafana keeps it."""
    heat, stacked = panel.kind == "heatmap", panel.kind == "stacked"
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 30} if stacked else {}
    return {
        "id": id,
        "type": "timeseries" if stacked else panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.columns, "h": panel.rows},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "options": {"calculate": False, "yAxis": {"unit": panel.unit}} if heat else {},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": SOURCE,
                "expr": spelled(query),
                "legendFormat": legend,
                "format": "heatmap" if heat else "time_series",
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


def spelled(query: str) -> str:
    """A query with the short words spelled out."""
    for word, meaning in SHORT.items():
        query = query.replace(word, meaning)
    return query


def laid_out() -> list[dict[str, Any]]:
    """Every panel in its place: left to right, row below row."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in DASHBOARD.items():
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": place})
        x, y, height = 0, y + 1, 0
        for panel in row:
            if x + panel.columns > COLUMNS:
                x, y, height = 0, y + height, 0
            panels.append(drawn(panel, len(panels) + 1, x, y))
            x, height = x + panel.columns, max(height, panel.rows)
        y += height
    return panels


def variable(name: str, of: str) -> dict[str, Any]:
    """A choice above the panels, of all values of a label."""
    query = {"query": f"label_values({of}, {name})", "refId": name}
    every = {"multi": True, "includeAll": True, "allValue": ".*"}
    now = {"text": "All", "value": "$__all"}
    shown = {"name": name, "type": "query", "datasource": SOURCE, "query": query, "refresh": 2}
    return {**shown, **every, "current": now}


def text() -> str:
    """The dashboard as JSON."""
    switches = {"name": "Switches", "enable": True, "datasource": SOURCE, "iconColor": "blue"}
    told = {"expr": f"{spelled(SWITCHED)} > 0", "titleFormat": "{{model}} {{outcome}}"}
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        variable("instance", "gearshift_ready"),
        variable("model", "gearshift_variant_healthy"),
    ]
    whole = {
        "uid": "gearshift",
        "title": "Gearshift",
        "schemaVersion": 39,
        "time": {"from": "now-1h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": variables},
        "annotations": {"list": [{**switches, **told}]},
        "panels": laid_out(),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
