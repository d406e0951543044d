"""Options that no other test is about: each changes what a gateway does (F9)."""

import contextlib
import time
from pathlib import Path

import pytest

from app.catalog import cost_usd_per_million
from app.errors import Unauthenticated
from app.keys import open_keys
from tests import ladder as ladders
from tests import world
from tests.end_to_end.test_cli import gearshift
from tests.ladder import MODEL, Ladder
from variants.cost import Prices
from variants.data_folder import open_data_folder

PROFILE_S = 0.2


@pytest.mark.option(
    "workers", "threads", "profile_s", "prices.core_hour_usd", "prices.gib_hour_usd"
)
def test_workers_threads_measuring_and_prices_are_as_they_were_set(
    ladder: Ladder, tmp_path: Path
) -> None:
    seconds = {}
    for threads, profile_s in ((1, 0.01), (2, PROFILE_S)):
        env = {
            **ladders.ENV,
            "GEARSHIFT_WORKERS": str(threads),
            "GEARSHIFT_THREADS": str(threads),
            "GEARSHIFT_PIN_WORKERS": "false",
            "GEARSHIFT_PROFILE_S": str(profile_s),
            "GEARSHIFT_PRICES__CORE_HOUR_USD": str(threads),
            "GEARSHIFT_PRICES__GIB_HOUR_USD": str(threads * 1000),
        }
        name = f"extra-{threads}"
        with world.gateway(ladder.root, ladder.key, env=env) as gateway, gateway.client() as client:
            assert len(gateway.workers()) == threads
            digest = world.upload(client, ladders.onnx(tmp_path, name))
            start = time.monotonic()
            made = client.post(
                f"/v1/models/{MODEL}/variants",
                json={"name": name, "artifact": {"digest": digest}},
                headers={"Prefer": "wait=60"},
                timeout=60,
            )
            seconds[profile_s] = time.monotonic() - start
            assert made.status_code == 201, made.text
        with open_data_folder(ladder.root) as data:
            manifest = data.store.manifest(made.json()["manifest_id"])
        assert manifest.profile is not None and manifest.profile.threads == threads
        prices = Prices(core_hour_usd=threads, gib_hour_usd=threads * 1000)
        shown = made.json()["cost_usd_per_million"]
        assert shown == pytest.approx(cost_usd_per_million(manifest, prices))
    longer = seconds[PROFILE_S] - seconds[0.01]
    batches = len(manifest.profile.latency_s)
    assert longer > batches * (PROFILE_S - 0.01) * 0.5, seconds


@pytest.mark.option("keep_unused_s")
def test_what_is_not_needed_is_kept_for_as_long_as_it_was_set(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "data") as data:
        digest = data.store.put_bytes(b"nobody's")
    kept = gearshift(tmp_path, "gc", "--dry-run")
    assert digest not in kept.stdout and "0 files" in kept.stderr, kept
    found = gearshift(tmp_path, "gc", "--dry-run", GEARSHIFT_KEEP_UNUSED_S="0")
    assert digest in found.stdout, found


@pytest.mark.option("pepper")
def test_keys_are_valid_under_the_pepper_that_was_set_and_under_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {"GEARSHIFT_PEPPER": "env:MINE", "MINE": "ab" * 32}
    made = gearshift(tmp_path, "keys", "create", "--name", "replica", **secret)
    assert made.returncode == 0, made.stderr
    assert not (tmp_path / "data" / "pepper").exists()
    with open_data_folder(tmp_path / "data") as data:
        for pepper, valid in (("ab" * 32, True), ("cd" * 32, False)):
            monkeypatch.setenv("MINE", pepper)
            keys = open_keys(data.keys, data.root, required=True, pepper="env:MINE")
            with contextlib.nullcontext() if valid else pytest.raises(Unauthenticated):
                keys.check([f"Bearer {made.stdout.strip()}"], "infer")
