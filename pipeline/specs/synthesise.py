"""Synthetic patients, drawn from a joint model of the training patients of one repeat."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT


class SynthesiseConfig(BaseModel):
    """Synthetic patients: how many, from whom, and what of them is drawn."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patients: int = Field(default=100, ge=1, le=100_000, description="to draw")
    repeat: int = Field(default=1, ge=1, description="whose training patients are learnt from; no other is looked at")
    decoder: Literal["pca", "none"] = Field(
        default="pca",
        description="pca: volumes and pictures too, drawn together with the feature maps; none: feature maps alone",
    )
    covariates: bool = Field(default=False, description="also draw the covariates, such as age and sex")
    spacing_mm: float = Field(default=4.0, ge=2, le=10, description="voxel size of synthetic volumes")
    pixels: int = Field(default=64, ge=16, le=256, description="side of synthetic pictures")
    components: int = Field(default=32, ge=1, description="scores of a modality at most; never more than scans / 3")
    seed: int = Field(default=0, ge=0, description="another seed draws other patients")


STAGE = Stage(
    "synthesise",
    function="pipeline.stages.synthesise:synthesise",
    config=SynthesiseConfig,
    artifact="pipeline.store.synthetic:SyntheticCohort",
    version=1,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
    settings={"label": "cohort.label"},
)
