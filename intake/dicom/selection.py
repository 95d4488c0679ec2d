"""Selection of one series for each patient, session and modality, with reasons for the others."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

from intake.dicom.evidence import contradiction, of_a_head, other_body_part
from intake.dicom.images import DERIVED, Image, extents_mm, slice_positions, without_copies
from intake.dicom.patients import mixed_patients
from intake.dicom.rules import RULES, DicomConfig, SeriesRule, echo_times, search
from intake.dicom.series import Series

FEWEST_SLICES = 10  # a series of fewer is left out
UNEVEN = 0.05  # largest difference of slice distances, as a share of their median
_LOCALISER = r"scout|locali[sz]|survey|smart.?brain|3.?plane|aahead|calib|(^|[^a-z])loc([^a-z]|$)"
_DERIVED = DERIVED


class Chosen(NamedTuple):
    """A series that is used."""

    series: Series
    modality: str
    session: str
    images: tuple[Image, ...]
    """Those that are converted: magnitude, of one echo."""
    slices: int
    frames: int
    """Volumes in them; more than 1 only in PET."""
    remarks: tuple[str, ...]


class LeftOut(NamedTuple):
    """A series that is not used."""

    series: Series
    session: str
    """Empty where the study has neither MR nor PET."""
    reason: str


class Selection(NamedTuple):
    """Every series is in one of the two."""

    chosen: tuple[Chosen, ...]
    left_out: tuple[LeftOut, ...]


def select_series(
    series: Sequence[Series], config: DicomConfig, unusable: Mapping[tuple[str, str, str], str] | None = None
) -> Selection:
    """Take at most one series of a modality for each session of a patient.

    Of several that fit, one with the tag of a head is taken, then one with the extent of a head, then the one with most
    slices, then the one with fewest frames, then the latest.

    Args:
        series: of any number of patients.
        config: names and sessions.
        unusable: `Series.key` → why it could not be converted; another one takes its place.
    """
    unusable = unusable or {}
    session = session_names(series, config.session_days)
    mixed = mixed_patients(series)
    left_out: list[LeftOut] = []
    fitting: dict[tuple[str, str, str], list[Chosen]] = defaultdict(list)
    for each in series:
        name = session.get((each.patient, each.study), "")
        result = unusable.get(each.key) or mixed.get(each.patient) or _assessed(each, name, config)
        if isinstance(result, str) and each.set_aside:
            result += f" (apart from {_aside(each)})"
        if isinstance(result, str):
            left_out.append(LeftOut(each, name, result))
        else:
            fitting[each.patient, name, result.modality].append(result)
    chosen = []
    for several in fitting.values():
        best = max(several, key=_preference)
        chosen.append(best)
        left_out += [LeftOut(each.series, each.session, _second(each, best)) for each in several if each is not best]
    return Selection(tuple(chosen), tuple(left_out))


def session_names(series: Sequence[Series], days: int) -> dict[tuple[str, str], str]:
    """Name sessions: number the studies with MR or PET of every patient, by date.

    Args:
        series: of any number of patients.
        days: a study up to so many days after the first of a session belongs to that session. Studies without a date
            come last, each a session of its own.

    Returns:
        (patient, study) → "ses-01", "ses-02", …
    """
    dates: dict[str, dict[str, date | None]] = defaultdict(dict)
    for each in series:
        if each.modality in ("MR", "PT"):
            dates[each.patient].setdefault(each.study, each.study_date)
    names: dict[tuple[str, str], str] = {}
    for patient, studies in dates.items():
        first, number = None, 0
        for study, day in sorted(studies.items(), key=lambda item: (item[1] or date.max, item[0])):
            if first is None or day is None or day - first > timedelta(days=days):
                first, number = day, number + 1
            names[patient, study] = f"ses-{number:02d}"
    return names


def _assessed(series: Series, session: str, config: DicomConfig) -> Chosen | str:
    """Assign a modality to a series, or return why it is not used."""
    if reason := next(filter(None, (check(series) for check in _CHECKS)), None):
        return reason
    rule, reason = _matching(series)
    if rule is None:
        return reason
    echo = rule.echo(series) if len(echo_times(series)) > 1 else None
    if reason := contradiction(rule.name, series, echo):
        return reason
    given = tuple(each for each in series.images if each.magnitude and echo in (None, each.echo_time_ms))
    images = without_copies(given) if max(slice_positions(given)[1], default=1) > 1 else given
    if reason := _geometry(images) or _incomplete(series, images):
        return reason
    positions, counts = slice_positions(images)
    frames = counts[0]
    if frames > 1 and series.modality != "PT":
        return f"every slice occurs {frames} times (a time series, diffusion, or sent twice); one volume expected"
    remarks = []
    if echo is not None:
        remarks.append(f"echo of {echo:g} ms, one of {len(echo_times(series))}")
    if not all(each.magnitude for each in series.images):
        remarks.append("magnitude images only")
    if series.set_aside:
        remarks.append(f"without {_aside(series)} in this series")
    if len(images) < len(given):
        remarks.append(f"without second copies of {len(given) - len(images)} images, which have a UID of their own")
    if series.age_contradicts:
        remarks.append("no age: PatientAge and PatientBirthDate contradict each other")
    return Chosen(
        series, config.names.get(rule.name, rule.name), session, images, len(positions), frames, tuple(remarks)
    )


def _matching(series: Series) -> tuple[SeriesRule | None, str]:
    nearest, fewest = "", 2
    for rule in RULES:
        misses = rule.misses(series)
        if not misses:
            return rule, ""
        if len(misses) < fewest:
            nearest, fewest = f"; nearest is {rule.name}, but {misses[0]}", len(misses)
    return None, f"no rule matches{nearest}"


def _aside(series: Series) -> str:
    return ", ".join(f"{count} image{'s' * (count > 1)} ({reason})" for reason, count in series.set_aside)


def _no_patient(series: Series) -> str:
    if series.nobody:
        return (
            f"PatientID is {series.nobody}, which names nobody, and patients of all ages may share it; the patient is "
            "unknown. Give every patient an id of their own in the export"
        )
    return "" if series.patient else "there is no PatientID; the patient is unknown"


def _damaged(series: Series) -> str:
    if not series.damaged:
        return ""
    return f"{series.damaged} of {series.damaged + len(series.images)} images are cut short; export the series again"


def _synthetic(series: Series) -> str:
    return "SyntheticData is YES: made up, no scan of a patient" if series.synthetic else ""


def _localiser(series: Series) -> str:
    if "LOCALIZER" in series.image_type or search(_LOCALISER, series.description):
        return "a localiser or scout"
    return f"images in {series.orientations} directions, as in a localiser" if series.orientations > 1 else ""


def _derived(series: Series) -> str:
    derived = [code for code in series.image_type if code in _DERIVED]
    return f"derived from other images: ImageType has {derived[0]}" if derived else ""


def _not_attenuation_corrected(series: Series) -> str:
    listed = series.modality == "PT" and bool(series.pet.corrections)
    reason = "PET that is not corrected for attenuation"
    return reason if (listed and "ATTN" not in series.pet.corrections) or _nac(series) else ""


def _nac(series: Series) -> bool:
    return series.modality == "PT" and search(r"(^|[^a-z])nac([^a-z]|$)|non?.?ac([^a-z]|$)|uncorr", series.description)


_CHECKS: tuple[Callable[[Series], str], ...] = (
    _no_patient,
    _damaged,
    _synthetic,
    _localiser,
    _derived,
    other_body_part,
    _not_attenuation_corrected,
)


def _geometry(images: tuple[Image, ...]) -> str:
    """Return why images make no volume."""
    positions, counts = slice_positions(images)
    if not all(image.positions_mm for image in images):
        return "images without position or orientation; they make no volume"
    if len(positions) < FEWEST_SLICES:
        return f"too few slices: {len(positions)}, at least {FEWEST_SLICES} needed"
    if len(set(counts)) > 1:
        return f"some slices occur {min(counts)} times and some {max(counts)} times; export the series again"
    distances = sorted(after - before for before, after in pairwise(positions))
    if distances[-1] - distances[0] > UNEVEN * distances[len(distances) // 2]:
        return f"slices lie {distances[0]:.2f} to {distances[-1]:.2f} mm apart; images seem to be missing"
    return ""


def _incomplete(series: Series, images: tuple[Image, ...]) -> str:
    """Return how many slices a PET lacks that says how many it has; at an end, distances do not tell."""
    found = len(slice_positions(images)[0])
    if series.modality != "PT" or series.slices_stated is None or series.slices_stated <= found:
        return ""
    return f"NumberOfSlices is {series.slices_stated}, {found} are there; export the series again"


def _preference(chosen: Chosen) -> tuple[bool, bool, int, int, str, int, str]:
    series = chosen.series
    started = series.started.isoformat() if series.started else ""
    return *of_a_head(series), chosen.slices, -chosen.frames, started, series.number or 0, series.uid


def _second(chosen: Chosen, best: Chosen) -> str:
    ours, theirs = _preference(chosen), _preference(best)
    whys = ("BodyPartExamined says head", _extents(best, chosen), "more slices", "fewer frames")
    why = next((why for why, our, their in zip(whys, ours, theirs, strict=False) if our != their), "later")
    number = "" if best.series.number is None else f" (series {best.series.number})"
    return f"a second {chosen.modality} of this session; the one with {best.slices} slices{number}, {why}, is used"


def _extents(best: Chosen, other: Chosen) -> str:
    both = [extents_mm(each.images) or (0, 0, 0) for each in (best, other)]
    sizes = ["x".join(f"{side:.0f}" for side in extents) for extents in both]
    return f"of a head's size ({sizes[0]} mm against {sizes[1]} mm)"
