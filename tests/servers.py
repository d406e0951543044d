"""Real servers that tests start for themselves, one small class each.

A program is looked for on the PATH, where Debian puts it, and in `.venv/servers/bin`, where
`make test` may have put it. A test that needs one which is not there is skipped and says so.
"""

import atexit
import contextlib
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/sbin",
    "/usr/local/sbin",
    ".venv/servers/**/bin",
    ".venv/servers/**/sbin",
)


def program(name: str) -> Path:
    """Where a server's program lies; the test is skipped where it is nowhere."""
    if found := shutil.which(name):
        return Path(found).resolve()
    for place in PLACES:
        root = Path("/") if place.startswith("/") else Path()
        for path in sorted(root.glob(f"{place.removeprefix('/')}/{name}"), reverse=True):
            return path.absolute()
    pytest.skip(f"{name} is not installed")


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@dataclass
class Postgres:
    """A PostgreSQL server of its own, on a socket in its folder. It refuses to run as root.

    It works with the folder `data` in its folder, an empty cluster where there is none. `settings`
    and `env` are what it starts with; what they leave out is as PostgreSQL has it. `within` is a
    command that it is started by, which must be as another user than root.
    """

    folder: Path
    settings: tuple[str, ...] = ("fsync=off",)
    within: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    made: int = 0

    def __post_init__(self) -> None:
        self._bin = program("initdb").parent
        if not (self.folder / "data").exists():
            shutil.copytree(_cluster(), self.folder / "data")
        own([self.folder, *self.folder.rglob("*")])
        self.start()

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.folder / ".s.PGSQL.5432"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = ["listen_addresses=", f"unix_socket_directories={self.folder}"]
        options += ["max_connections=60", "shared_buffers=16MB", *self.settings]
        arguments = [part for option in options for part in ("-c", option)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.within, self._bin / "postgres", "-D", self.folder / "data", *arguments],
                stderr=log,
                stdout=log,
                user=None if self.within else _server_user(),
                cwd=self.folder,
                start_new_session=True,
                env={**os.environ, **self.env},
            )
        deadline = time.monotonic() + 30
        while self._run("pg_isready", "-h", str(self.folder), check=False) != 0:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """End the server: at once (SIGQUIT), by the rules (SIGINT), or as a crash (SIGKILL)."""
        if self.process is None:
            return
        if how == signal.SIGKILL:
            self.signal_all(how)  # as when the machine dies
        else:
            self.process.send_signal(how)
        self.process.wait()
        self.process = None
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def signal_all(self, how: signal.Signals) -> None:
        """Send a signal to every one of its processes: each is in a group of its own."""
        assert self.process is not None
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text(encoding="utf-8")
        for pid in (main, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)

    def database(self) -> str:
        """The address of a new, empty database."""
        self.made += 1
        name = f"test{self.made}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, name: str) -> str:
        """The address of a database of this server."""
        return f"postgresql://gearshift@/{name}?host={self.folder}"

    def sql(self, statement: str, database: str = "postgres") -> None:
        """Run a statement."""
        self._run(
            "psql", "-qX", "-h", str(self.folder), "-U", "gearshift", "-c", statement, database
        )

    def _run(self, name: str, *arguments: str, check: bool = True) -> int:
        return subprocess.run(
            [self._bin / name, *arguments],
            check=check,
            user=_server_user(),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        ).returncode


def own(paths: Iterable[Path]) -> None:
    """Give files to the user that servers run as where this one is root."""
    if os.getuid() == 0:
        for path in paths:
            shutil.chown(path, _server_user())


def _server_user() -> str:
    return "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name


