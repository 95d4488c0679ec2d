"""A manifest that is right becomes the table of scans; for new patients, rows that are wrong are left out."""

import re
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from helpers.manifests import MODALITIES, check, on_disk, problems, rows_of
from pydantic import ValidationError

from cohort.manifest import CohortConfig, ModalityConfig, class_names, observations, reading_notes, usable_rows


def test_scans_table(cohort: pd.DataFrame, tmp_path: Path) -> None:
    scans = check(cohort.assign(site="Nice", age="70", shoe="43"), tmp_path, smallest_class=3, positive="AD")
    columns = "scan subject session observation modality kind path label age site split row"
    assert list(scans.columns) == columns.split()
    assert scans.iloc[3].to_dict() == {
        "scan": "s1_PET", "subject": "s1", "session": "", "observation": "s1", "modality": "PET", "kind": "volume",
        "path": str(tmp_path / "s1_PET.nii.gz"), "label": "AD", "age": "70", "site": "Nice", "split": "", "row": 5,
    }  # fmt: skip
    assert list(scans["row"]) == list(range(2, 14))


def test_rows_follow_the_manifest_and_its_blank_lines(cohort: pd.DataFrame, tmp_path: Path) -> None:
    shuffled = cohort.sample(frac=1, random_state=0)  # the index is where each row stood in the file
    scans = check(shuffled, tmp_path)
    assert list(scans["row"]) == list(shuffled.index + 2)
    assert list(scans["subject"]) == list(shuffled["subject"])
    assert list(scans.index) == list(range(12))


def test_without_a_label_column_nothing_is_learnt_and_files_may_lack(cohort: pd.DataFrame, tmp_path: Path) -> None:
    """A night of predictions: no class is known, one class is enough, a scan that is gone does not stop the others."""
    (tmp_path / "s1_PET.nii.gz").unlink()
    worklist = cohort.drop(columns="diagnosis")
    scans = check(worklist, tmp_path, smallest_class=3, label=None)
    assert set(scans["label"]) == {""}
    assert class_names(scans["label"], None) == ()
    expected = check(on_disk(tmp_path, cohort), tmp_path)
    pd.testing.assert_frame_equal(scans.drop(columns="label"), expected.drop(columns="label"))
    pd.testing.assert_frame_equal(check(cohort, tmp_path, label=None), scans)  # a column of that name is not read
    assert problems(worklist.assign(modality="CT"), tmp_path, label=None)


def test_spaces_around_cells_and_header_do_not_matter(cohort: pd.DataFrame, tmp_path: Path) -> None:
    spaced = cohort.map(lambda cell: f" {cell}\u00a0").rename(columns=lambda name: f" {name} ")
    pd.testing.assert_frame_equal(check(spaced, tmp_path), check(cohort, tmp_path))


def test_a_name_typed_on_a_mac_is_the_same_subject(tmp_path: Path) -> None:
    one, other = unicodedata.normalize("NFC", "José"), unicodedata.normalize("NFD", "José")
    table = on_disk(tmp_path, rows_of(f"{one},MRI,1,AD", f"{other},PET,2,AD", "b,MRI,3,CN"))
    assert observations(check(table, tmp_path))["subject"].tolist() == [one, "b"]


def test_sessions_and_several_scans_of_a_modality(tmp_path: Path) -> None:
    table = on_disk(
        tmp_path,
        rows_of(
            "a,bl,MRI,1,MCI,62", "a,bl,MRI,2,MCI,62", "a,m12,MRI,3,AD,63", "b,,PET,4,CN,", "c,,H&E 40×,5,CN,",
            header="subject,session,modality,path,group,age",
        ),
    )  # fmt: skip
    scans = check(table, tmp_path, label="group", smallest_class=0)
    assert scans["scan"].tolist()[:4] == ["a_bl_MRI", "a_bl_MRI_2", "a_m12_MRI", "b_PET"]
    assert re.fullmatch("c_H_E_40_-[0-9a-f]{12}", scans["scan"][4])
    assert scans["kind"].tolist() == ["volume"] * 4 + ["image"]
    seen = observations(scans)
    assert list(seen.columns) == ["observation", "subject", "session", "label", "age", "split"]
    assert seen.to_numpy().tolist() == [
        ["a_bl", "a", "bl", "MCI", "62", ""],
        ["a_m12", "a", "m12", "AD", "63", ""],
        ["b", "b", "", "CN", "", ""],
        ["c", "c", "", "CN", "", ""],
    ]


def test_ids_are_unique_and_file_names_whatever_the_subjects_are_called(tmp_path: Path) -> None:
    subjects = [
        "a b",
        "a/b",
        "a&b",
        "é",
        "è",
        "病人",
        "患者",
        "-rf",
        "..",
        "a/b MRI",
        "x" * 300,
        "x" * 301,
    ]
    sessions = ["", "1", "b", "MRI"]
    lines = [
        f"{name},{session},{modality}" for name in [*subjects, "a"] for session in sessions for modality in MODALITIES
    ]
    table = rows_of(*(f"{line},{i},{'AD' if i % 2 else 'CN'}" for i, line in enumerate(2 * lines)),
                    header="subject,session,modality,path,diagnosis")  # fmt: skip
    table["diagnosis"] = ["AD" if row.startswith("a") else "CN" for row in table["subject"]]
    scans = check(on_disk(tmp_path, table), tmp_path)
    assert scans["scan"].str.lower().is_unique
    assert scans["scan"].str.fullmatch("[A-Za-z0-9_][A-Za-z0-9_-]*").all()
    assert scans["scan"].str.len().max() < 130
    per_observation = scans.groupby("observation")[["subject", "session"]].nunique()
    assert (per_observation == 1).all(axis=None)
    assert len(per_observation) == len(subjects + ["a"]) * len(sessions)
    assert len(observations(scans)) == len(per_observation)


