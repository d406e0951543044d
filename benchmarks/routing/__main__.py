"""python -m benchmarks.routing: see `cli.py`."""

from benchmarks.routing.cli import main

if __name__ == "__main__":
    main()
