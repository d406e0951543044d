"""Where options come from, which source wins, and what a typo is told."""

from pathlib import Path
from typing import Any

import pytest

from app import settings
from app.settings import PREFIX, Settings, load, options
from variants.errors import Invalid


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without `gearshift.toml`."""
    monkeypatch.chdir(tmp_path)


def write(text: str) -> Path:
    path = Path("gearshift.toml")
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_flag_beats_environment_beats_file_beats_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(None, {})[0].port == 8080
    write("port = 1\nworkers = 7\n")
    assert load(None, {})[0].port == 1
    monkeypatch.setenv("GEARSHIFT_PORT", "2")
    assert load(None, {})[0].port == 2
    found, origin = load(None, {"port": 3, "host": None})
    assert (found.port, found.workers, found.host) == (3, 7, "127.0.0.1")
    assert origin == {"port": "flag --port", "workers": "gearshift.toml"}
    assert load(None, {})[1]["port"] == "environment GEARSHIFT_PORT"


def test_options_of_a_table_are_merged_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[prices]\ncore_hour_usd = 1.5\n")
    monkeypatch.setenv("GEARSHIFT_PRICES__GIB_HOUR_USD", "2.5")
    found, origin = load(None, {})
    assert (found.prices.core_hour_usd, found.prices.gib_hour_usd) == (1.5, 2.5)
    assert origin["prices.core_hour_usd"] == "gearshift.toml"
    assert origin["prices.gib_hour_usd"] == "environment GEARSHIFT_PRICES__GIB_HOUR_USD"


OTHER: dict[str, Any] = {
    "data_dir": "elsewhere",
    "database_url": "postgresql://host/name",
    "store_url": "s3://bucket/prefix",
    "host": "localhost",
    "require_keys": "false",
    "policy": "static",
    "pepper": "env:PEPPER",
    "pin_workers": "false",
    "worker_memory_bytes": "100000000",
    "min_agreement": "0.75",
    "signing_key": "key.pub",
    "log_level": "debug",
    "demote": "demote",
    "audit_ratio": "0.5",
    "prices.core_hour_usd": "1.25",
    "prices.gib_hour_usd": "1.25",
}


@pytest.mark.parametrize("name", options(Settings()))
def test_every_option_can_be_set_in_file_and_environment(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = OTHER.get(name, "3")
    *table, last = name.split(".")
    header = f"[{table[0]}]\n" if table else ""
    write(f"{header}{last} = {text if text[0].isdigit() or text == 'false' else repr(text)}\n")
    from_file, origin = load(None, {})
    assert origin == {name: "gearshift.toml"}
    assert options(from_file)[name] != options(Settings())[name]
    Path("gearshift.toml").unlink()
    variable = PREFIX + name.upper().replace(".", "__")
    monkeypatch.setenv(variable, text)
    from_environment, origin = load(None, {})
    assert origin == {name: f"environment {variable}"}
    assert options(from_environment)[name] == options(from_file)[name]


def test_every_option_says_what_it_is_for() -> None:
    for model in (Settings, settings.PriceSettings):
        for name, field in model.model_fields.items():
            assert field.description or name == "prices"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nprot = 1\n", "gearshift.toml:2: prot: unknown key; nearest valid key: 'port'"),
        ("[prices]\ncore_hour = 1\n", "gearshift.toml:2: prices.core_hour: unknown key"),
        ("workers = 0\n", "gearshift.toml:1: workers: Input should be greater than or equal to 1"),
        ("port = 80.5\n", "gearshift.toml:1: port:"),
        ("# longest\n\ndrain_s = '20s'\n", "gearshift.toml:3: drain_s:"),
        ("max_latency_s = inf\n", "gearshift.toml:1: max_latency_s:"),
        ("port = \n", "gearshift.toml: "),
        ("port = 1\nport = 2\n", "gearshift.toml: "),
    ],
)
def test_a_wrong_file_is_refused_naming_file_line_and_key(text: str, says: str) -> None:
    write(text)
    with pytest.raises(Invalid) as refused:
        load(None, {})
    assert str(refused.value).startswith(says)
    assert "\n" not in str(refused.value)


def test_a_named_file_must_exist() -> None:
    with pytest.raises(Invalid, match=r"absent\.toml: no such file"):
        load(Path("absent.toml"), {})


def test_a_wrong_variable_is_refused_naming_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEARSHIFT_PROT", "1")
    with pytest.raises(Invalid, match="nearest: GEARSHIFT_PORT"):
        load(None, {})


def test_a_wrong_value_is_refused_naming_where_it_came_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEARSHIFT_PORT", "http")
    with pytest.raises(Invalid, match=r"port \(from environment GEARSHIFT_PORT\): .*got 'http'"):
        load(None, {})
    with pytest.raises(Invalid, match=r"workers \(from flag --workers\)"):
        load(None, {"port": 1, "workers": 0})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_an_open_address_without_keys_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match="only a loopback address"):
        Settings(host=host, require_keys=False).check_address()
    Settings(host=host).check_address()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    Settings(host=host, require_keys=False).check_address()


def test_a_file_with_a_secret_that_others_can_read_is_refused() -> None:
    path = write('database_url = "postgresql://shop:hidden@db/gearshift"\n')
    assert load(None, {})[0].database_url is not None
    path.chmod(0o644)
    with pytest.raises(Invalid, match="chmod 600") as refused:
        load(None, {})
    assert "hidden" not in str(refused.value)
    write("port = 1\n").chmod(0o644)
    assert load(None, {})[0].port == 1, "what holds no secret may be read by anyone"


def test_no_tag_of_another_format_makes_anything(tmp_path: Path) -> None:
    """TOML has no tags, references or anchors: nothing in a file can name code or grow (F8)."""
    for text in ("!!python/object/apply:os.system ['true']\n", "a: &a [*a, *a]\n", "<<: *x\n"):
        write(text)
        with pytest.raises(Invalid, match=r"gearshift\.toml"):
            load(None, {})
