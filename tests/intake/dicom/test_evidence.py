"""Body part, tags against words, contrast agents: what decides between series, and what is left out for two answers."""

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from helpers.dicom_series import converted, reasons, write_series
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from intake.dicom.images import Image
from intake.dicom.rules import DicomConfig
from intake.dicom.selection import select_series
from intake.dicom.series import Series
from intake.dicom.suv import PetFacts


def images(slices: int = 20, step_mm: float = 2.0, echo_time_ms: float | None = 3.0, **facts: Any) -> tuple[Image, ...]:
    kept = Image(Path("x"), "1", (0.0,), ((1, 0, 0, 0, 1, 0),), echo_time_ms, True, None, **facts)
    return tuple(replace(kept, positions_mm=(step_mm * number,)) for number in range(slices))


def series(description: str = "t1_mprage", **changed: Any) -> Series:
    whole = Series(
        patient="P", birth_date=None, study="1", uid="1.1", study_date=date(2021, 3, 4), started=None,
        description=description, modality="MR", image_type=("ORIGINAL", "PRIMARY"), scanning_sequence=("SE",),
        tracer="", sex="", age=None, number=None, repetition_time_ms=None, inversion_time_ms=None, contrast=False,
        orientations=1, images=images(), damaged=0, pet=PetFacts(),
    )  # fmt: skip
    return replace(whole, **changed)


def reason(one: Series) -> str:
    (left,) = select_series([one], DicomConfig()).left_out
    return left.reason


def taken(*several: Series) -> list[str]:
    return [chosen.modality for chosen in select_series(several, DicomConfig()).chosen]


# --- body part ---

BRAIN_AND_SPINE = [
    ({"BodyPartExamined": "BRAIN"}, {"BodyPartExamined": "CSPINE"}),
    ({"BodyPartExamined": "HEAD"}, {}),
    ({}, {"SeriesDescription": "t1_tse_sag HWS"}),
    ({"SeriesDescription": "t1 sag head"}, {"SeriesDescription": "t1 sag C-Spine"}),
    ({"ProtocolName": "Schädel"}, {"ProtocolName": "rachis cervical"}),
    ({"StudyDescription": "MR brain"}, {"StudyDescription": "MRI LUMBAR SPINE"}),
    ({"PixelSpacing": [12, 12], "SpacingBetweenSlices": 7}, {"PixelSpacing": [12, 12], "SpacingBetweenSlices": 3}),
]


@pytest.mark.parametrize(("brain", "spine"), BRAIN_AND_SPINE)
def test_the_spine_of_a_study_is_not_its_brain(tmp_path: Path, brain: dict[str, Any], spine: dict[str, Any]) -> None:
    for name, slices, values in (("a", 14, brain), ("b", 18, spine)):
        step = values.get("SpacingBetweenSlices", 2)

        def placed(image: Dataset, number: int, frame: int, step: float = step) -> None:
            image.ImagePositionPatient = [-20, -31, 42 + step * number]

        write_series(tmp_path / "in" / name, slices=slices, StudyInstanceUID="1.2", each=placed, **values)
    result = converted(tmp_path / "in")
    assert list(result.left_out["images"]) == ["18"]
    assert len(result.scans) == 1


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"body_part": "CSPINE"}, "of another part of the body: BodyPartExamined says spine"),
        ({"body_part": "WHOLEBODY"}, "of another part of the body: BodyPartExamined says whole body"),
        ({"protocol": "Knie links"}, "of another part of the body: ProtocolName says limb"),
        ({"study_description": "MRT HWS"}, "of another part of the body: StudyDescription says spine"),
        (
            {"body_part": "HEAD", "description": "t1 c-spine sag"},
            "its body part is unclear: BodyPartExamined says head, SeriesDescription says spine; correct the wrong one "
            "in the export",
        ),
        (
            {"body_part": "CHEST", "description": "t1 brain"},
            "its body part is unclear: BodyPartExamined says chest, SeriesDescription says head; correct the wrong one "
            "in the export",
        ),
    ],
)
def test_other_parts_of_the_body(facts: dict[str, Any], message: str) -> None:
    assert reason(series(**facts)) == message


