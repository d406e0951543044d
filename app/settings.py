"""Every option of the gateway, once: type, default, unit and help.

Order: flag, then environment (`GEARSHIFT_…`), then `gearshift.toml`, then the default. An option in
a table has the table's name before it: `prices.core_hour_usd`, `GEARSHIFT_PRICES__CORE_HOUR_USD`.
"""

import difflib
import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from app.engine.limits import Limits, share_out, usable_cores
from variants import toml_file
from variants.cost import Prices
from variants.errors import Invalid

if TYPE_CHECKING:
    from variants.data_folder import DataFolder

PREFIX = "GEARSHIFT_"
RELOADED = "reloaded"
"""Marks an option that SIGHUP reads anew; all others are read at the start."""


class PriceSettings(BaseModel):
    """What this host costs while it works; used for every cost estimate and cost cap."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    core_hour_usd: Annotated[float, Field(ge=0, description="US dollars per core and hour")] = 0.04
    gib_hour_usd: Annotated[float, Field(ge=0, description="US dollars per GiB and hour")] = 0.005

    def prices(self) -> Prices:
        """The same as the domain's frozen type."""
        return Prices(core_hour_usd=self.core_hour_usd, gib_hour_usd=self.gib_hour_usd)


class Settings(BaseModel):
    """The gateway's options."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data_dir: Annotated[Path, Field(description="folder of the store and the registry")] = Field(
        default_factory=lambda: platformdirs.user_data_path("gearshift")
    )
    database_url: Annotated[
        SecretStr | None,
        Field(
            description="PostgreSQL database that several gateways share, postgresql://…; "
            "not set: registry.sqlite3 in data_dir"
        ),
    ] = None
    database_timeout_s: Annotated[
        float, Field(ge=0.1, description="longest wait for the database: connection, lock, answer")
    ] = 5.0
    store_url: Annotated[
        str | None,
        Field(
            description="S3-compatible bucket that several gateways share, s3://bucket/prefix; "
            "not set: data_dir"
        ),
    ] = None
    keep_unused_s: Annotated[
        float,
        Field(ge=0, description="age at which what nothing refers to is swept from the store"),
        RELOADED,
    ] = 7 * 86400.0
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port; 0 takes a free one")] = 8080
    require_keys: Annotated[
        bool, Field(description="whether callers need a key; off only on the loopback address")
    ] = True
    pepper: Annotated[
        str | None,
        Field(
            description="where the secret behind the keys lies, file:PATH or env:NAME; none: a "
            "file in the data folder. All gateways on one database need the same"
        ),
    ] = None
    admin_port: Annotated[
        int | None,
        Field(
            ge=0,
            le=65535,
            description="port of a listener of its own for all routes but inference, usage and "
            "probes, which the other one then has alone; none: one listener for all",
        ),
    ] = None
    bad_keys_per_s: Annotated[
        float,
        Field(
            gt=0,
            description="failures a second from one address that are answered with 401, more with "
            "429; raise it behind a proxy, where all callers share its address",
        ),
    ] = 10.0
    workers: Annotated[int, Field(ge=1, le=256, description="worker processes")] = max(
        1, len(usable_cores()) - 1
    )
    threads: Annotated[int, Field(ge=1, le=256, description="threads of one worker's runtime")] = 1
    pin_workers: Annotated[
        bool,
        Field(
            description="give each worker cores of its own, the first one left to HTTP; "
            "turn it off where other programs share the machine"
        ),
    ] = True
    memory_bytes: Annotated[
        int | None,
        Field(
            ge=1,
            description="what all variants open in workers may take together, by their measured "
            "size; none: every worker holds every variant",
        ),
    ] = None
    worker_memory_bytes: Annotated[
        int | None,
        Field(
            ge=64 << 20, description="resident memory at which a worker is replaced; none: never"
        ),
    ] = None
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Field(description="the least that is logged"),
        RELOADED,
    ] = "info"
    policy: Annotated[str, Field(description="dispatch policy, a file of router/policies")] = (
        "shadow_price"
    )
    queue_limit: Annotated[
        int, Field(ge=1, description="requests that may wait per model"), RELOADED
    ] = 512
    max_queue_bytes: Annotated[
        int, Field(ge=1, description="bytes that may wait in all, and as many on their way")
    ] = 256 << 20
    max_body_bytes: Annotated[int, Field(ge=1, description="largest inference body"), RELOADED] = (
        32 << 20
    )
    max_blob_bytes: Annotated[
        int, Field(ge=1, description="largest uploaded artifact"), RELOADED
    ] = 2 << 30
    uploads: Annotated[int, Field(ge=1, description="uploads at once, of all keys"), RELOADED] = 16
    uploads_per_key: Annotated[
        int, Field(ge=1, description="uploads at once of one key"), RELOADED
    ] = 8
    unfinished_bytes: Annotated[
        int,
        Field(ge=1, description="bytes of uploads that are not whole yet, of all keys"),
        RELOADED,
    ] = 16 << 30
    unfinished_bytes_per_key: Annotated[
        int,
        Field(ge=1, description="bytes of uploads that are not whole yet, of one key"),
        RELOADED,
    ] = 8 << 30
    min_free_bytes: Annotated[
        int,
        Field(ge=0, description="free disk below which uploads are refused and the gauge rises"),
        RELOADED,
    ] = 512 << 20
    max_latency_s: Annotated[
        float,
        Field(gt=0, description="longest deadline; larger ones are clamped, none means this"),
        RELOADED,
    ] = 60.0
    hang_s: Annotated[
        float, Field(gt=0, description="shortest time after which a silent worker is replaced")
    ] = 5.0
    head_timeout_s: Annotated[
        float, Field(gt=0, description="time for a request's head to arrive")
    ] = 10.0
    profile_s: Annotated[
        float,
        Field(gt=0, description="time to measure a registered variant at each batch size"),
        RELOADED,
    ] = 0.3
    trial_timeout_s: Annotated[
        float,
        Field(gt=0, description="time for one runtime to load and measure a new variant"),
        RELOADED,
    ] = 300.0
    trial_memory_bytes: Annotated[
        int,
        Field(ge=1, description="address space of the process that tries a new variant"),
        RELOADED,
    ] = 8 << 30
    min_agreement: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of evaluation rows with the reference's answer that a registered "
            "variant must surely have; a request may ask for more, never for less",
        ),
        RELOADED,
    ] = 0.5
    demote: Annotated[
        Literal["off", "flag", "demote"],
        Field(
            description="what becomes of an active variant that runs slower than its profile "
            "promised, or agrees less with the reference than the build measured: nothing, a flag, "
            "or deactivation where others can take its place"
        ),
    ] = "flag"
    audit_ratio: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of live answers that are compared with the reference's, while "
            "nothing else needs the machine; takes one more worker process for each model",
        ),
    ] = 0.0
    signing_key: Annotated[
        Path | None,
        Field(description="public key (PEM) that artifacts must be signed with; none: unsigned"),
    ] = None
    body_timeout_s: Annotated[
        float,
        Field(
            gt=0,
            description="time for a body to arrive, and in which a caller must take in 64 KiB of "
            "its answer, or what is left of it",
        ),
        RELOADED,
    ] = 30.0
    drain_delay_s: Annotated[
        float,
        Field(
            ge=0,
            description="time after SIGTERM in which connections are still taken, for whoever "
            "sends them here to learn that it is not ready",
        ),
        RELOADED,
    ] = 0.0
    drain_s: Annotated[
        float, Field(ge=0, description="time to finish work at shutdown, after drain_delay_s")
    ] = 20.0
    prices: PriceSettings = PriceSettings()

    def open_data(self) -> "AbstractContextManager[DataFolder]":
        """The store and the database, open until the context ends."""
        from variants.data_folder import open_data_folder

        url = self.database_url
        return open_data_folder(
            self.data_dir,
            database_url=None if url is None else url.get_secret_value(),
            store_url=self.store_url,
            timeout_s=self.database_timeout_s,
        )

    def worker_limits(self) -> tuple[Limits, ...]:
        """What each worker may take."""
        return share_out(
            usable_cores() if self.pin_workers else (),
            workers=self.workers,
            threads=self.threads,
            memory_bytes=self.worker_memory_bytes,
        )

    def check_address(self) -> None:
        """Raise `Invalid` for an open address without keys."""
        if not self.require_keys and not _is_loopback(self.host):
            raise Invalid(
                f"host is {self.host} and require_keys is off: without keys only a loopback "
                "address is allowed; turn require_keys on or listen on 127.0.0.1",
                field="host",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Reread:
    """Names of options that differ now: those that hold from now on, and those that will after a
    restart."""

    changed: tuple[str, ...]
    at_restart: tuple[str, ...]


class Options:
    """The options in force: `now` is replaced as a whole when they are read anew.

    `read` reads flags, environment and file once more; without it they stay as they are.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self.now = settings
        self._started = settings
        self._read = read

    def reload(self) -> Reread:
        """Read anew, and let hold what may. Raises `Invalid`; then everything stays as it was."""
        found = self._started if self._read is None else self._read()
        wanted, started, now = options(found), options(self._started), options(self.now)
        changed = {n: wanted[n] for n in wanted if is_reloaded(n) and wanted[n] != now[n]}
        self.now = self.now.model_copy(update=changed)
        at_restart = (n for n in wanted if not is_reloaded(n) and wanted[n] != started[n])
        return Reread(changed=tuple(changed), at_restart=tuple(at_restart))


