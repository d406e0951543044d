"""What our gateway adds to running the model alone."""

import re
import statistics
import time
from pathlib import Path
from typing import Any

import httpx

from app import catalog
from benchmarks.load import Generator
from benchmarks.models import cnn, tiny
from benchmarks.peers.measure import Rounds
from benchmarks.peers.running import Server
from router.admission import admit
from router.constraints import Constraints
from router.fleet import WorkerView
from tests import world
from variants.cost import Prices
from variants.data_folder import open_data_folder

CNN_PAIRS = 5
BUCKET = re.compile(r'gearshift_overhead_seconds_bucket\{le="([^"]+)"\} (\S+)')


def measure(
    *,
    gateway: world.Gateway,
    server: Server,
    data_dir: Path,
    artifacts: dict[str, Path],
    rounds: Rounds,
    title: str,
) -> dict[str, Any]:
    """Decision, inside of the gateway at half load, and a single client's view."""
    highest = _median(rounds, title, "tiny", 64)
    before = _buckets(gateway)
    rate_per_s = highest / 2
    Generator.run(
        rounds.generator,
        server.port,
        server.request("tiny"),
        connections=64,
        seconds=5.0,
        rate_per_s=rate_per_s,
    )
    counts = {bound: count - before[bound] for bound, count in _buckets(gateway).items()}
    alone_s = statistics.median(model_s(artifacts["tiny"], tiny().row(), rounds.seconds))
    pairs = []
    for _ in range(CNN_PAIRS):
        alone_per_s = len(model_s(artifacts["cnn"], cnn().row(), rounds.seconds)) / rounds.seconds
        behind = rounds.sample(server, "cnn-binary", 16)
        pairs.append((alone_per_s, behind.requests_per_s))
    alone_per_s, behind_per_s = map(statistics.median, zip(*pairs, strict=True))
    singles = [own.p50_ms for _, own in rounds.pairs[title, "tiny", 1]]
    return {
        "title": title,
        "decision_us": decision_s(data_dir) * 1e6,
        "rate_per_s": rate_per_s,
        "in_gateway_p50_ms": quantile_s(counts, 0.5) * 1e3,
        "in_gateway_p99_ms": quantile_s(counts, 0.99) * 1e3,
        "client_ms": statistics.median(singles) - alone_s * 1e3,
        "cnn_alone_per_s": alone_per_s,
        "cnn_ratio": behind_per_s / alone_per_s,
    }


def decision_s(data_dir: Path) -> float:
    """Median seconds of one admission of the tiny model with nothing queued."""
    with open_data_folder(data_dir) as data:
        model = catalog.read_model(data, "tiny", Prices(core_hour_usd=0.04, gib_hour_usd=0.005))
    candidates = [served.candidate for served in model.variants.values()]
    worker = WorkerView(id=0, free_at_s=0.0, loaded=frozenset(model.variants))
    asked = Constraints(max_latency_s=0.05)
    samples = []
    for _ in range(2000):
        start = time.perf_counter()
        admit(
            asked,
            candidates,
            reference=model.record.reference,
            queue=[],
            workers=[worker],
            now_s=start,
            rows=1,
            overhead_s=0.001,
            queue_limit=512,
        )
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def model_s(artifact: Path, row: Any, seconds: float) -> list[float]:
    """Seconds of each run of the model alone, one after another for so long, on one thread."""
    from variants.runtimes import onnxruntime

    session, samples = onnxruntime.load(artifact, 1), []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run({"x": row})
        samples.append(time.perf_counter() - start)
    return samples


def quantile_s(counts: dict[float, float], rank: float) -> float:
    """A quantile of cumulative bucket counts, linear within a bucket."""
    wanted = counts[float("inf")] * rank
    low = below = 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            share = (wanted - below) / (count - below) if count > below else 1.0
            return low if bound == float("inf") else low + share * (bound - low)
        low, below = bound, count
    return low


def _buckets(gateway: world.Gateway) -> dict[float, float]:
    text = httpx.get(
        f"{gateway.url}/metrics",
        headers={"authorization": f"Bearer {gateway.key}"},
        trust_env=False,
    ).text
    return {float(bound): float(count) for bound, count in BUCKET.findall(text)}


def _median(rounds: Rounds, title: str, payload: Any, connections: int) -> float:
    pairs = rounds.pairs[title, payload, connections]
    return statistics.median(own.requests_per_s for _, own in pairs)
