"""The folder that build and gateway share: store and database side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from variants.audit import Audit
from variants.database import TIMEOUT_S, Database
from variants.errors import Invalid, RegistryUnavailable
from variants.key_table import KeyTable
from variants.registry import Registry
from variants.store import Store
from variants.usage_table import UsageTable

FILE = "registry.sqlite3"


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """An open data folder."""

    root: Path
    store: Store
    database: Database
    registry: Registry
    keys: KeyTable
    usage: UsageTable
    audit: Audit


def open_store(root: Path, store_url: str | None) -> Store:
    """The store under `root`, or behind it.

    Raises `Invalid` for an address that is none, and for a folder that cannot be made.
    """
    remote = None
    if store_url is not None:
        from variants.remote import Remote

        remote = Remote(store_url)
    try:
        return Store(root, remote)
    except OSError as error:
        raise Invalid(f"data_dir {root}: {error.strerror}", field="data_dir") from error


@contextmanager
def open_data_folder(
    root: Path,
    *,
    database_url: str | None = None,
    store_url: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Iterator[DataFolder]:
    """Open (or create) the store and the database, and close them after use.

    Both lie under `root` unless `database_url` names a PostgreSQL database or `store_url` a bucket,
    of which the folder holds copies then. Raises what `Database`
    raises, and `RegistryUnavailable` where the store has variants but the file is gone.
    """
    store = open_store(root, store_url)
    path = root / FILE
    if database_url is None and not path.exists() and any((root / "manifests").iterdir()):
        raise RegistryUnavailable(
            f"{path} is missing though {root} holds variants: restore it with 'gearshift restore', "
            "or move the folder away to begin anew"
        )
    database = Database(database_url or path, timeout_s=timeout_s)
    try:
        yield DataFolder(
            root=root,
            store=store,
            database=database,
            registry=Registry(database),
            keys=KeyTable(database),
            usage=UsageTable(database),
            audit=Audit(database),
        )
    finally:
        database.close()
