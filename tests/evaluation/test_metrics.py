"""Metrics against scikit-learn, on data with ties and weights."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as oracle

from evaluation.metrics import METRICS, best_threshold, decide, score, score_draws


def random_rows(n_classes: int, seed: int, n: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, probabilities with many ties, and weights of which some are zero."""
    generator = np.random.default_rng(seed)
    truth = np.append(np.arange(n_classes), generator.integers(0, n_classes, n - n_classes))
    probabilities = np.round(generator.dirichlet(np.ones(n_classes), n) + 0.3 * np.eye(n_classes)[truth], 1)
    weights = generator.integers(0, 4, n) * generator.choice([0.5, 1.0], n)
    weights[:n_classes] = 1.0
    return truth, probabilities / probabilities.sum(axis=1, keepdims=True), weights


def expected(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, threshold: float) -> dict[str, float]:
    """The same metrics from scikit-learn."""
    n_classes = probabilities.shape[1]
    one_hot = np.eye(n_classes)[truth]
    if n_classes == 2:
        decided = (probabilities[:, 1] >= threshold).astype(int)
        average: dict[str, Any] = {"average": "binary"}
        columns = [1]
        brier = oracle.brier_score_loss(truth, probabilities[:, 1], sample_weight=weights)
    else:
        decided = probabilities.argmax(axis=1)
        average = {"average": "macro"}
        columns = list(range(n_classes))
        brier = float(np.average(((probabilities - one_hot) ** 2).sum(axis=1), weights=weights))
    rounded = np.eye(n_classes)[decided]
    options: dict[str, Any] = {"sample_weight": weights, "zero_division": 0, **average}
    return {
        "accuracy": oracle.accuracy_score(truth, decided, sample_weight=weights),
        "balanced_accuracy": oracle.balanced_accuracy_score(truth, decided, sample_weight=weights),
        "auc": np.mean(
            [oracle.roc_auc_score(one_hot[:, k], probabilities[:, k], sample_weight=weights) for k in columns]
        ),
        "auc_rounded": np.mean(
            [oracle.roc_auc_score(one_hot[:, k], rounded[:, k], sample_weight=weights) for k in columns]
        ),
        "f1": oracle.f1_score(truth, decided, **options),
        "precision": oracle.precision_score(truth, decided, **options),
        "recall": oracle.recall_score(truth, decided, **options),
        "brier": brier,
    }


@pytest.mark.parametrize("n_classes", [2, 3, 5])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("weighted", [False, True])
def test_every_metric_equals_scikit_learn(n_classes: int, seed: int, weighted: bool) -> None:
    truth, probabilities, weights = random_rows(n_classes, seed)
    weights = weights if weighted else np.ones(len(truth))
    threshold = [0.5, 0.3, 0.61][seed % 3]
    found = score(truth, probabilities, threshold=threshold, weights=weights if weighted else None)
    assert tuple(found) == tuple(METRICS)
    for name, value in expected(truth, probabilities, weights, threshold).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("n_classes", [2, 4])
def test_a_matrix_of_weights_gives_what_its_lines_give(n_classes: int) -> None:
    truth, probabilities, _ = random_rows(n_classes, seed=3)
    weights = np.random.default_rng(1).integers(0, 3, (25, len(truth))).astype(float)
    together = score_draws(truth, probabilities, weights, threshold=0.4)
    for line, row in enumerate(weights):
        for name, value in score(truth, probabilities, threshold=0.4, weights=row).items():
            np.testing.assert_allclose(together[name][line], value, rtol=1e-12)


def test_whole_weights_are_repeated_rows() -> None:
    truth, probabilities, _ = random_rows(3, seed=8)
    counts = np.random.default_rng(2).integers(1, 4, len(truth))
    repeated = score(np.repeat(truth, counts), np.repeat(probabilities, counts, axis=0))
    assert score(truth, probabilities, weights=counts) == pytest.approx(repeated)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.77])
def test_auc_of_rounded_scores_is_balanced_accuracy_for_two_classes(threshold: float) -> None:
    found = score(*random_rows(2, seed=11)[:2], threshold=threshold)
    assert found["auc_rounded"] == pytest.approx(found["balanced_accuracy"])
    assert found["auc"] != pytest.approx(found["auc_rounded"])


