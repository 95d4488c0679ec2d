"""Which series are taken for what, judged by their facts alone."""

from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from intake.dicom import selection
from intake.dicom.images import Image, slice_positions
from intake.dicom.rules import DicomConfig, SeriesRule, clean_description
from intake.dicom.selection import select_series, session_names
from intake.dicom.series import Series
from intake.dicom.suv import PetFacts


def images(slices: int = 20, frames: int = 1, echo_time_ms: float | None = 3.0) -> tuple[Image, ...]:
    return tuple(
        Image(Path(f"{slice_}"), f"{slice_}.{frame}", (2.0 * slice_,), ((1, 0, 0, 0, 1, 0),), echo_time_ms, True, None)
        for frame in range(frames)
        for slice_ in range(slices)
    )


def series(description: str = "t1_mprage", **changed: Any) -> Series:
    whole = Series(
        patient="P", birth_date=None, study="1", uid="1.1", study_date=date(2021, 3, 4), started=None,
        description=description, modality="MR", image_type=("ORIGINAL", "PRIMARY"), scanning_sequence=("GR",),
        tracer="", sex="", age=None, number=None, repetition_time_ms=2000.0, inversion_time_ms=None, contrast=False,
        orientations=1, images=images(), damaged=0, pet=PetFacts(),
    )  # fmt: skip
    return replace(whole, **changed)


def taken(*several: Series, **config: Any) -> list[str]:
    return [chosen.modality for chosen in select_series(several, DicomConfig(**config)).chosen]


def reason(one: Series) -> str:
    (left,) = select_series([one], DicomConfig()).left_out
    return left.reason


@pytest.mark.parametrize(
    ("description", "modality"),
    [
        ("t1_mprage_sag_p2_iso", "T1w"),
        ("Accelerated Sagittal MPRAGE", "T1w"),
        ("MP-RAGE", "T1w"),
        ("Sag 3D T1 FSPGR BRAVO", "T1w"),
        ("3D_TFE", "T1w"),
        ("T1W_3D_TFE SENSE", "T1w"),
        ("t1_mprage_gado", None),
        ("T1 POST", None),
        ("AX T1 +C", None),
        ("t1_tra_KM", None),
        ("t1_mprage_posterior", "T1w"),
        ("t1_mp2rage_sag_INV1", None),
        ("T1 MAP", None),
        ("t2_tse_tra_512", "T2w"),
        ("T2 SPACE", "T2w"),
        ("AX T2 FRFSE", "T2w"),
        ("T2*_GRE", None),
        ("t2_fl2d_tra_hemo", None),
        ("ep2d_t2_epi", None),
        ("t2_tirm_tra_dark-fluid", "FLAIR"),
        ("Sagittal 3D FLAIR", "FLAIR"),
        ("T2 CUBE FLAIR", "FLAIR"),
        ("T1 FLAIR", None),
        ("FLAIR + C", None),
        ("ep2d_diff_3scan_trace", None),
        ("Field Mapping", None),
        ("", None),
    ],
)
def test_descriptions_as_scanners_write_them(description: str, modality: str | None) -> None:
    assert taken(series(description)) == ([modality] if modality else [])


@pytest.mark.parametrize(
    ("facts", "modality"),
    [
        ({"scanning_sequence": ("GR", "IR"), "inversion_time_ms": 900.0}, "T1w"),
        ({"scanning_sequence": ("GR",), "inversion_time_ms": 900.0}, None),
        ({"scanning_sequence": ("GR", "IR"), "inversion_time_ms": None}, None),
        ({"scanning_sequence": ("GR", "IR"), "inversion_time_ms": 900.0, "contrast": True}, None),
        ({"scanning_sequence": ("SE", "IR"), "inversion_time_ms": 2500.0, "repetition_time_ms": 9000.0,
          "images": images(echo_time_ms=90.0)}, "FLAIR"),
        ({"scanning_sequence": ("SE", "IR"), "inversion_time_ms": 2500.0, "repetition_time_ms": 9000.0}, None),
    ],
)  # fmt: skip
def test_where_the_description_says_nothing_the_tags_do(facts: dict[str, Any], modality: str | None) -> None:
    assert taken(series("head routine", **facts)) == ([modality] if modality else [])


@pytest.mark.parametrize(
    ("facts", "modality"),
    [
        ({"tracer": "FDG -- fluorodeoxyglucose"}, "FDG-PET"),
        ({"tracer": "Fluorodeoxyglucose F^18^"}, "FDG-PET"),
        ({"description": "Brain FDG 3D"}, "FDG-PET"),
        ({"tracer": "Florbetapir"}, "PET"),
        ({"tracer": "FDG", "pet": PetFacts(corrections=("DECY", "SCAT"))}, None),
        ({"tracer": "FDG", "description": "BRAIN NAC"}, None),
        ({"tracer": "FDG", "description": "PET_NonAC"}, None),
        ({"tracer": "FDG", "description": "BRAIN CTAC"}, "FDG-PET"),
    ],
)
def test_pet(facts: dict[str, Any], modality: str | None) -> None:
    one = series(**({"description": "brain", "modality": "PT"} | facts))
    assert taken(one) == ([modality] if modality else [])
    if modality is None:
        assert reason(one) == "PET that is not corrected for attenuation"


