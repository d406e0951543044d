"""`gearshift variants`: what the data folder holds, without a running gateway."""

import json

from pydantic import TypeAdapter
from rich import box
from rich.console import Console
from rich.table import Table

from app.schemas import VariantOut, variant_fields
from app.settings import Settings
from variants import manifest as manifests
from variants.audit import AuditEntry
from variants.cost import Prices
from variants.data_folder import DataFolder
from variants.profile import host_fingerprint
from variants.registry import VariantRecord

_records: TypeAdapter[VariantRecord] = TypeAdapter(VariantRecord)
_history: TypeAdapter[tuple[AuditEntry, ...]] = TypeAdapter(tuple[AuditEntry, ...])


def list_variants(settings: Settings, *, as_json: bool) -> None:
    """Print every variant of every model."""
    with settings.open_data() as data:
        found = _all(data, settings.prices.prices())
    if as_json:
        print(json.dumps([v.model_dump(mode="json") for v in found], indent=2))
        return
    table = Table(
        title=f"Variants in {settings.data_dir}",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for column in ("model", "variant", "state", "runtime"):
        table.add_column(column, no_wrap=True)
    for column in ("accuracy", "p50 ms", "MiB", "$/million"):
        table.add_column(column, justify="right", no_wrap=True)
    for v in found:
        table.add_row(
            v.model,
            v.variant + (" *" if v.reference else ""),
            v.state,
            v.runtime or "",
            f"{v.accuracy.value:.4f}" if v.accuracy else "unmeasured",
            f"{v.latency_ms[1].p50:.3f}" if v.latency_ms else "",
            f"{v.memory_bytes / 2**20:.1f}" if v.memory_bytes is not None else "",
            f"{v.cost_usd_per_million:.4f}" if v.cost_usd_per_million is not None else "",
        )
    Console().print(table)
    if any(v.reference for v in found):
        print("* the reference, from which accuracy drops are counted")


def show_variant(settings: Settings, model: str, variant: str) -> None:
    """Print one variant's record, history and manifest. Raises `NotFound`."""
    with settings.open_data() as data:
        record = data.registry.variant(model, variant)
        history = data.audit.of(model, variant)
        manifest = None
        if record.manifest_id is not None:
            manifest = json.loads(manifests.dumps(data.store.manifest(record.manifest_id)))
    shown = {
        "record": _records.dump_python(record, mode="json"),
        "history": _history.dump_python(history, mode="json"),
        "manifest": manifest,
    }
    print(json.dumps(shown, indent=2))


def _all(data: DataFolder, prices: Prices) -> list[VariantOut]:
    host = host_fingerprint()
    return [
        VariantOut(
            **variant_fields(
                record,
                data.store.manifest(record.manifest_id) if record.manifest_id else None,
                reference=model.reference == record.name,
                workers=0,
                host=host,
                prices=prices,
            )
        )
        for model in data.registry.models()
        for record in data.registry.variants(model.spec.name)
    ]
