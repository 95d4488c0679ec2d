"""Do synthetic patients help to learn from few labels?"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.split import STAGE as SPLIT

Share = Annotated[float, Field(gt=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]


class RecycleConfig(BaseModel):
    """Synthetic patients in training, and their rivals (docs/recycling.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labelled: tuple[Share, ...] = Field(
        default=(0.1, 0.25, 0.5, 1.0), min_length=1, description="shares of training patients whose label is used"
    )
    rho: tuple[Part, ...] = Field(
        default=(0.25, 0.5), min_length=1, description="shares of a training batch that are made up"
    )
    patients: int = Field(default=200, ge=10, description="that each way makes up")
    components: int = Field(default=16, ge=1, description="scores of a modality at most; never more than patients / 3")
    epochs: int = Field(default=30, ge=1, description="of masked pretraining at most")
    batch_size: int = Field(default=16, ge=1, description="sets a step of masked pretraining")
    learning_rate: float = Field(default=1e-3, gt=0, lt=1, description="of masked pretraining")
    generation: int = Field(
        default=1, ge=1, description="refuse to make patients of a later generation, drawn from ones that were drawn"
    )
    seed: int = Field(default=0, ge=0, description="of labels, draws and networks; each repeat adds its number")


STAGE = Stage(
    "recycle",
    function="pipeline.stages.recycle:recycle",
    config=RecycleConfig,
    artifact="pipeline.store.recycle:RecycleTables",
    version=3,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES},
)
