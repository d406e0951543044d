"""Names that one process holds: exclusive, free with its death, and held again after an outage."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.recovery import Recovery, claim_name
from tests import servers
from tests.limits import no_more_files
from tests.models import tiny_spec
from tests.variants.test_registry import add
from variants.claims import FileClaims
from variants.database import Database
from variants.errors import RegistryUnavailable, StorageBroken
from variants.registry import Registry

HOLDER = """
import sys
from pathlib import Path
from variants.database import Database

place = sys.argv[1]
database = Database(Path(place) if place.startswith("/") else place)
assert database.claims.take("tiny/int8") is not None
print("held", flush=True)
sys.stdin.read()
"""


def test_a_name_has_one_holder(place: Path | str) -> None:
    one, other = Database(place), Database(place)
    release = one.claims.take("a")
    assert release is not None
    assert other.claims.take("a") is None
    assert one.claims.take("a") is None
    free = other.claims.take("b")
    assert free is not None
    release()
    again = other.claims.take("a")
    assert again is not None
    again()
    free()
    one.close()
    other.close()


@pytest.fixture
def claims(tmp_path: Path) -> FileClaims:
    return FileClaims(tmp_path / "claims")


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_name_whose_file_cannot_be_removed_is_free_again(
    claims: FileClaims, tmp_path: Path
) -> None:
    before = open_files()
    release = claims.take("a")
    assert release is not None
    (path,) = tmp_path.glob("claims/*")
    path.unlink()
    path.mkdir()  # whatever it is that cannot be removed as a file
    release()
    assert open_files() == before
    path.rmdir()
    again = claims.take("a")
    assert again is not None
    again()


def test_a_name_that_no_file_can_be_opened_for_is_storage_broken(claims: FileClaims) -> None:
    with no_more_files(), pytest.raises(StorageBroken, match="too many"):
        claims.take("a")
    release = claims.take("a")
    assert release is not None
    release()


def test_what_a_dead_process_left_is_settled_and_what_a_live_one_does_is_not(
    place: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(place)
    monkeypatch.setattr(type(database.claims), "patience_s", 0.0)
    registry = Registry(database)
    registry.put_model(tiny_spec(), None, actor="test")
    add(registry, "int8")
    recovery = Recovery(registry, database.claims)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        recovery.settle()
        assert registry.variant("tiny", "int8").state == "registered"
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    while registry.variant("tiny", "int8").state == "registered":  # PostgreSQL notices soon
        recovery.settle()
    assert registry.variant("tiny", "int8").state == "failed"
    assert "stopped while it was registered" in registry.variant("tiny", "int8").reason
    database.close()


def test_a_servers_claims_are_held_again_after_it_restarted() -> None:
    with servers.postgres() as server:
        url = server.database()
        one, other = Database(url), Database(url)
        assert one.claims.take(claim_name("tiny", "int8")) is not None
        server.stop()
        with pytest.raises(RegistryUnavailable):
            one.claims.take("b")
        server.start()
        one.claims.renew()
        assert other.claims.take(claim_name("tiny", "int8")) is None
        one.close()
        other.close()
