"""What else is audited by group of patients beside HyperMM: the best comparator, imputations, synthetic patients.

Each is taken if its stage has run on the data of now. The comparator is chosen on validation patients: the one with the
highest AUC there, so that no test score is looked at before the audit.
"""

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from baselines.names import SIMPLE_NAMES, TABLE_BASELINES
from cohort.covariates import as_numbers, kinds_of
from cohort.splits import natural_order
from evaluation.comparison import holm
from evaluation.confounding import bands
from evaluation.fairness import audit_groups, gaps_between_groups
from evaluation.group_means import GAP_COLUMNS, GROUP_COLUMNS, audit_means, gaps_of_means
from evaluation.intervals import probability_columns, summarise
from evaluation.metrics import best_threshold, decide
from evaluation.published import AS_IT_IS
from pipeline.store.base import made_from_known
from pipeline.store.comparison import ComparisonSet
from pipeline.store.imputed import ImputedSet
from pipeline.store.synthetic import JudgementTables, SyntheticCohort

HYPERMM = SIMPLE_NAMES["hypermm"]
Groups = Mapping[str, pd.Series]
FROM_REAL, FROM_SYNTHETIC = "linear model trained on real patients", "linear model trained on synthetic patients"
NOT_GIVEN = "not given"
NO_COMPARATOR: dict[str, Any] = {"name": "", "validation": {}, "left_out": {}, "not_predicted": 0}
SHARES = ("grouping", "group", "training", "synthetic", "share_training", "share_synthetic")


