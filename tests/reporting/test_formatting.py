"""Numbers as words."""

from __future__ import annotations

import math

import pytest

from evaluation.metrics import METRICS
from reporting import formatting

NAN = math.nan


def test_every_metric_has_a_label() -> None:
    assert set(formatting.METRIC_LABELS) == set(METRICS)


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.861, 0.034, "0.86 ± 0.03"),
        (0.861, NAN, "0.86"),
        (0.861, None, "0.86"),
        (NAN, NAN, formatting.UNDEFINED),
        (None, None, formatting.UNDEFINED),
    ],
)
def test_spread(mean: float | None, std: float | None, words: str) -> None:
    assert formatting.spread(mean, std) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (NAN, "–"),
        (0.42, "0.4 s"),
        (9.96, "10 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.8, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds(value: float | None, words: str) -> None:
    assert formatting.seconds(value) == words


def say(n_classes: int = 2, rows: int = 36, accuracy: float = NAN, **auc: float) -> str:
    """The verdict on an AUC."""
    metrics = {"auc": auc, "accuracy": {"mean": accuracy, "low": NAN, "high": NAN}}
    said = formatting.verdict(metrics, n_classes=n_classes, rows=rows, subjects=28, repeats=3)
    return said.replace("\N{NO-BREAK SPACE}", " ")


def test_verdict_gives_number_interval_and_counts() -> None:
    expected = "AUC 0.86 (95 % interval 0.74 to 0.95) on 36 test predictions of 28 subjects, 3 repeats."
    assert say(mean=0.86, low=0.74, high=0.95) == expected


def test_verdict_says_when_it_may_be_chance_or_worse() -> None:
    assert "cannot tell the classifier from chance" in say(mean=0.6, low=0.45, high=0.75)
    assert "worse than chance" in say(mean=0.2, low=0.1, high=0.3)


def test_verdict_without_auc_interval_or_predictions() -> None:
    assert say(mean=NAN, accuracy=0.8).startswith(
        "AUC cannot be computed, as the test subjects of a repeat lack a class. Accuracy 0.80"
    )
    assert "no interval" in say(mean=0.86, low=NAN, high=NAN)
    assert say(rows=0).startswith("No test prediction was made")
    assert say(n_classes=3, mean=0.9, low=0.8, high=0.95).startswith("AUC (one class against the rest, averaged) 0.90")