@pytest.mark.parametrize(
    "facts",
    [
        {"body_part": "HEADNECK"},
        {"body_part": "HEAD", "study_description": "brain and c-spine"},
        {"body_part": "UNDEFINED", "protocol": "t1 hippocampus"},
        {"body_part": "BRAIN", "description": "t1_mprage neck coil head"},
        {"description": "T1 Schädel"},
    ],
)
def test_heads(facts: dict[str, Any]) -> None:
    assert taken(series(**facts)) == ["T1w"]


def test_the_extent_of_a_head_counts_before_slices() -> None:
    facts = {"size": (240, 240), "spacing_mm": (1.0, 1.0)}
    head = series(uid="1.1", images=images(14, 9.0, **facts), number=4)
    spine = series(uid="1.2", images=images(18, 3.3, **facts))
    trunk = series(uid="1.3", images=images(250, 3.3, **facts))
    for other, size in ((spine, "59x240x240"), (trunk, "825x240x240")):
        result = select_series([other, head], DicomConfig())
        assert [chosen.series.uid for chosen in result.chosen] == ["1.1"]
        assert result.left_out[0].reason == (
            "a second T1w of this session; the one with 14 slices (series 4), of a head's size (126x240x240 mm against "
            f"{size} mm), is used"
        )


# --- tags against words ---


@pytest.mark.parametrize(
    ("description", "facts", "tags"),
    [
        (
            "t2_mpr",
            {"scanning_sequence": ("GR", "IR"), "inversion_time_ms": 900.0, "images": images(echo_time_ms=2.9)},
            "T2w, its tags T1w (echo time 2.9 ms, inversion time 900 ms, GR/IR)",
        ),
        ("t2_tse", {"repetition_time_ms": 500.0, "images": images(echo_time_ms=12)}, "T2w, its tags T1w"),
        ("t1_tse", {"repetition_time_ms": 5000.0, "images": images(echo_time_ms=98)}, "T1w, its tags T2w"),
        ("t1_tse", {"repetition_time_ms": 3000.0, "images": images(echo_time_ms=12)}, "T1w, its tags proton density"),
        (
            "t2_tse",
            {"scanning_sequence": ("SE", "IR"), "inversion_time_ms": 2500.0, "images": images(echo_time_ms=90)},
            "T2w, its tags FLAIR",
        ),
        (
            "t2_tirm_cor",
            {"scanning_sequence": ("SE", "IR"), "inversion_time_ms": 220.0, "images": images(echo_time_ms=50)},
            "FLAIR, its tags STIR",
        ),
        (
            "flair_tra",
            {"repetition_time_ms": 9000.0, "images": images(echo_time_ms=90)},
            "FLAIR, its tags T2w",
        ),
        ("brain FDG", {"modality": "PT", "tracer": "Florbetapir"}, "FDG-PET, its tags another tracer"),
        (
            "amyloid static",
            {"modality": "PT", "tracer": "FDG"},
            "FDG-PET, its tags FDG and its SeriesDescription another",
        ),
        (
            "brain",
            {"modality": "PT", "tracer": "FDG", "pet": PetFacts(half_life_s=1224.0)},
            "FDG-PET, its tags an isotope with a half-life of 20.4 min, fluorine-18 has 110",
        ),
    ],
)
def test_tags_that_contradict_words_are_named_with_them(description: str, facts: dict[str, Any], tags: str) -> None:
    text = reason(series(description, **facts))
    assert text.startswith(f"its words say {tags}")
    assert text.endswith("correct the wrong one in the export, or convert it by hand")


