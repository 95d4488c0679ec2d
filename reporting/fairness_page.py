"""A section of the report: is the model as good in every group of patients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from evaluation.fairness import MEASURES
from reporting.formatting import interval, is_number, number
from reporting.tables import Table

LEVEL = 0.05  # below which a p value, after Holm, is called a gap
_SHOWN = {True: ("auc", "tpr", "fpr", "brier", "calibration_slope"), False: ("auc", "balanced_accuracy", "brier")}


@dataclass(frozen=True)
class Fairness:
    """The audit of groups of patients.

    Attributes:
        groups: as `fairness.audit_groups` returns it.
        gaps: as `fairness.gaps_between_groups` returns it.
        smallest_group: subjects of each class that a group needed.
        permutations: random groups that a gap was held against.
        positive: name of class 1; None with more than two classes.
    """

    groups: pd.DataFrame
    gaps: pd.DataFrame
    smallest_group: int
    permutations: int
    positive: str | None


def fairness_section(page: Fairness) -> dict[str, Any]:
    """Return the variables of `fairness.html.j2`."""
    return {"answer": gaps_in_words(page), "groups": _groups(page), "gaps": _gaps(page), "page": page}


def gaps_in_words(page: Fairness) -> list[str]:
    """Say which gaps chance does not explain, or why none can be named."""
    tested = [row for row in page.gaps.to_dict("records") if is_number(row["p_holm"])]
    if not tested:
        return [
            "Whether the model is as good in every group cannot be said: no two groups have "
            f"{page.smallest_group} test patients of each class."
        ]
    found = [row for row in tested if row["p_holm"] < LEVEL]
    if few := too_few_permutations(len(tested), page.permutations):
        return [few]
    if not found:
        least = min(row["p_holm"] for row in tested)
        return [
            f"No gap between groups is larger than chance explains ({len(tested)} tests; the smallest p is "
            f"{least:.2g}, corrected for their number). That is no proof that there is none: the intervals say how "
            "large one may be."
        ]
    return [_gap_in_words(row) for row in sorted(found, key=lambda row: row["p_holm"])]


def too_few_permutations(tests: int, permutations: int) -> str:
    """Say that no gap could be told from chance by so few random groups, and how many are needed; "" if one could."""
    least_of_all = tests / (1 + permutations)  # p after Holm where no random group has as large a gap
    if least_of_all < LEVEL:
        return ""
    enough = math.ceil(2 * tests / LEVEL / 1000) * 1000
    return (
        f"Whether a gap is larger than chance explains cannot be said: with {tests} tests and {permutations:,} random "
        f"groups no p can be below {least_of_all:.2g}, corrected for their number. Type --confounding.permutations "
        f"{enough}."
    )


def _gap_in_words(row: Mapping[str, Any]) -> str:
    return (
        f"{MEASURES[row['measure']]} by {row['grouping']}: {row['highest']} minus {row['lowest']} is {row['gap']:.2f} "
        f"(interval {interval(row['low'], row['high'])}), more than chance explains (p {row['p_holm']:.2g}, corrected "
        "for the number of tests)."
    )


def _groups(page: Fairness) -> Table:
    """Measures of each group."""
    shown = _SHOWN[page.positive is not None]
    headers = ["By", "Group", "Patients", "n"] + ([f"Share of {page.positive}"] if page.positive else [])
    for name in shown:
        headers += [MEASURES[name], "Interval"]
    rows = []
    for row in page.groups.to_dict("records"):
        if row["fewest"] < page.smallest_group and " and " in row["grouping"]:
            continue  # pairs of groups are many, and most of them small
        cells = [str(row["grouping"]), str(row["group"]), f"{int(row['subjects']):,}", f"{int(row['n']):,}"]
        cells += [number(row["prevalence"], missing="–")] if page.positive else []
        if row["fewest"] < page.smallest_group:
            cells += [f"too few: {int(row['fewest'])} of the rarest class", *["–"] * (2 * len(shown) - 1)]
        else:
            for name in shown:
                cells += [number(row[f"{name}_mean"]), interval(row[f"{name}_low"], row[f"{name}_high"])]
        rows.append(tuple(cells))
    return Table(tuple(headers), tuple(rows), numeric=frozenset(range(2, len(headers))))


def _gaps(page: Fairness) -> Table:
    """Gaps between groups; those that chance does not explain are marked."""
    rows, found = [], []
    for i, row in enumerate(page.gaps.to_dict("records")):
        cells = [str(row["grouping"]), MEASURES[row["measure"]], str(row["highest"]), str(row["lowest"])]
        cells += [number(row["gap"]), interval(row["low"], row["high"])]
        cells += [f"{row[name]:.2g}" if is_number(row[name]) else "not tested" for name in ("p", "p_holm")]
        rows.append(tuple(cells))
        found += [i] if is_number(row["p_holm"]) and row["p_holm"] < LEVEL else []
    headers = ("By", "Measure", "Highest in", "Lowest in", "Gap", "Interval", "p", "p after Holm")
    return Table(headers, tuple(rows), numeric=frozenset(range(4, 8)), flagged=frozenset(found))
