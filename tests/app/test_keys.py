"""Keys through their life: made, limited, rotated, expired, revoked; peppers under them."""

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.errors import Forbidden, Unauthenticated
from app.keys import Keys, open_keys
from app.peppers import PepperSource
from variants.data_folder import DataFolder
from variants.database import Database
from variants.errors import Conflict, Invalid, NotFound
from variants.key_table import KeyTable
from variants.terms import Terms, allowed

INFER = frozenset({"infer"})


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = datetime(2026, 1, 31, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now_s

    def in_s(self, seconds: float) -> datetime:
        return datetime.fromtimestamp(self.now_s, UTC) + timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(data_folder: DataFolder, clock: Clock) -> Keys:
    source = PepperSource.of(None, data_folder.root)
    return Keys(data_folder.keys, source, required=True, clock=clock)


def valid(keys: Keys, key: str) -> bool:
    try:
        keys.check([f"Bearer {key}"], "any")
    except Unauthenticated:
        return False
    return True


def id_of(key: str) -> str:
    return key.split("_")[1]


def test_a_key_keeps_its_limits(keys: Keys, data_folder: DataFolder) -> None:
    terms = Terms(
        allow=allowed(["a", "b/x"]),
        max_latency_s=0.5,
        max_cost_usd_per_million=2.0,
        min_accuracy=0.25,
        max_accuracy_drop_points=1.5,
        requests_per_s=7.5,
        usd_per_day=0.125,
    )
    key = keys.create("shop", INFER, actor="test", terms=terms)
    assert keys.check([f"Bearer {key}"], "infer").terms == terms
    (made,) = [e for e in data_folder.audit.after(0) if e.action == "key.create"]
    assert made.evidence is not None and made.evidence["allow"] == ["a", "b/x"]
    assert key.split("_", 2)[2] not in repr(made)


def test_a_key_ends_by_itself_and_follows_the_wall_clock(keys: Keys, clock: Clock) -> None:
    key = keys.create("shop", INFER, actor="test", expires_at=clock.in_s(60))
    clock.now_s += 59
    keys.renew()
    assert valid(keys, key)
    clock.now_s += 1
    before = keys.version
    keys.renew()
    assert not valid(keys, key) and keys.version > before
    clock.now_s -= 3600  # set back: the key is valid again, as its date says
    keys.renew()
    assert valid(keys, key)
    with pytest.raises(Invalid, match="in the past"):
        keys.create("late", INFER, actor="test", expires_at=clock.in_s(0))


def test_a_key_ends_even_where_the_pepper_is_out_of_reach(
    keys: Keys, clock: Clock, data_folder: DataFolder
) -> None:
    key = keys.create("shop", INFER, actor="test", expires_at=clock.in_s(60))
    (data_folder.root / "pepper").unlink()
    clock.now_s += 61
    with pytest.raises(FileNotFoundError):
        keys.renew()
    assert not valid(keys, key)


def test_a_rotated_key_has_two_secrets_for_the_overlap(keys: Keys, clock: Clock) -> None:
    first = keys.create("shop", INFER, actor="test")
    second = keys.rotate(id_of(first), overlap_s=100, actor="test")
    assert id_of(second) == id_of(first) and second != first
    assert valid(keys, first) and valid(keys, second)
    clock.now_s += 101
    keys.renew()
    assert not valid(keys, first) and valid(keys, second)
    third = keys.rotate(id_of(first), overlap_s=0, actor="test")
    assert not valid(keys, second) and valid(keys, third)


def test_rotating_within_the_overlap_ends_the_older_secret(keys: Keys) -> None:
    first = keys.create("shop", INFER, actor="test")
    second = keys.rotate(id_of(first), overlap_s=100, actor="test")
    third = keys.rotate(id_of(first), overlap_s=100, actor="test")
    assert [valid(keys, key) for key in (first, second, third)] == [False, True, True]
    for overlap_s in (-1.0, 31 * 86400.0):
        with pytest.raises(Invalid, match="overlap_s"):
            keys.rotate(id_of(first), overlap_s=overlap_s, actor="test")
    keys.revoke(id_of(first), actor="test")
    assert not any(valid(keys, key) for key in (first, second, third))
    with pytest.raises(NotFound):
        keys.rotate(id_of(first), overlap_s=0, actor="test")


def test_the_last_admin_key_needs_force(keys: Keys, clock: Clock) -> None:
    admin = keys.create("ops", frozenset({"admin"}), actor="test")
    with pytest.raises(Conflict, match="last admin key"):
        keys.revoke(id_of(admin), actor="test")
    keys.revoke(id_of(admin), actor="test", force=True)
    assert not valid(keys, admin)


def test_what_sees_every_model_cannot_be_limited_to_some(keys: Keys) -> None:
    for scope in ("admin", "metrics"):
        with pytest.raises(Invalid, match="sees every model"):
            keys.create("x", frozenset({scope}), actor="t", terms=Terms(allow=allowed(["a"])))


def test_keys_outlive_a_pepper_if_they_are_used(keys: Keys, data_folder: DataFolder) -> None:
    used = keys.create("used", INFER, actor="test")
    idle = keys.create("idle", INFER, actor="test")
    keys.rotate_pepper(actor="test")
    fresh = keys.create("fresh", INFER, actor="test")
    assert all(valid(keys, key) for key in (used, fresh))
    keys.renew()
    assert valid(keys, used)
    with pytest.raises(Invalid, match=id_of(idle)) as refused:
        keys.rotate_pepper(actor="test")
    assert id_of(used) not in str(refused.value)
    assert keys.strangers() == []
    keys.rotate_pepper(actor="test", force=True)
    assert keys.strangers() == [id_of(idle)]
    assert [valid(keys, key) for key in (used, idle, fresh)] == [True, False, True]
    actions = [entry.action for entry in data_folder.audit.after(0)]
    assert actions.count("key.rotate-pepper") == 2


def test_a_secret_within_its_overlap_outlives_a_pepper_if_it_is_used(
    keys: Keys, clock: Clock
) -> None:
    used, idle = (keys.create(name, INFER, actor="test") for name in ("used", "idle"))
    keys.rotate_pepper(actor="test")
    for key in (used, idle):
        keys.rotate(id_of(key), overlap_s=100, actor="test")
    assert valid(keys, used)
    keys.renew()
    with pytest.raises(Invalid, match=id_of(idle)) as refused:
        keys.rotate_pepper(actor="test")
    assert id_of(used) not in str(refused.value)
    keys.rotate_pepper(actor="test", force=True)
    assert [valid(keys, key) for key in (used, idle)] == [True, False]


def test_a_secret_after_its_overlap_keeps_no_pepper(keys: Keys, clock: Clock) -> None:
    key = keys.create("shop", INFER, actor="test")
    keys.rotate_pepper(actor="test")
    new = keys.rotate(id_of(key), overlap_s=100, actor="test")
    clock.now_s += 101
    keys.rotate_pepper(actor="test")
    assert [valid(keys, each) for each in (key, new)] == [False, True]


def test_an_old_secret_from_before_its_pepper_was_kept_is_named_when_used(
    keys: Keys, data_folder: DataFolder
) -> None:
    key = keys.create("shop", INFER, actor="test")
    keys.rotate_pepper(actor="test")
    keys.rotate(id_of(key), overlap_s=100, actor="test")
    with data_folder.database.write() as db:
        db.exec_driver_sql("UPDATE keys SET old_pepper = NULL")
    keys.refresh()
    with pytest.raises(Invalid, match=id_of(key)):
        keys.rotate_pepper(actor="test")
    assert valid(keys, key)
    keys.renew()
    keys.rotate_pepper(actor="test")
    assert valid(keys, key)


def test_of_several_first_starts_at_once_one_makes_the_admin_key(
    place: Path | str, tmp_path: Path
) -> None:
    source = PepperSource.of(None, tmp_path)
    databases = [Database(place) for _ in range(4)]
    start = threading.Barrier(len(databases))

    def begin(database: Database) -> str | None:
        keys = Keys(KeyTable(database), source, required=True)
        start.wait()
        return keys.create_first("first", frozenset({"admin"}), actor="test")

    with ThreadPoolExecutor(len(databases)) as pool:
        made = list(pool.map(begin, databases))
    (key,) = KeyTable(databases[0]).all()
    assert [id_of(each) for each in made if each is not None] == [key.id]
    for database in databases:
        database.close()


def test_a_gateway_notices_a_pepper_that_another_process_rotated(data_folder: DataFolder) -> None:
    here = open_keys(data_folder.keys, data_folder.root, required=True)
    there = open_keys(data_folder.keys, data_folder.root, required=True)
    old = here.create("old", INFER, actor="test")
    there.rotate_pepper(actor="test")
    new = there.create("new", INFER, actor="test")
    here.refresh()
    assert valid(here, old) and valid(here, new)


def test_keys_from_before_peppers_had_names_are_named_when_used(
    keys: Keys, data_folder: DataFolder
) -> None:
    key = keys.create("old", INFER, actor="test")
    with data_folder.database.write() as db:
        db.exec_driver_sql("UPDATE keys SET pepper = NULL")
    keys.refresh()
    keys.rotate_pepper(actor="test")
    assert valid(keys, key)
    keys.renew()
    keys.rotate_pepper(actor="test")
    assert valid(keys, key)


def test_any_valid_key_may_do_what_needs_none_in_particular(keys: Keys) -> None:
    key = keys.create("m", frozenset({"metrics"}), actor="test")
    assert keys.check([f"Bearer {key}"], "any").scopes == {"metrics"}
    with pytest.raises(Forbidden):
        keys.check([f"Bearer {key}"], "infer")


def test_no_kind_of_bad_key_can_be_told_by_its_time(keys: Keys, clock: Clock) -> None:
    """10,000 tries of each kind, interleaved: the medians differ by less than each one's spread."""
    live = keys.create("live", INFER, actor="test")
    gone = keys.create("gone", INFER, actor="test")
    over = keys.create("over", INFER, actor="test", expires_at=clock.in_s(1))
    keys.revoke(id_of(gone), actor="test")
    clock.now_s += 10
    keys.renew()
    secret = live.split("_", 2)[2]
    kinds = {
        "wrong": f"gs_{id_of(live)}_{'x' * len(secret)}",
        "unknown": f"gs_00000000_{secret}",
        "revoked": gone,
        "expired": over,
    }
    taken: dict[str, list[int]] = {kind: [] for kind in kinds}
    messages = set()
    for _ in range(10_000):
        for kind, key in kinds.items():
            start = time.perf_counter_ns()
            try:
                keys.check([f"Bearer {key}"], "infer")
            except Unauthenticated as error:
                taken[kind].append(time.perf_counter_ns() - start)
                messages.add(str(error))
    assert len(messages) == 1
    assert all(len(samples) == 10_000 for samples in taken.values())
    medians = [statistics.median(samples) for samples in taken.values()]
    low, _, high = statistics.quantiles(taken["wrong"], n=4)
    assert max(medians) - min(medians) < max(high - low, 2000)
