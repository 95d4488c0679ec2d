"""What the tags of a series say about the body part and the kind of image, and where its words say something else.

Messages name body parts, modalities and numbers, never the free text that they were read from.
"""

from collections.abc import Iterator

from intake.dicom.images import extents_mm
from intake.dicom.rules import FDG, echo_times, search
from intake.dicom.series import Series
from intake.dicom.words import body_parts

HEAD_MM = 80.0  # a stack of a head reaches at least so far along each axis; the spine's sagittal ones are thinner
LONGEST_HEAD_MM = 350.0  # across its slices; longer ones are of the trunk
F18_HALF_LIFE_S = (6400.0, 6780.0)  # 6586 s is published; scanners round it
_OTHER_TRACERS = (
    r"florbeta|flutemetamol|amyloid|amyvid|vizamyl|av.?45|pib|pittsburgh|flortaucipir|av.?1451|mk.?6240|(^|[^a-z])tau|"
    r"f?.?dopa|choline|psma|dotat|methionine|raclopride|flumazenil|ucb.?j|ammonia|rubidium|(^|[^a-z])(fet|flt|naf)[^a-z]"
)


def other_body_part(series: Series) -> str:
    """Return why a series is not of the head; "" if it is, or if nothing tells.

    BodyPartExamined comes first, then the words of the series and its protocol, then those of the study.
    """
    tag, words, where = body_parts(series.body_part), body_parts(series.description), "SeriesDescription"
    if not words:
        words, where = body_parts(series.protocol), "ProtocolName"
    if tag and words and not set(tag) & set(words):
        return (
            f"its body part is unclear: BodyPartExamined says {_all(tag)}, {where} says {_all(words)}; correct the "
            "wrong one in the export"
        )
    sources = ((tag, "BodyPartExamined"), (words, where), (body_parts(series.study_description), "StudyDescription"))
    parts, source = next((each for each in sources if each[0]), ((), ""))
    return f"of another part of the body: {source} says {_all(parts)}" if parts and "head" not in parts else ""


def of_a_head(series: Series) -> tuple[bool, bool]:
    """Rank a series by its body part: whether BodyPartExamined says head, and whether its extent is a head's."""
    extents = extents_mm(series.images)
    fits = extents is None or (min(extents) >= HEAD_MM and extents[0] <= LONGEST_HEAD_MM)
    return "head" in body_parts(series.body_part), fits


def contradiction(name: str, series: Series, echo_time_ms: float | None = None) -> str:
    """Return how tags contradict that a series is of a kind; "" if they do not. A missing tag contradicts nothing.

    Args:
        name: T1w, T2w, FLAIR or FDG-PET, as its words have it.
        series: with tags.
        echo_time_ms: of the echo that is used, if there are several.
    """
    tests = {"T1w": _not_t1, "T2w": _not_t2, "FLAIR": _not_flair, "FDG-PET": _not_fdg}
    if name not in tests:
        return ""
    facts = next(tests[name](series, _echo(series, echo_time_ms)), "")
    if not facts:
        return ""
    return f"its words say {name}, its tags {facts}; correct the wrong one in the export, or convert it by hand"


def _echo(series: Series, chosen_ms: float | None) -> float | None:
    return chosen_ms if chosen_ms is not None else next(iter(echo_times(series)), None)


def _inverted(series: Series) -> bool:
    return "IR" in series.scanning_sequence or series.inversion_time_ms is not None


def _not_t1(series: Series, echo: float | None) -> Iterator[str]:
    repetition, spin_echo = series.repetition_time_ms, "SE" in series.scanning_sequence
    if echo is not None and echo > 40:
        yield f"{_long_echo_kind(series)} ({_shown(series, echo)})"
    if echo is not None and repetition is not None and repetition > 1800 and spin_echo and not _inverted(series):
        yield f"proton density ({_shown(series, echo)})"


def _not_t2(series: Series, echo: float | None) -> Iterator[str]:
    repetition, inversion = series.repetition_time_ms, series.inversion_time_ms
    short = echo is not None and echo < 30
    if short and (_inverted(series) or (repetition is not None and repetition < 1500)):
        yield f"T1w ({_shown(series, echo)})"
    if echo is not None and echo >= 60 and inversion is not None and inversion >= 1500:
        yield f"FLAIR ({_shown(series, echo)})"
    if inversion is not None and 80 <= inversion <= 300 and "IR" in series.scanning_sequence:
        yield f"STIR ({_shown(series, echo)})"


def _not_flair(series: Series, echo: float | None) -> Iterator[str]:
    repetition, inversion = series.repetition_time_ms, series.inversion_time_ms
    if inversion is not None and inversion < 1000:
        short = echo is not None and echo < 30
        kind = "STIR" if inversion < 300 else "T1w" if short else "no fluid-attenuated image"
        yield f"{kind} ({_shown(series, echo)})"
    if echo is not None and echo < 30 and repetition is not None and repetition < 1500:
        yield f"T1w ({_shown(series, echo)})"
    if echo is not None and echo >= 60 and inversion is None and "SE" in series.scanning_sequence:
        if "IR" not in series.scanning_sequence:
            yield f"T2w ({_shown(series, echo)})"


def _not_fdg(series: Series, echo: float | None) -> Iterator[str]:
    tag, words = search(FDG, series.tracer), search(FDG, series.description)
    if (words and not tag and search(_OTHER_TRACERS, series.tracer)) or (
        tag and not words and search(_OTHER_TRACERS, series.description)
    ):
        yield "another tracer" if words else "FDG and its SeriesDescription another tracer"
    half_life_s = series.pet.half_life_s
    if half_life_s and 60 < half_life_s and not F18_HALF_LIFE_S[0] <= half_life_s <= F18_HALF_LIFE_S[1]:
        yield f"an isotope with a half-life of {half_life_s / 60:.3g} min, fluorine-18 has 110"


def _long_echo_kind(series: Series) -> str:
    return "FLAIR" if (series.inversion_time_ms or 0) >= 1500 else "T2w"


def _shown(series: Series, echo: float | None) -> str:
    facts = [
        (echo, "echo time {:g} ms"),
        (series.inversion_time_ms, "inversion time {:g} ms"),
        (series.repetition_time_ms, "repetition time {:g} ms"),
    ]
    known = [text.format(value) for value, text in facts if value is not None]
    codes = [code for code in series.scanning_sequence if code in ("SE", "IR", "GR", "EP", "RM")]
    return ", ".join([*known, *["/".join(codes)] * bool(codes)])


def _all(parts: tuple[str, ...]) -> str:
    return " and ".join(parts)
