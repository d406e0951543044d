"""A real Prometheus scrapes a real gateway, with the configuration and rules that are shipped."""

import json
import re
import runpy
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests import servers, world
from tests.ladder import MODEL, Ladder
from variants.data_folder import open_data_folder

VARIANTS = f"/v1/models/{MODEL}/variants"
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
RULES = servers.PROMETHEUS / "gearshift.rules.yml"
TESTS = servers.PROMETHEUS / "gearshift.rules.test.yml"
ALERTS = re.findall(r"- alert: (\w+)", RULES.read_text("utf-8"))
BOARD = servers.DEPLOY / "grafana" / "dashboard.py"
CHOSEN = {"$instance": ".*", "$model": ".*", "$__rate_interval": "5m", "$__range": "1h"}
SELECTOR = re.compile(r"\b(?:gearshift[\w:]+|process_\w+|up)(?:\{[^}]*\})?")
COMPARISON = re.compile(r"(==|>|<) [\d.]+( \* [\d.]+)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Watched:
    """A gateway that has seen some traffic, and the Prometheus that watches it."""

    gateway: world.Gateway
    prometheus: servers.Prometheus

    def exposition(self) -> str:
        """What it is asked for."""
        with self.gateway.client() as client:
            return client.get("/metrics").text


def some_of_everything(client: httpx.Client, root: Path) -> None:
    """Answers, refusals, an upload, switches that succeed and one that fails."""
    for name in ladders.SEEDS:
        assert infer(client, name, "20000") == 200
    assert infer(client, "best", "0.001") == 422
    assert client.get("/v1/models", headers={"authorization": "Bearer none"}).status_code == 401
    world.upload(client, ladders.onnx(root, "extra-1"))
    client.post(f"{VARIANTS}/spare/activate").raise_for_status()
    assert client.post(f"{VARIANTS}/hollow/activate").status_code == 422


def infer(client: httpx.Client, variant: str, within_ms: str) -> int:
    """Ask one variant, and return the status."""
    headers = {"infer-variants": f'"{variant}"', "infer-max-latency-ms": within_ms}
    body = {"model": MODEL, "inputs": [1.0, 2.0, 3.0, 4.0]}
    return client.post("/infer", json=body, headers=headers).status_code


@pytest.fixture(scope="module")
def watched(built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    ladder = built_ladder.copy(folder / "data")
    with open_data_folder(ladder.root) as data:
        for name in ("spare", "hollow"):
            found = ladders.publish_fake(data, name, state="active")
            data.registry.move(MODEL, name, "draining", actor="test", reason="test")
            data.registry.move(MODEL, name, "inactive", actor="test", reason="test")
        data.store.blob_path(found.artifact.digest).unlink()
        key = world.make_key(data, "metrics")
    port = servers.free_port()
    with (
        servers.prometheus(port, key) as prometheus,  # waits 5 s before it scrapes at all
        world.gateway(ladder.root, ladder.key, "--port", str(port), env=ladders.ENV) as gateway,
        gateway.client() as client,
    ):
        # What happens before the first scrape is no increase, nor is the first of a new series.
        within(30, prometheus, "up == 1")
        some_of_everything(client, folder)
        within(30, prometheus, 'gearshift_variant_switch_total{outcome="failed"} == 1')
        assert infer(client, "best", "20000") == 200
        client.post(f"{VARIANTS}/spare/deactivate").raise_for_status()
        yield Watched(gateway=gateway, prometheus=prometheus)


def promtool(*arguments: str | Path, given: str = "", folder: Path | None = None) -> str:
    """What promtool says; it must be content."""
    done = subprocess.run(
        [servers.program("promtool"), *arguments],
        input=given,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def within(seconds: float, prometheus: servers.Prometheus, query: str) -> list[dict[str, str]]:
    """What a query gives, once it gives anything."""
    deadline = time.monotonic() + seconds
    while not (found := prometheus.query(query)):
        assert time.monotonic() < deadline, f"nothing from {query}"
        time.sleep(0.1)
    return found


def test_the_exposition_is_as_promtool_wants_it(watched: Watched) -> None:
    assert promtool("check", "metrics", given=watched.exposition()) == ""


def test_configuration_and_rules_are_sound(tmp_path: Path) -> None:
    folder = tmp_path / "prometheus"
    shutil.copytree(servers.PROMETHEUS, folder)
    (folder / "gearshift.key").write_text("secret\n", "utf-8")
    assert "SUCCESS" in promtool("check", "config", folder / "prometheus.yml")


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    tried = set(re.findall(r'alertname="(\w+)"', TESTS.read_text("utf-8")))
    assert tried == set(ALERTS)
    assert "SUCCESS" in promtool("test", "rules", TESTS.name, folder=TESTS.parent)


def test_each_alert_is_told_in_the_runbook() -> None:
    sections = re.findall(r"^### (\w+)$", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert sections == ALERTS
    links = re.findall(r"runbook_url: docs/runbook.md#(\w+)", RULES.read_text("utf-8"))
    assert links == [name.lower() for name in ALERTS]


def test_every_series_that_a_rule_asks_for_is_there(watched: Watched) -> None:
    rules = watched.prometheus.rules()
    assert len(rules) > len(ALERTS)
    for selector in {found for rule in rules for found in SELECTOR.findall(rule["query"])}:
        within(20, watched.prometheus, selector)


def test_every_rule_works_and_has_the_labels_that_it_tells(watched: Watched) -> None:
    """A rule without its thresholds gives data, with all that its description names."""
    for rule in watched.prometheus.rules():
        named = set(re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))))
        for labels in within(20, watched.prometheus, COMPARISON.sub("", rule["query"])):
            assert named <= labels.keys(), rule["name"]
    deadline = time.monotonic() + 10
    while any(rule["health"] != "ok" for rule in watched.prometheus.rules()):
        assert time.monotonic() < deadline, watched.prometheus.rules()
        time.sleep(0.1)


def test_every_panel_of_the_dashboard_has_data_and_the_labels_of_its_legends(
    watched: Watched,
) -> None:
    board = json.loads(BOARD.with_name("gearshift.json").read_text("utf-8"))
    asked = [target for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [
        {"expr": found["expr"].removesuffix(" > 0")} for found in board["annotations"]["list"]
    ]
    assert len(asked) > 30
    for target in asked:
        query = target["expr"]
        for variable, value in CHOSEN.items():
            query = query.replace(variable, value)
        assert "$" not in query
        legend = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        for labels in within(20, watched.prometheus, query):
            assert legend <= labels.keys(), query


def test_the_dashboard_is_as_its_script_writes_it_and_no_panel_covers_another() -> None:
    text = BOARD.with_name("gearshift.json").read_text("utf-8")
    assert runpy.run_path(str(BOARD))["text"]() == text
    taken = set()
    for panel in json.loads(text)["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_a_sound_gateway_raises_no_alarm_but_for_the_switch_that_failed(watched: Watched) -> None:
    failed = 'ALERTS{alertname="GearshiftVariantSwitchFailed",alertstate="firing"}'
    (found,) = within(20, watched.prometheus, failed)
    assert found["model"] == MODEL
    assert len(watched.prometheus.query('ALERTS{alertstate="firing"}')) == 1


def test_switches_are_counted_by_how_they_ended(watched: Watched) -> None:
    text = watched.exposition()
    for outcome, count in (("activated", 1), ("failed", 1), ("deactivated", 1)):
        line = f'gearshift_variant_switch_total{{model="{MODEL}",outcome="{outcome}"}} {count}.0'
        assert line in text
