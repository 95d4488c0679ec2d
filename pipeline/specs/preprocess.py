"""Skull strip, resample and normalise every scan."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from console.errors import InputError
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from preprocessing.limits import BRAIN_ML, LARGEST_EXTENT_MM
from preprocessing.parameters import PARAMETERS_SHA256, ParametersError, numbers_of, read_parameters


class PreprocessConfig(BaseModel):
    """How a scan is turned into a brain in [0, 1] at one voxel size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spacing_mm: float = Field(default=1.5, gt=0.2, le=20, description="voxel size after bicubic resampling, mm")
    skull_strip_mode: Literal["fast", "accurate"] = Field(
        default="fast", description="HD-BET: fast is one network, accurate is five with mirroring (40 passes)"
    )
    precision: Literal["auto", "fp32"] = Field(
        default="auto", description="of HD-BET: auto is half precision where the device is fast at it"
    )
    register_to: dict[str, str] | None = Field(
        default=None,
        description="modality → modality of the same patient and session that it is rigidly registered to, whose brain "
        "mask then serves both, such as {PET: MRI}; a scan without such a partner is stripped by itself",
    )
    registration: Literal["search", "headers"] = Field(
        default="search",
        description="of register_to: search for the rigid motion; headers: the scans lie on each other already, as "
        "their headers say, such as the sequences of a registered data set",
    )
    largest_extent_mm: float = Field(
        default=LARGEST_EXTENT_MM,
        gt=0,
        description="a scan whose frame is longer along an axis is left out; a head takes less than 500, full PET 815",
        json_schema_extra={"changes_results": False},
    )
    brain_ml: tuple[float, float] = Field(
        default=BRAIN_ML,
        description="a scan with less or more brain than this, ml, is left out; beyond 500 to 2,500 it is remarked",
        json_schema_extra={"changes_results": False},
    )
    memory_gb: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="main memory that the scans of a process may take together; one that needs more is left out; null: "
        "three quarters of the machine's",
        json_schema_extra={"changes_results": False},
    )
    weights: Literal["published"] | Path = Field(
        default="published",
        description="HD-BET's parameters: published, as installed; or the folder that holds 0.model … 4.model",
        json_schema_extra={"changes_results": False},
    )

    @model_validator(mode="after")
    def _registration_is_of_pairs(self) -> Self:
        if self.registration == "headers" and not self.register_to:
            raise ValueError("registration: headers, but register_to names no modality that lies on another")
        return self

    @field_validator("brain_ml")
    @classmethod
    def _least_before_most(cls, limits: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= limits[0] < limits[1]:
            raise ValueError(f"{list(limits)}: expected the least and the largest volume of a brain in ml")
        return limits


def _parameters_state(config: PreprocessConfig) -> Any:
    """Return the hashes of the HD-BET parameters used."""
    return PARAMETERS_SHA256[: 1 if config.skull_strip_mode == "fast" else 5]


def _check_parameters(config: PreprocessConfig) -> None:
    """Check that the parameter files are in the given folder and are the published ones."""
    if isinstance(config.weights, Path):
        try:
            for number in numbers_of(config.skull_strip_mode):
                read_parameters(number, config.weights)
        except ParametersError as error:
            raise InputError(str(error)) from error


STAGE = Stage(
    "preprocess",
    function="pipeline.stages.preprocess:preprocess",
    config=PreprocessConfig,
    artifact="pipeline.store.volumes:VolumeSet",
    version=3,
    reads={"cohort": COHORT},
    external_inputs=_parameters_state,
    check_requirements=_check_parameters,
    per_scan="pipeline.stages.preprocess:preprocess_job",
)
