"""Scenarios of a comparison: all scans, a share of one modality hidden in training and test, or fewer patients."""

import dataclasses
import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from baselines.sample import Sample
from cohort.missingness import hide_scans
from cohort.splits import shuffled
from evaluation.pattern import SHUFFLED
from evaluation.published import AS_IT_IS, COMPLETE
from pipeline.store.features import FeatureStore
from pipeline.training.feature_maps import feature_maps_of
from pipeline.training.joint_patients import session_order
from pipeline.training.repeat_data import RepeatData

Tests = tuple[tuple[str, tuple[str, ...]], ...]  # name of a test → test scans that are hidden in it
SUBSETS = "as it is, tested with every subset"
FEW_COMPLETE = 20  # patients with every modality; fewer, or fewer than half, are worth a note


@dataclass(frozen=True)
class Scenario:
    """Which scans the baselines are given.

    Attributes:
        name: as printed; with two modalities as in the paper's table 1.
        hidden: modality → share of its subjects that lose it, in training and in test.
        complete_only: only observations with every modality are used, before any scan is hidden.
        patients: share of the training patients of each class that are used, rounded up; in (0, 1].
        subsets: every method is tested with each subset of modalities in turn.
        lost_by: why training and validation patients lack scans, see `pipeline.comparison.mechanisms`; "" for not.
        shuffled: who lacks them is shuffled within each class.
    """

    name: str
    hidden: tuple[tuple[str, float], ...] = ()
    complete_only: bool = True
    patients: float = 1.0
    subsets: bool = False
    lost_by: str = ""
    shuffled: bool = False

    @property
    def training(self) -> str:
        """Why training patients lack scans, as the tables of `mechanisms` name it."""
        return f"{self.lost_by}{SHUFFLED if self.shuffled else ''}"


def scenarios_of(
    kinds: tuple[str, ...], rates: tuple[float, ...], modalities: tuple[str, ...], patients: tuple[float, ...] = ()
) -> list[Scenario]:
    """List the scenarios in the order of the table.

    Args:
        kinds: "complete", "missing" (each modality in turn, at each rate), "as_it_is", "fewer_patients", "subsets".
        rates: shares to hide, in (0, 1).
        modalities: names, sorted.
        patients: shares of the training patients, in (0, 1), for "fewer_patients".
    """
    scenarios = [Scenario(COMPLETE)] if "complete" in kinds else []
    if "missing" in kinds:
        scenarios += [
            Scenario(_name(modality, rate, modalities), ((modality, rate),))
            for rate in rates
            for modality in reversed(modalities)
        ]
    if "as_it_is" in kinds:
        scenarios.append(Scenario(AS_IT_IS, complete_only=False))
    if "fewer_patients" in kinds:
        scenarios += [
            Scenario(f"as it is, {100 * share:g}% of the training patients", complete_only=False, patients=share)
            for share in sorted(patients, reverse=True)
        ]
    if "subsets" in kinds:
        scenarios.append(Scenario(SUBSETS, complete_only=False, subsets=True))
    return scenarios


def _name(modality: str, rate: float, modalities: tuple[str, ...]) -> str:
    if len(modalities) == 2:
        other = next(m for m in modalities if m != modality)
        return f"100% {other} + {100 * (1 - rate):g}% {modality}"
    return f"{modality} of {100 * (1 - rate):g}%, the others of all"


