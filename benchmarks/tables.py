"""Results on disk, and the tables that the documentation makes of them.

python -m benchmarks.tables write    # put the tables into docs/benchmarks.md
python -m benchmarks.tables check    # fail where the page shows something else
"""

import importlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
_SLOT = re.compile(r"(?s)(<!-- (?P<name>[a-z0-9_-]+) -->\n).*?(<!-- /(?P=name) -->)")


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a result as `results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; every column but the first is set to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def render(page: str) -> str:
    """The page with the table of each result between its marks; `ladder-x` is `ladder`'s."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        module = importlib.import_module(f"benchmarks.{name.partition('-')[0]}")
        told = f"Measured on {result['host']}.\n" if "host" in result else ""
        return f"{match[1]}{told}\n{module.table(result)}{match[3]}"

    return _SLOT.sub(table, page)


def main() -> None:
    """`write` or `check`."""
    page = PAGE.read_text(encoding="utf-8")
    rendered = render(page)
    match sys.argv[1:]:
        case ["write"]:
            PAGE.write_text(rendered, encoding="utf-8")
        case ["check"]:
            if rendered != page:
                sys.exit(f"{PAGE.name} does not show benchmarks/results; run `write`")
        case _:
            sys.exit("usage: python -m benchmarks.tables write|check")


if __name__ == "__main__":
    main()
