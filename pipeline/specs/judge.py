"""Judge synthetic patients against real ones, and release them or not."""

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT
from pipeline.specs.synthesise import STAGE as SYNTHESISE


class JudgeConfig(BaseModel):
    """When synthetic patients are released."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_copied: float = Field(
        default=0.05, ge=0, lt=1, description="share of synthetic scans of a modality that may be copies of real ones"
    )
    accept_copies: bool = Field(
        default=False, description="release synthetic patients though there are more copies; --accept-copies sets it"
    )
    unseen: bool = Field(
        default=True,
        description="judge images in a space that the generator never saw too: HD-BET's bottleneck for volumes, if its "
        "parameters are there, and VGG11 of random weights for pictures",
    )
    seed: int = Field(default=0, ge=0, description="of permutations and random halves")


STAGE = Stage(
    "judge",
    function="pipeline.stages.judge:judge_synthetic",
    config=JudgeConfig,
    artifact="pipeline.store.synthetic:JudgementTables",
    version=4,
    reads={
        "cohort": COHORT,
        "split": SPLIT,
        "preprocess": PREPROCESS,
        "features": FEATURES,
        "synthesise": SYNTHESISE,
    },
    settings={"parameters": "preprocess.weights"},
)
