"""Synthetic patients in a manifest: where they may take part, and what they have to show first.

A column `origin` has this meaning as soon as one cell says synthetic; the column `judged` then holds the verdict
of the stage judge. Synthetic patients are trained on, and nothing else: they are in no validation or test split, in no
calibration, and in no number of patients that an interval stands on.
"""

from collections.abc import Iterator

import pandas as pd

from cohort.tables import Problem

SYNTHETIC, REAL = "synthetic", "real"
NOT_JUDGED, PASSED, COPIES, ACCEPTED = "no", "passed", "copies", "copies accepted"
COLUMNS = ("origin", "judged")


def names_synthetic(columns: pd.DataFrame) -> bool:
    """Return whether a manifest names synthetic patients; its cells are text."""
    return "origin" in columns and bool((columns["origin"].str.casefold() == SYNTHETIC).any())


def is_synthetic(scans: pd.DataFrame) -> pd.Series:
    """Return for each scan whether it is of a synthetic patient."""
    if not names_synthetic(scans):
        return pd.Series(False, index=scans.index)
    return scans["origin"].str.casefold() == SYNTHETIC


def real_only(scans: pd.DataFrame) -> pd.DataFrame:
    """Return the scans of real patients, without the columns that tell them from synthetic ones."""
    if not names_synthetic(scans):
        return scans
    return scans[~is_synthetic(scans)].drop(columns=list(COLUMNS), errors="ignore")


def synthetic_subjects(scans: pd.DataFrame) -> set[str]:
    """Return the subjects that are synthetic."""
    return set(scans.loc[is_synthetic(scans), "subject"])


def outside_training(splits: pd.DataFrame, synthetic: set[str]) -> list[str]:
    """Return the synthetic subjects that a table of splits has in another split than train, sorted."""
    elsewhere = splits[(splits["split"] != "train") & splits["subject"].isin(synthetic)]
    return sorted(set(elsewhere["subject"]))


def origin_problems(rows: pd.DataFrame, *, learning: bool) -> Iterator[Problem]:
    """Yield what is wrong with synthetic patients.

    Args:
        rows: `origin`, `judged`, `subject`, `split`, `row`; nothing is yielded if nobody is synthetic.
        learning: whether something is trained; there are no predictions for synthetic patients.
    """
    if not names_synthetic(rows):
        return
    for row, origin in rows.loc[~rows["origin"].isin([SYNTHETIC, REAL, ""]), ["row", "origin"]].itertuples(index=False):
        text = f"origin {origin!r} is neither {REAL} nor {SYNTHETIC}; other rows are synthetic, so it has to be clear"
        yield Problem(text, "the origin is neither real nor synthetic", row)
    made = rows[rows["origin"] == SYNTHETIC]
    both = set(made["subject"]) & set(rows.loc[rows["origin"] != SYNTHETIC, "subject"]) - {""}
    for row, subject in made.loc[made["subject"].isin(both), ["row", "subject"]].itertuples(index=False):
        text = f"subject {subject!r} has synthetic and real scans; give the synthetic patient another name"
        yield Problem(text, "a subject has synthetic and real scans", row)
    for row, split in made.loc[~made["split"].isin(["", "train"]), ["row", "split"]].itertuples(index=False):
        text = (
            f"a synthetic patient is in the {split} split; it may be in train alone, since results are about patients"
        )
        yield Problem(text, "a synthetic patient is outside of training", row)
    for row, judged in made.loc[~made["judged"].isin([PASSED, ACCEPTED]), ["row", "judged"]].itertuples(index=False):
        if judged == COPIES:
            text = (
                "too many synthetic scans of this manifest are copies of training patients (judged: copies); draw "
                "others, or release them with --stages judge --accept-copies"
            )
            yield Problem(text, "synthetic scans are copies of training patients", row)
        else:
            text = (
                f"a synthetic scan was not judged (judged: {judged or 'empty'}); run --stages judge where it was made, "
                "and take judge/manifest.csv; if that says no, its modality could not be judged: leave the row out"
            )
            yield Problem(text, "a synthetic scan was not judged", row)
    if not learning:
        for row in made["row"]:
            text = "a synthetic patient; there are predictions for patients alone. Leave the row out"
            yield Problem(text, "a synthetic patient is to be predicted", row)