@dataclass
class Audit:
    """The audit of others than HyperMM, by the same groups.

    Attributes:
        smallest: patients of each class that a group needs.
        permutations: random groups.
        seed: of them.
        groups: a table of each classifier.
        gaps: the same.
        imputed: groups and gaps of imputations.
        shares: of groups among synthetic patients.
        facts: which comparator was taken, and why others were not.
        notes: on what could not be audited.
    """

    smallest: int
    permutations: int
    seed: int
    groups: list[pd.DataFrame] = field(default_factory=list)
    gaps: list[pd.DataFrame] = field(default_factory=list)
    imputed: dict[str, pd.DataFrame] = field(default_factory=dict)
    shares: pd.DataFrame = field(default_factory=lambda: shares_of_groups({}, {}))
    facts: dict[str, Any] = field(default_factory=lambda: {"comparator": NO_COMPARATOR})
    notes: list[str] = field(default_factory=list)

    def comparator(self, baselines: ComparisonSet, made: Mapping[str, str], repeats: list[int], groups: Groups) -> None:
        """Audit the comparator that is best on validation patients."""
        if not made_from_known(baselines, made):
            return
        name, scores, left = best_comparator(baselines, repeats)
        self.facts["comparator"] = {"name": name, "validation": scores, "left_out": left, "not_predicted": 0}
        if name:
            predictions = comparator_predictions(baselines, name, repeats)
            made_any = predictions[probability_columns(predictions)].notna().all(axis=1)
            self.facts["comparator"]["not_predicted"] = int((~made_any).sum())
            self._add(name, predictions[made_any], groups)

    def imputations(self, impute: ImputedSet, made: Mapping[str, str], test: pd.DataFrame, groups: Groups) -> None:
        """Audit the CRPS of imputed feature maps of test patients, whose real ones were hidden."""
        if not made_from_known(impute, made):
            return
        people = test.drop_duplicates("observation").set_index("observation")[["subject", "truth"]]
        quality = impute.read("quality.csv")
        self.imputed = imputed_by_group(
            quality, people, groups, smallest=self.smallest, permutations=self.permutations, seed=self.seed,
        )  # fmt: skip
        for modality, subjects in classes_change(quality, people).items():
            self.notes.append(
                f"imputed {modality}: {len(subjects)} patients change class between sessions "
                f"({', '.join(subjects[:5])}{', …' if len(subjects) > 5 else ''}); each counts once, with the mean of "
                "all sessions, and the random groups exchange them among themselves"
            )

    def synthetic(
        self,
        judge: JudgementTables,
        synthesise: SyntheticCohort,
        made: Mapping[str, str],
        covariates: pd.DataFrame,
        splits: pd.DataFrame,
        scans: pd.DataFrame,
    ) -> None:
        """Audit what is learnt from synthetic patients, and their shares of groups, where they have covariates.

        Args:
            judge: with predictions for held-out real patients.
            synthesise: with the manifest of synthetic patients.
            made: stage → fingerprint.
            covariates: of real observations.
            splits: of all repeats.
            scans: of real patients.
        """
        if not made_from_known(judge, made):
            return
        if not judge.has_transfer():
            self.notes.append(
                "synthetic patients are not audited: the stage judge ran in an earlier version, without predictions; "
                "type --stages judge,confounding"
            )
            return
        repeat = splits[splits["repeat"] == judge.facts()["repeat"]].set_index("subject")["split"]
        patients = first_sessions(scans[scans["subject"].map(repeat) == "train"])
        by_observation = groups_by(covariates, set(patients))
        transfer = judge.transfer()
        place = sessions_in_order(scans)
        first = transfer.sort_values("observation", key=lambda names: names.map(place), kind="stable")
        first = first.drop_duplicates("subject").set_index("subject")["observation"]
        groups = {name: first.map(of).astype(of.dtype) for name, of in by_observation.items()}
        for name, trained_on in ((FROM_REAL, "real"), (FROM_SYNTHETIC, "generated")):
            rows = transfer[transfer["trained_on"] == trained_on].drop(columns="trained_on")
            if len(rows):
                decided = decide(rows[probability_columns(rows)].to_numpy(dtype=np.float64))
                self._add(name, rows.assign(decided=decided), groups)
        drawn = synthesise.rows().drop_duplicates("subject").set_index("subject")
        shared = [name for name in covariates if name in drawn]
        both = groups_by(pd.concat([covariates.loc[patients, shared], drawn[shared]]), set(patients))
        sides = ({name: of[of.index.isin(there)] for name, of in both.items()} for there in (patients, drawn.index))
        self.shares = shares_of_groups(*sides)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Return all tables by file; with columns also where nothing was audited."""
        if not self.groups:
            nobody = pd.DataFrame({"repeat": [1], "subject": "", "observation": "", "truth": 0, "p_0": 1.0, "p_1": 0.0})
            self._add("", nobody.assign(decided=0), {})
        imputed = self.imputed or imputed_by_group(
            pd.DataFrame(columns=["observation", "modality", "crps"]), pd.DataFrame(columns=["subject", "truth"]), {},
            smallest=self.smallest, permutations=0, seed=0,
        )  # fmt: skip
        return {
            "groups_of_others.csv": pd.concat(self.groups, ignore_index=True),
            "gaps_of_others.csv": pd.concat(self.gaps, ignore_index=True),
            "groups_synthetic.csv": self.shares,
            **imputed,
        }

    def _add(self, name: str, predictions: pd.DataFrame, groups: Groups) -> None:
        """Audit predictions with `decided`; p is corrected for the tests of this classifier."""
        audited = audit_groups(predictions, groups, smallest=self.smallest)
        gaps = gaps_between_groups(
            predictions, groups, audited, smallest=self.smallest, permutations=self.permutations, seed=self.seed
        )
        for tables, found in ((self.groups, audited), (self.gaps, gaps)):
            found.insert(0, "of", name)
            tables.append(found)


def groups_by(covariates: pd.DataFrame, learnt_from: Container[str]) -> dict[str, pd.Series]:
    """Return name of a covariate → observation → group; bands of numbers are learnt from those named.

    Args:
        covariates: of observations.
        learnt_from: observations, one of each training patient, as `first_sessions` returns them.
    """
    groups: dict[str, pd.Series] = {}
    for name, kind in kinds_of(covariates).items():
        cells = covariates[name]
        if kind == "number":
            cut = bands(as_numbers(cells), learnt_from=learnt_from)
            groups[name] = cut.cat.add_categories(NOT_GIVEN).fillna(NOT_GIVEN)
        else:
            groups[name] = cells.where(cells != "", NOT_GIVEN)
    return groups


def sessions_in_order(scans: pd.DataFrame) -> pd.Series:
    """Return observation → place of its session, by name with numbers in it as numbers: ses-2 comes before ses-10."""
    rows = scans.drop_duplicates("observation").sort_values(
        "session", key=lambda s: s.map(natural_order), kind="stable"
    )
    return pd.Series(range(len(rows)), index=rows["observation"].to_numpy())


def first_sessions(scans: pd.DataFrame) -> list[str]:
    """Return the observation of each subject that is its first session, sorted; a patient counts once in terciles."""
    place = sessions_in_order(scans)
    first = scans.sort_values("observation", key=lambda names: names.map(place), kind="stable")
    return sorted(first.drop_duplicates("subject")["observation"])


def best_comparator(baselines: ComparisonSet, repeats: list[int]) -> tuple[str, dict[str, float], dict[str, str]]:
    """Return the method with the highest AUC on validation patients, mean over repeats, without HyperMM.

    Methods that see no image are shown elsewhere. One that predicts nothing for a validation patient is left out, since
    it could be the best on the easy ones.

    Returns:
        Its name, or "" if there is none; name → AUC on validation of all that were compared; name → why it was not.
    """
    found = baselines.comparison()
    names = found.loc[found["scenario"] == AS_IT_IS, "method"].unique()
    scores: dict[str, float] = {}
    left: dict[str, str] = {}
    for name in (str(each) for each in names):
        if name == HYPERMM or name in TABLE_BASELINES.values() or name.startswith(f"{HYPERMM},"):
            continue
        tables = [baselines.read(baselines.folder_of(AS_IT_IS, name, n), "validation.csv") for n in repeats]
        there = [table for table in tables if table is not None]
        if len(there) < len(repeats):
            left[name] = "no validation predictions in every repeat"
            continue
        validation = pd.concat(there, ignore_index=True)
        columns = probability_columns(validation)
        if validation[columns].isna().any(axis=None):
            left[name] = "no prediction for some validation patients"
            continue
        score = summarise(validation)["auc"]["mean"]
        if np.isnan(score):
            left[name] = "validation patients of one class only"
        else:
            scores[name] = float(score)
    best = max(scores, key=lambda name: scores[name]) if scores else ""
    return best, scores, left


def comparator_predictions(baselines: ComparisonSet, name: str, repeats: list[int]) -> pd.DataFrame:
    """Return test predictions of a comparator, `decided` at the threshold of its own validation patients.

    Those of whom it says nothing have no probabilities.
    """
    made = []
    for repeat in repeats:
        folder = baselines.folder_of(AS_IT_IS, name, repeat)
        test, validation = (baselines.read(folder, file) for file in ("predictions.csv", "validation.csv"))
        if test is None or validation is None:
            continue
        columns = probability_columns(test)
        probabilities = test[columns].to_numpy(dtype=np.float64)
        if len(columns) == 2:
            threshold, _ = best_threshold(validation["truth"].to_numpy(), validation["p_1"].to_numpy())
            made.append(test.assign(decided=decide(probabilities, threshold=threshold)))
        else:
            made.append(test.assign(decided=decide(probabilities)))
    return pd.concat(made, ignore_index=True)


def imputed_by_group(
    quality: pd.DataFrame, people: pd.DataFrame, groups: Groups, *, smallest: int, permutations: int, seed: int
) -> dict[str, pd.DataFrame]:
    """Return `groups_imputed.csv` and `gaps_imputed.csv`: CRPS of imputed feature maps against the real ones hidden.

    A patient counts once, with the mean of all sessions and repeats. In the random groups patients of a class change
    places; who changes class between sessions is of neither, and changes places with those who do so too.

    Args:
        quality: of imputations, as the stage impute writes it.
        people: index observation; `subject`, `truth` (class).
        groups: grouping → subject → group.
        smallest: patients of a group.
        permutations: random groups.
        seed: of them.
    """
    quality = _of_people(quality, people).assign(value=lambda table: table["crps"])
    parts = [(str(modality), rows, groups) for modality, rows in quality.groupby("modality")]
    made = means_by_group(parts, "modality", smallest=smallest, permutations=permutations, seed=seed)
    return dict(zip(("groups_imputed.csv", "gaps_imputed.csv"), made, strict=True))


def means_by_group(
    parts: Iterable[tuple[str, pd.DataFrame, Groups]],
    column: str,
    *,
    smallest: int,
    permutations: int,
    seed: int,
    shares: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the means of groups and the gaps between them, p corrected for all of them, for several figures.

    A patient counts once, with the mean of all rows.

    Args:
        parts: of each figure its name, rows with `subject`, `truth` and `value`, and grouping → subject → group.
        column: that the names go to.
        smallest: patients of a group.
        permutations: random groups.
        seed: of them.
        shares: as for `audit_means`.

    Returns:
        As `audit_means` and `gaps_of_means`, with `column`; gaps also with `p_holm`.
    """
    groups_of, gaps_of = ([pd.DataFrame(columns=[*names, column])] for names in (GROUP_COLUMNS, GAP_COLUMNS))
    for name, rows, groups in parts:
        of_subject = rows.groupby("subject").agg(value=("value", "mean"), truth=("truth", _classes)).reset_index()
        audited = audit_means(of_subject, groups, smallest=smallest, shares=shares)
        gaps = gaps_of_means(of_subject, groups, smallest=smallest, permutations=permutations, seed=seed, shares=shares)
        groups_of.append(audited.assign(**{column: name}))
        gaps_of.append(gaps.assign(**{column: name}))
    groups_table, gaps_table = (pd.concat(made[1:] or made, ignore_index=True) for made in (groups_of, gaps_of))
    return groups_table, gaps_table.assign(p_holm=holm(gaps_table["p"].to_numpy(dtype=np.float64)))


