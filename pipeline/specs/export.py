"""Pack the model of one repeat into one folder: a MONAI Bundle."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from evaluation.conformal import ONE_MINUS_P, SCORES, known_score
from pipeline.runner.stage import Stage
from pipeline.specs.classify import STAGE as CLASSIFY
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.confounding import STAGE as CONFOUNDING
from pipeline.specs.contribute import STAGE as CONTRIBUTE
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.pretrain import STAGE as PRETRAIN
from pipeline.specs.split import STAGE as SPLIT


class ExportConfig(BaseModel):
    """Which model is exported, and its metadata."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    repeat: int = Field(default=1, ge=1, description="whose model is exported")
    name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9._-]+$", description="of the model; null: the name of this run"
    )
    version: str = Field(default="1.0.0", pattern=r"^\d+\.\d+\.\d+$", description="of the model")
    authors: str = Field(default="not stated", min_length=1, description="of the model, as they want to be named")
    copyright: str = Field(default="not stated", min_length=1, description="whose the weights are, under which licence")
    conformal_from: Literal["held_out", "validation"] = Field(
        default="held_out",
        description="subjects whose scores set the thresholds: validation and test split, or validation split alone "
        "(docs/decisions/0010)",
    )
    conformal_score: Annotated[str, AfterValidator(known_score)] = Field(
        default=ONE_MINUS_P, description=f"how badly a class fits: {', '.join(SCORES)}"
    )
    error_rate: float = Field(
        default=0.1, gt=0, lt=1, description="at which the model card and the expected changes count abstentions"
    )
    joint: bool = Field(
        default=True,
        description="carry the joint model, where the stage joint has run: pages of new patients then show what is "
        "imputed; means of classes leave with it, and no patient",
    )
    memory_mb: int = Field(
        default=512,
        gt=0,
        description="of features held; what is more is read from a temporary file in the workspace",
        json_schema_extra={"changes_results": False},
    )
    signing_key: Path | None = Field(
        default=None,
        description="file of the key to sign the model with (docs/security.md); null: unsigned",
        json_schema_extra={"changes_results": False},
    )


STAGE = Stage(
    "export",
    function="pipeline.stages.export:export",
    config=ExportConfig,
    artifact="pipeline.deployment.bundle:BundleFolder",
    version=8,
    reads={
        "cohort": COHORT,
        "split": SPLIT,
        "preprocess": PREPROCESS,
        "features": FEATURES,
        "pretrain": PRETRAIN,
        "classify": CLASSIFY,
    },
    reads_if_present={"contribute": CONTRIBUTE, "joint": JOINT, "confounding": CONFOUNDING},
    settings={"run_name": "name"},
    external_inputs="pipeline.stages.export:signing_fingerprint",
)
