"""Every missing scan, as the joint model imputes it: mean, standard deviation and draws; and what would tip."""

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.joint import STAGE as JOINT
from pipeline.specs.marks import MarkConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT


class ImputeConfig(MarkConfig):
    """Imputed feature maps and images (docs/synthesis.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    draws: int = Field(
        default=5, ge=2, description="of each missing feature map, kept beside mean and standard deviation"
    )
    images: int = Field(
        default=2,
        ge=0,
        description="of the draws that are also written as images, beside mean and standard deviation, where the joint "
        "model has a decoder; 0: no images",
    )
    beside: int = Field(
        default=2,
        ge=0,
        description="test patients of each modality whose own scan is shown in the report beside what is imputed in "
        "its place; with images",
    )
    seed: int = Field(default=0, ge=0, description="of the draws; each repeat adds its number")
    deltas: tuple[Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)], ...] = Field(
        default=(-2, -1.5, -1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1, 1.5, 2),
        description="standard deviations by which imputed scores are moved, 0 among them, to see when a conclusion "
        "changes; empty for none",
    )
    along: Literal["principal", "class"] = Field(
        default="principal",
        description="direction of that: principal, where scans of the modality differ most; class, between the classes",
    )
    slopes: tuple[Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)], ...] = Field(
        default=(-2, 2),
        description="stated slopes of losing a scan for what it shows (as itself in baselines.mechanisms), from -10 to "
        "10, for each of which the joint model is fitted again; empty for none",
    )

    @field_validator("deltas")
    @classmethod
    def _ascending(cls, deltas: tuple[float, ...]) -> tuple[float, ...]:
        if deltas and (list(deltas) != sorted(set(deltas)) or 0 not in deltas or len(deltas) < 2):
            raise ValueError(f"{deltas}: expected ascending numbers, 0 among them and one other at least")
        return deltas

    @field_validator("slopes")
    @classmethod
    def _each_once(cls, slopes: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(slopes)) < len(slopes) or 0 in slopes:
            raise ValueError(f"{slopes}: expected different numbers other than 0, which is missing at random")
        return slopes

    @model_validator(mode="after")
    def _images_are_draws(self) -> Self:
        if self.images > self.draws:
            raise ValueError(f"images is {self.images}; there are {self.draws} draws to make images of (impute.draws)")
        return self


STAGE = Stage(
    "impute",
    function="pipeline.stages.impute:impute",
    config=ImputeConfig,
    artifact="pipeline.store.imputed:ImputedSet",
    version=8,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES, "joint": JOINT},
    external_inputs="pipeline.store.marking:mark_of",
)
