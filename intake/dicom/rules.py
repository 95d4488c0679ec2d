"""Rules that assign a modality to a series."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from intake.dicom.series import Series
from intake.dicom.words import names_contrast

# Terms of protocols. Others are not shown, since a description is free text and may hold a name.
_KNOWN = re.compile(
    r"[tT][12]w?|[23]d|p[2-4]|ax|axial|tra|trans|cor|coronal|sag|sagittal|iso|obl|flair|dark|fluid|tirm|stir|space|cube|"
    r"vista|tse|fse|frfse|se|gre|ffe|tfe|spgr|fspgr|bravo|vibe|mprage|mp2rage|mpr|mip|me|memprage|rage|inv[12]|uni|"
    r"inv|fl[23]d|swi|swan|dwi|dti|adc|trace|fa|epi|bold|fmri|asl|pcasl|perf|perfusion|tof|mra|angio|medic|hemo|"
    r"haemo|map|mapping|dixon|fat|sat|fs|water|opp|phase|mag|magnitude|pd|pdw|ir|loc|localizer|localiser|scout|"
    r"survey|plane|calib|calibration|contrast|gd|gado|km|ce|post|pre|native|nativ|head|brain|neck|skull|kopf|hirn|"
    r"cerveau|brain|pet|ct|fdg|18f|f18|amyloid|tau|pib|av45|av1451|static|dynamic|dyn|frame|frames|nac|ac|mac|ctac|"
    r"mrac|osem|tof|psf|recon|corrected|uncorrected|norm|nd|dis[23]d|repeat|rep|rpt|accelerated|grappa|sense|cs|mt"
    ,
    re.IGNORECASE,
)  # fmt: skip


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")]  # goes into file names
Range = tuple[float | None, float | None]  # least, most; None for no limit


@dataclass(frozen=True)
class SeriesRule:
    """A rule that assigns a modality to a series; all given conditions must hold.

    A tag that is absent is in no range. Patterns are searched anywhere, case ignored.

    Attributes:
        name: modality, as in cohort.modalities.
        modality: DICOM's Modality.
        description: regular expression that matches in SeriesDescription.
        exclude: regular expression that does not match in SeriesDescription.
        sequence: codes that ScanningSequence has, such as GR, IR.
        contrast: whether tags name a contrast agent; with False, words of SeriesDescription name none either; None:
            either.
        tracer: regular expression that matches in the radiopharmaceutical.
    """

    name: str
    modality: Literal["MR", "PT"]
    description: str | None = None
    exclude: str | None = None
    sequence: tuple[str, ...] = ()
    echo_time_ms: Range | None = None
    repetition_time_ms: Range | None = None
    inversion_time_ms: Range | None = None
    contrast: bool | None = None
    tracer: str | None = None

    def misses(self, series: Series) -> list[str]:
        """List the conditions that a series misses, without quoting free text."""
        return list(_misses(self, series))

    def echo(self, series: Series) -> float | None:
        """Return the shortest echo time that this rule accepts, ms."""
        return min((time for time in echo_times(series) if _within(time, self.echo_time_ms)), default=None)


FDG = r"fdg|deoxy.?glucose"
_NO_T1 = r"flair|tirm|map|inv.?[12]|rho|swi|tof|angio|dixon|dti|dwi|perf|fieldmap|magtrans|[^a-z]mt[^a-z]"
_NO_T2 = (
    r"flair|dark.?fl|tirm|t2 ?\*|t2.?star|swi|swan|haemo|hemo|map|medic|gre|ffe|fl2d|fl3d|epi|dti|dwi|diff|perf|"
    r"bold|fmri|dixon|t1"
)
_NO_FLAIR = "t1|map"
RULES = (
    SeriesRule(
        name="FLAIR", modality="MR", description=r"flair|dark.?fluid|tirm", exclude=_NO_FLAIR, contrast=False
    ),
    SeriesRule(
        name="T1w", modality="MR", description=r"t1|mp.?rage|bravo|spgr|tfe", exclude=_NO_T1 + "|t2", contrast=False
    ),
    SeriesRule(name="T2w", modality="MR", description=r"t2", exclude=_NO_T2, contrast=False),
    SeriesRule(
        name="FLAIR", modality="MR", exclude=_NO_FLAIR, sequence=("IR",), contrast=False,
        echo_time_ms=(70, None), repetition_time_ms=(4000, None), inversion_time_ms=(1500, None),
    ),
    SeriesRule(
        name="T1w", modality="MR", exclude=_NO_T1, sequence=("GR", "IR"), contrast=False,
        echo_time_ms=(None, 8), inversion_time_ms=(400, 1400),
    ),
    SeriesRule(name="FDG-PET", modality="PT", tracer=FDG),
    SeriesRule(name="FDG-PET", modality="PT", description=r"fdg"),
    SeriesRule(name="PET", modality="PT"),
)  # fmt: skip
"""The first that holds is used; the two without a description judge by the tags alone."""


class DicomConfig(BaseModel):
    """How series are named and joined to sessions."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: dict[str, Name] = Field(default={}, description="name in a rule → modality in the manifest, e.g. T1w: MRI")
    session_days: int = Field(
        default=0, ge=0, description="studies up to so many days after the first one of a session belong to it"
    )

    @model_validator(mode="after")
    def _names_of_rules(self) -> Self:
        known = list(dict.fromkeys(rule.name for rule in RULES))
        for name in self.names:
            if name not in known:
                near = difflib.get_close_matches(name.casefold(), [k.casefold() for k in known], n=1, cutoff=0.3)
                meant = next((f"did you mean {k}? " for k in known if [k.casefold()] == near), "")
                raise ValueError(f"no series is called {name}; {meant}There are {', '.join(known)}")
        return self


