"""Standardised uptake values of PET: activity by the dose given and the weight of the patient."""

from dataclasses import dataclass
from datetime import datetime, time, timedelta

DOSE_BQ = (1e6, 1e11)  # what a total dose may be; numbers below are in MBq by mistake
WEIGHT_KG = (1.0, 400.0)
LONGEST_UPTAKE = 6  # half-lives between injection and scan; beyond, hardly any activity is left


class SuvError(ValueError):
    """SUV cannot be computed; the message holds no dates or times of day."""


@dataclass(frozen=True)
class PetFacts:
    """DICOM attributes of a PET series; None or "" where missing."""

    units: str = ""  # BQML, GML, CNTS, …
    suv_type: str = ""  # BW, LBM, …; with units GML
    corrections: tuple[str, ...] = ()  # CorrectedImage
    decay_correction: str = ""  # START, ADMIN or NONE
    weight_kg: float | None = None
    dose_bq: float | None = None  # at the time of injection; what stays in the syringe is not taken off
    half_life_s: float | None = None
    injected: datetime | None = None  # RadiopharmaceuticalStartDateTime
    injected_time: time | None = None  # RadiopharmaceuticalStartTime, which has no date
    series_start: datetime | None = None  # SeriesDate and SeriesTime
    first_acquisition: datetime | None = None  # the earliest of all images
    philips_factor: float | None = None  # (7053,1000), with units CNTS


def suv_factor(facts: PetFacts) -> float:
    """Compute the factor from voxels to SUV by body weight, in g/ml.

    Units BQML: SUV = activity [Bq/ml] · weight [g] / dose [Bq]. Images that are decay corrected to their start
    (START) need the dose that was left then, dose · 2^(-t / half-life), t from injection to scan; those corrected to
    the injection (ADMIN) the dose itself. GML is SUV already. CNTS needs the factor that Philips adds.

    The scan starts with the series, or with the first acquisition if that is earlier: a series that was reconstructed
    later carries the later time.

    Returns:
        The factor, above 0.

    Raises:
        SuvError: something that is needed is missing or implausible.

    Source: Quantitative Imaging Biomarkers Alliance (QIBA), FDG-PET/CT profile, "SUV vendor-neutral pseudo-code". It
        falls back on a private time of GE for series reconstructed later; here it is the first acquisition.
    """
    if facts.units == "GML":
        if facts.suv_type not in ("", "BW"):
            raise SuvError("the scan holds SUV of another kind than by body weight")
        return 1.0
    if missing := [name for name in ("ATTN", "DECY") if facts.corrections and name not in facts.corrections]:
        raise SuvError(f"CorrectedImage does not list {' and '.join(missing)}")
    if facts.units == "CNTS":
        if not facts.philips_factor or facts.philips_factor <= 0:
            raise SuvError("the units are counts (CNTS), and there is no Philips factor (7053,1000)")
        return facts.philips_factor
    if facts.units != "BQML":
        raise SuvError("Units are neither BQML nor GML nor CNTS" if facts.units else "Units are missing")
    weight_kg = _plausible(facts.weight_kg, "PatientWeight", "kg", WEIGHT_KG)
    return weight_kg * 1000 / _dose_in_images(facts)


def _dose_in_images(facts: PetFacts) -> float:
    """Compute the dose at the time to which the images are decay corrected, Bq."""
    dose_bq = _plausible(facts.dose_bq, "RadionuclideTotalDose", "Bq", DOSE_BQ)
    if facts.decay_correction == "ADMIN":
        return dose_bq
    if facts.decay_correction != "START":
        raise SuvError("DecayCorrection is neither START nor ADMIN")
    half_life_s = _plausible(facts.half_life_s, "RadionuclideHalfLife", "s", (1.0, 1e8))
    return float(dose_bq * 2 ** (-_uptake_s(facts, half_life_s) / half_life_s))


def _uptake_s(facts: PetFacts, half_life_s: float) -> float:
    """Compute the seconds from injection to scan."""
    starts = [each for each in (facts.series_start, facts.first_acquisition) if each is not None]
    if not starts:
        raise SuvError("neither SeriesTime nor AcquisitionTime is given")
    scan, injected = min(starts), facts.injected
    if injected is None:
        if facts.injected_time is None:
            raise SuvError("RadiopharmaceuticalStartTime is missing")
        injected = datetime.combine(scan.date(), facts.injected_time)
        if injected > scan:  # before midnight, unless the clocks differ
            injected -= timedelta(days=1)
    uptake_s = (scan - injected).total_seconds()
    if not 0 <= uptake_s <= LONGEST_UPTAKE * half_life_s:
        raise SuvError(
            f"the injection would lie {uptake_s / 3600:.1f} h before the scan; 0 to {LONGEST_UPTAKE} half-lives "
            f"({LONGEST_UPTAKE * half_life_s / 3600:.1f} h) expected"
        )
    return uptake_s


def _plausible(value: float | None, tag: str, unit: str, limits: tuple[float, float]) -> float:
    if value is None:
        raise SuvError(f"{tag} is missing")
    if not limits[0] <= value <= limits[1]:
        raise SuvError(f"{tag} is {value:g} {unit}; {limits[0]:g} to {limits[1]:g} expected")
    return value
