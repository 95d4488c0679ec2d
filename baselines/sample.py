"""The input of every baseline: the cached feature maps of one repeat with their observations and labels."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from models.scale import feature_scale

Result = TypeVar("Result")


@dataclass(frozen=True)
class Sample:
    """Feature maps of one repeat. An observation is a subject at a session, with one label and one prediction.

    Attributes:
        feature_maps: z of every scan that may be used, (N, C, H, W), float32.
        modality: (N,), int64 in [0, M).
        observation: (N,), int64 in [0, B): the observation of each scan. Several scans of one modality are allowed.
        target: (B,), int64 in [0, K).
        train: observations to learn from, (T,), int64.
        validation: observations that decide when to stop, (V,), int64, V >= 0.
        test: observations to be tested, (S,), int64; nothing is fitted on them.
        modalities: M.
        classes: K.
        subject: of each observation, (B,), int64; None: each is of another subject.
        session: of each observation, (B,), int64, ascending in time; None: observations are in that order.
        synthetic: whether an observation is of a patient that never was, (B,), bool; None: none is. A classifier may be
            trained on them; a model that says how sure it is must not learn from them, since they would count as
            patients.
    """

    feature_maps: Tensor
    modality: Tensor
    observation: Tensor
    target: Tensor
    train: Tensor
    validation: Tensor
    test: Tensor
    modalities: int
    classes: int
    subject: Tensor | None = None
    session: Tensor | None = None
    synthetic: Tensor | None = None

    @property
    def modality_mask(self) -> Tensor:
        """Which modalities each observation has, (B, M), bool."""
        modality_mask = torch.zeros(
            len(self.target), self.modalities, dtype=torch.bool, device=self.feature_maps.device
        )
        modality_mask[self.observation, self.modality] = True
        return modality_mask

    def scans_of(self, observations: Tensor) -> Tensor:
        """Return the scans of some observations, (n,), int64, in the order of the feature maps."""
        wanted = torch.zeros(len(self.target), dtype=torch.bool, device=self.observation.device)
        wanted[observations] = True
        return wanted[self.observation].nonzero().squeeze(1)

    def grid(self) -> Tensor:
        """Return mean feature maps by observation and modality, (B, M, C, H, W), float32; 0 where missing."""
        count = len(self.target)
        cell = self.observation * self.modalities + self.modality
        total = self.feature_maps.new_zeros(count * self.modalities, *self.feature_maps.shape[1:])
        total.index_add_(0, cell, self.feature_maps)
        scans = torch.bincount(cell, minlength=count * self.modalities).clamp_min(1)
        return (total / scans.view(-1, 1, 1, 1)).unflatten(0, (count, self.modalities))

    def scale(self) -> tuple[Tensor, Tensor]:
        """Return centre and spread used by `standardised`, estimated on scans of training observations only.

        Returns:
            Centre (M, C, H, W) and spread (M, 1, 1, 1), as φ's own; see `models.scale.feature_scale`.
        """
        scans = self.scans_of(self.train)
        like = self.feature_maps.new_empty(self.modalities, *self.feature_maps.shape[1:])
        return feature_scale(lambda: [(self.feature_maps[scans], self.modality[scans])], like=like, how="standardise")

    def standardised(self) -> "Sample":
        """Subtract each modality's mean training feature map, then divide by the root mean square, as φ does."""
        centre, spread = self.scale()
        return replace(self, feature_maps=(self.feature_maps - centre[self.modality]) / spread[self.modality])

    def to(self, device: torch.device | str) -> "Sample":
        """Return a copy on a device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def without(self, hidden: Tensor) -> "Sample":
        """Return the sample without some scans.

        Args:
            hidden: (N,), bool. Observations may end up without a scan; they keep their number.
        """
        return replace(
            self,
            feature_maps=self.feature_maps[~hidden],
            modality=self.modality[~hidden],
            observation=self.observation[~hidden],
        )

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Return what `compute` gives; a `SharingSample` computes it once for all methods that ask for the same.

        Args:
            key: all that the result is made from beside the sample.
            compute: makes it. The result is not changed afterwards: who trains it on takes a copy.
        """
        return compute()

    def reused_seconds(self) -> float:
        """Return how long it took to compute, the first time, what `once` then gave again; 0 if nothing is kept."""
        return 0.0

    def sharing(self) -> "SharingSample":
        """Return the same sample as one that computes once what several methods have in common."""
        return SharingSample(**{item.name: getattr(self, item.name) for item in fields(Sample)})


@dataclass(frozen=True)
class SharingSample(Sample):
    """A sample that keeps what several methods train or compute alike, for as long as it lives itself.

    A changed copy (`standardised`, `without`) starts with nothing kept, since it has other data.

    Attributes:
        kept: key → result and the seconds it took.
        reused: seconds of each result that was given again.
    """

    kept: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, init=False, repr=False, compare=False)
    reused: list[float] = field(default_factory=list, init=False, repr=False, compare=False)

    def once(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """As `Sample.once`. What raises is not kept."""
        if key in self.kept:
            result, seconds = self.kept[key]
            self.reused.append(seconds)
            return result
        started = time.monotonic()
        result = compute()
        self.kept[key] = result, time.monotonic() - started
        return result

    def reused_seconds(self) -> float:
        """As `Sample.reused_seconds`."""
        return sum(self.reused)


class Fitted(Protocol):
    """A trained baseline.

    Attributes:
        parameters: trained numbers.
    """

    parameters: int

    def probabilities(self, sample: Sample) -> Tensor:
        """Return class probabilities of a sample, which may have fewer scans than the one trained on.

        Returns:
            (B, K), float64; a row of NaN for an observation that this baseline cannot take.
        """
        ...


class CannotFit(ValueError):
    """This baseline cannot learn from this sample; the message says why."""
