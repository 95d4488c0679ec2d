"""What one repeat trains, validates and tests on: tables and cached blocks joined by subject and scan name.

Never by position: the published code pairs modalities by their place in a list, which mixes patients as soon as one
scan is missing (docs/method.md, point 2).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.artifacts import BlockSet, CohortTables, SplitTables

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Usable:
    """The scans that take part in a repeat, one row each, and the numbers that go with them.

    Attributes:
        scans: scan, observation, subject, modality, label, part; index 0…N-1 is the row of the tensors.
        modalities: names; the index of a modality is its place here.
        classes: names; the index of a class is its place here.
    """

    scans: "pd.DataFrame"
    modalities: tuple[str, ...]
    classes: tuple[str, ...]

    def modality(self) -> "Tensor":
        """(N,) int64."""
        import torch

        return torch.tensor([self.modalities.index(m) for m in self.scans["modality"]], dtype=torch.int64)

    def target(self) -> "Tensor":
        """(N,) int64: the class of the scan's observation."""
        import torch

        return torch.tensor([self.classes.index(c) for c in self.scans["label"]], dtype=torch.int64)

    def rows(self, part: str) -> "Tensor":
        """(n,) int64: the scans of a part."""
        import torch

        return torch.tensor(self.scans.index[self.scans["part"] == part].to_numpy(), dtype=torch.int64)

    def subjects(self, part: str) -> list[str]:
        """The subjects of a part, sorted."""
        return sorted(set(self.scans.loc[self.scans["part"] == part, "subject"]))


@dataclass(frozen=True)
class Sets:
    """Scans grouped into sets, one an observation.

    Attributes:
        observations: names, one a set; the order of the tensors below.
        scans: scans sorted by set, N rows of the features.
        starts: where each set begins in `scans`, and N at the end, (B + 1,) int64.
        target: class of each set, (B,) int64.
    """

    observations: tuple[str, ...]
    scans: "Tensor"
    starts: "Tensor"
    target: "Tensor"

    @classmethod
    def of(cls, usable: Usable, part: str | None = None, modalities: frozenset[str] | None = None) -> "Sets":
        """The sets of a part, with only the scans of some modalities; sets that are left empty are not there."""
        import torch

        scans = usable.scans
        if part is not None:
            scans = scans[scans["part"] == part]
        if modalities is not None:
            scans = scans[scans["modality"].isin(modalities)]
        groups = scans.groupby("observation", sort=True)
        names = tuple(groups.groups)
        members = [groups.get_group(name).index.to_list() for name in names]
        labels = [usable.classes.index(groups.get_group(name)["label"].iloc[0]) for name in names]
        sizes = torch.tensor([0, *(len(m) for m in members)], dtype=torch.int64)
        flat = torch.tensor([row for m in members for row in m], dtype=torch.int64)
        return cls(names, flat, sizes.cumsum(0), torch.tensor(labels, dtype=torch.int64))

    def batch(self, sets: "Tensor") -> "tuple[Tensor, Tensor]":
        """Scans (n,) of some sets (b,), and for each its place among them in [0, b)."""
        import torch

        sizes = self.starts[sets + 1] - self.starts[sets]
        owner = torch.repeat_interleave(torch.arange(len(sets), device=sets.device), sizes)
        within = torch.arange(len(owner), device=sets.device) - (sizes.cumsum(0) - sizes)[owner]
        return self.scans[self.starts[sets][owner] + within], owner

    def to(self, device: "torch.device") -> "Sets":
        """The same on a device."""
        return Sets(self.observations, self.scans.to(device), self.starts.to(device), self.target.to(device))


def repeats_of(split: SplitTables) -> list[int]:
    """The numbers of the repeats, from 1."""
    return sorted(split.splits()["repeat"].unique().tolist())


def usable_scans(cohort: CohortTables, split: SplitTables, blocks: BlockSet, repeat: int) -> Usable:
    """Scans that are available, have a block, and whose subject has a part in the repeat."""
    scans = cohort.scans()
    splits = split.splits()
    part_of = splits[splits["repeat"] == repeat].set_index("subject")["part"]
    hidden = split.availability().set_index("scan")["available"]
    here = set(blocks.scans())
    scans = scans[
        scans["scan"].isin(here)
        & scans["scan"].map(hidden).fillna(False).astype(bool)
        & scans["subject"].isin(part_of.index)
    ]
    table = scans[["scan", "observation", "subject", "modality", "label"]].assign(part=scans["subject"].map(part_of))
    modalities = tuple(sorted(cohort.scans()["modality"].unique()))
    return Usable(table.sort_values(["observation", "scan"]).reset_index(drop=True), modalities, cohort.classes())


def class_weights(target: "Tensor", classes: int) -> "Tensor":
    """Weights (K,) that make every class count alike: N / (K · n_k); 0 for a class that is not there."""
    import torch

    counts = torch.bincount(target, minlength=classes).float()
    return torch.where(counts > 0, len(target) / (classes * counts.clamp_min(1)), torch.zeros(classes))
