"""The fetcher checks what it gets, keeps it, and says in one line what is missing."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from compressors import fetch
from compressors.fetch import FetchFailed

DATA = b"1,2,3\n"
DIGEST = hashlib.sha256(DATA).hexdigest()
FILES = {"small/rows.csv": DIGEST}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gearshift"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes wheels from instead of an index, with one small wheel."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "small-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small/rows.csv", DATA)
        wheel.writestr("small/__init__.py", "raise SystemExit('must not run')")
        wheel.writestr(
            "small-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n"
        )
        wheel.writestr("small-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("small-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


SDIST = {"small-1.0/rows.csv": DIGEST}


@pytest.fixture
def sdist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A source archive that pip finds instead of an index, and its SHA-256."""
    files = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
        "pyproject.toml": (
            b"[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        ),
        "backend.py": (
            b"from pathlib import Path\n"
            b"def prepare_metadata_for_build_wheel(folder, config_settings=None):\n"
            b"    made = Path(folder) / 'small-1.0.dist-info'\n"
            b"    made.mkdir()\n"
            b"    (made / 'METADATA').write_bytes(Path('PKG-INFO').read_bytes())\n"
            b"    return made.name\n"
            b"def build_wheel(*ignored, **named): raise SystemExit('must not run')\n"
        ),
        "rows.csv": DATA,
    }
    folder = tmp_path / "sdists"
    folder.mkdir()
    path = folder / "small-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"small-1.0/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_source_archive_is_read_once_and_kept(sdist: tuple[Path, str]) -> None:
    archive, digest = sdist
    path = fetch.sdist("small==1.0", digest, SDIST)["small-1.0/rows.csv"]
    assert path.read_bytes() == DATA
    archive.unlink()
    assert fetch.sdist("small==1.0", digest, SDIST)["small-1.0/rows.csv"] == path


def test_pip_never_opens_another_source_archive_than_the_pinned_one(
    sdist: tuple[Path, str], cache: Path
) -> None:
    with pytest.raises(FetchFailed) as caught:
        fetch.sdist("small==1.0", "0" * 64, SDIST)
    assert "cannot fetch small==1.0" in _one_line(caught.value)
    assert not list(cache.glob("**/rows.csv"))


def _one_line(error: FetchFailed) -> str:
    assert "\n" not in str(error)
    return str(error)


def test_the_cache_lies_in_the_users_cache_folder(cache: Path) -> None:
    assert fetch.cache_folder() == cache


def test_a_wheel_is_read_once_and_kept(wheels: Path) -> None:
    path = fetch.wheel("small==1.0", FILES)["small/rows.csv"]
    assert path.read_bytes() == DATA
    (wheels / "small-1.0-py3-none-any.whl").unlink()
    assert fetch.wheel("small==1.0", FILES)["small/rows.csv"] == path
    assert not list(path.parents[1].glob("**/*.py")), "only what was asked for is taken"


def test_other_bytes_are_refused_and_not_kept(wheels: Path, cache: Path) -> None:
    with pytest.raises(FetchFailed, match="SHA-256") as caught:
        fetch.wheel("small==1.0", {"small/rows.csv": "0" * 64})
    assert DIGEST in _one_line(caught.value)
    assert not list(cache.glob("**/rows.csv"))


def test_a_damaged_cache_is_noticed(wheels: Path) -> None:
    fetch.wheel("small==1.0", FILES)["small/rows.csv"].write_bytes(b"4")
    with pytest.raises(FetchFailed, match="SHA-256"):
        fetch.wheel("small==1.0", FILES)


def test_a_wheel_that_pip_cannot_find_is_one_clear_line(wheels: Path) -> None:
    with pytest.raises(FetchFailed) as caught:
        fetch.wheel("absent==1.0", FILES)
    message = _one_line(caught.value)
    assert message.startswith("cannot fetch absent==1.0: pip says: ")
    assert message.endswith("(no network?)")


def test_a_missing_member_is_named(wheels: Path) -> None:
    with pytest.raises(FetchFailed, match=r"no\.csv"):
        fetch.wheel("small==1.0", {"small/no.csv": DIGEST})


def test_a_missing_client_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchFailed) as caught:
        fetch.debian("dataset-small", FILES)
    assert _one_line(caught.value) == ("cannot fetch dataset-small: apt-get is not installed here")


def test_fetching_needs_neither_torch_nor_a_runtime() -> None:
    code = (
        "import sys; import compressors.datasets\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'openvino'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
