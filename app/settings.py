"""Every option of the gateway, once: type, default, unit and help.

Order: flag, then environment (`GEARSHIFT_…`), then `gearshift.toml`, then the default.
"""

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from variants import toml_file
from variants.cost import Prices
from variants.errors import Invalid

PREFIX = "GEARSHIFT_"


class PriceSettings(BaseModel):
    """What this host costs while it works; used for every cost estimate and cost cap."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    core_hour_usd: Annotated[float, Field(ge=0, description="US dollars per core and hour")] = 0.04
    gib_hour_usd: Annotated[float, Field(ge=0, description="US dollars per GiB and hour")] = 0.005

    def prices(self) -> Prices:
        """The same as the domain's frozen type."""
        return Prices(core_hour_usd=self.core_hour_usd, gib_hour_usd=self.gib_hour_usd)


class Settings(BaseModel):
    """The gateway's options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_dir: Annotated[Path, Field(description="folder of the store and the registry")] = Field(
        default_factory=lambda: platformdirs.user_data_path("gearshift")
    )
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="port; 0 takes a free one")] = 8080
    require_keys: Annotated[
        bool, Field(description="whether callers need a key; off only on the loopback address")
    ] = True
    workers: Annotated[int, Field(ge=1, le=256, description="worker processes")] = max(
        1, (os.cpu_count() or 1) - 1
    )
    threads: Annotated[int, Field(ge=1, le=256, description="threads of one worker's runtime")] = 1
    policy: Annotated[str, Field(description="dispatch policy, a file of router/policies")] = (
        "share_slack"
    )
    queue_limit: Annotated[int, Field(ge=1, description="requests that may wait per model")] = 512
    max_queue_bytes: Annotated[int, Field(ge=1, description="bytes that may wait in all")] = (
        256 << 20
    )
    max_body_bytes: Annotated[int, Field(ge=1, description="largest inference body")] = 32 << 20
    max_blob_bytes: Annotated[int, Field(ge=1, description="largest uploaded artifact")] = 2 << 30
    max_latency_s: Annotated[
        float, Field(gt=0, description="longest deadline; larger ones are clamped, none means this")
    ] = 60.0
    hang_s: Annotated[
        float, Field(gt=0, description="shortest time after which a silent worker is replaced")
    ] = 5.0
    head_timeout_s: Annotated[
        float, Field(gt=0, description="time for a request's head to arrive")
    ] = 10.0
    body_timeout_s: Annotated[float, Field(gt=0, description="time for a body to arrive")] = 30.0
    drain_s: Annotated[float, Field(ge=0, description="time to finish work at shutdown")] = 20.0
    prices: PriceSettings = PriceSettings()

    def check_address(self) -> None:
        """Raise `Invalid` for an open address without keys."""
        if not self.require_keys and not _is_loopback(self.host):
            raise Invalid(
                f"host is {self.host} and require_keys is off: without keys only a loopback "
                "address is allowed; turn require_keys on or listen on 127.0.0.1",
                field="host",
            )


def load(config: Path | None, flags: dict[str, Any]) -> tuple[Settings, dict[str, str]]:
    """The settings and each option's origin.

    `config` is a TOML file; without one, `gearshift.toml` here is read if it exists. `flags` holds
    what the command line set (None means not set). Raises `Invalid` naming file, line and key.
    """
    file = config if config is not None else Path("gearshift.toml")
    from_file = toml_file.load(file, Settings) if config is not None or file.is_file() else None
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if from_file is not None:
        for name in from_file.model_fields_set:
            values[name], origin[name] = getattr(from_file, name), str(file)
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if variable in os.environ:
            values[name], origin[name] = os.environ[variable], f"environment {variable}"
    for variable in os.environ:
        name = variable.removeprefix(PREFIX).lower()
        if variable.startswith(PREFIX) and name not in Settings.model_fields:
            raise Invalid(f"environment variable {variable}: no such option", field=name)
    for name, value in flags.items():
        if value is not None:
            values[name], origin[name] = value, f"flag --{name.replace('_', '-')}"
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise Invalid(
            f"{name} (from {origin.get(name, 'default')}): {first['msg']} (got {first['input']!r})",
            field=name,
        ) from error
    return settings, origin


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
