"""One joint model of all modalities, and the embedding of every patient."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from console.errors import InputError
from files.reading import file_sha256
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.contribute import STAGE as CONTRIBUTE
from pipeline.specs.diffusion import ENGINE, DiffusionConfig, Engine
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT


class JointConfig(BaseModel):
    """The joint model of all modalities (docs/synthesis.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Engine = Field(default="linear", description=ENGINE)
    diffusion: DiffusionConfig = DiffusionConfig()
    basis: Literal["pca", "public"] = Field(
        default="pca",
        description="of each modality: pca of training scans; public: drawn by a seed, learnt from nobody",
    )
    components: int = Field(default=32, ge=1, description="scores of a modality at most; never more than patients / 3")
    factors: int = Field(default=4, ge=2, le=16, description="directions of the embedding")
    covariates: bool = Field(default=True, description="take the covariates of the manifest in, each as a block")
    draws: int = Field(default=30, ge=1, description="of the parameters, kept with the model")
    decoder: Literal["pca", "none"] = Field(
        default="pca",
        description="from feature maps to images, on the grid of joint.spacing_mm and joint.pixels; pca: principal "
        "components of training images; none: feature maps alone",
    )
    spacing_mm: float = Field(default=4.0, ge=2, le=10, description="voxel size of the decoder's volumes")
    pixels: int = Field(default=64, ge=16, le=256, description="side of the decoder's pictures")
    seed: int = Field(default=0, ge=0, description="of folds and draws; each repeat adds its number")
    federated: tuple[Path, ...] = Field(
        default=(),
        description="joint models of several sites, one for each repeat, used in place of fitting (docs/federation.md)",
    )

    @model_validator(mode="after")
    def _sums_are_linear(self) -> Self:
        if self.engine == "diffusion" and self.federated:
            raise ValueError(
                "engine diffusion is learnt from patients, and joint models of several sites are made of sums; leave "
                "engine at linear, or joint.federated empty"
            )
        return self


def _state_of_models(config: JointConfig) -> Any:
    """Return the hashes of the models of several sites."""
    return [file_sha256(path) for path in config.federated if path.is_file()] if config.federated else None


def _check_models(config: JointConfig) -> None:
    """Check that the models of several sites are there."""
    for path in config.federated:
        if not path.is_file():
            raise InputError(f"joint.federated: there is no file {path}")


STAGE = Stage(
    "joint",
    function="pipeline.stages.joint:joint",
    config=JointConfig,
    artifact="pipeline.store.joint:JointSet",
    version=4,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
    reads_if_present={"contribute": CONTRIBUTE},
    uses=lambda config: bool(config.federated),
    settings={
        "modalities": "cohort.modalities",
        "preprocess_settings": "preprocess",
        "features_settings": "features",
    },
    external_inputs=_state_of_models,
    check_requirements=_check_models,
)
