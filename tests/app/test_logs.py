"""Logs: one JSON object a line, whoever tells it, and no folder of the machine in it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import asyncio, gc, logging, warnings
import structlog
from app import logs

def read(path):
    try:
        with open(path):
            pass
    except OSError as error:
        return error

logs.configure("info")
log = structlog.get_logger()
error = read("/srv/secret-folder/blobs/model.onnx")
log.info("plain", path="/srv/secret-folder/x", url="http://127.0.0.1:8080/v1/models")
log.error("bug", exc_info=error)
log.error("told", error=str(error))
logging.getLogger("uvicorn.error").error("Exception in %s", "two\\nlines", exc_info=error)
logging.getLogger("uvicorn.error").info("not worth a line")
warnings.warn("old\\nthing", stacklevel=1)

async def forgotten():
    async def fails():
        json.loads("{")
    import json
    task = asyncio.create_task(fails())
    await asyncio.wait([task])
    del task
    gc.collect()

asyncio.run(forgotten())
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What a program tells that logs in every way."""
    program = tmp_path_factory.mktemp("secret-folder") / "program.py"
    program.write_text(PROGRAM)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, program], check=True, capture_output=True, text=True, env=env
    )
    for folder in ("secret-folder", str(Path(__file__).parents[2]), sys.prefix):
        assert folder not in done.stderr
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_every_line_is_an_object_with_level_and_time(lines: list[Any]) -> None:
    assert len(lines) == 6
    for line in lines:
        assert line["level"] in ("info", "warning", "error") and line["timestamp"].endswith("Z")


def test_an_error_is_told_with_file_and_line_but_no_folder(lines: list[Any]) -> None:
    plain, bug, told, library, warning, task = lines
    assert (plain["path"], plain["url"]) == ("x", "http://127.0.0.1:8080/v1/models")
    for line in (bug, library):
        assert 'File "program.py", line 8, in read' in line["exception"]
        assert line["exception"].endswith("No such file or directory: 'model.onnx'")
    assert told["error"].endswith("No such file or directory: 'model.onnx'")
    assert (library["event"], library["logger"]) == ("Exception in two\nlines", "uvicorn.error")
    assert warning["event"].startswith("program.py:") and "old\nthing" in warning["event"]
    assert task["logger"] == "asyncio" and 'File "json/decoder.py"' in task["exception"]
