"""Which scans a comparison leaves to its methods: everything, or half of one modality hidden in training and test."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from baselines.sample import Sample
from cohort.missingness import hide_scans
from evaluation.published import AS_IT_IS, COMPLETE
from pipeline.store.features import FeatureStore
from pipeline.training.repeat_data import RepeatData


@dataclass(frozen=True)
class Scenario:
    """Which scans there are.

    Attributes:
        name: as printed; with two modalities as in the paper's table 1.
        hidden: modality → share of its subjects that lose it, in training and in test.
        complete_only: only observations with every modality take part, before any is hidden.
    """

    name: str
    hidden: tuple[tuple[str, float], ...] = ()
    complete_only: bool = True


def scenarios_of(kinds: tuple[str, ...], rates: tuple[float, ...], modalities: tuple[str, ...]) -> list[Scenario]:
    """Scenarios in the order of the table.

    Args:
        kinds: "complete", "missing" (each modality in turn, at each rate), "as_it_is".
        rates: shares to hide, in (0, 1).
        modalities: names, sorted.
    """
    found = [Scenario(COMPLETE)] if "complete" in kinds else []
    if "missing" in kinds:
        found += [
            Scenario(_name(modality, rate, modalities), ((modality, rate),))
            for rate in rates
            for modality in reversed(modalities)
        ]
    return found + ([Scenario(AS_IT_IS, complete_only=False)] if "as_it_is" in kinds else [])


def _name(modality: str, rate: float, modalities: tuple[str, ...]) -> str:
    if len(modalities) == 2:
        other = next(m for m in modalities if m != modality)
        return f"100% {other} + {100 * (1 - rate):g}% {modality}"
    return f"{modality} of {100 * (1 - rate):g}%, the others of all"


def scans_in(scenario: Scenario, usable: RepeatData, seed: int) -> tuple[pd.DataFrame, list[str]]:
    """The scans that the scenario leaves, a part of `usable.scans`, and what could not be done as asked."""
    scans = usable.scans
    if scenario.complete_only:
        has = scans.groupby("observation")["modality"].agg(frozenset)
        complete = has.index[[len(present) == len(usable.modalities) for present in has]]
        scans = scans[scans["observation"].isin(complete)]
    shares = {modality: rate for modality, rate in scenario.hidden if (scans["modality"] == modality).any()}
    if not shares:
        return scans, []
    available, notes = hide_scans(scans, shares, seed)
    return scans[available["available"].to_numpy()], list(notes)


@dataclass(frozen=True)
class ScenarioSample:
    """A sample, and the names behind its numbers.

    Attributes:
        sample: what methods learn from, as the backbone gave it.
        scans: row i is feature map i: scan, observation, subject, modality, label, part.
        observations: names; the index of an observation is its place here.
        subjects: of each observation.
    """

    sample: Sample
    scans: pd.DataFrame
    observations: tuple[str, ...]
    subjects: tuple[str, ...]

    def observed(self, part: str) -> Tensor:
        """(n,) int64: the observations of a part."""
        return {"train": self.sample.train, "validation": self.sample.validation, "test": self.sample.test}[part]


def build_sample(
    scans: pd.DataFrame, usable: RepeatData, features: FeatureStore, device: torch.device
) -> ScenarioSample:
    """Feature maps and numbers of some of the usable scans."""
    scans = scans.sort_values(["observation", "scan"]).reset_index(drop=True)
    of_observation = scans.drop_duplicates("observation").set_index("observation")
    names = tuple(of_observation.index)
    number = {name: i for i, name in enumerate(names)}
    parts = {
        part: torch.tensor([i for i, p in enumerate(of_observation["split"]) if p == part], dtype=torch.int64)
        for part in ("train", "validation", "test")
    }
    sample = Sample(
        feature_maps=features.load(scans["scan"].to_list()),
        modality=torch.tensor([usable.modalities.index(m) for m in scans["modality"]]),
        observation=torch.tensor([number[o] for o in scans["observation"]]),
        target=torch.tensor([usable.classes.index(c) for c in of_observation["label"]]),
        modalities=len(usable.modalities),
        classes=len(usable.classes),
        **parts,
    )
    return ScenarioSample(sample.to(device), scans, names, tuple(of_observation["subject"]))
