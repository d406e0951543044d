"""What a variant's scores say beyond accuracy: reference, classes, confidence, drift.

Pure: scores in, numbers out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compressors.proportions import mcnemar_p, paired_difference, wilson
from compressors.scores import Scores
from variants.errors import GearshiftError
from variants.evidence import Agreement, Drift, Evaluation, WorstClass
from variants.profile import Accuracy

CALIBRATION_BINS = 15
DRIFT_ROWS = 256
DRIFT_LIMIT_RATIO = 0.05
"""Largest difference of a score that an export may make, as a share of the largest score."""
DRIFT_SAME_ANSWERS = 0.98
"""Share of rows on which an export must give the torch module's answer."""


class Drifted(GearshiftError):
    """The exported artifact does not give the torch module's answers."""


def evaluation(
    test: Scores,
    labels: Sequence[str],
    *,
    reference: str = "",
    reference_test: Scores | None = None,
    drift: Drift | None = None,
) -> Evaluation:
    """Everything that the test split says, paired with the reference where its scores are given."""
    return Evaluation(
        calibration_error=calibration_error(test),
        worst_class=worst_class(test, labels),
        agreement=None
        if reference_test is None or not test.same_rows(reference_test)
        else agreement(test, reference_test, reference),
        drift=drift,
    )


def agreement(variant: Scores, reference: Scores, name: str) -> Agreement:
    """How the variant's answers differ from those of the reference called `name`."""
    ours, theirs = variant.right, reference.right
    gained, lost = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    return Agreement(
        reference=name,
        n=len(ours),
        flips=wilson(int((variant.answers != reference.answers).sum()), len(ours)),
        right_to_wrong=lost,
        wrong_to_right=gained,
        difference=paired_difference(
            int((ours & theirs).sum()), gained, lost, int((~ours & ~theirs).sum())
        ),
        mcnemar_p=mcnemar_p(gained, lost),
    )


def worst_class(scores: Scores, labels: Sequence[str]) -> WorstClass:
    """The class with the smallest share of right answers; its number where it has no label."""
    shares = {
        int(number): Accuracy.of(int(scores.right[rows].sum()), int(rows.sum()))
        for number in np.unique(scores.labels)
        if (rows := scores.labels == number).any()
    }
    worst = min(shares, key=lambda number: shares[number].value)
    label = labels[worst] if worst < len(labels) else str(worst)
    return WorstClass(label=label, accuracy=shares[worst])


def calibration_error(scores: Scores) -> float:
    """Expected calibration error over bins of equal width.

    Σ |accuracy − mean confidence| × share of rows, over the bins. Source: C. Guo et al., "On
    calibration of modern neural networks" (2017), eq. 3.
    """
    confidence = scores.confidence
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    bins = np.digitize(confidence, edges, right=True)
    gaps = np.bincount(bins, weights=scores.right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def confusion(variant: Scores, reference: Scores) -> NDArray[np.int64]:
    """Rows by the reference's answer (first axis) and the variant's (second), `[classes]²`."""
    classes = variant.values.shape[1]
    pairs = reference.answers * classes + variant.answers
    counts = np.bincount(pairs, minlength=classes * classes)
    return counts.reshape(classes, classes)


def drift(served: NDArray[np.float32], module: NDArray[np.float32], *, held: bool) -> Drift:
    """How far the served scores are from the torch module's, both `[rows, classes]`.

    Where `held`, raises `Drifted` beyond `DRIFT_LIMIT_RATIO` of the module's largest score, or
    where fewer than `DRIFT_SAME_ANSWERS` of the answers are the same.
    """
    largest = float(np.abs(served - module).max())
    limit = DRIFT_LIMIT_RATIO * float(np.abs(module).max())
    same = float((served.argmax(axis=1) == module.argmax(axis=1)).mean())
    if held and not (largest <= limit and same >= DRIFT_SAME_ANSWERS):
        raise Drifted(
            f"the exported file drifts from the torch module: scores differ by up to {largest:.3g} "
            f"(limit {limit:.3g}) and {same:.1%} of the answers on {len(module)} selection rows "
            f"are the same (at least {DRIFT_SAME_ANSWERS:.0%} needed)"
        )
    return Drift(
        rows=len(module),
        max_abs_difference=largest,
        same_answer_ratio=same,
        limit=limit if held else None,
    )
