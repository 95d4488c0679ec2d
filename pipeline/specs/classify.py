"""Step 2: train ρ on frozen φ, and test it."""

from typing import Annotated

from pydantic import Field

from models.settings import Aggregate, StepTwo
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.split import STAGE as SPLIT
from pipeline.training.fit import TrainingConfig


class ClassifyConfig(TrainingConfig):
    """Settings of training and test of ρ. As published: hidden [512, 128], learning_rate 1e-4, batch_size 1."""

    aggregate: Aggregate = Field(default=StepTwo.aggregate, description="over the scans of a set")
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
        return StepTwo(self.aggregate, self.hidden, self.dropout, self.modality_dropout, self.batch_size)


STAGE = Stage(
    "classify",
    function="pipeline.stages.classify:classify",
    config=ClassifyConfig,
    artifact="pipeline.store.fitted:ClassifierSet",
    version=2,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES, "pretrain": PRETRAIN},
)
