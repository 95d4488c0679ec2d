"""Conformal sets and scans by group: exact shares on made-up predictions, and what cannot be said."""

import numpy as np
import pandas as pd
import pytest

from pipeline.comparison.sets_by_group import ANSWERED, HOLDS, sets_by_group

PEOPLE = [f"p{i:03d}" for i in range(120)]
NUMBER = np.arange(120)
WOMEN = NUMBER % 4 < 2
TRUTH = NUMBER % 2
SEX = pd.Series(np.where(WOMEN, "F", "M"), index=PEOPLE)


def predictions(right: np.ndarray, *, repeats: int = 1) -> pd.DataFrame:
    """Probability of the true class, one a patient, in every repeat."""
    p_1 = np.where(TRUTH == 1, right, 1 - right)
    table = pd.DataFrame({"subject": PEOPLE, "observation": PEOPLE, "truth": TRUTH, "p_0": 1 - p_1, "p_1": p_1})
    return pd.concat([table.assign(repeat=repeat) for repeat in range(1, repeats + 1)], ignore_index=True)


def scans(lack_pet: np.ndarray) -> pd.DataFrame:
    rows = [(name, "MRI") for name in PEOPLE] + [
        (name, "PET") for name, lacks in zip(PEOPLE, lack_pet, strict=True) if not lacks
    ]
    return pd.DataFrame(rows, columns=["observation", "modality"])


def found(test: pd.DataFrame, used: pd.DataFrame, **by: pd.Series) -> tuple[dict[str, pd.DataFrame], list[str]]:
    tables, notes = sets_by_group(test, used, by or {"sex": SEX}, smallest=10, permutations=500, seed=0)
    return {name: table.set_index("measure") for name, table in tables.items()}, notes


@pytest.mark.parametrize("repeats", [1, 3])
def test_coverage_by_group_is_that_of_sets_made_from_all_others(repeats: int) -> None:
    """One in ten is told wrongly, surely; all of these are women, so that a fifth of the women are not covered."""
    wrong = WOMEN & (NUMBER % 20 < 2) | WOMEN & (NUMBER % 20 >= 16) & (NUMBER % 20 < 18) & (NUMBER % 40 < 20)
    right = np.where(wrong, 0.05, 0.9) + NUMBER * 1e-4 * np.where(wrong, -1, 1)
    tables, notes = found(predictions(right, repeats=repeats), scans(np.zeros(120, bool)))
    assert notes == []
    shares = tables["groups_sets.csv"].loc[HOLDS].set_index("group")
    others = np.sort(1 - right)
    covered = [1 - r <= np.delete(others, np.searchsorted(others, 1 - r))[int(np.ceil(120 * 0.9)) - 1] for r in right]
    covered = np.array(covered) | (right > 0.5)
    for group, members in (("F", WOMEN), ("M", ~WOMEN)):
        assert shares.loc[group, "mean"] == pytest.approx(covered[members].mean())
        assert shares.loc[group, "subjects"] == 60
    gap = tables["gaps_sets.csv"].loc[HOLDS]
    assert (gap["highest"], gap["lowest"]) == ("M", "F")
    assert gap["p"] < 0.01 <= 0.2 * gap["gap"]
    assert set(tables["groups_sets.csv"].index) == {HOLDS, ANSWERED}  # everybody has both scans


def test_a_set_of_both_classes_is_no_answer() -> None:
    """Half of the women are told wrongly, by a hair: the sets of all patients are so wide that theirs are of both."""
    tables, _ = found(predictions(np.where(WOMEN & (NUMBER % 8 < 4), 0.45, 0.9)), scans(np.zeros(120, bool)))
    shares = tables["groups_sets.csv"].set_index("group", append=True)["mean"]
    assert shares.to_dict() == {(HOLDS, "F"): 1, (HOLDS, "M"): 1, (ANSWERED, "F"): 0.5, (ANSWERED, "M"): 1}


def test_who_lacks_a_modality_is_told_by_group_but_not_by_which_scans_there_are() -> None:
    lacks = WOMEN & (NUMBER % 3 > 0)
    pattern = pd.Series(np.where(lacks, "MRI", "MRI+PET"), index=PEOPLE)
    right = 0.5 + 0.4 * np.random.default_rng(0).random(120)
    tables, _ = found(predictions(right), scans(lacks), sex=SEX, scans=pattern)
    has = tables["groups_sets.csv"].loc[["has PET"]]
    assert set(has["grouping"]) == {"sex"}
    assert has.set_index("group")["mean"].to_dict() == pytest.approx({"F": 1 - lacks[WOMEN].mean(), "M": 1.0})
    assert "has MRI" not in tables["groups_sets.csv"].index
    gaps = tables["gaps_sets.csv"]
    assert gaps.loc["has PET", "p"] == pytest.approx(1 / 501)
    assert gaps.loc["has PET", "p_holm"] == pytest.approx(len(gaps) / 501)
    assert set(tables["groups_sets.csv"].loc[ANSWERED, "grouping"]) == {"sex", "scans"}


def test_too_few_patients_for_a_set_are_a_note_and_no_figure() -> None:
    test, used = predictions(np.full(120, 0.8)), scans(np.zeros(120, bool))
    tables, notes = found(test[test["subject"].isin(PEOPLE[:9])], used[used["observation"].isin(PEOPLE[:9])])
    assert tables["groups_sets.csv"].empty
    assert tables["gaps_sets.csv"].empty
    assert notes == [
        "repeat 1, conformal sets by group: 8 held-out subjects are too few for an error rate of 0.1; 9 are needed"
    ]
