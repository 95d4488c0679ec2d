"""SUV factors against numbers worked out by hand, and every reason for which there is none."""

from dataclasses import replace
from datetime import datetime, time
from typing import Any

import pytest

from intake.dicom.suv import PetFacts, SuvError, suv_factor

SCAN = datetime(2021, 3, 4, 10, 15)
FACTS = PetFacts(
    units="BQML",
    corrections=("DECY", "ATTN"),
    decay_correction="START",
    weight_kg=74.0,
    dose_bq=370e6,
    half_life_s=6600.0,
    injected_time=time(8, 25),
    series_start=SCAN,
    first_acquisition=SCAN,
)


def test_after_one_half_life_half_of_the_dose_is_left() -> None:
    # 74,000 g / (370 MBq / 2) = 4e-4 g/Bq
    assert suv_factor(FACTS) == pytest.approx(4e-4, rel=1e-12)


def test_a_clinical_example_worked_out_by_hand() -> None:
    # 80 kg, 200 MBq of fluorine-18 (109.77 min), 60 minutes: 2^(-60 / 109.77) = 0.684633, so 136.9266 MBq are left
    facts = replace(FACTS, weight_kg=80.0, dose_bq=200e6, half_life_s=6586.2, injected_time=time(9, 15))
    assert suv_factor(facts) == pytest.approx(80e3 / 136.9266e6, rel=2e-6)


def test_images_corrected_to_the_injection_need_the_dose_itself() -> None:
    facts = replace(FACTS, decay_correction="ADMIN", half_life_s=None, injected_time=None)
    assert suv_factor(facts) == pytest.approx(74e3 / 370e6, rel=1e-12)


@pytest.mark.parametrize(
    ("changed", "half_lives"),
    [
        ({"series_start": datetime(2021, 3, 4, 15, 0)}, 1),  # reconstructed in the afternoon
        ({"first_acquisition": datetime(2021, 3, 4, 10, 20)}, 1),
        ({"first_acquisition": None}, 1),
        ({"series_start": None}, 1),
        ({"injected": datetime(2021, 3, 4, 6, 35)}, 2),  # goes before the time without a date
        ({"injected_time": time(23, 30), "series_start": datetime(2021, 3, 4, 1, 20)}, 1),  # over midnight
    ],
)
def test_which_times_count(changed: dict[str, Any], half_lives: int) -> None:
    assert suv_factor(replace(FACTS, **changed)) == pytest.approx(74e3 / (370e6 / 2**half_lives), rel=1e-12)


def test_units_that_are_suv_already_or_counts() -> None:
    assert suv_factor(PetFacts(units="GML")) == suv_factor(PetFacts(units="GML", suv_type="BW")) == 1
    assert suv_factor(PetFacts(units="CNTS", philips_factor=0.0004)) == 0.0004


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"units": ""}, "Units are missing"),
        ({"units": "PCNT"}, "Units are neither BQML nor GML nor CNTS"),
        ({"units": "GML", "suv_type": "LBM"}, "another kind than by body weight"),
        ({"units": "CNTS"}, r"counts \(CNTS\), and there is no Philips factor"),
        ({"corrections": ("ATTN",)}, "CorrectedImage does not list DECY"),
        ({"weight_kg": None}, "PatientWeight is missing"),
        ({"weight_kg": 0.0}, "PatientWeight is 0 kg; 1 to 400 expected"),
        ({"dose_bq": None}, "RadionuclideTotalDose is missing"),
        ({"dose_bq": 370.0}, r"RadionuclideTotalDose is 370 Bq; 1e\+06 to 1e\+11 expected"),
        ({"half_life_s": None}, "RadionuclideHalfLife is missing"),
        ({"half_life_s": 0.0}, "RadionuclideHalfLife is 0 s"),
        ({"decay_correction": "NONE"}, "DecayCorrection is neither START nor ADMIN"),
        ({"injected_time": None}, "RadiopharmaceuticalStartTime is missing"),
        ({"series_start": None, "first_acquisition": None}, "neither SeriesTime nor AcquisitionTime is given"),
        ({"injected_time": time(10, 20)}, r"23\.9 h before the scan; 0 to 6 half-lives \(11\.0 h\) expected"),
        ({"injected": datetime(2021, 3, 4, 10, 45)}, r"-0\.5 h before the scan"),
    ],
)
def test_why_there_is_no_suv(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SuvError, match=message):
        suv_factor(replace(FACTS, **changed))