def is_reloaded(name: str) -> bool:
    """Whether SIGHUP reads this option anew, by its full name."""
    field = Settings.model_fields.get(name)
    return field is not None and RELOADED in field.metadata


def options(settings: BaseModel, prefix: str = "") -> dict[str, Any]:
    """Every option by its full name, such as `prices.core_hour_usd`, with its value."""
    found: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            found |= options(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def load(config: Path | None, flags: dict[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings, and where each option that is not the default comes from, by full name.

    `config` is a TOML file; without one, `gearshift.toml` here is read if it exists. `flags` holds
    what the command line set (None means not set). Raises `Invalid` naming file, line and key.
    """
    found: dict[str, tuple[Any, str]] = {}
    file = config if config is not None else Path("gearshift.toml")
    if config is not None or file.is_file():
        from_file = toml_file.load(file, Settings)
        values = options(from_file)
        found |= {name: (values[name], str(file)) for name in _set(from_file)}
        _check_kept(file, values)
    found |= _environment()
    for name, value in flags.items():
        if value is not None:
            found[name] = (value, f"flag --{name.replace('_', '-')}")
    origin = {name: source for name, (_, source) in found.items()}
    try:
        return Settings.model_validate(_nested(found)), origin
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise Invalid(
            f"{name} (from {origin.get(name, 'default')}): {first['msg']} (got {first['input']!r})",
            field=name,
        ) from error


def _check_kept(file: Path, values: Mapping[str, Any]) -> None:
    """Raise `Invalid` for a file that holds a secret and that others can read."""
    secret = [name for name, value in values.items() if isinstance(value, SecretStr)]
    if secret and file.stat().st_mode & 0o077:
        raise Invalid(
            f"{file} holds {secret[0]} and can be read by others; run: chmod 600 {file}",
            field=secret[0],
        )


def _set(settings: BaseModel, prefix: str = "") -> Iterator[str]:
    """The options that were given, by full name."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _set(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _environment() -> dict[str, tuple[Any, str]]:
    known = {PREFIX + name.upper().replace(".", "__"): name for name in options(Settings())}
    found: dict[str, tuple[Any, str]] = {}
    for variable, value in os.environ.items():
        if variable in known:
            found[known[variable]] = (value, f"environment {variable}")
        elif variable.startswith(PREFIX):
            near = difflib.get_close_matches(variable, known, n=1, cutoff=0.0)[0]
            raise Invalid(
                f"environment variable {variable}: no such option; nearest: {near}", field=variable
            )
    return found


def _nested(found: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, (value, _) in found.items():
        *tables, last = name.split(".")
        place = nested
        for table in tables:
            place = place.setdefault(table, {})
        place[last] = value
    return nested


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
