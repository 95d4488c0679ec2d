"""A joint model that is updated as patients come, and forgets those who ask for it."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS


class UpdateConfig(BaseModel):
    """The joint model that is updated (docs/updating.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    components: int = Field(
        default=16, ge=1, le=256, description="scores of a modality; never more than channels; learnt from nobody"
    )
    forgetting: float = Field(
        default=1.0, gt=0, le=1, description="λ: what patients who are in still count after an update; 1: all the same"
    )
    seed: int = Field(default=0, ge=0, description="of the folds in which patients who are in are held out")


STAGE = Stage(
    "update",
    function="pipeline.stages.update:update",
    config=UpdateConfig,
    artifact="pipeline.store.update:UpdateSet",
    version=2,
    reads={"cohort": COHORT, "preprocess": PREPROCESS, "features": FEATURES},
)
