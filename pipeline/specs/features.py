"""The stage that computes feature maps with a frozen backbone."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from console.errors import InputError
from models.weights import PUBLISHED, WeightsError, check_timm_name, find_weights, weights_identity
from pipeline.runner.stage import Stage
from pipeline.specs.preprocess import STAGE as PREPROCESS

SpacingMm = tuple[float, float, float]
NOT_IN_RESULT: dict[str, JsonValue] = {"changes_results": False}


class FeaturesConfig(BaseModel):
    """The frozen network, and the slices that it is applied to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = Field(default="vgg11", description=f"{', '.join(PUBLISHED)} or timm:<name>")
    weights: Literal["published", "random"] | Path = Field(
        default="published",
        description="published; a file or folder that holds the published file; or random (seeded Kaiming)",
        json_schema_extra=NOT_IN_RESULT,
    )
    random_seed: int = Field(default=0, ge=-(2**63), lt=2**63, description="of random weights")
    field_of_view_mm: float = Field(
        default=192.0, gt=10, le=1000, description="side of an axial slice, centred on the brain"
    )
    slice_spacing_mm: float | None = Field(
        default=None, gt=0, description="distance between axial slices; null: every slice of the volume"
    )
    batch_slices: int | None = Field(
        default=None,
        ge=1,
        description="slices per forward pass; null: 4 on a CPU, whose caches they fit, 64 on a GPU",
        json_schema_extra=NOT_IN_RESULT,
    )
    precision: Literal["auto", "fp32"] = Field(
        default="auto", description="auto is half precision where the device is fast at it"
    )
    keep_slices: bool = Field(default=False, description="also keep the feature map of every slice")

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in PUBLISHED and not name.startswith("timm:"):
            raise ValueError(f"no backbone {name!r}; there are {', '.join(PUBLISHED)} and timm:<name>")
        if name.startswith("timm:"):
            try:
                check_timm_name(name.removeprefix("timm:"))
            except WeightsError as error:
                raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _no_path_for_timm(self) -> Self:
        if self.backbone.startswith("timm:") and isinstance(self.weights, Path):
            raise ValueError("timm finds its weights itself; features.weights must be published or random")
        return self


def _weights_state(config: FeaturesConfig) -> Any:
    """Return the identity of the weights: the hash of the published ones, or "random"."""
    try:
        return "random" if config.weights == "random" else weights_identity(config.backbone)
    except WeightsError as error:
        raise InputError(str(error)) from error


def _check_weights(config: FeaturesConfig) -> None:
    """Check that the weights exist and are the published ones."""
    if config.weights == "random" or config.backbone not in PUBLISHED:
        return
    try:
        find_weights(PUBLISHED[config.backbone], config.weights if isinstance(config.weights, Path) else None)
    except WeightsError as error:
        raise InputError(str(error)) from error


STAGE = Stage(
    "features",
    function="pipeline.stages.features:features",
    config=FeaturesConfig,
    artifact="pipeline.store.features:FeatureStore",
    version=1,
    reads={"preprocess": PREPROCESS},
    external_inputs=_weights_state,
    check_requirements=_check_weights,
    per_scan="pipeline.stages.features:features_job",
)
