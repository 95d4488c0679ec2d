"""The audit of groups of patients beyond HyperMM's scores: its sets, scans, a comparator, what is imputed or drawn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from reporting.fairness_page import LEVEL, Fairness, fairness_section, too_few_permutations
from reporting.formatting import interval, is_number, number
from reporting.tables import Table


@dataclasses.dataclass(frozen=True)
class FairnessOfOthers:
    """What the stage confounding found for others, by the groups of the report.

    Attributes:
        groups: as `fairness.audit_groups` returns it, with `of`.
        gaps: as `fairness.gaps_between_groups` returns it, with `of`.
        groups_imputed: as `group_means.audit_means` returns it, with `modality`.
        gaps_imputed: as `group_means.gaps_of_means` returns it, with `modality` and `p_holm`.
        shares: of groups among training and synthetic patients.
        groups_sets: as `groups_imputed`, with `measure`: conformal sets of HyperMM, and who has which scans.
        gaps_sets: as `gaps_imputed`, with `measure`.
        comparator: its name, "" for none; AUC on validation of all that were compared; why others were not.
    """

    groups: pd.DataFrame
    gaps: pd.DataFrame
    groups_imputed: pd.DataFrame
    gaps_imputed: pd.DataFrame
    shares: pd.DataFrame
    groups_sets: pd.DataFrame
    gaps_sets: pd.DataFrame
    comparator: Mapping[str, Any]


def others_section(others: FairnessOfOthers, page: Fairness) -> dict[str, Any]:
    """Return the variables of `fairness_others.html.j2`; `page` is that of HyperMM."""
    named = [str(name) for name in dict.fromkeys(others.groups["of"]) if name]
    classifiers = []
    for name in named:
        own = dataclasses.replace(
            page,
            groups=others.groups[others.groups["of"] == name].drop(columns="of").reset_index(drop=True),
            gaps=others.gaps[others.gaps["of"] == name].drop(columns="of").reset_index(drop=True),
        )
        classifiers.append({"name": name, "how": _how(name, others.comparator), **fairness_section(own)})
    return {
        "classifiers": classifiers,
        "sets": _means(others.groups_sets, "measure", ("What", "Share")),
        "sets_answer": sets_in_words(others.gaps_sets, page),
        "imputed": _means(others.groups_imputed, "modality", ("Modality", "CRPS")),
        "imputed_answer": imputed_in_words(others.gaps_imputed, page),
        "shares": _shares(others.shares) if len(others.shares) else None,
    }


def _how(name: str, comparator: Mapping[str, Any]) -> str:
    """Say how the comparator was chosen."""
    if name != comparator["name"]:
        return "Tested on real patients of validation and test, decided at a probability of one half."
    score = f"AUC {comparator['validation'][name]:.2f}"
    words = f"Chosen among {len(comparator['validation'])} comparators by its {score} on validation patients"
    left = "; ".join(f"{other}: {why}" for other, why in comparator["left_out"].items())
    without = comparator.get("not_predicted", 0)
    left = f" Not among them: {left}." if left else ""
    return f"{words}.{left}" + (
        f" Test predictions that it could not make, left out here: {without}." if without else ""
    )


def sets_in_words(gaps: pd.DataFrame, page: Fairness) -> list[str]:
    """Say in which groups conformal sets or scans differ by more than chance explains, or that this cannot be said."""
    return _in_words(
        gaps,
        page,
        "Whether every group gets as much cannot be said: no two groups have {smallest} test patients.",
        "Every group gets as much, as far as chance lets one see",
        lambda row: (
            f"By {row['grouping']}, {row['measure']}: {row['highest']} minus {row['lowest']} is {row['gap']:.2f}"
        ),
    )


def imputed_in_words(gaps: pd.DataFrame, page: Fairness) -> list[str]:
    """Say in which groups scans are imputed worse than chance explains, or that this cannot be said."""
    return _in_words(
        gaps,
        page,
        "Whether scans are imputed as well in every group cannot be said: no two groups have {smallest} test patients "
        "whose scan could be hidden and imputed.",
        "Scans are imputed as well in every group, as far as chance lets one see",
        lambda row: (
            f"{row['modality']} is imputed worse by {row['grouping']}: CRPS of {row['highest']} minus {row['lowest']} "
            f"is {row['gap']:.3g}"
        ),
    )


def _in_words(
    gaps: pd.DataFrame, page: Fairness, untested: str, alike: str, found_in: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    """Say which gaps chance does not explain.

    Args:
        gaps: as in `FairnessOfOthers`.
        page: of HyperMM; `smallest_group` and `permutations` are those of all tests.
        untested: the sentence where no gap could be tested; `{smallest}` is the size of a group.
        alike: how the sentence begins where no gap is larger than chance.
        found_in: how the sentence on one gap begins.
    """
    tested = [row for row in gaps.to_dict("records") if is_number(row["p_holm"])]
    if not tested:
        return [untested.format(smallest=page.smallest_group)]
    if few := too_few_permutations(len(tested), page.permutations):
        return [few]
    found = sorted((row for row in tested if row["p_holm"] < LEVEL), key=lambda row: row["p_holm"])
    if not found:
        least = min(row["p_holm"] for row in tested)
        return [f"{alike} ({len(tested)} tests; the smallest p is {least:.2g}, corrected for their number)."]
    return [
        f"{found_in(row)} (interval {interval(row['low'], row['high'])}), more than chance explains "
        f"(p {row['p_holm']:.2g}, corrected for the number of tests)."
        for row in found
    ]


def _means(groups: pd.DataFrame, column: str, headers: tuple[str, str]) -> Table | None:
    """Means of groups, one row a figure and group; `headers` are those of the figure's name and of the mean."""
    if groups.empty:
        return None
    rows = []
    for row in groups.to_dict("records"):
        cells = [str(row[column]), str(row["grouping"]), str(row["group"]), f"{int(row['subjects']):,}"]
        few = not is_number(row["mean"])
        cells += ["too few", "–"] if few else [number(row["mean"]), interval(row["low"], row["high"])]
        rows.append(tuple(cells))
    names = (headers[0], "By", "Group", "Patients", headers[1], "Interval")
    return Table(names, tuple(rows), numeric=frozenset(range(3, 6)))


def _shares(shares: pd.DataFrame) -> Table:
    """Share of each group among training and synthetic patients."""
    rows = [
        (
            str(row["grouping"]), str(row["group"]), f"{int(row['training']):,}", number(row["share_training"]),
            f"{int(row['synthetic']):,}", number(row["share_synthetic"]),
        )
        for row in shares.to_dict("records")
    ]  # fmt: skip
    headers = ("By", "Group", "Training patients", "Share", "Synthetic patients", "Share")
    return Table(headers, tuple(rows), numeric=frozenset(range(2, 6)))
