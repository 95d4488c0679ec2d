"""Every baseline in every scenario."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from baselines.names import KEYS
from cohort.mechanisms import Slope
from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.marks import MarkConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT
from pipeline.training.fit import FitConfig


class GanConfig(BaseModel):
    """Sizes of the image-translation networks. The defaults are the published ones; they need a GPU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pixels: int = Field(default=256, ge=32, multiple_of=16, description="of a slice, both sides")
    slice_spacing_mm: float = Field(default=3.0, gt=0, description="between the slices trained on")
    field_of_view_mm: float = Field(default=192.0, gt=10, description="side of a slice")
    pix2pix_epochs: int = Field(default=200, ge=1, description="of pix2pix")
    cyclegan_epochs: int = Field(
        default=200, ge=1, description="of cycleGAN, whose epochs cost about six times as much"
    )
    batch_size: int = Field(default=1, ge=1, description="slices a step")
    width: int = Field(default=64, ge=4, description="channels of the first layer")
    blocks: int | None = Field(default=None, ge=1, description="residual blocks of cycleGAN; null: 6, or 9 from 256 px")
    discriminator_layers: int = Field(default=3, ge=1, le=5, description="3 judges 70×70 pixels, 2 judges 34×34")

    def describe(self) -> str:
        """Describe what was trained, for the page."""
        return (
            f"{self.pixels}×{self.pixels} pixels, slices {self.slice_spacing_mm:g} mm apart, width {self.width}, "
            f"{self.pix2pix_epochs} epochs of pix2pix, {self.cyclegan_epochs} of cycleGAN"
        )


class MechanismsConfig(BaseModel):
    """Reasons for which patients lose a scan, in training and in the test, for the scenarios `mechanisms`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasons: tuple[Literal["random", "covariate", "other", "itself", "class"], ...] = Field(
        default=("random", "other", "itself", "class"),
        min_length=1,
        description="each of them in training, and each in the test of each",
    )
    modality: str | None = Field(default=None, min_length=1, description="that is lost; null: the last by name")
    share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="of the patients with every modality who lose it"
    )
    slope: Slope = Field(default=2.0, description="how strongly the reason decides, see split.missing")
    other: str | None = Field(
        default=None, min_length=1, description="modality that decides, for other; null: the first one that is not lost"
    )
    of: str | None = Field(default=None, min_length=1, description="column of cohort.covariates, for covariate")
    value: str | None = Field(default=None, min_length=1, description="value of that column, if it is no number")
    shuffled: bool = Field(
        default=False,
        description="train once more for each reason but random and class, with who lost the scan shuffled within each "
        "class: as many of each class, and no longer for the reason",
    )

    @field_validator("reasons")
    @classmethod
    def _each_once(cls, reasons: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(reasons)) < len(reasons):
            raise ValueError(f"{', '.join(reasons)}: name each reason once")
        return reasons

    @model_validator(mode="after")
    def _a_covariate_is_named(self) -> Self:
        if "covariate" in self.reasons and self.of is None:
            raise ValueError("reason covariate: name a column of cohort.covariates in `of`")
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for reason, names in {"covariate": ("of", "value"), "other": ("other",)}.items():
            given = [name for name in names if getattr(self, name) is not None]
            if given and reason not in self.reasons:
                raise ValueError(
                    f"{', '.join(given)} is for reason {reason}, and reasons are {', '.join(self.reasons)}; name "
                    f"{reason} in reasons, or leave {', '.join(given)} out"
                )
        if self.shuffled and not set(self.reasons) - {"random", "class"}:
            raise ValueError(
                f"shuffled: reasons are {', '.join(self.reasons)}, and shuffled within each class these lose scans as "
                "before; name covariate, other or itself in reasons, or leave shuffled out"
            )
        return self


class BaselinesConfig(FitConfig, MarkConfig):
    """Baselines and scenarios of the comparison."""

    only: tuple[str, ...] = Field(default=(), description=f"baselines; empty for all that apply. {', '.join(KEYS)}")
    scenarios: tuple[Literal["complete", "missing", "as_it_is", "fewer_patients", "mechanisms", "subsets"], ...] = (
        Field(
            default=("complete", "missing"),
            min_length=1,
            description="complete: subjects with every modality; missing: those, with each modality hidden in turn; "
            "as_it_is: whatever each subject has; fewer_patients: that, with a part of the training patients; "
            "mechanisms: subjects with every modality, scans missing for a reason, in training and in the test; "
            "subsets: as as_it_is, and tested with every subset of modalities",
        )
    )
    rates: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.5,), description="shares hidden in training and test, for missing"
    )
    patients: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(0.25, 0.5, 0.75), min_length=1, description="shares of the training patients, for fewer_patients"
    )
    mechanisms: MechanismsConfig = Field(default=MechanismsConfig(), description="reasons, for mechanisms")
    curve_rates: tuple[float, ...] = Field(
        default=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9),
        description="shares hidden in the test split of the complete scenario; one trained model serves all",
    )
    published: Literal["ADNI", "BreakHis"] | None = Field(
        default=None, description="cohort whose published figures are shown beside ours"
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="processes that train baselines side by side on the CPU; null: one per core, as far as memory goes",
        json_schema_extra={"changes_results": False},
    )
    gan: GanConfig = Field(default=GanConfig(), description="pix2pix and cycleGAN")

    @field_validator("only")
    @classmethod
    def _known(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if key not in KEYS:
                raise ValueError(f"no baseline {key!r}; there are {', '.join(KEYS)}")
        return keys

    @field_validator("rates", "curve_rates", "patients")
    @classmethod
    def _shares(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= rate < 1 for rate in rates) or len(set(rates)) < len(rates):
            raise ValueError(f"{rates}: expected different shares from 0 up to (not including) 1")
        return rates


STAGE = Stage(
    "baselines",
    function="pipeline.stages.baselines:baselines",
    config=BaselinesConfig,
    artifact="pipeline.store.comparison:ComparisonSet",
    version=6,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
    settings={"preprocess_config": "preprocess", "features_config": "features"},
    external_inputs="pipeline.store.marking:mark_of",
)
