"""A joint model whose draws come from the diffusion engine; what it answers beyond them is reckoned from draws.

The linear model of the same patients stays beside it: it has the layout, who is in, the directions of the embedding and
the distances. What needs sums or a density is refused: a network is no sum over patients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.joint.blocks import FloatArray
from models.joint.diffusion import Diffusion, DiffusionConfig
from models.joint.diffusion_fit import Keep, fit_diffusion
from models.joint.gaussian import Conditional
from models.joint.model import JointModel, Patients

ANSWER_DRAWS = 64  # of each patient, that means, covariances and class probabilities are reckoned from
MEAN_DRAWS = 512  # of each class, for its mean
FEW = 1000  # training patients, below which a note says that the linear engine is the safer one


class NeedsLinearError(ValueError):
    """The diffusion engine cannot do this; the message says what can."""


@dataclass(frozen=True)
class DiffusionModel(JointModel):
    """As `JointModel`, with draws of the diffusion engine.

    Attributes:
        diffusion: fitted to the same scores.
        seed: of the draws that answers are reckoned from.
    """

    diffusion: Diffusion | None = None
    seed: int = 0

    @property
    def engine(self) -> Diffusion:
        """The fitted engine.

        Raises:
            ValueError: there is none.
        """
        if self.diffusion is None:
            raise ValueError("a diffusion model without its network; fit it with `with_diffusion`")
        return self.diffusion

    def on(self, device: torch.device | str) -> Self:
        """Move the network to a device."""
        self.engine.to(device)
        return self

    def draw_scores(
        self,
        rows: FloatArray,
        count: int,
        random: np.random.Generator,
        labels: NDArray[np.int64] | None = None,
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Draw the missing scores of patients (n, d), and their classes, by the network."""
        return self.engine.draw(rows, count, random, labels)

    def condition(self, rows: FloatArray, labels: NDArray[np.int64] | None = None) -> Conditional:
        """Return mean and covariance of `ANSWER_DRAWS` draws; observed scores as they are, their covariance 0.

        The seed is fixed, and the noise goes by the place of a row: the same rows in the same order have the same
        answers; a patient asked about beside others has other draws.
        """
        random = np.random.default_rng([self.seed, 21])
        drawn, classes = self.draw_scores(rows, ANSWER_DRAWS, random, labels)
        mean = drawn.mean(axis=0)
        off = drawn - mean
        covariance = np.einsum("sni,snj->nij", off, off) / (ANSWER_DRAWS - 1)
        known = ~np.isnan(rows)
        mean[known] = rows[known]
        covariance[known[:, :, None] | known[:, None, :]] = 0.0
        shares = np.eye(self.gaussian.classes)[classes].mean(axis=0)
        return Conditional(mean, covariance, shares)

    def class_means(self) -> FloatArray:
        """Return the mean of draws of each class, (K, d); of a class without training patients, that of the sums."""
        return self._class_means

    @cached_property
    def _class_means(self) -> FloatArray:
        means = self.gaussian.estimate.mean.copy()
        random = np.random.default_rng([self.seed, 22])
        for label in np.flatnonzero(self.gaussian.estimate.share > 0):
            empty = np.full((MEAN_DRAWS, self.blocks.width), np.nan)
            means[label] = self.draw_scores(empty, 1, random, np.full(MEAN_DRAWS, label))[0][0].mean(axis=0)
        return means

    def class_probabilities(self, patients: Patients) -> FloatArray:
        """Return the share of draws of each class given the scans, (n, K): steps of 1 / `ANSWER_DRAWS`."""
        return self.condition(self.scores(patients)).classes

    def log_density(self, rows: FloatArray) -> FloatArray:
        """Refuse: the network draws and tells no density."""
        raise NeedsLinearError("the diffusion engine draws and has no density; fit engine: linear for log_density")

    def merge(self, other: JointModel) -> JointModel:
        """Refuse: networks of two sites do not add up."""
        raise NeedsLinearError("networks do not add up; fit engine: linear, whose sums do (docs/federation.md)")

    def subtract(self, other: JointModel) -> JointModel:
        """Refuse: a patient is not taken out of a network."""
        raise NeedsLinearError(
            "a patient is not taken out of a network; train it again without that patient, or fit engine: linear, "
            "whose sums are subtracted (docs/updating.md)"
        )


def with_diffusion(
    model: JointModel,
    scores: FloatArray,
    labels: NDArray[np.int64],
    config: DiffusionConfig,
    *,
    device: torch.device | str = "cpu",
    state: Mapping[str, Tensor] | None = None,
    keep: Keep | None = None,
    advance: Callable[[], None] = lambda: None,
) -> DiffusionModel:
    """Train the diffusion engine on what a linear model was learnt from.

    Args:
        model: of `fit_model`.
        scores: that `fit_model` returned with it, (n, d).
        labels: classes of the same patients, (n,).
        config: size and training.
        device: to train on; the network stays there.
        state: to go on from, as `keep` was given it.
        keep: called with the state every so many steps.
        advance: called after each step.
    """
    known = ~np.isnan(scores).all(axis=1)  # a patient without any score tells the class alone, as the sums have it
    network = fit_diffusion(
        scores[known], labels[known], model.blocks, model.gaussian.classes, config,
        device=device, state=state, keep=keep, advance=advance,
    )  # fmt: skip
    notes = model.notes
    if known.sum() < FEW:
        notes = (*notes, f"the diffusion engine learnt from {known.sum()} patients; with fewer than {FEW} compare it "
                 "with engine: linear before its draws are believed")  # fmt: skip
    own = {item.name: getattr(model, item.name) for item in fields(JointModel)}
    return DiffusionModel(**{**own, "notes": notes}, diffusion=network, seed=config.seed)
