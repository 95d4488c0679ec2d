"""Step 1: train the universal extractor φ on single scans."""

from pydantic import Field

from models.settings import FeatureScale, Initialisation, Losses, StepOne, StopOn
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.split import STAGE as SPLIT
from pipeline.training.fit import TrainingConfig


class PretrainConfig(TrainingConfig):
    """Settings of training of φ. Values as published: batch_size 1, feature_scale none, patience 10, epochs 100."""

    losses: Losses = Field(default=StepOne.losses, description="both is MSE + cross-entropy, as published")
    embedding: int = Field(default=StepOne.embedding, ge=1, description="width of the modality embedding")
    hidden: int = Field(default=StepOne.hidden, ge=1, description="width of the hypernetwork's hidden layer")
    initialisation: Initialisation = Field(default=StepOne.initialisation, description="of the hypernetwork")
    feature_scale: FeatureScale = Field(
        default=StepOne.feature_scale, description="of feature maps, learnt from training scans (docs/decisions/0004)"
    )

    stop_on: StopOn = Field(default=StepOne.stop_on, description="what chooses the epoch; as published: loss")

    @property
    def step(self) -> StepOne:
        """Return the settings of the method."""
        return StepOne(self.losses, self.embedding, self.hidden, self.initialisation, self.feature_scale, self.stop_on)


STAGE = Stage(
    "pretrain",
    function="pipeline.stages.pretrain:pretrain",
    config=PretrainConfig,
    artifact="pipeline.store.fitted:ExtractorSet",
    version=3,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES},
)
