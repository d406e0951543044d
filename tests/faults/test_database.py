"""The registry's file locked, gone, damaged, its disk full or broken (groups D and K).

Whatever happens to it, what is loaded goes on serving; an admin is told, and nothing that was not
kept is called a success.
"""

import contextlib
import hashlib
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests import ladder as ladders
from tests import world
from tests.faults import replay
from tests.faults.gateways import ROW, infer, until
from tests.faults.table import drilled
from tests.ladder import MODEL, Ladder
from tests.variants.test_database import old
from variants import sqlite_file
from variants.data_folder import FILE, open_data_folder
from variants.database import Database
from variants.errors import GearshiftError, RegistryDamaged, RegistryUnavailable
from variants.sqlite_file import file_system, refuse_network, wal_is_safe

LOCK_S = float(os.environ.get("GEARSHIFT_TEST_LOCK_S", "1.5"))
FLIPS = int(os.environ.get("GEARSHIFT_TEST_FLIPS", "100"))


class Disk:
    """A running gateway, and what its disk does."""

    def __init__(self, gateway: world.Gateway, control: Path, root: Path) -> None:
        self.gateway = gateway
        self.root = root
        self._control = control

    def does(self, what: str) -> None:
        """`-` all is well, `e` fsync fails, `f` full, `r` read-only."""
        self._control.write_text(what)

    def files(self) -> set[Path]:
        return {p for name in ("incoming", "uploads") for p in (self.root / name).iterdir()}


@pytest.fixture(scope="module")
def disk(
    built_ladder: Ladder, tmp_path_factory: pytest.TempPathFactory, shim: Path
) -> Iterator[Disk]:
    """A gateway that every test leaves as it was."""
    folder = tmp_path_factory.mktemp("disk")
    with running(built_ladder.copy(folder / "data"), folder, shim) as found:
        yield found


@contextlib.contextmanager
def running(ladder: Ladder, folder: Path, shim: Path, *, at_start: str = "-") -> Iterator[Disk]:
    control = folder / "control"
    control.write_text(at_start)
    env = {
        **ladders.ENV,
        "GEARSHIFT_DATABASE_TIMEOUT_S": "0.4",
        "LD_PRELOAD": str(shim),
        "FAULTS_FOLDER": str(ladder.root),
        "FAULTS_CONTROL": str(control),
    }
    with world.gateway(ladder.root, ladder.key, env=env) as gateway:
        yield Disk(gateway, control, ladder.root)
    assert "Traceback" not in "".join(gateway.log)


def make_key(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/keys", json={"name": "new", "scopes": ["infer"]})


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert status != 503 or int(answer.headers["retry-after"]) >= 1


def gauge(client: httpx.Client, name: str) -> float:
    text = client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith(f"gearshift_{name} ")]
    return float(line.split()[1])


@contextlib.contextmanager
def asking(client: httpx.Client) -> Iterator[Callable[[], Counter[int]]]:
    """Count what `/infer` answers meanwhile, in between the caller's own steps."""
    seen: Counter[int] = Counter()

    def ask() -> Counter[int]:
        seen[infer(client).status_code] += 1
        return seen

    yield ask
    assert set(seen) == {200}, seen


@pytest.mark.option("database_timeout_s")
def test_a_locked_registry_stops_admins_only_and_heals_by_itself(disk: Disk) -> None:
    with disk.gateway.client() as client, asking(client) as ask:
        with closing(sqlite3.connect(disk.root / FILE)) as other:
            other.execute("BEGIN EXCLUSIVE")
            begun = time.monotonic()
            refused(make_key(client), 503, "registry-unavailable")
            until(lambda: "unreachable since" in str(client.get("/readyz").json()["registry"]))
            assert client.get("/readyz").status_code == 200
            assert gauge(client, "registry_up") == 0
            refused(client.get("/v1/audit"), 503, "registry-unavailable")
            while time.monotonic() - begun < LOCK_S:
                count = ask()
                if count[200] % 50 == 0:
                    refused(make_key(client), 503, "registry-unavailable")
        healed_s = until(lambda: client.get("/readyz").json()["registry"] is None)
        assert make_key(client).status_code == 201
        assert gauge(client, "registry_up") == 1
        drilled(
            "D4",
            f"registry locked by another process for {LOCK_S:g} s",
            {"infer 200": ask()[200], "infer refused": 0, "healed after s": round(healed_s, 2)},
        )


