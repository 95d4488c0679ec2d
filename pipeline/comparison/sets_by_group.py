"""What the patients of a group get: conformal sets that hold their class, one class and not several, scans.

A conformal set promises its rate for all patients together, not for women, nor for a site; here it is looked at by
group. The set of a test patient is made from the other test patients of the repeat.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from evaluation.conformal import leave_one_out_sets, too_few_subjects
from evaluation.intervals import probability_columns
from pipeline.comparison.by_group import means_by_group

ERROR_RATE = 0.1
HOLDS, ANSWERED = "conformal set holds the class", "conformal set is one class"
HAS = "has "


def sets_by_group(
    test: pd.DataFrame,
    scans: pd.DataFrame,
    groups: Mapping[str, pd.Series],
    *,
    smallest: int,
    permutations: int,
    seed: int,
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Return `groups_sets.csv` and `gaps_sets.csv`, and notes on what could not be said.

    Their `measure` is `HOLDS`, `ANSWERED`, and `HAS` with each modality that some of the patients lack.

    Args:
        test: test predictions of all repeats.
        scans: those of the cohort that were used for them: `observation`, `modality`.
        groups: grouping → subject → group. That by which scans there are, `scans`, is not asked who has a modality.
        smallest: patients of a group.
        permutations: random groups.
        seed: of them.
    """
    found, note = _in_sets(test)
    parts = [(name, found.assign(value=found[name]), groups) for name in (HOLDS, ANSWERED)] if not note else []
    owned = pd.crosstab(scans["observation"], scans["modality"]) > 0
    others = {name: group_of for name, group_of in groups.items() if name != "scans"}
    for modality in owned.columns[~owned.all()]:
        parts.append(
            (f"{HAS}{modality}", test.assign(value=test["observation"].map(owned[modality]).astype(float)), others)
        )
    made = means_by_group(parts, "measure", smallest=smallest, permutations=permutations, seed=seed, shares=True)
    return dict(zip(("groups_sets.csv", "gaps_sets.csv"), made, strict=True)), [note] if note else []


def _in_sets(test: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the predictions with `HOLDS` and `ANSWERED`, 0 or 1; or why there are no sets."""
    made = []
    for repeat, rows in test.groupby("repeat"):
        truth = rows["truth"].to_numpy()
        inside = leave_one_out_sets(rows[probability_columns(rows)], truth, list(rows["subject"]), ERROR_RATE)
        if inside is None:
            why = too_few_subjects(rows["subject"].nunique() - 1, ERROR_RATE)
            return test, f"repeat {repeat}, conformal sets by group: {why}"
        holds = inside[np.arange(len(rows)), truth]
        made.append(rows.assign(**{HOLDS: holds.astype(float), ANSWERED: (inside.sum(axis=1) == 1).astype(float)}))
    return pd.concat(made), ""