def test_a_t1_that_is_called_t2_is_left_out_of_an_export(tmp_path: Path) -> None:
    write_series(tmp_path / "in", SeriesDescription="t2_mpr", EchoTime=2.9)
    assert reasons(converted(tmp_path / "in"))[0].startswith("its words say T2w, its tags T1w (echo time 2.9 ms")


@pytest.mark.parametrize(
    ("description", "facts", "modality"),
    [
        ("t1_mprage", {"scanning_sequence": ("GR", "IR"), "inversion_time_ms": 900.0}, "T1w"),
        ("t1_se", {"repetition_time_ms": 500.0, "images": images(echo_time_ms=14)}, "T1w"),
        ("t1_tse_ir", {"repetition_time_ms": 2000.0, "inversion_time_ms": 860.0}, "T1w"),
        ("t2_space", {"repetition_time_ms": 3200.0, "images": images(echo_time_ms=408)}, "T2w"),
        ("t2_tse", {"repetition_time_ms": None, "images": images(echo_time_ms=None)}, "T2w"),
        ("flair", {"scanning_sequence": ("SE", "IR"), "inversion_time_ms": 1800.0,
                   "images": images(echo_time_ms=390)}, "FLAIR"),
        ("fdg", {"modality": "PT", "tracer": "Solution", "pet": PetFacts(half_life_s=6588.0)}, "FDG-PET"),
    ],
)  # fmt: skip
def test_tags_that_agree_or_are_missing(description: str, facts: dict[str, Any], modality: str) -> None:
    assert taken(series(description, **facts)) == [modality]


# --- contrast agents ---


@pytest.mark.parametrize(
    "words",
    ["mit KM", "nach KM-Gabe", "avec contraste", "avec/sans contraste", "con contraste", "con mdc", "c/ contraste",
     "post Gd", "after gadolinium", "+C", "com contraste", "met contrast", "injecté", "apres inj", "T1 Dotarem",
     "z kontrastem", "с контрастом", "增强", "w/wo contrast", "kontrastli", "PdC"],
)  # fmt: skip
def test_words_for_contrast(words: str) -> None:
    assert reason(series(f"t1_tse {words}")) == (
        "no rule matches; nearest is T1w, but a word in its description excludes it"
    )


@pytest.mark.parametrize(
    "words",
    ["ohne KM", "sans contraste", "sin contraste", "s/ contraste", "senza mdc", "without contrast", "w/o contrast",
     "wo contrast", "non-contrast", "no gad", "pre contrast", "pre Gd", "zonder contrast", "bez kontrastu", "nativ",
     "sem contraste", "kontrastsız", "unenhanced", "avant inj", "без контраста"],
)  # fmt: skip
def test_words_for_no_contrast(words: str) -> None:
    assert taken(series(f"t1_tse {words}")) == ["T1w"]


@pytest.mark.parametrize(
    "agent", ["NONE", "No", "N/A", "none given", "ohne KM", "sans", "0", " - ", "No contrast agent"]
)
def test_agents_that_are_none(tmp_path: Path, agent: str) -> None:
    write_series(tmp_path / "in", ContrastBolusAgent=agent)
    assert len(converted(tmp_path / "in").scans) == 1


def agent_as_code(image: Dataset, number: int, frame: int) -> None:
    code = Dataset()
    code.CodeMeaning = "Gadobutrol"
    image.ContrastBolusAgentSequence = Sequence([code])


def agent_in_later_images(image: Dataset, number: int, frame: int) -> None:
    image.ContrastBolusAgent = "Gadovist" if number > 3 else ""


def agent_by_volume(image: Dataset, number: int, frame: int) -> None:
    image.ContrastBolusVolume = 7.5


@pytest.mark.parametrize("each", [agent_as_code, agent_in_later_images, agent_by_volume])
def test_agents_in_other_tags(tmp_path: Path, each: Any) -> None:
    write_series(tmp_path / "in", each=each)
    assert reasons(converted(tmp_path / "in")) == ["no rule matches; nearest is T1w, but a contrast agent is named"]
