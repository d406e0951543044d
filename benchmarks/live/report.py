"""The tables of the live runs."""

from typing import Any

from benchmarks.tables import markdown


def table(result: dict[str, Any]) -> str:
    """Policies live and simulated, by trace."""
    rows = [
        [
            f"{row['trace']}, `{row['policy']}`",
            f"{row['rho']:g}",
            f"{100 * row['attainment']:.1f}",
            f"{100 * row['simulated_attainment']:.1f}",
            f"{row['effective_accuracy']:.4f}",
            f"{row['simulated_effective_accuracy']:.4f}",
            f"{row['right_in_time']:.4f}",
            str(row["floor_violations"]),
        ]
        for row in result["rows"]
    ]
    head = [
        "trace, policy",
        "load",
        "attainment live, %",
        "simulated, %",
        "effective accuracy live",
        "simulated",
        "right and in time",
        "floors broken",
    ]
    told = (
        f"Largest difference between live and simulated attainment: {result['largest_gap']:.1f} "
        f"points; the order of policies by effective accuracy agrees in {result['same_order']} of "
        f"{result['orders']} series.\n"
    )
    return markdown(head, rows) + "\n" + told
