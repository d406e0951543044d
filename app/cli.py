"""`gearshift`: every command of the product. Heavy imports stay inside the commands."""

import json
import os
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import keys_cli
from app import settings as settings_module
from app.settings import Settings
from compressors import cli as compressors_cli
from variants.cost import Prices
from variants.errors import GearshiftError, RegistryUnavailable

if TYPE_CHECKING:
    from variants.data_folder import DataFolder

app = typer.Typer(
    name="gearshift",
    help="One inference endpoint, many compressed variants of each model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
variants_app = typer.Typer(help="What the data folder holds.", no_args_is_help=True)
config_app = typer.Typer(help="The options in force.", no_args_is_help=True)
app.add_typer(variants_app, name="variants")
app.add_typer(keys_cli.app, name="keys")
app.add_typer(config_app, name="config")
compressors_cli.register(app)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """What every command may use."""

    settings: Settings
    origin: dict[str, str]
    config: Path | None

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self.settings.data_dir

    def open_data(self) -> "AbstractContextManager[DataFolder]":
        """The store and the database."""
        return self.settings.open_data()

    @property
    def prices(self) -> Prices:
        """What this host costs."""
        return self.settings.prices.prices()


@app.callback()
def common(
    ctx: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file (TOML).")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of store and registry.")] = None,
) -> None:
    """Options that every command takes."""
    settings, origin = settings_module.load(config, {"data_dir": data_dir})
    ctx.obj = Context(settings=settings, origin=origin, config=config)


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes.")] = None,
    policy: Annotated[str | None, typer.Option(help="Dispatch policy.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of store and registry.")] = None,
    require_keys: Annotated[
        bool | None, typer.Option(help="Ask callers for a key; off only on loopback.")
    ] = None,
) -> None:
    """Serve every active variant behind POST /infer."""
    from app.serve import serve as run

    obj: Context = ctx.obj
    flags = {
        "host": host,
        "port": port,
        "workers": workers,
        "policy": policy,
        "data_dir": data_dir or (obj.data_dir if "data_dir" in obj.origin else None),
        "require_keys": require_keys,
    }

    def read() -> Settings:
        return settings_module.load(obj.config, flags)[0]

    options = settings_module.Options(read(), read)
    run(options, lambda url: print(f"gearshift listens on {url}", file=sys.stderr))


@app.command()
def doctor(
    ctx: typer.Context, json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Check this machine and say what is missing for what."""
    from app.doctor import examine, show

    checks = examine(ctx.obj.data_dir)
    show(checks, as_json=json_)
    if any(check.status == "fail" for check in checks):
        raise typer.Exit(1)


@app.command()
def demo(
    ctx: typer.Context,
    serve: Annotated[bool, typer.Option(help="Keep serving after the sample requests.")] = True,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8080,
) -> None:
    """Build the Fashion-MNIST ladder, serve it, and ask it with different budgets."""
    from app.demo import FOLDER, run

    obj: Context = ctx.obj
    data_dir = obj.data_dir if "data_dir" in obj.origin else FOLDER
    run(data_dir, port=port, keep_serving=serve)


@variants_app.command("list")
def variants_list(
    ctx: typer.Context, json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False
) -> None:
    """Every variant of every model with its state and measurements."""
    from app.inventory import list_variants

    list_variants(ctx.obj.settings, as_json=json_)


@variants_app.command("show")
def variants_show(ctx: typer.Context, model: str, variant: str) -> None:
    """One variant's record, history and manifest, as JSON."""
    from app.inventory import show_variant

    show_variant(ctx.obj.settings, model, variant)


@app.command()
def gc(
    ctx: typer.Context,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
) -> None:
    """Remove what nothing refers to any more from the store, once it is old enough."""
    from variants import retention

    obj: Context = ctx.obj
    with obj.open_data() as data:
        grace_s = obj.settings.keep_unused_s
        if dry_run:
            files = tuple(retention.unneeded(data, grace_s=grace_s))
        else:
            files = retention.sweep(data, grace_s=grace_s, actor=keys_cli.ACTOR)
    for file in files:
        print(f"{file.kind} {file.name} {file.size_bytes}")
    done = "would be removed" if dry_run else "removed"
    total_bytes = sum(file.size_bytes for file in files)
    print(f"{len(files)} files, {total_bytes} bytes {done}", file=sys.stderr)


@app.command()
def backup(
    ctx: typer.Context, path: Annotated[Path, typer.Argument(help="A folder to be made.")]
) -> None:
    """Copy registry and store while everything goes on. The pepper is not part of it."""
    from variants.backup import back_up
    from variants.data_folder import FILE

    with ctx.obj.open_data() as data:
        count = back_up(data, path)
    print(f"{count} files in {path}; keep the pepper elsewhere: no key is valid without it")
    if not (path / FILE).exists():
        print("the rows are in PostgreSQL: run pg_dump within a day before each of these backups")


@app.command()
def restore(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="What 'gearshift backup' wrote.")],
    force: Annotated[bool, typer.Option(help="Replace the registry that is there.")] = False,
) -> None:
    """Check a backup and bring it back."""
    from variants.backup import restore as bring_back
    from variants.data_folder import open_store

    obj: Context = ctx.obj
    store = open_store(obj.data_dir, obj.settings.store_url)
    secret = obj.settings.database_url
    url = None if secret is None else secret.get_secret_value()
    count = bring_back(
        path, obj.data_dir, store, force=force, actor=keys_cli.ACTOR, database_url=url
    )
    print(f"{count} files restored; the pepper must be that of the time of the backup")


@app.command()
def audit(
    ctx: typer.Context,
    after: Annotated[int, typer.Option(help="Only lines with a larger id.")] = 0,
) -> None:
    """Who changed what, when, why and on what evidence, as JSON lines, oldest first."""
    from variants.audit import json_line

    with ctx.obj.settings.open_data() as data:
        for entry in data.audit.after(after):
            sys.stdout.buffer.write(json_line(entry))


@config_app.command("show")
def config_show(
    ctx: typer.Context,
    origin: Annotated[bool, typer.Option(help="Say where each value comes from.")] = False,
) -> None:
    """Every option with its value, and whether a change of it needs a restart or only SIGHUP."""
    obj: Context = ctx.obj
    for name, value in settings_module.options(obj.settings).items():
        source = f"{obj.origin.get(name, 'default')}; " if origin else ""
        when = "reload" if settings_module.is_reloaded(name) else "restart"
        source = f"   # {source}{when}"
        if value is None:  # TOML has no word for it
            print(f"# {name} = not set{source}")
        else:
            print(f"{name} = {json.dumps(value, default=str)}{source}")


def main() -> None:
    """The command line; errors of the user's making are one line and exit status 2."""
    try:
        app(standalone_mode=True)
    except GearshiftError as error:
        print(f"gearshift: {error}", file=sys.stderr)
        if isinstance(error, RegistryUnavailable) and error.__cause__ is not None:
            print(str(error.__cause__).partition("\n")[0], file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a disk that is full, a file that may not be read or written
        where = "" if error.filename is None else f"{error.filename}: "
        print(f"gearshift: {where}{error.strerror or error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
