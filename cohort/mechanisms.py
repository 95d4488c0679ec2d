"""Why a scan is missing: the setting `split.missing`, a share or a share with a mechanism."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

RANDOM, COVARIATE, OTHER, ITSELF, CLASS = MECHANISMS = ("random", "covariate", "other", "itself", "class")
"""Nothing; a covariate; what another modality shows; what the scan itself shows; the class decides who loses a scan."""

Slope = Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]


class Missing(BaseModel):
    """Which share of the subjects loses a modality, and what that depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    share: float = Field(ge=0, lt=1, description="share of the subjects who have the modality")
    mechanism: Literal["random", "covariate", "other", "itself", "class"] = Field(
        default="random", description="what decides who loses it"
    )
    slope: Slope = Field(
        default=2.0,
        description="log of how much likelier a subject is the next to lose it: per standard deviation of a number, or "
        "for having the value; below 0 less likely",
    )
    of: str | None = Field(default=None, min_length=1, description="column of cohort.covariates, for covariate")
    value: str | None = Field(
        default=None, min_length=1, description="value of that column, or class; null: the positive class"
    )

    @model_validator(mode="before")
    @classmethod
    def _plain_share(cls, given: Any) -> Any:
        return {"share": given} if isinstance(given, int | float | str) else given

    @model_validator(mode="after")
    def _fits_the_mechanism(self) -> Self:
        if self.mechanism in (OTHER, ITSELF):
            raise ValueError(
                f"mechanism {self.mechanism}: what a scan shows is not known when patients are split; "
                "baselines.scenarios: [mechanisms] has it"
            )
        if self.mechanism == COVARIATE and self.of is None:
            raise ValueError("mechanism covariate: name a column of cohort.covariates in `of`")
        given = {"slope": "slope" in self.model_fields_set, "of": self.of is not None, "value": self.value is not None}
        wrong = [name for name, is_given in given.items() if is_given and name not in self._used]
        if wrong:
            raise ValueError(f"mechanism {self.mechanism} has no {', '.join(wrong)}")
        return self

    @property
    def _used(self) -> tuple[str, ...]:
        return {RANDOM: (), CLASS: ("slope", "value"), COVARIATE: ("slope", "of", "value")}[self.mechanism]

    @model_serializer(mode="wrap")
    def _as_given(self, usual: SerializerFunctionWrapHandler) -> Any:
        """Write a random share as a plain number, as it always was, so that keys of earlier runs stay valid."""
        return self.share if self.mechanism == RANDOM else usual(self)