def scans_in(scenario: Scenario, data: RepeatData, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """Return the scans of `data` that the scenario leaves, and notes on what it could not do or leaves out.

    Args:
        scenario: what to hide.
        data: of one repeat.
        seed: of the subjects that lose a scan or are left out; another in each repeat, or all repeats lack the same.
    """
    scans, notes = data.scans, []
    if scenario.complete_only:
        has = scans.groupby("observation")["modality"].agg(frozenset)
        complete = has.index[[len(present) == len(data.modalities) for present in has]]
        if few := _few_complete(scans, complete, data.modalities):
            notes.append(few)
        scans = scans[scans["observation"].isin(complete)]
    if scenario.patients < 1:
        scans = _fewer_patients(scans, scenario.patients, seed)
    shares = {modality: rate for modality, rate in scenario.hidden if (scans["modality"] == modality).any()}
    if not shares:
        return scans, notes
    available, unreached = hide_scans(scans, shares, seed)
    return scans[available["available"].to_numpy()], [*notes, *unreached]


def _fewer_patients(scans: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Return the scans with a share of each class's training patients; fewer patients are always among more."""
    training = scans[scans["split"] == "train"].drop_duplicates("subject")
    kept: set[str] = set()
    for label, members in training.groupby("label"):
        names = shuffled(members["subject"], seed, "patients", label)
        kept |= set(names[: math.ceil(round(share * len(names), 9))])
    return scans[(scans["split"] != "train") | scans["subject"].isin(kept)]


def _few_complete(scans: pd.DataFrame, complete: pd.Index, modalities: tuple[str, ...]) -> str:
    """Say that a scenario of complete patients leaves few of them; "" if it leaves enough."""
    subjects, left = scans["subject"].nunique(), scans.loc[scans["observation"].isin(complete), "subject"].nunique()
    if left == subjects or (left >= FEW_COMPLETE and 2 * left >= subjects):
        return ""
    return (
        f"only {left} of {subjects} patients have {', '.join(modalities)} together; the others are left out of this "
        "scenario. The scenario as_it_is uses all of them"
    )


@dataclass(frozen=True)
class ScenarioSample:
    """A sample, and the names of its scans and observations.

    Attributes:
        sample: the data of the baselines, feature maps as computed by the backbone.
        scans: row i is feature map i: scan, observation, subject, modality, label, split.
        observations: names; an observation is numbered by its index.
        subjects: of each observation.
    """

    sample: Sample
    scans: pd.DataFrame
    observations: tuple[str, ...]
    subjects: tuple[str, ...]

    def observed(self, split: str) -> Tensor:
        """Return the observations of a split, (n,) int64."""
        return {"train": self.sample.train, "validation": self.sample.validation, "test": self.sample.test}[split]


def in_order(scans: pd.DataFrame) -> pd.DataFrame:
    """Sort scans as a sample has them."""
    return scans.sort_values(["observation", "scan"]).reset_index(drop=True)


def build_sample(scans: pd.DataFrame, data: RepeatData, features: FeatureStore, device: torch.device) -> ScenarioSample:
    """Load the feature maps of some scans of a repeat, with their modalities and classes.

    Tables are coded as the training members that the scenario leaves say.
    """
    scans = in_order(scans)
    maps = feature_maps_of(dataclasses.replace(data, scans=scans), features)
    of_observation = scans.drop_duplicates("observation").set_index("observation")
    names = tuple(of_observation.index)
    number = {name: i for i, name in enumerate(names)}
    splits = {
        split: torch.tensor([i for i, name in enumerate(of_observation["split"]) if name == split], dtype=torch.int64)
        for split in ("train", "validation", "test")
    }
    sample = Sample(
        feature_maps=maps.load(scans["scan"].to_list()),
        modality=torch.tensor([data.modalities.index(m) for m in scans["modality"]]),
        observation=torch.tensor([number[o] for o in scans["observation"]]),
        target=torch.tensor([data.classes.index(c) for c in of_observation["label"]]),
        modalities=len(data.modalities),
        classes=len(data.classes),
        subject=torch.from_numpy(of_observation["subject"].factorize()[0]),
        session=torch.tensor(session_order(of_observation["session"])),
        synthetic=torch.tensor(of_observation["synthetic"].to_numpy(dtype=bool)) if "synthetic" in scans else None,
        **splits,
    )
    return ScenarioSample(sample.to(device), scans, names, tuple(of_observation["subject"]))
