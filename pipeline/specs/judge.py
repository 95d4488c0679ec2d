"""Judge synthetic patients against real ones, and release them or not."""

import functools
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT
from pipeline.specs.synthesise import STAGE as SYNTHESISE
from preprocessing.parameters import ParametersError, parameter_file, read_parameters


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


def parameters_state(config: JudgeConfig, parameters: str | Path) -> bool | None:
    """Return whether HD-BET's parameters are there to judge volumes with; None if they are not wanted.

    Args:
        config: of the stage.
        parameters: `preprocess.weights`.
    """
    if not config.unseen:
        return None
    folder = parameters if isinstance(parameters, Path) else None
    try:
        state = parameter_file(0, folder).stat()
    except (ParametersError, OSError):
        return False
    return _published(folder, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _published(folder: Path | None, size: int, changed: int) -> bool:
    """Return whether the parameter file is the published one; asked again if its size or time changes."""
    try:
        read_parameters(0, folder)
    except ParametersError:
        return False
    return True


STAGE = Stage(
    "judge",
    function="pipeline.stages.judge:judge_synthetic",
    config=JudgeConfig,
    artifact="pipeline.store.synthetic:JudgementTables",
    version=5,
    reads={
        "cohort": COHORT,
        "split": SPLIT,
        "preprocess": PREPROCESS,
        "features": FEATURES,
        "synthesise": SYNTHESISE,
    },
    settings={"parameters": "preprocess.weights"},
    external_inputs=parameters_state,
)
