"""`gearshift keys`: the keys of a data folder, beside a running gateway or without one."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from app.keys import Keys
    from variants.data_folder import DataFolder

app = typer.Typer(help="API keys.", no_args_is_help=True)

SCOPES = "infer,read,admin,metrics"
ACTOR = "command line"
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_DAYS = 36500


@contextmanager
def _opened(ctx: typer.Context) -> "Iterator[tuple[DataFolder, Keys]]":
    from app.keys import open_keys

    settings = ctx.obj.settings
    with settings.open_data() as data:
        yield data, open_keys(data.keys, data.root, required=True, pepper=settings.pepper)


def _seconds(text: str) -> float:
    found = _SPAN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no span of time; 90s, 30m, 12h or 7d is one")
    seconds = float(found[1]) * _SECONDS[found[2]]
    if seconds > _MAX_DAYS * 86400:
        raise typer.BadParameter(f"{text[:80]!r} is a longer span of time than {_MAX_DAYS}d")
    return seconds


@app.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Option(help="What it is for.")],
    scopes: Annotated[str, typer.Option(help=f"Some of {SCOPES}.")] = "infer,read",
    expires_in: Annotated[str | None, typer.Option(help="When it ends: 12h, 90d.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="A model, or MODEL/VARIANT; may be repeated.")
    ] = None,
    max_latency_ms: Annotated[float | None, typer.Option(help="Ceiling on latency.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="Ceiling on US dollars per million inferences.")
    ] = None,
    min_accuracy: Annotated[float | None, typer.Option(help="Floor on accuracy.")] = None,
    max_accuracy_drop: Annotated[
        float | None, typer.Option(help="Ceiling on points below the reference.")
    ] = None,
    requests_per_s: Annotated[float | None, typer.Option(help="For each gateway.")] = None,
    usd_per_day: Annotated[float | None, typer.Option(help="For all gateways together.")] = None,
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from variants.terms import Terms, allowed

    wanted = frozenset(scope.strip() for scope in scopes.split(",") if scope.strip())
    if unknown := wanted - set(SCOPES.split(",")):
        raise typer.BadParameter(f"unknown scope {min(unknown)!r}; allowed: {SCOPES}")
    if not wanted:
        raise typer.BadParameter(f"a key needs a scope; allowed: {SCOPES}")
    left = None if expires_in is None else timedelta(seconds=_seconds(expires_in))
    ends = None if left is None else datetime.now(UTC) + left
    terms = Terms(
        allow=allowed(allow) if allow else None,
        max_latency_s=None if max_latency_ms is None else max_latency_ms / 1000,
        max_cost_usd_per_million=max_cost,
        min_accuracy=min_accuracy,
        max_accuracy_drop_points=max_accuracy_drop,
        requests_per_s=requests_per_s,
        usd_per_day=usd_per_day,
    )
    with _opened(ctx) as (_, keys):
        print(keys.create(name, wanted, actor=ACTOR, terms=terms, expires_at=ends))


@app.command("list")
def list_(ctx: typer.Context) -> None:
    """Every key without its secret, as JSON lines."""
    from app.schemas import key_out

    with _opened(ctx) as (data, _):
        for key in data.keys.all():
            print(json.dumps(key_out(key).model_dump(mode="json")))


@app.command("rotate")
def rotate(
    ctx: typer.Context,
    id: str,
    overlap: Annotated[str, typer.Option(help="How long the old secret stays valid.")] = "1d",
) -> None:
    """Give a key a new secret and print it; it cannot be shown again."""
    with _opened(ctx) as (_, keys):
        print(keys.rotate(id, overlap_s=_seconds(overlap), actor=ACTOR))


@app.command("revoke")
def revoke(
    ctx: typer.Context,
    id: str,
    force: Annotated[bool, typer.Option("--force", help="Even the last admin key.")] = False,
) -> None:
    """End a key; a running gateway notices within a second."""
    with _opened(ctx) as (_, keys):
        keys.revoke(id, actor=ACTOR, force=force)


@app.command("usage")
def usage(
    ctx: typer.Context,
    id: str,
    days: Annotated[int, typer.Option(help="How many days with usage.")] = 31,
) -> None:
    """What a key used, as JSON."""
    from app.schemas import usage_out
    from variants.errors import NotFound

    with _opened(ctx) as (data, _):
        found = {key.id: key for key in data.keys.all()}
        if id not in found:
            raise NotFound(f"no key {id[:80]!r}")
        shown = usage_out(id, found[id].terms, data.usage.of(id, days=days))
        print(json.dumps(shown.model_dump(mode="json")))


@app.command("rotate-pepper")
def rotate_pepper(
    ctx: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Even where keys would end by it.")
    ] = False,
) -> None:
    """Renew the secret behind all keys; the one before it stays valid until the next time."""
    with _opened(ctx) as (_, keys):
        keys.rotate_pepper(actor=ACTOR, force=force)
