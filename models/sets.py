"""Items grouped into sets of any size: which items a batch of sets has, without padding."""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class Rows(Protocol):
    """One row a scan, read by index: a tensor, or a buffer that reads them from a file."""

    def __getitem__(self, items: Tensor, /) -> Tensor:
        """Return some rows, (n, ...); items (n,) int64."""
        ...


@dataclass(frozen=True)
class Groups:
    """Items by set.

    Attributes:
        items: N item numbers, sorted by set, (N,) int64.
        starts: where each set begins in `items`, and N at the end, (B + 1,) int64.
    """

    items: Tensor
    starts: Tensor

    @classmethod
    def of(cls, owner: Tensor, count: int) -> Self:
        """Group items 0…N-1.

        Args:
            owner: the set of each item, (N,) int64 in [0, B).
            count: B; sets may be empty.
        """
        sizes = torch.bincount(owner, minlength=count)
        return cls(owner.argsort(stable=True), torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    def batch(self, sets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items (n,) of some sets (b,), and for each the index of its set in [0, b)."""
        sizes = self.starts[sets + 1] - self.starts[sets]
        owner = torch.repeat_interleave(torch.arange(len(sets), device=sets.device), sizes)
        within = torch.arange(len(owner), device=sets.device) - (sizes.cumsum(0) - sizes)[owner]
        return self.items[self.starts[sets][owner] + within], owner

    def of_sets(self, sets: Tensor) -> "Groups":
        """Return some sets (b,) as groups of their own; items keep their numbers."""
        sizes = self.starts[sets + 1] - self.starts[sets]
        return Groups(self.batch(sets)[0], torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]))

    def to(self, device: torch.device | str) -> "Groups":
        """Return a copy on a device."""
        return Groups(self.items.to(device), self.starts.to(device))
