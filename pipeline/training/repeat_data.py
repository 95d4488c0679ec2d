"""The data of one repeat: tables and cached feature maps, joined by subject and scan name.

They are never joined by position: the published code pairs modalities by their index in a list, which mixes patients as
soon as one scan is missing.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from cohort.origin import is_synthetic, names_synthetic, outside_training, real_only, synthetic_subjects
from models.sets import Groups
from pipeline.store.base import ArtifactError
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables


@dataclass(frozen=True)
class RepeatData:
    """The scans of a repeat, one row each, and their modality and class indices.

    Attributes:
        scans: scan, observation, subject, session, modality, label, split, with tables values, and with synthetic
            patients synthetic (bool); index 0…N-1 is the row of the tensors.
        modalities: names; a modality is numbered by its index.
        classes: names; a class is numbered by its index.
    """

    scans: pd.DataFrame
    modalities: tuple[str, ...]
    classes: tuple[str, ...]

    def modality(self) -> Tensor:
        """Return the modality index of each scan, (N,) int64."""
        return torch.tensor([self.modalities.index(m) for m in self.scans["modality"]], dtype=torch.int64)

    def target(self) -> Tensor:
        """Return the class index of each scan's observation, (N,) int64."""
        return torch.tensor([self.classes.index(c) for c in self.scans["label"]], dtype=torch.int64)

    def rows(self, split: str) -> Tensor:
        """Return the rows of the scans of a split, (n,) int64."""
        return torch.tensor(self.scans.index[self.scans["split"] == split].to_numpy(), dtype=torch.int64)

    def subjects(self, split: str) -> list[str]:
        """Return the subjects of a split, sorted."""
        return sorted(set(self.scans.loc[self.scans["split"] == split, "subject"]))


@dataclass(frozen=True)
class Sets:
    """Scans grouped into sets, one per observation.

    Attributes:
        observations: names, one per set; the order of the sets.
        groups: the scans of each set; items are rows of the features.
        target: class of each set, (B,) int64.
    """

    observations: tuple[str, ...]
    groups: Groups
    target: Tensor

    @classmethod
    def of(cls, data: RepeatData, split: str | None = None, modalities: frozenset[str] | None = None) -> "Sets":
        """Group the scans of a split and of some modalities into sets; empty sets are left out."""
        scans = data.scans
        if split is not None:
            scans = scans[scans["split"] == split]
        if modalities is not None:
            scans = scans[scans["modality"].isin(modalities)]
        names = tuple(sorted(set(scans["observation"])))
        number = {name: i for i, name in enumerate(names)}
        groups = Groups.of(torch.tensor([number[name] for name in scans["observation"]], dtype=torch.int64), len(names))
        rows = torch.tensor(scans.index.to_numpy(), dtype=torch.int64)
        label = scans.drop_duplicates("observation").set_index("observation")["label"]
        target = torch.tensor([data.classes.index(label[name]) for name in names], dtype=torch.int64)
        return cls(names, Groups(rows[groups.items], groups.starts), target)

    def batch(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scans (n,) of some sets (b,), and for each scan the index of its set in [0, b)."""
        return self.groups.batch(sets)

    def to(self, device: torch.device) -> "Sets":
        """Move the sets to a device."""
        return Sets(self.observations, self.groups.to(device), self.target.to(device))


def repeats_of(split: SplitTables) -> list[int]:
    """Return the numbers of the repeats, from 1."""
    return sorted(split.splits()["repeat"].unique().tolist())


def data_of_repeat(cohort: CohortTables, split: SplitTables, feature_maps: FeatureStore, repeat: int) -> RepeatData:
    """Return the scans that are available, have a feature map or values, and whose subject is in the repeat's split.

    Raises:
        ArtifactError: a synthetic patient is in validation or test.
    """
    scans = cohort.scans()
    splits = split.splits()
    if wrong := outside_training(splits, synthetic_subjects(scans)):
        raise ArtifactError(
            f"{split.folder / 'splits.csv'} has {len(wrong)} synthetic patients outside of training, {wrong[0]} among "
            "them; nothing may be tested on them. Rerun with --force split"
        )
    split_of = splits[splits["repeat"] == repeat].set_index("subject")["split"]
    available = split.availability().set_index("scan")["available"]
    with_feature_map = set(feature_maps.scans())
    scans = scans[
        (scans["scan"].isin(with_feature_map) | (scans["kind"] == "table"))
        & scans["scan"].map(available).fillna(False).astype(bool)
        & scans["subject"].isin(split_of.index)
    ]
    names = ["scan", "observation", "subject", "session", "modality", "label"]
    names += ["values"] if "values" in scans else []
    table = scans[names].assign(split=scans["subject"].map(split_of))
    if names_synthetic(cohort.scans()):
        table["synthetic"] = is_synthetic(scans)
    modalities = tuple(sorted(cohort.scans()["modality"].unique()))
    return RepeatData(table.sort_values(["observation", "scan"]).reset_index(drop=True), modalities, cohort.classes())


def without_synthetic(data: RepeatData, cohort: CohortTables) -> RepeatData:
    """Return the data without synthetic patients: nothing is drawn from, or judged by, what was drawn."""
    real = set(real_only(cohort.scans())["scan"])
    scans = data.scans[data.scans["scan"].isin(real)].drop(columns="synthetic", errors="ignore")
    return RepeatData(scans.reset_index(drop=True), data.modalities, data.classes)
