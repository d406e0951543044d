"""`python -m benchmarks.peers`."""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import platformdirs

from benchmarks import tables
from benchmarks.load import Generator
from benchmarks.models import cnn, tiny
from benchmarks.peers import overhead, table
from benchmarks.peers.contestants import INLINE, PEERS, Payload, ours
from benchmarks.peers.measure import Entry, Rounds, entries, play
from benchmarks.peers.running import Server, running
from tests import world
from variants.data_folder import open_data_folder
from variants.profile import host_fingerprint

OURS = "Gearshift"
COMPILED = "Gearshift, compiled"
GROUPS: tuple[list[Payload], ...] = (["tiny"], ["cnn", "cnn-binary"])
"""Of payloads that follow one another."""


def main() -> None:
    """Install, start, measure and keep the result."""
    parser = argparse.ArgumentParser(description="Gearshift beside other Python model servers.")
    parser.add_argument("--peers", default=",".join(peer.name for peer in PEERS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--environments", type=Path, default=platformdirs.user_cache_path("gearshift") / "peers"
    )
    parser.add_argument(
        "--compiled",
        type=Path,
        default=Path("build/compiled"),
        help="what `make compiled` made; left out where it is not there",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    wanted = [name for name in arguments.peers.split(",") if name]
    if unknown := set(wanted) - {peer.name for peer in PEERS}:
        parser.error(f"no such peers: {', '.join(sorted(unknown))}")
    arguments.environments.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        rounds = Rounds(generator=Generator.compile(folder), seconds=arguments.seconds)
        artifacts: dict[Payload, Path] = {
            "tiny": tiny().save(folder),
            "cnn": cnn().save(folder),
        }
        data_dir = folder / "data"
        with open_data_folder(data_dir) as data:
            world.publish(data, tiny().spec, None, {"fp32": artifacts["tiny"]})
            world.publish(data, cnn().spec, None, {"fp32": artifacts["cnn"]})
            key = world.make_key(data, "infer", "metrics")
        python = Path(sys.executable)
        inline: dict[Payload, Server] = {
            payload: stack.enter_context(
                running(INLINE, python, artifact, payload, folder / f"inline-{payload}.log")
            )
            for payload, artifact in artifacts.items()
        }
        gateways = {OURS: stack.enter_context(world.gateway(data_dir, key))}
        if arguments.compiled.is_dir():
            compiled = world.gateway(data_dir, key, source=arguments.compiled)
            gateways[COMPILED] = stack.enter_context(compiled)
        servers = {
            title: Server(pid=gateway.process.pid, port=gateway.port, ask=ours(key))
            for title, gateway in gateways.items()
        }
        chosen = [peer for peer in PEERS if peer.name in wanted]
        all_entries: list[Entry] = [
            *entries(chosen, arguments.environments, folder, rounds),
            *(
                (title, lambda _, server=server: contextlib.nullcontext(server), payloads)
                for title, server in servers.items()
                for payloads in GROUPS
            ),
        ]
        play(rounds, all_entries, inline, artifacts, arguments.rounds)
        title = list(gateways)[-1]
        own = overhead.measure(
            gateway=gateways[title],
            server=servers[title],
            data_dir=data_dir,
            artifacts=dict(artifacts),
            rounds=rounds,
            title=title,
        )
    result = {
        "host": host_fingerprint(),
        "load_average": os.getloadavg(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "rows": sorted(
            rounds.rows(), key=lambda r: (r["payload"], str(r["concurrency"]), -r["requests_per_s"])
        ),
        "overhead": own,
        "failures": rounds.failures,
    }
    tables.keep("peers", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
