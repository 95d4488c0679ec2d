"""What else could explain the result: methods that see no image, probes of the feature maps, groups of patients."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.baselines import STAGE as BASELINES
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.impute import STAGE as IMPUTE
from pipeline.specs.judge import STAGE as JUDGE
from pipeline.specs.split import STAGE as SPLIT
from pipeline.specs.synthesise import STAGE as SYNTHESISE


class ConfoundingConfig(BaseModel):
    """What else could explain the result: covariates, which scans there are, site."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    smallest_group: int = Field(
        default=10,
        ge=2,
        description="subjects of each class that a group needs to be scored, and of each value to probe",
    )
    permutations: int = Field(
        default=2000, ge=100, le=100_000, description="random groups that a gap between groups is held against"
    )
    beside: Path | None = Field(
        default=None,
        description="another workspace of the same cohort whose result is shown beside, such as one with split.by site",
    )
    seed: int = Field(
        default=0, ge=0, description="of the bootstrap, of the folds of the probes and of the random groups"
    )


STAGE = Stage(
    "confounding",
    function="pipeline.stages.confounding:confounding",
    config=ConfoundingConfig,
    artifact="pipeline.store.confounding:ConfoundingTables",
    version=7,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES, "classify": CLASSIFY},
    reads_if_present={"baselines": BASELINES, "impute": IMPUTE, "synthesise": SYNTHESISE, "judge": JUDGE},
    external_inputs="pipeline.stages.confounding:state_of_beside",
    check_requirements="pipeline.stages.confounding:check_beside",
)
