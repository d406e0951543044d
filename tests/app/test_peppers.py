"""Where peppers lie, and how one follows the other."""

from pathlib import Path

import pytest

from app.peppers import PepperSource
from variants.errors import Invalid

OLD, NEW = "11" * 32, "22" * 32


def source(option: str | None, folder: Path) -> PepperSource:
    return PepperSource.of(option, folder)


def test_the_first_use_makes_one_that_only_its_owner_can_read(tmp_path: Path) -> None:
    first = source(None, tmp_path).read()
    assert len(first.generations) == 1
    assert source(None, tmp_path).read() == first
    assert (tmp_path / "pepper").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["pepper"]


def test_two_generations_are_kept_and_the_third_is_dropped(tmp_path: Path) -> None:
    own = source(None, tmp_path)
    first, mark = own.read().generations[0], own.mark()
    second = own.rotate().generations
    assert second[1] == first and own.mark() != mark
    third = own.rotate().generations
    assert third[1] == second[0] and first not in third
    assert own.read().generations == third
    assert (tmp_path / "pepper").stat().st_mode & 0o777 == 0o600


def test_raw_bytes_are_one_pepper(tmp_path: Path) -> None:
    path = tmp_path / "pepper"
    path.write_bytes(b"\x07" * 32)
    path.chmod(0o600)
    own = source(None, tmp_path)
    assert own.read().generations == (b"\x07" * 32,)
    assert own.rotate().generations[1] == b"\x07" * 32


def test_the_environment_holds_one_or_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = source("env:PEPPER", tmp_path)
    with pytest.raises(Invalid, match="PEPPER is not set"):
        own.read()
    monkeypatch.setenv("PEPPER", f"{NEW} {OLD}")
    assert [one.hex() for one in own.read().generations] == [NEW, OLD]
    assert not any(tmp_path.iterdir())
    with pytest.raises(Invalid, match="openssl rand -hex 32"):
        own.rotate()


@pytest.mark.parametrize("text", ["", "zz" * 32, "11" * 31, f"{OLD} {OLD} {OLD}", "x" * 31])
def test_what_is_no_pepper_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Invalid, match="not one or two peppers") as refused:
        source(f"file:{path}", tmp_path).read()
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "secret"
    path.write_text(NEW)
    path.chmod(mode)
    with pytest.raises(Invalid, match="chmod 600"):
        source(f"file:{path}", tmp_path).read()


@pytest.mark.parametrize("option", ["", "file:", "env:", "secret", "http://pepper"])
def test_another_source_is_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(Invalid, match="file:PATH or env:NAME"):
        source(option, tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="absent: No such file"):
        source(f"file:{tmp_path / 'absent'}", tmp_path).read()


def test_hmacs_come_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEPPER", f"{NEW} {OLD}")
    both = source("env:PEPPER", tmp_path).read()
    monkeypatch.setenv("PEPPER", OLD)
    one = source("env:PEPPER", tmp_path).read()
    assert both.hmacs("secret")[1:] == one.hmacs("secret")
    assert both.ids[1:] == one.ids and OLD not in one.ids
