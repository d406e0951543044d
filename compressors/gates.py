"""Whether a built variant may be published."""

from compressors.plan import GatesTable
from compressors.records import BuildRecord


def refusal(gates: GatesTable, record: BuildRecord, reference: BuildRecord | None) -> str:
    """Why the gates refuse this build, in one sentence; empty where they let it pass.

    Both accuracies are those of the selection split, never the reported ones.
    """
    found = record.selection
    if found is None:
        return "its accuracy on the selection split is not known"
    if gates.min_accuracy is not None and found.value < gates.min_accuracy:
        return (
            f"selection accuracy {found.value:.4f} (n = {found.n}) is below "
            f"min_accuracy = {gates.min_accuracy:g}"
        )
    if gates.max_accuracy_drop_points is None or reference is None or reference.selection is None:
        return ""
    drop = (reference.selection.value - found.value) * 100
    if drop > gates.max_accuracy_drop_points:
        return (
            f"selection accuracy {found.value:.4f} (n = {found.n}) is {drop:.2f} points below the "
            f"reference's {reference.selection.value:.4f}; "
            f"max_accuracy_drop_points = {gates.max_accuracy_drop_points:g}"
        )
    return ""
