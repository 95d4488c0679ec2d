"""Step 2: train ρ on frozen φ, and test it."""

import dataclasses
from typing import Annotated, Self

from pydantic import Field, model_validator

from models.settings import Aggregate, Fit, StepTwo
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.split import STAGE as SPLIT
from pipeline.training.fit import TrainingConfig

OF_EPOCHS = (
    "hidden", "dropout", "modality_dropout", "epochs", "patience", "batch_size", "learning_rate", "weight_decay",
)  # fmt: skip


class ClassifyConfig(TrainingConfig):
    """Settings of training and test of ρ.

    As published: fit epochs, hidden [512, 128], learning_rate 1e-4, batch_size 1.
    """

    fit: Fit = Field(
        default=StepTwo.fit,
        description="folds: a penalised linear ρ, the penalty chosen by inner folds; epochs: gradient steps until "
        "validation says stop, as published",
    )
    aggregate: Aggregate = Field(
        default=StepTwo().how, description="over the scans of a set; by epochs the default is the mean, as published"
    )
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=StepTwo.hidden, description="widths of ρ's hidden layers; [512, 128] as published, [] makes ρ linear"
    )
    dropout: float = Field(default=StepTwo.dropout, ge=0, lt=1, description="share of hidden units dropped in training")
    modality_dropout: float = Field(
        default=StepTwo.modality_dropout,
        ge=0,
        lt=1,
        description="chance that a training scan is left out of its set, never the last",
    )
    batch_size: int = Field(default=StepTwo.batch_size, ge=1, description="observations a step")

    @property
    def step(self) -> StepTwo:
        """Return the settings of the method."""
        return StepTwo(**{field.name: getattr(self, field.name) for field in dataclasses.fields(StepTwo)})

    @model_validator(mode="before")
    @classmethod
    def _aggregate_of_the_fit(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("fit") == "epochs":
            return {"aggregate": StepTwo(fit="epochs").how, **given}
        return given

    @model_validator(mode="after")
    def _only_what_is_read(self) -> Self:
        if self.fit == "folds":
            for name in OF_EPOCHS:
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} is {value}, which fit: folds does not read; set fit: epochs, or leave {name} out"
                    )
        return self


STAGE = Stage(
    "classify",
    function="pipeline.stages.classify:classify",
    config=ClassifyConfig,
    artifact="pipeline.store.fitted:ClassifierSet",
    version=5,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES, "pretrain": PRETRAIN},
)
