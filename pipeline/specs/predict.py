"""Predictions for new patients with an exported model."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS


class PredictConfig(BaseModel):
    """The exported model, and the rates at which it abstains or flags scans."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path | None = Field(default=None, description="folder of an exported model; --model sets it")
    trusted: tuple[Path, ...] = Field(
        default=(),
        description="public keys, or folders of them, one of which must have signed the model; --trusted sets it",
        json_schema_extra={"changes_results": False},
    )
    error_rate: float = Field(
        default=0.1, gt=0, lt=0.5, description="share of patients whose class may lie outside of the prediction set"
    )
    outlier_rate: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="share of usual patients of whom a scan may be flagged as unlike training; needs scans/rate - 1 "
        "calibration scans, scans being those of the patient",
    )
    maps: bool = Field(
        default=False,
        description="write an occlusion map (NIfTI) for every volume used; needs features.keep_slices",
    )
    draws: int = Field(
        default=100,
        ge=20,
        le=10_000,
        description="of missing scans, if the exported model carries a joint model; HyperMM is asked with each",
    )
    known_patients: bool = Field(default=False, description="also predict patients that the model was trained on")


STAGE = Stage(
    "predict",
    function="pipeline.stages.predict:predict",
    config=PredictConfig,
    artifact="pipeline.store.predictions:PredictionSet",
    version=5,
    reads={"cohort": COHORT, "preprocess": PREPROCESS, "features": FEATURES},
    settings={"csv_safe": "report.csv_safe", "convention": "report.convention", "viewer": "report.viewer"},
    external_inputs="pipeline.stages.predict:model_fingerprint",
    check_requirements="pipeline.stages.predict:check_model",
)