def test_ids_that_would_read_the_same_are_told_apart(tmp_path: Path) -> None:
    rows = ("a_1,b,MRI,1,AD", "a,1_b,MRI,2,AD", "a2,b,MRI,3,AD", "a,2b,MRI,4,CN", "a,2b,MRI,5,CN")
    scans = check(on_disk(tmp_path, rows_of(*rows, header="subject,session,modality,path,diagnosis")), tmp_path)
    assert scans["observation"].nunique() == 4
    assert scans["observation"].tolist()[2:] == ["a2_b", "a_2b", "a_2b"]
    assert all(re.fullmatch("a_1_b-[0-9a-f]{12}", name) for name in scans["observation"][:2])
    assert scans["scan"].tolist()[2:] == ["a2_b_MRI", "a_2b_MRI", "a_2b_MRI_2"]


def test_ids_do_not_change_when_other_patients_join(cohort: pd.DataFrame, tmp_path: Path) -> None:
    before = check(cohort, tmp_path)
    joined = pd.concat([on_disk(tmp_path, rows_of("új páciens,MRI,n.nii,CN")), cohort], ignore_index=True)
    assert check(joined, tmp_path)["scan"].tolist()[1:] == before["scan"].tolist()


def test_split_is_read_in_any_spelling(cohort: pd.DataFrame, tmp_path: Path) -> None:
    given = {"s0": "train", "s1": "Val", "s2": "TEST", "s3": "train", "s4": "valid", "s5": "test"}
    splits = check(cohort.assign(split=cohort["subject"].map(given)), tmp_path)["split"]
    assert splits.tolist()[::2] == ["train", "validation", "test", "train", "validation", "test"]


@pytest.mark.parametrize(
    ("labels", "positive", "names"),
    [
        (["b", "a", "b"], None, ("a", "b")),
        (["CN", "AD"], "AD", ("CN", "AD")),
        (["CN", "AD"], "CN", ("AD", "CN")),
        (["c", "b", "a"], "a", ("a", "b", "c")),
    ],
)
def test_class_names(labels: list[str], positive: str | None, names: tuple[str, ...]) -> None:
    assert class_names(labels, positive) == names


def test_configs_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError, match="lable"):
        CohortConfig(modalities=MODALITIES, lable="diagnosis")
    with pytest.raises(ValidationError, match="kind"):
        ModalityConfig(kind="picture")
    with pytest.raises(ValidationError, match="frozen"):
        ModalityConfig().kind = "image"


def test_decimal_commas_are_read_where_all_are_numbers(cohort: pd.DataFrame, tmp_path: Path) -> None:
    ages = cohort.assign(age=["70,5", "70", ""] * 4)
    assert check(ages, tmp_path)["age"].tolist()[:3] == ["70.5", "70", ""]
    config = CohortConfig(modalities=MODALITIES)
    assert reading_notes(ages, config) == ["age: 4 decimal commas are read as points"]
    assert check(cohort.assign(age=["70,5", "old"] * 6), tmp_path)["age"].tolist()[:2] == ["70,5", "old"]
    thousands = cohort.assign(age=["1,234", "70"] + ["71"] * 10)
    assert problems(thousands, tmp_path) == (
        "row 2: age '1,234' may be 1.234 or 1234; write it with a point, or without the comma",
    )


def test_a_word_may_be_said_to_be_a_name(cohort: pd.DataFrame, tmp_path: Path) -> None:
    named = cohort.replace({"diagnosis": {"CN": "none"}, "subject": {"s5": "NA"}}).assign(site="NA")
    scans = check(named, tmp_path, not_missing=("none", "NA"))
    assert (set(scans["label"]), set(scans["site"])) == ({"AD", "none"}, {"NA"})
    assert "NA" in set(scans["subject"])


def test_covariates_for_which_a_word_stands_are_empty_and_said_so(cohort: pd.DataFrame, tmp_path: Path) -> None:
    given = cohort.assign(site=["NA", "Nice"] * 6, age=["n/a", "70,5"] * 6, split="NA")
    scans = check(given, tmp_path)
    assert scans[["site", "age", "split"]].iloc[:2].to_numpy().tolist() == [["", "", ""], ["Nice", "70.5", ""]]
    assert reading_notes(given, CohortConfig(modalities=MODALITIES)) == [
        "age: 6 cells stand for no value ('n/a') and count as empty (if it is a name here: cohort.not_missing)",
        "age: 6 decimal commas are read as points",
        "site: 6 cells stand for no value ('NA') and count as empty (if it is a name here: cohort.not_missing)",
    ]


def test_a_new_patient_in_two_spellings_is_left_out_with_all_rows(cohort: pd.DataFrame, tmp_path: Path) -> None:
    cohort.loc[1, "subject"] = "S0"
    cohort.loc[2, "subject"] = "nan"
    config = CohortConfig(modalities=MODALITIES, label=None)
    table, left_out = usable_rows(cohort.drop(columns="diagnosis"), folder=tmp_path, config=config)
    assert list(table.index + 2) == list(range(5, 14))
    assert {row["row"]: row["reason"].partition(";")[0] for row in left_out} == {
        "2": "subjects 'S0' (row 3) and 's0' (row 2) differ only in case or spaces",
        "3": "subjects 'S0' (row 3) and 's0' (row 2) differ only in case or spaces",
        "4": "subject 'nan' stands for no value",
    }
