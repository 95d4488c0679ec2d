"""Names of BreakHis pictures become a manifest; a slide is on one side; what is no picture is named."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pandas as pd
import pytest

from cohort.manifest import CohortConfig, ModalityConfig, check_manifest
from cohort.splits import SplitConfig, make_splits, subjects_of
from cohort.tables import ManifestError
from intake.breakhis import breakhis_folder, breakhis_manifest

SLIDES = [
    "B_A-14-22549AB", "B_A-14-22549CD", "B_F-14-25197", "B_TA-14-16184", "B_PT-14-21998AB",
    "M_DC-14-13412", "M_LC-14-13412", "M_PC-14-15704", "M_DC-14-2773", "M_MC-14-10147",
]  # fmt: skip

SLIDE_NAME = "SOB_B_A-14-22549AB-40-001.png"


def tree(slides: list[str] = SLIDES, magnifications: tuple[int, ...] = (40, 400), pictures: int = 2) -> list[str]:
    """Paths as in the original folders."""
    return [
        f"breast/{slide[0]}/SOB/SOB_{slide.replace('-', '_', 1)}/{m}X/SOB_{slide}-{m}-{number:03d}.png"
        for slide in slides
        for m in magnifications
        for number in range(1, pictures + 1)
    ]


def many(benign: int, malignant: int) -> list[str]:
    """One picture each of so many patients."""
    slides = [f"B_F-14-{1000 + i}" for i in range(benign)] + [f"M_DC-14-{2000 + i}" for i in range(malignant)]
    return tree(slides, (100,), 1)


def patients(scans: pd.DataFrame, tumour: str) -> set[tuple[str, str]]:
    here = scans[scans["tumour"] == tumour]
    return set(zip(here["subject"], here["session"], strict=True))


def test_everything_in_a_name_is_read():
    result = breakhis_manifest(["x/SOB_B_A-14-22549AB-40-001.png", "SOB_M_DC-14-2773-400-012.png"])
    assert result.scans.to_dict("records") == [
        {
            "subject": "14-2773", "session": "DC", "modality": "400X", "path": "SOB_M_DC-14-2773-400-012.png",
            "tumour": "malignant", "tumour_type": "DC",
        },
        {
            "subject": "14-22549", "session": "A-AB", "modality": "40X", "path": "x/SOB_B_A-14-22549AB-40-001.png",
            "tumour": "benign", "tumour_type": "A",
        },
    ]  # fmt: skip
    assert result.left_out.empty
    assert list(result.left_out.columns) == ["path", "reason"]


def test_a_slide_is_one_subject_whatever_its_letters_and_tumour_types(tmp_path):
    for path in tree():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    scans = check_manifest(
        breakhis_manifest(tree()).scans,
        folder=tmp_path,
        config=CohortConfig(
            label="tumour",
            positive="malignant",
            modalities={f"{m}X": ModalityConfig(kind="image") for m in (40, 400)},
        ),
        smallest_class=3,
    )
    assert set(scans["observation"]) >= {"14-13412_DC", "14-13412_LC", "14-22549_A-AB", "14-22549_A-CD"}
    assert scans["observation"].nunique() == len(SLIDES)
    splits = make_splits(subjects_of(scans), SplitConfig(repeats=5))
    assert splits.groupby(["repeat", "subject"]).size().eq(1).all()
    assert splits["subject"].nunique() == len(SLIDES) - 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Thumbs.png", "not a BreakHis name; expected one such as SOB_B_A-14-22549AB-40-001.png"),
        ("SOB_B_A-14-22549AB-40-001 (1).png", "not a BreakHis name"),
        ("SOB_X_A-14-22549AB-40-001.png", "class 'X' is neither B (benign) nor M (malignant)"),
        ("SOB_B_TO-14-22549AB-40-001.png", "tumour type 'TO' is unknown (there is: A, DC, F, LC, MC, PC, PT, TA)"),
        ("SOB_B_DC-14-22549AB-40-001.png", "tumour type DC is malignant, but the name says benign"),
        ("SOB_B_A-14-22549AB-60-001.png", "magnification 60 is none of 40, 100, 200, 400"),
        ("copy/SOB_B_F-14-25197-40-001.png", "the same picture as breast/B/SOB/SOB_B_F_14-25197/40X/SOB_B_F-14-25197"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_reason(name: str, reason: str):
    result = breakhis_manifest([*tree(), name])
    assert list(result.left_out["path"]) == [name]
    assert reason in result.left_out["reason"].iloc[0]
    pd.testing.assert_frame_equal(result.scans, breakhis_manifest(tree()).scans)


@pytest.mark.parametrize(
    "name",
    [
        "SOB_B_A-14-22549AB-40-001.PNG", "sob_b_a-14-22549ab-40-001.png", "BREAST/40x/SOB_B_A-14-22549AB-40x-001.Png",
        "SOB_B_A-14-22549AB-40-1.jpg", "SOB_B_A-14-22549AB-40-001.TIF", "Sob_b_A-14-22549AB-40X-001.jpeg",
    ],
)  # fmt: skip
def test_upper_and_lower_case_and_other_formats_are_the_same_picture(name: str) -> None:
    """Windows and converters write names anew."""
    usual = breakhis_manifest(["SOB_B_A-14-22549AB-40-001.png"]).scans.drop(columns="path")
    pd.testing.assert_frame_equal(breakhis_manifest([name]).scans.drop(columns="path"), usual)
    both = breakhis_manifest(["0/SOB_B_A-14-22549AB-40-001.png", name])
    assert len(both.scans) == len(both.left_out) == 1
    assert both.left_out["reason"].iloc[0].startswith("a second copy: the same picture as")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("__MACOSX/._SOB_B_A-14-22549AB-40-001.png", "a companion file of macOS, no picture"),
        ("README.txt", "not a picture (.png, .jpg, .jpeg, .tif, .tiff)"),
        ("copy/sob_b_f-14-25197-40-1.PNG", "a second copy: the same picture as breast/B/SOB/SOB_B_F_14-25197/40X/SOB_"),
    ],
)
def test_every_other_file_is_left_out_by_name(name: str, reason: str) -> None:
    result = breakhis_manifest([*tree(), name])
    assert list(result.left_out["path"]) == [name]
    assert result.left_out["reason"].iloc[0].startswith(reason)


def test_notes_count_what_was_not_used_and_say_why() -> None:
    paths = [*tree(), *(f"copy/{path}" for path in tree(SLIDES[:2])), "a.txt", *(f"{n:02d}.PNG" for n in range(23))]
    notes = breakhis_manifest(paths).notes()
    listed = ", ".join(f"{n:02d}.PNG" for n in range(20))
    assert (
        notes[0] == f"23 files left out: not a BreakHis name; expected one such as {SLIDE_NAME}: {listed}, and 3 more"
    )
    assert notes[1] == "a.txt left out: not a picture (.png, .jpg, .jpeg, .tif, .tiff)"
    assert notes[2].startswith("8 files left out: a second copy: copy/breast/B/SOB/")
    assert len(notes) == 3
    sampled = breakhis_manifest(many(3, 5), balanced=(2, 2)).notes()
    assert sampled == ["cohort.balanced: 4 of 8 pictures are not taken"]


def test_a_slide_in_both_classes_is_named() -> None:
    paths = tree(["B_A-14-22549AB", "M_DC-14-22549AB", "M_DC-14-13412", "M_LC-14-13412"])
    (note,) = breakhis_manifest(paths).notes()
    assert note.startswith("slide 14-22549: by their names 4 of its pictures are benign, 4 malignant (A-AB, DC-AB);")


def test_a_folder_is_read_whatever_its_endings_are(tmp_path: Path) -> None:
    for path in tree():
        place = tmp_path / path.upper().replace(".PNG", ".PNG" if "-001" in path else ".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    (tmp_path / "elsewhere").symlink_to(tmp_path / "BREAST")
    found = breakhis_folder(tmp_path)
    assert len(found.scans) == len(tree())
    assert found.notes() == ["elsewhere left out: not a picture (.png, .jpg, .jpeg, .tif, .tiff)"]


def test_a_folder_without_a_picture_of_breakhis_is_refused(tmp_path: Path) -> None:
    for name in ("one.png", "two.png", "Thumbs.db"):
        (tmp_path / name).touch()
    with pytest.raises(ManifestError) as refused:
        breakhis_folder(tmp_path)
    assert str(refused.value).splitlines() == [
        f"none of the 3 files in it is a picture of BreakHis; expected {SLIDE_NAME}",
        "Thumbs.db left out: not a picture (.png, .jpg, .jpeg, .tif, .tiff)",
        f"2 files left out: not a BreakHis name; expected one such as {SLIDE_NAME}: one.png, two.png",
    ]
    (tmp_path / SLIDE_NAME).touch()
    with pytest.raises(ManifestError, match=r"cohort.balanced: balanced asks for 3 benign patients; there are 1"):
        breakhis_folder(tmp_path, balanced=(3, 3))


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read all, so `os.scandir` stands for the closed folder."""
    (tmp_path / SLIDE_NAME).touch()
    (tmp_path / "closed").mkdir()
    usual = os.scandir

    def closed(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return usual(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(PermissionError, match="Permission denied.*closed"):
        breakhis_folder(tmp_path)


def test_order_of_paths_and_their_type_do_not_matter():
    shuffled = [Path(path) for path in tree()]
    random.Random(0).shuffle(shuffled)
    pd.testing.assert_frame_equal(breakhis_manifest(shuffled).scans, breakhis_manifest(tree()).scans)


def test_no_paths_give_an_empty_manifest_with_its_columns():
    assert list(breakhis_manifest([]).scans.columns) == list(breakhis_manifest(tree()).scans.columns)


def test_balanced_takes_the_published_numbers_of_whole_patients():
    paths = [path for m in (40, 100) for path in (p.replace("-100-", f"-{m}-") for p in many(24, 58))]
    everything, sampled = breakhis_manifest(paths).scans, breakhis_manifest(paths, balanced=(24, 29)).scans
    assert len(patients(everything, "benign")) + len(patients(everything, "malignant")) == 82
    assert (len(patients(sampled, "benign")), len(patients(sampled, "malignant"))) == (24, 29)
    assert len(sampled) == 2 * 53
    both = everything.merge(sampled)
    pd.testing.assert_frame_equal(both, sampled)


def test_balanced_counts_the_two_tumours_of_a_slide_as_the_makers_do():
    sampled = breakhis_manifest(tree(["B_F-14-1", "M_DC-14-13412", "M_LC-14-13412"]), balanced=(1, 2)).scans
    assert patients(sampled, "malignant") == {("14-13412", "DC"), ("14-13412", "LC")}


def test_balanced_depends_on_the_seed_and_on_nothing_else():
    paths = many(10, 30)
    sampled = {
        seed: patients(breakhis_manifest(paths, balanced=(5, 12), seed=seed).scans, "malignant") for seed in (0, 1)
    }
    again = patients(breakhis_manifest(paths[::-1], balanced=(5, 12)).scans, "malignant")
    fewer = patients(breakhis_manifest(paths, balanced=(5, 11)).scans, "malignant")
    one_more = patients(breakhis_manifest([*paths, "SOB_M_DC-14-9-40-001.png"], balanced=(5, 12)).scans, "malignant")
    assert sampled[0] == again
    assert sampled[0] != sampled[1]
    assert fewer < sampled[0]
    assert len(one_more - sampled[0]) <= 1


@pytest.mark.parametrize(
    ("balanced", "message"), [((24, 2), "24 benign patients; there are 10"), ((1, 0), "0 malignant")]
)
def test_balanced_refuses_what_is_not_there(balanced: tuple[int, int], message: str):
    with pytest.raises(ValueError, match=message):
        breakhis_manifest(many(10, 30), balanced=balanced)