@functools.cache
def _cluster() -> Path:
    """An empty cluster to be copied, with small files of the write-ahead log."""
    folder = Path(tempfile.mkdtemp(prefix="gs-cluster-"))
    atexit.register(shutil.rmtree, folder)
    own([folder])
    options = ["-U", "gearshift", "-A", "trust", "-E", "UTF8", "--no-sync", "--wal-segsize=1"]
    subprocess.run(
        [program("initdb"), "-D", folder / "data", *options],
        check=True,
        user=_server_user(),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    return folder / "data"


DEPLOY = Path(__file__).parents[1] / "deploy"
CONFIGURATION = DEPLOY / "nginx" / "gearshift.conf"
PROMETHEUS = DEPLOY / "prometheus"
PACE = "interval: 500ms"
NGINX = """
daemon off;
worker_processes 1;
error_log {folder}/error.log warn;
pid {folder}/pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/gearshift.conf;
}}
"""


@dataclass
class Nginx:
    """nginx with the configuration that is shipped, but for its port and gateways."""

    folder: Path
    ports: tuple[int, ...]
    changed: Mapping[str, str]
    port: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it listens."""
        self.port = free_port()
        line = "server 127.0.0.1:8080 max_fails=0;"
        servers = [f"server 127.0.0.1:{port} max_fails=0;" for port in self.ports]
        text = CONFIGURATION.read_text(encoding="utf-8")
        assert text.count(line) == 2 and text.count("listen 80;") == 1
        text = text.replace(line, "\n    ".join(servers))
        text = text.replace("listen 80;", f"listen 127.0.0.1:{self.port};")
        for old, new in self.changed.items():
            assert old in text, old
            text = text.replace(old, new)
        (self.folder / "gearshift.conf").write_text(text, encoding="utf-8")
        main = self.folder / "nginx.conf"
        main.write_text(NGINX.format(folder=self.folder), encoding="utf-8")
        process = subprocess.Popen(
            [program("nginx"), "-p", self.folder, "-c", main],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return process
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What it complained of."""
        path = self.folder / "error.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""


@contextlib.contextmanager
def nginx(*ports: int, changed: Mapping[str, str] | None = None) -> Iterator[Nginx]:
    """nginx in front of the gateways on these ports; `changed` are parts of its configuration."""
    with tempfile.TemporaryDirectory(prefix="gs-nginx-") as folder:
        Path(folder).chmod(0o777)  # its worker is another user where this one is root
        server = Nginx(Path(folder), ports, changed or {})
        process = server.start()
        try:
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


@contextlib.contextmanager
def postgres(*settings: str, within: tuple[str, ...] = ()) -> Iterator[Postgres]:
    """A running PostgreSQL server, gone afterwards; without `settings` it syncs nothing."""
    with tempfile.TemporaryDirectory(prefix="gs-pg-") as folder:  # socket paths must be short
        server = Postgres(Path(folder), settings or ("fsync=off",), within)
        try:
            yield server
        finally:
            server.stop()


@dataclass
class Prometheus:
    """Prometheus with the configuration and rules that are shipped, but for target and pace."""

    folder: Path
    target: int
    key: str
    client: httpx.Client
    port: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start it and wait until it answers."""
        self.port = free_port()
        shutil.copytree(PROMETHEUS, self.folder, dirs_exist_ok=True)
        (self.folder / "gearshift.key").write_text(f"{self.key}\n", encoding="utf-8")
        main = self.folder / "prometheus.yml"
        text = main.read_text(encoding="utf-8")
        for old, new in (("127.0.0.1:8080", f"127.0.0.1:{self.target}"), ("interval: 15s", PACE)):
            assert old in text, old
            text = text.replace(old, new)
        main.write_text(text, encoding="utf-8")
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    program("prometheus"),
                    f"--config.file={main}",
                    f"--storage.tsdb.path={self.folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self.port}",
                ],
                stderr=log,
                stdout=log,
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if self._get("/-/ready").status_code == 200:
                    return process
            assert process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def query(self, expression: str) -> list[dict[str, str]]:
        """The labels of what an expression gives now, without what is no number."""
        answer = self._get("/api/v1/query", query=expression).json()
        assert answer["status"] == "success", (expression, answer)
        found = answer["data"]["result"]
        return [series["metric"] for series in found if series["value"][1] != "NaN"]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its query and how its last evaluation went."""
        groups = self._get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def log(self) -> str:
        """What it complained of."""
        return (self.folder / "log").read_text(encoding="utf-8")

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        return self.client.get(f"http://127.0.0.1:{self.port}{path}", params=parameters)


@contextlib.contextmanager
def prometheus(target: int, key: str) -> Iterator[Prometheus]:
    """A running Prometheus that watches the gateway on a port, gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="gs-prom-") as folder,
        httpx.Client(timeout=30, trust_env=False) as client,
    ):
        server = Prometheus(Path(folder), target, key, client)
        process = server.start()
        try:
            yield server
        finally:
            process.kill()
            process.wait()


@dataclass
class Bucket:
    """An S3-compatible server (moto's) with one bucket; `env` is what its clients need."""

    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def env(self) -> dict[str, str]:
        """Where a client finds it, and as whom."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextlib.contextmanager
def bucket(name: str = "gearshift") -> Iterator[Bucket]:
    """A running S3-compatible server, gone afterwards."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                httpx.put(f"http://127.0.0.1:{port}/{name}", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield Bucket(port=port, process=process)
    finally:
        process.kill()
        process.wait()
