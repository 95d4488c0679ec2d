"""The defaults of training and of HyperMM, in one place and without torch: the command line shows them in no time."""

from dataclasses import dataclass
from typing import Literal

CHUNK = 256  # scans or sets handled at once where all are gone through; 25 MB of VGG feature maps
Losses = Literal["both", "classification", "reconstruction"]
Initialisation = Literal["principled", "default"]
StopOn = Literal["classification", "loss"]
FeatureScale = Literal["standardise", "scale", "none"]
Aggregate = Literal["mean", "sum", "max"]
Fit = Literal["folds", "epochs"]


@dataclass(frozen=True)
class Training:
    """Settings of the one fit loop, `models.fit.fit`.

    Attributes:
        epochs: largest number of epochs.
        batch_size: items a step.
        learning_rate: of Adam.
        weight_decay: of Adam (L2 term, as published).
        patience: epochs without a lower validation loss before stopping.
        seed: of weights, order and draws; `seed_of_repeat` gives that of a repeat.

    Source: HyperMM, section 3.1, and the authors' code.
    """

    epochs: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    patience: int = 10
    seed: int = 0


@dataclass(frozen=True)
class StepOne:
    """Settings of φ and its training on single scans (docs/decisions/0004).

    Attributes:
        losses: both is MSE + cross-entropy, as published.
        embedding: width of the modality embedding.
        hidden: width of the hypernetwork's hidden layer.
        initialisation: of the hypernetwork.
        feature_scale: of feature maps, learnt from training scans; as published: none.
        stop_on: what chooses the epoch on validation scans: the cross-entropy alone, which is what φ is for, or the
            whole loss, as published; without a cross-entropy it is the loss.
    """

    losses: Losses = "both"
    embedding: int = 5
    hidden: int = 20
    initialisation: Initialisation = "principled"
    feature_scale: FeatureScale = "standardise"
    stop_on: StopOn = "classification"


@dataclass(frozen=True)
class StepTwo:
    """Settings of ρ and its training on sets (docs/decisions/0005, 0017).

    Attributes:
        fit: "folds" is a penalised linear ρ, its penalty chosen by inner folds (`models.penalised`); "epochs" is
            gradient steps until validation sets say stop, as published.
        aggregate: over the scans of a set; None is the sum by folds and the mean by epochs (docs/decisions/0030).
        hidden: widths of ρ's hidden layers; (512, 128) as published, none makes ρ linear.
        dropout: share of hidden units dropped in training; by epochs only, as the next two.
        modality_dropout: chance that a training scan is left out of its set, never the last.
        batch_size: observations a step; as published: 1.
    """

    fit: Fit = "folds"
    aggregate: Aggregate | None = None
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    modality_dropout: float = 0.0
    batch_size: int = 4

    @property
    def how(self) -> Aggregate:
        """Return the aggregate that is taken."""
        return self.aggregate or ("sum" if self.fit == "folds" else "mean")


def seed_of_repeat(seed: int, repeat: int) -> int:
    """Return the seed of one repeat of a run; every stage and baseline uses this."""
    return 1000 * seed + repeat