def test_admins_that_wait_for_the_registry_hold_up_no_large_body(disk: Disk) -> None:
    large = json.dumps({"model": MODEL, "inputs": ROW}).ljust(2 << 20).encode()
    with (
        disk.gateway.client() as client,
        ThreadPoolExecutor(40) as pool,
        closing(sqlite3.connect(disk.root / FILE)) as other,
    ):
        other.execute("BEGIN EXCLUSIVE")
        waiting = [pool.submit(make_key, client) for _ in range(40)]
        slowest_s = 0.0
        while not all(answer.done() for answer in waiting):
            start = time.monotonic()
            answer = client.post(
                "/infer", content=large, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - start)
        assert {answer.result().status_code for answer in waiting} == {503}
    assert slowest_s < 0.35, slowest_s  # the registry's limit is 0.4 s, for several at a time


def test_a_registry_that_is_removed_or_cut_short_is_missed_and_found_again(disk: Disk) -> None:
    path = disk.root / FILE
    kept = _read(path)
    with disk.gateway.client() as client, asking(client) as ask:
        path.unlink()
        refused(make_key(client), 503, "registry-unavailable")
        assert not path.exists()  # it is not made anew, empty
        until(lambda: client.get("/readyz").json()["registry"] is not None)
        ask()
        path.write_bytes(kept)
        until(lambda: client.get("/readyz").json()["registry"] is None)
        assert make_key(client).status_code == 201
        kept = _read(path)
        for content in (b"", kept[: len(kept) // 3], b"no database at all" * 300):
            _overwrite(path, content)
            assert make_key(client).status_code == 503
            ask()
            _overwrite(path, kept)
            until(lambda: client.get("/readyz").json()["registry"] is None)
        assert make_key(client).status_code == 201
        drilled(
            "D5",
            "registry's file removed or cut short while the gateway runs",
            {"times": 4, "false success": 0, "infer refused": 0},
        )


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Between the gateway's transactions: half of one would be damage of the test's own making."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as db:
        with contextlib.suppress(sqlite3.DatabaseError):  # it is none at present
            db.execute("BEGIN EXCLUSIVE")
        yield


def _read(path: Path) -> bytes:
    with _alone(path):
        return path.read_bytes()


def _overwrite(path: Path, content: bytes) -> None:
    with _alone(path):
        path.write_bytes(content)


def test_a_full_disk_takes_nothing_and_leaves_nothing(disk: Disk) -> None:
    content = os.urandom(100_000)
    digest = hashlib.sha256(content).hexdigest()
    with disk.gateway.client() as client, asking(client) as ask:
        before = client.get("/v1/keys").json()
        disk.does("f")
        for _ in range(5):
            refused(client.put(f"/v1/blobs/{digest}", content=content), 507, "storage-full")
            assert make_key(client).status_code in (503, 507)
            ask()
        assert not disk.files()
        disk.does("-")
        assert client.get("/v1/keys").json() == before
        assert client.put(f"/v1/blobs/{digest}", content=content).status_code == 201
        assert make_key(client).status_code == 201
        drilled("K1", "disk full during an upload", {"uploads": 5, "507": 5, "left behind": 0})
        drilled("K2", "disk full at a commit", {"changes": 5, "refused": 5, "kept": 0})


def test_a_disk_that_turns_read_only_stops_admins_only(disk: Disk) -> None:
    with disk.gateway.client() as client, asking(client) as ask:
        disk.does("r")
        for _ in range(3):
            assert make_key(client).status_code == 503
            content = os.urandom(1000)
            digest = hashlib.sha256(content).hexdigest()
            refused(client.put(f"/v1/blobs/{digest}", content=content), 503, "storage-broken")
            ask()
        assert client.get("/readyz").status_code == 200
        disk.does("-")
        assert make_key(client).status_code == 201
        part = {"upload-offset": "0", "upload-complete": "?0"}
        path = f"/v1/blobs/{hashlib.sha256(b'whole').hexdigest()}"
        assert client.patch(path, content=b"who", headers=part).status_code == 202
        deactivate = f"/v1/models/{MODEL}/variants/glacial/deactivate"
        disk.does("r")
        refused(client.delete(path), 503, "storage-broken")
        refused(client.post(deactivate), 503, "storage-broken")
        disk.does("f")
        refused(client.post(deactivate), 507, "storage-full")
        disk.does("-")
        assert client.delete(path).status_code == 204
        assert client.post(deactivate).status_code == 200
        assert client.post(deactivate.replace("deactivate", "activate")).status_code == 200
        drilled("K5", "disk turns read-only", {"changes": 6, "503": 6, "infer refused": 0})


def test_a_gateway_starts_on_a_read_only_disk_whatever_lies_there(
    ladder: Ladder, tmp_path: Path, shim: Path
) -> None:
    """Left behind: an upload that died, and a variant between two states."""
    with open_data_folder(ladder.root) as data:
        data.registry.add_variant(
            model=MODEL, name="half", artifact_digest="0" * 64, actor="test", reason=""
        )
    (ladder.root / "uploads").mkdir(exist_ok=True)
    left = ladder.root / "incoming" / "left"
    left.write_bytes(b"half of it")
    with (
        running(ladder, tmp_path, shim, at_start="r") as disk,
        disk.gateway.client() as client,
    ):
        assert client.get("/readyz").status_code == 200
        assert infer(client).status_code == 200
        assert left.exists()


def test_a_disk_that_fails_to_sync_ends_all_changes_until_a_restart(
    ladder: Ladder, tmp_path: Path, shim: Path
) -> None:
    with (
        running(ladder, tmp_path, shim) as disk,
        disk.gateway.client() as client,
        asking(client) as ask,
    ):
        before = {key["id"] for key in client.get("/v1/keys").json()["keys"]}
        disk.does("e")
        content = os.urandom(1000)
        digest = hashlib.sha256(content).hexdigest()
        refused(client.put(f"/v1/blobs/{digest}", content=content), 503, "storage-broken")
        assert not disk.files()
        refused(make_key(client), 503, "registry-read-only")
        disk.does("-")
        for _ in range(5):  # what the disk has kept is not known any more
            refused(make_key(client), 503, "registry-read-only")
            ask()
        until(lambda: gauge(client, "registry_readonly") == 1)
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "fsync" in ready.json()["registry"]
    with open_data_folder(ladder.root) as data:
        assert {key.id for key in data.keys.all()} == before
        assert not data.store.has_blob(digest)
    drilled("D8", "fsync fails with EIO", {"changes": 7, "false success": 0, "infer refused": 0})


def test_a_full_log_is_counted_and_stops_nobody(ladder: Ladder) -> None:
    command = [sys.executable, "-m", "app.cli", "--data-dir", str(ladder.root), "serve"]
    with (
        Path("/dev/full").open("wb") as full,
        closing(socket.create_server(("127.0.0.1", 0))) as free,
    ):
        port = free.getsockname()[1]
        free.close()
        process = subprocess.Popen(
            [*command, "--port", str(port)], stderr=full, env={**os.environ, **ladders.ENV}
        )
    try:
        headers = {"authorization": f"Bearer {ladder.key}"}
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, trust_env=False
        ) as client:

            def up() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/readyz").status_code == 200
                return False

            until(up, 30)
            assert {infer(client).status_code for _ in range(20)} == {200}
            dropped = gauge(client, "log_lines_dropped_total")
            assert dropped > 0
            drilled("K3", "log's disk full", {"infer 200": 20, "lines dropped": dropped})
    finally:
        process.terminate()
        assert process.wait(30) == 0


def read_all(root: Path) -> None:
    """What a gateway reads at its start."""
    with open_data_folder(root) as data:
        for model in data.registry.models():
            data.registry.variants(model.spec.name)
        data.keys.all()
        list(data.audit.after(0))


def test_a_damaged_registry_is_refused_in_words(ladder: Ladder) -> None:
    path = ladder.root / FILE
    whole = path.read_bytes()
    chance, told = random.Random(4), Counter[str]()
    for number in range(FLIPS):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        if number % 4 == 0:
            del content[chance.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            read_all(ladder.root)
            told["not noticed"] += 1  # a bit of a text or of free space: SQLite has no checksums
        except GearshiftError as error:
            assert isinstance(error, RegistryUnavailable) or "schema" in str(error), error
            told["refused"] += 1
    assert told["refused"] > FLIPS / 4
    path.write_bytes(whole)
    read_all(ladder.root)
    drilled("D5", "registry's file with a bit flipped or cut short, at start", {**told})


def test_a_registry_that_is_gone_is_not_begun_anew_beside_its_variants(ladder: Ladder) -> None:
    (ladder.root / FILE).unlink()
    for arguments in (["keys", "list"], ["serve", "--port", "0"]):
        command = [sys.executable, "-m", "app.cli", "--data-dir", str(ladder.root), *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ
        )
        assert answer.returncode == 2
        assert "is missing though" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert not (ladder.root / FILE).exists()


MIGRATE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from variants.database import Database

Database(Path(sys.argv[1])).close()
"""


def test_a_migration_interrupted_anywhere_is_done_again(tmp_path: Path, shim: Path) -> None:
    folder, record = tmp_path / "data", tmp_path / "record"
    folder.mkdir()
    old(folder / FILE, "0001")
    disk = replay.Disk(folder)
    env = {
        **os.environ,
        "LD_PRELOAD": str(shim),
        "FAULTS_FOLDER": str(folder),
        "FAULTS_RECORD": str(record),
    }
    subprocess.run([sys.executable, "-c", MIGRATE, folder / FILE], check=True, env=env)
    cuts, chance = 0, random.Random(5)
    told = list(replay.changes(record.read_bytes()))
    for change in told:
        disk.change(change)
        if change.op != "sync" and chance.random() > 20 / len(told):
            continue
        left = tmp_path / f"cut-{cuts}"
        disk.write(left, chance)
        database = Database(left / FILE)
        with database.read() as db:
            count = db.exec_driver_sql("SELECT count(*) FROM audit").scalar_one()
        assert count == 3
        database.close()
        cuts += 1
    drilled("D6", "power cut during a migration", {"cuts": cuts, "migrated in the end": cuts})


# What is refused at once


def test_a_write_ahead_log_is_refused_where_it_can_damage(tmp_path: Path) -> None:
    path = tmp_path / FILE
    Database(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("SELECT count(*) FROM keys").fetchone()
        if wal_is_safe(sqlite3.sqlite_version_info):
            Database(path).close()
        else:
            with pytest.raises((GearshiftError, RegistryDamaged), match=r"write-ahead|locked"):
                Database(path, timeout_s=0.1)
    Database(path).close()
    drilled("D11", "file in WAL mode on a SQLite that can damage it", {"files": 1, "refused": 1})


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 52, 0), True),
        ((4, 0, 0), True),
    ],
)
def test_versions_with_the_wal_bug_are_known(version: tuple[int, int, int], safe: bool) -> None:
    assert wal_is_safe(version) is safe


MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:40 / /mnt/share rw,relatime - nfs4 server:/export rw
29 27 0:41 / /mnt/win\\040share rw - cifs //server/share rw
34 27 0:46 / /mnt/Müller rw - nfs4 server:/müller rw
35 27 0:47 / /mnt/back\134slash rw - nfs4 server:/b rw
30 27 0:42 / /mnt/bucket rw - fuse.s3fs s3fs rw
31 27 0:43 / /mnt/share/local rw - ext4 /dev/vdb rw
32 27 0:44 / /tmp rw - tmpfs tmpfs rw
33 27 0:45 / /var/lib/docker rw - overlay overlay rw
"""


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/home/data", "ext4", False),
        ("/mnt/share/data", "nfs4", True),
        ("/mnt/share/local/data", "ext4", False),
        ("/mnt/shared", "ext4", False),
        ("/mnt/win share/data", "cifs", True),
        ("/mnt/Müller/data", "nfs4", True),
        ("/mnt/back\\slash/data", "nfs4", True),
        ("/mnt/bucket", "fuse.s3fs", True),
        ("/tmp/x", "tmpfs", False),
        ("/var/lib/docker/x", "overlay", False),
    ],
)
def test_a_network_file_system_is_refused(path: str, kind: str, network: bool) -> None:
    assert file_system(Path(path), MOUNTS) == kind
    if network:
        with pytest.raises(GearshiftError, match="PostgreSQL"):
            refuse_network(Path(path), MOUNTS)
    else:
        refuse_network(Path(path), MOUNTS)


@pytest.mark.parametrize("name", ["Müller", "win share", "データ"])
def test_a_data_folder_on_a_network_file_system_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = tmp_path / name
    written = str(root).replace(" ", r"\040")
    table = tmp_path / "mountinfo"
    line = f"28 27 0:40 / {written} rw,relatime - nfs4 server:/export rw\n"
    table.write_bytes(os.fsencode(f"27 1 254:0 / / rw - ext4 /dev/vda rw\n{line}"))
    monkeypatch.setattr(sqlite_file, "MOUNTS", table)
    with pytest.raises(GearshiftError, match="type nfs4"), open_data_folder(root):
        pass
    assert not (root / FILE).exists()
    with open_data_folder(tmp_path / "local"):
        pass
