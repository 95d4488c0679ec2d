"""Questions asked in silico: had one modality shown something else, what would the others and the class look like?"""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.runner.stage import Stage
from pipeline.specs.cohort import STAGE as COHORT
from pipeline.specs.features import STAGE as FEATURES
from pipeline.specs.marks import MarkConfig
from pipeline.specs.preprocess import STAGE as PREPROCESS
from pipeline.specs.split import STAGE as SPLIT
from synthesis.questions import parse_along

LENGTH = re.compile(r"[+-]?(\d+\.?\d*|\.\d+) sd")


def _along(text: str) -> str:
    parse_along(text)
    return text


def _by(text: str) -> str:
    if not LENGTH.fullmatch(text) or not 0 < abs(float(text.removesuffix(" sd"))) <= 5:
        raise ValueError(f"{text!r}: expected a length such as 1 sd or -0.5 sd, at most 5 sd")
    return text


class Hypothesis(BaseModel):
    """One question: a source that is clamped, or one that is ablated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clamp: str | None = Field(default=None, min_length=1, description="modality that is moved")
    along: Annotated[str, AfterValidator(_along)] = Field(
        default="class", description="class, component 3, or region 2-4 3-5 (rows and columns of a feature map)"
    )
    by: Annotated[str, AfterValidator(_by)] = Field(default="1 sd", description="how far, such as -1 sd")
    ablate: str | None = Field(default=None, min_length=1, description="modality that is taken away")
    held: tuple[str, ...] = Field(default=(), description="covariates or modalities that are held fixed, or class")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.clamp is None) == (self.ablate is None):
            raise ValueError("a hypothesis names either clamp or ablate")
        if self.ablate is not None and self.model_fields_set & {"along", "by"}:
            raise ValueError("what is ablated has no along and no by")
        if self.source in self.held:
            raise ValueError(f"{self.source} cannot be held and moved")
        return self

    @property
    def source(self) -> str:
        """The modality that is moved or taken away."""
        return self.clamp or self.ablate or ""

    def __str__(self) -> str:
        """Return it in a line."""
        held = f", {', '.join(self.held)} held" if self.held else ""
        if self.ablate is not None:
            return f"without {self.ablate}{held}"
        return f"{self.clamp} along {self.along} by {self.by}{held}"


def _all_different(hypotheses: tuple[Hypothesis, ...]) -> tuple[Hypothesis, ...]:
    names = [str(each) for each in hypotheses]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]} stands in the list twice; ask each hypothesis once")
    return hypotheses


class HypothesiseConfig(MarkConfig):
    """Questions asked in silico (docs/hypotheses.md)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hypotheses: Annotated[tuple[Hypothesis, ...], AfterValidator(_all_different)] = Field(
        default=(), description="list of {clamp, along, by, held} or {ablate, held}; none: each modality along class"
    )
    seed: int = Field(
        default=0, ge=0, description="of permuted pairings and random directions; each repeat adds its own"
    )


STAGE = Stage(
    "hypothesise",
    function="pipeline.stages.hypothesise:hypothesise",
    config=HypothesiseConfig,
    artifact="pipeline.store.hypotheses:HypothesisTables",
    version=5,
    reads={"cohort": COHORT, "split": SPLIT, "preprocess": PREPROCESS, "features": FEATURES},
    settings={"joint": "joint"},
    external_inputs="pipeline.store.marking:mark_of",
)