@pytest.mark.parametrize("text", ["localizer", "LOC", "Scout", "3-plane loc", "survey", "AAHead_Scout", "Calibration"])
def test_localisers_by_description(text: str) -> None:
    assert reason(series(f"t1 {text}")) == "a localiser or scout"


def test_words_that_only_look_like_a_localiser() -> None:
    assert taken(series("t1_block_velocity")) == ["T1w"]


def test_localisers_by_other_facts() -> None:
    assert reason(series(image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))) == "a localiser or scout"
    assert reason(series(orientations=3)) == "images in 3 directions, as in a localiser"


def test_what_misses_by_one_thing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reason(series("head", scanning_sequence=("GR", "IR"), inversion_time_ms=200.0)) == (
        "no rule matches; nearest is T1w, but the inversion time is 200 ms, at least 400 and at most 1400 ms expected"
    )
    assert reason(series(contrast=True)) == "no rule matches; nearest is T1w, but a contrast agent is named"
    narrow = SeriesRule(name="T2w", modality="MR", echo_time_ms=(60, None))
    monkeypatch.setattr(selection, "RULES", (narrow,))
    assert reason(series()) == ("no rule matches; nearest is T2w, but the echo time is 3 ms, at least 60 ms expected")


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"images": images(20)}, {"images": images(24)}, "the one with 24 slices, more slices, is used"),
        (
            {"started": datetime(2021, 3, 4, 9)},
            {"started": datetime(2021, 3, 4, 10), "number": 7},
            "the one with 20 slices (series 7), later, is used",
        ),
        (
            {"modality": "PT", "images": images(20, frames=3)},
            {"modality": "PT", "images": images(20)},
            "the one with 20 slices, fewer frames, is used",
        ),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_of_a_kind_one_is_kept(
    first: dict[str, Any], second: dict[str, Any], message: str, turned: bool
) -> None:
    both = [series(uid="1.9", **first), series(uid="1.1", **second)]
    result = select_series(both[::-1] if turned else both, DicomConfig())
    assert [chosen.series.uid for chosen in result.chosen] == ["1.1"]
    assert [left.reason.split("; ")[1] for left in result.left_out] == [message]


def test_two_of_a_kind_in_two_sessions_are_both_kept() -> None:
    both = [series(), series(study="2", uid="2.1", study_date=date(2022, 1, 1))]
    assert taken(*both) == ["T1w", "T1w"]
    assert taken(*both, session_days=400) == ["T1w"]


def test_sessions_without_dates_come_last_and_do_not_merge() -> None:
    several = [
        series(study=name, study_date=day)
        for name, day in [
            ("a", None),
            ("b", date(2022, 1, 1)),
            ("c", None),
            ("d", date(2021, 1, 1)),
            ("e", date(2021, 1, 1)),
        ]
    ]
    names = session_names([*several, series(patient="Q", study="a")], 0)
    assert names == {
        ("P", "d"): "ses-01", ("P", "e"): "ses-01", ("P", "b"): "ses-02", ("P", "a"): "ses-03", ("P", "c"): "ses-04",
        ("Q", "a"): "ses-01",
    }  # fmt: skip


def test_sessions_count_from_their_first_study() -> None:
    """Otherwise a scan every month would make one session of a whole year."""
    days = [date(2021, 1, 1), date(2021, 1, 25), date(2021, 2, 20)]
    names = session_names([series(study=str(day), study_date=day) for day in days], 30)
    assert list(names.values()) == ["ses-01", "ses-01", "ses-02"]


def test_slices_that_are_there_several_times() -> None:
    several = images(10)
    assert reason(series(images=several + several[:3])) == (
        "some slices occur 1 times and some 2 times; export the series again"
    )
    assert slice_positions(several + several[:1]) == ([2.0 * slice_ for slice_ in range(10)], [2] + [1] * 9)


def test_images_without_a_place() -> None:
    nowhere = tuple(replace(image, positions_mm=()) for image in images())
    assert reason(series(images=nowhere)) == "images without position or orientation; they make no volume"


def test_small_differences_of_distances_are_rounding() -> None:
    def moved(by_mm: float) -> Series:
        whole = images()
        return series(images=(*whole[:-1], replace(whole[-1], positions_mm=(38.0 + by_mm,))))

    assert taken(moved(0.08)) == ["T1w"]
    assert "2.00 to 2.20 mm apart" in reason(moved(0.2))


def test_derived_series_are_left_out() -> None:
    assert reason(series(image_type=("DERIVED", "SECONDARY"))) == "derived from other images: ImageType has DERIVED"


def test_every_series_is_in_one_of_the_two() -> None:
    several = [series(uid=str(number), modality=["MR", "CT"][number % 2], damaged=number % 3) for number in range(12)]
    result = select_series(several, DicomConfig())
    uids = [chosen.series.uid for chosen in result.chosen] + [left.series.uid for left in result.left_out]
    assert sorted(uids) == sorted(each.uid for each in several)


def test_names_that_would_not_do_as_file_names() -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        DicomConfig(names={"T1w": "../MRI"})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("t1_mprage_sag_p2", "t1 mprage sag p2"),
        ("T1 Müller, Jürgen 12.03.1941 sag", "T1 … sag"),
        ("Mrs Brainerd FLAIR", "… FLAIR"),
        ("", ""),
        ("1941", "…"),
    ],
)
def test_descriptions_are_shown_without_what_people_typed(text: str, shown: str) -> None:
    assert clean_description(text) == shown
