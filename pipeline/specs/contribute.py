"""The sums of a site's training patients, for a joint model of several sites."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from files.reading import file_sha256
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.split import STAGE as SPLIT


class ContributeConfig(BaseModel):
    """What a site shares with others for a joint model of all (docs/federation.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...] = Field(
        default=(), description="of all sites, in order; empty: those of this cohort, if each site has all"
    )
    components: int = Field(default=16, ge=1, le=512, description="scores of a modality, the same at every site")
    covariates: dict[str, tuple[float, float] | tuple[str, ...]] = Field(
        default={},
        description="column → [centre, spread] of a number or [value, value, …] of a category, the same at every site",
    )
    repeat: int = Field(default=1, ge=1, description="whose training patients are summed")
    feature_maps: bool = Field(
        default=True, description="share mean and spread of feature maps too, which imputed ones are made with"
    )
    smallest_cell: int = Field(
        default=5, ge=2, description="patients of a class with the same scans and covariates; fewer are never shared"
    )
    small_cells: Literal["refuse", "leave_out"] = Field(
        default="refuse", description="what is done with smaller cells: stop and name them, or leave the patients out"
    )
    clip: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="longest score vector; longer ones are shortened"
    )
    epsilon: float | None = Field(
        default=None, gt=0, le=100, description="of differential privacy: adds Gaussian noise; needs clip"
    )
    delta: float = Field(default=1e-5, gt=0, lt=0.1, description="of differential privacy")
    site: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="this site's name among public_keys"
    )
    key: Path | None = Field(
        default=None, description="secret key of this site's masks; null: the sums are sent as they are"
    )
    public_keys: Path | None = Field(default=None, description="folder with NAME.pub of every site, this one too")
    round: str = Field(
        default="1", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="masks of another round are others"
    )

    @field_validator("covariates")
    @classmethod
    def _scales_or_values(cls, given: dict[str, Any]) -> dict[str, Any]:
        for name, values in given.items():
            numbers = [v for v in values if not isinstance(v, str)]
            if numbers and (len(values) != 2 or not values[1] > 0):
                raise ValueError(f"{name}: {list(values)}: expected [centre, spread], the spread above 0")
            if not numbers and (len(values) < 2 or len(set(values)) < len(values)):
                raise ValueError(f"{name}: {list(values)}: expected two or more different values")
        return given

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.epsilon is not None and self.clip is None:
            raise ValueError("contribute.epsilon needs contribute.clip: noise is made for the longest score vector")
        if self.epsilon is not None and self.feature_maps:
            raise ValueError(
                "contribute.epsilon needs contribute.feature_maps false: the sums of thousands of features would take "
                "noise that leaves nothing of them"
            )
        masks = (self.site, self.key, self.public_keys)
        if any(masks) and not all(masks):
            raise ValueError("contribute.site, contribute.key and contribute.public_keys go together: they make masks")
        return self


def _state_of_keys(config: ContributeConfig) -> Any:
    """Return the hashes of the key files that are there."""
    if config.key is None or config.public_keys is None:
        return None
    files = [config.key, *sorted(config.public_keys.glob("*.pub"))]
    return [[path.name, file_sha256(path)] for path in files if path.is_file()]


STAGE = Stage(
    "contribute",
    function="pipeline.stages.contribute:contribute",
    config=ContributeConfig,
    artifact="pipeline.store.contribution:ContributionSet",
    version=5,
    reads={"cohort": COHORT, "split": SPLIT, "features": FEATURES},
    settings={
        "modalities": "cohort.modalities",
        "preprocess": "preprocess",
        "features_settings": "features",
        "split_settings": "split",
    },
    external_inputs=_state_of_keys,
)
