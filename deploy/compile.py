"""Compile the path of a request in a copy of the source, in place, with mypyc.

    python deploy/compile.py FOLDER

What every request passes becomes C extensions beside their sources, from the same annotated Python;
all else stays as it is. Needs a C compiler and mypy (`requirements-dev.lock`).
Source: mypyc's documentation, "Introduction" and "Native classes".
"""

import os
import sys
import tempfile

from mypyc.build import mypycify
from setuptools import setup

MODULES = {
    "app": "access body decisions direct gateway headers inference metrics promises room tallies "
    "tenant",
    "app/engine": "batch engine expiry frames lane leases overhead pool slot watchdog worker",
    "router": "batching candidate constraints correction decision dispatch estimate fleet forecast "
    "gate gears judge kind lookahead outlook pressure ranking sharing view waiting",
    "router/policies": "shadow_price",
}
"""By folder. What derives from uvicorn's classes, or is made by pydantic, cannot be compiled."""


def main() -> None:
    """Compile them in the folder that is named."""
    os.chdir(sys.argv[1])
    paths = [f"{folder}/{name}.py" for folder, names in MODULES.items() for name in names.split()]
    with tempfile.TemporaryDirectory() as scratch:
        extensions = mypycify(
            paths, group_name="gearshift", target_dir=scratch, opt_level="2", debug_level="0"
        )
        arguments = ["--quiet", "build_ext", "--inplace", f"--build-temp={scratch}"]
        arguments += [f"--build-lib={scratch}"]
        setup(name="gearshift", ext_modules=extensions, script_args=arguments)


if __name__ == "__main__":
    main()
