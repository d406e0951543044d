"""The power cut off at any moment: nothing acknowledged is lost (D2).

Every change that the gateway and PostgreSQL make to their files is recorded; the disk is then
rebuilt as a cut would leave it, and started from.
"""

import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import servers
from tests.faults import nursery, replay
from tests.faults.changing import World, begin, ready
from tests.faults.gateways import until
from tests.faults.table import drilled
from tests.ladder import Ladder

CUTS = int(os.environ.get("GEARSHIFT_TEST_CUTS", "40"))
PG_CUTS = int(os.environ.get("GEARSHIFT_TEST_PG_CUTS", "2"))
PG_WORK_S = max(0.6, PG_CUTS / 20)
GATEWAY_EVERY = 5
"""Of so many cuts, one is followed by the start of a gateway too."""

LOST = r"^\('(key|variant|reference) "
"""How the oracle's complaint begins."""

BY_STDIO = {"pg_internal.init", "pgstat.stat", "postmaster.opts", "postmaster.pid"}
"""Files that PostgreSQL writes unseen; after a crash it makes them anew."""


@pytest.mark.parametrize("torn", [False, True], ids=["least", "some"])
def test_a_power_cut_at_any_moment_loses_nothing_acknowledged(
    built_ladder: Ladder, tmp_path: Path, shim: Path, torn: bool
) -> None:
    """What was not synced is dropped, all of it or a random part."""
    record = tmp_path / "record"
    record.touch()
    world = begin(built_ladder, tmp_path / "data", tmp_path, clock=lambda: record.stat().st_size)
    disk = replay.Disk(world.root)
    begun = record.stat().st_size
    env = {"LD_PRELOAD": str(shim), "FAULTS_FOLDER": str(world.root), "FAULTS_RECORD": str(record)}
    with nursery.nursery(tmp_path / "log", env) as forks:
        child = forks.start(world.root, world.env())
        with world.clients(child.port):
            ready(child.port)
            time.sleep(max(1.5, CUTS / 100))
            forks.kill(child)
    told = list(replay.changes(record.read_bytes()))
    chance = random.Random(3)
    moments = sorted(chance.sample([change.end for change in told], min(CUTS, len(told))))
    things = 0
    for change in told:
        disk.change(change)
        if change.end in moments:
            left = tmp_path / f"cut-{change.end}"
            disk.write(left, chance if torn else None)
            things += replace(world, root=left).check(change.end)
            shutil.rmtree(left)
    assert begun == 0
    drilled(
        "D2",
        f"power cut, {'some of' if torn else 'all of'} what was not synced is lost",
        {
            "cuts": len(moments),
            "changes recorded": len(told),
            "acknowledged writes": world.writes,
            "things checked": things,
            "lost or half done": 0,
        },
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What gateway and server did to their files; `begun`, `careless` and `end` are moments.

    From `careless` on the server synced nothing any more; at `end` all clients stopped.
    """

    world: World
    data: replay.Disk
    rows: replay.Disk
    told: Sequence[replay.Change]
    begun: int
    careless: int
    end: int

    def change(self, change: replay.Change) -> None:
        """Do as was recorded."""
        self.data.change(change)
        self.rows.change(change)

    def missed(self) -> set[str]:
        """Files that in the end are not as the record says."""
        found = self.data.differs() | self.rows.differs()
        return {path for path in found if Path(path).name not in BY_STDIO}

    def cut(
        self,
        at: int,
        left: Path,
        chance: random.Random | None,
        forks: nursery.Nursery | None = None,
    ) -> int:
        """Start a server from what a cut now leaves, and look; how many things were checked.

        With `forks` a gateway is started on it before. Raises `AssertionError` for what is lost or
        half done.
        """
        with tempfile.TemporaryDirectory(prefix="gs-pg-") as folder:
            rows = Path(folder) / "data"
            self.rows.write(rows, chance)
            rows.chmod(0o700)
            (rows / "postmaster.pid").unlink(missing_ok=True)
            self.data.write(left, chance)
            server = servers.Postgres(Path(folder))
            world = replace(self.world, root=left, url=server.url("test1"))
            try:
                if forks is not None:
                    child = forks.start(left, world.env())
                    ready(child.port)
                    forks.kill(child)
                return world.check(at)
            finally:
                server.stop()
                shutil.rmtree(left)


@contextlib.contextmanager
def recorded(
    ladder: Ladder, tmp_path: Path, library: Path, forks: nursery.Nursery
) -> Iterator[Recorded]:
    """Everyone at work for a while, on a server that in the end syncs nothing any more."""
    with servers.postgres() as server:
        record = server.folder / "record"  # of every process, in the order of what they did
        record.touch()
        record.chmod(0o666)

        def now() -> int:
            return record.stat().st_size

        world = begin(ladder, tmp_path / "data", tmp_path, server.database(), clock=now)
        server.stop(signal.SIGINT)
        data, rows = replay.Disk(world.root), replay.Disk(server.folder / "data")
        seen = {
            "FAULTS_RECORD": str(record),
            "FAULTS_FOLDER": f"{world.root}:{server.folder / 'data'}",
        }
        server.env = {**seen, "LD_PRELOAD": str(shutil.copy(library, server.folder))}
        server.settings = ("synchronous_commit=off",)  # the gateway itself asks for what it needs
        server.start()
        child = forks.start(world.root, {**world.env(), **seen})
        with world.clients(child.port):
            ready(child.port)
            begun = now()
            for _ in range(2):
                time.sleep(PG_WORK_S / 2)
                server.sql("CHECKPOINT")
            careless = now()
            server.sql("ALTER SYSTEM SET fsync = off")
            server.sql("SELECT pg_reload_conf()")
            time.sleep(0.3)  # until each of its processes knows
            made = world.done["key made"]
            until(lambda: world.done["key made"] > made + 3, 30)
            end = now()
        forks.kill(child, signal.SIGTERM)
        server.stop(signal.SIGINT)
        yield Recorded(
            world=world,
            data=data,
            rows=rows,
            told=list(replay.changes(record.read_bytes())),
            begun=begun,
            careless=careless,
            end=end,
        )


def test_a_power_cut_under_postgresql_loses_nothing_acknowledged_while_it_syncs(
    built_ladder: Ladder, tmp_path: Path, shim: Path
) -> None:
    """Gateway and server on one machine that loses its power."""
    chance, things, begun_s = random.Random(4), Counter[str](), time.monotonic()
    with (
        nursery.nursery(tmp_path / "log", {"LD_PRELOAD": str(shim)}) as forks,
        recorded(built_ladder, tmp_path, shim, forks) as found,
    ):
        ends = [c.end for c in found.told if found.begun <= c.end <= found.careless]
        moments = {*chance.sample(ends, min(PG_CUTS, len(ends)))}
        last = max(c.end for c in found.told if c.end <= found.end)
        for change in found.told:
            found.change(change)
            if change.end in moments:
                for how in (None, chance):
                    starts = things["cuts"] % GATEWAY_EVERY == 0
                    things["gateways started"] += starts
                    things["cuts"] += 1
                    things["things checked"] += found.cut(
                        change.end, tmp_path / "cut", how, forks if starts else None
                    )
            if change.end == last:
                with pytest.raises(AssertionError, match=LOST):
                    found.cut(change.end, tmp_path / "cut", None)
        assert not (missed := found.missed()), missed
    drilled(
        "D2",
        "power cut of a machine with gateway and PostgreSQL, all or some of what was not synced "
        "is lost",
        {
            **things,
            "changes recorded": len(found.told),
            "acknowledged writes": found.world.writes,
            "lost or half done": 0,
            "seconds": round(time.monotonic() - begun_s),
        },
    )
    drilled("D2", "the same with fsync=off: the drill must find a loss", {"cuts": 1, "lost": 1})
