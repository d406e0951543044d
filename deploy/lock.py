"""Write the lock files: exact versions of everything that pip would install for each extra.

Run by `make lock`. The files name no index, no address and no local build (`torch==2.13.0`, not
`2.13.0+cpu`), so they serve wherever pip finds its packages. Source: pip's "Installation report".
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = {
    "requirements.lock": ("what the gateway needs", ("postgres", "s3")),
    "requirements-build.lock": ("the gateway and the build", ("build", "openvino")),
    "requirements-dev.lock": (
        "everything and the tests' tools",
        ("build", "openvino", "nncf", "postgres", "s3", "signing", "dev"),
    ),
}


def main() -> None:
    """Resolve each set and write its file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, (purpose, extras) in LOCKS.items():
        wanted = list(project["dependencies"])
        for extra in extras:
            wanted += project["optional-dependencies"][extra]
        lines = sorted(resolve(wanted), key=str.lower)
        head = f"# {purpose[0].upper()}{purpose[1:]}. Written by `make lock`.\n"
        (ROOT / name).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
        print(f"{name}: {len(lines)} packages")


def resolve(wanted: list[str]) -> list[str]:
    """`name==version` of these requirements and all that they need."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run"]
    command += ["--ignore-installed", "--report", "-", *wanted]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    found = (item["metadata"] for item in report["install"])
    return [f"{package['name']}=={package['version'].split('+')[0]}" for package in found]


if __name__ == "__main__":
    main()