def clean_description(text: str) -> str:
    """Keep the names of sequences, planes and tracers in a description, and replace others by ….

    Args:
        text: SeriesDescription; people type what they like, patients' names and dates among it.
    """
    pieces = re.split(r"([^0-9A-Za-z\u00c0-\uffff]+)", text)
    shown = [piece if _KNOWN.fullmatch(piece) else "…" for piece in pieces[::2] if piece]
    return " ".join(word for word, before in zip(shown, [None, *shown], strict=False) if (word, before) != ("…", "…"))


def echo_times(series: Series) -> list[float]:
    """Return the distinct echo times of a series, ms, shortest first."""
    return sorted({image.echo_time_ms for image in series.images if image.echo_time_ms is not None})


def search(pattern: str, text: str) -> bool:
    """Check if a pattern matches anywhere in a text, case ignored."""
    return re.search(pattern, text, re.IGNORECASE) is not None


def _misses(rule: SeriesRule, series: Series) -> Iterator[str]:
    if rule.modality != series.modality or not search(rule.description or "", series.description):
        yield from ["it is another kind of image"] * 2  # counts twice, so that this rule is not the nearest
        return
    contrast = rule.contrast is False and names_contrast(series.description)
    if contrast or (rule.exclude is not None and search(rule.exclude, series.description)):
        yield "a word in its description excludes it"
    if absent := [code for code in rule.sequence if code not in series.scanning_sequence]:
        yield f"ScanningSequence lacks {' and '.join(absent)}"
    echoes: list[float | None] = [*echo_times(series)] or [None]
    if not any(_within(time, rule.echo_time_ms) for time in echoes):
        yield f"the echo time is {_times(echo_times(series))}, {_expected(rule.echo_time_ms)}"
    for label, value, limits in (
        ("repetition time", series.repetition_time_ms, rule.repetition_time_ms),
        ("inversion time", series.inversion_time_ms, rule.inversion_time_ms),
    ):
        if not _within(value, limits):
            yield f"the {label} is {_times([] if value is None else [value])}, {_expected(limits)}"
    if rule.contrast is not None and rule.contrast != series.contrast:
        yield f"{'a' if series.contrast else 'no'} contrast agent is named"
    if rule.tracer is not None and not search(rule.tracer, series.tracer):
        yield "its tracer does not fit"


def _within(value: float | None, limits: Range | None) -> bool:
    low, high = limits or (None, None)
    if low is None and high is None:
        return True
    return value is not None and (low is None or value >= low) and (high is None or value <= high)


def _times(values: Sequence[float]) -> str:
    return f"{', '.join(f'{value:g}' for value in values)} ms" if values else "missing"


def _expected(limits: Range | None) -> str:
    low, high = limits or (None, None)
    bounds = [f"{label} {limit:g}" for label, limit in (("at least", low), ("at most", high)) if limit is not None]
    return f"{' and '.join(bounds)} ms expected"
