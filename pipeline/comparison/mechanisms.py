"""Missing not at random: what decides who loses a scan, in training and in the test, for every pair of reasons.

Each reason is a scenario: training and validation patients lose scans by it, test patients keep theirs. Every method is
trained once in it, and tested with the scans hidden that each of the reasons takes from the test patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from cohort.mechanisms import CLASS, COVARIATE, ITSELF, RANDOM, Missing
from cohort.missingness import Pulls, column_of, hide_scans, positive_of, pulls_of, pulls_of_numbers
from cohort.splits import shuffled
from console.errors import PreconditionError
from pipeline.comparison.scenarios import Scenario
from pipeline.specs.baselines import MechanismsConfig
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData

NOTHING = "nothing"  # hidden in the test
DIGITS = 3  # of a standardised score, so that another machine's last bits do not change who is hidden
UNCHANGED = (RANDOM, CLASS)  # reasons that lose scans alike, once shuffled within each class
LOADED = 256  # feature maps at a time


@dataclass(frozen=True)
class Lost:
    """The scans that each reason takes from the patients of one repeat.

    Attributes:
        by: reason → names of scans, of all splits.
        shuffled: reason → as many scans of each class and split, of others; not where it would change nothing.
        notes: on patients of whom a reason knows nothing, and shares that could not be reached.
    """

    by: Mapping[str, frozenset[str]]
    shuffled: Mapping[str, frozenset[str]]
    notes: tuple[str, ...]

    def tests(self, data: RepeatData) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Return each reason with the test scans that it takes, sorted."""
        tested = set(data.scans.loc[data.scans["split"] == "test", "scan"])
        return tuple((reason, tuple(sorted(scans & tested))) for reason, scans in self.by.items())

    def left(self, scenario: Scenario, data: RepeatData) -> pd.DataFrame:
        """Return the scans of a repeat without those that the scenario's reason takes in training and validation."""
        lost = self.shuffled if scenario.shuffled else self.by
        gone = data.scans["scan"].isin(lost[scenario.lost_by]) & (data.scans["split"] != "test")
        return data.scans[~gone]


def scenarios_of_mechanisms(config: MechanismsConfig, modalities: tuple[str, ...]) -> list[Scenario]:
    """Return one scenario a reason, and one more where who lost the scan is shuffled within each class.

    Raises:
        PreconditionError: there is one modality only, or the one named is not there.
    """
    modality = _modality(config, modalities)
    share = f"{100 * config.share:g}% of {modality} lost in training"
    how = {reason: "at random" if reason == RANDOM else f"by {reason}" for reason in config.reasons}
    found = [Scenario(f"{share} {how[reason]}", lost_by=reason) for reason in config.reasons]
    more = [reason for reason in config.reasons if config.shuffled and reason not in UNCHANGED]
    return found + [
        Scenario(f"{share} {how[reason]}, shuffled within each class", lost_by=reason, shuffled=True) for reason in more
    ]


def lost_scans(
    data: RepeatData, config: MechanismsConfig, covariates: pd.DataFrame, features: FeatureStore, seed: int
) -> Lost:
    """Return the scans that each reason takes from patients with every modality.

    Args:
        data: of one repeat.
        config: modality, share, slope, reasons.
        covariates: text columns, one row an observation.
        features: feature maps, for `other` and `itself`.
        seed: of the patients who lose a scan.

    Raises:
        PreconditionError: the cohort does not have what a reason goes by.
    """
    modality = _modality(config, data.modalities)
    has = data.scans.groupby("observation")["modality"].nunique()
    scans = data.scans[data.scans["observation"].isin(has.index[has == len(data.modalities)])]
    by: dict[str, frozenset[str]] = {}
    notes: list[str] = []
    for reason in config.reasons:
        try:
            pulls, unknown = _pulls(reason, scans, modality, data, config, covariates, features)
            found = hide_scans(scans, {modality: config.share}, seed, {modality: pulls})
        except ValueError as error:
            raise PreconditionError(f"baselines.mechanisms: {error}") from error
        by[reason] = frozenset(found.scans.loc[~found.scans["available"], "scan"])
        notes += [*unknown, *found.notes]
    shuffles = {reason: _shuffled(lost, scans, modality, seed, reason) for reason, lost in by.items()}
    return Lost(by, {reason: lost for reason, lost in shuffles.items() if reason not in UNCHANGED}, tuple(notes))


