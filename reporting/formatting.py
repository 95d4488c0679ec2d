"""Formatting of numbers: how the report writes a value, a spread, an interval and its one-sentence verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from evaluation.intervals import LEVEL
from evaluation.metrics import METRICS

_SHOWN_FIRST = ("auc", "balanced_accuracy", "accuracy", "f1", "precision", "recall")
METRIC_LABELS: dict[str, str] = {name: METRICS[name] for name in dict.fromkeys((*_SHOWN_FIRST, *METRICS))}
"""Label of each metric, in the order of the tables."""

UNDEFINED = "n/a (one class only)"


def is_number(value: Any) -> bool:
    """Tell whether a value is a finite number; None and NaN, as they come back from JSON, are not."""
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any, digits: int = 2, *, missing: str = "n/a") -> str:
    """Write a number with a fixed count of digits, or say that there is none."""
    return f"{value:.{digits}f}" if is_number(value) else missing


def spread(mean: Any, std: Any, digits: int = 2, *, missing: str = UNDEFINED) -> str:
    """Write `mean ± std`; the mean alone where a single repeat has no standard deviation."""
    if not is_number(mean):
        return missing
    return f"{mean:.{digits}f} ± {std:.{digits}f}" if is_number(std) else f"{mean:.{digits}f}"


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """Write an interval as `0.74 to 0.95`."""
    return f"{low:.{digits}f} to {high:.{digits}f}" if is_number(low) and is_number(high) else "n/a"


def count(amount: int, noun: str) -> str:
    """Write `1 subject`, `28 subjects`, `1,204 scans`."""
    return f"{amount:,} {noun}" if amount == 1 else f"{amount:,} {noun}s"


def seconds(value: Any) -> str:
    """Write a duration given in seconds as `0.4 s`, `12 s`, `3 min 05 s` or `2 h 10 min`."""
    if not is_number(value):
        return "–"
    if value < 59.5:
        return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def percent(share: float) -> str:
    """Write a share as `95 %`, the space one that does not break."""
    return f"{100 * share:g}\N{NO-BREAK SPACE}%"


def verdict(metrics: Mapping[str, Mapping[str, Any]], *, n_classes: int, rows: int, subjects: int, repeats: int) -> str:
    """Say in one or two sentences what the test predictions are worth.

    Args:
        metrics: metric name → summary with `mean`, `low`, `high`, at threshold 0.5.
        n_classes: K; with more than two the AUC is a macro average.
        rows: number of test predictions over all repeats.
        subjects: number of different subjects they are of.
        repeats: number of repeats.
    """
    if rows == 0:
        return "No test prediction was made, so there is nothing to score."
    over = f"on {count(rows, 'test prediction')} of {count(subjects, 'subject')}, {count(repeats, 'repeat')}"
    auc = metrics.get("auc", {})
    if not is_number(auc.get("mean")):
        accuracy = metrics.get("accuracy", {})
        reason = "AUC cannot be computed, as the test subjects of a repeat lack a class."
        return f"{reason} Accuracy {_with_interval(accuracy)} {over}."
    name = "AUC" if n_classes == 2 else "AUC (one class against the rest, averaged)"
    sentence = f"{name} {_with_interval(auc)} {over}."
    if not is_number(auc.get("low")):
        return sentence
    if auc["low"] <= 0.5 <= auc["high"]:
        return f"{sentence} The interval includes 0.5: these data cannot tell the classifier from chance."
    if auc["high"] < 0.5:
        return f"{sentence} That is worse than chance: check that labels and class order are right."
    return sentence


def _with_interval(summary: Mapping[str, Any]) -> str:
    """Write `0.86 (95 % interval 0.74 to 0.95)`."""
    if not is_number(summary.get("low")):
        return f"{number(summary.get('mean'))} (no interval: too few test patients)"
    return f"{number(summary['mean'])} ({percent(LEVEL)} interval {interval(summary['low'], summary['high'])})"
