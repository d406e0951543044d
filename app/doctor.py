"""`gearshift doctor`: what this machine has, and what is missing for what."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from variants import runtimes
from variants.profile import host_fingerprint

Status = Literal["ok", "note", "fail"]
MIN_FREE_BYTES = 2 << 30
_VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at. `fail` means that serving cannot work."""

    name: str
    status: Status
    found: str
    advice: str = ""


def examine(data_dir: Path) -> list[Check]:
    """Look at everything that building and serving need."""
    return [
        _python(),
        Check(name="host", status="ok", found=f"{host_fingerprint()}; {platform.system()}"),
        _processor(),
        *_runtimes(),
        _build_library("torch", "training and compressing PyTorch models"),
        _build_library("torch_pruning", "the technique pruned"),
        _build_library("onnxscript", "exporting PyTorch models"),
        _build_library("matplotlib", "the report's picture"),
        _sqlite(),
        _folder(data_dir),
        _command("apt-get", "the Fashion-MNIST data (without it the demo uses an MNIST subset)"),
        _command("dpkg-deb", "unpacking the Fashion-MNIST data"),
    ]


def show(checks: list[Check], *, as_json: bool) -> None:
    """Print the checks, as a table or as JSON."""
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
        return
    console = Console(highlight=False)
    marks = {"ok": "[green]ok  [/]", "note": "[yellow]note[/]", "fail": "[red]FAIL[/]"}
    for check in checks:
        console.print(f"{marks[check.status]} {check.name}: {check.found}")
        if check.advice:
            console.print(f"       {check.advice}")


def _python() -> Check:
    enough = sys.version_info >= (3, 11)
    return Check(
        name="python",
        status="ok" if enough else "fail",
        found=platform.python_version(),
        advice="" if enough else "Python 3.11 or newer is needed",
    )


def _processor() -> Check:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        flags = ""
    found = [flag for flag in _VECTOR_FLAGS if flag in flags]
    quick = "avx512_vnni" in found or "avx_vnni" in flags
    return Check(
        name="int8 instructions",
        status="ok" if quick else "note",
        found=", ".join(found) or "none",
        advice="" if quick else "without VNNI, int8 variants may be slower than float32: measure",
    )


def _runtimes() -> list[Check]:
    checks = []
    for name in runtimes.names():
        requires = runtimes.find(name).REQUIRES
        if requires is None:
            continue
        if importlib.util.find_spec(requires) is not None:
            checks.append(Check(name=name, status="ok", found=importlib.metadata.version(requires)))
        elif name == "onnxruntime":
            checks.append(
                Check(name=name, status="fail", found="missing", advice="pip install gearshift")
            )
        else:
            checks.append(
                Check(
                    name=name,
                    status="note",
                    found="missing",
                    advice=f"optional, often faster: pip install 'gearshift[{name}]'",
                )
            )
    return checks


def _build_library(module: str, purpose: str) -> Check:
    if importlib.util.find_spec(module) is not None:
        name = module.replace("_", "-")
        return Check(name=name, status="ok", found=importlib.metadata.version(name))
    return Check(
        name=module.replace("_", "-"),
        status="note",
        found="missing",
        advice=f"needed only to build, for {purpose}: pip install 'gearshift[build]'",
    )


def _sqlite() -> Check:
    return Check(
        name="sqlite",
        status="ok",
        found=f"{sqlite3.sqlite_version} (rollback journal; write-ahead log is not used)",
    )


def _folder(data_dir: Path) -> Check:
    nearest = next(p for p in (data_dir, *data_dir.parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    found = f"{data_dir}, {free / 2**30:.1f} GiB free"
    if not os.access(nearest, os.W_OK):
        advice = f"{nearest} is not writable: choose another with --data-dir"
        return Check(name="data folder", status="fail", found=found, advice=advice)
    if free < MIN_FREE_BYTES:
        return Check(
            name="data folder", status="note", found=found, advice="the disk is nearly full"
        )
    return Check(name="data folder", status="ok", found=found)


def _command(name: str, purpose: str) -> Check:
    path = shutil.which(name)
    if path is not None:
        return Check(name=name, status="ok", found=path)
    return Check(name=name, status="note", found="missing", advice=f"needed for {purpose}")
