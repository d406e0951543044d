"""The folder that build and gateway share: store and database side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from variants.audit import Audit
from variants.database import Database
from variants.key_table import KeyTable
from variants.registry import Registry
from variants.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """An open data folder."""

    root: Path
    store: Store
    database: Database
    registry: Registry
    keys: KeyTable
    audit: Audit


@contextmanager
def open_data_folder(root: Path) -> Iterator[DataFolder]:
    """Open (or create) the store and the database under `root`, and close them after use."""
    database = Database(root / "registry.sqlite3")
    try:
        yield DataFolder(
            root=root,
            store=Store(root),
            database=database,
            registry=Registry(database),
            keys=KeyTable(database),
            audit=Audit(database),
        )
    finally:
        database.close()
