"""The proof of routing: what it reads, that every baseline keeps the bounds, and what follows."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks.routing import (
    baselines,
    bound,
    cells,
    cli,
    ladder,
    mix,
    profiles,
    proof,
    quick,
    traces,
    windows,
)
from benchmarks.routing.baselines import Setting
from benchmarks.routing.cells import Cell
from benchmarks.routing.play import Rules, play
from benchmarks.routing.proof import Plan
from benchmarks.routing.statistics import difference
from router.constraints import Constraints
from router.simulate import Arrival, simulate
from variants.errors import Invalid

every_policy = pytest.mark.parametrize("name", baselines.names())
STEPS, FASHION = (profiles.load([path])[0] for path in cli.EXAMPLES[::-1])


def window(seed: int = 1, n: int = 80):
    return windows.of_process("gamma-cv2-8", seeds=seed, arrivals=n)


def cell(**changes) -> Cell:
    found = Cell(
        kind="trace",
        windows=window(),
        ladder=FASHION,
        rho=2.0,
        workers=2,
        policies=baselines.names(),
    )
    return replace(found, **changes)


def setting(of: Cell) -> Setting:
    return Setting(
        ladder=of.ladder,
        workers=of.workers,
        max_batch=of.rules.max_batch,
        deadlines_s=mix.deadlines_s(of.ladder),
        training=of.arrivals(of.windows.training, 0),
    )


def certain(of: ladder.Ladder) -> ladder.Ladder:
    """The ladder where runs always take their median, and everybody knows."""
    flat = of.by_means()
    service = {
        each.variant: {batch: np.array([q.p50]) for batch, q in each.service.items()}
        for each in flat.candidates
    }
    return replace(flat, service=service)


# Traces


@pytest.mark.parametrize(
    "text",
    [
        "TIMESTAMP,ContextTokens\n2023-11-16 18:17:03.9799600,1\n2023-11-16 18:17:05.9799600,2\n"
        "2023-11-16T18:17:07.979960,3\n",
        "user;arrival_s\na;10.5\n\nb;12.5\nc;14.5\n",
        "12.0\n10.0\n14.0\n",
        "app,end_timestamp,duration\nx,11,1\ny,15,3\nz,14.5,0.5\n",
        '{"timestamp": 1000}\n{"timestamp": 3000, "x": 1}\n{"timestamp": 5000}\n',
    ],
    ids=["iso", "named column", "no header", "end and duration", "json lines"],
)
def test_every_format_gives_the_same_times(tmp_path, monkeypatch, text):
    monkeypatch.setattr(traces, "FEWEST", 3)
    path = tmp_path / "trace"
    path.write_text(text, encoding="utf-8")
    assert traces.read(path).at_s == pytest.approx([0, 2, 4])


def test_the_column_can_be_named(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "".join(f"{2 * i},{i * i}\n" for i in range(40))
    path.write_text(f"time,other\n{rows}", encoding="utf-8")
    assert traces.read(path).at_s[-1] == 78
    assert traces.read(path, column="other").at_s[-1] == 39**2


@pytest.mark.parametrize(("head", "cv2"), [("period,count\n", 1.0), ("", 4.0), ("minute,x\n", 1.0)])
def test_counts_become_arrivals_inside_their_periods(tmp_path, head, cv2):
    path = tmp_path / "counts.csv"
    counts = [0, 400, 0, 200] * 5
    rows = "".join(f"2020-01-01 00:{i:02}:00,{count}\n" for i, count in enumerate(counts))
    path.write_text(head + rows, encoding="utf-8")
    found = traces.read(path, cv2=cv2)
    at_s = found.at_s
    assert found.spread
    assert len(at_s) == pytest.approx(sum(counts), rel=0.1)
    heavy = np.sum((at_s % 240) < 60)  # the first arrival is within the second minute
    assert heavy == pytest.approx(2 / 3 * len(at_s), rel=0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("time,size\n", "no data"),
        ("time\n1\n2\nsoon\n4\n", "line 4: 'soon' in column 'time'"),
        ("time\n1\nnan\n", "line 3: 'nan'"),
        ("size,colour\nbig,red\n", "no column reads as a time (columns: size, colour"),
        ("period,count\n1,5\n3,-2\n", "line 3: '-2' in column 'count'"),
        ("period,count\n1,5\n1,2\n", "line 3: periods must"),
        ("period,count\n1,0\n2,0\n", "every count is 0"),
        ('{"timestamp": 1}\n{"time": 2}\n', "line 2"),
        ("time\n1\n2\n3\n", "3 arrivals; at least 30"),
        ("time\n" + "7\n" * 40, "same time"),
    ],
)
def test_a_wrong_trace_is_refused_by_file_and_line(tmp_path, text, said):
    path = tmp_path / "trace.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Invalid) as refused:
        traces.read(path)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_windows_are_disjoint_later_and_of_the_asked_load():
    trace = traces.Trace(name="t", at_s=np.cumsum(np.random.default_rng(0).exponential(size=1000)))
    found = windows.of_trace(trace, most=5, arrivals=100)
    assert [len(times) for times in found.tests] == [100] * 5
    assert found.training[-1] <= trace.at_s[199]
    scaled = windows.rescaled_us(found.tests[0], 50.0)
    assert (len(scaled) - 1) / (scaled[-1] / 1e6) == pytest.approx(50, rel=1e-3)
    gaps, was = np.diff(scaled), np.diff(found.tests[0])
    assert gaps / gaps.sum() == pytest.approx(was / was.sum(), abs=1e-5)
    assert found.draws == 1


def test_a_short_trace_is_drawn_until_as_many_requests_were_played():
    trace = traces.Trace(name="t", at_s=np.cumsum(np.random.default_rng(0).exponential(size=100)))
    found = windows.of_trace(trace, most=5, arrivals=100)
    assert [len(times) for times in found.tests] == [40, 40]
    assert found.draws == 6

    here = cell(policies=(baselines.OURS, "single_hindsight"), rho=1.0, windows=found)
    for result in cells.run(here):
        assert [len(draws) for draws in result.windows] == [6, 6]
        means = [np.mean([each.effective_accuracy for each in draws]) for draws in result.windows]
        assert result.effective == pytest.approx(means)
        assert result.row()["effective_accuracy"] == pytest.approx(np.mean(means))
        assert len({scores.p99_s for draws in result.windows for scores in draws}) == 12


# Profiles


def test_a_profile_table_may_say_percent_and_one_time(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("Variant,Accuracy,latency_ms\na,91.5,10\nb,70,1\n", encoding="utf-8")
    (found,) = profiles.load([path])
    assert found.best.variant == "a"
    assert ladder.value(found.best) == pytest.approx(0.915)
    assert found.best.service_s(1, 50) == pytest.approx(0.010)
    assert found.best.service_s(4, 50) == pytest.approx(0.040)
    assert np.median(found.service["a"][1]) == pytest.approx(0.010, rel=0.01)


def test_public_tables_are_joined_and_hosts_are_paired(tmp_path):
    names = [f"net{i}" for i in range(6)]
    top1 = "".join(f"{n}.tag,224,{70 + i}\n" for i, n in enumerate(names))
    (tmp_path / "results.csv").write_text(f"model,img_size,top1\n{top1}", encoding="utf-8")
    for host, pace in (("one", 1), ("two", 3)):
        rows = "".join(f"{n},{pace * 2**i},1\n" for i, n in enumerate(names))
        head = "model,infer_step_time,infer_batch_size"
        (tmp_path / f"{host}.csv").write_text(f"{head}\n{rows}", encoding="utf-8")
    found = profiles.load([tmp_path / "one.csv", tmp_path / "two.csv"])
    assert [each.name for each in found] == ["one", "two"]
    believed, real = profiles.pairs(found)[0]
    mixed = real.believing(believed)
    assert mixed.best.service_s(1, 50) * 3 == pytest.approx(
        np.median(mixed.service["net5"][1]), rel=0.01
    )


def test_int8_and_fp32_of_a_model_become_two_rungs(tmp_path):
    path = tmp_path / "int8.csv"
    path.write_text(
        "model,perf_config,example,acc_int8,acc_fp32,throughput_int8,throughput_fp32\n"
        "ResNet50,1s4c14ins1bs,pb,74.11,74.27,1732.92,578.88\n"
        "BERT large,1s4c14ins1bs,pb,90,91,10,5\n",
        encoding="utf-8",
    )
    (found,) = profiles.load([path])
    assert {each.variant for each in found.candidates} == {"resnet50-pb-int8", "resnet50-pb-fp32"}
    assert found.best.service_s(1, 50) == pytest.approx(14 / 578.88)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("variant,accuracy,p50_ms\na,0.9,5\n", "one variant only"),
        ("variant,accuracy,p50_ms\na,0.9,5\nb,0.8,-1\n", "line 3: '-1' in column 'p50_ms'"),
        ("variant,accuracy,p50_ms\na,0.9,5\nb,,1\n", "line 3: '' in column 'accuracy'"),
        ("variant,accuracy,p50_ms\na,0.9,5\na,0.8,6\nb,1,1\n", "line 3: accuracy '0.8' of 'a'"),
        ("variant,accuracy,p50_ms\na,0.9,5\na,0.9,6\nb,1,1\n", "line 3: batch 1 of 'a'"),
        ("variant,accuracy,p50_ms,p95_ms\na,0.9,5,4\nb,1,1,1\n", "p50 ≤ p95 ≤ p99"),
        ("variant,accuracy,p50_ms\na,0.9\n", "line 2: 2 cells under a header of 3"),
        ("name,speed\na,1\n", "not a profile table that is known (columns seen: name, speed)"),
        ("model,img_size,top1\na,224,70\n", "say nothing about time"),
        ("model,infer_step_time,infer_batch_size\na,1,1\n", "no accuracies"),
        ("variant,accuracy,p50_ms\n", "no rows"),
    ],
)
def test_a_wrong_profile_is_refused_by_file_and_line(tmp_path, text, said):
    path = tmp_path / "profile.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(Invalid) as refused:
        profiles.load([path])
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


# Policies


class Watched:
    """A policy whose choices are held to what every policy promises."""

    def __init__(self, policy, *, head_first):
        self._policy, self._head_first = policy, head_first
        for name in ("arrived", "finished"):
            if hasattr(policy, name):
                setattr(self, name, getattr(policy, name))

    def choose(self, view):
        choice = self._policy.choose(view)
        waiting = {request.id: request for request in view.queue}
        batch = [waiting[id] for id in choice.requests]
        assert len(set(choice.requests)) == len(batch) > 0
        assert choice.variant in view.loaded
        assert all(choice.variant in request.eligible for request in batch)
        assert sum(request.rows for request in batch) <= view.max_batch
        if self._head_first:
            assert choice.requests[0] == view.queue[0].id
        return choice


@every_policy
@pytest.mark.parametrize("ladder", [FASHION, STEPS], ids=lambda each: each.name)
def test_every_policy_keeps_its_promises(name, ladder):
    """Nexus alone passes heads over: giving them up for a full batch is what it is about."""
    here = cell(ladder=ladder)
    given = setting(here)
    arrivals = here.arrivals(here.windows.tests[0], 1)
    baseline = baselines.find(name)
    for tunables in baseline.grid(given):
        policy = Watched(baseline.build(given, **tunables), head_first=name != "nexus")
        run = simulate(
            policy,
            candidates=ladder.candidates,
            service=ladder.service,
            arrivals=arrivals,
            workers=2,
            seed=1,
            max_batch=4,
        )
        assert len(run.outcomes) == len(arrivals)


@every_policy
@pytest.mark.parametrize("ladder", [FASHION, STEPS], ids=lambda each: each.name)
def test_nobody_beats_the_bound_or_breaks_one(name, ladder):
    here = cell(ladder=certain(ladder), policies=(name,), rho=1.5)
    (result,) = cells.run(here)
    for (scores,), most in zip(result.windows, result.bounds, strict=True):
        assert 0 < scores.effective_accuracy <= most + 1e-9
        assert scores.floor_violations == scores.cost_violations == 0
        assert scores.refusal_precision == scores.refusal_recall == 1.0


def test_the_bound_is_exact_where_it_can_be_counted():
    """Two equal requests at once, time for one run of the better or for both on the worse."""
    good, bad = (
        next(each for each in STEPS.candidates if each.variant == name) for name in ("huge", "nano")
    )
    two = certain(ladder.ladder_of("two", [good, bad]))
    deadline_s = good.service_s(1, 50) * 1.2
    asked = Constraints(max_latency_s=deadline_s, objective="accuracy")
    arrivals = [Arrival(at_us=0, constraints=asked)] * 2
    means = {name: samples[1][0] for name, samples in two.service.items()}
    left_s = deadline_s - 2 * means["nano"]
    step_up = (0.87 - 0.70) / (means["huge"] - means["nano"])
    expected = (2 * 0.70 + left_s * step_up) / 2
    found = bound.effective_accuracy(two, arrivals, workers=1, max_batch=1)
    assert found == pytest.approx(expected, rel=1e-3)


@every_policy
def test_a_ladder_without_small_batches_serves_as_well(name, tmp_path):
    path = tmp_path / "large.csv"
    path.write_text(
        "variant,accuracy,batch,p50_ms\na,0.9,4,10\na,0.9,32,60\nb,0.7,4,1\nb,0.7,32,6\n"
    )
    (found,) = profiles.load([path])
    for most in (2, 8):
        here = cell(ladder=found, policies=(name,), rules=Rules(max_batch=most))
        (result,) = cells.run(here)
        assert 0 < result.effective[0] <= 0.9


def test_the_milp_fills_the_fleet_with_the_best_that_sustains_the_demand():
    from benchmarks.routing.baselines.proteus import assignment

    accuracies, peaks = np.array([0.9, 0.7]), np.array([10.0, 40.0])
    assert assignment(accuracies, peaks, 2, 15.0) == [0, 0]
    assert sorted(assignment(accuracies, peaks, 2, 45.0)) == [0, 1]
    assert assignment(accuracies, peaks, 2, 80.0) == [1, 1]
    assert assignment(accuracies, peaks, 2, 81.0) is None


def test_equal_runs_give_equal_scores():
    here = cell(policies=(baselines.OURS, "clipper"), rho=1.0)
    first, second = cells.run(here), cells.run(here)
    for one, other in zip(first, second, strict=True):
        for (a,), (b,) in zip(one.windows, other.windows, strict=True):
            assert replace(a, decision_us_p50=0.0) == replace(b, decision_us_p50=0.0)


def test_drift_from_the_middle_on_makes_runs_longer():
    here = cell(rho=1.0, windows=window(n=300))
    given, arrivals = setting(here), here.arrivals(here.windows.tests[0], 1)
    as_told = play(("static_fastest", {}), given, arrivals, seed=1, rules=Rules())
    slower = play(("static_fastest", {}), given, arrivals, seed=1, rules=Rules(drift=4.0))
    assert slower.p50_s > as_told.p50_s
    assert slower.attainment < as_told.attainment


# What follows


def test_a_difference_counts_where_its_interval_excludes_zero():
    ours = [0.9, 0.8, 0.7, 0.85, 0.6, 0.65]
    assert difference(ours, [each - 0.01 for each in ours]).verdict == "win"
    assert difference(ours, [each + 0.01 for each in ours]).verdict == "loss"
    assert difference(ours[:4], [each - 0.01 for each in ours[:4]]).verdict == "tie"
    even = difference(ours, [0.8, 0.9, 0.8, 0.75, 0.7, 0.55])
    assert even.verdict == "tie"
    assert even.mean == pytest.approx(0.0)
    assert even.low < 0 < even.high
    with pytest.raises(ValueError, match="shorter"):
        difference(ours, ours[:2])


def test_the_quick_proof_fails_where_a_bound_is_broken_or_ours_is_behind():
    row = {"policy": "ours", "trace": "t", "workers": 1, "rho": 1.0}
    kept = {**row, "floor_violations": 0, "cost_violations": 0}
    near = {**row, "policy": quick.GREEDY, "verdict": "loss", "difference": -0.0003}
    mean = {"policies": {quick.GREEDY: {"difference": 0.01}}}
    assert quick.failures({"cells": [kept], "comparisons": [near], "summary": mean}) == []
    broke, behind = {**kept, "floor_violations": 2}, {**near, "difference": -0.03}
    mean = {"policies": {quick.GREEDY: {"difference": -0.01}}}
    said = quick.failures({"cells": [broke], "comparisons": [behind], "summary": mean})
    assert [text.split(" in ")[0].split(" over ")[0] for text in said] == [
        "ours broke 2 floor bounds",
        "ours is behind greedy_deadline by 3.00 points",
        "ours is behind greedy_deadline by 1.00 points",
    ]


def test_every_part_of_the_proof_runs_and_is_told():
    plan = Plan(
        traces=[window()],
        ladders=[STEPS],
        rhos=(2.0,),
        workers=(1,),
        policies=(baselines.OURS, "greedy_deadline"),
        seeds=2,
        arrivals=40,
    )
    rows = proof.run(proof.cells_of(plan), jobs=1)
    comparisons = proof.compared(rows)
    told = proof.summary(rows, comparisons)
    assert {row["kind"] for row in rows} == {"trace", "synthetic", "drift", "ablation"}
    assert len(comparisons) == sum(told["verdicts"].values()) == 1 + 6 + 3
    assert told["floor_violations"] == told["cost_violations"] == 0
    from benchmarks.routing import report

    result = {"cells": rows, "comparisons": comparisons, "summary": told}
    assert "greedy_deadline" in report.table(json.loads(json.dumps(report.digest(result))))


def test_the_command_prints_the_promised_json(tmp_path):
    path = tmp_path / "trace.csv"
    rows = "".join(f"{at}\n" for at in window(n=120).tests[0])
    path.write_text(f"seconds\n{rows}", encoding="utf-8")
    asked = ["--trace", path, "--profiles", cli.EXAMPLES[1], "--parts", "trace", "--rho", "1"]
    policies = ["--workers", "1", "--policies", baselines.OURS, "slackfit", "--json"]
    done = _command(*asked, *policies, "--out", tmp_path / "out")
    found = json.loads(done.stdout)["cells"]
    assert [row["policy"] for row in found] == [baselines.OURS, "slackfit"]
    assert {"trace", "rho", "workers", "profiles", "policy", "effective_accuracy", "attainment"} | {
        "floor_violations",
        "cost_violations",
        "usd_per_1000",
        "decision_us_p50",
    } <= found[0].keys()
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "routing.md",
        "trace-steps.png",
    ]
    wrong = _command("--trace", tmp_path / "absent.csv")
    assert wrong.returncode == 1
    assert "absent.csv" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def _command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.routing", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent.parent.parent,
    )
