"""Structured pruning with fine-tuning by Gearshift and by torch-pruning's own example recipe.

    python -m benchmarks.pruners benchmarks/digits/plan.toml [--epochs 2] [--seeds 5] [--json]

torch-pruning's README prunes half of the channels at once by the L2 norm of their group, widths a
multiple of 8, and fine-tunes. Ours gets the same ratio, widths and number of passes over the data;
both are fine-tuned by the same loop and start from the same trained reference. Accuracy is that of
the test rows; the interval is over seeds of the fine-tuning (Student's t).
"""

import argparse
import copy
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import tables
from compressors import plan as plans
from compressors import source as sources
from compressors import techniques, training
from compressors.bench import Bench
from variants.profile import host_fingerprint

if TYPE_CHECKING:
    from torch import nn

RATIO, ROUND_TO = 0.5, 8
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % points of Student's t with n − 1 degrees of freedom, by n."""


def measure(plan: plans.Plan, epochs: float, seeds: int) -> dict[str, Any]:
    """One row for each recipe."""
    import torch

    source = sources.load(plan)
    assert source.user is not None
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(
            spec=source.spec,
            data=source.data,
            user=source.user,
            train=plan.train,
            seed=plan.seed,
            scratch=Path(scratch),
        )
        torch.manual_seed(plan.seed)
        reference = source.user.call("build_model")
        training.fit(
            reference, bench, epochs=plan.train.epochs, learning_rate=plan.train.learning_rate
        )
        found: dict[str, list[float]] = {}
        weights: dict[str, int] = {}
        for seed in range(seeds):
            for name, prune in {"Gearshift": _ours, "torch-pruning's README": _theirs}.items():
                pruned = prune(reference, epochs, replace(bench, seed=seed))
                found.setdefault(name, []).append(_accuracy(pruned, bench))
                weights[name] = sum(p.numel() for p in pruned.parameters())
    return {
        "model": plan.model.name,
        "host": host_fingerprint(),
        "reference": _accuracy(reference, bench),
        "n": len(source.data.test.labels),
        "rows": [
            {"recipe": name, "weights": weights[name], "accuracies": values}
            for name, values in found.items()
        ],
    }


def _ours(reference: "nn.Module", epochs: float, bench: Bench) -> "nn.Module":
    technique = techniques.find("pruned")
    assert technique.WORKS_ON == "torch"
    config = technique.Config(
        ratio=RATIO,
        round_to=ROUND_TO,
        epochs=epochs,
        learning_rate=bench.train.learning_rate * 0.4,
    )
    return technique.compress(reference, config, bench)


def _theirs(reference: "nn.Module", epochs: float, bench: Bench) -> "nn.Module":
    import torch
    import torch_pruning
    from torch import nn

    model = copy.deepcopy(reference)
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    torch_pruning.pruner.BasePruner(
        model,
        torch.zeros((1, *bench.spec.inputs[0].shape)),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[last],
        round_to=ROUND_TO,
    ).step()
    training.fit(model, bench, epochs=epochs, learning_rate=bench.train.learning_rate * 0.4)
    return model


def _accuracy(model: "nn.Module", bench: Bench) -> float:
    answers = training.logits(model, bench.data.test, bench).argmax(1).numpy()
    return float(np.mean(answers == bench.data.test.labels))


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = []
    for row in result["rows"]:
        values = row["accuracies"]
        half = T_95[len(values)] * statistics.stdev(values) / len(values) ** 0.5
        rows.append(
            [
                row["recipe"],
                f"{row['weights']:,}",
                f"{statistics.mean(values):.2%} ± {half * 100:.2f} points",
                str(len(values)),
            ]
        )
    told = f"\nReference: {result['reference']:.2%} on {result['n']:,} rows.\n"
    return tables.markdown(["recipe", "weights", "accuracy (95 %)", "seeds"], rows) + told


def main() -> None:
    """Measure and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=5, choices=T_95)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    plan = plans.load(arguments.plan)
    result = measure(plan, arguments.epochs, arguments.seeds)
    tables.keep(f"pruners-{plan.model.name}", result)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


if __name__ == "__main__":
    main()