def test_one_class_only_gives_nan_and_no_warning() -> None:
    probabilities = [[0.8, 0.2], [0.3, 0.7]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negatives, positives = score([0, 0], probabilities), score([1, 1], probabilities)
    for name in ("auc", "auc_rounded", "balanced_accuracy"):
        assert np.isnan(negatives[name])
        assert np.isnan(positives[name])
    assert np.isnan(negatives["recall"])
    assert np.isnan(negatives["f1"])
    assert negatives["precision"] == 0.0  # one positive decision, and it is wrong
    assert positives["recall"] == 0.5
    assert positives["precision"] == 1.0
    assert negatives["accuracy"] == 0.5


def test_no_positive_decision_has_precision_zero() -> None:
    found = score([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    assert (found["precision"], found["recall"], found["f1"], found["auc"]) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("rows", [0, 3])
def test_no_rows_or_no_weight_gives_nan_everywhere(rows: int) -> None:
    found = score(np.zeros(rows, dtype=int), np.full((rows, 2), 0.5), weights=np.zeros(rows))
    assert all(np.isnan(value) for value in found.values())


@pytest.mark.parametrize(
    ("truth", "probabilities", "weights", "message"),
    [
        ([0, 1], [[0.5, 0.5]], None, r"found \(2,\), \(1, 2\)"),
        ([0, 2], [[0.5, 0.5]] * 2, None, r"truth holds \[0, 2\]; expected integers from 0 to 1"),
        ([0.0, 1.0], [[0.5, 0.5]] * 2, None, "expected integers"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], None, "row 1: probabilities"),
        ([0, 1], [[0.5, 0.5], [-2.0, 3.0]], None, "expected values from 0 to 1"),
        ([0, 0], [[1.0], [1.0]], None, "two at least"),
        ([0, 1], [[0.5, 0.5]] * 2, [1, -1], "negative"),
        ([0, 1], [[0.5, 0.5]] * 2, [1, 1, 1], r"expected weights \(B, n\) with n = 2"),
        ([0, 1], [[0.5, 0.5]] * 2, [[1, 1]], "call score_draws"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_words(truth: Any, probabilities: Any, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(truth, probabilities, weights=weights)


def test_two_thousand_draws_of_three_hundred_rows_are_quick() -> None:
    truth, probabilities, _ = random_rows(2, seed=0, n=300)
    weights = np.random.default_rng(0).multinomial(300, np.full(300, 1 / 300), size=2000)
    start = time.perf_counter()
    score_draws(truth, probabilities, weights)
    assert time.perf_counter() - start < 2.0  # 0.05 s alone on one core; the machine may be shared


@pytest.mark.parametrize("seed", range(8))
def test_best_threshold_beats_every_other_threshold(seed: int) -> None:
    truth, probabilities, _ = random_rows(2, seed, n=40)
    threshold, reason = best_threshold(truth, probabilities[:, 1])
    assert reason == ""
    best = score(truth, probabilities, threshold=threshold)["balanced_accuracy"]
    others = {t: score(truth, probabilities, threshold=t)["balanced_accuracy"] for t in np.linspace(0, 1, 401)}
    assert best >= max(others.values()) - 1e-12
    equal = [abs(t - 0.5) for t, value in others.items() if np.isclose(value, best)]
    assert abs(threshold - 0.5) <= min(equal) + 0.1  # scores are a tenth apart or less, thresholds halfway between


def test_best_threshold_is_halfway_between_the_scores() -> None:
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9]) == (0.25, "")
    assert best_threshold([0, 1], [0.1, 0.9]) == (0.5, "")


@pytest.mark.parametrize(("truth", "words"), [([], "no validation prediction"), ([1, 1], "of class 1")])
def test_best_threshold_says_why_it_is_the_default(truth: list[int], words: str) -> None:
    threshold, reason = best_threshold(truth, [0.3] * len(truth))
    assert threshold == 0.5
    assert words in reason


def test_decisions() -> None:
    assert decide([[0.5, 0.5], [0.6, 0.4]]).tolist() == [1, 0]
    assert decide([[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]], threshold=0.9).tolist() == [2, 0]
