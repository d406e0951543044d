"""Every Prometheus series of the gateway: one object, one registry, recorded in one place.

Base units, `_total` on counters; labels hold only names from the registry and words from our own
enums, never what a caller sent.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from app.label_names import LabelNames
from app.tallies import Spread, Spreads, Tallies, Tally
from variants.agreement import Likeness
from variants.evidence import Cascade
from variants.manifest import Manifest

SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60,
)  # fmt: skip
RATIOS = (0.25, 0.5, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)
LOAD_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

LOST = ("crash", "exit", "hang", "garbage", "oom", "recycle")
SWITCHED = ("activated", "deactivated", "shadow", "canary", "failed")
REJECTED = ("admission", "queue_full", "memory", "no_healthy_variant", "draining")
REFUSED = ("key", "scope")
OPERATIONS = ("read", "write", "change")
"""Words of labels that count from 0, so that Prometheus sees the first of each as an increase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answers:
    """The series that every answer of one variant for one reason goes into: found once, kept."""

    requests: Tally
    decisions: Tally
    queue_s: Spread
    cost: Tally


class Metrics:
    """The series, and one method for each thing that happens."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, str], _Answers] = {}
        self._replies: dict[tuple[str, str, int, str], tuple[Tally, Spread]] = {}
        self._batches: dict[tuple[str, str], tuple[Spread, Spread, Spread]] = {}
        self._in_flight = 0
        self._dropped: Callable[[], int] = lambda: 0
        self._threads = threading.Lock()
        self._names = names = LabelNames()
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Tallies:
            return Tallies(f"gearshift_{name}", text, labels, registry, names=names)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"gearshift_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Spreads:
            return Spreads(f"gearshift_{name}", text, labels, bounds, registry, names=names)

        self._declare_workers(counter, gauge)
        self._declare_storage(counter, gauge, histogram)
        self._http_requests = counter(
            "http_requests",
            "HTTP requests by route template.",
            "route",
            "method",
            "status_class",
            "code",
        )
        self._http_seconds = histogram(
            "http_request_duration_seconds", "Whole HTTP request.", SECONDS, "route", "outcome"
        )
        self._inference_requests = counter(
            "inference_requests", "Inference requests by outcome.", "model", "variant", "outcome"
        )
        self._inference_seconds = histogram(
            "inference_duration_seconds",
            "Worker time of one batch.",
            SECONDS,
            "model",
            "variant",
            "outcome",
        )
        self._queue_seconds = histogram(
            "queue_wait_seconds",
            "Wait before a worker took the request.",
            SECONDS,
            "model",
            "variant",
        )
        self._overhead_seconds = histogram(
            "overhead_seconds",
            "Total minus queue minus inference: the gateway's own cost.",
            SECONDS,
        ).labels()
        self._batch_rows = histogram("batch_size", "Rows in one batch.", ROWS, "model", "variant")
        self._decisions = counter(
            "router_decisions", "Admitted requests by reason.", "model", "variant", "reason"
        )
        self._infeasible = counter(
            "router_infeasible",
            "Requests no variant can meet, by binding bound.",
            "model",
            "constraint",
        )
        self._estimate_error = histogram(
            "router_latency_estimate_error_ratio",
            "Measured over predicted batch time.",
            RATIOS,
            "model",
            "variant",
        )
        self._violations = counter(
            "constraint_violations",
            "Hard bounds promised and then missed.",
            "model",
            "variant",
            "constraint",
        )
        self._cost = counter("cost_usd", "Dollars of worker time.", "model", "variant", "basis")
        self._rejected = counter(
            "rejected", "Requests refused for lack of capacity.", "model", "cause"
        )
        self._client_closed = counter(
            "client_closed", "Callers that left before their answer."
        ).labels()
        self._worker_restarts = counter("worker_restarts", "Workers lost.", "worker", "cause")
        self._load_seconds = histogram(
            "model_load_duration_seconds",
            "Load, trial and warm-up of a variant.",
            LOAD_SECONDS,
            "format",
            "outcome",
        )
        self._switches = counter(
            "variant_switch", "Changes of what a variant is for.", "model", "outcome"
        )
        self._switch_seconds = histogram(
            "variant_switch_duration_seconds",
            "Time of such a change, with loading and draining.",
            SECONDS,
            "model",
            "outcome",
        )
        self._auth_failures = counter(
            "auth_failures", "Requests without a valid key or scope.", "reason"
        )
        for reason in REFUSED:
            self._auth_failures.labels(reason)
        self._http_requests.labels("/infer", "POST", "5xx", "overloaded")
        self._queue_depth = gauge("queue_depth", "Requests waiting.", "model")
        self._queue_fill = gauge(
            "queue_fill_ratio", "How full the queue is, by number or bytes.", "model"
        )
        self._inflight = gauge("inflight_requests", "Requests between arrival and reply.")
        self._worker_up = gauge("worker_up", "1 while the worker lives.", "worker")
        self._worker_rss = gauge("worker_rss_bytes", "Resident memory of the worker.", "worker")
        self._variant_healthy = gauge(
            "variant_healthy",
            "1 while the variant is loaded and not quarantined.",
            "model",
            "variant",
        )
        self._variant_info = gauge(
            "variant_info",
            "What each active variant is.",
            "model",
            "variant",
            "runtime",
            "format",
            "technique",
            "digest12",
        )
        self._ready = gauge("ready", "1 while the gateway is ready.")
        self._draining = gauge("draining", "1 while the gateway leaves.")
        self._log_dropped = counter(
            "log_lines_dropped", "Lines that the log could not take."
        ).labels()
        self._folded = counter(
            "metrics_folded", "Models and variants without series of their own."
        ).labels()
        self._loop_lag = histogram(
            "event_loop_lag_seconds", "How late a timer of the event loop fired.", SECONDS
        ).labels()
        gauge("build_info", "Version of this gateway.", "version").labels(version("gearshift")).set(
            1
        )

    def _declare_workers(
        self, counter: Callable[..., Tallies], gauge: Callable[..., Gauge]
    ) -> None:
        """What workers do and take, and how far variants are from their profiles."""
        self._retries = counter(
            "retries", "Requests run once more after their worker was lost.", "model", "variant"
        )
        self._moves = counter(
            "residency_changes", "Variants opened or closed to follow the demand.", "model", "kind"
        )
        self._cascades = counter(
            "cascade_requests",
            "Requests answered by a cascade: by the first variant, or escalated.",
            "model",
            "first",
            "then",
            "outcome",
        )
        self._ejections = counter(
            "variant_ejections",
            "Variants quarantined, by what broke their workers.",
            "model",
            "variant",
            "cause",
        )
        self._verdicts = counter(
            "rollout_verdicts",
            "Shadows and canaries promoted or demoted.",
            "model",
            "variant",
            "verdict",
        )
        self._compared = counter(
            "shadow_rows",
            "Live rows on which a variant was held against the reference, or failed copies.",
            "model",
            "variant",
            "outcome",
        )
        self._skipped = counter(
            "shadow_skipped",
            "Answers that were to be compared with the reference's and were not: no worker was "
            "idle, or the last copy still ran.",
            "model",
            "variant",
        )
        self._canary_requests = counter(
            "canary_requests",
            "Requests in a canary's share: answered by it, not suited to it, or by others after it "
            "failed.",
            "model",
            "variant",
            "outcome",
        )
        self._worker_files = gauge("worker_open_files", "Open files of the worker.", "worker")
        self._overload = gauge(
            "overload_rung",
            "0 normal; 1 cheaper variants, no best effort; 2 full, shed by urgency.",
            "model",
        )
        self._latency_ratio = gauge(
            "latency_ratio",
            "Median service time now over that of the profile.",
            "model",
            "variant",
        )
        self._latency_drifted = gauge(
            "latency_drifted",
            "1 while the profile is off by more than 1.5 times for 30 s or longer.",
            "model",
            "variant",
        )
        self._promise_broken = gauge(
            "variant_promise_broken",
            "1 while a variant is surely slower than promised, or agrees less with the reference.",
            "model",
            "variant",
        )
        self._variant_workers = gauge(
            "variant_workers", "Workers that have the variant open.", "model", "variant"
        )

    def _declare_storage(
        self,
        counter: Callable[..., Tallies],
        gauge: Callable[..., Gauge],
        histogram: Callable[..., Spreads],
    ) -> None:
        """How disk and database do."""
        self._uploads = counter("uploads", "Artifacts uploaded.", "format", "outcome")
        self._upload_bytes = counter("upload_bytes", "Bytes uploaded.", "format", "outcome")
        self._disk_free = gauge("disk_free_bytes", "What the store's disk still takes.")
        self._disk_low = gauge("disk_low", "1 while uploads are refused for want of room.")
        self._store_bytes = gauge("artifact_store_bytes", "Blobs and manifests in the data folder.")
        self._registry_up = gauge("registry_up", "1 while the registry's database answers.")
        self._registry_readonly = gauge(
            "registry_readonly", "1 while the registry takes no changes."
        )
        self._registry_seen = gauge(
            "registry_seen_timestamp_seconds", "When the registry was last looked at."
        )
        self._reloaded = gauge(
            "config_reload_success_timestamp_seconds", "When the options were last read."
        )
        self._reloaded.set_to_current_time()
        self._registry_seconds = histogram(
            "registry_write_duration_seconds",
            "Transactions that write; other gateways look at those that `change`.",
            SECONDS,
            "op",
        )
        self._registry_errors = counter(
            "registry_errors", "Transactions that the database did not do.", "op"
        )
        for op in OPERATIONS:
            self._registry_errors.labels(op)

    def http(self, route: str, method: str, status: int, code: str, total_s: float) -> None:
        """One HTTP request; `code` is the problem's code, or `ok`."""
        key = (route, method, status, code)
        series = self._replies.get(key)
        if series is None:
            series = self._replies[key] = (
                self._http_requests.labels(route, method, f"{status // 100}xx", code),
                self._http_seconds.labels(route, _outcome(status)),
            )
        series[0].inc()
        series[1].observe(total_s)

    def answered(
        self,
        model: str,
        variant: str,
        reason: str,
        *,
        queue_s: float,
        overhead_s: float,
        cost_usd: float,
    ) -> None:
        """One request answered by a variant, which was chosen for this reason."""
        key = (model, variant, reason)
        series = self._answers.get(key)
        if series is None:
            series = self._answers[key] = _Answers(
                requests=self._inference_requests.labels(model, variant, "ok"),
                decisions=self._decisions.labels(model, variant, reason),
                queue_s=self._queue_seconds.labels(model, variant),
                cost=self._cost.labels(model, variant, "measured"),
            )
        series.requests.inc()
        series.decisions.inc()
        series.queue_s.observe(queue_s)
        series.cost.inc(cost_usd)
        self._overhead_seconds.observe(overhead_s)

    def failed(self, model: str, outcome: str) -> None:
        """One admitted request without an answer: `timeout`, `worker_lost`, `client_closed` …"""
        self._inference_requests.labels(model, "", outcome).inc()

    def client_closed(self) -> None:
        """One caller that left before its answer."""
        self._client_closed.inc()

    def batch(self, manifest: Manifest, *, rows: int, run_s: float, ratio: float) -> None:
        """One batch that a worker ran; `ratio` is measured over predicted time."""
        names = manifest.model, manifest.variant
        series = self._batches.get(names)
        if series is None:
            series = self._batches[names] = (
                self._inference_seconds.labels(*names, "ok"),
                self._batch_rows.labels(*names),
                self._estimate_error.labels(*names),
            )
        for histogram, value in zip(series, (run_s, rows, ratio), strict=True):
            histogram.observe(value)

    def infeasible(self, model: str, bound: str) -> None:
        """One refusal because no variant can meet the budget."""
        self._infeasible.labels(model, bound).inc()

    def violated(self, model: str, variant: str, bound: str) -> None:
        """One hard bound that was promised and then missed."""
        self._violations.labels(model, variant, bound).inc()

    def over_quota(self, cause: str) -> None:
        """One refusal because of what the key allows: `rate_limit` or `budget`."""
        self._rejected.labels("_unknown_", cause).inc()

    def rejected(self, model: str, cause: str) -> None:
        """One refusal for lack of capacity."""
        self._rejected.labels(model, cause).inc()

    def worker_lost(self, worker: int, cause: str) -> None:
        """One worker that died or was killed."""
        self._worker_restarts.labels(str(worker), cause).inc()

    def retried(self, manifest: Manifest) -> None:
        """One request queued again after its worker was lost."""
        self._retries.labels(manifest.model, manifest.variant).inc()

    def moved(self, model: str, kind: str) -> None:
        """One variant opened (`load`) or closed (`unload`) on one worker to follow the demand."""
        self._moves.labels(model, kind).inc()

    def cascaded(self, model: str, cascade: Cascade, *, escalated: bool) -> None:
        """One request answered by a cascade."""
        outcome = "escalated" if escalated else "first"
        self._cascades.labels(model, cascade.first, cascade.then, outcome).inc()

    def ejected(self, manifest: Manifest, cause: str) -> None:
        """One variant quarantined."""
        self._ejections.labels(manifest.model, manifest.variant, cause).inc()

    def judged(self, manifest: Manifest, verdict: str) -> None:
        """One shadow or canary promoted or demoted."""
        self._verdicts.labels(manifest.model, manifest.variant, verdict).inc()

    def compared(self, manifest: Manifest, alike: Likeness | None) -> None:
        """Rows on which a variant agreed with the reference or not; None for a copy that failed."""
        names = manifest.model, manifest.variant
        if alike is None:
            self._compared.labels(*names, "failed").inc()
            return
        self._compared.labels(*names, "agreed").inc(alike.agreed)
        self._compared.labels(*names, "disagreed").inc(alike.n - alike.agreed)

    def skipped(self, manifest: Manifest) -> None:
        """One answer that was to be compared and was not."""
        self._skipped.labels(manifest.model, manifest.variant).inc()

    def canary(self, manifest: Manifest, outcome: str) -> None:
        """One request in a canary's share: `taken`, `unsuited` or `rescued`."""
        self._canary_requests.labels(manifest.model, manifest.variant, outcome).inc()

    def switched(self, model: str, outcome: str, seconds: float) -> None:
        """One change of what a variant is for; `failed` where it came to nothing."""
        self._switches.labels(model, outcome).inc()
        self._switch_seconds.labels(model, outcome).observe(seconds)

    def registered(self, outcome: str, seconds: float) -> None:
        """One trial of an uploaded variant."""
        self._load_seconds.labels("onnx", outcome).observe(seconds)

    def uploaded(self, outcome: str, size_bytes: int) -> None:
        """One uploaded blob."""
        self._uploads.labels("onnx", outcome).inc()
        self._upload_bytes.labels("onnx", outcome).inc(size_bytes)

    def disk(self, free_bytes: int, *, low: bool) -> None:
        """What is free where the store lies."""
        self._disk_free.set(free_bytes)
        self._disk_low.set(low)

    def stored(self, size_bytes: int) -> None:
        """What the store has in the data folder."""
        self._store_bytes.set(size_bytes)

    def auth_failed(self, reason: str) -> None:
        """One request without a valid key (`key`) or without the scope (`scope`)."""
        self._auth_failures.labels(reason).inc()

    def registry_is(self, *, up: bool, read_only: bool) -> None:
        """Whether the registry's database answered just now, and whether it takes changes."""
        self._registry_up.set(up)
        if up:
            self._registry_seen.set_to_current_time()
        self._registry_readonly.set(read_only)

    def registry_done(self, op: str, seconds: float | None) -> None:
        """One transaction, from any thread; None for one that the database did not do."""
        with self._threads:
            if seconds is None:
                self._registry_errors.labels(op).inc()
            elif op != "read":
                self._registry_seconds.labels(op).observe(seconds)

    def count_dropped_logs(self, dropped: Callable[[], int]) -> None:
        """Have the lines told that the log could not take."""
        self._dropped = dropped

    def reloaded(self) -> None:
        """The options have been read anew."""
        self._reloaded.set_to_current_time()

    def loop_lag(self, seconds: float) -> None:
        """How late the event loop was."""
        self._loop_lag.observe(max(0.0, seconds))

    def inflight(self, change: int) -> None:
        """Requests in flight, up or down."""
        self._in_flight += change

    def gauges(
        self,
        *,
        ready: bool,
        draining: bool,
        queue_depths: dict[str, int],
        queue_fill: dict[str, float],
        workers: dict[int, int | None],
        files: dict[int, int],
        active: list[tuple[Manifest, bool]],
        drift: list[tuple[Manifest, float, bool]],
        copies: list[tuple[Manifest, int]],
        rungs: dict[str, int],
        broken: list[Manifest],
    ) -> None:
        """Set what is read rather than counted. `workers`: resident bytes, None while down;
        `files`: what they have open.

        `drift`: measured ÷ profiled median of each active variant, and whether it is off for long.
        What has no name of its own is left out.
        """
        own = self._names.own
        self._ready.set(ready)
        self._draining.set(draining)
        self._inflight.set(self._in_flight)
        self._log_dropped.value = float(self._dropped())
        for model in filter(own, rungs):
            self._queue_depth.labels(model).set(queue_depths[model])
            self._queue_fill.labels(model).set(queue_fill[model])
            self._overload.labels(model).set(rungs[model])
            for cause in REJECTED:
                self._rejected.labels(model, cause)
            for outcome in SWITCHED:
                self._switches.labels(model, outcome)
        for number, rss_bytes in workers.items():
            for cause in LOST:
                self._worker_restarts.labels(str(number), cause)
            self._worker_up.labels(str(number)).set(rss_bytes is not None)
            self._worker_rss.labels(str(number)).set(rss_bytes or 0)
            self._worker_files.labels(str(number)).set(files.get(number, 0))
        for labelled in (
            self._variant_info,
            self._variant_healthy,
            self._latency_ratio,
            self._latency_drifted,
            self._variant_workers,
            self._promise_broken,
        ):
            labelled.clear()
        for manifest, healthy in active:
            names = manifest.model, manifest.variant
            if not own(*names):
                continue
            self._variant_healthy.labels(*names).set(healthy)
            self._promise_broken.labels(*names).set(manifest in broken)
            self._variant_info.labels(
                *names,
                manifest.runtime,
                manifest.artifact.format,
                manifest.technique,
                manifest.artifact.digest[:12],
            ).set(1)
            self._inference_requests.labels(*names, "ok")
            self._violations.labels(*names, "max_latency")
        for manifest, number in copies:
            if own(manifest.model, manifest.variant):
                self._variant_workers.labels(manifest.model, manifest.variant).set(number)
        for manifest, ratio, drifted in drift:
            if own(manifest.model, manifest.variant):
                self._latency_ratio.labels(manifest.model, manifest.variant).set(ratio)
                self._latency_drifted.labels(manifest.model, manifest.variant).set(drifted)
        self._folded.value = float(self._names.folded)

    def render(self) -> bytes:
        """The text exposition; takes milliseconds, so call it off the event loop."""
        return generate_latest(self.registry)


def _outcome(status: int) -> str:
    if status < 400:
        return "ok"
    if status < 500:
        return "client_error"
    return {502: "upstream_error", 503: "rejected", 504: "timeout"}.get(status, "internal")
