"""Every missing feature map, as the joint model imputes it: mean, standard deviation and draws."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.split import STAGE as SPLIT


class ImputeConfig(BaseModel):
    """Imputed feature maps (docs/synthesis.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: int = Field(
        default=5, ge=2, description="of each missing feature map, kept beside mean and standard deviation"
    )
    seed: int = Field(default=0, ge=0, description="of the draws; each repeat adds its number")


STAGE = Stage(
    "impute",
    function="pipeline.stages.impute:impute",
    config=ImputeConfig,
    artifact="pipeline.store.imputed:ImputedSet",
    version=2,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES, "joint": JOINT},
)
