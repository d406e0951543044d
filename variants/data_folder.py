"""The folder that build and gateway share: store and registry side by side."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from variants.registry import Registry
from variants.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFolder:
    """An open data folder."""

    root: Path
    store: Store
    registry: Registry


@contextmanager
def open_data_folder(root: Path) -> Iterator[DataFolder]:
    """Open (or create) the store and the registry under `root`, and close them after use."""
    registry = Registry(root / "registry.sqlite3")
    try:
        yield DataFolder(root=root, store=Store(root), registry=registry)
    finally:
        registry.close()