def _classes(of_sessions: pd.Series) -> str:
    """Return the class of a subject's sessions, such as "1", or all of them: "0, 1"."""
    return ", ".join(str(k) for k in sorted(set(of_sessions)))


def _of_people(quality: pd.DataFrame, people: pd.DataFrame) -> pd.DataFrame:
    """Return the imputations of these people, with the columns of `people`."""
    return quality.drop(columns="subject", errors="ignore").merge(people, left_on="observation", right_index=True)


def classes_change(quality: pd.DataFrame, people: pd.DataFrame) -> dict[str, list[str]]:
    """Return modality → subjects with imputed sessions of more than one class; without modalities that have none."""
    rows = _of_people(quality, people)
    several = rows.groupby(["modality", "subject"])["truth"].nunique() > 1
    changing = several.index[several].to_frame(index=False)
    return {str(name): sorted(of["subject"]) for name, of in changing.groupby("modality")}


def shares_of_groups(training: Groups, synthetic: Groups) -> pd.DataFrame:
    """Return the share of each group among training and among synthetic patients, for groupings that both have."""
    rows = []
    for grouping, real in training.items():
        if grouping not in synthetic:
            continue
        sides = [each.dropna().astype(str).value_counts() for each in (real, synthetic[grouping])]
        order = dict.fromkeys([*map(str, real.dropna().sort_values(kind="stable").unique()), *map(str, sides[1].index)])
        for group in order:
            counts = [int(side.get(group, 0)) for side in sides]
            shares = [count / max(int(side.sum()), 1) for count, side in zip(counts, sides, strict=True)]
            rows.append((grouping, group, *counts, *shares))
    return pd.DataFrame(rows, columns=list(SHARES))
