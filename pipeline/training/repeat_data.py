"""What one repeat trains, validates and tests on: tables and cached feature maps joined by subject and scan name.

Never by position: the published code pairs modalities by their place in a list, which mixes patients as soon as one
scan is missing.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from models.sets import Groups
from pipeline.store.features import FeatureStore
from pipeline.store.tables import CohortTables, SplitTables


@dataclass(frozen=True)
class RepeatData:
    """The scans that take part in a repeat, one row each, and the numbers that go with them.

    Attributes:
        scans: scan, observation, subject, modality, label, part; index 0…N-1 is the row of the tensors.
        modalities: names; the index of a modality is its place here.
        classes: names; the index of a class is its place here.
    """

    scans: pd.DataFrame
    modalities: tuple[str, ...]
    classes: tuple[str, ...]

    def modality(self) -> Tensor:
        """(N,) int64."""
        return torch.tensor([self.modalities.index(m) for m in self.scans["modality"]], dtype=torch.int64)

    def target(self) -> Tensor:
        """(N,) int64: the class of the scan's observation."""
        return torch.tensor([self.classes.index(c) for c in self.scans["label"]], dtype=torch.int64)

    def rows(self, part: str) -> Tensor:
        """(n,) int64: the scans of a part."""
        return torch.tensor(self.scans.index[self.scans["split"] == part].to_numpy(), dtype=torch.int64)

    def subjects(self, part: str) -> list[str]:
        """The subjects of a part, sorted."""
        return sorted(set(self.scans.loc[self.scans["split"] == part, "subject"]))


@dataclass(frozen=True)
class Sets:
    """Scans grouped into sets, one an observation.

    Attributes:
        observations: names, one a set; the order of the sets.
        groups: which scans each has; items are rows of the features.
        target: class of each set, (B,) int64.
    """

    observations: tuple[str, ...]
    groups: Groups
    target: Tensor

    @classmethod
    def of(cls, usable: RepeatData, part: str | None = None, modalities: frozenset[str] | None = None) -> "Sets":
        """The sets of a part, with only the scans of some modalities; sets that are left empty are not there."""
        scans = usable.scans
        if part is not None:
            scans = scans[scans["split"] == part]
        if modalities is not None:
            scans = scans[scans["modality"].isin(modalities)]
        names = tuple(sorted(set(scans["observation"])))
        number = {name: i for i, name in enumerate(names)}
        groups = Groups.of(torch.tensor([number[name] for name in scans["observation"]], dtype=torch.int64), len(names))
        rows = torch.tensor(scans.index.to_numpy(), dtype=torch.int64)
        label = scans.drop_duplicates("observation").set_index("observation")["label"]
        target = torch.tensor([usable.classes.index(label[name]) for name in names], dtype=torch.int64)
        return cls(names, Groups(rows[groups.items], groups.starts), target)

    def batch(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Scans (n,) of some sets (b,), and for each its place among them in [0, b)."""
        return self.groups.batch(sets)

    def to(self, device: torch.device) -> "Sets":
        """The same on a device."""
        return Sets(self.observations, self.groups.to(device), self.target.to(device))


def repeats_of(split: SplitTables) -> list[int]:
    """The numbers of the repeats, from 1."""
    return sorted(split.splits()["repeat"].unique().tolist())


def data_of_repeat(cohort: CohortTables, split: SplitTables, feature_maps: FeatureStore, repeat: int) -> RepeatData:
    """Scans that are available, have a feature map, and whose subject has a part in the repeat."""
    scans = cohort.scans()
    splits = split.splits()
    part_of = splits[splits["repeat"] == repeat].set_index("subject")["split"]
    hidden = split.availability().set_index("scan")["available"]
    here = set(feature_maps.scans())
    scans = scans[
        scans["scan"].isin(here)
        & scans["scan"].map(hidden).fillna(False).astype(bool)
        & scans["subject"].isin(part_of.index)
    ]
    table = scans[["scan", "observation", "subject", "modality", "label"]].assign(split=scans["subject"].map(part_of))
    modalities = tuple(sorted(cohort.scans()["modality"].unique()))
    return RepeatData(table.sort_values(["observation", "scan"]).reset_index(drop=True), modalities, cohort.classes())
