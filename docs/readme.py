"""The README's measured parts: taken from a real build and a real gateway, never typed.

    python -m docs.readme measure .gearshift   # report and ask what `make demo` built there
    python -m docs.readme write                # render README.md from docs/measured.json
    python -m docs.readme check                # fail where README.md says something else

`measure` runs the very commands that the README shows. Everything between `<!-- name -->` and
`<!-- /name -->` is rendered.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import world
from variants.data_folder import open_data_folder

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
MEASURED = ROOT / "docs" / "measured.json"
PICTURE = ROOT / "docs" / "pareto.png"

BUDGETS = (
    ("No budget: the most accurate variant", ""),
    ("Surely within one point of the reference, cheapest first", "Infer-Max-Accuracy-Drop: 1"),
    ("As fast as possible", "Infer-Objective: latency"),
)
CURL = """\
curl -s localhost:8080/infer -H "Authorization: Bearer $KEY" \\
  -H 'Content-Type: image/png' -H 'Infer-Model: "fashion"'{header} \\
  --data-binary @.gearshift/sample.png
"""


def measure(data_dir: Path) -> None:
    """Keep the report of a build, and a gateway's answers to the README's requests."""
    report = data_dir / "report"
    command = [sys.executable, "-m", "app.cli", "--data-dir", str(data_dir)]
    shown = subprocess.run(
        [*command, "report", "--json", "--out", str(report)], check=True, stdout=subprocess.PIPE
    )
    shutil.copy(report / PICTURE.name, PICTURE)
    with open_data_folder(data_dir) as data:
        key = world.make_key(data, "infer")
        record = data.registry.variants("fashion")[0]
        manifest = data.store.manifest(record.manifest_id or "")
    with world.gateway(data_dir, key) as gateway:
        answers = [_ask(gateway, header) for _, header in BUDGETS]
    measured = {
        "host": manifest.profiles[0].host,
        "day": manifest.created_at[:10],
        "rows": json.loads(shown.stdout),
        "answers": answers,
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


def render(text: str, measured: dict[str, Any]) -> str:
    """The README with its measured parts renewed."""
    parts = {"table": _table(measured), "budgets": _budgets(measured["answers"])}
    for name, part in parts.items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, part=part: f"{match[1]}{part}{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise SystemExit(f"README.md has {count} parts named {name!r}; one is expected")
    return text


def _ask(gateway: world.Gateway, header: str) -> Any:
    """The second answer to one request: the first measures how the gateway itself warms up."""
    command = _curl(header).replace("localhost:8080", f"127.0.0.1:{gateway.port}")
    for _ in range(2):
        run = subprocess.run(
            ["sh", "-c", command], env={"KEY": gateway.key, "PATH": "/usr/bin:/bin"},
            cwd=ROOT, check=True, stdout=subprocess.PIPE,
        )  # fmt: skip
    return json.loads(run.stdout)


def _curl(header: str) -> str:
    return CURL.format(header=f" \\\n  -H '{header}'" if header else "")


def _budgets(answers: list[Any]) -> str:
    shown = []
    for (words, header), answer in zip(BUDGETS, answers, strict=True):
        shown.append(
            f"{words}:\n\n```sh\n{_curl(header)}```\n\n```json\n{json.dumps(answer)}\n```\n"
        )
    return "\n" + "\n".join(shown) + "\n"


def _table(measured: dict[str, Any]) -> str:
    rows = sorted(measured["rows"], key=lambda row: -row["accuracy"]["value"])
    n = rows[0]["accuracy"]["n"]
    lines = [
        f"\nMeasured {measured['day']} on {measured['host']}, one thread,",
        f"{n:,} official test images. `gearshift report` prints it for your machine. ◆ marks the",
        "Pareto front of accuracy and latency at batch 1.\n",
        "| variant | runtime | accuracy (95 % interval) | p50 / p95 ms, batch 1 | images/s | "
        "file | memory | $ per million | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        accuracy, latency = row["accuracy"], row["latency_s"]["1"]
        lines.append(
            f"| {row['variant']} | {row['runtime']} "
            f"| {accuracy['value']:.4f} ({accuracy['low']:.4f} to {accuracy['high']:.4f}) "
            f"| {latency['p50'] * 1e3:.2f} / {latency['p95'] * 1e3:.2f} "
            f"| {row['throughput_per_s']:,.0f} "
            f"| {row['size_bytes'] / 1e6:.2f} MB | {row['memory_bytes'] / 1e6:.0f} MB "
            f"| {row['cost_usd_per_million']:.4f} | {'◆' if row['pareto'] else ''} |"
        )
    return "\n".join(lines) + "\n\n"


def main() -> None:
    """`measure FOLDER`, `write` or `check`."""
    match sys.argv[1:]:
        case ["measure", folder]:
            measure(Path(folder))
        case ["write"]:
            text = README.read_text(encoding="utf-8")
            README.write_text(render(text, json.loads(MEASURED.read_text("utf-8"))), "utf-8")
        case ["check"]:
            text = README.read_text(encoding="utf-8")
            if render(text, json.loads(MEASURED.read_text("utf-8"))) != text:
                raise SystemExit(
                    "README.md differs from docs/measured.json: python -m docs.readme write"
                )
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
