"""A network between two programs that can fall silent or slow, without a connection being closed.

with network(server.socket) as between:
    connect(between.port)
    between.fall_silent()       # nothing passes, and who connects is never answered
    between.heal()              # what was open stays silent for ever; new connections work
    between.delay_s = 0.1       # each piece takes so long, either way
"""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PIECE_BYTES = 1 << 16


@dataclass
class Network:
    """Takes connections at a port of the loopback address and carries them to a socket's path."""

    to: Path
    delay_s: float = 0.0
    silent: bool = False
    connections: int = 0
    _listener: socket.socket = field(init=False)
    _open: list[tuple[socket.socket, socket.socket | None]] = field(default_factory=list)
    _lost: set[socket.socket] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def fall_silent(self) -> None:
        """Carry nothing more. What is open now is lost for good, and nobody is told."""
        self.silent = True
        self._lost.update(side for pair in self._open for side in pair if side is not None)

    def heal(self) -> None:
        """Carry what connects from now on."""
        self._lost.update(near for near, far in self._open if far is None)
        self.silent = False

    def close(self) -> None:
        """Close everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._open:
            for side in pair:
                if side is not None:
                    with contextlib.suppress(OSError):
                        side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for pair in self._open:
            for side in pair:
                if side is not None:
                    side.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.silent:
                self._open.append((near, None))
                continue
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far = socket.socket(socket.AF_UNIX)
            try:
                far.connect(str(self.to))
            except OSError:
                far.close()
                near.close()
                continue
            self._open.append((near, far))
            for one, other in ((near, far), (far, near)):
                thread = threading.Thread(target=self._carry, args=(one, other))
                self._threads.append(thread)
                thread.start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        while True:
            try:
                piece = one.recv(PIECE_BYTES)
                time.sleep(self.delay_s)
                if one in self._lost:
                    if not piece:
                        return  # nor is the other side told that it was closed
                    continue
                if not piece:
                    other.shutdown(socket.SHUT_WR)
                    return
                other.sendall(piece)
            except OSError:
                return


@contextlib.contextmanager
def network(to: Path) -> Iterator[Network]:
    """A network that works, closed afterwards."""
    between = Network(to)
    try:
        yield between
    finally:
        between.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Wire:
    """A pair of network interfaces, the far one in a namespace of its own."""

    name: str
    near: str = "10.213.77.1"
    far: str = "10.213.77.2"

    @property
    def within(self) -> tuple[str, ...]:
        """A command that starts another at the far end, as nobody."""
        user = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
        return ("ip", "netns", "exec", self.name, *user)

    def fall_silent(self) -> None:
        """Address every packet to an interface that does not exist."""
        nowhere = "lladdr 02:00:00:00:00:77 nud permanent"
        _ip(f"neigh replace {self.far} dev {self.name} {nowhere}")
        _ip(f"-n {self.name} neigh replace {self.near} dev far {nowhere}")

    def heal(self) -> None:
        """Let packets arrive again."""
        _ip(f"neigh del {self.far} dev {self.name}")
        _ip(f"-n {self.name} neigh del {self.near} dev far")


@contextlib.contextmanager
def wire() -> Iterator[Wire]:
    """A wire that works; the test is skipped where this machine allows none."""
    found = Wire(name=f"gs{os.getpid()}")
    try:
        _ip(f"netns add {found.name}")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("network namespaces need root and iproute2")
    try:
        _ip(f"link add {found.name} type veth peer name far netns {found.name}")
        _ip(f"addr add {found.near}/30 dev {found.name}")
        _ip(f"link set {found.name} up")
        _ip(f"-n {found.name} addr add {found.far}/30 dev far")
        _ip(f"-n {found.name} link set far up")
        yield found
    finally:
        _ip(f"netns del {found.name}")


def _ip(what: str) -> None:
    subprocess.run(["ip", *what.split()], check=True, capture_output=True)
