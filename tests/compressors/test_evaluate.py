"""Numbers beyond accuracy, against published examples and against chance itself."""

import math

import numpy as np
import pytest

from compressors import evaluate
from compressors.proportions import mcnemar_p, paired_difference, wilson
from compressors.scores import Scores
from variants.errors import Invalid
from variants.profile import Accuracy


def scores(answers: list[int], labels: list[int], classes: int = 3) -> Scores:
    values = np.eye(classes, dtype=np.float32)[answers]
    return Scores(values=values, labels=np.array(labels, np.int64))


def test_wilson_is_the_interval_of_accuracy() -> None:
    found, known = wilson(90, 100), Accuracy.of(90, 100)
    assert (found.value, found.low, found.high) == pytest.approx(
        (known.value, known.low, known.high)
    )


def test_the_paired_interval_gives_the_published_example() -> None:
    # Newcombe (1998), table II, method 10: 36, 12, 2 and 0 rows.
    found = paired_difference(36, 12, 2, 0)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=1e-4)


def test_the_paired_interval_covers_the_truth_nineteen_times_in_twenty() -> None:
    random = np.random.default_rng(1)
    shares = (0.85, 0.04, 0.06, 0.05)
    tables = random.multinomial(1000, shares, size=2000)
    intervals = [paired_difference(*map(int, table)) for table in tables]
    covered = np.mean([i.low <= shares[1] - shares[2] <= i.high for i in intervals])
    assert 0.935 <= covered <= 0.97


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 2 / 32), (2, 12, 2 * (1 + 14 + 91) / 2**14)],
)
def test_mcnemar_is_the_two_sided_binomial_test(gained: int, lost: int, p: float) -> None:
    assert math.isclose(mcnemar_p(gained, lost), p)
    assert mcnemar_p(gained, lost) == mcnemar_p(lost, gained)


def test_mcnemar_takes_many_rows() -> None:
    assert 0.02 < mcnemar_p(900, 1000) < 0.025
    assert mcnemar_p(10_000, 12_000) < 1e-30


def test_agreement_counts_flips_and_what_they_cost() -> None:
    labels = [0, 0, 1, 1, 2, 2, 0, 1]
    reference = scores([0, 0, 1, 1, 2, 0, 1, 2], labels)
    variant = scores([0, 1, 1, 1, 2, 2, 2, 2], labels)
    found = evaluate.agreement(variant, reference, "fp32")
    assert (found.reference, found.n) == ("fp32", 8)
    assert found.flips.value == 3 / 8, "one lost, one gained, one wrong in another way"
    assert (found.right_to_wrong, found.wrong_to_right) == (1, 1)
    assert found.difference.value == 0
    assert found.mcnemar_p == 1


def test_the_reference_agrees_with_itself() -> None:
    labels = list(range(3)) * 100
    one = scores(labels, labels)
    found = evaluate.agreement(one, one, "fp32")
    assert (found.flips.value, found.difference.value, found.mcnemar_p) == (0, 0, 1)
    assert found.difference.low <= 0 <= found.difference.high


def test_the_worst_class_is_named_where_it_has_a_name() -> None:
    one = scores([0, 0, 1, 0, 2, 2], [0, 0, 1, 1, 2, 2])
    assert evaluate.worst_class(one, ["a", "b", "c"]).label == "b"
    assert evaluate.worst_class(one, []).label == "1"
    assert evaluate.worst_class(one, []).accuracy == Accuracy.of(1, 2)


def test_the_calibration_error_is_small_for_honest_scores_and_large_for_boastful_ones() -> None:
    random = np.random.default_rng(2)
    values = random.normal(scale=2, size=(20_000, 4)).astype(np.float32)
    chances = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    honest = Scores(values=values, labels=labels)
    assert evaluate.calibration_error(honest) < 0.02
    assert evaluate.calibration_error(Scores(values=values * 5, labels=labels)) > 0.15


def test_the_calibration_error_of_one_bin_is_the_gap_itself() -> None:
    # Confidence e / (e + 2) = 0.576 on each row, half of them right.
    one = scores([0, 0], [0, 1])
    assert evaluate.calibration_error(one) == pytest.approx(math.e / (math.e + 2) - 0.5, abs=1e-6)


def test_confusion_counts_answers_of_the_reference_against_the_variants() -> None:
    labels = [0, 0, 1, 2]
    reference, variant = scores([0, 0, 1, 2], labels), scores([0, 1, 1, 0], labels)
    assert evaluate.confusion(variant, reference).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_drift_beyond_the_limit_fails_and_says_by_how_much() -> None:
    module = np.random.default_rng(3).normal(size=(100, 5)).astype(np.float32)
    found = evaluate.drift(module + 1e-4, module, held=True)
    assert found.rows == 100 and found.same_answer_ratio == 1.0
    assert found.max_abs_difference == pytest.approx(1e-4, rel=0.01)
    assert found.limit is not None and found.max_abs_difference < found.limit
    with pytest.raises(evaluate.Drifted, match="drifts from the torch module"):
        evaluate.drift(module[:, ::-1], module, held=True)
    assert evaluate.drift(module[:, ::-1], module, held=False).limit is None


def test_scores_without_their_labels_are_refused() -> None:
    with pytest.raises(Invalid, match="do not belong"):
        Scores(values=np.zeros((3, 2), np.float32), labels=np.zeros(2, np.int64))


def test_other_rows_than_the_references_are_not_paired() -> None:
    one, other = scores([0, 1, 2], [0, 1, 2]), scores([0, 1, 2], [0, 1, 1])
    found = evaluate.evaluation(one, ["a", "b", "c"], reference="fp32", reference_test=other)
    assert found.agreement is None