def _shuffled(lost: frozenset[str], scans: pd.DataFrame, modality: str, seed: int, reason: str) -> frozenset[str]:
    """Return the scans that as many patients of each class and split would lose, drawn by a hash.

    Args:
        lost: scans that the reason takes.
        scans: of patients with every modality.
        modality: that is lost.
        seed: of the draw.
        reason: another one draws others.
    """
    rows = scans[scans["modality"] == modality]
    gone: set[str] = set()
    for (split, label), group in rows.groupby(["split", "label"]):
        names = shuffled(set(group["subject"]), seed, "shuffled", reason, split, label)
        gone |= set(names[: group.loc[group["scan"].isin(lost), "subject"].nunique()])
    return frozenset(rows.loc[rows["subject"].isin(gone), "scan"])


def _modality(config: MechanismsConfig, modalities: tuple[str, ...]) -> str:
    if len(modalities) < 2:
        raise PreconditionError("baselines.scenarios has mechanisms, which need a second modality to be left")
    modality = config.modality or modalities[-1]
    for key, name in (("modality", modality), ("other", config.other or modality)):
        if name not in modalities:
            raise PreconditionError(f"baselines.mechanisms.{key}: {name!r} is no modality ({', '.join(modalities)})")
    if config.other == modality:
        raise PreconditionError(f"baselines.mechanisms.other is {modality}, which is the one that is lost")
    return modality


def _pulls(
    reason: str,
    scans: pd.DataFrame,
    modality: str,
    data: RepeatData,
    config: MechanismsConfig,
    covariates: pd.DataFrame,
    features: FeatureStore,
) -> tuple[Pulls, tuple[str, ...]]:
    """Return who is likelier to lose the modality, and notes."""
    if reason == RANDOM:
        return {}, ()
    if reason == CLASS and len(data.classes) > 2:
        raise ValueError(
            f"reason class is for two classes, and there are {len(data.classes)} ({', '.join(data.classes)}); leave "
            "class out of baselines.mechanisms.reasons"
        )
    if reason in (COVARIATE, CLASS):
        column = {"of": config.of, "value": config.value} if reason == COVARIATE else {}
        missing = Missing.model_validate({"share": config.share, "mechanism": reason, "slope": config.slope} | column)
        observed = scans.drop_duplicates("observation").set_index("observation")
        cells = column_of(covariates, missing.of) if missing.of else observed["label"]
        found = pulls_of(missing, observed["subject"], cells, positive=positive_of(missing, data.classes))
        return found.pulls, found.notes
    seen = modality if reason == ITSELF else config.other or next(m for m in data.modalities if m != modality)
    rows = scans[scans["modality"] == seen]
    if lacking := sorted(set(rows["scan"]) - set(features.scans())):
        raise ValueError(f"mechanism {reason}: {seen} of {lacking[0]} is a table, which has no feature map")
    scores = main_direction(rows, features, positive=data.classes[-1])
    spread = float(scores.std(ddof=0)) or 1.0
    scores = ((scores - scores.mean()) / spread).round(DIGITS)
    return pulls_of_numbers(scores, config.slope, f"mechanism {reason}, {seen}"), ()


def main_direction(scans: pd.DataFrame, features: FeatureStore, *, positive: str) -> pd.Series:
    """Return the first principal score of each subject's feature maps: where the scans differ most from each other.

    Its sign is chosen so that patients of class `positive` have the higher mean. All patients count, those of the test
    too: this makes up a cohort, and no model sees it.

    Args:
        scans: of one modality: scan, subject, label.
        features: feature maps.
        positive: name of a class.

    Returns:
        Subject (index) → score.
    """
    subjects = sorted(set(scans["subject"]))
    number = {name: i for i, name in enumerate(subjects)}
    names, owner = scans["scan"].to_list(), torch.tensor([number[s] for s in scans["subject"]])
    mean = torch.zeros(len(subjects), features.load(names[:1])[0].numel(), dtype=torch.float64)
    for start in range(0, len(names), LOADED):
        loaded = features.load(names[start : start + LOADED]).flatten(1).double()
        mean.index_add_(0, owner[start : start + LOADED], loaded)
    mean /= torch.bincount(owner, minlength=len(subjects))[:, None]
    mean -= mean.mean(dim=0)
    lengths, basis = np.linalg.eigh((mean @ mean.T).numpy())
    scores = pd.Series(basis[:, -1] * np.sqrt(max(lengths[-1], 0)), index=subjects)
    ill = scans.drop_duplicates("subject").set_index("subject")["label"].reindex(subjects) == positive
    return -scores if scores[ill].mean() < scores[~ill].mean() else scores
