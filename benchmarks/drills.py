"""Faults thrown at a running gateway, and what came of them: workers, load, database, files, keys.

python -m benchmarks.drills              # as the tests run them
python -m benchmarks.drills --long       # hours: 500 kills of each kind, 50,000 admin requests
python -m benchmarks.drills --only test_crash.py -- -k postgresql   # some files, as pytest has it
python -m benchmarks.drills --out FILE   # where the table goes, beside the other results by default

With `--only`, what was not tried keeps its row, so that the long form can be run in parts. The exit
status is that of the tests behind it: not 0 where one drill did not end as it must.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tables import RESULTS, ROOT
from tests.faults import table

TESTS = (
    "test_workers.py",
    "test_supervision.py",
    "test_overload.py",
    "test_crash.py",
    "test_power.py",
    "test_network.py",
    "test_database.py",
    "test_malicious.py",
    "test_uploads.py",
    "test_replicas.py",
    "test_tenants.py",
    "test_clock.py",
)
ELSEWHERE = (
    "end_to_end/test_replicas.py",
    "variants/test_backup.py",
    "end_to_end/test_rollout.py",
    "end_to_end/test_switching.py",
    "end_to_end/test_admin_model.py",
    "router/test_sequential.py",
    *table.FILES,
)
"""Drills that lie beside what they try."""

LONG = {
    "GEARSHIFT_TEST_KILLS": "500",
    "GEARSHIFT_TEST_CRASHES": "500",
    "GEARSHIFT_TEST_PG_CRASHES": "500",
    "GEARSHIFT_TEST_SERVER_CRASHES": "50",
    "GEARSHIFT_TEST_CUTS": "1000",
    "GEARSHIFT_TEST_PG_CUTS": "200",
    "GEARSHIFT_TEST_SILENCES": "20",
    "GEARSHIFT_TEST_FLIPS": "5000",
    "GEARSHIFT_TEST_MALICE": "every",
    "GEARSHIFT_TEST_MUTATIONS": "20000",
    "GEARSHIFT_TEST_RESTARTS": "5",
    "GEARSHIFT_TEST_LEAKS": "2000",
    "GEARSHIFT_TEST_LOCK_S": "30",
    "GEARSHIFT_TEST_BAD_KEYS": "100000",
    "GEARSHIFT_TEST_SPENDERS": "20",
    "GEARSHIFT_TEST_LOAD_S": "60",
    "GEARSHIFT_TEST_SEQUENCES": "2000",
    "GEARSHIFT_TEST_SWITCHES": "1000",
    "GEARSHIFT_TEST_STEPS": "56000",
}


def main() -> int:
    """Run the drills and write their table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--long", action="store_true", help="the heavier form")
    parser.add_argument("--out", type=Path, default=RESULTS / "drills.md", help="where to write")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="these files of tests alone")
    parser.add_argument("rest", nargs="*", help="after --: more for pytest")
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    files = [f"tests/faults/{name}" for name in TESTS] + [f"tests/{name}" for name in ELSEWHERE]
    if asked.only:
        files = [file for file in files if Path(file).name in asked.only]
    command = [sys.executable, "-m", "pytest", "-q", "-c", "pyproject.toml", *files, *asked.rest]
    with tempfile.NamedTemporaryFile("r", suffix=".md") as found:
        env = {**os.environ, **(LONG if asked.long else {}), "GEARSHIFT_TEST_TABLE": found.name}
        done = subprocess.run(command, check=False, cwd=ROOT, env=env)
        kept = asked.out.read_text(encoding="utf-8") if asked.only and asked.out.exists() else ""
        asked.out.write_text(merged(kept, found.read()), encoding="utf-8")
    return done.returncode


def merged(old: str, new: str) -> str:
    """Both tables as one: of a drill that both have, the new row."""
    rows = [row for row in (old + new).splitlines() if row not in table.HEAD]
    body = {_place(row): row for row in rows}
    return "\n".join([*table.HEAD, *(body[place] for place in sorted(body))]) + "\n"


def _place(row: str) -> tuple[str, int, str]:
    id, what = row.removeprefix("| ").split(" | ")[:2]
    return id[0], int(id[1:]), what


if __name__ == "__main__":
    sys.exit(main())
